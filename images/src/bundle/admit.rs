//! Is a bundle for this node, now? Asked before anything is written.

use super::error::BundleError;
use super::{Bundle, Manifest};
use crate::secure_boot::Firmware;
use crate::slot::{BadVersion, Plan};
use crate::verity::{self, RootHash};

/// What of a node decides whether it takes a bundle.
#[derive(Debug, Clone)]
pub struct NodeFacts<'a> {
    /// Its board ([`ImageInfo::board`](crate::info::ImageInfo)).
    pub board: &'a str,
    /// The version that runs.
    pub version: &'a str,
    /// Its release number ([`ImageInfo::release`](crate::info::ImageInfo::release)).
    pub release: u64,
    /// The root hash of what runs: which deltas fit. None if that isn't known.
    pub root_hash: Option<RootHash>,
    /// Bytes of the root partition that is to be written.
    pub slot_size: u64,
    /// Bytes that the boot partition has for a kernel image, once the old one of the slot is
    /// away ([`Slots::boot_room`](crate::slot::Slots::boot_room)).
    pub boot_room: u64,
    /// What it can do, by the names of [`Manifest::requires`].
    pub supports: &'a [&'a str],
    /// Versions that have failed on it.
    pub bad_versions: &'a [BadVersion],
    /// What its firmware starts; none where that is everything, without Secure Boot.
    pub firmware: Option<&'a Firmware>,
}

/// What an operator lets pass; a channel nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allow {
    /// A release that is older than what runs.
    pub downgrade: bool,
    /// A version that has failed here before.
    pub bad: bool,
}

/// A bundle that this node may take.
#[derive(Debug, Clone)]
pub struct Admitted {
    pub(super) bundle: Bundle,
    /// Which of the manifest's bases runs.
    pub(super) base: Option<usize>,
    pub(super) firmware: Option<Firmware>,
}

impl Bundle {
    /// Whether the node takes it.
    ///
    /// # Errors
    /// [`BundleError::Requires`], [`Board`](BundleError::Board),
    /// [`Running`](BundleError::Running), [`Older`](BundleError::Older),
    /// [`Bad`](BundleError::Bad), [`SlotTooSmall`](BundleError::SlotTooSmall),
    /// [`BootFull`](BundleError::BootFull).
    pub fn admit(self, node: &NodeFacts<'_>, allow: Allow) -> Result<Admitted, BundleError> {
        let manifest = &self.manifest;
        if manifest.board != node.board {
            return Err(BundleError::Board {
                bundle: manifest.board.clone(),
                node: node.board.to_owned(),
            });
        }
        let unknown = |name: &&String| !node.supports.contains(&name.as_str());
        let unmet: Vec<String> = manifest.requires.iter().filter(unknown).cloned().collect();
        if !unmet.is_empty() {
            return Err(BundleError::Requires(unmet));
        }
        let version = &manifest.version;
        if version == node.version || node.root_hash == Some(manifest.root_hash) {
            return Err(BundleError::Running(version.clone()));
        }
        if manifest.release < node.release && !allow.downgrade {
            return Err(BundleError::Older {
                version: version.clone(),
                release: manifest.release,
                running: node.release,
            });
        }
        let bad = node.bad_versions.iter().find(|bad| bad.version == *version);
        if let Some(bad) = bad.filter(|_| !allow.bad) {
            return Err(BundleError::Bad {
                version: version.clone(),
                why: bad.why.clone(),
            });
        }
        let needed = verity::end(manifest.root.size).unwrap_or(u64::MAX);
        if needed > node.slot_size {
            return Err(BundleError::SlotTooSmall {
                needed,
                slot: node.slot_size,
            });
        }
        if manifest.kernel.size > node.boot_room {
            return Err(BundleError::BootFull {
                needed: manifest.kernel.size,
                room: node.boot_room,
            });
        }
        let base = (node.root_hash).and_then(|hash| {
            manifest
                .bases
                .iter()
                .position(|base| base.root_hash == hash)
        });
        Ok(Admitted {
            bundle: self,
            base,
            firmware: node.firmware.cloned(),
        })
    }
}

impl Admitted {
    /// What it brings.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        self.bundle.manifest()
    }

    /// Its head, as [`Bundle::signed`].
    #[must_use]
    pub fn signed(&self) -> &[u8] {
        self.bundle.signed()
    }

    /// What the slot is told that is to be written.
    #[must_use]
    pub fn plan(&self) -> Plan {
        let manifest = self.manifest();
        Plan {
            version: manifest.version.clone(),
            release: manifest.release,
            root: manifest.root_hash.to_string(),
            // Limited to less by `Manifest::check`.
            payload: u32::try_from(manifest.kernel.size).unwrap_or(u32::MAX),
        }
    }
}
