//! First boot: makes the disk of a shipped image whole.
//!
//! The layout itself (what is added where, and in which order it is written) is
//! `slipway_images::layout`'s. Here it is applied to a device, with one thing more:
//!
//! Bit 48 of the data partition's attributes says that its filesystem has not been made
//! yet. Only while it is set may the partition be formatted whatever it holds; the initrd
//! clears it when it sees the finished filesystem. So an interrupted first boot is told
//! from a damaged filesystem.

use std::io::{self, Read, Seek, SeekFrom, Write};

use slipway_images::layout::{self, LayoutError, Sectors, Table};
use slipway_images::luks::{LuksError, Volume};

use crate::data::{LABEL, LABEL_UNFINISHED};
use crate::ext4::{SUPERBLOCK_OFFSET, Superblock};

/// Attribute of the data partition: its filesystem has not been made yet.
pub const ATTRIBUTE_UNFINISHED: u64 = 1 << 48;

/// A disk or an image of one.
pub trait Device: Read + Write + Seek {
    /// Waits until what was written is on the medium.
    ///
    /// # Errors
    /// Those of fsync(2).
    fn sync(&mut self) -> io::Result<()>;
}

impl Device for std::fs::File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Whether the type is that of a root, of any architecture we build for.
pub fn is_root_type(guid: &uuid::Uuid) -> bool {
    [
        layout::TYPE_ROOT_X86_64,
        layout::TYPE_ROOT_ARM64,
        layout::TYPE_ROOT_ARM,
    ]
    .contains(guid)
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grown {
    /// The table as it is now.
    pub table: Table,
    /// For the console; empty when all was as it should be.
    pub note: String,
    /// Whether the table was written, so that the kernel must read it again.
    pub changed: bool,
    /// Whether the data partition's filesystem has still to be made.
    pub data_unfinished: bool,
}

/// The table of a disk.
///
/// # Errors
/// [`LayoutError`].
pub fn read_table<D: Read + Seek>(device: &mut D) -> Result<layout::Found, LayoutError> {
    let size = device
        .seek(SeekFrom::End(0))
        .map_err(|source| LayoutError::Io {
            doing: "reading",
            source,
        })?;
    layout::read(device, Sectors::new(size / Sectors::SIZE))
}

/// Brings the table of `device` to what it should be. The GUIDs of new partitions follow
/// from `random`.
///
/// # Errors
/// [`LayoutError`]; unless it is of writing, the disk is as it was.
pub fn grow<D: Device>(device: &mut D, random: &[u8]) -> Result<Grown, LayoutError> {
    let found = read_table(device)?;
    let old = &found.table;
    let mut table = layout::grow(&found, random)?.unwrap_or_else(|| old.clone());
    let is_new = |name| old.partition(name).is_none() && table.partition(name).is_some();
    let mut notes = Vec::new();
    if is_new(layout::DATA) {
        notes.push("slot b and data added".to_owned());
    } else if table != *old {
        notes.push("data grown".to_owned());
    } else if found.needs_repair {
        notes.push("partition table repaired".to_owned());
    }
    let mut data_unfinished = false;
    let new_data = is_new(layout::DATA);
    if let Some(data) = table.partitions.iter_mut().find(|p| p.name == layout::DATA) {
        if new_data {
            data.attributes |= ATTRIBUTE_UNFINISHED;
        }
        if data.attributes & ATTRIBUTE_UNFINISHED != 0 {
            match label(device, data.offset().get())? {
                // Made at the last boot, or left by an earlier installation: kept.
                Some(label) if label == LABEL => data.attributes &= !ATTRIBUTE_UNFINISHED,
                Some(label) if label != LABEL_UNFINISHED => {
                    data_unfinished = true;
                    notes.push(format!("an old filesystem (`{label}`) will be overwritten"));
                }
                _ => data_unfinished = true,
            }
        }
    }
    let changed = found.needs_repair || table != *old;
    if changed {
        layout::write(device, &table, D::sync)?;
    }
    Ok(Grown {
        table,
        note: notes.join(", "),
        changed,
        data_unfinished,
    })
}

/// What the filesystem, or the encrypted volume, that begins there is called; `None` without
/// one that can be read.
fn label<D: Read + Seek>(device: &mut D, start: u64) -> Result<Option<String>, LayoutError> {
    let io = |source| LayoutError::Io {
        doing: "reading behind",
        source,
    };
    let superblock = start.saturating_add(SUPERBLOCK_OFFSET);
    if let Some(sb) = Superblock::read_at(device, superblock).map_err(io)? {
        return Ok(Some(sb.label));
    }
    match Volume::find(device, start) {
        Ok(volume) => Ok(volume.map(|volume| volume.label().to_owned())),
        Err(LuksError::Io { source, .. }) => Err(io(source)),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
#[path = "grow_tests.rs"]
mod tests;
