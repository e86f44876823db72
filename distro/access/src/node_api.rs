//! Credentials of the node API: who its clients and its nodes are.
//!
//! One CA stands for everything a person owns. It signs serving certificates of nodes and
//! client certificates; a client's role is the certificate's organisation. A node has no key
//! of the CA and can't renew what it was given, so both kinds live as long as the CA; replacing
//! one is applying a seed with another.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::time::SystemTime;

use slipway_images::node::{ANY_NODE, OPERATOR, READER};

use crate::durable;
use crate::pki::{self, CA_LIFETIME, CertificateAuthority, KeyCertificate, Leaf, PkiError};

/// What a client of the node API may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Reader,
    /// Everything.
    Operator,
}

impl Role {
    /// The organisation that stands for it in a certificate.
    #[must_use]
    pub fn organization(self) -> &'static str {
        match self {
            Self::Reader => READER,
            Self::Operator => OPERATOR,
        }
    }

    /// The greatest role among a certificate's organisations.
    #[must_use]
    pub fn of(organizations: &[String]) -> Option<Self> {
        [Self::Operator, Self::Reader]
            .into_iter()
            .find(|role| organizations.iter().any(|o| o == role.organization()))
    }
}

/// What a person reaches nodes with: one PEM file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Who the person is.
    pub client: KeyCertificate,
    /// PEM of the CA that signs nodes.
    pub ca_pem: String,
}

/// Why a credential can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The file can't be read.
    #[error("can't read {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// It is no credential.
    #[error("{path} is no credential of the node API: {reason}")]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong, never key material.
        reason: String,
    },
}

/// A serving certificate for the node `name` (and its name in mDNS) that is also valid for
/// `addresses`.
///
/// # Errors
/// [`PkiError`].
pub fn serving(
    ca: &CertificateAuthority,
    name: &str,
    addresses: Vec<IpAddr>,
    now: SystemTime,
) -> Result<KeyCertificate, PkiError> {
    let local = format!("{name}.local");
    let names = [name, &local, ANY_NODE, "localhost"].map(str::to_owned);
    let mut leaf = Leaf::server(name, names.to_vec(), addresses);
    leaf.lifetime = CA_LIFETIME;
    ca.issue(&leaf, now)
}

impl Credential {
    /// Makes one for a person of that name.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn issue(
        ca: &CertificateAuthority,
        person: &str,
        role: Role,
        now: SystemTime,
    ) -> Result<Self, PkiError> {
        let mut leaf = Leaf::client(person, Some(role.organization()));
        leaf.lifetime = CA_LIFETIME;
        Ok(Self {
            client: ca.issue(&leaf, now)?,
            ca_pem: ca.certificate_pem().to_owned(),
        })
    }

    /// The file's text: client certificate, its key, the CA.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let parts = [
            &self.client.certificate_pem,
            &self.client.key_pem,
            &self.ca_pem,
        ];
        parts.map(|part| format!("{}\n", part.trim())).concat()
    }

    /// Takes a file's text apart and checks that key and certificate belong together.
    ///
    /// # Errors
    /// What is wrong, in words; never key material.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut client, mut ca, mut key) = (None, None, None);
        for block in pem_blocks(text) {
            if block.contains("PRIVATE KEY-----") {
                key = Some(block.to_owned());
                continue;
            }
            let info = pki::inspect(block).map_err(|error| error.to_string())?;
            let place = if info.is_ca { &mut ca } else { &mut client };
            *place = Some(block.to_owned());
        }
        let missing = |what: &str| format!("it lacks {what}");
        let client = KeyCertificate {
            certificate_pem: client.ok_or_else(|| missing("a client certificate"))?,
            key_pem: key.ok_or_else(|| missing("the certificate's private key"))?,
        };
        client.matching().map_err(|error| error.to_string())?;
        Ok(Self {
            client,
            ca_pem: ca.ok_or_else(|| missing("the CA's certificate"))?,
        })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`CredentialError`].
    pub fn read(path: &Path) -> Result<Self, CredentialError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| CredentialError::Io {
            path: name.clone(),
            source,
        })?;
        Self::parse(&text).map_err(|reason| CredentialError::Corrupt { path: name, reason })
    }

    /// Writes it with mode 0600, whole or not at all.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        durable::write(path, self.to_pem().as_bytes(), 0o600)
    }
}

/// The PEM blocks of a text, without what is between them.
fn pem_blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let from = rest.find("-----BEGIN ")?;
        let block = rest.get(from..)?;
        let end = block.find("-----END ")?;
        let tail = block.get(end + 9..)?;
        let length = end + 9 + tail.find("-----")? + 5;
        rest = block.get(length..)?;
        block.get(..length)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_credential_is_one_file() {
        let now = SystemTime::now();
        let ca = CertificateAuthority::generate("nodes", now - Duration::from_secs(60)).unwrap();
        let credential = Credential::issue(&ca, "ann", Role::Operator, now).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ann.pem");
        credential.write(&path).unwrap();
        let read = Credential::read(&path).unwrap();
        let info = pki::inspect(&read.client.certificate_pem).unwrap();
        assert_eq!(Role::of(&info.organizations), Some(Role::Operator));
        assert_eq!(info.common_name, "ann");
        read.client.check(&ca, now).unwrap();

        // Any order, and text between.
        let shuffled = format!(
            "# nodes\n{}\n# ann\n{}{}",
            read.ca_pem, read.client.key_pem, read.client.certificate_pem
        );
        assert_eq!(Credential::parse(&shuffled).unwrap().ca_pem, read.ca_pem);

        let lacks = |text: &str| Credential::parse(text).unwrap_err();
        assert!(lacks("").contains("client certificate"));
        assert!(lacks(&read.client.certificate_pem).contains("private key"));
        let other = Credential::issue(&ca, "bob", Role::Reader, now).unwrap();
        let mixed = format!(
            "{}{}{}",
            read.ca_pem, other.client.certificate_pem, read.client.key_pem
        );
        assert!(lacks(&mixed).contains("another certificate"));
        let cut = credential.to_pem();
        assert!(!lacks(&cut[..cut.len() / 2]).contains("BEGIN"));
        let error = Credential::read(&dir.path().join("none")).unwrap_err();
        assert!(matches!(error, CredentialError::Io { .. }));
    }

    #[test]
    fn a_node_is_known_by_name_address_and_as_any_node() {
        let now = SystemTime::now();
        let ca = CertificateAuthority::generate("nodes", now).unwrap();
        let pair = serving(&ca, "node1", vec!["10.0.0.1".parse().unwrap()], now).unwrap();
        let info = pair
            .check(&ca, now + Duration::from_secs(9 * 365 * 86400))
            .unwrap();
        assert_eq!(
            info.dns_names,
            ["localhost", "node.slipway.internal", "node1", "node1.local"]
        );
        assert_eq!(info.addresses.len(), 1);
    }
}
