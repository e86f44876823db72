//! Volumes that hold a seed's files: a filesystem labelled CIDATA, or the boot partition.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount, umount};

use super::{Files, read_files};
use crate::files;
use crate::modules::Modules;
use crate::phase::{Context, Failure};

/// Where a volume is mounted while its files are read.
const MOUNT_POINT: &str = "/run/slipway/seed-volume";

/// Filesystems that seeds come on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// FAT, of any width.
    Fat,
    /// ISO 9660.
    Iso,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Fat => "vfat",
            Self::Iso => "iso9660",
        }
    }

    /// The kernel's modules for it; which of them are built in is its configuration's.
    const fn modules(self) -> &'static [&'static str] {
        match self {
            Self::Fat => &[
                "vfat",
                "nls_cp437",
                "nls_ascii",
                "nls_iso8859_1",
                "nls_utf8",
            ],
            Self::Iso => &["isofs", "nls_utf8"],
        }
    }
}

/// The first block device that holds a volume labelled CIDATA.
pub fn cidata() -> Option<(PathBuf, Kind)> {
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
            Some((path, labelled(&mut file)?))
        })
}

/// Whether a device holds a FAT (BS_VolLab at 43 or 71, FAT specification 3.1 and 3.3) or
/// ISO 9660 (volume identifier at 32808, ECMA-119 8.4) labelled CIDATA.
fn labelled<D: Read + Seek>(device: &mut D) -> Option<Kind> {
    let mut label_at = |offset: u64| {
        let mut bytes = [0; 11];
        device.seek(SeekFrom::Start(offset)).ok()?;
        device.read_exact(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Some(text.trim().eq_ignore_ascii_case("cidata"))
    };
    if label_at(71)? || label_at(43)? {
        return Some(Kind::Fat);
    }
    label_at(32808)?.then_some(Kind::Iso)
}

/// Reads a seed's files from a volume; `None` if it has no `user-data`.
///
/// # Errors
/// When it can't be mounted, or a file on it can't be read.
pub fn read(modules: &mut Modules, device: &Path, kind: Kind) -> Result<Option<Files>, Failure> {
    let shown = device.display();
    for module in kind.modules() {
        // Mounting tells whether one was really needed.
        drop(modules.load(module));
    }
    let point = Path::new(MOUNT_POINT);
    fs::create_dir_all(point).context("mount point of the seed")?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some(device), point, Some(kind.name()), flags, None::<&str>)
        .context(format_args!("mounting the seed's volume {shown}"))?;
    let files = read_files(&shown.to_string(), |name| File::open(point.join(name)));
    umount(point).context("unmounting the seed's volume")?;
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn tool(command: &mut Command) {
        let out = command.output().expect("ci/setup installs what tests need");
        assert!(
            out.status.success(),
            "{command:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }

    #[test]
    fn volumes_are_told_by_their_label() {
        for (label, size, fat, expected) in [
            ("CIDATA", 2u64, "12", Some(Kind::Fat)),
            ("cidata", 64, "32", Some(Kind::Fat)),
            ("ESP", 64, "32", None),
        ] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.as_file().set_len(size << 20).unwrap();
            tool(
                Command::new("/usr/sbin/mkfs.vfat")
                    .args(["-F", fat, "-n", label])
                    .arg(file.path()),
            );
            assert_eq!(labelled(file.as_file_mut()), expected, "{label}");
        }
        assert_eq!(labelled(&mut std::io::Cursor::new(vec![0u8; 100])), None);
    }

    #[test]
    fn an_iso_as_cloud_localds_makes_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("user-data"), "#cloud-config\n").unwrap();
        let iso = dir.path().join("seed.iso");
        tool(
            Command::new("genisoimage")
                .args(["-quiet", "-volid", "cidata", "-joliet", "-rock", "-output"])
                .arg(&iso)
                .arg(dir.path().join("user-data")),
        );
        assert_eq!(labelled(&mut File::open(iso).unwrap()), Some(Kind::Iso));
    }
}
