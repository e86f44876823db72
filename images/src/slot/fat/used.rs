//! Which clusters files have, and which are lost or free.

use std::collections::BTreeSet;

use super::table::Table;
use super::{Entry, FatError, Volume};
use crate::slot::Disk;

/// Directories below directories.
const DEPTH: u32 = 16;

impl<D: Disk> Volume<D> {
    /// Frees clusters that no file has, and makes the tables equal. Where the volume isn't
    /// sound beyond what a cut of ours can leave, nothing is freed. Gives the number of
    /// clusters that were.
    ///
    /// # Errors
    /// [`FatError::Unusable`] when it isn't sound, [`FatError::Io`].
    pub fn tidy(&mut self) -> Result<usize, FatError> {
        let mut used = vec![false; self.end as usize];
        let root = self.root;
        self.mark(root, DEPTH, &mut used)?;
        let mut table = Table::read(self)?;
        let lost: Vec<u32> = (2..self.end)
            .filter(|c| !used[*c as usize] && table.is_taken(*c))
            .collect();
        let count = lost.len();
        table.free(lost);
        table.equalise(self)?;
        if !table.changed.is_empty() {
            table.write(self)?;
            table.write_count(self)?;
            self.flush()?;
        }
        Ok(count)
    }

    /// Bytes that a new file can have once [`tidy`](Self::tidy) was done and the files `without`
    /// are removed.
    ///
    /// # Errors
    /// [`FatError::Unusable`] when the volume isn't sound, [`FatError::Io`].
    pub fn room(&mut self, without: &[Entry]) -> Result<u64, FatError> {
        let mut used = vec![false; self.end as usize];
        let root = self.root;
        self.mark(root, DEPTH, &mut used)?;
        for file in without.iter().filter(|file| file.first_cluster != 0) {
            for cluster in self.chain(file.first_cluster)? {
                used[cluster as usize] = false;
            }
        }
        let table = Table::read(self)?;
        let free = (2..self.end).filter(|c| !used[*c as usize] && !table.is_bad(*c));
        Ok(free.count() as u64 * self.cluster)
    }

    fn mark(&mut self, first: u32, depth: u32, used: &mut [bool]) -> Result<(), FatError> {
        let unsound = |what: &str| FatError::Unusable(format!("{what} share clusters or loop"));
        if depth == 0 {
            return Err(unsound("directories"));
        }
        for cluster in self.chain(first)? {
            if std::mem::replace(&mut used[cluster as usize], true) {
                return Err(unsound("directories"));
            }
        }
        let mut twins = BTreeSet::new();
        for entry in self.entries(first)? {
            match entry.first_cluster {
                0 => {}
                child if entry.is_dir => self.mark(child, depth - 1, used)?,
                // Both names of a rename that was cut.
                child if !twins.insert(child) => {}
                child => {
                    for cluster in self.chain(child)? {
                        if std::mem::replace(&mut used[cluster as usize], true) {
                            return Err(unsound("files"));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
