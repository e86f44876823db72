//! The seed: what makes one machine of an image its owner's machine.
//!
//! It comes as `#cloud-config` YAML (a subset of cloud-init's), is checked once,
//! and is handed on as JSON (`/run/slipway/seed.json`, mode 0600). Past
//! [`Seed::parse`] everything in it is valid.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `hostname` | none | RFC 1123 name, also the node's name |
//! | `ssh_authorized_keys` | `[]` | public keys |
//! | `slipway.cluster.name` | `slipway` | name of the cluster, in CAs and kubeconfigs |
//! | `slipway.cluster.role` | `server` | `server` or `agent` |
//! | `slipway.cluster.extra-sans` | `[]` | more names and addresses of the API server |
//! | `slipway.cluster.token` | none | secret for joining |
//! | `slipway.cluster.pod-cidr` | `10.42.0.0/16` | addresses of pods |
//! | `slipway.cluster.service-cidr` | `10.43.0.0/16` | addresses of services |
//! | `slipway.cluster.cluster-domain` | `cluster.local` | DNS domain of services |
//! | `slipway.node-api.{ca,certificate,key}` | made by the node | whom the node API trusts and who it is, PEM; all three or none |
//! | `slipway.cluster.ca.{cluster,etcd,front-proxy}` | made by the node | `{certificate, key}`, PEM; all three or none |
//!
//! An unknown key is a warning with its line, so that a seed for cloud-init or
//! for a newer image still boots; a wrong type or value is an error with its line.

mod applied;
mod cidr;
mod parse;
mod secret;

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use applied::{APPLIED_FILE, Applied, Change, OUTSIDE_FILE, SeedFiles, changes, digest};
pub use cidr::{Cidr, CidrError};
pub use secret::Secret;

/// A checked seed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Seed {
    /// The machine's name, lower-case.
    pub hostname: Option<String>,
    /// OpenSSH public keys, one a line as in `authorized_keys`.
    pub ssh_authorized_keys: Vec<String>,
    /// The cluster this machine makes or joins.
    pub cluster: Cluster,
    /// The node API's identity; without one the node makes its own, which nobody can use.
    pub node_api: Option<NodeApi>,
}

/// Who the node's API is, and whom it lets in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeApi {
    /// PEM of the CA that signs the certificates of clients and of nodes' APIs.
    pub ca: String,
    /// PEM of this node's serving certificate.
    pub certificate: String,
    /// PEM of its private key.
    pub key: Secret,
}

/// What the machine's cluster is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Cluster {
    /// Name of the cluster.
    pub name: String,
    /// This machine's part in it.
    pub role: Role,
    /// More names and addresses that the API server's certificate is valid for.
    pub extra_sans: Vec<San>,
    /// Secret for joining.
    pub token: Option<Secret>,
    /// Addresses of pods.
    pub pod_cidr: Cidr,
    /// Addresses of services.
    pub service_cidr: Cidr,
    /// DNS domain of services.
    pub cluster_domain: String,
    /// CAs made beforehand; without them the first server makes its own.
    pub ca: Option<CaSeed>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            name: "slipway".to_owned(),
            role: Role::Server,
            extra_sans: Vec::new(),
            token: None,
            pod_cidr: Cidr::v4([10, 42, 0, 0], 16),
            service_cidr: Cidr::v4([10, 43, 0, 0], 16),
            cluster_domain: "cluster.local".to_owned(),
            ca: None,
        }
    }
}

/// A machine's part in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs the control plane, and workloads.
    #[default]
    Server,
    /// Runs workloads only.
    Agent,
}

/// A name or address a certificate is valid for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum San {
    /// An IP address.
    Address(IpAddr),
    /// A DNS name, lower-case.
    Dns(String),
}

/// The three CAs of a cluster, made beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CaSeed {
    /// CA of the Kubernetes API and its clients.
    pub cluster: CaPair,
    /// CA of the datastore.
    pub etcd: CaPair,
    /// CA of the API server's identity towards aggregated API servers.
    pub front_proxy: CaPair,
}

/// A CA's certificate and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaPair {
    /// PEM of the certificate.
    pub certificate: String,
    /// PEM of the private key.
    pub key: Secret,
}

/// A seed and what was odd about its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The seed.
    pub seed: Seed,
    /// In the order of the text.
    pub warnings: Vec<Warning>,
}

/// Something in a seed that has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Line in the text, from 1; 0 when it isn't known.
    pub line: u64,
    /// What it is, without secrets.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed, line {}: {}", self.line, self.message)
    }
}

/// Why a seed is refused. Shows no values that may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// The text isn't what a seed looks like, at a line (from 1; 0: the whole).
    #[error("seed, line {line}: {message}")]
    Invalid {
        /// Line in the text.
        line: u64,
        /// What is wrong there.
        message: String,
    },
    /// The JSON handed on by `init` is damaged.
    #[error("the checked seed is damaged: {0}")]
    Json(String),
}

impl Seed {
    /// Parses and checks `#cloud-config` YAML.
    ///
    /// # Errors
    /// [`SeedError::Invalid`] with the line.
    pub fn parse(text: &str) -> Result<Parsed, SeedError> {
        parse::parse(text)
    }

    /// The form for `/run/slipway/seed.json`. It holds the secrets: write it with mode 0600.
    ///
    /// # Errors
    /// [`SeedError::Json`]; not for any value of this type.
    pub fn to_json(&self) -> Result<String, SeedError> {
        serde_json::to_string_pretty(self).map_err(|error| SeedError::Json(error.to_string()))
    }

    /// As [`to_json`](Self::to_json), with every [`Secret`] replaced: for people's eyes.
    ///
    /// # Errors
    /// [`SeedError::Json`]; not for any value of this type.
    pub fn to_redacted_json(&self) -> Result<serde_json::Value, SeedError> {
        secret::redacted(self).map_err(|error| SeedError::Json(error.to_string()))
    }

    /// Every secret text in it, to be kept out of what leaves the node.
    ///
    /// # Errors
    /// [`SeedError::Json`]; not for any value of this type.
    pub fn secrets(&self) -> Result<Vec<String>, SeedError> {
        secret::collect(self).map_err(|error| SeedError::Json(error.to_string()))
    }

    /// Reads what [`Seed::to_json`] wrote.
    ///
    /// # Errors
    /// [`SeedError::Json`].
    pub fn from_json(text: &str) -> Result<Self, SeedError> {
        serde_json::from_str(text).map_err(|error| {
            // Its words may quote a value; category and place are enough.
            SeedError::Json(format!(
                "{:?} error in line {}, column {}",
                error.classify(),
                error.line(),
                error.column()
            ))
        })
    }
}

#[cfg(test)]
mod tests;
