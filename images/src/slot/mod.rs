//! The two slots of a node: what state each is in, and the only ways from one to another.
//!
//! A slot is one unit of kernel, initrd and root. [`Slots`] is loaded from the boot mechanism
//! ([`BootMethod`]) with [`Slots::load`]; every method that changes something checks the
//! step first ([`State::after`]), and what it does is on the medium when it returns. Which
//! slot runs is known from the partition that the root is on, not from the loader.
//!
//! | from | begin | stage | abandon | give back | fail | exhaust | commit |
//! |---|---|---|---|---|---|---|---|
//! | empty | writing | | | | | | |
//! | writing | writing | trial | empty | | | | |
//! | trial | writing | | | trial | trial | bad | good |
//! | good | writing | | | | | | good |
//! | bad | writing | | | | | | |
//!
//! Begin, stage, abandon and exhaust are for the slot that doesn't run; fail and commit for
//! the one that does; a try is given back to either. Writing is begun only while the slot
//! that runs is good ([`Slots::inactive`]): it is what one falls back to. Where names of
//! files (what the loader sees) and the record disagree, names win:
//!
//! | loader sees | payload being written | record | state |
//! |---|---|---|---|
//! | an entry without a counter | | | good |
//! | an entry with tries left, or one that runs | | | trial |
//! | an entry without tries, and another slot runs | | trial, try under way or not begun | trial until [`Slots::arrive`] has looked |
//! | an entry without tries, and another slot runs | | else | bad |
//! | nothing | yes | | writing |
//! | nothing | no | | empty |
//!
//! The loader takes a try when it boots a slot on trial. What becomes of it is settled once
//! for each boot by [`Slots::arrive`], then by [`Slots::commit`], [`Slots::fail`] or
//! [`Slots::leave`]:
//!
//! | the slot on trial | its last try, by the record | at this boot |
//! |---|---|---|
//! | runs | none, failed, or given back | a try is under way |
//! | runs | under way since another boot: the power was cut | given back, at most [`CUTS`] times; a try is under way |
//! | runs, good by its name | any | committed before a cut: the record follows |
//! | doesn't run, has tries | any | it waits for the next boot |
//! | doesn't run, none left | under way: the power was cut | given back, at most [`CUTS`] times; waits for the next boot |
//! | doesn't run, none left | none, failed, or given back often enough | bad, and its version is remembered |
//! | has no entry | any | the trial is over: empty |
//!
//! A reboot in order gives the try back before, at most [`RESTARTS`] times. The record is
//! written before the name is changed, so a cut between loses a try and never makes one:
//! a slot on trial is booted at most [`TRIES`] + [`CUTS`] + [`RESTARTS`] times.

mod boot;
mod choice;
mod dirent;
mod disk;
pub mod fat;
pub mod name;
mod record;
mod record_file;
mod state;
mod status;
mod systemd_boot;
mod uboot;
mod write;

pub use boot::{BootError, BootMethod, Bootable, Found, Present};
pub use choice::{CHOICE_FILES, CHOICE_SIZE, Choice, Standing};
pub use disk::Disk;
pub use fat::FatError;
pub use record::{BadVersion, Content, RECORD_FILE, RECORD_SIZE, Record, Trial};
pub use state::{Refused, State, Step};
pub use status::{SlotStatus, SlotsStatus};
pub use systemd_boot::{DIRECTORY, SystemdBoot, shipped_name};
pub use uboot::{Area, UBOOT_RECORD_FILE, UBoot};
pub use write::{Inactive, Plan, Staged, Verified, Writing};

pub use crate::layout::Slot;

/// What the node says of its slots to those who show it, below its root: [`SlotsStatus`], written
/// whole by `init`, and by `noded` after it has staged one.
pub const STATUS_FILE: &str = "run/slipway/slots.json";

/// Boots that a new version gets to prove itself.
pub const TRIES: u32 = 3;
/// Tries that are given back to one trial after power cuts. A crash of a new kernel looks the
/// same, so there are few.
pub const CUTS: u32 = 2;
/// Tries that are given back to one trial at reboots in order.
pub const RESTARTS: u32 = 10;

/// Why nothing of a failed slot was heard.
const SILENT: &str = "it didn't get far enough to say why";

/// Why slots can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// The boot mechanism can't.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The step is not in the table.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The slot that runs has still to prove itself.
    #[error(
        "slot {0} runs on trial: the other one is what it falls back to; wait until it is committed"
    )]
    OnTrial(Slot),
    /// The try has failed already.
    #[error("slot {slot} can't be committed: its try has failed ({why})")]
    Failed {
        /// Which slot.
        slot: Slot,
        /// Why.
        why: String,
    },
    /// The same root is in the slot that runs.
    #[error("version {version} runs already, in slot {slot}")]
    Same {
        /// The version.
        version: String,
        /// Where it runs.
        slot: Slot,
    },
}

impl From<FatError> for SlotError {
    fn from(error: FatError) -> Self {
        Self::Boot(error.into())
    }
}

/// How a boot ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving<'a> {
    /// In order, because somebody asked for it.
    InOrder,
    /// Because something has failed.
    Failed(&'a str),
}

/// The slots of a node.
#[derive(Debug)]
pub struct Slots<B> {
    boot: B,
    booted: Slot,
    found: Found,
    record: Record,
}

impl<B: BootMethod> Slots<B> {
    /// Reads both slots. `booted` is the one that the root is on.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn load(mut boot: B, booted: Slot) -> Result<Self, SlotError> {
        Ok(Self {
            found: boot.status()?,
            record: boot.record()?,
            boot,
            booted,
        })
    }

    /// The slot that runs.
    #[must_use]
    pub fn booted(&self) -> Slot {
        self.booted
    }

    /// The boot mechanism below.
    pub fn into_boot(self) -> B {
        self.boot
    }

    /// The state of a slot.
    #[must_use]
    pub fn state(&self, slot: Slot) -> State {
        let present = self.found.of(slot);
        match present.bootable.map(|b| b.tries) {
            Some(None) => State::Good,
            Some(Some(tries)) if tries.left > 0 || slot == self.booted => State::Trial,
            // Not settled yet.
            Some(Some(_)) if self.trial_of(slot).is_some() => State::Trial,
            Some(Some(_)) => State::Bad,
            None if present.writing.is_some() => State::Writing,
            None => State::Empty,
        }
    }

    /// Both, for those who show it.
    #[must_use]
    pub fn status(&self) -> SlotsStatus {
        let first = |slot: &Slot| self.found.of(*slot).bootable.is_some_and(|b| b.first);
        SlotsStatus {
            booted: self.booted,
            next: Slot::BOTH.into_iter().find(first),
            a: self.slot_status(Slot::A),
            b: self.slot_status(Slot::B),
            bad_versions: self.record.bad.clone(),
        }
    }

    fn slot_status(&self, slot: Slot) -> SlotStatus {
        let state = self.state(slot);
        let content = match state {
            State::Empty => Content::default(),
            _ => self.record.content(slot).clone(),
        };
        let tries = self.found.of(slot).bootable.and_then(|b| b.tries);
        let failed = self.trial_of(slot).and_then(|trial| trial.why.clone());
        SlotStatus {
            state,
            version: content.version,
            release: content.release,
            root: content.root,
            tries_left: tries.filter(|_| state == State::Trial).map(|t| t.left),
            why: match state {
                State::Trial => failed,
                State::Bad => content.why,
                _ => None,
            },
        }
    }

    /// Whether a version has failed here, and why.
    #[must_use]
    pub fn why_bad(&self, version: &str) -> Option<&str> {
        self.record.why_bad(version)
    }

    fn trial_of(&self, slot: Slot) -> Option<&Trial> {
        (self.record.trial.as_ref()).filter(|trial| trial.slot == slot)
    }

    /// Without a record the loader counts all the same.
    fn trial_or_new(&self, slot: Slot) -> Trial {
        let known = self.trial_of(slot).cloned();
        known.unwrap_or_else(|| Trial::new(slot))
    }

    fn step(&self, slot: Slot, step: Step) -> Result<State, Refused> {
        self.state(slot).after(slot, slot == self.booted, step)
    }

    fn save(&mut self) -> Result<(), SlotError> {
        Ok(self.boot.set_record(&self.record)?)
    }

    fn look(&mut self) -> Result<(), SlotError> {
        self.found = self.boot.status()?;
        Ok(())
    }

    /// Settles what the last boot has left, by the table of the [module](self). `boot` is
    /// this boot's id, `version` and `root` what runs. A second call in the same boot changes
    /// nothing.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn arrive(&mut self, boot: &str, version: &str, root: &str) -> Result<(), SlotError> {
        let before = self.record.clone();
        let running = self.record.content_mut(self.booted);
        if running.version.as_deref() != Some(version) {
            // An image has just been flashed, or the record is lost.
            *running = Content {
                version: Some(version.to_owned()),
                root: Some(root.to_owned()),
                ..Content::default()
            };
        }
        let gift = match self.state(self.booted) {
            State::Trial => self.arrive_on_trial(boot),
            _ => self.arrive_beside(),
        };
        if self.record != before {
            self.save()?;
        }
        if let Some(slot) = gift {
            self.step(slot, Step::GiveBack)?;
            self.boot.give_back(slot)?;
            self.look()?;
        }
        Ok(())
    }

    /// The slot that runs is on trial. Gives the slot that gets a try back.
    fn arrive_on_trial(&mut self, boot: &str) -> Option<Slot> {
        let slot = self.booted;
        let mut trial = self.trial_or_new(slot);
        let mut gift = None;
        if trial.under_way.as_deref() != Some(boot) {
            if trial.under_way.is_some() && trial.cuts < CUTS {
                trial.cuts += 1;
                gift = Some(slot);
            }
            trial.under_way = Some(boot.to_owned());
        }
        self.record.trial = Some(trial);
        gift
    }

    /// The slot that runs is good, and perhaps has been fallen back to.
    fn arrive_beside(&mut self) -> Option<Slot> {
        let slot = !self.booted;
        let trial = self.record.trial.clone()?;
        if trial.slot != slot {
            // It runs and is good: its commit was cut before the record.
            self.record.trial = None;
            return None;
        }
        let tries = self.found.of(slot).bootable.map(|b| b.tries);
        match tries {
            Some(Some(tries)) if tries.left > 0 => None,
            Some(Some(_)) if trial.under_way.is_some() && trial.cuts < CUTS => {
                self.record.trial = Some(Trial {
                    under_way: None,
                    cuts: trial.cuts + 1,
                    ..trial
                });
                Some(slot)
            }
            Some(Some(_)) => {
                self.condemn(slot, trial.why.as_deref());
                None
            }
            // Committed, or nothing of it is left.
            _ => {
                self.record.trial = None;
                None
            }
        }
    }

    /// Its tries are gone.
    fn condemn(&mut self, slot: Slot, why: Option<&str>) {
        if self.step(slot, Step::Exhaust).is_err() {
            return;
        }
        let why = why.unwrap_or(SILENT).to_owned();
        self.record.trial = None;
        let content = self.record.content_mut(slot);
        content.why = Some(why.clone());
        if let Some(version) = content.version.clone() {
            self.record.remember(&version, &why);
        }
    }

    /// The slot that runs has proved itself. Good already, it stays so.
    ///
    /// # Errors
    /// [`SlotError::Failed`] after [`fail`](Self::fail), [`Refused`], [`BootError`].
    pub fn commit(&mut self) -> Result<(), SlotError> {
        let slot = self.booted;
        self.step(slot, Step::Commit)?;
        let trial = self.trial_of(slot);
        if let Some(Trial {
            under_way: None,
            why: Some(why),
            ..
        }) = trial
        {
            let why = why.clone();
            return Err(SlotError::Failed { slot, why });
        }
        self.boot.commit(slot)?;
        self.look()?;
        self.record.trial = None;
        self.record.content_mut(slot).why = None;
        if let Some(version) = self.record.content(slot).version.clone() {
            // Whoever has taken it once more was right to.
            self.record.bad.retain(|bad| bad.version != version);
        }
        self.save()
    }

    /// The try of the slot that runs has failed: it isn't given back any more.
    ///
    /// # Errors
    /// [`Refused`] if it isn't on trial, [`BootError`].
    pub fn fail(&mut self, why: &str) -> Result<(), SlotError> {
        let slot = self.booted;
        self.step(slot, Step::Fail)?;
        let trial = self.trial_or_new(slot);
        self.record.trial = Some(Trial {
            under_way: None,
            why: Some(why.to_owned()),
            ..trial
        });
        self.save()
    }

    /// The machine ends. A try that has not failed is given back when it ends in order.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn leave(&mut self, how: Leaving<'_>) -> Result<(), SlotError> {
        let slot = self.booted;
        let Some(trial) = self.trial_of(slot).cloned() else {
            return Ok(());
        };
        if self.state(slot) != State::Trial || trial.under_way.is_none() {
            return Ok(());
        }
        match how {
            Leaving::Failed(why) => self.fail(why),
            Leaving::InOrder => {
                let given = trial.restarts < RESTARTS;
                self.record.trial = Some(Trial {
                    under_way: None,
                    restarts: trial.restarts + u32::from(given),
                    ..trial
                });
                self.save()?;
                if given {
                    self.step(slot, Step::GiveBack)?;
                    self.boot.give_back(slot)?;
                    self.look()?;
                }
                Ok(())
            }
        }
    }

    /// Bytes that the boot partition has for the boot payload of the slot that doesn't run, once
    /// what it has now is away.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn boot_room(&mut self) -> Result<u64, SlotError> {
        Ok(self.boot.room(!self.booted)?)
    }

    /// The slot that may be written.
    ///
    /// # Errors
    /// [`SlotError::OnTrial`] while the one that runs may still fall back to it;
    /// [`BootError::Nothing`] if that has no boot entry itself; [`Refused`].
    pub fn inactive(&mut self) -> Result<Inactive<'_, B>, SlotError> {
        match self.state(self.booted) {
            State::Good => {}
            State::Trial => return Err(SlotError::OnTrial(self.booted)),
            // Started by other means: the loader would have nothing to fall back to.
            _ => {
                return Err(SlotError::Boot(BootError::Nothing {
                    slot: self.booted,
                    missing: "no boot entry and runs all the same",
                }));
            }
        }
        self.step(!self.booted, Step::Begin)?;
        Ok(Inactive::new(self))
    }
}
