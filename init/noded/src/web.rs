//! A client of web servers: whom it trusts, what it follows, and which failures may pass.

use std::path::Path;
use std::sync::Arc;

use rustls::CertificateError;
use slipway_init::instance::BUNDLE;
use ureq::Agent;
use ureq::http::StatusCode;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use crate::error::{Context as _, Error};

const REDIRECTS: u32 = 5;

/// Why a request brought nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// It may another time.
    Now(String),
    /// It never will.
    Ever(String),
}

impl Miss {
    /// In words.
    #[must_use]
    pub fn why(self) -> String {
        let (Self::Now(why) | Self::Ever(why)) = self;
        why
    }
}

/// A client that trusts the CAs of the node below `root`. With `https` it isn't led to an
/// address without TLS.
///
/// # Errors
/// When there are no CAs to be had and some are needed.
pub fn agent(root: &Path, https: bool) -> Result<Agent, Error> {
    // The image's, and those of the seed once it is read.
    let path = root.join(BUNDLE);
    let bundle = match std::fs::read(&path) {
        // Without TLS none is needed, unless a redirect leads there and finds no issuer.
        Err(_) if !https => Vec::new(),
        other => other.context(|| format!("read {}", path.display()))?,
    };
    let certificates = parse_pem(&bundle).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(certificates.collect())))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Ok(Agent::config_builder()
        .tls_config(tls)
        // What began with a certificate isn't led away from it.
        .https_only(https)
        .http_status_as_error(false)
        .max_redirects(REDIRECTS)
        // A node's environment is the kernel's command line.
        .proxy(None)
        .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent())
}

/// What a status means that isn't the one that was wanted.
#[must_use]
pub fn answered(status: StatusCode) -> Miss {
    let why = format!("the server answers {status}");
    match status.as_u16() {
        408 | 429 | 500.. => Miss::Now(why),
        _ => Miss::Ever(why),
    }
}

/// Says what went wrong with a request, without the address, which may be another's after a redirect, with
/// secrets in it.
pub fn miss(error: ureq::Error) -> Miss {
    if let Some(tls) = tls_error(&error) {
        return match tls {
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
            ) => Miss::Now("the server's certificate isn't valid yet, by this node's clock".into()),
            rustls::Error::InvalidCertificate(why) => Miss::Ever(format!(
                "the server's certificate doesn't hold by the image's CAs: {why}"
            )),
            other => Miss::Now(other.to_string()),
        };
    }
    match error {
        ureq::Error::TooManyRedirects => {
            Miss::Ever(format!("there are more than {REDIRECTS} redirects"))
        }
        ureq::Error::RequireHttpsOnly(_) => {
            Miss::Ever("a redirect leads from https:// to http://".into())
        }
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            Miss::Ever("it, or what a redirect leads to, is no address".into())
        }
        ureq::Error::RedirectFailed => Miss::Ever("a redirect can't be followed".into()),
        ureq::Error::Io(error) => Miss::Now(error.to_string()),
        other => Miss::Now(other.to_string()),
    }
}

fn tls_error(error: &ureq::Error) -> Option<&rustls::Error> {
    match error {
        ureq::Error::Rustls(error) => Some(error),
        ureq::Error::Io(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}
