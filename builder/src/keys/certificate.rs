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
use ring::signature::{self, KeyPair as _, RsaKeyPair};
use rsa::pkcs8::EncodePrivateKey as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use slipway_images::secure_boot::Certificate;

use crate::error::{At as _, Error, Kind, Result};

/// What all firmware verifies; few verify more.
const BITS: usize = 2048;
/// How long a certificate is valid. Firmware mostly doesn't look; what signs and verifies
/// elsewhere does.
const LIFETIME: Duration = Duration::from_secs(20 * 365 * 24 * 60 * 60);

/// Reads a certificate from a file, PEM or DER.
///
/// # Errors
/// [`Kind::Io`]; [`Kind::Input`] for what is none, or has another key than an RSA key.
pub fn read_certificate(path: &Path) -> Result<Certificate> {
    let bytes = fs::read(path).at("reading", path)?;
    let parsed = match CertificateDer::from_pem_slice(&bytes) {
        Ok(der) => Certificate::parse(&der),
        Err(_) => Certificate::parse(&bytes),
    };
    parsed.map_err(|e| {
        Error::from(e)
            .within(path.display())
            .hint("firmware takes RSA with 2048 bits; `slipway keys new` makes such keys")
    })
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
            .field("certificate", &self.certificate.subject())
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
        let read = read_certificate(certificate)?;
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
        if key.public_key().as_ref() != certificate.public() {
            let why = format!("this is not the key of {}", certificate.subject());
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
