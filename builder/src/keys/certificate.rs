//! The keys of Secure Boot: self-signed X.509 certificates with RSA-2048 and SHA-256, which
//! is what every firmware takes (UEFI 2.10, section 32.4.1), and their private keys.
//!
//! Keys are made by the crate `rsa` and used by `ring`, whose signing takes the same time
//! whatever the key.

use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, IsCa, KeyUsagePurpose, PKCS_RSA_SHA256};
use ring::rand::SystemRandom;
use ring::signature::{self, KeyPair as _, RsaKeyPair, UnparsedPublicKey};
use rsa::pkcs8::EncodePrivateKey as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::digest;
use crate::error::{At as _, Error, Kind, Result};

/// What all firmware verifies; few verify more.
const BITS: usize = 2048;
/// How long a certificate is valid. Firmware mostly doesn't look; what signs and verifies
/// elsewhere does.
const LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    /// Its issuer's name, DER.
    pub(crate) issuer: Vec<u8>,
    /// Its serial number's bytes as DER has them.
    pub(crate) serial: Vec<u8>,
    /// The RSAPublicKey, DER.
    public: Vec<u8>,
    subject: String,
}

impl Certificate {
    /// Takes one apart.
    ///
    /// # Errors
    /// [`Kind::Input`] for what is none, or has another key than an RSA key.
    pub fn parse(der: &[u8]) -> Result<Self> {
        let wrong = |why: String| Error::new(Kind::Input, format!("no certificate: {why}"));
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|e| wrong(e.to_string()))?;
        if !rest.is_empty() {
            return Err(wrong(format!("{} bytes stand behind it", rest.len())));
        }
        let key = parsed.public_key();
        if !matches!(key.parsed(), Ok(x509_parser::public_key::PublicKey::RSA(_))) {
            return Err(Error::new(
                Kind::Input,
                format!("the certificate of {} has no RSA key", parsed.subject()),
            )
            .hint("firmware takes RSA with 2048 bits; `slipway keys new` makes such keys"));
        }
        Ok(Self {
            issuer: parsed.issuer().as_raw().to_vec(),
            serial: parsed.raw_serial().to_vec(),
            public: key.subject_public_key.data.to_vec(),
            subject: parsed.subject().to_string(),
            der: der.to_vec(),
        })
    }

    /// Reads one from a file, PEM or DER.
    ///
    /// # Errors
    /// [`Kind::Io`]; as [`parse`](Self::parse).
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).at("reading", path)?;
        match CertificateDer::from_pem_slice(&bytes) {
            Ok(der) => Self::parse(&der),
            Err(_) => Self::parse(&bytes),
        }
        .map_err(|e| e.within(path.display()))
    }

    /// The DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// Hex SHA-256 of the DER.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        digest::hex(&self.der)
    }

    /// Whose it is, as `CN=...`.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Whether its key has signed these bytes (PKCS #1 v1.5, SHA-256).
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, &self.public)
            .verify(message, signature)
            .is_ok()
    }
}

/// A certificate with its private key, which nothing shows.
pub struct Pair {
    /// The certificate.
    pub certificate: Certificate,
    key: RsaKeyPair,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair")
            .field("certificate", &self.certificate.subject)
            .finish_non_exhaustive()
    }
}

/// A pair that was just made, and its files' texts.
pub struct Made {
    /// The pair.
    pub pair: Pair,
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// The private key, PKCS #8 PEM.
    pub key_pem: String,
}

impl Pair {
    /// Makes a key and signs its certificate with it, valid from `not_before`.
    ///
    /// # Errors
    /// [`Kind::Usage`] for a name that no certificate holds; [`Kind::Bug`].
    pub fn make(name: &str, not_before: SystemTime) -> Result<Made> {
        let bug = |e: &dyn fmt::Display| Error::new(Kind::Bug, format!("making a key: {e}"));
        let key = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, BITS).map_err(|e| bug(&e))?;
        let pkcs8 = key.to_pkcs8_der().map_err(|e| bug(&e))?;
        let key = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(pkcs8.as_bytes()),
            &PKCS_RSA_SHA256,
        )
        .map_err(|e| bug(&e))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = not_before.into();
        params.not_after = (not_before + LIFETIME).into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(|e| bug(&e))?;
        Ok(Made {
            pair: Self::of(Certificate::parse(certificate.der())?, pkcs8.as_bytes())?,
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        })
    }

    /// Reads a certificate and its key, PKCS #8 PEM.
    ///
    /// # Errors
    /// [`Kind::Io`]; [`Kind::Input`] if one is damaged or they don't belong together.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self> {
        let read = Certificate::read(certificate)?;
        let text = fs::read(key).at("reading", key)?;
        let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|e| {
            let why = format!("{}: no private key in PKCS #8 PEM: {e}", key.display());
            Error::new(Kind::Input, why)
        })?;
        Self::of(read, der.secret_pkcs8_der()).map_err(|e| e.within(key.display()))
    }

    fn of(certificate: Certificate, pkcs8: &[u8]) -> Result<Self> {
        let key = RsaKeyPair::from_pkcs8(pkcs8)
            .map_err(|e| Error::new(Kind::Input, format!("no usable RSA key: {e}")))?;
        if key.public_key().as_ref() != certificate.public {
            let why = format!("this is not the key of {}", certificate.subject);
            return Err(Error::new(Kind::Input, why));
        }
        Ok(Self { certificate, key })
    }

    /// Signs (PKCS #1 v1.5, SHA-256): the same bytes give the same signature.
    ///
    /// # Errors
    /// [`Kind::Bug`] only.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let mut signature = vec![0; self.key.public().modulus_len()];
        self.key
            .sign(
                &signature::RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message,
                &mut signature,
            )
            .map_err(|_| Error::new(Kind::Bug, "signing failed"))?;
        Ok(signature)
    }
}
