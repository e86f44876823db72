//! TLS: who the node is, and who is calling.
//!
//! **Clocks.** A node may have no clock worth the name. Certificates begin with their CA
//! ([`slipway_access::pki`]), so a clock that is too early is taken to be at least at the
//! moment when the image was built and when the identity became valid: then no client is "not
//! valid yet", ever. The price is that a client certificate that has expired is taken while
//! the clock is behind its end. A clock that is too late refuses certificates as it must.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use slipway_access::node_api::Role;
use slipway_access::pki;

use crate::error::Error;
use crate::identity::Identity;

/// The system's clock, never before a moment that is known to be past.
#[derive(Debug)]
struct Clock {
    not_before: SystemTime,
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = SystemTime::now().max(self.not_before);
        now.duration_since(UNIX_EPOCH)
            .ok()
            .map(UnixTime::since_unix_epoch)
    }
}

/// Who is calling, by a certificate that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The certificate's common name.
    pub name: String,
    /// What it may do; none if the certificate's organisation is no role.
    pub role: Option<Role>,
}

/// The server's side of TLS with this identity. `past` is a moment before now.
///
/// # Errors
/// [`Error::Tls`] for what rustls refuses.
pub fn config(identity: &Identity, past: SystemTime) -> Result<Arc<ServerConfig>, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Tls(error.to_string());
    let certificate = CertificateDer::from_pem_slice(identity.pair.certificate_pem.as_bytes())
        .map_err(|error| failed(&error))?;
    let key = PrivateKeyDer::from_pem_slice(identity.pair.key_pem.as_bytes())
        .map_err(|error| failed(&error))?;
    let ca = CertificateDer::from_pem_slice(identity.ca_pem.as_bytes())
        .map_err(|error| failed(&error))?;
    let mut roots = RootCertStore::empty();
    roots.add(ca).map_err(|error| failed(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|error| failed(&error))?;
    let clock = Arc::new(Clock {
        not_before: past.max(identity.valid_from),
    });
    let mut config = ServerConfig::builder_with_details(provider, clock)
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate], key)
        .map_err(|error| failed(&error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would be let in after its certificate has expired, and costs memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Who is behind verified certificates; none without any.
#[must_use]
pub fn caller(certificates: Option<&[CertificateDer<'_>]>) -> Option<Caller> {
    let certificate = certificates?.first()?;
    let info = pki::inspect_der(certificate).ok()?;
    Some(Caller {
        role: Role::of(&info.organizations),
        name: info.common_name,
    })
}
