//! Signatures of EFI programs: what firmware asks for before it starts one under Secure Boot.
//!
//! | offset | size | field of PE32+, *p* being the offset of `PE\0\0` | hashed |
//! |---|---|---|---|
//! | 0 | p+88 | headers | yes |
//! | p+88 | 4 | CheckSum | no |
//! | p+92 | 76 | headers | yes |
//! | p+168 | 8 | fifth data directory: the certificate table's offset in the file, its size | no |
//! | p+176 | | headers, sections, what stands behind them | yes |
//! | certificate table | | its entries, each at a multiple of 8; the file ends with it | no |
//!
//! | offset in an entry (WIN_CERTIFICATE) | size | field |
//! |---|---|---|
//! | 0 | 4 | dwLength: of the entry, without padding |
//! | 4 | 2 | wRevision: 0x0200 |
//! | 6 | 2 | wCertificateType: 2, a PKCS #7 SignedData |
//! | 8 | dwLength - 8 | ContentInfo, DER ([`super::pkcs7`]) around SpcIndirectDataContent with the digest |
//!
//! Sources: "Windows Authenticode Portable Executable Signature Format", 2008, "Calculating
//! the PE Image Hash"; Microsoft's PE format, "The Attribute Certificate Table"; UEFI 2.10,
//! section 32.2.
//!
//! The hash of the source is over sections in the order of their offsets, so two files that
//! differ in a gap between sections have one digest, and tools disagree about the rest. Files
//! with such gaps are refused: then the hash is over all bytes but those above.

use std::ops::Range;

use sha2::{Digest as _, Sha256};

use super::Fault;
use super::pkcs7::{self, Signed, oid};

/// What a signature of a program is about.
pub const SPC_INDIRECT_DATA: &[u64] = &[1, 3, 6, 1, 4, 1, 311, 2, 1, 4];
/// Of a WIN_CERTIFICATE.
pub const REVISION: u16 = 0x0200;
/// The kind of WIN_CERTIFICATE.
pub const PKCS7: u16 = 0x0002;
/// Bytes of a WIN_CERTIFICATE before its content.
pub const ENTRY: usize = 8;
/// Bytes of which the certificate table's entries begin at a multiple.
pub const ALIGNMENT: usize = 8;

/// Bytes that a program's headers have at most: more than 1,000 sections.
const HEADERS: u64 = 64 << 10;
/// Bytes of a certificate table at most: a signature has 2,000.
const TABLE: u64 = 256 << 10;
/// Bytes that are hashed at once.
const PIECE: u64 = 1 << 20;

/// A program, as far as its signatures are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// SHA-256 of all but checksum, certificate table and its place: what is signed.
    pub digest: [u8; 32],
    /// Its signatures, each a ContentInfo, DER.
    pub signatures: Vec<Vec<u8>>,
    /// Offset of the certificate table's data directory.
    pub directory: usize,
    /// Where the certificate table is; where it would begin, if there is none.
    pub table: Range<u64>,
}

impl Program {
    /// Reads one of `size` bytes through `read`, which fills a buffer from an offset. It is
    /// never in memory as a whole.
    ///
    /// # Errors
    /// Those of `read`; [`Fault::Malformed`] for what is no PE32+ file, one whose digest would
    /// not be over all of it, or a certificate table that is none.
    pub fn read<E: From<Fault>>(
        size: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut buffer = vec![0; size.min(HEADERS) as usize];
        read(0, &mut buffer)?;
        let Place {
            checksum,
            directory,
            table,
        } = Place::parse(&buffer, size)?;
        let mut hash = Sha256::new();
        let first = checksum + 4..directory as u64;
        for part in [0..checksum, first, directory as u64 + 8..table.start] {
            let mut at = part.start;
            while at < part.end {
                let n = (part.end - at).min(PIECE);
                buffer.resize(n as usize, 0);
                read(at, &mut buffer)?;
                hash.update(&buffer);
                at += n;
            }
        }
        buffer.resize((table.end - table.start) as usize, 0);
        read(table.start, &mut buffer)?;
        Ok(Self {
            digest: hash.finalize().into(),
            signatures: entries(&buffer)?,
            directory,
            table,
        })
    }

    /// One that is in memory.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn of(image: &[u8]) -> Result<Self, Fault> {
        Self::read(image.len() as u64, |offset, buffer| {
            let part = image.get(offset as usize..);
            let part = part.and_then(|part| part.get(..buffer.len()));
            let cut_off = || Fault::Malformed("it is cut off".into());
            buffer.copy_from_slice(part.ok_or_else(cut_off)?);
            Ok(())
        })
    }

    /// Takes one of its signatures apart.
    ///
    /// # Errors
    /// [`Fault::Malformed`] for what is none; [`Fault::Untrusted`] if another program was
    /// signed.
    pub fn signature(&self, der: &[u8]) -> Result<Signed, Fault> {
        let signed = pkcs7::read(der)?;
        if signed.kind != oid(SPC_INDIRECT_DATA) {
            return Err(Fault::Malformed(
                "it signs something else than a program".into(),
            ));
        }
        match pkcs7::digest_in(signed.content.as_deref().unwrap_or_default())? == self.digest {
            true => Ok(signed),
            false => Err(Fault::Untrusted(
                "the program has been changed since it was signed".into(),
            )),
        }
    }
}

/// The signatures in a certificate table.
fn entries(mut table: &[u8]) -> Result<Vec<Vec<u8>>, Fault> {
    let damaged = || {
        let why = "its certificate table is damaged: an entry is longer than the table";
        Fault::Malformed(why.into())
    };
    let mut found = Vec::new();
    while !table.is_empty() {
        let length = get32(table, 0).ok_or_else(damaged)? as usize;
        let entry = table.get(ENTRY..length).ok_or_else(damaged)?;
        if (get16(table, 4), get16(table, 6)) == (Some(REVISION), Some(PKCS7)) {
            found.push(entry.to_vec());
        }
        table = table
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
    }
    Ok(found)
}

/// Where what isn't hashed is.
struct Place {
    checksum: u64,
    directory: usize,
    table: Range<u64>,
}

impl Place {
    /// By the first bytes of a program of `size` bytes.
    fn parse(head: &[u8], size: u64) -> Result<Self, Fault> {
        let refuse = |why: &str| Fault::Malformed(why.to_owned());
        let none = || refuse("no valid EFI program: it has no headers of PE32+");
        let at = |offset| get32(head, offset).ok_or_else(none);
        let pe = at(0x3c)? as usize;
        let magic = (
            head.get(..2),
            head.get(pe..pe.saturating_add(4)),
            get16(head, pe.saturating_add(24)),
        );
        if magic != (Some(&b"MZ"[..]), Some(&b"PE\0\0"[..]), Some(0x20b)) {
            return Err(none());
        }
        let optional_header = get16(head, pe + 20).ok_or_else(none)?;
        let (directory, section_table) = (pe + 168, pe + 24 + usize::from(optional_header));
        if at(pe + 132)? < 5 || section_table < directory + 8 {
            return Err(refuse("its header has no place for a certificate table"));
        }
        let mut raw = Vec::new();
        for number in 0..usize::from(get16(head, pe + 6).ok_or_else(none)?) {
            let entry = section_table + number * 40;
            let [size, start] = [at(entry + 16)?, at(entry + 20)?].map(u64::from);
            raw.extend((size > 0).then_some(start..start + size));
        }
        raw.sort_by_key(|range| range.start);
        let mut end = u64::from(at(pe + 84)?);
        for range in raw {
            if range.start != end {
                return Err(refuse("its sections overlap, or have gaps between them"));
            }
            end = range.end;
        }
        let table = match [at(directory)?, at(directory + 4)?].map(u64::from) {
            [0, 0] => size..size,
            [start, length] => start..start + length,
        };
        // What is left out of the hash is in the headers.
        if end < section_table as u64 || end > table.start || table.end != size {
            return Err(refuse(
                "its certificate table is not at its end, or it is cut off",
            ));
        }
        if table.end - table.start > TABLE {
            return Err(refuse("its certificate table is too long"));
        }
        if !table.is_empty() && !table.start.is_multiple_of(ALIGNMENT as u64) {
            return Err(refuse(
                "its certificate table is not at a multiple of 8 bytes",
            ));
        }
        Ok(Self {
            checksum: pe as u64 + 88,
            directory,
            table,
        })
    }
}

fn get16(bytes: &[u8], at: usize) -> Option<u16> {
    let (number, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u16::from_le_bytes(*number))
}

fn get32(bytes: &[u8], at: usize) -> Option<u32> {
    let (number, _) = bytes.get(at..)?.split_first_chunk()?;
    Some(u32::from_le_bytes(*number))
}
