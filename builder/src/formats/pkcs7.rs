//! PKCS #7 SignedData as UEFI knows it: one signer, RSA with SHA-256, one certificate.
//!
//! | element | EFI program (Authenticode) | EFI variable |
//! |---|---|---|
//! | ContentInfo around it | yes | no: some firmware looks for the digest's name at byte 13 |
//! | contentInfo | SpcIndirectDataContent | `data`, without content |
//! | certificates `[0]` | the signer's | the signer's |
//! | authenticatedAttributes `[0]` | content type, message digest | none: the signature is over the message itself |
//! | encryptedDigest | PKCS #1 v1.5 | PKCS #1 v1.5 |
//!
//! No time of signing: the same image and key give the same bytes.
//!
//! Sources: RFC 2315, section 9; UEFI 2.10, sections 8.2.2 and 32.2.1; "Windows
//! Authenticode Portable Executable Signature Format", 2008.

use sha2::{Digest as _, Sha256};
use yasna::models::ObjectIdentifier;
use yasna::tags::{TAG_INTEGER, TAG_SEQUENCE, TAG_SET};
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, BERReaderSeq, DERWriter, Tag};

use crate::error::{Error, Kind, Result};
use crate::keys::{Certificate, Pair};

const DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 1];
const SIGNED_DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 2];
const CONTENT_TYPE: &[u64] = &[1, 2, 840, 113_549, 1, 9, 3];
const MESSAGE_DIGEST: &[u64] = &[1, 2, 840, 113_549, 1, 9, 4];
const RSA_ENCRYPTION: &[u64] = &[1, 2, 840, 113_549, 1, 1, 1];
const SHA256: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 2, 1];

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
                        w.next().write_der(&certificate.issuer);
                        w.next().write_der(&integer(&certificate.serial));
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

pub(super) fn oid(parts: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(parts)
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

/// An element's content octets: what a message digest is over.
fn inside(element: &[u8]) -> Result<Vec<u8>> {
    yasna::parse_der(element, |r| r.read_tagged_der())
        .map(|element| element.value().to_vec())
        .map_err(wrong)
}

/// A SignedData that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// The content's type.
    pub kind: ObjectIdentifier,
    /// The content, DER, if it came along.
    pub content: Option<Vec<u8>>,
    /// The attributes as they were signed: a SET.
    attributes: Option<Vec<u8>>,
    signature: Vec<u8>,
}

/// Reads a SignedData with or without a ContentInfo around it.
///
/// # Errors
/// [`Kind::Input`] for what is none of this module's kind.
pub fn read(der: &[u8]) -> Result<Signed> {
    match yasna::parse_der(der, content_info) {
        Ok(signed) => Ok(signed),
        Err(_) => yasna::parse_der(der, signed_data).map_err(wrong),
    }
}

fn content_info(reader: BERReader<'_, '_>) -> ASN1Result<Signed> {
    reader.read_sequence(|r| {
        expect(r.next().read_oid()?, SIGNED_DATA)?;
        r.next().read_tagged(Tag::context(0), signed_data)
    })
}

fn signed_data(reader: BERReader<'_, '_>) -> ASN1Result<Signed> {
    reader.read_sequence(|r| {
        r.next().read_u8()?;
        r.next().read_der()?;
        let (kind, content) = r.next().read_sequence(|r| {
            let kind = r.next().read_oid()?;
            let content = r.read_optional(|r| r.read_tagged(Tag::context(0), |r| r.read_der()));
            Ok((kind, content?))
        })?;
        // Who signed is asked of certificates that are trusted already.
        optional(r, Tag::context(0))?;
        optional(r, Tag::context(1))?;
        let mut infos = r.next().collect_set_of(signer_info)?;
        match (infos.pop(), infos.is_empty()) {
            (Some((attributes, signature)), true) => Ok(Signed {
                kind,
                content,
                attributes,
                signature,
            }),
            _ => Err(ASN1Error::new(ASN1ErrorKind::Invalid)),
        }
    })
}

/// A signer's attributes and signature.
fn signer_info(reader: BERReader<'_, '_>) -> ASN1Result<(Option<Vec<u8>>, Vec<u8>)> {
    reader.read_sequence(|r| {
        r.next().read_u8()?;
        r.next().read_der()?;
        read_algorithm(r.next(), SHA256)?;
        let mut attributes = optional(r, Tag::context(0))?;
        if let Some(set) = &mut attributes {
            set[0] = TAG_SET.tag_number as u8 | 0x20;
        }
        read_algorithm(r.next(), RSA_ENCRYPTION)?;
        let signature = r.next().read_bytes()?;
        optional(r, Tag::context(1))?;
        Ok((attributes, signature))
    })
}

fn read_algorithm(reader: BERReader<'_, '_>, id: &[u64]) -> ASN1Result<()> {
    reader.read_sequence(|r| {
        expect(r.next().read_oid()?, id)?;
        r.read_optional(|r| r.read_null()).map(drop)
    })
}

/// An element that may be missing, with its header.
fn optional(reader: &mut BERReaderSeq<'_, '_>, tag: Tag) -> ASN1Result<Option<Vec<u8>>> {
    reader.read_optional(|r| match r.lookahead_tag()? == tag {
        true => r.read_der(),
        false => Err(ASN1Error::new(ASN1ErrorKind::Invalid)),
    })
}

fn expect(found: ObjectIdentifier, wanted: &[u64]) -> ASN1Result<()> {
    match found == oid(wanted) {
        true => Ok(()),
        false => Err(ASN1Error::new(ASN1ErrorKind::Invalid)),
    }
}

impl Signed {
    /// Whether the certificate's key has signed the content: the one within, else the
    /// message that lies elsewhere.
    ///
    /// # Errors
    /// [`Kind::Untrusted`] if not; [`Kind::Input`] if there is nothing that could have been
    /// signed.
    pub fn verify(&self, elsewhere: &[u8], certificate: &Certificate) -> Result<()> {
        let content = match &self.content {
            Some(element) => inside(element)?,
            None => elsewhere.to_vec(),
        };
        let holds = match &self.attributes {
            None => certificate.has_signed(&content, &self.signature),
            Some(set) => {
                self.digest_of(set)? == *Sha256::digest(&content)
                    && certificate.has_signed(set, &self.signature)
            }
        };
        match holds {
            true => Ok(()),
            false => Err(Error::new(
                Kind::Untrusted,
                format!("not signed by {}", certificate.subject()),
            )),
        }
    }

    /// The message digest that attributes state, if they state this content's type.
    fn digest_of(&self, set: &[u8]) -> Result<Vec<u8>> {
        let attributes = yasna::parse_der(set, |r| {
            r.collect_set_of(|r| {
                r.read_sequence(|r| {
                    let id = r.next().read_oid()?;
                    Ok((id, r.next().collect_set_of(|r| r.read_der())?))
                })
            })
        })
        .map_err(wrong)?;
        let value = |wanted: &[u64]| {
            let found = attributes.iter().find(|(id, _)| *id == oid(wanted));
            match found.map(|(_, values)| values.as_slice()) {
                Some([value]) => Ok(value.clone()),
                _ => Err(wrong(ASN1Error::new(ASN1ErrorKind::Invalid))),
            }
        };
        let kind = yasna::parse_der(&value(CONTENT_TYPE)?, |r| r.read_oid()).map_err(wrong)?;
        if kind != self.kind {
            return Err(wrong(ASN1Error::new(ASN1ErrorKind::Invalid)));
        }
        yasna::parse_der(&value(MESSAGE_DIGEST)?, |r| r.read_bytes()).map_err(wrong)
    }
}

/// The digest of the DigestInfo that stands last in a SEQUENCE.
pub(super) fn digest_in(element: &[u8]) -> Result<Vec<u8>> {
    yasna::parse_der(element, |r| {
        r.read_sequence(|r| {
            if r.next().read_tagged_der()?.tag() != TAG_SEQUENCE {
                return Err(ASN1Error::new(ASN1ErrorKind::Invalid));
            }
            r.next().read_sequence(|r| {
                read_algorithm(r.next(), SHA256)?;
                r.next().read_bytes()
            })
        })
    })
    .map_err(wrong)
}

fn wrong(e: ASN1Error) -> Error {
    Error::new(Kind::Input, format!("no signature of a known kind: {e}"))
}
