//! Certificate signing requests (PKCS #10, RFC 2986): how a machine gets a certificate for a
//! key that never leaves it.
//!
//! What a request asks for is the asker's wish and nothing more: the CA's owner compares it
//! with what the asker may have ([`Asked::leaf`]) and issues what it decided itself.

use std::time::SystemTime;

use rcgen::{
    CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, KeyPair,
    PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType,
};

use super::{CertificateAuthority, LEAF_LIFETIME, Leaf, PkiError, Usage};

/// A new private key for signing requests with, PKCS #8 PEM.
///
/// # Errors
/// [`PkiError::Generate`].
pub fn generate_key() -> Result<String, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map(|key| key.serialize_pem())
        .map_err(|source| PkiError::Generate {
            what: "a key",
            source,
        })
}

/// The request for a certificate for this key, PEM. [`Leaf::lifetime`] isn't in it.
///
/// # Errors
/// [`PkiError::Corrupt`] for what is no key, [`PkiError::Generate`] if a name can't be put into it.
pub fn request(leaf: &Leaf, key_pem: &str) -> Result<String, PkiError> {
    let generate = |source| PkiError::Generate {
        what: "a request for a certificate",
        source,
    };
    let key = KeyPair::from_pem(key_pem).map_err(|error| PkiError::Corrupt {
        what: "the key",
        reason: error.to_string(),
    })?;
    super::params(leaf)
        .and_then(|params| params.serialize_request(&key))
        .and_then(|request| request.pem())
        .map_err(generate)
}

/// A request whose signature holds: the asker has the key.
#[derive(Debug, Clone)]
pub struct Asked {
    request: CertificateSigningRequestParams,
    leaf: Leaf,
}

impl Asked {
    /// Reads a request, PEM.
    ///
    /// # Errors
    /// [`PkiError::Corrupt`] for what is none or not signed by its own key;
    /// [`PkiError::Unsuitable`] for names or uses that no certificate of a cluster has.
    pub fn parse(pem: &str) -> Result<Self, PkiError> {
        let what = "the request for a certificate";
        let request =
            CertificateSigningRequestParams::from_pem(pem).map_err(|error| PkiError::Corrupt {
                what,
                reason: error.to_string(),
            })?;
        let unsuitable = |reason: &str| PkiError::Unsuitable {
            what,
            reason: reason.to_owned(),
        };
        let params = &request.params;
        let mut common_name = None;
        let mut organization = None;
        for (kind, value) in params.distinguished_name.iter() {
            let text = text(value).ok_or_else(|| unsuitable("a name that is no text"))?;
            let before = match kind {
                DnType::CommonName => common_name.replace(text),
                DnType::OrganizationName => organization.replace(text),
                _ => return Err(unsuitable("a subject of other parts than O and CN")),
            };
            if before.is_some() {
                return Err(unsuitable("a subject with two of a kind"));
            }
        }
        let mut dns_names = Vec::new();
        let mut addresses = Vec::new();
        for name in &params.subject_alt_names {
            match name {
                SanType::DnsName(name) => dns_names.push(name.to_string()),
                SanType::IpAddress(address) => addresses.push(*address),
                _ => return Err(unsuitable("a name that is neither DNS name nor address")),
            }
        }
        let usage = match params.extended_key_usages[..] {
            [ExtendedKeyUsagePurpose::ClientAuth] => Usage::Client,
            [ExtendedKeyUsagePurpose::ServerAuth] => Usage::Server,
            _ => {
                return Err(unsuitable(
                    "a use that is neither a client's nor a server's",
                ));
            }
        };
        let leaf = Leaf {
            common_name: common_name.ok_or_else(|| unsuitable("no name"))?,
            organization,
            dns_names,
            addresses,
            usage,
            lifetime: LEAF_LIFETIME,
        };
        Ok(Self { request, leaf })
    }

    /// What is asked for. How long, the CA decides.
    #[must_use]
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// SHA-256 of the asker's public key (the bit string of its SubjectPublicKeyInfo).
    #[must_use]
    pub fn key_sha256(&self) -> [u8; 32] {
        let digest =
            ring::digest::digest(&ring::digest::SHA256, self.request.public_key.der_bytes());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        bytes
    }
}

impl CertificateAuthority {
    /// Issues `leaf` for the asker's key, whatever was asked for. It begins with the CA, and ends
    /// `leaf.lifetime` after `now` or with the CA, whichever is earlier. PEM.
    ///
    /// # Errors
    /// [`PkiError::Generate`].
    pub fn sign(&self, asked: &Asked, leaf: &Leaf, now: SystemTime) -> Result<String, PkiError> {
        let (issuer, params) = self.prepare(leaf, now)?;
        let request = CertificateSigningRequestParams {
            params,
            public_key: asked.request.public_key.clone(),
        };
        request
            .signed_by(&issuer)
            .map(|certificate| certificate.pem())
            .map_err(|source| PkiError::Generate {
                what: "a certificate",
                source,
            })
    }
}

fn text(value: &rcgen::DnValue) -> Option<String> {
    match value {
        rcgen::DnValue::Utf8String(text) => Some(text.clone()),
        rcgen::DnValue::PrintableString(text) => Some(text.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{KeyCertificate, inspect};

    #[test]
    fn a_certificate_says_what_the_ca_decided_for_the_askers_key() {
        let now = SystemTime::now();
        let ca = CertificateAuthority::generate("x", now).unwrap();
        let key_pem = generate_key().unwrap();
        let wish = Leaf {
            addresses: vec!["10.0.0.1".parse().unwrap()],
            organization: Some("system:masters".to_owned()),
            ..Leaf::server("system:node:a", vec!["a".to_owned()], Vec::new())
        };
        let asked = Asked::parse(&request(&wish, &key_pem).unwrap()).unwrap();
        assert_eq!(asked.leaf(), &wish);
        let given = Leaf::client("system:node:a", Some("system:nodes"));
        let certificate_pem = ca.sign(&asked, &given, now).unwrap();
        let info = inspect(&certificate_pem).unwrap();
        assert_eq!(info.common_name, "system:node:a");
        assert_eq!(info.organizations, ["system:nodes"]);
        assert!(info.dns_names.is_empty() && info.addresses.is_empty());
        let pair = KeyCertificate {
            certificate_pem,
            key_pem: key_pem.clone(),
        };
        pair.check(&ca, now).unwrap();
        let again = Asked::parse(&request(&given, &key_pem).unwrap()).unwrap();
        assert_eq!(asked.key_sha256(), again.key_sha256());
    }

    #[test]
    fn who_doesnt_have_the_key_is_refused() {
        let leaf = Leaf::client("a", None);
        let pem = request(&leaf, &generate_key().unwrap()).unwrap();
        let block = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap().1;
        // No byte of it can be changed for another to be believed, or makes the reader panic.
        // One changes nothing: how many bits of the signature's last byte count.
        let whole = CertificateSigningRequestParams::from_pem(&pem).unwrap();
        for at in 0..block.contents.len() {
            let mut bytes = block.contents.clone();
            bytes[at] ^= 0x41;
            if let Ok(read) = CertificateSigningRequestParams::from_der(&bytes.into()) {
                assert_eq!(read, whole, "byte {at}");
            }
        }
        assert!(Asked::parse("").is_err());
        assert!(Asked::parse(&pem[..pem.len() / 2]).is_err());
    }
}
