//! What a bundle says of itself: the signed JSON at its beginning.
//!
//! Unknown fields are ignored, so that one can be added that old nodes needn't know. What they
//! must know is named in `requires`.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::BundleError;
use super::keys::PublicKey;
use crate::hex::{hex, unhex};
use crate::text::{self, as_text};
use crate::verity::{BLOCK, RootHash};

/// Largest segment in bytes: what a node has in memory unpacked.
pub const SEGMENT_LIMIT: u32 = 8 << 20;
/// Largest prefix in bytes. With a segment it makes the 32 MiB that a decoder looks back.
pub const PREFIX_LIMIT: u32 = 24 << 20;
/// Largest root in bytes: its tree is made in memory, 1/128 of it.
pub const ROOT_LIMIT: u64 = 2 << 30;
/// Largest kernel image in bytes.
pub const KERNEL_LIMIT: u64 = 256 << 20;
/// Most bases.
const BASES: usize = 16;
/// Most names and keys in a list.
const LIST: usize = 32;
/// Longest text in bytes.
const TEXT: usize = 128;

/// SHA-256 of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// That of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl From<Sha256> for Digest {
    fn from(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// A text that is no digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a SHA-256 has 64 hexadecimal digits")]
pub struct NoDigest;

impl FromStr for Digest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        unhex(text).map(Self).ok_or(NoDigest)
    }
}

as_text!(Digest);

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Manifest {
    /// The board that it is for.
    pub board: String,
    /// The image's version.
    pub version: String,
    /// Its release number: higher is later.
    pub release: u64,
    /// Version of Kubernetes in it, such as `v1.36.3`.
    pub kubernetes: String,
    /// What a node must be able to do to take it.
    #[serde(default)]
    pub requires: Vec<String>,
    /// Keys that sign what comes after it, once it was committed ([`super::rotation`]).
    #[serde(default)]
    pub next_keys: Vec<PublicKey>,
    /// Root hash of the root with its verity tree.
    #[serde(with = "text")]
    pub root_hash: RootHash,
    /// SHA-256 of the kernel image.
    pub kernel_sha256: Digest,
    /// Bytes of a segment; the last one of a payload may be shorter.
    pub segment_size: u32,
    /// The kernel image.
    pub kernel: Payload,
    /// The root's filesystem without its tree.
    pub root: Payload,
    /// What it has deltas against.
    #[serde(default)]
    pub bases: Vec<Base>,
}

/// Bytes that go into a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// How many.
    pub size: u64,
    /// Their segments.
    pub segments: Vec<Segment>,
}

/// Some bytes of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// SHA-256 of the bytes.
    pub sha256: Digest,
    /// The piece that gives them without any base. None if all are zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<Stored>,
}

/// A zstd frame in the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Its bytes.
    pub size: u32,
    /// Their SHA-256.
    pub sha256: Digest,
}

/// A version that there are deltas against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Base {
    /// Its version.
    pub version: String,
    /// Root hash of its root: who runs this can use them.
    #[serde(with = "text")]
    pub root_hash: RootHash,
    /// Deltas, by payload and segment. Segments that aren't here are the same at the same
    /// place, or cheaper alone.
    pub deltas: Vec<Delta>,
}

/// A segment as what differs from a stretch of a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Of which payload, here and in the base.
    pub payload: PayloadName,
    /// Number of the segment, from 0.
    pub segment: u32,
    /// Where the stretch begins in the base's payload.
    pub from: u64,
    /// Its bytes.
    pub len: u32,
    /// The piece.
    pub stored: Stored,
}

/// The payloads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PayloadName {
    /// The kernel image.
    Kernel,
    /// The root's filesystem.
    Root,
}

impl PayloadName {
    /// Both, as they lie in a bundle.
    pub const BOTH: [Self; 2] = [Self::Kernel, Self::Root];
}

impl fmt::Display for PayloadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Root => "root",
        })
    }
}

impl Manifest {
    /// Reads JSON that was signed.
    ///
    /// # Errors
    /// [`BundleError::Manifest`] for what makes no sense or goes beyond a limit;
    /// [`BundleError::Requires`] has its own.
    pub fn parse(json: &[u8]) -> Result<Self, BundleError> {
        let manifest: Self =
            serde_json::from_slice(json).map_err(|e| BundleError::Manifest(e.to_string()))?;
        manifest.check().map_err(BundleError::Manifest)?;
        Ok(manifest)
    }

    /// Whether sizes are within limits and fit together, or the sentence that says why not.
    ///
    /// # Errors
    /// That sentence.
    pub fn check(&self) -> Result<(), String> {
        let bad = |what: String| Err(what);
        let texts = [&self.board, &self.version, &self.kubernetes];
        let bases = self.bases.iter().map(|base| &base.version);
        for text in texts.into_iter().chain(&self.requires).chain(bases) {
            if text.is_empty() || text.len() > TEXT || !text.bytes().all(|b| b.is_ascii_graphic()) {
                return bad(format!("{text:?} is no name"));
            }
        }
        if self.requires.len() > LIST || self.next_keys.len() > LIST || self.bases.len() > BASES {
            return bad("a list is too long".into());
        }
        let segment = self.segment_size;
        if segment == 0 || segment > SEGMENT_LIMIT || !u64::from(segment).is_multiple_of(BLOCK) {
            return bad(format!("segments of {segment} bytes"));
        }
        if !self.root.size.is_multiple_of(BLOCK) {
            return bad(format!("a root of {} bytes", self.root.size));
        }
        for (name, limit) in PayloadName::BOTH
            .into_iter()
            .zip([KERNEL_LIMIT, ROOT_LIMIT])
        {
            let Payload { size, segments } = self.payload(name);
            if *size == 0 || *size > limit {
                return bad(format!("a {name} of {size} bytes"));
            }
            if segments.len() as u64 != size.div_ceil(segment.into()) {
                return bad(format!("{} segments of the {name}", segments.len()));
            }
        }
        for base in &self.bases {
            for delta in &base.deltas {
                let of = self
                    .payload(delta.payload)
                    .segments
                    .get(delta.segment as usize);
                if of.is_none_or(|segment| segment.stored.is_none()) {
                    return bad(format!("a delta for {} {}", delta.payload, delta.segment));
                }
                let end = delta.from.checked_add(delta.len.into());
                if delta.len == 0 || delta.len > PREFIX_LIMIT || end.is_none() {
                    return bad(format!("a prefix of {} bytes at {}", delta.len, delta.from));
                }
            }
            let order = |d: &Delta| (d.payload, d.segment);
            if !base.deltas.is_sorted_by(|a, b| order(a) < order(b)) {
                return bad("deltas out of order".into());
            }
        }
        let most = stored_limit(segment);
        match self
            .pieces()
            .find(|piece| piece.size == 0 || piece.size > most)
        {
            Some(piece) => bad(format!("a stored piece of {} bytes", piece.size)),
            None => Ok(()),
        }
    }

    /// A payload.
    #[must_use]
    pub fn payload(&self, name: PayloadName) -> &Payload {
        match name {
            PayloadName::Kernel => &self.kernel,
            PayloadName::Root => &self.root,
        }
    }

    /// Where a segment lies in its payload. Empty for one that there isn't.
    #[must_use]
    pub fn place(&self, name: PayloadName, segment: usize) -> Range<u64> {
        let size = self.payload(name).size;
        let start = (segment as u64).saturating_mul(self.segment_size.into());
        let end = start.saturating_add(self.segment_size.into());
        start.min(size)..end.min(size)
    }

    /// The pieces of segments alone, as they lie in the bundle: which, and the piece.
    pub fn full(&self) -> impl Iterator<Item = (PayloadName, usize, &Stored)> {
        PayloadName::BOTH.into_iter().flat_map(|name| {
            let segments = self.payload(name).segments.iter().enumerate();
            segments.filter_map(move |(n, segment)| Some((name, n, segment.stored.as_ref()?)))
        })
    }

    /// All stored pieces in the order of the bundle.
    fn pieces(&self) -> impl Iterator<Item = &Stored> {
        let deltas = self.bases.iter().flat_map(|base| &base.deltas);
        let full = self.full().map(|(_, _, piece)| piece);
        full.chain(deltas.map(|delta| &delta.stored))
    }

    /// Bytes of all stored pieces.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.pieces().map(|piece| u64::from(piece.size)).sum()
    }

    /// Bytes of the pieces of segments alone.
    #[must_use]
    pub fn stored_full(&self) -> u64 {
        self.full().map(|(_, _, piece)| u64::from(piece.size)).sum()
    }
}

impl Base {
    /// Bytes of its deltas' pieces.
    #[must_use]
    pub fn stored(&self) -> u64 {
        let sizes = self.deltas.iter().map(|delta| delta.stored.size);
        sizes.map(u64::from).sum()
    }
}

/// Longest piece of a segment: what zstd makes at most of bytes that can't be compressed
/// (`ZSTD_COMPRESSBOUND`), and a little.
#[must_use]
pub fn stored_limit(segment: u32) -> u32 {
    segment + segment / 256 + 1024
}
