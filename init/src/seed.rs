//! Finding the seed: QEMU's fw_cfg, or a volume labelled CIDATA.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};
use slipway_images::seed::{Applied, OUTSIDE_FILE, Seed, digest};

use crate::modules::Modules;
use crate::phase::{Context, Failure};
use crate::{files, say};

/// Where clusterd reads the checked seed.
pub const SEED_FILE: &str = "/run/slipway/seed.json";
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/slipway/user-data/raw";
/// A seed is text of some kilobytes; more is a mistake or an attack on PID 1's memory.
const MAX_BYTES: u64 = 1 << 20;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing; defaults are used.
    None,
    /// A seed, from where.
    Good(Box<Seed>, String),
}

/// Looks for the seed in QEMU's fw_cfg, checks it and writes it for clusterd.
///
/// # Errors
/// A seed is there and broken, or cannot be read.
pub fn from_fw_cfg(modules: &mut Modules) -> Result<Found, Failure> {
    if !Path::new(FW_CFG).exists() && is_qemu() {
        // Without the module there is nothing to find there.
        drop(modules.load("qemu_fw_cfg"));
    }
    if !Path::new(FW_CFG).exists() {
        return Ok(Found::None);
    }
    let file = File::open(FW_CFG).context(FW_CFG)?;
    accept(&read_text(file, "fw_cfg")?, "fw_cfg".into())
}

/// Looks for the seed on a volume labelled CIDATA, checks it and writes it for clusterd.
///
/// # Errors
/// A seed is there and broken, or cannot be read.
pub fn from_volume(modules: &mut Modules) -> Result<Found, Failure> {
    match raw_from_volume(modules)? {
        Some((text, source)) => accept(&text, source),
        None => Ok(Found::None),
    }
}

fn accept(text: &str, source: String) -> Result<Found, Failure> {
    // Also of one that is broken: a seed can be applied over it.
    let outside = Path::new("/").join(OUTSIDE_FILE);
    write_private(&outside, digest(text).as_bytes()).context(outside.display())?;
    let parsed = Seed::parse(text).context(format_args!("from {source}"))?;
    for warning in &parsed.warnings {
        say!("{warning}");
    }
    let json = parsed.seed.to_json()?;
    write_private(Path::new(SEED_FILE), json.as_bytes()).context(SEED_FILE)?;
    Ok(Found::Good(Box::new(parsed.seed), source))
}

/// The seed that was applied over the one found outside, checked again and written in its
/// place below `root`; `None` if there is none that counts.
///
/// # Errors
/// It is damaged, or this image refuses it; the seed from outside stays in force.
pub fn applied(root: &Path) -> Result<Option<Seed>, Failure> {
    let outside = match fs::read_to_string(root.join(OUTSIDE_FILE)) {
        Ok(digest) => digest,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => digest(""),
        Err(e) => return Err(Failure(format!("{OUTSIDE_FILE}: {e}"))),
    };
    let Some(applied) = Applied::over(root, &outside).map_err(Failure)? else {
        return Ok(None);
    };
    let parsed = applied.files.check().context("the applied seed")?;
    let json = parsed.seed.to_json()?;
    let path = root.join(SEED_FILE.trim_start_matches('/'));
    write_private(&path, json.as_bytes()).context(SEED_FILE)?;
    Ok(Some(parsed.seed))
}

fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)
}

fn raw_from_volume(modules: &mut Modules) -> Result<Option<(String, String)>, Failure> {
    let Some((device, kind)) = cidata_volume() else {
        return Ok(None);
    };
    let source = format!("{} ({kind})", device.display());
    for module in [kind, "nls_cp437", "nls_ascii", "nls_iso8859_1", "nls_utf8"] {
        // Which of them the kernel wants is its configuration's; mounting tells.
        drop(modules.load(module));
    }
    let point = Path::new("/run/slipway/cidata");
    fs::create_dir_all(point).context("mount point of the seed")?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(
        Some(device.as_path()),
        point,
        Some(kind),
        flags,
        None::<&str>,
    )
    .context(format_args!("mounting the seed's volume {source}"))?;
    let text = match File::open(point.join("user-data")) {
        Ok(file) => read_text(file, &source).map(|text| Some((text, source))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            say!("{source} has no file user-data");
            Ok(None)
        }
        Err(e) => Err(Failure(format!("user-data on {source}: {e}"))),
    };
    umount(point).context("unmounting the seed's volume")?;
    text
}

fn is_qemu() -> bool {
    // ACPI announces the device as QEMU0002; a device tree as qemu,fw-cfg-mmio.
    Path::new("/sys/bus/acpi/devices/QEMU0002:00").exists()
        || files::names(Path::new("/sys/firmware/devicetree/base"))
            .iter()
            .any(|n| n.starts_with("fw-cfg"))
}

fn read_text(file: File, source: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .context(source)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Failure(format!(
            "the seed from {source} is larger than 1 MiB"
        )));
    }
    String::from_utf8(bytes).map_err(|_| Failure(format!("the seed from {source} is not UTF-8")))
}

/// The first block device that holds a volume labelled CIDATA, and its filesystem.
fn cidata_volume() -> Option<(PathBuf, &'static str)> {
    files::names(Path::new("/sys/class/block"))
        .into_iter()
        .filter(|n| !n.starts_with("loop") && !n.starts_with("ram"))
        .find_map(|name| {
            let path = Path::new("/dev").join(name);
            // A drive without medium cannot be opened, and holds no seed.
            let mut file = File::options()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(&path)
                .ok()?;
            Some((path, volume_kind(&mut file)?))
        })
}

/// Whether a device holds a FAT (BS_VolLab at 43 or 71, FAT specification 3.1 and 3.3) or
/// ISO 9660 (volume identifier at 32808) labelled CIDATA.
fn volume_kind<D: Read + Seek>(device: &mut D) -> Option<&'static str> {
    let mut label_at = |offset: u64| {
        let mut bytes = [0; 11];
        device.seek(SeekFrom::Start(offset)).ok()?;
        device.read_exact(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Some(text.trim().eq_ignore_ascii_case("cidata"))
    };
    if label_at(71)? || label_at(43)? {
        return Some("vfat");
    }
    label_at(32808)?.then_some("iso9660")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn volumes_are_told_by_their_label() {
        for (label, size, fat, expected) in [
            ("CIDATA", 2u64, "12", Some("vfat")),
            ("cidata", 64, "32", Some("vfat")),
            ("ESP", 64, "32", None),
        ] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(size << 20).unwrap();
            let out = Command::new("/usr/sbin/mkfs.vfat")
                .args(["-F", fat, "-n", label])
                .arg(file.path())
                .output()
                .expect("mkfs.vfat is needed (ci/setup installs dosfstools)");
            assert!(
                out.status.success(),
                "{}",
                String::from_utf8_lossy(&out.stderr)
            );
            assert_eq!(volume_kind(file.as_file_mut()), expected, "{label}");
        }
        let mut iso = vec![0u8; 40_000];
        iso[32808..32814].copy_from_slice(b"cidata");
        iso[32814..32840].fill(b' ');
        assert_eq!(volume_kind(&mut std::io::Cursor::new(iso)), Some("iso9660"));
        assert_eq!(volume_kind(&mut std::io::Cursor::new(vec![0u8; 100])), None);
    }

    #[test]
    fn an_applied_seed_takes_the_place_of_the_one_it_was_applied_over() {
        use slipway_images::seed::{APPLIED_FILE, Secret, SeedFiles};
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("run/slipway")).unwrap();
        fs::create_dir_all(at(APPLIED_FILE).parent().unwrap()).unwrap();
        let store = |over: &str, text: &str| {
            let applied = Applied {
                over: digest(over),
                files: SeedFiles {
                    user_data: Secret::new(text),
                    network_config: None,
                    meta_data: None,
                },
            };
            fs::write(at(APPLIED_FILE), serde_json::to_vec(&applied).unwrap()).unwrap();
        };
        let seed = |path: &Path| fs::read_to_string(path).ok();
        let file = at("run/slipway/seed.json");
        assert_eq!(applied(root.path()), Ok(None));
        // Over nothing, and nothing is there.
        store("", "#cloud-config\nhostname: b\n");
        assert_eq!(
            applied(root.path()).unwrap().unwrap().hostname.as_deref(),
            Some("b")
        );
        assert!(seed(&file).unwrap().contains("\"b\""));
        // Somebody puts another seed into the machine: that one is meant.
        fs::write(at(OUTSIDE_FILE), digest("another")).unwrap();
        fs::remove_file(&file).unwrap();
        assert_eq!(applied(root.path()), Ok(None));
        assert_eq!(seed(&file), None);
        // One that this image doesn't understand is said, and changes nothing.
        store("another", "#cloud-config\nhostname: [b]\n");
        assert!(applied(root.path()).unwrap_err().0.contains("line 2"));
        assert_eq!(seed(&file), None);
    }

    #[test]
    fn too_large_and_not_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, vec![b'a'; (MAX_BYTES + 1) as usize]).unwrap();
        assert!(
            read_text(File::open(&path).unwrap(), "x")
                .unwrap_err()
                .0
                .contains("larger")
        );
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(
            read_text(File::open(&path).unwrap(), "x")
                .unwrap_err()
                .0
                .contains("UTF-8")
        );
    }
}
