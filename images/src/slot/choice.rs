//! What U-Boot's script goes by: which slot comes first, and what each has left.
//!
//! `slipway/slots-0.env` and `slipway/slots-1.env` on the firmware partition are copies of one
//! text in the format of `env import -c` (U-Boot, `env/common.c`, `include/env_internal.h`):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32 (IEEE) of all that follows, little-endian |
//! | 4 | n | `name=value` with a zero byte behind each |
//! | 4 + n | 508 - n | zeros |
//!
//! | name | value | |
//! |---|---|---|
//! | `first` | `a`, `b` | the slot that was staged last |
//! | `a`, `b` | `good` | never counted |
//! | | `3`, `2`, `1`, `0` | on trial, tries left |
//! | | `w` and hexadecimal bytes | a boot area that is being written |
//! | | `-` | nothing |
//!
//! A copy is one sector, so that it is written or not. Copy 0 counts if it holds together, else
//! copy 1. Both are written one after the other, a broken one first: one always holds together.

use super::{Slot, TRIES};

/// Where the copies are on the firmware partition.
pub const CHOICE_FILES: [&str; 2] = ["slipway/slots-0.env", "slipway/slots-1.env"];
/// Bytes of a copy.
pub const CHOICE_SIZE: usize = 512;

/// What a slot is to the script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing to boot.
    Nothing,
    /// Its boot area, of so many bytes, is being written.
    Writing(u32),
    /// On trial with so many tries left, at most [`TRIES`].
    Tries(u32),
    /// Good.
    Good,
}

impl Standing {
    fn parse(text: &str) -> Self {
        let writing = text.strip_prefix('w').map(|n| u32::from_str_radix(n, 16));
        match (text, writing, text.parse()) {
            ("good", ..) => Self::Good,
            (_, Some(Ok(size)), _) => Self::Writing(size),
            (_, _, Ok(left @ 0..=TRIES)) => Self::Tries(left),
            _ => Self::Nothing,
        }
    }

    fn text(self) -> String {
        match self {
            Self::Nothing => "-".into(),
            Self::Writing(size) => format!("w{size:x}"),
            Self::Tries(left) => left.to_string(),
            Self::Good => "good".into(),
        }
    }
}

/// All of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The slot that comes first, if it has anything left.
    pub first: Slot,
    /// Slot a.
    pub a: Standing,
    /// Slot b.
    pub b: Standing,
}

impl Choice {
    /// That of an image: slot a, good as it is, since there is nothing to fall back to.
    pub const SHIPPED: Self = Self {
        first: Slot::A,
        a: Standing::Good,
        b: Standing::Nothing,
    };
    /// What the script goes by if both copies are broken: whatever can be loaded.
    pub const LOST: Self = Self {
        b: Standing::Good,
        ..Self::SHIPPED
    };

    /// That of one slot.
    #[must_use]
    pub fn of(&self, slot: Slot) -> Standing {
        match slot {
            Slot::A => self.a,
            Slot::B => self.b,
        }
    }

    /// With another standing of one slot.
    #[must_use]
    pub fn with(self, slot: Slot, standing: Standing) -> Self {
        match slot {
            Slot::A => Self {
                a: standing,
                ..self
            },
            Slot::B => Self {
                b: standing,
                ..self
            },
        }
    }

    /// The slot that the script takes: the first that is good or has tries left, else the first
    /// whose tries are gone.
    #[must_use]
    pub fn next(&self) -> Option<Slot> {
        let order = [self.first, !self.first];
        let has = |wanted: fn(Standing) -> bool| order.into_iter().find(|s| wanted(self.of(*s)));
        has(|standing| matches!(standing, Standing::Good | Standing::Tries(1..)))
            .or_else(|| has(|standing| standing == Standing::Tries(0)))
    }

    /// A copy as it is written.
    #[must_use]
    pub fn encode(&self) -> [u8; CHOICE_SIZE] {
        let (a, b) = (self.a.text(), self.b.text());
        let text = format!("a={a}\0b={b}\0first={}\0", self.first);
        let mut copy = [0; CHOICE_SIZE];
        copy[4..4 + text.len()].copy_from_slice(text.as_bytes());
        let sum = crc32fast::hash(&copy[4..]);
        copy[..4].copy_from_slice(&sum.to_le_bytes());
        copy
    }

    /// Reads a copy; none if it doesn't hold together.
    #[must_use]
    pub fn decode(copy: &[u8; CHOICE_SIZE]) -> Option<Self> {
        let (sum, text) = copy.split_first_chunk()?;
        if crc32fast::hash(text) != u32::from_le_bytes(*sum) {
            return None;
        }
        let value = |name: &str| {
            let pairs = text.split(|byte| *byte == 0).map(str::from_utf8);
            let mut pairs = pairs.flatten().filter_map(|pair| pair.split_once('='));
            pairs.find_map(|(key, value)| (key == name).then_some(value))
        };
        let standing = |name| value(name).map_or(Standing::Nothing, Standing::parse);
        Some(Self {
            first: match value("first") {
                Some("b") => Slot::B,
                _ => Slot::A,
            },
            a: standing("a"),
            b: standing("b"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn standing() -> impl Strategy<Value = Standing> {
        prop_oneof![
            Just(Standing::Nothing),
            Just(Standing::Good),
            (0..=TRIES).prop_map(Standing::Tries),
            any::<u32>().prop_map(Standing::Writing),
        ]
    }

    #[test]
    fn the_order_is_that_of_the_script() {
        let next = |first, a, b| Choice { first, a, b }.next();
        let (good, gone) = (Standing::Good, Standing::Tries(0));
        assert_eq!(Choice::SHIPPED.next(), Some(Slot::A));
        assert_eq!(next(Slot::B, good, Standing::Tries(1)), Some(Slot::B));
        assert_eq!(next(Slot::B, good, gone), Some(Slot::A));
        assert_eq!(next(Slot::B, good, Standing::Writing(9)), Some(Slot::A));
        assert_eq!(next(Slot::B, gone, gone), Some(Slot::B));
        assert_eq!(next(Slot::B, gone, Standing::Nothing), Some(Slot::A));
        assert_eq!(next(Slot::A, Standing::Nothing, Standing::Nothing), None);
    }

    proptest! {
        #[test]
        fn a_copy_is_read_as_written_or_not_at_all(b: bool, a in standing(), other in standing(), at in 0..CHOICE_SIZE, bit in 0..8) {
            let first = if b { Slot::B } else { Slot::A };
            let choice = Choice { first, a, b: other };
            let mut copy = choice.encode();
            prop_assert_eq!(Choice::decode(&copy), Some(choice));
            copy[at] ^= 1_u8 << bit;
            prop_assert_eq!(Choice::decode(&copy), None);
        }

        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), CHOICE_SIZE - 4)) {
            let mut copy = [0; CHOICE_SIZE];
            copy[4..].copy_from_slice(&text);
            copy[..4].copy_from_slice(&crc32fast::hash(&text).to_le_bytes());
            prop_assert!(Choice::decode(&copy).is_some());
        }
    }
}
