//! How a machine that joins comes to trust its cluster: it knows the CA's SHA-256, and takes
//! the CA from the server's TLS handshake. Nothing is sent but the handshake, so nobody who
//! can't prove to be of that CA learns anything.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use slipway_images::pem::to_pem;

/// Why a server's CA isn't known.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Nobody answers.
    #[error("{address} doesn't answer: {source}")]
    Unreachable {
        /// Who was asked.
        address: SocketAddr,
        /// The system's words.
        source: io::Error,
    },
    /// Who answers isn't a server of the cluster that is meant.
    #[error("{address} {reason}")]
    Untrusted {
        /// Who was asked.
        address: SocketAddr,
        /// What is wrong.
        reason: String,
    },
}

/// The CA whose certificate has this SHA-256, PEM, as the server shows it behind its own
/// certificate, which it has signed for `address`. `time` is for each step.
///
/// # Errors
/// [`CaError`].
pub fn ca_of(address: SocketAddr, sha256: [u8; 32], time: Duration) -> Result<String, CaError> {
    let unreachable = |source| CaError::Unreachable { address, source };
    let untrusted = |reason: String| CaError::Untrusted { address, reason };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pin = Arc::new(Pin {
        sha256,
        provider: Arc::clone(&provider),
        found: Mutex::new(None),
    });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| untrusted(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&pin) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let name = ServerName::IpAddress(address.ip().into());
    let mut connection = ClientConnection::new(Arc::new(config), name)
        .map_err(|error| untrusted(error.to_string()))?;
    let mut stream = TcpStream::connect_timeout(&address, time).map_err(unreachable)?;
    stream.set_read_timeout(Some(time)).map_err(unreachable)?;
    stream.set_write_timeout(Some(time)).map_err(unreachable)?;
    while connection.is_handshaking() {
        if let Err(error) = connection.complete_io(&mut stream) {
            let tls = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<Error>());
            return Err(match tls {
                Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => untrusted(
                    "is no server of the cluster that the token is for: its CA is another"
                        .to_owned(),
                ),
                Some(error) => untrusted(format!("shows no usable certificate: {error}")),
                None => unreachable(error),
            });
        }
    }
    let found = pin.found.lock().unwrap_or_else(PoisonError::into_inner);
    match found.as_ref() {
        Some(der) => Ok(to_pem("CERTIFICATE", der)),
        None => Err(untrusted("showed no CA".to_owned())),
    }
}

/// Believes who was signed by the CA with this hash.
#[derive(Debug)]
struct Pin {
    sha256: [u8; 32],
    provider: Arc<CryptoProvider>,
    found: Mutex<Option<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let is_meant = |der: &&CertificateDer<'_>| {
            let digest = ring::digest::digest(&ring::digest::SHA256, der);
            digest.as_ref() == self.sha256
        };
        let unknown = || Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let ca = intermediates.iter().find(is_meant).ok_or_else(unknown)?;
        let ca = ca.clone().into_owned();
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone())?;
        let provider = Arc::clone(&self.provider);
        let verified = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, &[], server_name, ocsp_response, now)?;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = Some(ca);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::SystemTime;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject as _;
    use rustls::{ServerConfig, ServerConnection};

    use super::*;
    use crate::pki::{self, CertificateAuthority, Leaf};

    const TIME: Duration = Duration::from_secs(10);

    /// A server that shows its certificate for `address`, signed by `signer`, and then `shown`.
    fn serve(
        signer: &CertificateAuthority,
        shown: &[&CertificateAuthority],
        address: &str,
    ) -> SocketAddr {
        let leaf = Leaf::server("x", Vec::new(), vec![address.parse().unwrap()]);
        let pair = signer.issue(&leaf, SystemTime::now()).unwrap();
        let der = |pem: &str| CertificateDer::from(pki::certificate_der(pem).unwrap());
        let mut chain = vec![der(&pair.certificate_pem)];
        chain.extend(shown.iter().map(|ca| der(ca.certificate_pem())));
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
            while connection.is_handshaking() && connection.complete_io(&mut stream).is_ok() {}
        });
        at
    }

    #[test]
    fn the_ca_is_taken_from_who_can_prove_to_be_of_it() {
        let now = SystemTime::now();
        let ca = CertificateAuthority::generate("x", now).unwrap();
        let other = CertificateAuthority::generate("x", now).unwrap();
        let sha256 = pki::sha256(ca.certificate_pem()).unwrap();
        let ask = |address| ca_of(address, sha256, TIME).map_err(|error| error.to_string());
        let good = ask(serve(&ca, &[&ca], "127.0.0.1")).unwrap();
        assert_eq!(pki::sha256(&good).unwrap(), sha256);
        assert_eq!(
            pki::certificate_der(&good).unwrap(),
            pki::certificate_der(ca.certificate_pem()).unwrap()
        );
        // Another cluster; one that shows this CA but isn't of it; one of it for another address.
        assert!(
            ask(serve(&other, &[&other], "127.0.0.1"))
                .unwrap_err()
                .contains("its CA is another")
        );
        assert!(ask(serve(&other, &[&ca], "127.0.0.1")).is_err());
        assert!(
            ask(serve(&ca, &[&ca], "127.0.0.2"))
                .unwrap_err()
                .contains("certificate")
        );
        let nobody = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(matches!(
            ca_of(nobody, sha256, TIME),
            Err(CaError::Unreachable { .. })
        ));
    }
}
