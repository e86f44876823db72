//! Entries of a FAT directory, with long names.
//!
//! A directory is an array of slots of 32 bytes. A file has one slot of the second kind, and
//! before it as many of the first as its long name takes, the name's end first.
//!
//! | offset in a long-name slot | size | field |
//! |---|---|---|
//! | 0 | 1 | its number from 1, with 0x40 added in the first slot |
//! | 1, 14, 28 | 10, 12, 4 | 13 UTF-16 units, ended by 0 and filled with 0xffff |
//! | 11 | 1 | 0x0f |
//! | 13 | 1 | checksum of the short name |
//!
//! | offset in a short-name slot | size | field |
//! |---|---|---|
//! | 0 | 11 | short name; its first byte is 0xe5 if deleted, 0 from the directory's end on |
//! | 11 | 1 | attributes: 0x08 volume label, 0x10 directory, 0x20 archive |
//! | 14 | 10 | times and dates of making and reading, 0 here: the clock may be wrong |
//! | 20, 26 | 2 each | first cluster, high and low half |
//! | 22 | 4 | time and date of the last write |
//! | 28 | 4 | bytes |
//!
//! Source: Microsoft's FAT specification 1.03, sections 6 and 7.

use std::ops::Range;

/// Bytes of a slot.
pub const SLOT: usize = 32;
/// First byte of a slot that is free again.
pub const DELETED: u8 = 0xe5;
const SLOTS_IN_SECTOR: usize = super::fat::SECTOR as usize / SLOT;
const LONG: u8 = 0x0f;
/// Units of a long name in a slot: their offsets.
const UNITS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
/// 1980-01-01, the earliest there is.
const DATE: [u8; 2] = [0x21, 0];

/// An entry and the slots it takes.
pub struct Found {
    pub name: String,
    pub is_dir: bool,
    pub first_cluster: u32,
    pub size: u32,
    pub slots: Range<usize>,
}

/// The files and directories in a directory's bytes, without `.`, `..` and the volume's label.
pub fn parse(bytes: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    let mut long = Long::default();
    for (index, slot) in bytes.chunks_exact(SLOT).enumerate() {
        match (slot[0], slot[11]) {
            (0, _) => break,
            (DELETED, _) => long = Long::default(),
            (_, attributes) if attributes & 0x3f == LONG => long.take(index, slot),
            (_, attributes) if attributes & 0x08 != 0 => long = Long::default(),
            (first, attributes) => {
                let long = std::mem::take(&mut long).name(short_checksum(&slot[..11]));
                let (start, name) = long.unwrap_or_else(|| (index, short_name(slot)));
                if first != b'.' {
                    let half = |at| u32::from(u16::from_le_bytes([slot[at], slot[at + 1]]));
                    found.push(Found {
                        name,
                        is_dir: attributes & 0x10 != 0,
                        first_cluster: half(20) << 16 | half(26),
                        size: half(30) << 16 | half(28),
                        slots: start..index + 1,
                    });
                }
            }
        }
    }
    found
}

/// A long name as it is put together.
#[derive(Default)]
struct Long {
    start: usize,
    /// Number of the slot that must come next; 0 when the short name must.
    next: u8,
    checksum: u8,
    units: Vec<u16>,
    sound: bool,
}

impl Long {
    fn take(&mut self, index: usize, slot: &[u8]) {
        let number = slot[0] & 0x3f;
        if slot[0] & 0x40 != 0 {
            *self = Self {
                start: index,
                next: number,
                checksum: slot[13],
                sound: (1..=20).contains(&number),
                units: Vec::new(),
            };
        }
        self.sound &= number == self.next && number > 0 && slot[13] == self.checksum;
        self.next = self.next.wrapping_sub(1);
        let units = UNITS.map(|at| u16::from_le_bytes([slot[at], slot[at + 1]]));
        self.units.splice(0..0, units);
    }

    fn name(self, checksum: u8) -> Option<(usize, String)> {
        let whole = self.sound && self.next == 0 && self.checksum == checksum;
        let end = (self.units.iter().position(|u| *u == 0)).unwrap_or(self.units.len());
        whole.then(|| (self.start, String::from_utf16_lossy(&self.units[..end])))
    }
}

fn short_name(slot: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    match (text(&slot[..8]), text(&slot[8..11])) {
        (base, extension) if extension.is_empty() => base,
        (base, extension) => format!("{base}.{extension}"),
    }
}

fn short_checksum(name: &[u8]) -> u8 {
    name.iter()
        .fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

/// Has a short-name slot lead to other content.
pub fn lead_to(slot: &mut [u8], first_cluster: u32, size: u32) {
    slot[20..22].copy_from_slice(&((first_cluster >> 16) as u16).to_le_bytes());
    slot[26..28].copy_from_slice(&(first_cluster as u16).to_le_bytes());
    slot[28..32].copy_from_slice(&size.to_le_bytes());
}

/// The slots of a file. Its short name is made from the long one, unlike that of any in
/// `others`, which are long or short names of the same directory.
pub fn encode(
    name: &str,
    others: &[&str],
    first_cluster: u32,
    size: u32,
) -> Option<Vec<[u8; SLOT]>> {
    let plain = |b: u8| b.is_ascii_graphic() && !b"\"*/:<>?\\|".contains(&b);
    if name.is_empty() || name.len() > 255 || !name.bytes().all(plain) || name.ends_with('.') {
        return None;
    }
    let short = short_for(name, others);
    let checksum = short_checksum(&short);
    let mut units: Vec<u16> = name.encode_utf16().collect();
    if !units.len().is_multiple_of(UNITS.len()) {
        units.push(0);
    }
    let count = units.len().div_ceil(UNITS.len());
    units.resize(count * UNITS.len(), 0xffff);
    let mut slots = Vec::new();
    for (index, part) in units.chunks(UNITS.len()).enumerate().rev() {
        let mut slot = [0; SLOT];
        let last = if index + 1 == count { 0x40 } else { 0 };
        slot[0] = last | u8::try_from(index + 1).ok()?;
        slot[11] = LONG;
        slot[13] = checksum;
        for (at, unit) in UNITS.iter().zip(part) {
            slot[*at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        slots.push(slot);
    }
    let mut slot = [0; SLOT];
    slot[..11].copy_from_slice(&short);
    slot[11] = 0x20;
    for at in [16, 18, 24] {
        slot[at..at + 2].copy_from_slice(&DATE);
    }
    lead_to(&mut slot, first_cluster, size);
    slots.push(slot);
    Some(slots)
}

/// A short name that nothing else can have by accident: a hash of the long one in its base.
/// The names of others are hashed alike, so that a collision is seen without their slots.
fn short_for(name: &str, others: &[&str]) -> [u8; 11] {
    let mut salt = 0;
    loop {
        let short = short_salted(name, salt);
        let shown = short_name(&short);
        let clash = |other: &str| {
            other.eq_ignore_ascii_case(&shown)
                || (0..=salt).any(|s| short_salted(other, s) == short)
        };
        if salt == 255 || !others.iter().any(|o| *o != name && clash(o)) {
            return short;
        }
        salt += 1;
    }
}

fn short_salted(name: &str, salt: u32) -> [u8; 11] {
    let mut short = *b"           ";
    let (base, extension) = name.rsplit_once('.').unwrap_or((name, ""));
    let letters = |text: &str, most: usize| -> Vec<u8> {
        let upper = text.bytes().filter(u8::is_ascii_alphanumeric);
        upper.map(|b| b.to_ascii_uppercase()).take(most).collect()
    };
    let hash = crc32fast::hash(format!("{salt}{}", name.to_ascii_lowercase()).as_bytes());
    let mut start = letters(base, 1);
    start.extend(format!("{:05X}~1", hash & 0xf_ffff).bytes());
    short[..start.len()].copy_from_slice(&start);
    let extension = letters(extension, 3);
    short[8..8 + extension.len()].copy_from_slice(&extension);
    short
}

/// A place for slots within one sector.
pub struct Room {
    pub slot: usize,
    /// Slots between the directory's end until now and the place.
    pub skipped: Range<usize>,
}

/// Where `count` slots fit into one sector of a directory.
pub fn room(bytes: &[u8], count: usize) -> Option<Room> {
    let slots: Vec<u8> = bytes.chunks_exact(SLOT).map(|slot| slot[0]).collect();
    let end = (slots.iter().position(|first| *first == 0)).unwrap_or(slots.len());
    let free = |slot: usize| slot >= end || slots[slot] == DELETED;
    let fits = |slot: &usize| {
        slot + count <= slots.len()
            && slot / SLOTS_IN_SECTOR == (slot + count - 1) / SLOTS_IN_SECTOR
            && (*slot..slot + count).all(free)
    };
    (0..slots.len()).find(fits).map(|slot| Room {
        slot,
        skipped: end.min(slot)..slot,
    })
}

/// The slots from a directory's end on.
pub fn tail(bytes: &[u8]) -> Range<usize> {
    let count = bytes.len() / SLOT;
    let end = bytes.chunks_exact(SLOT).position(|slot| slot[0] == 0);
    end.unwrap_or(count)..count
}
