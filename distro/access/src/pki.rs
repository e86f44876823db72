//! Certificate authorities and the certificates they issue (X.509 v3, ECDSA P-256, RFC 5280).
//!
//! P-256 because every Kubernetes component takes it and a key is made in
//! microseconds, also on an emulated or an old ARM processor; RSA is not.
//!
//! A node may have no clock worth the name when it makes its CAs, so validity
//! begins at a moment that the caller names, and certificates begin with their
//! CA: no later correction of the clock makes a certificate "not yet valid".

mod fingerprint;
mod request;

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

pub use fingerprint::sha256;
pub use request::{Asked, generate_key, request};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a CA is valid: ten years.
pub const CA_LIFETIME: Duration = Duration::from_secs(DAY.as_secs() * 3653);
/// How long an issued certificate is valid when nothing else is asked: one year.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(DAY.as_secs() * 365);

/// Why a key or certificate can't be made or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The bytes are no PEM, DER or certificate: half written, or something else's file.
    #[error("{what} is damaged: {reason}")]
    Corrupt {
        /// Which of the inputs.
        what: &'static str,
        /// The parser's words; never key material.
        reason: String,
    },
    /// Readable, but not what was asked for (no CA, key of another certificate, expired, ...).
    #[error("{what} can't be used: {reason}")]
    Unsuitable {
        /// Which of the inputs.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Signing or key generation failed.
    #[error("can't make {what}: {source}")]
    Generate {
        /// What was to be made.
        what: &'static str,
        /// The library's error.
        source: rcgen::Error,
    },
}

/// A certificate and its private key, both PEM. `Debug` doesn't show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyCertificate {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The private key, PKCS #8 PEM.
    pub key_pem: String,
}

impl fmt::Debug for KeyCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyCertificate")
            .field("certificate_pem", &self.certificate_pem)
            .field("key_pem", &"(secret)")
            .finish()
    }
}

/// What a certificate is good for (extended key usage, RFC 5280 section 4.2.1.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// `clientAuth`
    Client,
    /// `serverAuth`
    Server,
    /// Both, for peers.
    Both,
}

/// A certificate to be issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Subject CN: to Kubernetes the user's name.
    pub common_name: String,
    /// Subject O: to Kubernetes the user's group.
    pub organization: Option<String>,
    /// DNS names a server answers to.
    pub dns_names: Vec<String>,
    /// Addresses a server answers on.
    pub addresses: Vec<IpAddr>,
    /// Client, server or both.
    pub usage: Usage,
    /// Time from now to the end of validity.
    pub lifetime: Duration,
}

impl Leaf {
    /// A client certificate for a user and optionally a group, for [`LEAF_LIFETIME`].
    #[must_use]
    pub fn client(user: &str, group: Option<&str>) -> Self {
        Self {
            common_name: user.to_owned(),
            organization: group.map(str::to_owned),
            dns_names: Vec::new(),
            addresses: Vec::new(),
            usage: Usage::Client,
            lifetime: LEAF_LIFETIME,
        }
    }

    /// A server certificate, for [`LEAF_LIFETIME`].
    #[must_use]
    pub fn server(name: &str, dns_names: Vec<String>, addresses: Vec<IpAddr>) -> Self {
        Self {
            common_name: name.to_owned(),
            organization: None,
            dns_names,
            addresses,
            usage: Usage::Server,
            lifetime: LEAF_LIFETIME,
        }
    }
}

/// What can be read off a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateInfo {
    /// Subject CN.
    pub common_name: String,
    /// Subject O, all of them.
    pub organizations: Vec<String>,
    /// DNS names of the subject alternative name extension, sorted.
    pub dns_names: Vec<String>,
    /// Addresses of the subject alternative name extension, sorted.
    pub addresses: Vec<IpAddr>,
    /// Begin of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// Whether basic constraints say CA.
    pub is_ca: bool,
}

/// A CA's certificate and private key, checked to belong together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateAuthority {
    pair: KeyCertificate,
}

/// The three CAs of a cluster. They are apart so that a client of one kind can't pass for another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cas {
    /// Signs API server, kubelets and every client of the API.
    pub cluster: CertificateAuthority,
    /// Signs the datastore's servers and clients.
    pub etcd: CertificateAuthority,
    /// Signs the API server's identity towards aggregated API servers.
    pub front_proxy: CertificateAuthority,
}

impl Cas {
    /// Makes all three, valid from `not_before` for [`CA_LIFETIME`].
    ///
    /// # Errors
    /// [`PkiError::Generate`].
    pub fn generate(cluster_name: &str, not_before: SystemTime) -> Result<Self, PkiError> {
        Ok(Self {
            cluster: CertificateAuthority::generate(cluster_name, not_before)?,
            etcd: CertificateAuthority::generate(&format!("{cluster_name}-etcd"), not_before)?,
            front_proxy: CertificateAuthority::generate(
                &format!("{cluster_name}-front-proxy"),
                not_before,
            )?,
        })
    }
}

impl CertificateAuthority {
    /// Makes a self-signed CA valid from `not_before` for [`CA_LIFETIME`].
    ///
    /// # Errors
    /// [`PkiError::Generate`].
    pub fn generate(common_name: &str, not_before: SystemTime) -> Result<Self, PkiError> {
        let generate = |source| PkiError::Generate {
            what: "a CA",
            source,
        };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(generate)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(common_name, None);
        params.not_before = offset(not_before)?;
        params.not_after = offset(not_before + CA_LIFETIME)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        let certificate = params.self_signed(&key).map_err(generate)?;
        Ok(Self {
            pair: KeyCertificate {
                certificate_pem: certificate.pem(),
                key_pem: key.serialize_pem(),
            },
        })
    }

    /// Takes a CA made elsewhere, after checking that it is one and that the key is its own.
    ///
    /// # Errors
    /// [`PkiError::Corrupt`] for what can't be parsed, [`PkiError::Unsuitable`] for a
    /// certificate that is no CA or a key of another certificate.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let pair = KeyCertificate {
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.to_owned(),
        };
        let info = pair.matching()?;
        if !info.is_ca {
            return Err(PkiError::Unsuitable {
                what: "the CA certificate",
                reason: "its basic constraints don't say CA".to_owned(),
            });
        }
        Ok(Self { pair })
    }

    /// The certificate, PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.pair.certificate_pem
    }

    /// The private key, PKCS #8 PEM.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.pair.key_pem
    }

    /// What the CA's certificate says.
    ///
    /// # Errors
    /// [`PkiError::Corrupt`]; not after a successful construction.
    pub fn info(&self) -> Result<CertificateInfo, PkiError> {
        inspect(&self.pair.certificate_pem)
    }

    /// Issues a certificate with a fresh key. It begins with the CA, and ends
    /// `leaf.lifetime` after `now` or with the CA, whichever is earlier.
    ///
    /// # Errors
    /// [`PkiError::Generate`] if a name can't be put into a certificate or signing fails.
    pub fn issue(&self, leaf: &Leaf, now: SystemTime) -> Result<KeyCertificate, PkiError> {
        let generate = |source| PkiError::Generate {
            what: "a certificate",
            source,
        };
        let (issuer, params) = self.prepare(leaf, now)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(generate)?;
        let certificate = params.signed_by(&key, &issuer).map_err(generate)?;
        Ok(KeyCertificate {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// What signs, and what is signed apart from the key.
    fn prepare(
        &self,
        leaf: &Leaf,
        now: SystemTime,
    ) -> Result<(Issuer<'_, KeyPair>, CertificateParams), PkiError> {
        let generate = |source| PkiError::Generate {
            what: "a certificate",
            source,
        };
        let ca = self.info()?;
        let ca_key = KeyPair::from_pem(&self.pair.key_pem).map_err(generate)?;
        let issuer =
            Issuer::from_ca_cert_pem(&self.pair.certificate_pem, ca_key).map_err(generate)?;
        let mut params = params(leaf).map_err(generate)?;
        params.not_before = offset(ca.not_before)?;
        params.not_after = offset((now + leaf.lifetime).min(ca.not_after))?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        Ok((issuer, params))
    }
}

/// Names and uses of a certificate or of the request for one.
fn params(leaf: &Leaf) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&leaf.common_name, leaf.organization.as_deref());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match leaf.usage {
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Both => vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ],
    };
    for name in &leaf.dns_names {
        let name = name.as_str().try_into()?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    for address in &leaf.addresses {
        params.subject_alt_names.push(SanType::IpAddress(*address));
    }
    Ok(params)
}

impl KeyCertificate {
    /// Parses both and checks that the key is the certificate's.
    ///
    /// # Errors
    /// [`PkiError::Corrupt`] or [`PkiError::Unsuitable`].
    pub fn matching(&self) -> Result<CertificateInfo, PkiError> {
        let key = KeyPair::from_pem(&self.key_pem).map_err(|error| PkiError::Corrupt {
            what: "the key",
            reason: error.to_string(),
        })?;
        let der = certificate_der(&self.certificate_pem)?;
        let certificate = parse(&der)?;
        // The subject public key's bit string is the raw point, as rcgen gives it.
        if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(PkiError::Unsuitable {
                what: "the key",
                reason: "it belongs to another certificate".to_owned(),
            });
        }
        info(&certificate)
    }

    /// Checks everything that can be known beforehand about a pair found on disk: that it
    /// parses, belongs together, is signed by `ca` and valid at `now`.
    ///
    /// # Errors
    /// [`PkiError::Corrupt`] or [`PkiError::Unsuitable`], saying which check failed.
    pub fn check(
        &self,
        ca: &CertificateAuthority,
        now: SystemTime,
    ) -> Result<CertificateInfo, PkiError> {
        self.check_by(ca.certificate_pem(), now)
    }

    /// [`KeyCertificate::check`] for who has the CA's certificate only.
    ///
    /// # Errors
    /// As there.
    pub fn check_by(&self, ca_pem: &str, now: SystemTime) -> Result<CertificateInfo, PkiError> {
        let info = self.matching()?;
        let ca_der = certificate_der(ca_pem)?;
        let ca_certificate = parse(&ca_der)?;
        let der = certificate_der(&self.certificate_pem)?;
        let unsuitable = |reason: String| PkiError::Unsuitable {
            what: "the certificate",
            reason,
        };
        parse(&der)?
            .verify_signature(Some(ca_certificate.public_key()))
            .map_err(|_| unsuitable("it is signed by another CA".to_owned()))?;
        if now < info.not_before {
            return Err(unsuitable("it is not valid yet by this clock".to_owned()));
        }
        if now > info.not_after {
            return Err(unsuitable("it has expired".to_owned()));
        }
        Ok(info)
    }
}

/// A key pair for signing service-account tokens: `(private PKCS #8, public SPKI)`, PEM.
///
/// # Errors
/// [`PkiError::Generate`].
pub fn generate_signing_key() -> Result<(String, String), PkiError> {
    let key =
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(|source| PkiError::Generate {
            what: "a signing key",
            source,
        })?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

/// The public half (SPKI, PEM) of a private key in PEM.
///
/// # Errors
/// [`PkiError::Corrupt`].
pub fn public_key(key_pem: &str) -> Result<String, PkiError> {
    KeyPair::from_pem(key_pem)
        .map(|key| key.public_key_pem())
        .map_err(|error| PkiError::Corrupt {
            what: "the key",
            reason: error.to_string(),
        })
}

/// Reads the facts off a certificate in PEM.
///
/// # Errors
/// [`PkiError::Corrupt`].
pub fn inspect(certificate_pem: &str) -> Result<CertificateInfo, PkiError> {
    let der = certificate_der(certificate_pem)?;
    info(&parse(&der)?)
}

/// As [`inspect`], of a certificate in DER.
///
/// # Errors
/// [`PkiError::Corrupt`].
pub fn inspect_der(der: &[u8]) -> Result<CertificateInfo, PkiError> {
    info(&parse(der)?)
}

/// The DER of the first certificate in a PEM text.
///
/// # Errors
/// [`PkiError::Corrupt`].
pub fn certificate_der(pem: &str) -> Result<Vec<u8>, PkiError> {
    let corrupt = |reason: String| PkiError::Corrupt {
        what: "the certificate",
        reason,
    };
    // The parser is content with the beginning of the end line; Go's, who reads the file next, is not.
    if !pem.contains("-----END CERTIFICATE-----") {
        return Err(corrupt("there is no whole PEM block".to_owned()));
    }
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .map_err(|error| corrupt(error.to_string()))?;
    if block.label != "CERTIFICATE" {
        return Err(corrupt(format!("a PEM block of a {}", block.label)));
    }
    Ok(block.contents)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, PkiError> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| PkiError::Corrupt {
        what: "the certificate",
        reason: error.to_string(),
    })?;
    Ok(certificate)
}

fn info(certificate: &X509Certificate<'_>) -> Result<CertificateInfo, PkiError> {
    use x509_parser::extensions::GeneralName;
    let corrupt = |reason: String| PkiError::Corrupt {
        what: "the certificate",
        reason,
    };
    let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
        attribute
            .as_str()
            .map(str::to_owned)
            .map_err(|error| corrupt(error.to_string()))
    };
    let subject = certificate.subject();
    let common_name = subject
        .iter_common_name()
        .next()
        .map(text)
        .transpose()?
        .unwrap_or_default();
    let organizations = subject
        .iter_organization()
        .map(text)
        .collect::<Result<_, _>>()?;
    let mut dns_names = Vec::new();
    let mut addresses = Vec::new();
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| corrupt(error.to_string()))?;
    for name in names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
    {
        match name {
            GeneralName::DNSName(name) => dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                if let Ok(four) = <[u8; 4]>::try_from(*bytes) {
                    addresses.push(IpAddr::from(four));
                } else if let Ok(sixteen) = <[u8; 16]>::try_from(*bytes) {
                    addresses.push(IpAddr::from(sixteen));
                }
            }
            _ => {}
        }
    }
    dns_names.sort();
    addresses.sort();
    let moment = |time: x509_parser::time::ASN1Time| {
        // Times before 1970 don't occur in anything this program would accept.
        UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
    };
    Ok(CertificateInfo {
        common_name,
        organizations,
        dns_names,
        addresses,
        not_before: moment(certificate.validity().not_before),
        not_after: moment(certificate.validity().not_after),
        is_ca: certificate.is_ca(),
    })
}

fn subject(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

/// Whole seconds, as certificates have them.
fn offset(moment: SystemTime) -> Result<OffsetDateTime, PkiError> {
    let seconds = moment
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| passed.as_secs());
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| PkiError::Unsuitable {
            what: "the clock",
            reason: format!("{seconds} seconds after 1970 don't fit into a certificate"),
        })
}

#[cfg(test)]
mod tests;
