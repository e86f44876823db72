//! What a seed says about the machine itself: time, users, files, CAs, its data and its API.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Secret, Window};

/// How the clock is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Ntp {
    /// Whether the clock is set from the network at all.
    pub enabled: bool,
    /// Servers: names or addresses. Without servers and pools the node's own choice holds.
    pub servers: Vec<String>,
    /// Names that stand for several servers.
    pub pools: Vec<String>,
}

impl Default for Ntp {
    fn default() -> Self {
        Self {
            enabled: true,
            servers: Vec::new(),
            pools: Vec::new(),
        }
    }
}

/// Someone who may log in by ssh. No password opens it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct User {
    /// Name.
    pub name: String,
    /// What a person would call it.
    #[serde(default)]
    pub gecos: Option<String>,
    /// Number; the node chooses one from 1000 on if there is none.
    #[serde(default)]
    pub uid: Option<u32>,
    /// Groups besides its own; those that the image lacks are made.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Whether it gets a shell.
    #[serde(default)]
    pub shell: Shell,
    /// OpenSSH public keys.
    #[serde(default)]
    pub ssh_authorized_keys: Vec<String>,
}

/// What a user's login starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shell {
    /// The image's `/bin/sh`.
    #[default]
    Sh,
    /// Nothing.
    Nologin,
}

/// A file to be written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WriteFile {
    /// Where: absolute, below one of [`super::ROOTS`], without `.` and `..`.
    pub path: String,
    /// Its content, decoded.
    pub content: Content,
    /// Permission bits.
    pub permissions: u32,
    /// User, by name or number.
    pub owner: String,
    /// Group, by name or number.
    pub group: String,
    /// Whether the content goes behind what is there.
    pub append: bool,
    /// When it is written.
    pub when: When,
}

/// When something of the seed is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Once for each instance-id: what it makes is kept.
    FirstBoot,
    /// At each boot, since what it makes isn't kept.
    EachBoot,
}

/// A file's bytes, base64 in JSON. They may be secret: `Debug` shows their number.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Content(pub Vec<u8>);

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

impl Serialize for Content {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        super::secret::serialize(&STANDARD.encode(&self.0), serializer)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD
            .decode(text)
            .map(Self)
            .map_err(|_| serde::de::Error::custom("not base64"))
    }
}

/// CAs that programs of the machine trust.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct CaCerts {
    /// More of them, PEM.
    pub trusted: Vec<String>,
    /// Whether those of the image are left out.
    pub remove_defaults: bool,
}

/// Where updates come from, and when one has proved itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Update {
    /// Directory on a web server where versions are published; without one the node is
    /// updated by hand only.
    pub channel: Option<String>,
    /// How often it is looked at, in seconds.
    pub poll: u64,
    /// When its versions are taken; at any time without.
    pub window: Option<Window>,
    /// For how long a new version must be healthy to be kept, in seconds.
    pub dwell: u64,
    /// How long after the boot it must have been, in seconds; else the node reboots.
    pub deadline: u64,
    /// A program that must find it healthy, too: absolute path.
    pub health_script: Option<String>,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            channel: None,
            poll: 6 * 3600,
            window: None,
            dwell: 60,
            deadline: 600,
            health_script: None,
        }
    }
}

/// What the machine's screen and serial line show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Console {
    /// Whether the status page is shown.
    pub status: bool,
}

impl Default for Console {
    fn default() -> Self {
        Self { status: true }
    }
}

/// How the data partition is kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Data {
    /// Whether and how it is encrypted; settled at the first boot.
    pub encrypt: Option<Encrypt>,
}

/// Where the key of an encrypted data partition is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encrypt {
    /// In the machine's TPM 2.0.
    Tpm2,
    /// In the file [`super::PASSPHRASE_FILE`] beside the seed's `user-data`.
    PassphraseFile,
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
