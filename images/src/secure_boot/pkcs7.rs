//! PKCS #7 SignedData as UEFI knows it: one signer, RSA with SHA-256.
//!
//! | element | EFI program (Authenticode) | EFI variable |
//! |---|---|---|
//! | ContentInfo around it | yes | no: some firmware looks for the digest's name at byte 13 |
//! | contentInfo | SpcIndirectDataContent | `data`, without content |
//! | certificates `[0]` | the signer's, perhaps its issuers' | the signer's |
//! | authenticatedAttributes `[0]` | content type, message digest | none: the signature is over the message itself |
//! | encryptedDigest | PKCS #1 v1.5 | PKCS #1 v1.5 |
//!
//! Sources: RFC 2315, section 9; UEFI 2.10, sections 8.2.2 and 32.2.1; "Windows
//! Authenticode Portable Executable Signature Format", 2008.

use sha2::{Digest as _, Sha256};
use yasna::models::ObjectIdentifier;
use yasna::tags::{TAG_SEQUENCE, TAG_SET};
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, BERReaderSeq, Tag};

use super::{Certificate, Fault, der};

/// A SignedData.
pub const SIGNED_DATA: &[u64] = &[1, 2, 840, 113_549, 1, 7, 2];
/// The attribute that says what is signed.
pub const CONTENT_TYPE: &[u64] = &[1, 2, 840, 113_549, 1, 9, 3];
/// The attribute that has its digest.
pub const MESSAGE_DIGEST: &[u64] = &[1, 2, 840, 113_549, 1, 9, 4];
/// RSA, whatever the digest.
pub const RSA_ENCRYPTION: &[u64] = &[1, 2, 840, 113_549, 1, 1, 1];
/// SHA-256.
pub const SHA256: &[u64] = &[2, 16, 840, 1, 101, 3, 4, 2, 1];

/// Most certificates on the way from a signer to whom firmware trusts.
const CHAIN: usize = 8;
/// Tags of a SEQUENCE and a SET with what is in them.
const SEQUENCE_OF: u8 = TAG_SEQUENCE.tag_number as u8 | 0x20;
const SET_OF: u8 = TAG_SET.tag_number as u8 | 0x20;

/// An object identifier.
#[must_use]
pub fn oid(parts: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(parts)
}

/// An element's content octets: what a message digest is over.
///
/// # Errors
/// [`Fault::Malformed`] for what is no DER element.
pub fn inside(element: &[u8]) -> Result<Vec<u8>, Fault> {
    der::parse(element, |r| r.read_tagged_der())
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
    certificates: Vec<Vec<u8>>,
    signer: Signer,
}

/// Who it says has signed, and the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Signer {
    issuer: Vec<u8>,
    serial: Vec<u8>,
    /// The attributes as they were signed: a SET.
    attributes: Option<Vec<u8>>,
    signature: Vec<u8>,
}

/// Reads a SignedData with or without a ContentInfo around it.
///
/// # Errors
/// [`Fault::Malformed`] for what is none of this module's kind.
pub fn read(bytes: &[u8]) -> Result<Signed, Fault> {
    match der::parse(bytes, content_info) {
        Ok(signed) => Ok(signed),
        Err(_) => der::parse(bytes, signed_data).map_err(wrong),
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
        let certificates = certificates(r)?;
        optional(r, Tag::context(1))?;
        let mut infos = r.next().collect_set_of(signer_info)?;
        match (infos.pop(), infos.is_empty()) {
            (Some(signer), true) => Ok(Signed {
                kind,
                content,
                certificates,
                signer,
            }),
            _ => Err(ASN1Error::new(ASN1ErrorKind::Invalid)),
        }
    })
}

/// The certificates that came along. Not everybody puts them into DER's order.
fn certificates(reader: &mut BERReaderSeq<'_, '_>) -> ASN1Result<Vec<Vec<u8>>> {
    let Some(mut set) = optional(reader, Tag::context(0))? else {
        return Ok(Vec::new());
    };
    set[0] = SEQUENCE_OF;
    der::parse(&set, |r| r.collect_sequence_of(|r| r.read_der()))
}

fn signer_info(reader: BERReader<'_, '_>) -> ASN1Result<Signer> {
    reader.read_sequence(|r| {
        r.next().read_u8()?;
        let (issuer, serial) = r.next().read_sequence(|r| {
            let issuer = r.next().read_der()?;
            Ok((issuer, r.next().read_tagged_der()?.value().to_vec()))
        })?;
        read_algorithm(r.next(), SHA256)?;
        let mut attributes = optional(r, Tag::context(0))?;
        if let Some(set) = &mut attributes {
            set[0] = SET_OF;
        }
        read_algorithm(r.next(), RSA_ENCRYPTION)?;
        let signature = r.next().read_bytes()?;
        optional(r, Tag::context(1))?;
        Ok(Signer {
            issuer,
            serial,
            attributes,
            signature,
        })
    })
}

fn read_algorithm(reader: BERReader<'_, '_>, id: &[u64]) -> ASN1Result<()> {
    reader.read_sequence(|r| {
        expect(r.next().read_oid()?, id)?;
        r.read_optional(|r| r.read_null()).map(drop)
    })
}

/// An element that may be missing, with its header.
pub(super) fn optional(reader: &mut BERReaderSeq<'_, '_>, tag: Tag) -> ASN1Result<Option<Vec<u8>>> {
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
    /// [`Fault::Untrusted`] if not; [`Fault::Malformed`] if there is nothing that could have been
    /// signed.
    pub fn verify(&self, elsewhere: &[u8], certificate: &Certificate) -> Result<(), Fault> {
        let content = match &self.content {
            Some(element) => inside(element)?,
            None => elsewhere.to_vec(),
        };
        let signature = &self.signer.signature;
        let holds = match &self.signer.attributes {
            None => certificate.has_signed(&content, signature),
            Some(set) => {
                self.digest_of(set)? == *Sha256::digest(&content)
                    && certificate.has_signed(set, signature)
            }
        };
        match holds {
            true => Ok(()),
            false => Err(Fault::Untrusted(format!(
                "not signed by {}",
                certificate.subject()
            ))),
        }
    }

    /// Who has signed what is within: its certificate, that of who issued it, and so on, as
    /// far as they came along.
    ///
    /// # Errors
    /// [`Fault::Untrusted`] if it isn't signed by who it says; as [`verify`](Self::verify).
    pub fn signers(&self) -> Result<Vec<Certificate>, Fault> {
        let known = self.certificates.iter();
        let known: Vec<Certificate> = known.flat_map(|bytes| Certificate::parse(bytes)).collect();
        let is_signer = |one: &&Certificate| {
            (one.issuer(), one.serial()) == (&self.signer.issuer, &self.signer.serial)
        };
        let Some(signer) = known.iter().find(is_signer) else {
            let why = "its signer's certificate didn't come along, or has no RSA key";
            return Err(Fault::Untrusted(why.into()));
        };
        self.verify(&[], signer)?;
        let mut chain = vec![signer.clone()];
        while let Some(last) = chain.last()
            && chain.len() < CHAIN
            && let Some(issuer) = known.iter().find(|one| one.has_issued(last))
            && !chain.contains(issuer)
        {
            chain.push(issuer.clone());
        }
        Ok(chain)
    }

    /// The message digest that attributes state, if they state this content's type.
    fn digest_of(&self, set: &[u8]) -> Result<Vec<u8>, Fault> {
        let attributes = der::parse(set, |r| {
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
        let kind = der::parse(&value(CONTENT_TYPE)?, |r| r.read_oid()).map_err(wrong)?;
        if kind != self.kind {
            return Err(wrong(ASN1Error::new(ASN1ErrorKind::Invalid)));
        }
        der::parse(&value(MESSAGE_DIGEST)?, |r| r.read_bytes()).map_err(wrong)
    }
}

/// The digest of the DigestInfo that stands last in a SEQUENCE.
///
/// # Errors
/// [`Fault::Malformed`] if there is none, or of another digest than SHA-256.
pub fn digest_in(element: &[u8]) -> Result<Vec<u8>, Fault> {
    der::parse(element, |r| {
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

fn wrong(e: ASN1Error) -> Fault {
    Fault::Malformed(format!("no signature of a known kind: {e}"))
}
