//! The disks of this machine, as sysfs tells of them, and what uses them.
//!
//! | file below `/sys/block/NAME` | what |
//! |---|---|
//! | `dev` | `MAJOR:MINOR` |
//! | `size` | in units of 512 bytes, whatever the block |
//! | `ro`, `removable` | `0` or `1` |
//! | `device/model`, `device/vendor`, `device/name` | what it calls itself |
//! | `queue/write_zeroes_max_bytes` | not `0`: zeroes a range by itself |
//! | `NAME1/partition` | a partition's number |
//! | `holders/` | device mapper and RAID on top of it; also below partitions |
//!
//! With it `/proc/self/mountinfo` (proc(5)) and `/proc/swaps`. Sources: the kernel's
//! Documentation/ABI/stable/sysfs-block.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{At as _, Result};

/// Names of devices that nobody wants to flash.
const NEVER: [&str; 7] = ["loop", "ram", "zram", "sr", "fd", "dm-", "md"];

/// Mount points whose loss is that of the running system.
const SYSTEM: [&str; 5] = ["/", "/usr", "/var", "/home", "/boot"];

/// Where the kernel tells of devices.
pub struct System {
    sys: PathBuf,
    proc: PathBuf,
}

impl System {
    /// This machine.
    pub fn here() -> Self {
        Self::at(Path::new("/"))
    }

    /// A tree with `sys` and `proc` below `root`.
    pub fn at(root: &Path) -> Self {
        Self {
            sys: root.join("sys"),
            proc: root.join("proc"),
        }
    }

    /// All block devices that aren't partitions, by name.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io).
    pub fn disks(&self) -> Result<Vec<Disk>> {
        let users = Users::read(&self.proc)?;
        let block = self.sys.join("block");
        let mut names = names(&block).at("reading", &block)?;
        names.sort();
        Ok(names
            .iter()
            .filter_map(|name| self.disk(name, &users))
            .collect())
    }

    /// What a device number is.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io).
    pub fn find(&self, number: u64) -> Result<Option<Node>> {
        let number = format!(
            "{}:{}",
            rustix::fs::major(number),
            rustix::fs::minor(number)
        );
        let disks = self.disks()?;
        let has = |dir: &Path| text(&dir.join("dev")).as_deref() == Some(&number);
        for disk in disks {
            let dir = self.sys.join("block").join(&disk.name);
            if has(&dir) {
                return Ok(Some(Node::Disk(Box::new(disk))));
            }
            if partitions(&dir).iter().any(|p| has(&dir.join(p))) {
                return Ok(Some(Node::Partition(Box::new(disk))));
            }
        }
        Ok(None)
    }

    /// `None` for one that went away meanwhile.
    fn disk(&self, name: &str, users: &Users) -> Option<Disk> {
        let dir = self.sys.join("block").join(name);
        let number = |file: &str| text(&dir.join(file))?.parse::<u64>().ok();
        let size = number("size")?.checked_mul(512)?;
        let word = |file: &str| text(&dir.join("device").join(file)).filter(|t| !t.is_empty());
        let model = [word("vendor"), word("model").or_else(|| word("name"))];
        let mut uses = Vec::new();
        self.collect_uses(&dir, name, users, &mut BTreeSet::new(), &mut uses);
        Some(Disk {
            name: name.to_owned(),
            path: Path::new("/dev").join(name.replace('!', "/")),
            size,
            model: model.into_iter().flatten().collect::<Vec<_>>().join(" "),
            transport: transport(&dir, name),
            removable: number("removable") == Some(1),
            read_only: number("ro") == Some(1),
            offloads_zeros: number("queue/write_zeroes_max_bytes").is_some_and(|n| n > 0),
            uses,
        })
    }

    /// What uses a device: its own mounts, and those of its partitions and of what
    /// is built on it.
    fn collect_uses(
        &self,
        dir: &Path,
        name: &str,
        users: &Users,
        seen: &mut BTreeSet<String>,
        uses: &mut Vec<Use>,
    ) {
        if !seen.insert(name.to_owned()) {
            return;
        }
        let number = text(&dir.join("dev")).unwrap_or_default();
        uses.extend(users.of(name, &number));
        for holder in names(&dir.join("holders")).unwrap_or_default() {
            uses.push(Use {
                device: name.to_owned(),
                how: How::Held(holder.clone()),
            });
            let above = self.sys.join("block").join(&holder);
            self.collect_uses(&above, &holder, users, seen, uses);
        }
        for partition in partitions(dir) {
            self.collect_uses(&dir.join(&partition), &partition, users, seen, uses);
        }
    }
}

/// What a device number stands for.
#[derive(Debug)]
pub enum Node {
    /// A whole disk.
    Disk(Box<Disk>),
    /// A partition of that disk.
    Partition(Box<Disk>),
}

/// A block device that is no partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// The kernel's name.
    pub name: String,
    /// Below `/dev`.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// Vendor and model, where it tells them.
    pub model: String,
    /// How it is attached.
    pub transport: Transport,
    /// Its medium can be taken out.
    pub removable: bool,
    /// It refuses to be written to.
    pub read_only: bool,
    /// It can zero a range by itself.
    #[serde(skip)]
    pub offloads_zeros: bool,
    /// What it is in use for.
    pub uses: Vec<Use>,
}

impl Disk {
    /// Whether it is something to offer.
    pub fn is_candidate(&self) -> bool {
        let boot_area = self.name.starts_with("mmcblk") && self.name.contains("boot");
        self.size > 0
            && !self.read_only
            && !boot_area
            && !NEVER.iter().any(|n| self.name.starts_with(n))
            && self.uses.is_empty()
    }

    /// Whether the running system needs it.
    pub fn is_system(&self) -> bool {
        self.uses.iter().any(|u| match &u.how {
            How::Swap => true,
            How::Mounted(at) => {
                at.starts_with("/boot") || SYSTEM.iter().any(|s| at == Path::new(s))
            }
            How::Held(_) => false,
        })
    }

    /// What it is in use for, for people.
    pub fn uses_text(&self) -> String {
        let uses: Vec<String> = self.uses.iter().map(ToString::to_string).collect();
        uses.join(", ")
    }
}

/// `/dev/sda (31.9 GB, SanDisk Ultra, USB, removable)`.
impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.path.display())?;
        write!(f, "{:.1} GB", self.size as f64 / 1e9)?;
        if !self.model.is_empty() {
            write!(f, ", {}", self.model)?;
        }
        write!(f, ", {}", self.transport)?;
        if self.removable {
            f.write_str(", removable")?;
        }
        if self.read_only {
            f.write_str(", read-only")?;
        }
        f.write_str(")")
    }
}

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// USB.
    Usb,
    /// SD card or eMMC.
    Mmc,
    /// NVMe.
    Nvme,
    /// SATA or IDE.
    Ata,
    /// A virtual machine's.
    Virtio,
    /// Made by the kernel: loop, RAID, device mapper.
    Virtual,
    /// Another.
    Other,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usb => "USB",
            Self::Mmc => "SD/MMC",
            Self::Nvme => "NVMe",
            Self::Ata => "SATA",
            Self::Virtio => "virtio",
            Self::Virtual => "virtual",
            Self::Other => "other",
        })
    }
}

/// That a device or a part of it is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Use {
    /// The kernel's name of the part.
    pub device: String,
    /// What for.
    pub how: How,
}

/// What a device is in use for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// Mounted there.
    Mounted(PathBuf),
    /// Swap space.
    Swap,
    /// Part of RAID, LVM or encryption of that name.
    Held(String),
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.how {
            How::Mounted(at) => write!(f, "{} is mounted on {}", self.device, at.display()),
            How::Swap => write!(f, "{} is swap", self.device),
            How::Held(by) => write!(f, "{} is part of {by}", self.device),
        }
    }
}

/// Mounts and swap of this machine.
struct Users {
    /// Device number, source and mount point.
    mounts: Vec<(String, PathBuf, PathBuf)>,
    swaps: Vec<PathBuf>,
}

impl Users {
    fn read(proc: &Path) -> Result<Self> {
        let path = proc.join("self/mountinfo");
        let mounts = fs::read_to_string(&path).at("reading", &path)?;
        // A kernel without swap has no such file.
        let swaps = fs::read_to_string(proc.join("swaps")).unwrap_or_default();
        Ok(Self {
            mounts: mounts.lines().filter_map(mount).collect(),
            swaps: swaps
                .lines()
                .skip(1)
                .filter_map(|l| Some(PathBuf::from(unescape(l.split_whitespace().next()?))))
                .collect(),
        })
    }

    fn of(&self, name: &str, number: &str) -> Vec<Use> {
        let node = Path::new("/dev").join(name.replace('!', "/"));
        let mut uses = Vec::new();
        // Some filesystems (btrfs) have a number of their own, and only name the device.
        for (_, _, at) in self
            .mounts
            .iter()
            .filter(|(n, source, _)| n == number || *source == node)
        {
            let mounted = Use {
                device: name.to_owned(),
                how: How::Mounted(at.clone()),
            };
            if !uses.contains(&mounted) {
                uses.push(mounted);
            }
        }
        if self.swaps.contains(&node) {
            uses.push(Use {
                device: name.to_owned(),
                how: How::Swap,
            });
        }
        uses
    }
}

/// A line of mountinfo: `36 35 98:0 /mnt1 /mnt2 rw - ext3 /dev/root rw`, with any number
/// of fields before the dash.
fn mount(line: &str) -> Option<(String, PathBuf, PathBuf)> {
    let (before, after) = line.split_once(" - ")?;
    let mut fields = before.split(' ').skip(2);
    let number = fields.next()?.to_owned();
    let at = unescape(fields.nth(1)?);
    let source = unescape(after.split(' ').nth(1)?);
    Some((number, PathBuf::from(source), PathBuf::from(at)))
}

/// Undoes `\040` and its like.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'\\'
            && let Some(octal) = tail.get(..3)
            && let Some(byte) = std::str::from_utf8(octal)
                .ok()
                .and_then(|o| u8::from_str_radix(o, 8).ok())
        {
            out.push(byte);
            rest = &tail[3..];
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn transport(dir: &Path, name: &str) -> Transport {
    // The link leads to the device's place among buses.
    let link = fs::read_link(dir).unwrap_or_default();
    let link = link.to_string_lossy();
    let passes = |part: &str| link.split('/').any(|p| p.starts_with(part));
    if passes("usb") {
        Transport::Usb
    } else if name.starts_with("mmcblk") {
        Transport::Mmc
    } else if name.starts_with("nvme") {
        Transport::Nvme
    } else if passes("ata") {
        Transport::Ata
    } else if passes("virtio") {
        Transport::Virtio
    } else if passes("virtual") {
        Transport::Virtual
    } else {
        Transport::Other
    }
}

/// The names of a disk's partitions.
fn partitions(dir: &Path) -> Vec<String> {
    let mut found = names(dir).unwrap_or_default();
    found.retain(|n| dir.join(n).join("partition").exists());
    found.sort();
    found
}

fn names(dir: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(dir)?
        .map(|e| Ok(e?.file_name().to_string_lossy().into_owned()))
        .collect()
}

/// A file of sysfs without the blanks around it.
fn text(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
