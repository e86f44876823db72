//! What the kernel says about the machine (proc(5), sysfs(5)). What it doesn't say is left
//! out: a node without a sensor or a strange disk still has a status.

use std::fs;
use std::path::{Path, PathBuf};

use slipway_images::node::api::{Disk, Filesystem, Interface, Memory, Temperature};
use slipway_init::files;

/// Bytes of a sector in `/sys/block/*/size`, whatever the disk's own.
const SECTOR: u64 = 512;

/// `/proc` and `/sys` below a root.
#[derive(Debug, Clone)]
pub struct System {
    proc: PathBuf,
    sys: PathBuf,
}

fn text(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned())
}

fn number(path: impl AsRef<Path>) -> Option<u64> {
    text(path)?.parse().ok()
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

impl System {
    /// Those of this root.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            proc: root.join("proc"),
            sys: root.join("sys"),
        }
    }

    /// Seconds since the boot.
    #[must_use]
    pub fn uptime(&self) -> u64 {
        let first = text(self.proc.join("uptime")).and_then(|t| {
            let (seconds, _) = t.split_once('.')?;
            seconds.parse().ok()
        });
        first.unwrap_or(0)
    }

    /// The kernel's release.
    #[must_use]
    pub fn kernel(&self) -> String {
        text(self.proc.join("sys/kernel/osrelease")).unwrap_or_default()
    }

    /// Load of the last minute.
    #[must_use]
    pub fn load(&self) -> f64 {
        text(self.proc.join("loadavg"))
            .and_then(|t| t.split_whitespace().next()?.parse().ok())
            .unwrap_or(0.0)
    }

    /// Memory.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let info = text(self.proc.join("meminfo")).unwrap_or_default();
        let field = |name: &str| files::meminfo(&info, name).unwrap_or(0);
        Memory {
            total: field("MemTotal"),
            available: field("MemAvailable"),
        }
    }

    /// Disks, without RAM disks, loops and what is built upon others.
    #[must_use]
    pub fn disks(&self) -> Vec<Disk> {
        entries(&self.sys.join("block"))
            .iter()
            .filter(|path| path.join("device").exists())
            .filter_map(|path| {
                Some(Disk {
                    name: name(path),
                    model: text(path.join("device/model"))
                        .or_else(|| text(path.join("device/name")))
                        .unwrap_or_default(),
                    size: number(path.join("size"))?.checked_mul(SECTOR)?,
                    removable: number(path.join("removable")) == Some(1),
                    read_only: number(path.join("ro")) == Some(1),
                })
            })
            .filter(|disk| disk.size > 0)
            .collect()
    }

    /// Filesystems on devices; each once, where it was mounted first.
    #[must_use]
    pub fn filesystems(&self) -> Vec<Filesystem> {
        let mounts = text(self.proc.join("self/mounts")).unwrap_or_default();
        let mut seen: Vec<Filesystem> = Vec::new();
        for line in mounts.lines() {
            let mut words = line.split(' ');
            let (Some(device), Some(point), Some(_), Some(options)) =
                (words.next(), words.next(), words.next(), words.next())
            else {
                continue;
            };
            let device = unescape(device);
            if !device.starts_with("/dev/") || seen.iter().any(|f| f.device == device) {
                continue;
            }
            let mount_point = unescape(point);
            let Ok(stat) = rustix::fs::statvfs(mount_point.as_str()) else {
                continue;
            };
            seen.push(Filesystem {
                size: stat.f_frsize.saturating_mul(stat.f_blocks),
                free: stat.f_frsize.saturating_mul(stat.f_bavail),
                read_only: options.split(',').any(|option| option == "ro"),
                mount_point,
                device,
            });
        }
        seen
    }

    /// Network interfaces, without loopback and what pods have.
    #[must_use]
    pub fn interfaces(&self) -> Vec<Interface> {
        entries(&self.sys.join("class/net"))
            .iter()
            .map(|path| (path, name(path)))
            .filter(|(_, name)| name != "lo" && !name.starts_with("veth"))
            .map(|(path, name)| Interface {
                name,
                mac: text(path.join("address")).unwrap_or_default(),
                state: text(path.join("operstate")).unwrap_or_default(),
                // Reading it fails, or gives -1, without a carrier.
                speed: number(path.join("speed")),
                received: number(path.join("statistics/rx_bytes")).unwrap_or(0),
                sent: number(path.join("statistics/tx_bytes")).unwrap_or(0),
            })
            .collect()
    }

    /// Sensors of temperature: thermal zones, which every board has that has any.
    #[must_use]
    pub fn temperatures(&self) -> Vec<Temperature> {
        entries(&self.sys.join("class/thermal"))
            .iter()
            .filter(|path| name(path).starts_with("thermal_zone"))
            .filter_map(|path| {
                // Millidegrees; negative outdoors.
                let milli: i32 = text(path.join("temp"))?.parse().ok()?;
                Some(Temperature {
                    sensor: text(path.join("type")).unwrap_or_else(|| name(path)),
                    celsius: f64::from(milli) / 1000.0,
                })
            })
            .collect()
    }
}

/// Undoes the kernel's octal escapes of space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    let mut out = text.to_owned();
    for (escaped, plain) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        out = out.replace(escaped, plain);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_says_what_it_is() {
        let system = System::new(Path::new("/"));
        let memory = system.memory();
        assert!(memory.total > 1 << 26 && memory.available <= memory.total);
        assert!(system.uptime() > 0);
        assert!(!system.kernel().is_empty());
        assert!(system.interfaces().iter().all(|i| i.name != "lo"));
        assert!(system.filesystems().iter().all(|f| f.free <= f.size));
    }

    #[test]
    fn nothing_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let system = System::new(dir.path());
        assert_eq!(system.uptime(), 0);
        assert!(system.disks().is_empty() && system.temperatures().is_empty());
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape("/a\\040b\\134"), "/a b\\");
    }
}
