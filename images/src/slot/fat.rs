//! Changing a FAT32 volume so that a power cut at any moment leaves it whole.
//!
//! The kernel's driver can't do that for a rename, which is what boot counting is made of. It
//! adds the new name, then deletes the old one, with no barrier between that a disk's cache
//! would respect: a cut leaves both names, or neither. Both share one chain of clusters, and
//! deleting either through the driver frees the other's. So the node doesn't mount its boot
//! partition for this; it changes few sectors of it itself:
//!
//! | change | order of writes, `|` being a flush |
//! |---|---|
//! | create | chain in both tables `|` directory entry, within one sector `|` |
//! | write into a file | its clusters; nothing else ever moves |
//! | rename | the entry's slots, within one sector `|` |
//! | rename, slots in two sectors | new entry, within one sector `|` old entry `|` |
//! | put in another's place | the other's last slot, within one sector `|` own entry `|` the other's chain in both tables `|` |
//! | delete | directory entry `|` chain in both tables `|` |
//!
//! What a cut can leave is a chain without an entry, tables that differ in such a chain, a
//! wrong count of free clusters, and two entries for one file that have been a rename.
//! [`Volume::tidy`] frees and mends the first three; whoever renames knows which of the last
//! two is meant ([`Entry::first_cluster`]).
//!
//! | offset in sector 0 | size | field |
//! |---|---|---|
//! | 11 | 2 | BytsPerSec, 512 here |
//! | 13 | 1 | SecPerClus |
//! | 14 | 2 | RsvdSecCnt: where the tables begin |
//! | 16 | 1 | NumFATs |
//! | 17, 19, 22 | 2 each | RootEntCnt, TotSec16, FATSz16: 0 for FAT32 |
//! | 32 | 4 | TotSec32 |
//! | 36 | 4 | FATSz32 |
//! | 40 | 2 | ExtFlags: bit 7 set if the tables are no mirrors, which is refused |
//! | 44 | 4 | RootClus |
//! | 48 | 2 | FSInfo: its sector, which has the count of free clusters at 488 |
//! | 510 | 2 | 55 AA |
//!
//! Source: Microsoft's FAT specification 1.03. Directory entries are [`dirent`]'s.

use std::io;

use super::Disk;
use super::dirent::{self, SLOT};
use table::Table;

mod place;
mod replace;
mod table;
mod used;

/// Bytes of a sector: what a disk writes whole or not at all.
pub const SECTOR: u64 = 512;
/// A table's entry takes 28 bits; the others are kept.
const MASK: u32 = 0x0fff_ffff;
/// From here on an entry ends its chain.
const END: u32 = 0x0fff_fff8;
/// Largest size of the tables: 32 MiB are 4 GiB of clusters of 512 bytes.
const TABLE_LIMIT: u64 = 32 << 20;

/// Why a volume can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// Reading or writing failed.
    #[error("the boot partition: {0}")]
    Io(#[from] io::Error),
    /// It is no FAT32, or one of a kind that is not handled.
    #[error("the boot partition is unusable: {0}; flash the node again")]
    Unusable(String),
    /// There is no room.
    #[error("the boot partition is full: {needed} clusters are needed and {free} are free")]
    Full {
        /// Clusters wanted.
        needed: usize,
        /// Clusters free.
        free: usize,
    },
    /// A file or directory isn't there.
    #[error("the boot partition has no `{0}`")]
    Missing(String),
    /// More than a file's size was to be written or read.
    #[error("`{0}` ends before that")]
    Beyond(String),
}

/// A file or directory as its directory has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its long name, or its short one if it has none.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Number of its first cluster; 0 for an empty file. Two entries with the same one are a
    /// rename that was cut.
    pub first_cluster: u32,
    /// Bytes; 0 for a directory.
    pub size: u32,
    /// Offsets of its slots on the disk, in order; the short name's is the last.
    slots: Vec<u64>,
}

impl Entry {
    fn in_one_sector(&self) -> bool {
        let sector = |offset: &u64| offset / SECTOR;
        self.slots.first().map(sector) == self.slots.last().map(sector)
            && self.slots.windows(2).all(|w| w[1] == w[0] + SLOT as u64)
    }
}

/// A FAT32 volume.
#[derive(Debug)]
pub struct Volume<D> {
    disk: D,
    /// Bytes of a cluster.
    cluster: u64,
    /// Offset of the first table.
    tables: u64,
    /// Bytes of a table.
    table: u64,
    /// Number of tables.
    copies: u64,
    /// Offset of cluster 2.
    data: u64,
    /// The number after the last cluster's.
    end: u32,
    root: u32,
    /// Offset of FSInfo.
    info: Option<u64>,
}

impl<D: Disk> Volume<D> {
    /// Reads the first sector.
    ///
    /// # Errors
    /// [`FatError::Unusable`] for what is no FAT32 of 512-byte sectors; [`FatError::Io`].
    pub fn open(mut disk: D) -> Result<Self, FatError> {
        let mut boot = [0; SECTOR as usize];
        disk.read_at(0, &mut boot)?;
        let unusable = |why: &str| Err(FatError::Unusable(why.to_owned()));
        let (word, long) = (
            |at| u64::from(le16(&boot, at)),
            |at| u64::from(le32(&boot, at)),
        );
        if boot[510..] != [0x55, 0xaa] {
            return unusable("its first sector is no boot sector");
        }
        if word(11) != SECTOR || word(17) != 0 || word(22) != 0 {
            return unusable("it is no FAT32 with sectors of 512 bytes");
        }
        let (per_cluster, reserved, copies) = (u64::from(boot[13]), word(14), u64::from(boot[16]));
        let (total, table) = (long(32), long(36) * SECTOR);
        if !per_cluster.is_power_of_two() || reserved == 0 || copies == 0 || table == 0 {
            return unusable("its first sector has a zero where none can be");
        }
        if word(40) & 0x80 != 0 || table > TABLE_LIMIT {
            return unusable("its tables are of a kind that isn't handled");
        }
        let data = reserved * SECTOR + copies * table;
        let room = (total * SECTOR).saturating_sub(data) / (per_cluster * SECTOR);
        // Numbers 0 and 1 have entries and no clusters.
        let end = (room + 2).min(table / 4).min(u64::from(END & !0xf));
        let volume = Self {
            disk,
            cluster: per_cluster * SECTOR,
            tables: reserved * SECTOR,
            table,
            copies,
            data,
            end: u32::try_from(end).unwrap_or(0),
            root: le32(&boot, 44) & MASK,
            info: match word(48) {
                0 | 0xffff => None,
                sector => Some(sector * SECTOR),
            },
        };
        if !volume.holds(volume.root) {
            return unusable("its root directory is nowhere");
        }
        Ok(volume)
    }

    /// The disk below.
    pub fn into_disk(self) -> D {
        self.disk
    }

    /// Waits until all that was written is on the medium.
    ///
    /// # Errors
    /// [`FatError::Io`].
    pub fn flush(&mut self) -> Result<(), FatError> {
        Ok(self.disk.flush()?)
    }

    fn holds(&self, cluster: u32) -> bool {
        (2..self.end).contains(&cluster)
    }

    fn offset(&self, cluster: u32) -> u64 {
        self.data + u64::from(cluster.saturating_sub(2)) * self.cluster
    }

    /// The clusters of a chain, read entry by entry.
    fn chain(&mut self, first: u32) -> Result<Vec<u32>, FatError> {
        let mut sector = [0; SECTOR as usize];
        let mut at = u64::MAX;
        walk(first, self.end, |cluster| {
            let offset = self.tables + u64::from(cluster) * 4;
            if offset / SECTOR != at {
                at = offset / SECTOR;
                self.disk.read_at(at * SECTOR, &mut sector)?;
            }
            Ok(le32(&sector, (offset % SECTOR) as usize))
        })
    }

    /// What is in the directory `path`, such as `EFI/Linux`; names compare without case.
    ///
    /// # Errors
    /// [`FatError::Missing`], [`FatError::Unusable`] for a broken chain, [`FatError::Io`].
    pub fn list(&mut self, path: &str) -> Result<Vec<Entry>, FatError> {
        let directory = self.directory(path)?;
        self.entries(directory)
    }

    /// The file `path`; none if there is none, or no directory for it.
    ///
    /// # Errors
    /// [`FatError::Unusable`] for a broken chain, [`FatError::Io`].
    pub fn find(&mut self, path: &str) -> Result<Option<Entry>, FatError> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        match self.list(directory) {
            Err(FatError::Missing(_)) => Ok(None),
            listed => Ok(listed?
                .into_iter()
                .find(|e| !e.is_dir && e.name.eq_ignore_ascii_case(name))),
        }
    }

    fn directory(&mut self, path: &str) -> Result<u32, FatError> {
        let mut cluster = self.root;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let found = (self.entries(cluster)?.into_iter())
                .find(|e| e.is_dir && e.name.eq_ignore_ascii_case(part))
                .ok_or_else(|| FatError::Missing(path.to_owned()))?;
            cluster = found.first_cluster;
        }
        Ok(cluster)
    }

    /// A directory's bytes, and the offset of each of its clusters on the disk.
    fn raw_directory(&mut self, first: u32) -> Result<(Vec<u8>, Vec<u64>), FatError> {
        let chain = self.chain(first)?;
        let size = usize::try_from(self.cluster).unwrap_or(0);
        let (mut bytes, mut offsets) = (vec![0; size * chain.len()], Vec::new());
        for (cluster, part) in chain.iter().zip(bytes.chunks_mut(size)) {
            let offset = self.offset(*cluster);
            self.disk.read_at(offset, part)?;
            offsets.push(offset);
        }
        Ok((bytes, offsets))
    }

    fn slot_offset(&self, offsets: &[u64], slot: usize) -> u64 {
        let at = (slot * SLOT) as u64;
        let base = offsets.get((at / self.cluster) as usize);
        base.copied().unwrap_or(0) + at % self.cluster
    }

    fn entries(&mut self, first: u32) -> Result<Vec<Entry>, FatError> {
        let (bytes, offsets) = self.raw_directory(first)?;
        let found = dirent::parse(&bytes);
        Ok((found.into_iter())
            .map(|f| Entry {
                slots: f.slots.map(|s| self.slot_offset(&offsets, s)).collect(),
                name: f.name,
                is_dir: f.is_dir,
                first_cluster: f.first_cluster & MASK,
                size: f.size,
            })
            .collect())
    }

    /// Reads `buffer` from `offset` of a file.
    ///
    /// # Errors
    /// [`FatError::Beyond`] its end, [`FatError::Unusable`] for a broken chain, [`FatError::Io`].
    pub fn read(&mut self, file: &Entry, offset: u64, buffer: &mut [u8]) -> Result<(), FatError> {
        let (mut at, mut done) = (0, 0);
        for (place, len) in self.places(file, offset, buffer.len())? {
            at += done;
            done = len;
            self.disk.read_at(place, &mut buffer[at..at + len])?;
        }
        Ok(())
    }

    /// Writes `bytes` at `offset` of a file, within its size. Durable after a flush.
    ///
    /// # Errors
    /// [`FatError::Beyond`] its end, [`FatError::Unusable`] for a broken chain, [`FatError::Io`].
    pub fn write(&mut self, file: &Entry, offset: u64, bytes: &[u8]) -> Result<(), FatError> {
        let mut rest = bytes;
        for (place, len) in self.places(file, offset, bytes.len())? {
            let (part, later) = rest.split_at(len);
            self.disk.write_at(place, part)?;
            rest = later;
        }
        Ok(())
    }

    /// Where a part of a file lies on the disk: offsets and lengths, neighbours joined.
    fn places(
        &mut self,
        file: &Entry,
        offset: u64,
        len: usize,
    ) -> Result<Vec<(u64, usize)>, FatError> {
        let beyond = || FatError::Beyond(file.name.clone());
        let end = offset.checked_add(len as u64).ok_or_else(beyond)?;
        if end > u64::from(file.size) {
            return Err(beyond());
        }
        let mut places: Vec<(u64, usize)> = Vec::new();
        if len == 0 {
            return Ok(places);
        }
        let chain = self.chain(file.first_cluster)?;
        let mut at = offset;
        while at < end {
            let cluster = chain.get((at / self.cluster) as usize).ok_or_else(|| {
                FatError::Unusable(format!("`{}` has too few clusters", file.name))
            })?;
            let within = at % self.cluster;
            let part = (self.cluster - within).min(end - at);
            let place = self.offset(*cluster) + within;
            match places.last_mut() {
                Some((p, l)) if *p + *l as u64 == place => *l += part as usize,
                _ => places.push((place, part as usize)),
            }
            at += part;
        }
        Ok(places)
    }

    /// Makes a file of `size` bytes, whatever they are, in an existing directory. Durable when
    /// it returns.
    ///
    /// # Errors
    /// [`FatError::Full`], [`FatError::Missing`] for its directory, [`FatError::Unusable`] for
    /// a name that isn't ASCII or is taken, [`FatError::Io`].
    pub fn create(&mut self, path: &str, size: u32) -> Result<Entry, FatError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let directory = self.directory(parent)?;
        let count = u64::from(size).div_ceil(self.cluster) as usize;
        let mut table = Table::read(self)?;
        let chain = table.allocate(count)?;
        table.write(self)?;
        self.flush()?;
        table.write_count(self)?;
        let first = chain.first().copied().unwrap_or(0);
        self.insert(directory, name, first, size)
    }

    /// Gives the file `from` of the directory `parent` the name `to`, in one write of one
    /// sector where its slots lie in one. Durable when it returns.
    ///
    /// # Errors
    /// [`FatError::Unusable`] for a name that isn't ASCII or is taken, [`FatError::Io`].
    pub fn rename(&mut self, parent: &str, from: &Entry, to: &str) -> Result<Entry, FatError> {
        let directory = self.directory(parent)?;
        let others: Vec<Entry> = (self.entries(directory)?.into_iter())
            .filter(|e| e.slots != from.slots)
            .collect();
        let slots = self.encode(directory, &others, to, from.first_cluster, from.size)?;
        if slots.len() == from.slots.len() && from.in_one_sector() {
            self.write_slots(from.slots[0], &slots)?;
            self.flush()?;
            return Ok(Entry {
                name: to.to_owned(),
                ..from.clone()
            });
        }
        let new = self.insert(directory, to, from.first_cluster, from.size)?;
        self.forget(from)?;
        Ok(new)
    }

    /// Deletes a file: its name first, then, if no other name leads to them, its clusters.
    /// Durable when it returns.
    ///
    /// # Errors
    /// [`FatError::Unusable`] for a broken chain, of which nothing is freed; [`FatError::Io`].
    pub fn remove(&mut self, parent: &str, file: &Entry) -> Result<(), FatError> {
        self.forget(file)?;
        self.free(parent, file.first_cluster)
    }

    /// Frees the clusters of a file that `parent` had, unless another name there leads to them.
    fn free(&mut self, parent: &str, first_cluster: u32) -> Result<(), FatError> {
        let directory = self.directory(parent)?;
        let shared = (self.entries(directory)?.iter()).any(|e| e.first_cluster == first_cluster);
        if first_cluster == 0 || shared {
            return Ok(());
        }
        let chain = self.chain(first_cluster)?;
        let mut table = Table::read(self)?;
        table.free(chain);
        table.write(self)?;
        table.write_count(self)?;
        self.flush()
    }

    /// Deletes a file's name and nothing else. Durable when it returns.
    ///
    /// # Errors
    /// [`FatError::Io`].
    pub fn forget(&mut self, file: &Entry) -> Result<(), FatError> {
        // The short name is what makes it a file: without it the rest is an orphan.
        for offset in file.slots.iter().rev() {
            let mut sector = [0; SECTOR as usize];
            let start = offset / SECTOR * SECTOR;
            self.disk.read_at(start, &mut sector)?;
            for other in file.slots.iter().filter(|o| *o / SECTOR * SECTOR == start) {
                sector[(other % SECTOR) as usize] = dirent::DELETED;
            }
            self.disk.write_at(start, &sector)?;
            if file.in_one_sector() {
                break;
            }
            self.flush()?;
        }
        self.flush()
    }
}

/// Follows a chain; `next` reads a table's entry.
fn walk(
    first: u32,
    end: u32,
    mut next: impl FnMut(u32) -> Result<u32, FatError>,
) -> Result<Vec<u32>, FatError> {
    let mut chain = Vec::new();
    let mut cluster = first;
    while (2..end).contains(&cluster) && chain.len() < end as usize {
        chain.push(cluster);
        cluster = next(cluster)? & MASK;
        if cluster >= END {
            return Ok(chain);
        }
    }
    let why = format!("the chain of cluster {first} is broken at {cluster}");
    Err(FatError::Unusable(why))
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    (bytes.get(at..at + 2)).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    (bytes.get(at..at + 4)).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}
