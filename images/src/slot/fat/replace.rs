//! Putting one file in another's place.

use super::super::{Disk, dirent};
use super::{Entry, FatError, SECTOR, Volume};

impl<D: Disk> Volume<D> {
    /// Gives `old` the content of `new`, a file beside it in `parent`, by one write of one
    /// sector; then `new` is gone, and what `old` was made of is free. Durable when it returns.
    /// A cut leaves `old` as it was or as it is to be, and may leave both names for one file,
    /// as one of a rename does.
    ///
    /// # Errors
    /// [`FatError::Unusable`] for a broken chain, [`FatError::Io`].
    pub fn replace(&mut self, parent: &str, old: &Entry, new: &Entry) -> Result<(), FatError> {
        let Some(short) = old.slots.last() else {
            return Err(FatError::Unusable(format!("{} has no name", old.name)));
        };
        let mut sector = [0; SECTOR as usize];
        let start = short / SECTOR * SECTOR;
        self.disk.read_at(start, &mut sector)?;
        let at = (short % SECTOR) as usize;
        dirent::lead_to(
            &mut sector[at..at + dirent::SLOT],
            new.first_cluster,
            new.size,
        );
        self.disk.write_at(start, &sector)?;
        self.flush()?;
        self.forget(new)?;
        self.free(parent, old.first_cluster)
    }
}
