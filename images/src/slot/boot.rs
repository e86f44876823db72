//! What a boot mechanism has to be able to do.

use super::Slot;
use super::fat::FatError;
use super::name::Tries;
use super::record::Record;

/// What the loader finds of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bootable {
    /// Tries; none if it is good.
    pub tries: Option<Tries>,
    /// Whether the loader takes it before the other slot.
    pub first: bool,
}

/// What there is of a slot in the boot mechanism's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Present {
    /// What can be booted.
    pub bootable: Option<Bootable>,
    /// Bytes of a boot payload that is being written and can't be booted.
    pub writing: Option<u32>,
}

/// What both slots are to the loader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// Slot a.
    pub a: Present,
    /// Slot b.
    pub b: Present,
}

impl Found {
    /// That of one slot.
    #[must_use]
    pub fn of(&self, slot: Slot) -> Present {
        match slot {
            Slot::A => self.a,
            Slot::B => self.b,
        }
    }

    /// That of one slot, to be changed.
    pub(super) fn of_mut(&mut self, slot: Slot) -> &mut Present {
        match slot {
            Slot::A => &mut self.a,
            Slot::B => &mut self.b,
        }
    }
}

/// How a machine's loader is told which slot to boot. Whoever implements it promises two
/// things of every method: what it does is on the medium when it returns, and a power cut
/// within it leaves what was before or what is after.
///
/// The loader counts the tries; nothing here takes one away.
pub trait BootMethod {
    /// What the loader finds.
    ///
    /// # Errors
    /// [`BootError`].
    fn status(&mut self) -> Result<Found, BootError>;

    /// Takes everything of a slot away: it can't be booted any more.
    ///
    /// # Errors
    /// [`BootError`].
    fn clear(&mut self, slot: Slot) -> Result<(), BootError>;

    /// Bytes of the largest boot payload that could be [reserved](Self::reserve) for a slot once
    /// it is [cleared](Self::clear).
    ///
    /// # Errors
    /// [`BootError`].
    fn room(&mut self, slot: Slot) -> Result<u64, BootError>;

    /// Room for a slot's boot payload, which can't be booted yet. One of the same size that
    /// is being written already stays as it is.
    ///
    /// # Errors
    /// [`BootError`], such as when there is no room.
    fn reserve(&mut self, slot: Slot, size: u32) -> Result<(), BootError>;

    /// Writes a part of the reserved payload. On the medium after [`stage`](Self::stage).
    ///
    /// # Errors
    /// [`BootError`], also beyond its size.
    fn write(&mut self, slot: Slot, offset: u64, bytes: &[u8]) -> Result<(), BootError>;

    /// Reads a part of a slot's payload, of the one being written or the bootable one.
    ///
    /// # Errors
    /// [`BootError`], also beyond its size.
    fn read(&mut self, slot: Slot, offset: u64, buffer: &mut [u8]) -> Result<(), BootError>;

    /// Has all that was written on the medium, then makes the payload bootable, before the
    /// other slot and with so many tries.
    ///
    /// # Errors
    /// [`BootError`].
    fn stage(&mut self, slot: Slot, tries: u32) -> Result<(), BootError>;

    /// Gives a slot on trial one try back.
    ///
    /// # Errors
    /// [`BootError`].
    fn give_back(&mut self, slot: Slot) -> Result<(), BootError>;

    /// Makes a slot good: no more counting.
    ///
    /// # Errors
    /// [`BootError`].
    fn commit(&mut self, slot: Slot) -> Result<(), BootError>;

    /// The record beside it; an empty one if there is none that holds together.
    ///
    /// # Errors
    /// [`BootError`].
    fn record(&mut self) -> Result<Record, BootError>;

    /// Writes the record.
    ///
    /// # Errors
    /// [`BootError`].
    fn set_record(&mut self, record: &Record) -> Result<(), BootError>;
}

impl<B: BootMethod + ?Sized> BootMethod for Box<B> {
    fn status(&mut self) -> Result<Found, BootError> {
        (**self).status()
    }

    fn clear(&mut self, slot: Slot) -> Result<(), BootError> {
        (**self).clear(slot)
    }

    fn room(&mut self, slot: Slot) -> Result<u64, BootError> {
        (**self).room(slot)
    }

    fn reserve(&mut self, slot: Slot, size: u32) -> Result<(), BootError> {
        (**self).reserve(slot, size)
    }

    fn write(&mut self, slot: Slot, offset: u64, bytes: &[u8]) -> Result<(), BootError> {
        (**self).write(slot, offset, bytes)
    }

    fn read(&mut self, slot: Slot, offset: u64, buffer: &mut [u8]) -> Result<(), BootError> {
        (**self).read(slot, offset, buffer)
    }

    fn stage(&mut self, slot: Slot, tries: u32) -> Result<(), BootError> {
        (**self).stage(slot, tries)
    }

    fn give_back(&mut self, slot: Slot) -> Result<(), BootError> {
        (**self).give_back(slot)
    }

    fn commit(&mut self, slot: Slot) -> Result<(), BootError> {
        (**self).commit(slot)
    }

    fn record(&mut self) -> Result<Record, BootError> {
        (**self).record()
    }

    fn set_record(&mut self, record: &Record) -> Result<(), BootError> {
        (**self).set_record(record)
    }
}

/// Why a boot mechanism can't do what it should.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Its place is unusable, full or can't be read.
    #[error(transparent)]
    Fat(#[from] FatError),
    /// There is nothing of that slot to do it with.
    #[error("slot {slot} has {missing} on the boot partition")]
    Nothing {
        /// Which slot.
        slot: Slot,
        /// What is missing, beginning with `no`.
        missing: &'static str,
    },
    /// There are fewer bytes.
    #[error("the boot payload of slot {slot} has {limit} bytes, and more was asked for")]
    Beyond {
        /// Which slot.
        slot: Slot,
        /// How many there are.
        limit: u64,
    },
    /// Its boot area can't be read or written.
    #[error("the boot area of slot {slot}: {source}")]
    Area {
        /// Which slot.
        slot: Slot,
        /// Why.
        source: std::io::Error,
    },
}
