//! Where an entry goes in its directory: into one sector, always.

use super::dirent::{self, SLOT};
use super::table::Table;
use super::{Entry, FatError, SECTOR, Volume};
use crate::slot::Disk;

impl<D: Disk> Volume<D> {
    /// Writes a new entry into one sector.
    pub(super) fn insert(
        &mut self,
        directory: u32,
        name: &str,
        first: u32,
        size: u32,
    ) -> Result<Entry, FatError> {
        let others = self.entries(directory)?;
        let slots = self.encode(directory, &others, name, first, size)?;
        let (bytes, offsets) = self.raw_directory(directory)?;
        let at = match dirent::room(&bytes, slots.len()) {
            Some(room) => {
                // What was behind the directory's end until now, and is skipped, is deleted.
                if !room.skipped.is_empty() {
                    for slot in room.skipped {
                        let offset = self.slot_offset(&offsets, slot);
                        self.disk.write_at(offset, &[dirent::DELETED])?;
                    }
                    self.flush()?;
                }
                self.slot_offset(&offsets, room.slot)
            }
            None => self.extend(directory, &bytes, &offsets)?,
        };
        self.write_slots(at, &slots)?;
        self.flush()?;
        Ok(Entry {
            name: name.to_owned(),
            is_dir: false,
            first_cluster: first,
            size,
            slots: (0..slots.len()).map(|i| at + (i * SLOT) as u64).collect(),
        })
    }

    /// Adds an empty cluster to a directory, and gives its offset.
    fn extend(&mut self, directory: u32, bytes: &[u8], offsets: &[u64]) -> Result<u64, FatError> {
        let mut table = Table::read(self)?;
        let new = table.allocate(1)?[0];
        let offset = self.offset(new);
        self.disk
            .write_at(offset, &vec![0; usize::try_from(self.cluster).unwrap_or(0)])?;
        for slot in dirent::tail(bytes) {
            let offset = self.slot_offset(offsets, slot);
            self.disk.write_at(offset, &[dirent::DELETED])?;
        }
        table.write(self)?;
        self.flush()?;
        let last = self.chain(directory)?.last().copied().unwrap_or(directory);
        table.set(last, new);
        table.write(self)?;
        table.write_count(self)?;
        self.flush()?;
        Ok(offset)
    }

    pub(super) fn encode(
        &self,
        directory: u32,
        others: &[Entry],
        name: &str,
        first: u32,
        size: u32,
    ) -> Result<Vec<[u8; SLOT]>, FatError> {
        debug_assert!(self.holds(directory));
        // The same name for the same file is what a rename that was cut is repeated with.
        let another = |e: &Entry| first == 0 || e.first_cluster != first;
        let taken = |e: &Entry| e.name.eq_ignore_ascii_case(name) && another(e);
        if others.iter().any(taken) {
            return Err(FatError::Unusable(format!("there is a `{name}` already")));
        }
        let long: Vec<&str> = others.iter().map(|e| e.name.as_str()).collect();
        dirent::encode(name, &long, first, size)
            .ok_or_else(|| FatError::Unusable(format!("`{name}` can't be a file's name")))
    }

    pub(super) fn write_slots(&mut self, at: u64, slots: &[[u8; SLOT]]) -> Result<(), FatError> {
        // The whole sector, so that it is one write whatever lies between.
        let start = at / SECTOR * SECTOR;
        let mut sector = [0; SECTOR as usize];
        self.disk.read_at(start, &mut sector)?;
        let from = (at - start) as usize;
        sector[from..from + slots.len() * SLOT].copy_from_slice(&slots.concat());
        Ok(self.disk.write_at(start, &sector)?)
    }
}
