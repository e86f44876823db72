//! Names of a slot's files in `EFI/Linux` on the boot partition.
//!
//! | name | what |
//! |---|---|
//! | `slipway-7-b.efi` | slot b's unified kernel image, the seventh that was staged; good |
//! | `slipway-8-a+3.efi`, `slipway-8-a+2-1.efi` | on trial: 3 tries left; 2 left, 1 done |
//! | `slipway-8-a+0-3.efi` | the tries are gone |
//! | `slipway-8-a.new` | being written; the loader lists only `.efi` |
//!
//! The counter is systemd-boot's. The number makes the order: the loader sorts entries whose
//! tries are gone behind all others, then by what the image's `os-release` says, which the
//! builder makes the same for all of ours, then by name, the higher number first. So the slot
//! that was staged last is tried first, whatever its version.

use std::cmp::Reverse;
use std::fmt;

use super::Slot;

/// How often a slot on trial may still be booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tries {
    /// Tries left.
    pub left: u32,
    /// Tries done.
    pub done: u32,
}

impl Tries {
    /// As many, none done.
    #[must_use]
    pub const fn new(left: u32) -> Self {
        Self { left, done: 0 }
    }

    /// With one given back.
    #[must_use]
    pub const fn given_back(self) -> Self {
        Self {
            left: self.left.saturating_add(1),
            done: self.done.saturating_sub(1),
        }
    }
}

/// What a file of a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Being written.
    New,
    /// To be booted; without tries it is good.
    Entry(Option<Tries>),
}

/// A name, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// Which slot's.
    pub slot: Slot,
    /// Its place in the order: higher is staged later.
    pub number: u32,
    /// What it is.
    pub kind: Kind,
}

impl Name {
    /// Takes a name apart; none if it isn't one of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let rest = name.strip_prefix("slipway-")?;
        let (number, rest) = rest.split_once('-')?;
        let slot = Slot::BOTH
            .into_iter()
            .find(|slot| rest.starts_with(slot.letter()))?;
        let kind = match &rest[1..] {
            ".new" => Kind::New,
            ".efi" => Kind::Entry(None),
            counter => {
                let counter = counter.strip_prefix('+')?.strip_suffix(".efi")?;
                let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
                Kind::Entry(Some(Tries {
                    left: digits(left)?,
                    done: digits(done)?,
                }))
            }
        };
        Some(Self {
            slot,
            number: digits(number)?,
            kind,
        })
    }

    /// In which order the loader takes entries: the least first.
    #[must_use]
    pub fn rank(&self) -> (bool, Reverse<u32>, Reverse<Slot>) {
        let used_up = !matches!(self.kind, Kind::Entry(None | Some(Tries { left: 1.., .. })));
        (used_up, Reverse(self.number), Reverse(self.slot))
    }

    /// The same file as another kind.
    #[must_use]
    pub fn with(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slipway-{}-{}", self.number, self.slot)?;
        match self.kind {
            Kind::New => f.write_str(".new"),
            Kind::Entry(None) => f.write_str(".efi"),
            Kind::Entry(Some(Tries { left, done: 0 })) => write!(f, "+{left}.efi"),
            Kind::Entry(Some(Tries { left, done })) => write!(f, "+{left}-{done}.efi"),
        }
    }
}

/// A number in decimal digits alone, as the loader reads it, at most i32's.
fn digits(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number: u32 = plain.then(|| text.parse().ok())??;
    i32::try_from(number).is_ok().then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_as_the_loader_counts_them() {
        let name = |text| Name::parse(text).unwrap();
        let tries = |left, done| Kind::Entry(Some(Tries { left, done }));
        assert_eq!(name("slipway-7-b.efi").kind, Kind::Entry(None));
        assert_eq!(name("SLIPWAY-8-A+3.EFI").kind, tries(3, 0));
        assert_eq!(name("slipway-8-a+0-3.efi").kind, tries(0, 3));
        assert_eq!(name("slipway-12-a.new").kind, Kind::New);
        for other in [
            "slipway-0.1.0.efi",
            "slipway-7-c.efi",
            "slipway-7-b+.efi",
            "slipway-7-b+3-.efi",
            "slipway-7-b+-3.efi",
            "slipway-+7-b.efi",
            "slipway-7-b+99999999999.efi",
            "debian-7-b.efi",
            "slipway-7-",
            "slipway-7-ä.efi",
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_last_staged_is_first_and_the_used_up_last() {
        let mut names = [
            "slipway-9-b+0-3.efi",
            "slipway-8-a.efi",
            "slipway-10-b+1-2.efi",
        ]
        .map(|n| Name::parse(n).unwrap());
        names.sort_by_key(Name::rank);
        assert_eq!(names.map(|n| n.number), [10, 8, 9]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number in 0..=i32::MAX as u32, b: bool, left in 0..9u32, done in 0..9u32, kind in 0..3) {
            let kind = match kind { 0 => Kind::New, 1 => Kind::Entry(None), _ => Kind::Entry(Some(Tries { left, done })) };
            let name = Name { slot: if b { Slot::B } else { Slot::A }, number, kind };
            prop_assert_eq!(Name::parse(&name.to_string()), Some(name));
        }

        #[test]
        fn never_panics(text in "\\PC*") {
            let found = [Name::parse(&text), Name::parse(&format!("slipway-1-{text}.efi"))];
            prop_assert!(found.into_iter().flatten().count() <= 2);
        }
    }
}
