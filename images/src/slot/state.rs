//! The states of a slot, and the steps between them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Slot;

/// What a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing that could be booted, and nothing on its way.
    Empty,
    /// A version is being written. It can't be booted.
    Writing,
    /// A version is whole and has tries; it is booted before the other slot.
    Trial,
    /// A version has proved itself, or came with the image.
    Good,
    /// A version has used up its tries; it is booted only if there is nothing else.
    Bad,
}

/// What leads from one state to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its boot entry is deleted, so that it may be written.
    Begin,
    /// It was written and verified, and gets a boot entry with tries.
    Stage,
    /// What was written is given up.
    Abandon,
    /// A try that did not fail is given back.
    GiveBack,
    /// A try has failed.
    Fail,
    /// Its tries are gone.
    Exhaust,
    /// It has proved itself.
    Commit,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Empty,
        Self::Writing,
        Self::Trial,
        Self::Good,
        Self::Bad,
    ];

    /// In one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Writing => "writing",
            Self::Trial => "trial",
            Self::Good => "good",
            Self::Bad => "bad",
        }
    }

    /// The state that a step leads to: the table of the [module](super). `booted` says
    /// whether it is the slot that runs.
    ///
    /// # Errors
    /// [`Refused`] for a step that is not in it.
    pub fn after(self, slot: Slot, booted: bool, step: Step) -> Result<Self, Refused> {
        match (self, step, booted) {
            (_, Step::Begin, false) => Ok(Self::Writing),
            (Self::Writing, Step::Stage, false) => Ok(Self::Trial),
            (Self::Writing, Step::Abandon, false) => Ok(Self::Empty),
            (Self::Trial, Step::GiveBack, _) | (Self::Trial, Step::Fail, true) => Ok(Self::Trial),
            (Self::Trial, Step::Exhaust, false) => Ok(Self::Bad),
            (Self::Trial | Self::Good, Step::Commit, true) => Ok(Self::Good),
            _ => Err(Refused {
                slot,
                from: self,
                step,
                booted,
            }),
        }
    }
}

/// A step that is not in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// Which slot.
    pub slot: Slot,
    /// What it is.
    pub from: State,
    /// What was asked for.
    pub step: Step,
    /// Whether it is the one that runs.
    pub booted: bool,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = match self.step {
            Step::Begin => "begin writing",
            Step::Stage => "stage",
            Step::Abandon => "abandon",
            Step::GiveBack => "give a try back to",
            Step::Fail => "fail",
            Step::Exhaust => "condemn",
            Step::Commit => "commit",
        };
        let runs = if self.booted { "runs" } else { "doesn't run" };
        let (slot, from) = (self.slot, self.from.word());
        write!(f, "can't {step} slot {slot}: it is `{from}` and {runs}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEPS: [Step; 7] = [
        Step::Begin,
        Step::Stage,
        Step::Abandon,
        Step::GiveBack,
        Step::Fail,
        Step::Exhaust,
        Step::Commit,
    ];

    #[test]
    fn only_the_tables_steps_are_taken() {
        // Rows: state; columns: steps as above. Lower case: only while it doesn't run; upper
        // case: only while it runs; `=`: either; `.`: never.
        let table = [
            (State::Empty, "w......"),
            (State::Writing, "wta...."),
            (State::Trial, "w..=TbG"),
            (State::Good, "w.....G"),
            (State::Bad, "w......"),
        ];
        for (state, row) in table {
            for (step, cell) in STEPS.iter().zip(row.chars()) {
                for booted in [false, true] {
                    let got = state.after(Slot::B, booted, *step);
                    let legal = match cell {
                        '.' => false,
                        '=' => true,
                        c => c.is_uppercase() == booted,
                    };
                    assert_eq!(got.is_ok(), legal, "{state:?} {step:?} booted={booted}");
                }
            }
        }
        let refused = State::Good.after(Slot::A, true, Step::Begin).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "can't begin writing slot a: it is `good` and runs"
        );
    }
}
