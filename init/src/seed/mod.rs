//! Finding the seed. The first of these sources that is there counts, alone:
//!
//! | # | source | what |
//! |---|---|---|
//! | 1 | the kernel's command line | a URL ([`datasource`]), fetched when the network is up ([`remote`]) |
//! | 2 | QEMU's fw_cfg | `opt/slipway/user-data`, `.../network-config`, `.../meta-data`, `.../passphrase` |
//! | 3 | the SMBIOS serial number | a URL, as 1 |
//! | 4 | a volume labelled CIDATA | FAT or ISO 9660 ([`volume`]) |
//! | 5 | the boot partition | the files as Raspberry Pi Imager writes them |
//!
//! Name and instance-id may also stand on the kernel's command line or in the SMBIOS serial
//! number, and win there, whichever source has the seed. A seed that was applied through the
//! node API takes the place of the one it was applied over.
//!
//! A source that is there and broken is an error, not a reason to look further: a node must
//! not come up as somebody else.

pub mod datasource;
pub mod remote;
pub mod volume;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use slipway_images::seed::url::{DOCUMENT_LIMIT, SeedUrl};
use slipway_images::seed::{
    Applied, Document, Documents, OUTSIDE_FILE, PASSPHRASE_FILE, Secret, Seed, outside,
};

use crate::modules::Modules;
use crate::phase::{Context, Failure};
use crate::{files, say};

/// Where clusterd reads the checked seed.
pub const SEED_FILE: &str = "/run/slipway/seed.json";
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/slipway";
/// What the kernel says that SMBIOS says.
const DMI: &str = "/sys/class/dmi/id";

/// A seed's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// What it says.
    pub documents: Documents,
    /// The file beside them with the passphrase of an encrypted data partition.
    pub passphrase: Option<Secret>,
}

/// What was found: the files, and from where.
pub type Found = Option<(Files, String)>;

/// How the data partition is kept, in which a seed may not want to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// It has not been looked at: that looks at what the seed wants.
    NotYet,
    /// There is none, or it is encrypted.
    Safe,
    /// It is in use, and not encrypted.
    InTheClear,
}

/// What a seed's own documents can't change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The machine's name.
    pub hostname: Option<String>,
    /// The instance's id.
    pub instance_id: Option<String>,
}

/// What the kernel's command line and the serial number say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// Names; the command line's before the serial number's.
    pub names: Names,
    /// The URL on the command line.
    pub line: Option<SeedUrl>,
    /// The URL in the serial number.
    pub serial: Option<SeedUrl>,
}

impl Words {
    /// Those of this machine.
    ///
    /// # Errors
    /// They say something that can't be followed.
    pub fn of_machine() -> Result<Self, Failure> {
        let line = files::read_trimmed("/proc/cmdline").context("/proc/cmdline")?;
        // Not there on boards without SMBIOS.
        let dmi = Path::new(DMI);
        let serial = files::read_trimmed(dmi.join("product_serial")).unwrap_or_default();
        Self::read(&line, &serial, dmi)
    }

    /// Those of a command line and a serial number; `dmi` is `/sys/class/dmi/id`.
    ///
    /// # Errors
    /// They say something that can't be followed. With a URL on the command line the serial
    /// number doesn't matter.
    pub fn read(line: &str, serial: &str, dmi: &Path) -> Result<Self, Failure> {
        let by_line = datasource::parse(line, dmi)
            .context("the kernel's command line")?
            .unwrap_or_default();
        let by_serial = match by_line.url {
            Some(_) => None,
            None => datasource::parse(serial, dmi).context("the machine's serial number")?,
        };
        let by_serial = by_serial.unwrap_or_default();
        Ok(Self {
            names: Names {
                hostname: by_line.hostname.or(by_serial.hostname),
                instance_id: by_line.instance_id.or(by_serial.instance_id),
            },
            line: by_line.url,
            serial: by_serial.url,
        })
    }
}

/// Where the seed is.
#[derive(Debug, PartialEq, Eq)]
pub enum Source {
    /// Nowhere.
    Nowhere,
    /// Here: the files, and from where.
    Here(Files, String),
    /// At a URL, and who says so.
    Url(SeedUrl, &'static str),
}

/// The first source that is there. `volumes` are looked at in their order; what stands behind
/// a source that is there is not looked at.
///
/// # Errors
/// A source is there and can't be read.
pub fn choose(
    words: &Words,
    firmware: impl FnOnce() -> Result<Found, Failure>,
    volumes: impl FnOnce() -> Result<Found, Failure>,
) -> Result<Source, Failure> {
    if let Some(url) = &words.line {
        return Ok(Source::Url(url.clone(), "the kernel's command line"));
    }
    let mut found = firmware()?;
    if found.is_none() {
        if let Some(url) = &words.serial {
            return Ok(Source::Url(url.clone(), "the machine's serial number"));
        }
        found = volumes()?;
    }
    Ok(match found {
        Some((files, from)) => Source::Here(files, from),
        None => Source::Nowhere,
    })
}

/// Looks in QEMU's fw_cfg.
///
/// # Errors
/// A seed is there and can't be read.
pub fn from_firmware(modules: &mut Modules) -> Result<Found, Failure> {
    if !Path::new(FW_CFG).exists() && is_qemu() {
        // Without the module there is nothing to find there.
        drop(modules.load("qemu_fw_cfg"));
    }
    firmware_below(Path::new(FW_CFG))
}

fn firmware_below(fw_cfg: &Path) -> Result<Found, Failure> {
    let file = |name: &str| File::open(fw_cfg.join(name).join("raw"));
    let files = read_files("fw_cfg", file)?;
    Ok(files.map(|files| (files, "fw_cfg".to_owned())))
}

/// Looks on volumes: one labelled CIDATA, then the boot partition.
///
/// # Errors
/// A volume is there and can't be read.
pub fn from_volumes(modules: &mut Modules, boot: Option<&Path>) -> Result<Found, Failure> {
    let cidata = volume::cidata();
    first_volume(cidata, boot, |device, kind| {
        volume::read(modules, device, kind)
    })
}

fn first_volume(
    cidata: Option<(std::path::PathBuf, volume::Kind)>,
    boot: Option<&Path>,
    mut read: impl FnMut(&Path, volume::Kind) -> Result<Option<Files>, Failure>,
) -> Result<Found, Failure> {
    if let Some((device, kind)) = cidata {
        match read(&device, kind)? {
            Some(files) => return Ok(Some((files, device.display().to_string()))),
            None => say!(
                "{} is labelled CIDATA and has no user-data",
                device.display()
            ),
        }
    }
    if let Some(device) = boot
        && let Some(files) = read(device, volume::Kind::Fat)?
    {
        return Ok(Some((files, "the boot partition".into())));
    }
    Ok(None)
}

/// Checks a seed and writes it for clusterd, below `root`; what was said outside of it wins.
/// Warnings go to the console.
///
/// # Errors
/// What is wrong with it, and where.
pub fn accept(
    root: &Path,
    found: &Documents,
    source: &str,
    names: &Names,
    data: Data,
) -> Result<Seed, Failure> {
    // Also of one that is broken: a seed can be applied over it.
    came_from_outside(root, &found.digest())?;
    let mut seed = checked(found, data).context(format_args!("from {source}"))?;
    seed.hostname = names.hostname.clone().or(seed.hostname);
    seed.instance_id = names.instance_id.clone().or(seed.instance_id);
    hand_on(root, &seed)?;
    Ok(seed)
}

/// Says which seed is the one from outside.
fn came_from_outside(root: &Path, digest: &str) -> Result<(), Failure> {
    write_private(&root.join(OUTSIDE_FILE), digest.as_bytes()).context(OUTSIDE_FILE)
}

fn checked(documents: &Documents, data: Data) -> Result<Seed, Failure> {
    let parsed = documents.check()?;
    if parsed.seed.data.encrypt.is_some() && data == Data::InTheClear {
        return Err(Failure(
            "slipway.data.encrypt: the data partition is there already, in the clear; it is \
             encrypted when it is made, by a seed that is on the machine then"
                .into(),
        ));
    }
    for warning in &parsed.warnings {
        say!("seed: {warning}");
    }
    Ok(parsed.seed)
}

fn hand_on(root: &Path, seed: &Seed) -> Result<(), Failure> {
    let path = root.join(SEED_FILE.trim_start_matches('/'));
    write_private(&path, seed.to_json()?.as_bytes()).context(SEED_FILE)
}

/// The seed that was applied over the one found outside, checked again and written in its
/// place below `root`; `None` if there is none that counts.
///
/// # Errors
/// It is damaged, or this image refuses it; the seed from outside stays in force.
pub fn applied(root: &Path, data: Data) -> Result<Option<Seed>, Failure> {
    let outside = outside(root).map_err(Failure)?;
    let Some(applied) = Applied::over(root, &outside).map_err(Failure)? else {
        return Ok(None);
    };
    let seed = checked(&applied.files, data).context("the applied seed")?;
    hand_on(root, &seed)?;
    Ok(Some(seed))
}

/// The seed in force below `root`, as [`hand_on`] or the node API wrote it last; defaults
/// where there is none.
///
/// # Errors
/// It can't be read.
pub fn in_force(root: &Path) -> Result<Seed, Failure> {
    match fs::read_to_string(root.join(SEED_FILE.trim_start_matches('/'))) {
        Ok(text) => Ok(Seed::from_json(&text)?),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Seed::default()),
        Err(e) => Err(e).context(SEED_FILE),
    }
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
    let text = |name: &str| match open(name) {
        Ok(file) => read_text(file, &format!("{name} of {source}")).map(Some),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure(format!("{name} of {source}: {e}"))),
    };
    let Some(user_data) = text(Document::UserData.name())? else {
        return Ok(None);
    };
    Ok(Some(Files {
        documents: Documents {
            user_data,
            network_config: text(Document::NetworkConfig.name())?,
            meta_data: text(Document::MetaData.name())?,
        },
        passphrase: text(PASSPHRASE_FILE)?,
    }))
}

fn is_qemu() -> bool {
    // ACPI announces the device as QEMU0002; a device tree as qemu,fw-cfg-mmio.
    Path::new("/sys/bus/acpi/devices/QEMU0002:00").exists()
        || files::names(Path::new("/sys/firmware/devicetree/base"))
            .iter()
            .any(|n| n.starts_with("fw-cfg"))
}

fn read_text(file: File, what: &str) -> Result<Secret, Failure> {
    let mut bytes = Vec::new();
    file.take(DOCUMENT_LIMIT + 1)
        .read_to_end(&mut bytes)
        .context(what)?;
    if bytes.len() as u64 > DOCUMENT_LIMIT {
        return Err(Failure(format!("{what} is larger than 1 MiB")));
    }
    String::from_utf8(bytes)
        .map(Secret::new)
        .map_err(|_| Failure(format!("{what} is not UTF-8")))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
