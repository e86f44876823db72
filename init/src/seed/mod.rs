//! Finding the seed. The first of these sources that has one counts, alone:
//!
//! | # | source | what |
//! |---|---|---|
//! | 1 | QEMU's fw_cfg | `opt/slipway/user-data`, `.../network-config`, `.../meta-data` |
//! | 2 | a volume labelled CIDATA | FAT or ISO 9660 ([`volume`]) |
//! | 3 | the boot partition | the files as Raspberry Pi Imager writes them |
//!
//! Name and instance-id may also stand on the kernel's command line or in the SMBIOS serial
//! number, and win there ([`datasource`]); a URL there is refused, since nothing fetches it.
//! A seed that was applied through the node API takes the place of the one it was applied over.
//!
//! A source that is there and broken is an error, not a reason to look further: a node must
//! not come up as somebody else.

pub mod datasource;
pub mod volume;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use slipway_images::seed::{
    Applied, Document, Documents, OUTSIDE_FILE, Secret, Seed, SeedError, outside,
};

use crate::modules::Modules;
use crate::phase::{Context, Failure};
use crate::{files, say};
use datasource::DataSource;

/// Where clusterd reads the checked seed.
pub const SEED_FILE: &str = "/run/slipway/seed.json";
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/slipway";
const SERIAL: &str = "/sys/class/dmi/id/product_serial";
/// A seed is text of some kilobytes; more is a mistake or an attack on PID 1's memory.
const MAX_BYTES: u64 = 1 << 20;

/// What was found: the documents, and from where.
pub type Found = Option<(Documents, String)>;

/// What command line and serial number say: the former wins.
///
/// # Errors
/// They say something that can't be followed.
pub fn words() -> Result<DataSource, Failure> {
    let line = files::read_trimmed("/proc/cmdline").context("/proc/cmdline")?;
    // Not there on boards without SMBIOS.
    let serial = files::read_trimmed(SERIAL).unwrap_or_default();
    for (text, by) in [
        (line, "the kernel's command line"),
        (serial, "the machine's serial number"),
    ] {
        if let Some(source) = datasource::parse(&text).context(by)? {
            return match source.url {
                Some(url) => Err(Failure(format!(
                    "{by} asks for a seed from {url}, and seeds aren't fetched from the network; \
                     use a CIDATA volume or the boot partition"
                ))),
                None => Ok(source),
            };
        }
    }
    Ok(DataSource::default())
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
    let file = |name: &str| File::open(Path::new(FW_CFG).join(name).join("raw"));
    let documents = read_files("fw_cfg", file)?;
    Ok(documents.map(|documents| (documents, "fw_cfg".to_owned())))
}

/// Looks on volumes: one labelled CIDATA, then the boot partition.
///
/// # Errors
/// A volume is there and can't be read.
pub fn from_volumes(modules: &mut Modules, boot: Option<&Path>) -> Result<Found, Failure> {
    if let Some((device, kind)) = volume::cidata() {
        match volume::read(modules, &device, kind)? {
            Some(documents) => return Ok(Some((documents, device.display().to_string()))),
            None => say!(
                "{} is labelled CIDATA and has no user-data",
                device.display()
            ),
        }
    }
    if let Some(device) = boot
        && let Some(documents) = volume::read(modules, device, volume::Kind::Fat)?
    {
        return Ok(Some((documents, "the boot partition".into())));
    }
    Ok(None)
}

/// Checks a seed and writes it for clusterd; what was said outside of it wins. Warnings go to
/// the console.
///
/// # Errors
/// What is wrong with it, and where.
pub fn accept(found: &Documents, source: &str, words: DataSource) -> Result<Seed, Failure> {
    // Also of one that is broken: a seed can be applied over it.
    let outside = Path::new("/").join(OUTSIDE_FILE);
    write_private(&outside, found.digest().as_bytes()).context(outside.display())?;
    let mut seed = checked(found).context(format_args!("from {source}"))?;
    seed.hostname = words.hostname.or(seed.hostname);
    seed.instance_id = words.instance_id.or(seed.instance_id);
    hand_on(Path::new("/"), &seed)?;
    Ok(seed)
}

fn checked(documents: &Documents) -> Result<Seed, SeedError> {
    let parsed = documents.check()?;
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
pub fn applied(root: &Path) -> Result<Option<Seed>, Failure> {
    let outside = outside(root).map_err(Failure)?;
    let Some(applied) = Applied::over(root, &outside).map_err(Failure)? else {
        return Ok(None);
    };
    let seed = checked(&applied.files).context("the applied seed")?;
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
) -> Result<Option<Documents>, Failure> {
    let text = |document: Document| {
        let name = document.name();
        match open(name) {
            Ok(file) => read_text(file, &format!("{name} of {source}")).map(Some),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Failure(format!("{name} of {source}: {e}"))),
        }
    };
    let Some(user_data) = text(Document::UserData)? else {
        return Ok(None);
    };
    Ok(Some(Documents {
        user_data,
        network_config: text(Document::NetworkConfig)?,
        meta_data: text(Document::MetaData)?,
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
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .context(what)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure(format!("{what} is larger than 1 MiB")));
    }
    String::from_utf8(bytes)
        .map(Secret::new)
        .map_err(|_| Failure(format!("{what} is not UTF-8")))
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
        assert_eq!(files.user_data.reveal(), "#cloud-config\n");
        assert_eq!(files.meta_data, Some(Secret::new("instance-id: a\n")));
        assert_eq!(files.network_config, None);
        fs::write(dir.path().join("network-config"), [0xff]).unwrap();
        let failure = read().unwrap_err();
        assert!(failure.0.contains("network-config of x"), "{failure}");
    }

    #[test]
    fn an_applied_seed_takes_the_place_of_the_one_it_was_applied_over() {
        use slipway_images::seed::{APPLIED_FILE, NOTHING};
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("run/slipway")).unwrap();
        fs::create_dir_all(at(APPLIED_FILE).parent().unwrap()).unwrap();
        let documents = |text: &str| Documents {
            user_data: Secret::new(text),
            network_config: None,
            meta_data: None,
        };
        let another = documents("another").digest();
        let store = |over: &str, text: &str| {
            let applied = Applied {
                over: over.to_owned(),
                files: documents(text),
            };
            fs::write(at(APPLIED_FILE), serde_json::to_vec(&applied).unwrap()).unwrap();
        };
        let seed = |path: &Path| fs::read_to_string(path).ok();
        let file = at("run/slipway/seed.json");
        assert_eq!(applied(root.path()), Ok(None));
        // Over nothing, and nothing is there.
        store(NOTHING, "#cloud-config\nhostname: b\n");
        assert_eq!(
            applied(root.path()).unwrap().unwrap().hostname.as_deref(),
            Some("b")
        );
        assert!(seed(&file).unwrap().contains("\"b\""));
        // Somebody puts another seed into the machine: that one is meant.
        fs::write(at(OUTSIDE_FILE), &another).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(applied(root.path()), Ok(None));
        assert_eq!(seed(&file), None);
        // One that this image doesn't understand is said, and changes nothing.
        store(&another, "#cloud-config\nhostname: [b]\n");
        assert!(applied(root.path()).unwrap_err().0.contains("user-data:2"));
        assert_eq!(seed(&file), None);
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
