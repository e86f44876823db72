//! Why a bundle isn't taken.

use std::io;

use super::manifest::{Digest, PayloadName};
use super::segment::SegmentError;
use super::signed::SignedError;
use crate::secure_boot::{Fault, Refusal};
use crate::slot::SlotError;
use crate::verity::RootHash;

/// One line for each reason.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Not signed by who is trusted, or no bundle of a format that is known.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// More changes of keys than are kept.
    #[error("the update keys were changed too often: build an image with the key that signs now")]
    TooManyHeads,
    /// It can't be fetched.
    #[error("the bundle can't be read: {0}")]
    Source(#[source] io::Error),
    /// Its manifest is signed and makes no sense.
    #[error("the bundle's manifest makes no sense ({0}): make it again")]
    Manifest(String),
    /// There is less of it than its manifest says.
    #[error("the bundle is cut off: {found} of {expected} bytes are there")]
    CutOff {
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// There is more of it than its manifest says.
    #[error("the bundle has {surplus} bytes behind its end, which nobody has signed")]
    Trailing {
        /// How many.
        surplus: u64,
    },
    /// Another board's.
    #[error("the bundle is for board {bundle}, and this is {node}")]
    Board {
        /// The bundle's.
        bundle: String,
        /// The node's.
        node: String,
    },
    /// It needs what this version doesn't have.
    #[error("the bundle needs {}, which this version doesn't have: update to a version in between first", .0.join(", "))]
    Requires(Vec<String>),
    /// It runs already.
    #[error("version {0} runs already")]
    Running(String),
    /// An older release.
    #[error(
        "version {version} is older than what runs (release {release} and {running}): an operator can take it all the same with --allow-downgrade"
    )]
    Older {
        /// The bundle's version.
        version: String,
        /// Its release number.
        release: u64,
        /// That of what runs.
        running: u64,
    },
    /// It has failed here before.
    #[error(
        "version {version} has failed here before ({why}): an operator can take it once more with --force"
    )]
    Bad {
        /// The version.
        version: String,
        /// What happened.
        why: String,
    },
    /// The root is larger than the slot.
    #[error(
        "the bundle's root and its hash tree need {needed} bytes, and a slot has {slot}: flash the node with the new image"
    )]
    SlotTooSmall {
        /// Bytes needed.
        needed: u64,
        /// Bytes of a slot.
        slot: u64,
    },
    /// The kernel image is larger than what the boot partition has.
    #[error(
        "the bundle's kernel image has {needed} bytes, and the boot partition has room for {room}: remove what doesn't belong there"
    )]
    BootFull {
        /// Bytes needed.
        needed: u64,
        /// Bytes free once the old one is away.
        room: u64,
    },
    /// What was fetched isn't what was signed.
    #[error("{payload} segment {segment} of the bundle: {error}")]
    Segment {
        /// Of which payload.
        payload: PayloadName,
        /// Its number, from 0.
        segment: usize,
        /// What is wrong.
        error: SegmentError,
    },
    /// What was written isn't what was signed.
    #[error(
        "the root that was written has the hash {found}, and the bundle says {expected}: the disk has changed it; check the disk"
    )]
    Root {
        /// The bundle's.
        expected: RootHash,
        /// What the disk has.
        found: RootHash,
    },
    /// The hash tree isn't read as it was written.
    #[error("the root's hash tree is read back differently than it was written: check the disk")]
    Tree,
    /// What was written isn't what was signed.
    #[error(
        "the kernel image that was written has the SHA-256 {found}, and the bundle says {expected}: the disk has changed it; check the disk"
    )]
    Kernel {
        /// The bundle's.
        expected: Digest,
        /// What the disk has.
        found: Digest,
    },
    /// Secure Boot is on, and the machine wouldn't come up with it.
    #[error("this machine's firmware wouldn't start the bundle's kernel image (Secure Boot): {0}")]
    Firmware(#[from] Refusal),
    /// The root partition can't be read or written.
    #[error("the slot's root partition: {0}")]
    Place(#[source] io::Error),
    /// The boot partition can't, or the slot is in no state for it.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// Somebody has stopped it.
    #[error("the update was stopped; begun again it goes on where it was")]
    Cancelled,
}

impl From<Fault> for BundleError {
    fn from(fault: Fault) -> Self {
        Self::Firmware(Refusal::Invalid(fault))
    }
}
