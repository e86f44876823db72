//! What a node says of its slots.

use serde::{Deserialize, Serialize};

use super::{BadVersion, Slot, State};

/// Both slots as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct SlotsStatus {
    /// The slot that runs.
    pub booted: Slot,
    /// The slot that the next boot takes.
    pub next: Option<Slot>,
    /// Slot a.
    pub a: SlotStatus,
    /// Slot b.
    pub b: SlotStatus,
    /// Versions that have failed, oldest first. A channel doesn't bring them again.
    pub bad_versions: Vec<BadVersion>,
}

impl SlotsStatus {
    /// That of one slot.
    #[must_use]
    pub fn of(&self, slot: Slot) -> &SlotStatus {
        match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }

    /// Whether the slot that runs has still to prove itself.
    #[must_use]
    pub fn on_trial(&self) -> bool {
        self.of(self.booted).state == State::Trial
    }
}

/// A slot as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct SlotStatus {
    /// Its state.
    pub state: State,
    /// The version in it; none if that isn't known.
    pub version: Option<String>,
    /// Its release number.
    pub release: Option<u64>,
    /// Root hash of its root, in hexadecimal.
    pub root: Option<String>,
    /// Boots that are left to a slot on trial, besides the one under way.
    pub tries_left: Option<u32>,
    /// Why it is bad, or why its last try failed.
    pub why: Option<String>,
}
