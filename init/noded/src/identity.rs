//! Who the node's API is, and whom it trusts.
//!
//! The seed's identity counts, and a copy is kept on the data partition, so that a later seed
//! that is broken or lacks it doesn't lock the owner out. Without either the node makes its
//! own, whose CA key is thrown away: nobody can have a certificate of that CA, so all but
//! `/healthz` is closed.

use std::path::Path;
use std::time::{Duration, SystemTime};

use slipway_access::durable;
use slipway_access::node_api;
use slipway_access::pki::{self, CertificateAuthority, KeyCertificate, PkiError};
use slipway_images::hex;
use slipway_images::seed::{NodeApi, Secret, Seed};

use crate::error::Error;
use crate::notice;
use crate::paths::{Paths, make_private};

/// A node's own CA is valid from this long before it was made: clients' clocks differ.
const BACKDATED: Duration = Duration::from_secs(2 * 24 * 60 * 60);

/// Where an identity comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The seed in force.
    Seed,
    /// An earlier seed; the one in force has none.
    Kept,
    /// Made here.
    Own,
}

/// An identity that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// PEM of the CA whose clients are let in.
    pub ca_pem: String,
    /// The serving certificate and its key.
    pub pair: KeyCertificate,
    /// Neither the CA nor the serving certificate is valid before this.
    pub valid_from: SystemTime,
}

impl Identity {
    /// Checks that CA, certificate and key can be used together.
    ///
    /// # Errors
    /// [`PkiError`], saying which can't.
    pub fn new(ca_pem: &str, certificate_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let ca = pki::inspect(ca_pem)?;
        if !ca.is_ca {
            return Err(PkiError::Unsuitable {
                what: "the node API's CA",
                reason: "its basic constraints don't say CA".to_owned(),
            });
        }
        let pair = KeyCertificate {
            certificate_pem: certificate_pem.to_owned(),
            key_pem: key_pem.to_owned(),
        };
        let leaf = pair.matching()?;
        Ok(Self {
            ca_pem: ca_pem.to_owned(),
            pair,
            valid_from: ca.not_before.max(leaf.not_before),
        })
    }

    /// As a seed has it, and as it is stored.
    ///
    /// # Errors
    /// As [`Identity::new`].
    pub fn of(api: &NodeApi) -> Result<Self, PkiError> {
        Self::new(&api.ca, &api.certificate, api.key.reveal())
    }

    /// SHA-256 of the serving certificate, hexadecimal: what a person compares.
    #[must_use]
    pub fn fingerprint(&self) -> Option<String> {
        Some(hex(&pki::sha256(&self.pair.certificate_pem).ok()?))
    }

    fn make(name: &str, image_built: SystemTime) -> Result<Self, PkiError> {
        // A clock that was never set must not make certificates of 1970.
        let now = SystemTime::now().max(image_built);
        let ca = CertificateAuthority::generate("slipway node", now - BACKDATED)?;
        let pair = node_api::serving(&ca, name, Vec::new(), now)?;
        Self::new(ca.certificate_pem(), &pair.certificate_pem, &pair.key_pem)
    }

    fn read(path: &Path) -> Option<Self> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                notice!("{}: {error}", path.display());
                return None;
            }
        };
        let read = serde_json::from_slice::<NodeApi>(&text)
            .map_err(|error| format!("damaged in line {}", error.line()))
            .and_then(|stored| Self::of(&stored).map_err(|error| error.to_string()));
        read.map_err(|why| notice!("{}: {why}", path.display()))
            .ok()
    }

    /// Keeps it as `file`. That the data partition can't be written is said and no more: the
    /// API is needed most when something is wrong.
    fn store(&self, directory: &Path, file: &str) {
        let stored = NodeApi {
            ca: self.ca_pem.clone(),
            certificate: self.pair.certificate_pem.clone(),
            key: Secret::new(self.pair.key_pem.clone()),
        };
        let written = make_private(directory)
            .and_then(|()| Ok(serde_json::to_vec(&stored)?))
            .and_then(|json| durable::write_if_changed(&directory.join(file), &json, 0o600));
        if let Err(error) = written {
            notice!(
                "the node API's identity can't be kept in {}: {error}",
                directory.display()
            );
        }
    }

    /// Keeps the identity that a seed gave.
    pub fn keep(&self, paths: &Paths) {
        self.store(&paths.identities(), "identity.json");
    }
}

/// The identity to use: the seed's, else the kept one, else the node's own.
///
/// # Errors
/// When there is none and none can be made.
pub fn choose(
    paths: &Paths,
    name: &str,
    image_built: SystemTime,
) -> Result<(Identity, Origin), Error> {
    if let Some(api) = read_seed(paths).and_then(|seed| seed.node_api) {
        match Identity::of(&api) {
            Ok(identity) => {
                identity.keep(paths);
                return Ok((identity, Origin::Seed));
            }
            Err(error) => notice!("the seed's node-api can't be used: {error}"),
        }
    }
    let directory = paths.identities();
    if let Some(kept) = Identity::read(&directory.join("identity.json")) {
        return Ok((kept, Origin::Kept));
    }
    if let Some(own) = Identity::read(&directory.join("own.json")) {
        return Ok((own, Origin::Own));
    }
    let own = Identity::make(name, image_built)?;
    own.store(&directory, "own.json");
    Ok((own, Origin::Own))
}

/// The seed in force; none when there is none or it can't be read, which is said.
#[must_use]
pub fn read_seed(paths: &Paths) -> Option<Seed> {
    let path = paths.seed();
    match std::fs::read_to_string(path) {
        Ok(text) => Seed::from_json(&text)
            .map_err(|error| notice!("{}: {error}", path.display()))
            .ok(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            notice!("{}: {error}", path.display());
            None
        }
    }
}
