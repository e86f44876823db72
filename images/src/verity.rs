//! dm-verity: the hash tree by which the kernel checks each block of a root as it is read.
//!
//! A root and its tree lie in one partition, so that a slot is one range of bytes, written
//! and sent as one, and the table needs no partition more for each slot:
//!
//! | where in the partition | what |
//! |---|---|
//! | 0 | ext4, whose superblock has its size |
//! | at the filesystem's end | verity's superblock, zeros to the block's end |
//! | one block further | the tree's top block, then each level below it, the widest last |
//!
//! A block of the tree is 128 digests of what is below, zeros behind the last one. A digest
//! is SHA-256 of the salt and a block. The root hash is the digest of the top block.
//!
//! | offset in the superblock | size | field (little-endian) |
//! |---|---|---|
//! | 0 | 8 | `verity\0\0` |
//! | 8 | 4 | version: 1 |
//! | 12 | 4 | hash type: 1, the salt comes first |
//! | 16 | 16 | UUID |
//! | 32 | 32 | algorithm: `sha256`, zeros behind it |
//! | 64 | 4 | bytes of a data block: 4096 |
//! | 68 | 4 | bytes of a block of the tree: 4096 |
//! | 72 | 8 | data blocks |
//! | 80 | 2 | bytes of the salt |
//! | 88 | 256 | the salt |
//! | 512 | | end |
//!
//! Sources: cryptsetup's lib/verity/verity.c, whose `veritysetup format` writes the same bytes;
//! the kernel's Documentation/admin-guide/device-mapper/verity.rst.
//!
//! The UUID is the first half of the root hash, as the Discoverable Partitions Specification
//! has it for partitions: so a boot's root hash names its slot, whichever that is. (The
//! partition's own GUID stays: changing it would write the partition table with each update.)
//! Nothing here is believed that the root hash doesn't confirm: a false superblock leads to
//! digests that don't match.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::buffer::{Buffer, is_zero};
use crate::hex::{hex, unhex};

/// Bytes of a block, of data and of the tree.
pub const BLOCK: u64 = 4096;
/// Bytes of the superblock.
pub const SUPERBLOCK: usize = 512;
/// Bytes of a salt of ours.
pub const SALT: usize = 32;

const BLOCK_BYTES: usize = BLOCK as usize;
const DIGEST: usize = 32;
const PER_BLOCK: u64 = BLOCK / DIGEST as u64;
const MAGIC: &[u8; 8] = b"verity\0\0";
const ALGORITHM: &[u8; 32] = b"sha256\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const MAX_SALT: usize = 256;
/// Blocks of data that are read and hashed at once.
const PIECE: u64 = 256;

/// What a root is known by: the digest that stands for all its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootHash([u8; DIGEST]);

impl RootHash {
    /// The UUID of its tree's superblock.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        let mut half = [0; 16];
        half.copy_from_slice(&self.0[..16]);
        Uuid::from_bytes(half)
    }
}

impl fmt::Display for RootHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// A text that is no root hash.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a root hash has 64 hexadecimal digits")]
pub struct NoRootHash;

impl FromStr for RootHash {
    type Err = NoRootHash;

    fn from_str(text: &str) -> Result<Self, NoRootHash> {
        unhex(text).map(Self).ok_or(NoRootHash)
    }
}

/// A superblock of the one kind that we write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Which tree it is; see the module.
    pub uuid: Uuid,
    /// Blocks that the tree covers; their bytes can be counted in 64 bits.
    pub blocks: NonZeroU64,
    /// At most 256 bytes.
    salt: Vec<u8>,
}

/// Why bytes are no superblock that we can use.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SuperblockError {
    /// There is none.
    #[error("there is no verity superblock")]
    Absent,
    /// There is one that asks for what our roots don't have.
    #[error("the verity superblock has {0}")]
    Unsupported(String),
}

impl Superblock {
    /// Reads the bytes of a superblock.
    ///
    /// # Errors
    /// [`SuperblockError`].
    pub fn parse(bytes: &[u8; SUPERBLOCK]) -> Result<Self, SuperblockError> {
        if !bytes.starts_with(MAGIC) {
            return Err(SuperblockError::Absent);
        }
        let number = |at: usize, len: usize| {
            let field = bytes[at..at + len].iter().rev();
            field.fold(0u64, |n, byte| n << 8 | u64::from(*byte))
        };
        let unsupported = |what: String| Err(SuperblockError::Unsupported(what));
        for (name, at, wanted) in [
            ("version", 8, 1),
            ("hash type", 12, 1),
            ("data blocks of bytes", 64, BLOCK),
            ("hash blocks of bytes", 68, BLOCK),
        ] {
            let found = number(at, 4);
            if found != wanted {
                return unsupported(format!("{name} {found}, not {wanted}"));
            }
        }
        if bytes[32..64] != *ALGORITHM {
            return unsupported("another algorithm than sha256".into());
        }
        let blocks =
            NonZeroU64::new(number(72, 8)).filter(|n| n.get().checked_mul(BLOCK).is_some());
        let Some(blocks) = blocks else {
            return unsupported(format!("{} data blocks", number(72, 8)));
        };
        let salt = number(80, 2) as usize;
        if salt > MAX_SALT {
            return unsupported(format!("a salt of {salt} bytes"));
        }
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[16..32]);
        Ok(Self {
            uuid: Uuid::from_bytes(uuid),
            blocks,
            salt: bytes[88..88 + salt].to_vec(),
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; SUPERBLOCK] {
        let mut bytes = [0; SUPERBLOCK];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&1u32.to_le_bytes());
        bytes[12..16].copy_from_slice(&1u32.to_le_bytes());
        bytes[16..32].copy_from_slice(self.uuid.as_bytes());
        bytes[32..64].copy_from_slice(ALGORITHM);
        bytes[64..68].copy_from_slice(&(BLOCK as u32).to_le_bytes());
        bytes[68..72].copy_from_slice(&(BLOCK as u32).to_le_bytes());
        bytes[72..80].copy_from_slice(&self.blocks.get().to_le_bytes());
        bytes[80..82].copy_from_slice(&(self.salt.len() as u16).to_le_bytes());
        bytes[88..88 + self.salt.len()].copy_from_slice(&self.salt);
        bytes
    }

    /// Bytes that the tree covers: where it lies in its partition, superblock first.
    #[must_use]
    pub fn covered(&self) -> u64 {
        // Checked by `parse` and `tree`.
        self.blocks.get().saturating_mul(BLOCK)
    }

    /// Bytes of what is covered, superblock and tree: the least that a partition must have.
    /// `None` beyond 2^64.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        end(self.covered())
    }

    /// The parameters of the kernel's target `verity` for a device that holds data and tree,
    /// without optional ones.
    #[must_use]
    pub fn parameters(&self, device: &str, root: &RootHash) -> String {
        let (blocks, first) = (self.blocks, self.blocks.get().saturating_add(1));
        let salt = match self.salt.is_empty() {
            true => "-".to_owned(),
            false => hex(&self.salt),
        };
        format!("1 {device} {device} {BLOCK} {BLOCK} {blocks} {first} sha256 {root} {salt}")
    }
}

/// Bytes that a filesystem of so many takes with superblock and tree behind it. `None` beyond
/// 2^64.
#[must_use]
pub fn end(data: u64) -> Option<u64> {
    let tree = levels(data.div_ceil(BLOCK))
        .into_iter()
        .try_fold(BLOCK, |sum, level| {
            sum.checked_add(level.checked_mul(BLOCK)?)
        })?;
    data.checked_add(tree)
}

/// The tree's levels from below, in blocks. None for a single data block: then the root hash
/// is its own digest.
fn levels(blocks: u64) -> Vec<u64> {
    let mut levels = Vec::new();
    let mut below = blocks;
    while below > 1 {
        below = below.div_ceil(PER_BLOCK);
        levels.push(below);
    }
    levels
}

/// What belongs behind a filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// What the kernel is to be told.
    pub root: RootHash,
    /// Superblock and tree, whole blocks.
    pub bytes: Vec<u8>,
}

/// The salt of a board's trees.
///
/// It is the same for each of its versions, and so are the digests of what has not changed
/// between two: an update needn't bring them again. A salt that is known beforehand helps
/// nobody to a second block with the same SHA-256.
#[must_use]
pub fn salt(board: &str) -> [u8; SALT] {
    let mut hash = Sha256::new();
    hash.update(b"slipway verity salt ");
    hash.update(board);
    hash.finalize().into()
}

/// Makes the tree over so many blocks of data, of which only those in `used` (ranges of block
/// numbers, ascending) are read, by `read` from a block on into whole blocks; the others are
/// zeros. Takes 1/128 of the data's size in memory.
///
/// # Errors
/// The first that `read` gives. Then no more is read.
///
/// # Panics
/// If `read` does.
pub fn tree<E: Send>(
    blocks: NonZeroU64,
    used: &[Range<u64>],
    salt: &[u8; SALT],
    threads: usize,
    read: impl Fn(u64, &mut [u8]) -> Result<(), E> + Sync,
) -> Result<Tree, E> {
    let salted = Sha256::new_with_prefix(salt);
    let digest = |block: &[u8]| -> [u8; DIGEST] {
        let mut hash = salted.clone();
        hash.update(block);
        hash.finalize().into()
    };
    let zero = digest(&[0; BLOCK_BYTES]);
    let mut digests = zero.repeat(blocks.get() as usize);
    {
        let jobs = Mutex::new(pieces(used, &mut digests).into_iter());
        let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || -> Result<(), E> {
            let mut buffer = Buffer::new((PIECE * BLOCK) as usize);
            while let Some((first, places)) = next() {
                let data = &mut buffer[..places.len() / DIGEST * BLOCK_BYTES];
                let done = read(first, data);
                if done.is_err() {
                    // The others find nothing more to do.
                    while next().is_some() {}
                }
                done?;
                let places = places.as_chunks_mut::<DIGEST>().0;
                for (place, block) in places.iter_mut().zip(data.chunks(BLOCK_BYTES)) {
                    *place = if is_zero(block) { zero } else { digest(block) };
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            workers.into_iter().fold(own, |result, worker| {
                let other = worker.join();
                result.and(other.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })
        })?;
    }
    let mut levels = Vec::new();
    while digests.len() > DIGEST {
        digests.resize(digests.len().next_multiple_of(BLOCK_BYTES), 0);
        let above = digests.chunks(BLOCK_BYTES).flat_map(digest).collect();
        levels.push(std::mem::replace(&mut digests, above));
    }
    let mut root = [0; DIGEST];
    root.copy_from_slice(&digests);
    let root = RootHash(root);
    let superblock = Superblock {
        uuid: root.uuid(),
        blocks,
        salt: salt.to_vec(),
    };
    let mut bytes = Vec::with_capacity(BLOCK_BYTES + levels.iter().map(Vec::len).sum::<usize>());
    bytes.extend(superblock.bytes());
    bytes.resize(BLOCK_BYTES, 0);
    for level in levels.into_iter().rev() {
        bytes.extend(level);
    }
    Ok(Tree { root, bytes })
}

/// Cuts what is used into pieces, each with the place of its digests.
fn pieces<'d>(used: &[Range<u64>], mut digests: &'d mut [u8]) -> Vec<(u64, &'d mut [u8])> {
    let mut pieces = Vec::new();
    let mut at = 0;
    for range in used {
        let mut first = range.start.max(at);
        while first < range.end && !digests.is_empty() {
            let skip = ((first - at) as usize)
                .saturating_mul(DIGEST)
                .min(digests.len());
            digests = &mut std::mem::take(&mut digests)[skip..];
            let count = PIECE.min(range.end - first) as usize;
            let len = (count * DIGEST).min(digests.len());
            let (piece, rest) = std::mem::take(&mut digests).split_at_mut(len);
            digests = rest;
            if !piece.is_empty() {
                pieces.push((first, piece));
            }
            first += count as u64;
            at = first;
        }
    }
    pieces
}

#[cfg(test)]
#[path = "verity_tests.rs"]
mod tests;
