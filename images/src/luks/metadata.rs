//! The JSON text of the header. Numbers of 64 bits are texts in it, since JSON's aren't exact.
//!
//! | object | holds, by number |
//! |---|---|
//! | `keyslots` | the volume key, encrypted under a passphrase: how, and where |
//! | `tokens` | where to get a passphrase; each kind is its maker's own |
//! | `segments` | which part of the device is the volume, and its cipher |
//! | `digests` | how a volume key is told from a wrong one |
//! | `config` | sizes, and `requirements`: who doesn't know one of them must keep away |
//!
//! What isn't known is left out here and kept on the disk: a change of the label writes the
//! text back as it was.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::error::Category;

use super::LuksError;
use super::keyslot::Kdf;

/// The whole text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Metadata {
    pub keyslots: BTreeMap<String, Keyslot>,
    pub tokens: BTreeMap<String, serde_json::Value>,
    pub segments: BTreeMap<String, AnySegment>,
    pub digests: BTreeMap<String, Digest>,
    pub config: Config,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Keyslot {
    Luks2(Luks2Keyslot),
    #[serde(other)]
    Other,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Luks2Keyslot {
    /// Bytes of the volume key.
    pub key_size: usize,
    pub af: AntiForensic,
    pub area: Area,
    pub kdf: Kdf,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct AntiForensic {
    #[serde(rename = "type")]
    pub kind: String,
    pub stripes: u32,
    pub hash: Hash,
}

/// Where the encrypted volume key lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Area {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(with = "crate::text")]
    pub offset: u64,
    #[serde(with = "crate::text")]
    pub size: u64,
    pub encryption: String,
    /// Bytes of the key that the passphrase gives.
    pub key_size: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum AnySegment {
    Crypt(Segment),
    #[serde(other)]
    Other,
}

/// The part of the device that is encrypted, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// Where it begins, in bytes.
    #[serde(with = "crate::text")]
    pub offset: u64,
    pub(super) size: Size,
    /// The number of its first sector, for the cipher; in sectors of 512 bytes.
    #[serde(with = "crate::text")]
    pub iv_tweak: u64,
    /// The kernel's name of the cipher, such as `aes-xts-plain64`.
    pub encryption: String,
    /// Bytes that are encrypted at once: 512 or 4096.
    pub sector_size: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) integrity: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) flags: Vec<String>,
}

/// Of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// To the device's end.
    Dynamic,
    Bytes(u64),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Digest {
    Pbkdf2(KeyDigest),
    #[serde(other)]
    Other,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeyDigest {
    pub keyslots: Vec<String>,
    pub segments: Vec<String>,
    pub hash: Hash,
    pub iterations: u32,
    pub salt: Bytes,
    pub digest: Bytes,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Config {
    #[serde(with = "crate::text")]
    pub json_size: u64,
    #[serde(with = "crate::text")]
    pub keyslots_size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<Requirements>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Requirements {
    #[serde(default)]
    pub mandatory: Vec<String>,
}

/// Hashes that keyslots and digests are made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Hash {
    Sha256,
    Sha512,
}

/// Bytes, base64 in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

const DYNAMIC: &str = "dynamic";

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Dynamic => serializer.serialize_str(DYNAMIC),
            Self::Bytes(bytes) => crate::text::serialize(bytes, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == DYNAMIC {
            return Ok(Self::Dynamic);
        }
        let bytes = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self::Bytes(bytes))
    }
}

impl Metadata {
    /// Reads the text of a header whose copies have `size` bytes, and says what can't be
    /// used of it.
    ///
    /// # Errors
    /// [`LuksError::Damaged`], [`LuksError::Unsupported`].
    pub fn read(text: &[u8], size: u64) -> Result<Self, LuksError> {
        let metadata: Self = serde_json::from_slice(text).map_err(|error| {
            let why = format!("JSON that can't be read ({error})");
            match error.classify() {
                // It is JSON, and says something else.
                Category::Data => LuksError::Unsupported(why),
                _ => LuksError::Damaged(why),
            }
        })?;
        let wanted = metadata.config.requirements.iter();
        if let Some(what) = wanted.flat_map(|r| &r.mandatory).next() {
            return Err(LuksError::Unsupported(format!("a volume with {what:?}")));
        }
        let keyslots_end = (2 * size).checked_add(metadata.config.keyslots_size);
        let segment = metadata.segment()?;
        if keyslots_end.is_none_or(|end| end > segment.offset)
            || segment.offset % u64::from(segment.sector_size) != 0
        {
            return Err(LuksError::Damaged("its parts overlap".into()));
        }
        Ok(metadata)
    }

    /// The one segment that a volume of ours has.
    pub fn segment(&self) -> Result<&Segment, LuksError> {
        let unsupported = |what: &str| LuksError::Unsupported(what.to_owned());
        let (Some(AnySegment::Crypt(segment)), 1) = (self.segments.get("0"), self.segments.len())
        else {
            return Err(unsupported("a volume of more than one encrypted segment"));
        };
        if segment.integrity.is_some() || !segment.flags.is_empty() {
            return Err(unsupported("a volume with integrity tags or other flags"));
        }
        if ![512, 4096].contains(&segment.sector_size) {
            return Err(unsupported(
                "encrypted sectors of other than 512 or 4096 bytes",
            ));
        }
        // It becomes a word of a table of the device mapper.
        let word = |c: char| c.is_ascii_alphanumeric() || "-:()_,".contains(c);
        if segment.encryption.is_empty() || !segment.encryption.chars().all(word) {
            return Err(LuksError::Damaged("its cipher is no word".into()));
        }
        Ok(segment)
    }
}

impl Segment {
    /// Bytes of the volume on a device of this size, whole sectors; `None` if it ends before
    /// the volume does.
    #[must_use]
    pub fn size_on(&self, device: u64) -> Option<u64> {
        let room = device.checked_sub(self.offset)?;
        let size = match self.size {
            Size::Dynamic => room,
            Size::Bytes(bytes) if bytes <= room => bytes,
            Size::Bytes(_) => return None,
        };
        let size = size - size % u64::from(self.sector_size);
        (size > 0).then_some(size)
    }
}
