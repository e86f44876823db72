//! Fingerprints: how a person or a token names a certificate that nobody vouches for yet.

use super::{PkiError, certificate_der};

/// SHA-256 of the DER of the first certificate in a PEM.
///
/// # Errors
/// [`PkiError::Corrupt`] if there is none.
pub fn sha256(certificate_pem: &str) -> Result<[u8; 32], PkiError> {
    let der = certificate_der(certificate_pem)?;
    let digest = ring::digest::digest(&ring::digest::SHA256, &der);
    digest.as_ref().try_into().map_err(|_| PkiError::Corrupt {
        what: "the certificate",
        reason: "its digest is no SHA-256".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::CertificateAuthority;

    #[test]
    fn it_is_that_of_the_der() {
        let ca = CertificateAuthority::generate("x", std::time::SystemTime::now()).unwrap();
        let other = CertificateAuthority::generate("x", std::time::SystemTime::now()).unwrap();
        let pem = ca.certificate_pem();
        assert_eq!(
            sha256(pem).unwrap(),
            sha256(&format!("{pem}\n{}", other.certificate_pem())).unwrap()
        );
        assert_ne!(
            sha256(pem).unwrap(),
            sha256(other.certificate_pem()).unwrap()
        );
        assert!(sha256("-----BEGIN CERTIFICATE-----").is_err());
    }
}
