//! The verity step: a filesystem in its slot gets its hash tree ([`slipway_images::verity`])
//! behind it.

use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use serde::Serialize;
use slipway_images::verity::{self, BLOCK};

pub use slipway_images::verity::RootHash;

use super::sparse;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// Where a slot lies in its image, and what is in it.
#[derive(Debug, Clone, Copy)]
pub struct Slot<'a> {
    /// First byte in the image.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes of the filesystem at its start, a multiple of 4096.
    pub filesystem: u64,
    /// The board, from which the salt follows.
    pub board: &'a str,
}

/// What was written, as the manifest has it: all that `veritysetup verify` needs.
#[derive(Debug, Clone, Serialize)]
pub struct Verity {
    /// The digest that stands for the root, as in the kernel's command line.
    #[serde(serialize_with = "shown")]
    pub root_hash: RootHash,
    /// Where superblock and tree begin in their partition: the filesystem's size.
    pub offset: u64,
    /// Their bytes.
    pub size: u64,
}

fn shown<S: serde::Serializer>(hash: &RootHash, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(hash)
}

/// Writes superblock and tree behind a filesystem. What the file has as holes is not read.
///
/// # Errors
/// [`Kind::Input`] if the slot has no room for them, [`Kind::Io`], [`Kind::Interrupted`].
pub fn append(file: &File, slot: Slot<'_>, threads: usize, progress: &Progress) -> Result<Verity> {
    let failed = |doing: &str, e: &std::io::Error| Error::io_of(doing, "the root's hash tree", e);
    let blocks = NonZeroU64::new(slot.filesystem / BLOCK)
        .filter(|n| n.get() * BLOCK == slot.filesystem)
        .ok_or_else(|| Error::new(Kind::Bug, "the root is not made of whole blocks"))?;
    let end = slot.offset + slot.filesystem;
    let used: Vec<Range<u64>> = sparse::data_ranges(file)
        .map_err(|e| failed("reading what is under", &e))?
        .into_iter()
        .map(|r| {
            r.start.clamp(slot.offset, end) - slot.offset
                ..r.end.clamp(slot.offset, end) - slot.offset
        })
        .map(|r| r.start / BLOCK..r.end.div_ceil(BLOCK))
        .collect();
    let count: u64 = used.iter().map(|r| r.end - r.start).sum();
    let task = progress.task("hashing the root filesystem", Some(count * BLOCK));
    let salt = verity::salt(slot.board);
    let read = |block: u64, into: &mut [u8]| -> Result<()> {
        progress.check()?;
        file.read_exact_at(into, slot.offset + block * BLOCK)
            .map_err(|e| failed("reading what is under", &e))?;
        task.add(into.len() as u64);
        Ok(())
    };
    let tree = verity::tree(blocks, &used, &salt, threads, read)?;
    let size = tree.bytes.len() as u64;
    if slot.filesystem + size > slot.size {
        return Err(Error::new(
            Kind::Input,
            format!(
                "the slot has {} bytes behind its filesystem, and the hash tree needs {size}",
                slot.size.saturating_sub(slot.filesystem)
            ),
        )
        .hint("make the board's image.slot-size larger"));
    }
    sparse::write_at(file, end, &tree.bytes).map_err(|e| failed("writing", &e))?;
    Ok(Verity {
        root_hash: tree.root,
        offset: slot.filesystem,
        size,
    })
}
