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
use yasna::Tag;

use super::pkcs7::{self, Content};
use super::uki::{get16, get32, read};
use crate::error::{Error, Kind, Result};
use crate::keys::{Certificate, Pair};

const SPC_INDIRECT_DATA: &[u64] = &[1, 3, 6, 1, 4, 1, 311, 2, 1, 4];
const SPC_PE_IMAGE_DATA: &[u64] = &[1, 3, 6, 1, 4, 1, 311, 2, 1, 15];
/// What the link to the program's pages says, by the source: in UTF-16, big endian.
const OBSOLETE: &str = "<<<Obsolete>>>";
const REVISION: u16 = 0x0200;
const PKCS7: u16 = 0x0002;
/// Of a WIN_CERTIFICATE before its content.
const ENTRY: usize = 8;
const ALIGNMENT: usize = 8;

/// Signs a program. Signatures that it has already stay.
///
/// # Errors
/// [`Kind::Input`] for what is no PE32+ file, or one whose digest would not be over all of it.
pub fn sign(mut image: Vec<u8>, pair: &Pair) -> Result<Vec<u8>> {
    // The table begins at a multiple of 8, and what is before it is hashed.
    if Program::parse(&image)?.table.is_empty() {
        image.resize(image.len().next_multiple_of(ALIGNMENT), 0);
    }
    let program = Program::parse(&image)?;
    let content = indirect_data(&program.digest(&image));
    let signed = pkcs7::sign(Content::Within(SPC_INDIRECT_DATA, &content), pair)?;
    let signed = pkcs7::wrap(&signed);

    let too_large = |_| refuse("the program is larger than 4 GiB");
    let start = program.table.start;
    let length = u32::try_from(ENTRY + signed.len()).map_err(too_large)?;
    image.extend(length.to_le_bytes());
    image.extend(REVISION.to_le_bytes());
    image.extend(PKCS7.to_le_bytes());
    image.extend(signed);
    image.resize(image.len().next_multiple_of(ALIGNMENT), 0);
    let table = [start, image.len() - start];
    for (value, at) in table.into_iter().zip([0, 4]) {
        let at = program.directory + at;
        let value = u32::try_from(value).map_err(too_large)?;
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    // The writer's work is read by another hand before it is believed.
    verify(&image, &pair.certificate)?;
    Ok(image)
}

/// What is signed of a program: SHA-256 of all but checksum, certificate table and its place.
///
/// # Errors
/// As [`sign`].
pub fn digest(image: &[u8]) -> Result<[u8; 32]> {
    Ok(Program::parse(image)?.digest(image))
}

/// The signatures of a program, each a ContentInfo, DER.
///
/// # Errors
/// As [`sign`]; for a table that isn't one.
pub fn signatures(image: &[u8]) -> Result<Vec<&[u8]>> {
    let program = Program::parse(image)?;
    let mut rest = &image[program.table];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let length = get32(rest, 0) as usize;
        let entry = rest.get(ENTRY..length).ok_or_else(|| {
            refuse("its certificate table is damaged: an entry is longer than the table")
        })?;
        if (get16(rest, 4), get16(rest, 6)) == (REVISION, PKCS7) {
            found.push(entry);
        }
        rest = rest
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
    }
    Ok(found)
}

/// Whether a program is as this certificate's key has signed it.
///
/// # Errors
/// [`Kind::Untrusted`] if it isn't; as [`signatures`].
pub fn verify(image: &[u8], certificate: &Certificate) -> Result<()> {
    let digest = digest(image)?;
    let mut why = Error::new(Kind::Untrusted, "the program is not signed");
    for der in signatures(image)? {
        match verify_one(der, &digest, certificate) {
            Ok(()) => return Ok(()),
            Err(e) => why = e.within("the program's signature"),
        }
    }
    Err(why)
}

fn verify_one(der: &[u8], digest: &[u8], certificate: &Certificate) -> Result<()> {
    let signed = pkcs7::read(der)?;
    if signed.kind != pkcs7::oid(SPC_INDIRECT_DATA) {
        return Err(refuse("it signs something else than a program"));
    }
    signed.verify(&[], certificate)?;
    let stated = pkcs7::digest_in(signed.content.as_deref().unwrap_or_default())?;
    match stated == digest {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Untrusted,
            "the program has been changed since it was signed",
        )),
    }
}

/// Where what isn't hashed is.
struct Program {
    checksum: usize,
    /// The certificate table's data directory.
    directory: usize,
    /// The certificate table; where it would begin, if there is none.
    table: Range<usize>,
}

impl Program {
    fn parse(image: &[u8]) -> Result<Self> {
        // Proves that the headers are there and consistent, too.
        read(image)?;
        let pe = get32(image, 0x3c) as usize;
        let directory = pe + 168;
        let end_of_headers = get32(image, pe + 84) as usize;
        let section_table = pe + 24 + usize::from(get16(image, pe + 20));
        if get32(image, pe + 132) < 5 || section_table < directory + 8 {
            return Err(refuse("its header has no place for a certificate table"));
        }
        let sections = (0..usize::from(get16(image, pe + 6))).map(|i| section_table + i * 40);
        let mut raw: Vec<Range<usize>> = sections
            .map(|entry| (get32(image, entry + 20), get32(image, entry + 16)))
            .filter(|(_, size)| *size > 0)
            .map(|(start, size)| start as usize..(start as usize).saturating_add(size as usize))
            .collect();
        raw.sort_by_key(|range| range.start);
        let mut end = end_of_headers;
        for range in raw {
            if range.start != end {
                return Err(refuse("its sections overlap, or have gaps between them"));
            }
            end = range.end;
        }
        let (start, size) = (get32(image, directory), get32(image, directory + 4));
        let table = match (start as usize, size as usize) {
            (0, 0) => image.len()..image.len(),
            (start, size) => start..start.saturating_add(size),
        };
        if end > table.start || table.end != image.len() {
            return Err(refuse(
                "its certificate table is not at its end, or it is cut off",
            ));
        }
        if !table.is_empty() && !table.start.is_multiple_of(ALIGNMENT) {
            return Err(refuse(
                "its certificate table is not at a multiple of 8 bytes",
            ));
        }
        Ok(Self {
            checksum: pe + 88,
            directory,
            table,
        })
    }

    fn digest(&self, image: &[u8]) -> [u8; 32] {
        Sha256::new()
            .chain_update(&image[..self.checksum])
            .chain_update(&image[self.checksum + 4..self.directory])
            .chain_update(&image[self.directory + 8..self.table.start])
            .finalize()
            .into()
    }
}

/// SpcIndirectDataContent: a program's pages, and their digest.
fn indirect_data(digest: &[u8]) -> Vec<u8> {
    let utf16: Vec<u8> = OBSOLETE.encode_utf16().flat_map(u16::to_be_bytes).collect();
    yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_sequence(|w| {
                w.next().write_oid(&pkcs7::oid(SPC_PE_IMAGE_DATA));
                w.next().write_sequence(|w| {
                    w.next().write_bitvec_bytes(&[], 0);
                    // SpcLink's choice "file", of it SpcString's choice "unicode".
                    w.next().write_tagged(Tag::context(0), |w| {
                        w.write_tagged(Tag::context(2), |w| {
                            w.write_tagged_implicit(Tag::context(0), |w| w.write_bytes(&utf16));
                        });
                    });
                });
            });
            pkcs7::digest_info(w.next(), digest);
        });
    })
}

fn refuse(why: &str) -> Error {
    Error::new(Kind::Input, format!("the program can't be signed: {why}"))
}
