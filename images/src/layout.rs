//! A node's disk: which partitions it has, where they lie, and how a flashed
//! image becomes a whole disk on first boot.
//!
//! | # by UEFI | # by U-Boot | name | type | size | in a shipped image |
//! |---|---|---|---|---|---|
//! | 1 | | `esp` | EFI system | 128 MiB | yes |
//! | | 1 | `firmware` | basic data, FAT32 | 64 MiB | yes |
//! | | 2 | `boot-a` | extended boot loader, FAT32 | 64 MiB | yes |
//! | 2 | 3 | `root-a` | root of the architecture | 768 MiB, [`verity`](crate::verity)'s tree in it | yes |
//! | | 4 | `boot-b` | same as `boot-a` | same as `boot-a` | added by [`grow`] |
//! | 3 | 5 | `root-b` | same as `root-a` | same as `root-a` | added by [`grow`] |
//! | 4 | 6 | `data` | linux-var | the rest | added and later extended by [`grow`] |
//!
//! With UEFI both slots' kernels are files on `esp`. With U-Boot each has an area of its own,
//! and an update leaves `firmware` alone but for the file with the tries.
//!
//! Every partition begins at a multiple of 1 MiB. The names are the contract
//! between builder, init and updater; the type GUIDs are those of the UAPI
//! Discoverable Partitions Specification. The table's encoding is [`gpt`]'s.

use std::fmt;
use std::io;
use std::ops::Not;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid};

pub mod gpt;
mod units;

pub use gpt::{Found, read, share_first, write};
pub use units::{Bytes, Sectors};

/// Name of the partition that UEFI firmware starts from.
pub const ESP: &str = "esp";
/// Name of the partition with what runs before U-Boot's choice, and U-Boot's script.
pub const FIRMWARE: &str = "firmware";
/// Name of the partition that holds what outlives an update.
pub const DATA: &str = "data";

/// EFI system partition.
pub const TYPE_ESP: Uuid = Uuid::from_u128(0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b);
/// Basic data: what the firmware of boards without UEFI takes for a FAT.
pub const TYPE_BASIC_DATA: Uuid = Uuid::from_u128(0xebd0a0a2_b9e5_4433_87c0_68b6b72699c7);
/// Extended boot loader partition: a kernel with its device trees.
pub const TYPE_XBOOTLDR: Uuid = Uuid::from_u128(0xbc13c2ff_59e6_4262_a352_b275fd6f7172);
/// Root of x86-64.
pub const TYPE_ROOT_X86_64: Uuid = Uuid::from_u128(0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709);
/// Root of 64-bit ARM.
pub const TYPE_ROOT_ARM64: Uuid = Uuid::from_u128(0xb921b045_1df0_41c3_af44_4c6f280d3fae);
/// Root of 32-bit ARM.
pub const TYPE_ROOT_ARM: Uuid = Uuid::from_u128(0x69dad710_2ce4_4e3c_b16c_21a1d49abed3);
/// Variable data, `/var`.
pub const TYPE_VAR: Uuid = Uuid::from_u128(0x4d21b016_b534_45c2_a9fb_5c16e091fd2d);

/// A data partition smaller than this can't hold a cluster's state and images.
pub const MIN_DATA: Bytes = Bytes::mib(1024);

/// What partitions are aligned to: erase blocks of flash and stripes of RAID divide it.
pub const ALIGNMENT: Bytes = Bytes::mib(1);

/// One of the two places a system version can be in. One is running, or about to
/// be; the other takes the next update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Slot {
    /// The one a shipped image fills.
    A,
    /// The one that appears on first boot.
    B,
}

impl Slot {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// Name of the slot's root partition.
    pub const fn root(self) -> &'static str {
        match self {
            Self::A => "root-a",
            Self::B => "root-b",
        }
    }

    /// Name of the slot's boot area, where it has a partition for that.
    pub const fn boot(self) -> &'static str {
        match self {
            Self::A => "boot-a",
            Self::B => "boot-b",
        }
    }

    /// Its letter, as in names of files.
    pub const fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }

    /// The slot whose root partition has this name.
    pub fn of_root(name: &str) -> Option<Self> {
        [Self::A, Self::B].into_iter().find(|s| s.root() == name)
    }
}

impl Not for Slot {
    type Output = Self;
    fn not(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.letter())
    }
}

/// One entry of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// GPT label, at most 36 UTF-16 units.
    pub name: String,
    /// What it is for.
    pub type_guid: Uuid,
    /// Which one it is (PARTUUID).
    pub guid: Uuid,
    /// First sector.
    pub first: Sectors,
    /// Length in sectors, never 0.
    pub len: Sectors,
    /// GPT attribute bits, kept as found.
    pub attributes: u64,
}

impl Partition {
    /// The sector after the last one.
    pub fn end(&self) -> Sectors {
        Sectors(self.first.0.saturating_add(self.len.0))
    }

    /// Offset of its first byte.
    pub fn offset(&self) -> Bytes {
        self.first.for_people()
    }

    /// Its length in bytes.
    pub fn size(&self) -> Bytes {
        self.len.for_people()
    }
}

/// A partition table: entry 1 first, without gaps between entries, in no overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// GUID of the disk.
    pub disk_guid: Uuid,
    /// Size of the disk or image the table is for.
    pub disk: Sectors,
    /// The entries.
    pub partitions: Vec<Partition>,
}

impl Table {
    /// The partition of that name.
    pub fn partition(&self, name: &str) -> Option<&Partition> {
        self.partitions.iter().find(|p| p.name == name)
    }

    /// The number (1, 2, ...) of the partition of that name, as in `/dev/sda2`.
    pub fn number(&self, name: &str) -> Option<usize> {
        self.partitions
            .iter()
            .position(|p| p.name == name)
            .map(|i| i + 1)
    }
}

/// What a shipped image is laid out from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Where the first partition begins; what a board's ROM reads may lie before it.
    pub start: Bytes,
    /// Size of `esp`, or of `firmware`.
    pub esp: Bytes,
    /// Size of each slot's boot area; without one the kernels are on `esp`.
    pub boot: Option<Bytes>,
    /// Size of `root-a`, and on the node of `root-b`.
    pub root: Bytes,
    /// Type GUID of the root, by architecture.
    pub root_type: Uuid,
}

impl Sizes {
    /// The sizes of x86_64 images.
    pub const X86_64: Self = Self {
        start: ALIGNMENT,
        esp: Bytes::mib(128),
        boot: None,
        root: Bytes::mib(768),
        root_type: TYPE_ROOT_X86_64,
    };

    /// The table of an image as shipped: what is before the slots, and slot a, then just the
    /// room the backup table takes. The GUIDs follow from `seed`.
    ///
    /// # Errors
    /// [`LayoutError::Unsupported`] for sizes of 0, no multiple of 1 MiB, or beyond
    /// what can be addressed.
    pub fn shipped(&self, seed: &[u8]) -> Result<Table, LayoutError> {
        let mut parts = match self.boot {
            None => vec![(ESP, TYPE_ESP, self.esp)],
            Some(boot) => vec![
                (FIRMWARE, TYPE_BASIC_DATA, self.esp),
                (Slot::A.boot(), TYPE_XBOOTLDR, boot),
            ],
        };
        parts.push((Slot::A.root(), self.root_type, self.root));
        let mut partitions = Vec::new();
        let mut next = self.start.sectors_floor().align_down();
        if next < ALIGNMENT.sectors_floor() {
            let why = format!(
                "the first partition can't begin at byte {}",
                self.start.get()
            );
            return Err(LayoutError::Unsupported(why));
        }
        for (name, type_guid, size) in parts {
            let refuse = || {
                LayoutError::Unsupported(format!(
                    "partition `{name}` can't be {} bytes long: it takes a multiple of 1 MiB",
                    size.get()
                ))
            };
            let len = size
                .sectors()
                .filter(|s| s.0 > 0 && s.align_down() == *s)
                .ok_or_else(refuse)?;
            partitions.push(Partition {
                name: name.into(),
                type_guid,
                guid: derive_uuid(seed, name),
                first: next,
                len,
                attributes: 0,
            });
            next = next.plus(len).ok_or_else(refuse)?;
        }
        let disk = next
            .plus(ALIGNMENT.sectors_floor())
            .filter(|s| s.bytes().is_some())
            .ok_or_else(|| LayoutError::Unsupported("the image would be too large".into()))?;
        Ok(Table {
            disk_guid: derive_uuid(seed, "disk"),
            disk,
            partitions,
        })
    }
}

/// A UUID (version 8, RFC 9562) that follows from a seed and a purpose.
pub fn derive_uuid(seed: &[u8], purpose: &str) -> Uuid {
    let mut hash = Sha256::new();
    hash.update((seed.len() as u64).to_le_bytes());
    hash.update(seed);
    hash.update(purpose.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    Builder::from_custom_bytes(bytes).into_uuid()
}

/// A node's partitions where UEFI starts it.
const BY_UEFI: [&str; 4] = [ESP, Slot::A.root(), Slot::B.root(), DATA];
/// Where U-Boot does.
const BY_U_BOOT: [&str; 6] = [
    FIRMWARE,
    Slot::A.boot(),
    Slot::A.root(),
    Slot::B.boot(),
    Slot::B.root(),
    DATA,
];

/// The names of a node's partitions, and how many of them a slot has.
fn arrangement(table: &Table) -> (&'static [&'static str], usize) {
    match table.partitions.first() {
        Some(first) if first.name == FIRMWARE => (&BY_U_BOOT, 2),
        _ => (&BY_UEFI, 1),
    }
}

/// What a node's disk should look like, given what is on it now.
///
/// Adds slot b and `data` where they are missing, extends `data` to the end of a
/// disk that has become larger, and moves the backup table there. `None` if there is
/// nothing to do. The GUIDs of new partitions follow from `seed`, which should differ
/// between machines. `found` must have been [`read`] with the disk's real size.
///
/// Nothing that exists is moved or shrunk. What this returns is written with [`write`],
/// which is safe against power loss at every step; after that the kernel has to be told
/// (`BLKRRPART`).
///
/// # Errors
/// [`LayoutError::Foreign`] if the disk holds other partitions than ours, and
/// [`LayoutError::TooSmall`] if there is no room.
pub fn grow(found: &Found, seed: &[u8]) -> Result<Option<Table>, LayoutError> {
    let table = &found.table;
    let (expected, per_slot) = arrangement(table);
    for (i, partition) in table.partitions.iter().enumerate() {
        if expected.get(i) != Some(&partition.name.as_str()) {
            return Err(LayoutError::Foreign {
                number: i + 1,
                name: partition.name.clone(),
            });
        }
    }
    let Some(slot_a) = table.partitions.get(1..=per_slot) else {
        let shipped = expected[..=per_slot].join("`, `");
        return Err(LayoutError::Corrupt(format!(
            "the partitions `{shipped}` are not all there"
        )));
    };
    let usable_end = gpt::usable_end(table.disk).map(Sectors::align_down);
    let mut grown = table.clone();
    let too_small = |needed: Option<Sectors>| LayoutError::TooSmall {
        needed: needed.unwrap_or(Sectors(u64::MAX)).for_people(),
        disk: table.disk.for_people(),
    };
    let behind = |table: &Table| {
        let last = table.partitions.last().map(Partition::end);
        last.and_then(Sectors::align_up)
            .ok_or_else(|| too_small(None))
    };

    for (of_a, number) in slot_a.iter().zip(1 + per_slot..) {
        if grown.partitions.len() == number {
            let name = expected[number];
            grown.partitions.push(Partition {
                name: name.into(),
                guid: derive_uuid(seed, name),
                first: behind(&grown)?,
                attributes: 0,
                ..of_a.clone()
            });
        }
    }
    if grown.partitions.len() == 1 + 2 * per_slot {
        let first = behind(&grown)?;
        let needed = first.plus(MIN_DATA.sectors_floor());
        // One unit more: the backup table lies behind the data.
        let needed_disk = needed.and_then(|n| n.plus(ALIGNMENT.sectors_floor()));
        let (Some(needed), Some(end)) = (needed, usable_end) else {
            return Err(too_small(needed_disk));
        };
        if end < needed {
            return Err(too_small(needed_disk));
        }
        grown.partitions.push(Partition {
            name: DATA.into(),
            type_guid: TYPE_VAR,
            guid: derive_uuid(seed, DATA),
            first,
            len: Sectors(end.0 - first.0),
            attributes: 0,
        });
    } else if let (Some(data), Some(end)) = (grown.partitions.last_mut(), usable_end)
        && end > data.end()
    {
        data.len = Sectors(end.0 - data.first.0);
    }
    let changed = grown != *table || found.needs_repair;
    Ok(changed.then_some(grown))
}

/// Why a disk's table can't be used. Each is met differently: a foreign disk is left
/// alone, a corrupt one is reported, I/O is tried again.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// Reading or writing failed.
    #[error("{doing} the partition table: {source}")]
    Io {
        /// "reading" or "writing".
        doing: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// There is no GPT.
    #[error("there is no GPT partition table on this disk")]
    Absent,
    /// There is one, but neither copy of it holds together.
    #[error("the partition table is corrupt: {0}")]
    Corrupt(String),
    /// It is valid, but of a kind that we don't handle.
    #[error("unsupported partition table: {0}")]
    Unsupported(String),
    /// The disk holds something else than a node.
    #[error("partition {number} is `{name}`, which is not one of ours: this disk is left alone")]
    Foreign {
        /// Its number, from 1.
        number: usize,
        /// Its GPT label.
        name: String,
    },
    /// There is no room for the partitions of a node.
    #[error("the disk is too small: {disk}; a node needs at least {needed}")]
    TooSmall {
        /// Least size of the disk.
        needed: Bytes,
        /// Its size.
        disk: Bytes,
    },
}
