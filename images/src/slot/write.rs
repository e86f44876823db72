//! Writing the slot that doesn't run: [`Inactive`] begins, [`Writing`] writes and finishes.
//!
//! While there is a [`Writing`], nothing of the slot can be booted, and its root partition
//! may be overwritten. The root is written by whoever holds it, to the partition named
//! [`Slot::root`]; only the boot payload goes through here. A writing that is broken off is
//! taken up again by [`Inactive::begin`] with the same [`Plan`].

use super::{BootMethod, Content, Slot, SlotError, Slots, State, Step, TRIES, Trial};

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Its version.
    pub version: String,
    /// Its release number.
    pub release: u64,
    /// Root hash of its root, in hexadecimal.
    pub root: String,
    /// Bytes of its boot payload: with systemd-boot a unified kernel image.
    pub payload: u32,
}

impl Plan {
    fn content(&self) -> Content {
        Content {
            version: Some(self.version.clone()),
            release: Some(self.release),
            root: Some(self.root.clone()),
            why: None,
        }
    }
}

/// Who makes this says: every digest of what was written, root and boot payload, was found
/// right, and the root partition was flushed (fsync(2)) after its last write.
#[derive(Debug, Clone, Copy)]
pub struct Verified(());

impl Verified {
    /// See [`Verified`].
    #[must_use]
    pub fn digests_right_and_root_flushed() -> Self {
        Self(())
    }
}

/// A slot that has been staged: the next boot takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Staged {
    /// Which one.
    pub slot: Slot,
    /// Boots that it gets.
    pub tries: u32,
}

/// The slot that doesn't run, while the one that does is good.
#[derive(Debug)]
pub struct Inactive<'a, B> {
    slots: &'a mut Slots<B>,
    slot: Slot,
}

impl<'a, B: BootMethod> Inactive<'a, B> {
    pub(super) fn new(slots: &'a mut Slots<B>) -> Self {
        let slot = !slots.booted;
        Self { slots, slot }
    }

    /// Which one it is.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Whether the same was being written here, so that blocks of it may be there.
    #[must_use]
    pub fn continues(&self, plan: &Plan) -> bool {
        self.slots.state(self.slot) == State::Writing
            && self.slots.found.of(self.slot).writing == Some(plan.payload)
            && *self.slots.record.content(self.slot) == plan.content()
    }

    /// Makes the slot unbootable and has room for the boot payload. When it returns the
    /// slot's root partition may be written.
    ///
    /// # Errors
    /// [`SlotError::Same`] if this root runs: two roots that look the same would be taken for
    /// each other; [`SlotError::Boot`], such as when there is no room.
    pub fn begin(self, plan: &Plan) -> Result<Writing<'a, B>, SlotError> {
        let running = self.slots.record.content(self.slots.booted);
        if running.root.as_deref() == Some(&plan.root)
            || running.version.as_deref() == Some(&plan.version)
        {
            return Err(SlotError::Same {
                version: plan.version.clone(),
                slot: self.slots.booted,
            });
        }
        let continues = self.continues(plan);
        let Self { slots, slot } = self;
        slots.step(slot, Step::Begin)?;
        if !continues {
            slots.boot.clear(slot)?;
            slots.record.trial = None;
            *slots.record.content_mut(slot) = plan.content();
            slots.save()?;
            slots.boot.reserve(slot, plan.payload)?;
        }
        slots.look()?;
        Ok(Writing { slots, slot })
    }
}

/// A slot that is being written.
#[derive(Debug)]
pub struct Writing<'a, B> {
    slots: &'a mut Slots<B>,
    slot: Slot,
}

impl<B: BootMethod> Writing<'_, B> {
    /// Which one it is.
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Writes a part of the boot payload.
    ///
    /// # Errors
    /// [`SlotError::Boot`], also beyond its size.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SlotError> {
        Ok(self.slots.boot.write(self.slot, offset, bytes)?)
    }

    /// Reads a part of the boot payload: what an earlier writing has left, or to verify.
    ///
    /// # Errors
    /// [`SlotError::Boot`], also beyond its size.
    pub fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SlotError> {
        Ok(self.slots.boot.read(self.slot, offset, buffer)?)
    }

    /// Reads a part of the boot payload of the slot that runs, much of which may be the same.
    ///
    /// # Errors
    /// [`SlotError::Boot`], also beyond its size.
    pub fn read_running(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SlotError> {
        let running = self.slots.booted;
        Ok(self.slots.boot.read(running, offset, buffer)?)
    }

    /// Makes the slot the one that the next boots try.
    ///
    /// # Errors
    /// [`SlotError::Boot`]; then it isn't bootable.
    pub fn finish(self, _: Verified) -> Result<Staged, SlotError> {
        let Self { slots, slot } = self;
        slots.step(slot, Step::Stage)?;
        // Before it can be booted, so that no try of it goes unrecorded.
        slots.record.trial = Some(Trial::new(slot));
        slots.save()?;
        slots.boot.stage(slot, TRIES)?;
        slots.look()?;
        Ok(Staged { slot, tries: TRIES })
    }

    /// Gives up what was written.
    ///
    /// # Errors
    /// [`SlotError::Boot`].
    pub fn abandon(self) -> Result<(), SlotError> {
        let Self { slots, slot } = self;
        slots.step(slot, Step::Abandon)?;
        slots.boot.clear(slot)?;
        *slots.record.content_mut(slot) = Content::default();
        slots.save()?;
        slots.look()
    }
}
