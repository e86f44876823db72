//! Update bundles, `.slip`: a version of an image, signed, in pieces that a node takes as far
//! as it doesn't have them. `docs/bundle.md` has the format for other readers.
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | `SLIPBNDL` |
//! | 8 | 4 | version of the format: 1 |
//! | 12 | 4 | *n*: bytes of the manifest, at most 4 MiB |
//! | 16 | 16 | which key has signed ([`keys::KeyId`]) |
//! | 32 | *n* | the manifest, JSON of [`Manifest`] |
//! | 32+*n* | 64 | Ed25519 signature of all bytes before it |
//! | 96+*n* | | stored pieces, one behind the other, in the manifest's order |
//!
//! Numbers are little-endian. Only the first 32 bytes are looked at before the signature holds
//! ([`signed`]). A payload (the kernel image, the root's filesystem) is cut into segments of
//! one size. A stored piece is one zstd frame and gives one segment: alone, or as a delta with
//! a stretch of an old payload as prefix. First come the pieces of all segments alone, the
//! kernel's, then the root's; then for each base its deltas. Both, the piece and the segment,
//! have their SHA-256 in the manifest: no byte reaches the decoder that wasn't signed.
//!
//! The verity tree isn't in it: the node makes it from the root that it has written
//! ([`crate::verity`]), and compares the root hash.
//!
//! Taking one is a walk, each step of which is the only way to the next:
//!
//! | step | what | refuses |
//! |---|---|---|
//! | [`Bundle::open`] | signature, format | before anything else is read |
//! | [`Bundle::admit`] | is it for this node, now | before anything is written |
//! | [`Slots::inactive`](crate::slot::Slots::inactive), `begin` | the slot can't be booted any more | |
//! | [`Admitted::prepare`] | what is there already, what has to be fetched | |
//! | [`Prepared::run`] | fetches, verifies, writes, and under Secure Boot asks who signed the kernel image ([`crate::secure_boot`]); then reads all back and gives [`Verified`](crate::slot::Verified) | before the slot can be booted |
//! | [`Writing::finish`](crate::slot::Writing::finish) | the next boot takes it | |
//!
//! What breaks off is begun again from the first step and finds what it has by digest.

mod admit;
mod apply;
pub mod channel;
mod error;
pub mod keys;
pub mod manifest;
pub mod rotation;
pub mod segment;
pub mod signed;
mod source;
pub mod wire;

pub use admit::{Admitted, Allow, NodeFacts};
pub use apply::{Apart, KernelPlace, Places, Prepared, Progress, RootPlace, Step};
pub use error::BundleError;
pub use manifest::{Digest, Manifest, PayloadName};
pub use source::{Source, content_range};

use keys::PublicKey;
use signed::{Kind, SignedError};

/// What a file begins with, and how long its manifest may be.
pub const KIND: Kind = Kind {
    magic: *b"SLIPBNDL",
    format: 1,
    what: "update bundle",
    limit: 4 << 20,
};

/// A bundle whose signature holds.
#[derive(Debug, Clone)]
pub struct Bundle {
    manifest: Manifest,
    /// All before the stored pieces.
    signed: Vec<u8>,
}

/// Reads a bundle's head, manifest and signature, and how many bytes the whole file has. Nothing of it
/// is verified.
///
/// # Errors
/// [`BundleError::Source`]; [`BundleError::Signed`] for what begins as no bundle does.
pub fn read_head(source: &mut dyn Source) -> Result<(Vec<u8>, u64), BundleError> {
    let found = source.size().map_err(BundleError::Source)?;
    let mut head = vec![0; found.min(signed::HEAD as u64) as usize];
    source.read_at(0, &mut head).map_err(BundleError::Source)?;
    let end = KIND.end(&head)?;
    if found < end as u64 {
        return Err(SignedError::CutOff(KIND.what).into());
    }
    head.resize(end, 0);
    source
        .read_at(signed::HEAD as u64, &mut head[signed::HEAD..])
        .map_err(BundleError::Source)?;
    Ok((head, found))
}

impl Bundle {
    /// Reads the head and believes it if one of `keys` has signed it.
    ///
    /// # Errors
    /// [`BundleError`]; nothing but the fixed part of the head was looked at before the
    /// signature held.
    pub fn open(source: &mut dyn Source, keys: &[PublicKey]) -> Result<Self, BundleError> {
        let (head, found) = read_head(source)?;
        let text = signed::verify(&KIND, &head, keys)?;
        let manifest = Manifest::parse(text)?;
        let pieces = head.len() as u64;
        let expected = pieces + manifest.stored();
        if found < expected {
            return Err(BundleError::CutOff { expected, found });
        }
        if found > expected {
            return Err(BundleError::Trailing {
                surplus: found - expected,
            });
        }
        Ok(Self {
            manifest,
            signed: head,
        })
    }

    /// What it brings.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of head, manifest and signature: what a channel knows a bundle by.
    #[must_use]
    pub fn head(&self) -> Digest {
        Digest::of(&self.signed)
    }

    /// Head, manifest and signature themselves: what proves the [keys](rotation) that it brings.
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        &self.signed
    }

    /// Where the stored pieces begin in the file.
    #[must_use]
    pub fn pieces(&self) -> u64 {
        self.signed.len() as u64
    }
}
