//! systemd-boot, with boot counting.
//!
//! The loader lists `EFI/Linux/*.efi`, takes the first in its order that has tries left or
//! never counts them, and before it starts it renames `+3` to `+2-1` (its documentation,
//! "Automatic Boot Assessment"; names are [`Name`]'s). Ours are the three other renames:
//! `.new` to `+3` stages, `+1-2` to `+2-1` gives back, `+2-1` to nothing commits. Each goes
//! towards a slot that is booted sooner or longer, so of two names that a cut has left for
//! one file, the one that is nearer to good is meant.

use super::Disk;
use super::Slot;
use super::boot::{BootError, BootMethod, Bootable, Found};
use super::fat::{Entry, FatError, Volume};
use super::name::{Kind, Name, Tries};
use super::record::{RECORD_FILE, Record};
use super::record_file;

/// Where the loader looks for unified kernel images.
pub const DIRECTORY: &str = "EFI/Linux";

/// The name of the file that a shipped image has: slot a's, good as it is, since there is
/// nothing to fall back to.
#[must_use]
pub fn shipped_name() -> String {
    let name = Name {
        slot: Slot::A,
        number: 1,
        kind: Kind::Entry(None),
    };
    name.to_string()
}

/// The boot partition, as systemd-boot reads it.
#[derive(Debug)]
pub struct SystemdBoot<D> {
    volume: Volume<D>,
}

/// A file of ours.
type File = (Name, Entry);

impl<D: Disk> SystemdBoot<D> {
    /// Takes a boot partition.
    ///
    /// # Errors
    /// [`FatError`] if it is no FAT32.
    pub fn open(disk: D) -> Result<Self, FatError> {
        Ok(Self {
            volume: Volume::open(disk)?,
        })
    }

    /// The disk below.
    pub fn into_disk(self) -> D {
        self.volume.into_disk()
    }

    fn files(&mut self) -> Result<Vec<File>, FatError> {
        let listed = match self.volume.list(DIRECTORY) {
            Err(FatError::Missing(_)) => Vec::new(),
            listed => listed?,
        };
        let ours = |e: Entry| Some((Name::parse(&e.name)?, e));
        let files = listed.into_iter().filter(|e| !e.is_dir);
        Ok(files.filter_map(ours).collect())
    }

    /// What the loader takes of a slot, after the rest of a cut rename is out of the way.
    fn entry(&mut self, slot: Slot) -> Result<File, BootError> {
        let (name, file) = best(&self.files()?, slot).ok_or(BootError::Nothing {
            slot,
            missing: "no boot entry",
        })?;
        self.drop_twins(&file)?;
        Ok((name, file))
    }

    /// Takes away the other names of a file.
    fn drop_twins(&mut self, file: &Entry) -> Result<(), FatError> {
        for (_, twin) in self.files()? {
            if twin.first_cluster == file.first_cluster && twin != *file {
                self.volume.forget(&twin)?;
            }
        }
        Ok(())
    }

    fn being_written(&mut self, slot: Slot) -> Result<File, BootError> {
        let is_it = |(name, _): &File| name.slot == slot && name.kind == Kind::New;
        let found = self.files()?.into_iter().find(is_it);
        found.ok_or(BootError::Nothing {
            slot,
            missing: "no payload that is being written",
        })
    }

    fn rename(&mut self, file: &File, kind: Kind) -> Result<(), BootError> {
        let name = file.0.with(kind).to_string();
        self.volume.rename(DIRECTORY, &file.1, &name)?;
        Ok(())
    }
}

/// The file that the loader takes first of a slot's.
fn best(files: &[File], slot: Slot) -> Option<File> {
    let entries = files.iter().filter(|(name, _)| name.slot == slot);
    let nearness = |name: &Name| match name.kind {
        Kind::Entry(None) => Some(u32::MAX),
        Kind::Entry(Some(Tries { left, .. })) => Some(left),
        Kind::New => None,
    };
    entries
        .filter(|(name, _)| name.kind != Kind::New)
        .min_by_key(|(name, _)| (name.rank(), std::cmp::Reverse(nearness(name))))
        .cloned()
}

impl<D: Disk> BootMethod for SystemdBoot<D> {
    fn status(&mut self) -> Result<Found, BootError> {
        let files = self.files()?;
        let mut found = Found::default();
        let first = Slot::BOTH
            .into_iter()
            .filter_map(|slot| best(&files, slot))
            .min_by_key(|(name, _)| name.rank())
            .map(|(name, _)| name.slot);
        for slot in Slot::BOTH {
            let present = found.of_mut(slot);
            present.bootable = best(&files, slot).map(|(name, _)| Bootable {
                tries: match name.kind {
                    Kind::Entry(tries) => tries,
                    Kind::New => None,
                },
                first: first == Some(slot),
            });
            let new = |(name, _): &&File| name.slot == slot && name.kind == Kind::New;
            let new = files.iter().find(new);
            present.writing = new.map(|(_, entry)| entry.size);
        }
        Ok(found)
    }

    fn clear(&mut self, slot: Slot) -> Result<(), BootError> {
        while let Some((_, file)) = (self.files()?.into_iter()).find(|(name, _)| name.slot == slot)
        {
            self.volume.remove(DIRECTORY, &file)?;
        }
        Ok(())
    }

    fn room(&mut self, slot: Slot) -> Result<u64, BootError> {
        let mut own: Vec<Entry> = Vec::new();
        for (name, file) in self.files()? {
            let twin = |other: &Entry| other.first_cluster == file.first_cluster;
            if name.slot == slot && !own.iter().any(twin) {
                own.push(file);
            }
        }
        Ok(self.volume.room(&own)?)
    }

    fn reserve(&mut self, slot: Slot, size: u32) -> Result<(), BootError> {
        match self.being_written(slot) {
            Ok((_, file)) if file.size == size => return Ok(()),
            Ok((_, file)) => self.volume.remove(DIRECTORY, &file)?,
            Err(BootError::Nothing { .. }) => {}
            Err(error) => return Err(error),
        }
        self.volume.tidy()?;
        let last = (self.files()?.iter()).map(|(name, _)| name.number).max();
        let name = Name {
            slot,
            number: last.unwrap_or(0).saturating_add(1),
            kind: Kind::New,
        };
        self.volume.create(&format!("{DIRECTORY}/{name}"), size)?;
        Ok(())
    }

    fn write(&mut self, slot: Slot, offset: u64, bytes: &[u8]) -> Result<(), BootError> {
        let (_, file) = self.being_written(slot)?;
        Ok(self.volume.write(&file, offset, bytes)?)
    }

    fn read(&mut self, slot: Slot, offset: u64, buffer: &mut [u8]) -> Result<(), BootError> {
        let (_, file) = match self.being_written(slot) {
            Err(BootError::Nothing { .. }) => self.entry(slot)?,
            found => found?,
        };
        Ok(self.volume.read(&file, offset, buffer)?)
    }

    fn stage(&mut self, slot: Slot, tries: u32) -> Result<(), BootError> {
        let file = self.being_written(slot)?;
        self.volume.flush()?;
        self.rename(&file, Kind::Entry(Some(Tries::new(tries))))
    }

    fn give_back(&mut self, slot: Slot) -> Result<(), BootError> {
        let file = self.entry(slot)?;
        match file.0.kind {
            Kind::Entry(Some(tries)) => self.rename(&file, Kind::Entry(Some(tries.given_back()))),
            _ => Ok(()),
        }
    }

    fn commit(&mut self, slot: Slot) -> Result<(), BootError> {
        let file = self.entry(slot)?;
        match file.0.kind {
            Kind::Entry(None) => Ok(()),
            _ => self.rename(&file, Kind::Entry(None)),
        }
    }

    fn record(&mut self) -> Result<Record, BootError> {
        Ok(record_file::read(&mut self.volume, RECORD_FILE)?)
    }

    fn set_record(&mut self, record: &Record) -> Result<(), BootError> {
        Ok(record_file::write(&mut self.volume, RECORD_FILE, record)?)
    }
}
