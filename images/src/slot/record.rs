//! What names of files can't say of slots: `EFI/Linux/slipway.slots` on the boot partition.
//!
//! It is made with the image and never grows: two copies of 4096 bytes. A change is written
//! over the older copy and flushed, so a power cut leaves the other one. It lies there and
//! not with the data, so that a factory reset keeps it. Names win where both speak: whether
//! a slot can be booted is theirs alone.
//!
//! | offset in a copy | size | field |
//! |---|---|---|
//! | 0 | 8 | `SLIPSLOT` |
//! | 8 | 4 | version of the format: 1 |
//! | 12 | 4 | bytes of JSON |
//! | 16 | 8 | sequence number; the higher of two good copies counts |
//! | 24 | 4 | CRC-32 (IEEE) of the bytes before this and of the JSON |
//! | 28 | 4 | 0 |
//! | 32 | n | JSON of [`Record`]; unknown keys are ignored, as the other slot may be newer |
//!
//! Numbers are little-endian.

use serde::{Deserialize, Serialize};

use super::Slot;

/// Where it is on the boot partition.
pub const RECORD_FILE: &str = "EFI/Linux/slipway.slots";
/// Bytes of a copy.
pub const COPY: usize = 4096;
/// Bytes of the file.
pub const RECORD_SIZE: u32 = 2 * COPY as u32;
const MAGIC: &[u8; 8] = b"SLIPSLOT";
const FORMAT: u32 = 1;
const HEAD: usize = 32;
/// Bad versions that are remembered, the oldest forgotten first.
const BAD_VERSIONS: usize = 8;
/// Longest reason in bytes, and longest version.
const TEXT: usize = 160;

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Record {
    /// What is in slot a.
    pub a: Content,
    /// What is in slot b.
    pub b: Content,
    /// The trial under way.
    pub trial: Option<Trial>,
    /// Versions that have failed, oldest first.
    pub bad: Vec<BadVersion>,
}

/// What was written into a slot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Content {
    /// Its version; none if that isn't known.
    pub version: Option<String>,
    /// Its release number: higher is later.
    pub release: Option<u64>,
    /// Root hash of its root, in hexadecimal.
    pub root: Option<String>,
    /// Why it is bad.
    pub why: Option<String>,
}

/// How a trial goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Trial {
    /// Of which slot.
    pub slot: Slot,
    /// The boot whose try is under way and has not failed, by its id (proc(5), `boot_id`).
    #[serde(default)]
    pub under_way: Option<String>,
    /// Tries given back after the power was cut.
    #[serde(default)]
    pub cuts: u32,
    /// Tries given back at a reboot in order.
    #[serde(default)]
    pub restarts: u32,
    /// Why the last try failed.
    #[serde(default)]
    pub why: Option<String>,
}

impl Trial {
    /// One that begins.
    #[must_use]
    pub fn new(slot: Slot) -> Self {
        Self {
            slot,
            under_way: None,
            cuts: 0,
            restarts: 0,
            why: None,
        }
    }
}

/// A version that has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BadVersion {
    /// Its version.
    pub version: String,
    /// What happened, in a line.
    pub why: String,
}

impl Record {
    /// What is in a slot.
    #[must_use]
    pub fn content(&self, slot: Slot) -> &Content {
        match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }

    /// What is in a slot, to be changed.
    pub fn content_mut(&mut self, slot: Slot) -> &mut Content {
        match slot {
            Slot::A => &mut self.a,
            Slot::B => &mut self.b,
        }
    }

    /// Remembers that a version is bad.
    pub fn remember(&mut self, version: &str, why: &str) {
        self.bad.retain(|bad| bad.version != version);
        self.bad.push(BadVersion {
            version: version.to_owned(),
            why: why.to_owned(),
        });
    }

    /// Why a version is bad, if it is remembered.
    #[must_use]
    pub fn why_bad(&self, version: &str) -> Option<&str> {
        let bad = self.bad.iter().find(|bad| bad.version == version)?;
        Some(&bad.why)
    }

    /// A copy as it is written.
    #[must_use]
    pub fn encode(&self, sequence: u64) -> Vec<u8> {
        let mut record = self.clone();
        record.shorten();
        let mut json = serde_json::to_vec(&record).unwrap_or_default();
        while json.len() > COPY - HEAD && !record.bad.is_empty() {
            record.bad.remove(0);
            json = serde_json::to_vec(&record).unwrap_or_default();
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend((json.len() as u32).to_le_bytes());
        bytes.extend(sequence.to_le_bytes());
        let mut hash = crc32fast::Hasher::new();
        hash.update(&bytes);
        hash.update(&json);
        bytes.extend(hash.finalize().to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(json);
        bytes.resize(COPY, 0);
        bytes
    }

    /// Reads a copy and its sequence number; none if it doesn't hold together.
    #[must_use]
    pub fn decode(copy: &[u8]) -> Option<(u64, Self)> {
        let number = |at: usize| Some(u32::from_le_bytes(copy.get(at..at + 4)?.try_into().ok()?));
        if !copy.starts_with(MAGIC) || number(8)? != FORMAT {
            return None;
        }
        let len = usize::try_from(number(12)?).ok()?;
        let json = copy.get(HEAD..HEAD.checked_add(len)?)?;
        let mut hash = crc32fast::Hasher::new();
        hash.update(&copy[..24]);
        hash.update(json);
        if hash.finalize() != number(24)? {
            return None;
        }
        let sequence = u64::from_le_bytes(copy.get(16..24)?.try_into().ok()?);
        Some((sequence, serde_json::from_slice(json).ok()?))
    }

    fn shorten(&mut self) {
        let surplus = self.bad.len().saturating_sub(BAD_VERSIONS);
        self.bad.drain(..surplus);
        for content in [&mut self.a, &mut self.b] {
            for text in [&mut content.version, &mut content.root, &mut content.why] {
                text.iter_mut().for_each(shorten);
            }
        }
        if let Some(trial) = &mut self.trial {
            trial.why.iter_mut().for_each(shorten);
            trial.under_way.iter_mut().for_each(shorten);
        }
        for bad in &mut self.bad {
            shorten(&mut bad.version);
            shorten(&mut bad.why);
        }
    }
}

/// One line of at most so many bytes, which JSON makes no more than twice as long.
fn shorten(text: &mut String) {
    let end = text.floor_char_boundary(TEXT);
    text.truncate(end);
    *text = text.replace(|c: char| c.is_control(), " ");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_copy_is_read_as_written_or_not_at_all() {
        let mut record = Record::default();
        record.a.version = Some("0.1.0".into());
        record.remember("0.2.0", "no \"network\"");
        record.trial = Some(Trial::new(Slot::B));
        let copy = record.encode(7);
        assert_eq!(copy.len(), COPY);
        assert_eq!(Record::decode(&copy), Some((7, record)));
        let end = copy.iter().rposition(|b| *b != 0).unwrap();
        for at in 0..=end {
            let mut bad = copy.clone();
            bad[at] ^= 0x10;
            let same = (28..32).contains(&at);
            assert_eq!(Record::decode(&bad).is_some(), same, "byte {at}");
            assert_eq!(Record::decode(&copy[..at]), None);
        }
    }

    #[test]
    fn the_worst_still_fits() {
        let long = "\"".repeat(1000);
        let mut record = Record::default();
        for content in [&mut record.a, &mut record.b] {
            content.version = Some(long.clone());
            content.root = Some(long.clone());
            content.why = Some(long.clone());
        }
        for n in 0..30 {
            record.remember(&format!("{n}{long}"), &long);
        }
        record.remember("last", "why");
        let (_, read) = Record::decode(&record.encode(1)).unwrap();
        assert_eq!(read.why_bad("last"), Some("why"), "the newest is kept");
        assert!(read.bad.len() <= BAD_VERSIONS);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(Record::decode(&bytes));
            drop(Record::decode(&[MAGIC.to_vec(), FORMAT.to_le_bytes().to_vec(), bytes].concat()));
        }
    }
}
