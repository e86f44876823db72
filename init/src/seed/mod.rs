//! Finding the seed. The first of these sources that has one counts, alone:
//!
//! | # | source | what |
//! |---|---|---|
//! | 1 | kernel command line | `ds=nocloud;s=URL` ([`datasource`]) |
//! | 2 | QEMU's fw_cfg | `opt/slipway/user-data`, `.../network-config`, `.../meta-data` |
//! | 3 | SMBIOS serial number | the same words as on the command line |
//! | 4 | a volume labelled CIDATA | FAT or ISO 9660 ([`volume`]) |
//! | 5 | the boot partition | the files as Raspberry Pi Imager writes them |
//!
//! A source that is there and broken is an error, not a reason to look further: a node must
//! not come up as somebody else.

pub mod datasource;
pub mod volume;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use slipway_images::seed::{Seed, SeedFiles};

use crate::modules::Modules;
use crate::phase::{Context, Failure};
use crate::{files, say};
use datasource::DataSource;

/// Where clusterd reads the checked seed.
pub const SEED_FILE: &str = "/run/slipway/seed.json";
/// Names of a seed's files, in the order of [`Files`].
pub const FILES: [&str; 3] = ["user-data", "network-config", "meta-data"];
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/slipway";
const SERIAL: &str = "/sys/class/dmi/id/product_serial";
/// A seed is text of some kilobytes; more is a mistake or an attack on PID 1's memory.
const MAX_BYTES: u64 = 1 << 20;

/// A seed's files as they were found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// `#cloud-config`.
    pub user_data: String,
    /// netplan's version 2.
    pub network_config: Option<String>,
    /// The instance's id and name.
    pub meta_data: Option<String>,
}

impl Files {
    /// For reading.
    fn texts(&self) -> SeedFiles<'_> {
        SeedFiles {
            user_data: &self.user_data,
            network_config: self.network_config.as_deref(),
            meta_data: self.meta_data.as_deref(),
        }
    }

    /// In the order of [`FILES`]; `None` without `user-data`.
    fn of([user_data, network_config, meta_data]: [Option<String>; 3]) -> Option<Self> {
        Some(Self {
            user_data: user_data?,
            network_config,
            meta_data,
        })
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing; defaults are used.
    None,
    /// Files, and from where.
    Files(Files, String),
    /// An address to fetch them from once there is a network, and who said so.
    Remote(DataSource, &'static str),
}

/// Looks through the sources that cost nothing to ask: command line, fw_cfg, SMBIOS.
///
/// # Errors
/// A source is there and can't be read or understood.
pub fn from_firmware(modules: &mut Modules) -> Result<Found, Failure> {
    let line = files::read_trimmed("/proc/cmdline").context("/proc/cmdline")?;
    if let Some(source) = datasource::parse(&line).context("the kernel's command line")?
        && source.url.is_some()
    {
        return Ok(Found::Remote(source, "the kernel's command line"));
    }
    if !Path::new(FW_CFG).exists() && is_qemu() {
        // Without the module there is nothing to find there.
        drop(modules.load("qemu_fw_cfg"));
    }
    let file = |name: &str| File::open(Path::new(FW_CFG).join(name).join("raw"));
    if let Some(files) = read_files("fw_cfg", file)? {
        return Ok(Found::Files(files, "fw_cfg".into()));
    }
    // Not there on boards without SMBIOS.
    let serial = files::read_trimmed(SERIAL).unwrap_or_default();
    if let Some(source) = datasource::parse(&serial).context("the machine's serial number")?
        && source.url.is_some()
    {
        return Ok(Found::Remote(source, "the machine's serial number"));
    }
    Ok(Found::None)
}

/// Looks on volumes: one labelled CIDATA, then the boot partition.
///
/// # Errors
/// A volume is there and can't be read.
pub fn from_volumes(modules: &mut Modules, boot: Option<&Path>) -> Result<Found, Failure> {
    if let Some((device, kind)) = volume::cidata() {
        match volume::read(modules, &device, kind)? {
            Some(files) => return Ok(Found::Files(files, device.display().to_string())),
            None => say!(
                "{} is labelled CIDATA and has no user-data",
                device.display()
            ),
        }
    }
    if let Some(device) = boot
        && let Some(files) = volume::read(modules, device, volume::Kind::Fat)?
    {
        return Ok(Found::Files(files, "the boot partition".into()));
    }
    Ok(Found::None)
}

/// Checks a seed and writes it for clusterd. Warnings go to the console.
///
/// # Errors
/// What is wrong with it, and where.
pub fn accept(found: &Files, source: &str) -> Result<Seed, Failure> {
    let parsed = Seed::read(found.texts()).context(format_args!("from {source}"))?;
    for warning in &parsed.warnings {
        say!("{warning}");
    }
    let json = parsed.seed.to_json()?;
    write_private(Path::new(SEED_FILE), json.as_bytes()).context(SEED_FILE)?;
    Ok(parsed.seed)
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)
}

/// Reads those of a seed's files that are there; `None` without `user-data`.
fn read_files(
    source: &str,
    open: impl Fn(&str) -> std::io::Result<File>,
) -> Result<Option<Files>, Failure> {
    let mut texts = FILES.map(|_| None);
    for (name, text) in FILES.iter().zip(&mut texts) {
        match open(name) {
            Ok(file) => *text = Some(read_text(file, &format!("{name} of {source}"))?),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Failure(format!("{name} of {source}: {e}"))),
        }
    }
    Ok(Files::of(texts))
}

fn is_qemu() -> bool {
    // ACPI announces the device as QEMU0002; a device tree as qemu,fw-cfg-mmio.
    Path::new("/sys/bus/acpi/devices/QEMU0002:00").exists()
        || files::names(Path::new("/sys/firmware/devicetree/base"))
            .iter()
            .any(|n| n.starts_with("fw-cfg"))
}

fn read_text(file: File, what: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .context(what)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure(format!("{what} is larger than 1 MiB")));
    }
    String::from_utf8(bytes).map_err(|_| Failure(format!("{what} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_are_there_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let read = || read_files("x", |name| File::open(dir.path().join(name)));
        fs::write(dir.path().join("meta-data"), "instance-id: a\n").unwrap();
        assert_eq!(read().unwrap(), None, "no user-data, no seed");
        fs::write(dir.path().join("user-data"), "#cloud-config\n").unwrap();
        let files = read().unwrap().unwrap();
        assert_eq!(files.user_data, "#cloud-config\n");
        assert_eq!(files.meta_data.as_deref(), Some("instance-id: a\n"));
        assert_eq!(files.network_config, None);
        fs::write(dir.path().join("network-config"), [0xff]).unwrap();
        let failure = read().unwrap_err();
        assert!(failure.0.contains("network-config of x"), "{failure}");
    }

    #[test]
    fn too_large_and_not_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let failure = |path: &Path| read_text(File::open(path).unwrap(), "x").unwrap_err().0;
        fs::write(&path, vec![b'a'; (MAX_BYTES + 1) as usize]).unwrap();
        assert!(failure(&path).contains("larger"));
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(failure(&path).contains("UTF-8"));
    }
}
