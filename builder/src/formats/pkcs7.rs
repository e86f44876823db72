//! Writes PKCS #7 SignedData as UEFI knows it: one signer, RSA with SHA-256, one certificate.
//! [`slipway_images::secure_boot::pkcs7`] reads it, and has the table of its elements.
//!
//! No time of signing: the same image and key give the same bytes.

use sha2::{Digest as _, Sha256};
use slipway_images::secure_boot::pkcs7::{
    CONTENT_TYPE, MESSAGE_DIGEST, RSA_ENCRYPTION, SHA256, SIGNED_DATA, inside, oid,
};
use yasna::tags::TAG_INTEGER;
use yasna::{DERWriter, Tag};

use crate::error::Result;
use crate::keys::Pair;

const DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 1];

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub enum Content<'a> {
    /// Bytes that lie elsewhere.
    Elsewhere(&'a [u8]),
    /// A DER element that comes along, and its type.
    Within(&'a [u64], &'a [u8]),
}

/// Writes a SignedData, without a ContentInfo around it.
///
/// # Errors
/// [`Kind::Bug`] only.
pub fn sign(content: Content<'_>, pair: &Pair) -> Result<Vec<u8>> {
    let certificate = &pair.certificate;
    let attributes = match content {
        Content::Elsewhere(_) => None,
        Content::Within(kind, value) => Some(attributes(kind, &Sha256::digest(inside(value)?))),
    };
    let signature = match (&attributes, content) {
        (Some(attributes), _) => pair.sign(attributes)?,
        (None, Content::Elsewhere(message) | Content::Within(_, message)) => pair.sign(message)?,
    };
    Ok(yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_u8(1);
            w.next().write_set(|w| algorithm(w.next(), SHA256));
            w.next().write_sequence(|w| match content {
                Content::Elsewhere(_) => w.next().write_oid(&oid(DATA)),
                Content::Within(kind, value) => {
                    w.next().write_oid(&oid(kind));
                    w.next()
                        .write_tagged(Tag::context(0), |w| w.write_der(value));
                }
            });
            w.next()
                .write_tagged(Tag::context(0), |w| w.write_der(certificate.der()));
            w.next().write_set(|w| {
                w.next().write_sequence(|w| {
                    w.next().write_u8(1);
                    w.next().write_sequence(|w| {
                        w.next().write_der(certificate.issuer());
                        w.next().write_der(&integer(certificate.serial()));
                    });
                    algorithm(w.next(), SHA256);
                    if let Some(set) = &attributes {
                        // What was signed is a SET; what is stored says [0] instead.
                        let mut implicit = set.clone();
                        implicit[0] = CONTEXT_0;
                        w.next().write_der(&implicit);
                    }
                    algorithm(w.next(), RSA_ENCRYPTION);
                    w.next().write_bytes(&signature);
                });
            });
        });
    }))
}

/// Puts a ContentInfo around a SignedData.
#[must_use]
pub fn wrap(signed_data: &[u8]) -> Vec<u8> {
    yasna::construct_der(|w| {
        w.write_sequence(|w| {
            w.next().write_oid(&oid(SIGNED_DATA));
            w.next()
                .write_tagged(Tag::context(0), |w| w.write_der(signed_data));
        });
    })
}

/// An AlgorithmIdentifier with NULL parameters.
fn algorithm(writer: DERWriter<'_>, id: &[u64]) {
    writer.write_sequence(|w| {
        w.next().write_oid(&oid(id));
        w.next().write_null();
    });
}

/// The digest's AlgorithmIdentifier and the digest, which is a DigestInfo.
pub(super) fn digest_info(writer: DERWriter<'_>, digest: &[u8]) {
    writer.write_sequence(|w| {
        algorithm(w.next(), SHA256);
        w.next().write_bytes(digest);
    });
}

/// The tag `[0]` of what is built from others.
const CONTEXT_0: u8 = 0xa0;

fn attributes(kind: &[u64], digest: &[u8]) -> Vec<u8> {
    yasna::construct_der(|w| {
        w.write_set_of(|w| {
            attribute(w.next(), CONTENT_TYPE, |w| w.write_oid(&oid(kind)));
            attribute(w.next(), MESSAGE_DIGEST, |w| w.write_bytes(digest));
        });
    })
}

fn attribute(writer: DERWriter<'_>, id: &[u64], value: impl FnOnce(DERWriter<'_>)) {
    writer.write_sequence(|w| {
        w.next().write_oid(&oid(id));
        w.next().write_set(|w| value(w.next()));
    });
}

/// A DER INTEGER of bytes that already have their sign.
fn integer(bytes: &[u8]) -> Vec<u8> {
    yasna::construct_der(|w| {
        w.write_tagged_implicit(TAG_INTEGER, |w| w.write_bytes(bytes));
    })
}
