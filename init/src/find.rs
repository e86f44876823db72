//! Which root is meant, and which partition of which disk holds it.
//!
//! | word of the kernel's command line | meaning |
//! |---|---|
//! | `roothash=HEX` | the root whose verity tree has this root hash; the builder writes it |
//! | `root=/dev/...` | this device as it is, nothing verified: for experiments |
//!
//! The slot isn't named anywhere: it is the partition whose verity superblock bears the UUID
//! that follows from the root hash. So a kernel starts its own root and no other, wherever
//! that is, and slots can't be mixed up.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use slipway_images::layout::Partition;
use slipway_images::verity::{self, RootHash, SuperblockError};

use crate::ext4::{SUPERBLOCK_OFFSET, Superblock};
use crate::phase::{Context, Failure};
use crate::{files, grow};

/// What the kernel's command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootWish {
    /// The root of this hash.
    Verified(RootHash),
    /// This device as it is, without a look at the partition table.
    Device(PathBuf),
}

/// Reads the command line that the kernel below `root` was started with.
///
/// # Errors
/// As [`root_wish`]; those of reading.
pub fn root_wish_of_boot(root: &Path) -> Result<RootWish, Failure> {
    let cmdline = files::read_trimmed(root.join("proc/cmdline")).context("/proc/cmdline")?;
    root_wish(&cmdline)
}

/// Reads a kernel command line.
///
/// # Errors
/// A sentence when it names no root, two, or one that is not understood.
pub fn root_wish(cmdline: &str) -> Result<RootWish, Failure> {
    let last = |key: &str| {
        let words = cmdline.split_ascii_whitespace();
        words.filter_map(|word| word.strip_prefix(key)).next_back()
    };
    match (last("roothash="), last("root=")) {
        (Some(hash), None) => hash
            .parse()
            .map(RootWish::Verified)
            .context(format_args!("roothash={hash}")),
        (None, Some(device)) if device.starts_with("/dev/") => Ok(RootWish::Device(device.into())),
        (None, Some(wish)) => Err(Failure(format!(
            "root={wish} is not understood; use roothash=HEX, or root=/dev/... for an experiment"
        ))),
        (Some(_), Some(_)) => Err(Failure(
            "the kernel command line has both roothash= and root=: leave one of them out".into(),
        )),
        (None, None) => Err(Failure(
            "the kernel command line has no roothash=HEX".into(),
        )),
    }
}

/// The slot that holds the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The disk's name, such as `vda`.
    pub disk: String,
    /// The partition's number, from 1.
    pub number: usize,
    /// Its verity superblock.
    pub tree: verity::Superblock,
}

impl Found {
    /// The partition's device.
    ///
    /// # Errors
    /// When the kernel doesn't show it, yet.
    pub fn device(&self) -> Result<PathBuf, Failure> {
        let Self { disk, number, .. } = self;
        partition_device(disk, *number)
            .ok_or_else(|| Failure(format!("the kernel shows no partition {number} of {disk}")))
    }
}

/// Looks through all disks.
///
/// # Errors
/// What there is instead.
pub fn search(hash: &RootHash) -> Result<Found, Failure> {
    let mut seen = Vec::new();
    for name in disks() {
        // A disk without medium or a foreign one is no failure here.
        let Ok(mut disk) = File::open(Path::new("/dev").join(&name)) else {
            continue;
        };
        match search_disk(&mut disk, hash) {
            Ok((number, tree)) => {
                return Ok(Found {
                    disk: name,
                    number,
                    tree,
                });
            }
            Err(what) => seen.push(format!("{name} ({what})")),
        }
    }
    let seen = match seen.is_empty() {
        true => "none".to_owned(),
        false => seen.join(", "),
    };
    Err(Failure(format!(
        "no disk holds the root with the hash {hash}; disks seen: {seen}"
    )))
}

/// The partition of a disk that holds the root, or what its roots are.
fn search_disk<D: Read + Seek>(
    disk: &mut D,
    hash: &RootHash,
) -> Result<(usize, verity::Superblock), String> {
    let table = grow::read_table(disk).map_err(|e| e.to_string())?.table;
    let mut seen = Vec::new();
    for (number, partition) in (1..).zip(&table.partitions) {
        if !grow::is_root_type(&partition.type_guid) {
            continue;
        }
        match superblock(disk, partition) {
            Ok(tree) if tree.uuid == hash.uuid() => return Ok((number, tree)),
            Ok(tree) => seen.push(format!("{}: another root, {}", partition.name, tree.uuid)),
            Err(Failure(why)) => seen.push(format!("{}: {why}", partition.name)),
        }
    }
    match seen.is_empty() {
        true => Err("no root".into()),
        false => Err(seen.join(", ")),
    }
}

/// The verity superblock behind a partition's filesystem, if both fit.
fn superblock<D: Read + Seek>(
    disk: &mut D,
    partition: &Partition,
) -> Result<verity::Superblock, Failure> {
    let start = partition.offset().get();
    let filesystem = Superblock::read_at(disk, start.saturating_add(SUPERBLOCK_OFFSET))?
        .ok_or_else(|| Failure("no filesystem".into()))?;
    let covered = filesystem.size();
    let mut bytes = [0; verity::SUPERBLOCK];
    if covered >= partition.size().get() {
        return Err(SuperblockError::Absent.into());
    }
    disk.seek(SeekFrom::Start(start.saturating_add(covered)))?;
    match disk.read_exact(&mut bytes) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(SuperblockError::Absent.into());
        }
        read => read?,
    }
    let tree = verity::Superblock::parse(&bytes)?;
    if tree.covered() != covered {
        return Err(Failure(format!(
            "its verity tree covers {} bytes and its filesystem has {covered}",
            tree.covered()
        )));
    }
    if tree.end().is_none_or(|end| end > partition.size().get()) {
        return Err(Failure("its verity tree doesn't fit its partition".into()));
    }
    Ok(tree)
}

/// Names of whole disks.
fn disks() -> Vec<String> {
    let class = Path::new("/sys/class/block");
    let virtual_ = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];
    files::names(class)
        .into_iter()
        .filter(|n| !class.join(n).join("partition").exists())
        .filter(|n| !virtual_.iter().any(|v| n.starts_with(v)))
        .collect()
}

/// The device of a disk's partition, by its number.
pub fn partition_device(disk: &str, number: usize) -> Option<PathBuf> {
    let base = Path::new("/sys/class/block").join(disk);
    files::names(&base).into_iter().find_map(|name| {
        let found = files::read_trimmed(base.join(&name).join("partition")).ok()?;
        (found == number.to_string()).then(|| Path::new("/dev").join(name))
    })
}

#[cfg(test)]
#[path = "find_tests.rs"]
mod tests;
