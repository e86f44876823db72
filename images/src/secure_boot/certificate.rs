//! X.509 certificates with RSA keys (RFC 5280), as far as a signature's way to whom firmware
//! trusts needs them. Dates are not looked at: firmware doesn't, either, as its clock may be
//! anything.

use ring::signature::{self, RsaParameters, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};
use yasna::models::ObjectIdentifier;
use yasna::tags::{TAG_INTEGER, TAG_SEQUENCE};
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, Tag};

use super::pkcs7::{RSA_ENCRYPTION, oid, optional};
use super::{Fault, der};
use crate::hex;

/// What it is signed with, and how that is verified.
static ALGORITHMS: [(&[u64], &RsaParameters); 3] = [
    (
        &[1, 2, 840, 113_549, 1, 1, 11],
        &signature::RSA_PKCS1_2048_8192_SHA256,
    ),
    (
        &[1, 2, 840, 113_549, 1, 1, 12],
        &signature::RSA_PKCS1_2048_8192_SHA384,
    ),
    (
        &[1, 2, 840, 113_549, 1, 1, 13],
        &signature::RSA_PKCS1_2048_8192_SHA512,
    ),
];

/// Short names of what a name consists of (RFC 4514, section 3).
const NAMES: [(&[u64], &str); 6] = [
    (&[2, 5, 4, 3], "CN"),
    (&[2, 5, 4, 6], "C"),
    (&[2, 5, 4, 7], "L"),
    (&[2, 5, 4, 8], "ST"),
    (&[2, 5, 4, 10], "O"),
    (&[2, 5, 4, 11], "OU"),
];

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    /// What its issuer has signed.
    tbs: Vec<u8>,
    algorithm: ObjectIdentifier,
    signature: Vec<u8>,
    issuer: Vec<u8>,
    serial: Vec<u8>,
    /// The subject's name, DER.
    name: Vec<u8>,
    subject: String,
    /// The RSAPublicKey, DER.
    public: Vec<u8>,
}

impl Certificate {
    /// Takes one apart.
    ///
    /// # Errors
    /// [`Fault::Malformed`] for what is none, or has another key than an RSA key.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let parsed = der::parse(bytes, |r| certificate(r, bytes));
        let (certificate, key) =
            parsed.map_err(|e| Fault::Malformed(format!("no certificate: {e}")))?;
        match key == oid(RSA_ENCRYPTION) {
            true => Ok(certificate),
            false => Err(Fault::Malformed(format!(
                "the certificate of {} has no RSA key",
                certificate.subject
            ))),
        }
    }

    /// The DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Its issuer's name, DER.
    #[must_use]
    pub fn issuer(&self) -> &[u8] {
        &self.issuer
    }

    /// Its serial number's bytes as DER has them.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// The RSAPublicKey, DER.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Hex SHA-256 of the DER.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex(&Sha256::digest(&self.der))
    }

    /// SHA-256 of what its issuer has signed: how `dbx` names certificates.
    #[must_use]
    pub fn digest_of_signed(&self) -> [u8; 32] {
        Sha256::digest(&self.tbs).into()
    }

    /// Whose it is, as `CN=...`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Whether its key has signed these bytes (PKCS #1 v1.5, SHA-256).
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        self.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature)
    }

    /// Whether its owner has issued another one.
    #[must_use]
    pub fn has_issued(&self, other: &Self) -> bool {
        let known = ALGORITHMS.iter();
        let mut known = known.filter(|(id, _)| other.algorithm == oid(id));
        other.issuer == self.name
            && known.any(|(_, by)| self.verify(by, &other.tbs, &other.signature))
    }

    fn verify(&self, by: &'static RsaParameters, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(by, &self.public)
            .verify(message, signature)
            .is_ok()
    }
}

/// A certificate, and its key's algorithm.
fn certificate(
    reader: BERReader<'_, '_>,
    bytes: &[u8],
) -> ASN1Result<(Certificate, ObjectIdentifier)> {
    let (tbs, algorithm, signature) = reader.read_sequence(|r| {
        let tbs = r.next().read_der()?;
        let algorithm = identifier(r.next())?;
        Ok((tbs, algorithm, r.next().read_bitvec_bytes()?.0))
    })?;
    der::parse(&tbs, |r| {
        r.read_sequence(|r| {
            optional(r, Tag::context(0))?;
            let serial = r.next().read_tagged_der()?;
            if serial.tag() != TAG_INTEGER {
                return Err(ASN1Error::new(ASN1ErrorKind::Invalid));
            }
            identifier(r.next())?;
            let issuer = r.next().read_der()?;
            // From when to when.
            r.next().read_der()?;
            let name = r.next().read_der()?;
            let (key, public) = r.next().read_sequence(|r| {
                let algorithm = identifier(r.next())?;
                Ok((algorithm, r.next().read_bitvec_bytes()?.0))
            })?;
            for extension in 1..=3 {
                optional(r, Tag::context(extension))?;
            }
            let certificate = Certificate {
                der: bytes.to_vec(),
                tbs: tbs.clone(),
                algorithm,
                signature,
                issuer,
                serial: serial.value().to_vec(),
                subject: words(&name).unwrap_or_else(|_| "somebody without a name".into()),
                name,
                public,
            };
            Ok((certificate, key))
        })
    })
}

/// An AlgorithmIdentifier's name, whatever its parameters.
fn identifier(reader: BERReader<'_, '_>) -> ASN1Result<ObjectIdentifier> {
    reader.read_sequence(|r| {
        let id = r.next().read_oid()?;
        r.read_optional(|r| r.read_der())?;
        Ok(id)
    })
}

/// A name to be read.
fn words(name: &[u8]) -> ASN1Result<String> {
    let parts = der::parse(name, |r| {
        if r.lookahead_tag()? != TAG_SEQUENCE {
            return Err(ASN1Error::new(ASN1ErrorKind::Invalid));
        }
        r.collect_sequence_of(|r| {
            r.collect_set_of(|r| {
                r.read_sequence(|r| Ok((r.next().read_oid()?, r.next().read_tagged_der()?)))
            })
        })
    })?;
    let parts = parts.into_iter().flatten().filter_map(|(id, value)| {
        let (_, short) = NAMES.iter().find(|(known, _)| id == oid(known))?;
        let text = String::from_utf8_lossy(value.value());
        let text = text.replace(char::is_control, " ");
        Some(format!("{short}={text}"))
    });
    Ok(parts.collect::<Vec<_>>().join(", "))
}
