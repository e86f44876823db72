//! Signs EFI programs. [`slipway_images::secure_boot::authenticode`] has the tables, and reads
//! what is written here.

use slipway_images::secure_boot::authenticode::{
    ALIGNMENT, ENTRY, PKCS7, Program, REVISION, SPC_INDIRECT_DATA,
};
use slipway_images::secure_boot::pkcs7::oid;
use slipway_images::secure_boot::{Certificate, Fault};
use yasna::Tag;

use super::pkcs7::{self, Content};
use super::uki;
use crate::error::{Error, Kind, Result};
use crate::keys::Pair;

const SPC_PE_IMAGE_DATA: &[u64] = &[1, 3, 6, 1, 4, 1, 311, 2, 1, 15];
/// What the link to the program's pages says, by the source: in UTF-16, big endian.
const OBSOLETE: &str = "<<<Obsolete>>>";

/// Signs a program. Signatures that it has already stay.
///
/// # Errors
/// [`Kind::Input`] for what is no PE32+ file, or one whose digest would not be over all of it.
pub fn sign(mut image: Vec<u8>, pair: &Pair) -> Result<Vec<u8>> {
    // Proves that it can be started, too.
    uki::read(&image)?;
    // The table begins at a multiple of 8, and what is before it is hashed.
    if read(&image)?.table.is_empty() {
        image.resize(image.len().next_multiple_of(ALIGNMENT), 0);
    }
    let program = read(&image)?;
    let content = indirect_data(&program.digest);
    let signed = pkcs7::sign(Content::Within(SPC_INDIRECT_DATA, &content), pair)?;
    let signed = pkcs7::wrap(&signed);

    let too_large = |_| Error::new(Kind::Input, "the program is larger than 4 GiB");
    let start = program.table.start as usize;
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

fn read(image: &[u8]) -> Result<Program> {
    Program::of(image).map_err(|e| Error::from(e).within("the program can't be signed"))
}

/// Whether a program is as this certificate's key has signed it.
///
/// # Errors
/// [`Kind::Untrusted`] if it isn't; [`Kind::Input`] for what is no program.
pub fn verify(image: &[u8], certificate: &Certificate) -> Result<()> {
    let program = Program::of(image)?;
    let mut why = Error::new(Kind::Untrusted, "the program is not signed");
    for der in &program.signatures {
        let signed = program.signature(der);
        match signed.and_then(|signed| signed.verify(&[], certificate)) {
            Ok(()) => return Ok(()),
            Err(e) => why = Error::from(e).within("the program's signature"),
        }
    }
    Err(why)
}

/// SpcIndirectDataContent: a program's pages, and their digest.
fn indirect_data(digest: &[u8]) -> Vec<u8> {
    let utf16: Vec<u8> = OBSOLETE.encode_utf16().flat_map(u16::to_be_bytes).collect();
    yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_sequence(|w| {
                w.next().write_oid(&oid(SPC_PE_IMAGE_DATA));
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

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let kind = match fault {
            Fault::Malformed(_) => Kind::Input,
            Fault::Untrusted(_) => Kind::Untrusted,
        };
        Self::new(kind, fault.to_string())
    }
}
