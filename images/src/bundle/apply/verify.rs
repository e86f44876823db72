//! What was written is read back.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};

use super::compare::digest;
use super::places::{Looking, PIECE, threads, told};
use super::{Progress, Step};
use crate::buffer::Buffer;
use crate::bundle::error::BundleError;
use crate::bundle::manifest::Manifest;
use crate::slot::Verified;
use crate::verity::{self, BLOCK};

impl Looking<'_, '_, '_, '_> {
    /// Makes the tree over the root as the medium has it, writes it, and looks at it and the
    /// kernel image once more.
    pub fn verify(&mut self, manifest: &Manifest) -> Result<Verified, BundleError> {
        let size = manifest.root.size;
        self.progress = Progress {
            step: Step::Verify,
            done: 0,
            total: size + manifest.kernel.size,
            ..self.progress
        };
        self.settle()?;
        let tree = self.tree(manifest)?;
        if tree.root != manifest.root_hash {
            return Err(BundleError::Root {
                expected: manifest.root_hash,
                found: tree.root,
            });
        }
        let mut buffer = Buffer::new(PIECE);
        let parts = || (size..).step_by(PIECE).zip(tree.bytes.chunks(PIECE));
        for (offset, part) in parts() {
            let written = &mut buffer[..part.len()];
            written.copy_from_slice(part);
            let root = &mut self.places.root;
            root.write_at(offset, written).map_err(BundleError::Place)?;
        }
        self.settle()?;
        for (offset, part) in parts() {
            let read = &mut buffer[..part.len()];
            let root = &mut self.places.root;
            root.read_at(offset, read).map_err(BundleError::Place)?;
            if read != part {
                return Err(BundleError::Tree);
            }
        }
        self.progress.done = size;
        self.tell()?;
        let whole = 0..manifest.kernel.size;
        let kernel = &mut *self.places.kernel;
        let found = digest(&whole, |offset, buffer| Ok(kernel.read(offset, buffer)?))?;
        if found != manifest.kernel_sha256 {
            return Err(BundleError::Kernel {
                expected: manifest.kernel_sha256,
                found,
            });
        }
        self.progress.done = self.progress.total;
        self.tell()?;
        Ok(Verified::digests_right_and_root_flushed())
    }

    /// What was written to the root partition is on the medium and nowhere else.
    fn settle(&mut self) -> Result<(), BundleError> {
        let root = &mut self.places.root;
        root.flush()
            .and_then(|()| root.forget())
            .map_err(BundleError::Place)
    }

    fn tree(&mut self, manifest: &Manifest) -> Result<verity::Tree, BundleError> {
        let size = manifest.root.size;
        let blocks = NonZeroU64::new(size / BLOCK)
            .ok_or_else(|| BundleError::Manifest("an empty root".into()))?;
        // All of it is read, also what is free in the filesystem: there the tree has zeros.
        let all = 0..size / BLOCK;
        let salt = verity::salt(&manifest.board);
        let shared = Mutex::new((&mut *self.places.root, &mut self.progress, &mut *self.watch));
        verity::tree(
            blocks,
            std::slice::from_ref(&all),
            &salt,
            threads(),
            |block, buffer: &mut [u8]| {
                let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
                let (root, progress, watch) = &mut *shared;
                root.read_at(block * BLOCK, buffer)
                    .map_err(BundleError::Place)?;
                progress.done += buffer.len() as u64;
                told(watch(progress))
            },
        )
    }
}
