//! The binary part of a copy of the header, and the JSON text behind it.
//!
//! | offset | size | field (numbers big-endian) |
//! |---|---|---|
//! | 0 | 6 | `LUKS\xba\xbe`, in the second copy `SKUL\xba\xbe` |
//! | 6 | 2 | version: 2 |
//! | 8 | 8 | hdr_size: bytes of this copy with its JSON text |
//! | 16 | 8 | seqid: one more with each change |
//! | 24 | 48 | label |
//! | 72 | 32 | checksum's algorithm: `sha256` |
//! | 104 | 64 | salt: random, so that no two copies have one checksum |
//! | 168 | 40 | UUID as text |
//! | 208 | 48 | subsystem: who uses it |
//! | 256 | 8 | hdr_offset: where this copy lies |
//! | 264 | 184 | zeros |
//! | 448 | 64 | checksum of the whole copy, this field as zeros |
//! | 512 | 3584 | zeros |
//! | 4096 | hdr_size - 4096 | JSON text, zeros behind it |
//!
//! The second copy lies behind the first, so at one of as many places as there are sizes.

use std::io::{self, Read, Seek, SeekFrom};

use sha2::{Digest as _, Sha256};

use super::LuksError;

/// Bytes of the binary part.
pub(super) const BINARY: usize = 4096;
/// Bytes that a copy can have; in this order the second one is looked for.
pub(super) const SIZES: [u64; 9] = [
    0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000,
];

const FIRST: &[u8; 6] = b"LUKS\xba\xbe";
const SECOND: &[u8; 6] = b"SKUL\xba\xbe";
const VERSION: usize = 6;
const SIZE: usize = 8;
const SEQUENCE: usize = 16;
const LABEL: usize = 24;
const ALGORITHM: usize = 72;
const SALT: usize = 104;
const UUID: usize = 168;
const SUBSYSTEM: usize = 208;
const OFFSET: usize = 256;
const CHECKSUM: usize = 448;
const CHECKSUM_END: usize = 512;
/// The one algorithm that cryptsetup writes.
const SHA256: &str = "sha256";

/// Which copy of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    First,
    Second,
}

impl Which {
    const fn magic(self) -> &'static [u8; 6] {
        match self {
            Self::First => FIRST,
            Self::Second => SECOND,
        }
    }
}

/// What a copy's binary part says, and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    /// Bytes of the copy.
    pub size: u64,
    pub sequence: u64,
    pub label: String,
    pub uuid: String,
    pub subsystem: String,
    pub salt: [u8; 64],
    /// The JSON text, without the zeros behind it.
    pub text: Vec<u8>,
}

/// What lies where a copy might.
#[derive(Debug)]
pub(super) enum Seen {
    /// No copy.
    Nothing,
    /// One that can't be used, and why.
    Bad(LuksError),
    /// One whose checksum holds.
    Good(Copy),
}

/// Looks at `offset`, counted from `base`.
///
/// # Errors
/// Those of reading, other than the device's end.
pub(super) fn look<D: Read + Seek>(
    device: &mut D,
    base: u64,
    offset: u64,
    which: Which,
) -> io::Result<Seen> {
    let mut bytes = Vec::new();
    match device.seek(SeekFrom::Start(base.saturating_add(offset))) {
        // lseek(2) refuses to go behind the end of a block device.
        Err(e) if e.kind() == io::ErrorKind::InvalidInput => return Ok(Seen::Nothing),
        other => other?,
    };
    device
        .by_ref()
        .take(BINARY as u64)
        .read_to_end(&mut bytes)?;
    if bytes.len() < BINARY || bytes[..6] != *which.magic() {
        return Ok(Seen::Nothing);
    }
    let version = u16::from_be_bytes([bytes[VERSION], bytes[VERSION + 1]]);
    if version != 2 {
        return Ok(Seen::Bad(LuksError::Unsupported(format!(
            "version {version} of LUKS; 2 is"
        ))));
    }
    let size = number(&bytes, SIZE);
    if !SIZES.contains(&size) || number(&bytes, OFFSET) != offset {
        return Ok(damaged("its size or place makes no sense"));
    }
    let rest = size - BINARY as u64;
    device.by_ref().take(rest).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != size {
        return Ok(damaged("it ends too early"));
    }
    let algorithm = text(&bytes[ALGORITHM..SALT]);
    if algorithm != SHA256 {
        return Ok(Seen::Bad(LuksError::Unsupported(format!(
            "a checksum by {algorithm:?}; {SHA256} is"
        ))));
    }
    let mut written = [0; CHECKSUM_END - CHECKSUM];
    written.swap_with_slice(&mut bytes[CHECKSUM..CHECKSUM_END]);
    if written[..32] != *Sha256::digest(&bytes) {
        return Ok(damaged("its checksum doesn't hold"));
    }
    let json = &bytes[BINARY..];
    let end = json.iter().position(|b| *b == 0).unwrap_or(json.len());
    let mut salt = [0; 64];
    salt.copy_from_slice(&bytes[SALT..UUID]);
    Ok(Seen::Good(Copy {
        size,
        sequence: number(&bytes, SEQUENCE),
        label: text(&bytes[LABEL..ALGORITHM]),
        uuid: text(&bytes[UUID..SUBSYSTEM]),
        subsystem: text(&bytes[SUBSYSTEM..OFFSET]),
        salt,
        text: json[..end].to_vec(),
    }))
}

fn damaged(why: &str) -> Seen {
    Seen::Bad(LuksError::Damaged(why.into()))
}

impl Copy {
    /// Its bytes as the first or the second one.
    ///
    /// # Errors
    /// [`LuksError::NoRoom`] when a text is longer than its field.
    pub fn bytes(&self, which: Which) -> Result<Vec<u8>, LuksError> {
        let size = usize::try_from(self.size).map_err(|_| LuksError::NoRoom)?;
        let mut bytes = vec![0; size];
        bytes[..6].copy_from_slice(which.magic());
        bytes[VERSION..SIZE].copy_from_slice(&2u16.to_be_bytes());
        bytes[SIZE..SEQUENCE].copy_from_slice(&self.size.to_be_bytes());
        bytes[SEQUENCE..LABEL].copy_from_slice(&self.sequence.to_be_bytes());
        put(&mut bytes[LABEL..ALGORITHM], &self.label)?;
        put(&mut bytes[ALGORITHM..SALT], SHA256)?;
        let mut salt = self.salt;
        if which == Which::Second {
            // Another one, as the format wants it; its value is of no matter.
            salt.iter_mut().for_each(|byte| *byte ^= 0xff);
        }
        bytes[SALT..UUID].copy_from_slice(&salt);
        put(&mut bytes[UUID..SUBSYSTEM], &self.uuid)?;
        put(&mut bytes[SUBSYSTEM..OFFSET], &self.subsystem)?;
        let offset = self.offset(which);
        bytes[OFFSET..OFFSET + 8].copy_from_slice(&offset.to_be_bytes());
        let room = bytes.get_mut(BINARY..BINARY + self.text.len());
        room.ok_or(LuksError::NoRoom)?.copy_from_slice(&self.text);
        let checksum = Sha256::digest(&bytes);
        bytes[CHECKSUM..CHECKSUM + 32].copy_from_slice(&checksum);
        Ok(bytes)
    }

    /// Where it lies.
    pub const fn offset(&self, which: Which) -> u64 {
        match which {
            Which::First => 0,
            Which::Second => self.size,
        }
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(field)
}

/// The text before the first zero.
fn text(field: &[u8]) -> String {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    String::from_utf8_lossy(&field[..end]).into_owned()
}

/// Puts a text with a zero behind it into a field.
fn put(field: &mut [u8], text: &str) -> Result<(), LuksError> {
    if text.len() >= field.len() {
        return Err(LuksError::NoRoom);
    }
    field[..text.len()].copy_from_slice(text.as_bytes());
    Ok(())
}
