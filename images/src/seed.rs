//! The seed: what makes one machine of an image its owner's machine.
//!
//! It comes as the three documents of cloud-init's NoCloud, is checked once as a whole
//! and is handed on as JSON (`/run/slipway/seed.json`, mode 0600). Past
//! [`Seed::read`] everything in it is valid.
//!
//! | document | form | here |
//! |---|---|---|
//! | `user-data` | `#cloud-config` YAML, with a key `slipway` of our own | `user`, `slipway`, `files` |
//! | `network-config` | netplan, version 2 | `netplan`, `links` |
//! | `meta-data` | YAML or JSON | `meta` |
//!
//! Each key is a line of a table in its module: the parser, the JSON schema and
//! `docs/seed.md` are all made of it. An unknown key is a warning with its place, so that a
//! seed for cloud-init or for a newer image still boots; a wrong type or value is an error
//! with its place. All findings are collected; none shows a secret.

mod applied;
mod cidr;
mod clock;
mod cluster;
mod diff;
mod files;
mod finding;
mod graph;
mod labels;
mod links;
mod machine;
mod meta;
mod netplan;
pub mod network;
mod read;
mod schema;
mod secret;
mod shape;
mod slipway;
pub mod url;
mod user;
mod words;
mod yaml;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use applied::{APPLIED_FILE, Applied, Documents, NOTHING, OUTSIDE_FILE, outside};
pub use cidr::{Cidr, CidrError};
pub use clock::{NoTime, NoWindow, TimeOfDay, Window};
pub use cluster::{
    ANY_REGISTRY, CaPair, CaSeed, Cluster, Component, Datastore, Effect as TaintEffect, Flag,
    Registry, Role, San, Taint, Token,
};
pub use diff::{Change, Effect, What, diff, effect, effect_of};
pub use files::ROOTS;
pub use finding::{Document, Finding, Place, Severity};
pub use machine::{
    CaCerts, Console, Content, Data, Encrypt, NodeApi, Ntp, Shell, Update, User, When, WriteFile,
};
pub use network::Network;
pub use schema::{schema, shape};
pub use secret::Secret;
pub use shape::{Fate, Row, Shape};
pub use user::HEADER;

/// The file beside `user-data` that holds the passphrase of an encrypted data
/// partition ([`Encrypt::PassphraseFile`]).
pub const PASSPHRASE_FILE: &str = "passphrase";

/// A checked seed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Seed {
    /// Which instance this is; the first-boot parts are done once for each.
    pub instance_id: Option<String>,
    /// The machine's name, lower-case.
    pub hostname: Option<String>,
    /// Its name with its domain, lower-case.
    pub fqdn: Option<String>,
    /// Name of the time zone.
    pub timezone: Option<String>,
    /// How the clock is kept.
    pub ntp: Ntp,
    /// OpenSSH public keys of root, one a line as in `authorized_keys`.
    pub ssh_authorized_keys: Vec<String>,
    /// Who else may log in.
    pub users: Vec<User>,
    /// Files to write, in this order.
    pub write_files: Vec<WriteFile>,
    /// CAs to trust.
    pub ca_certs: CaCerts,
    /// Interfaces; `None`: DHCP on every wired one.
    pub network: Option<Network>,
    /// The cluster this machine makes or joins.
    pub cluster: Cluster,
    /// How registries are reached, by host; `*` is for all others.
    pub registries: BTreeMap<String, Registry>,
    /// Where updates come from.
    pub update: Update,
    /// What screen and serial line show.
    pub console: Console,
    /// How data is kept.
    pub data: Data,
    /// The node API's identity; without one the node makes its own, which nobody can use.
    pub node_api: Option<NodeApi>,
}

/// The texts of a seed's documents. Only the first must be there.
#[derive(Clone, Copy, Default)]
pub struct SeedFiles<'a> {
    /// `user-data`
    pub user_data: &'a str,
    /// `network-config`
    pub network_config: Option<&'a str>,
    /// `meta-data`
    pub meta_data: Option<&'a str>,
}

/// A seed and what was odd about its texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// The seed.
    pub seed: Seed,
    /// In the order of the texts; all of [`Severity::Warning`].
    pub warnings: Vec<Finding>,
}

/// Why a seed is refused. Shows no values that may be secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// The texts aren't what a seed looks like. All findings, warnings too, in the
    /// order of the texts; one at least is an error.
    #[error("{}", summary(.0))]
    Invalid(Vec<Finding>),
    /// The JSON handed on by `init` is damaged.
    #[error("the checked seed is damaged: {0}")]
    Json(String),
}

/// One line: the first error, and how many more there are.
fn summary(findings: &[Finding]) -> String {
    let errors = || findings.iter().filter(|f| f.severity == Severity::Error);
    let first = errors().next().map(ToString::to_string).unwrap_or_default();
    match errors().count() {
        0 | 1 => first,
        2 => format!("{first} (and one more error)"),
        n => format!("{first} (and {} more errors)", n - 1),
    }
}

impl SeedError {
    /// All findings, warnings too.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Invalid(findings) => findings,
            Self::Json(_) => &[],
        }
    }
}

impl Seed {
    /// Reads and checks a seed's documents as a whole.
    ///
    /// # Errors
    /// [`SeedError::Invalid`] with everything that was found.
    pub fn read(files: SeedFiles<'_>) -> Result<Parsed, SeedError> {
        let mut seed = Self::default();
        let mut cx = read::Cx::new();
        user::read(files.user_data, &mut seed, &mut cx);
        if let Some(text) = files.network_config {
            seed.network = netplan::read(text, &seed.cluster, &mut cx);
        }
        if let Some(text) = files.meta_data {
            meta::read(text, &mut seed, &mut cx);
        }
        let findings = cx.finish();
        if findings.iter().any(|f| f.severity == Severity::Error) {
            return Err(SeedError::Invalid(findings));
        }
        Ok(Parsed {
            seed,
            warnings: findings,
        })
    }

    /// Reads and checks `user-data` alone.
    ///
    /// # Errors
    /// [`SeedError::Invalid`] with everything that was found.
    pub fn parse(user_data: &str) -> Result<Parsed, SeedError> {
        Self::read(SeedFiles {
            user_data,
            ..SeedFiles::default()
        })
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
