//! A disk image: the partitions at their places, and the table around them.
//!
//! | offset | what |
//! |---|---|
//! | 0 | protective MBR, primary table ([`slipway_images::layout::gpt`]) |
//! | 1 MiB | `esp` ([`super::fat`]) |
//! | behind it | `root-a` ([`super::ext4`], then [`super::verity`]) |
//! | last 33 sectors | backup table |

use std::fs::File;
use std::path::Path;

use slipway_images::layout::{LayoutError, Partition, Table, write};

use crate::atomic::Pending;
use crate::error::{At as _, Error, Kind, Result};

/// Makes the image `target` with the given table. `fill` writes the partitions into
/// the file, which is all holes before; an image of which a part failed never appears.
///
/// # Errors
/// What `fill` says; [`Kind::Io`]; [`Kind::Bug`] for a table that makes no sense.
pub fn assemble(
    target: &Path,
    table: &Table,
    fill: impl FnOnce(&File, &Table) -> Result<()>,
) -> Result<()> {
    let mut pending = Pending::create(target)?;
    let len = table.disk.bytes().map_or(u64::MAX, |b| b.get());
    pending.file().set_len(len).at("writing", target)?;
    fill(pending.file(), table)?;
    // The commit below syncs; there is no order to keep within a file that nobody sees yet.
    write(pending.file(), table, |_| Ok(())).map_err(|e| match e {
        LayoutError::Io { source, .. } => Error::io("writing", target, &source),
        e => Error::new(Kind::Bug, e.to_string()),
    })?;
    pending.commit(0o644)
}

/// The partition of that name.
///
/// # Errors
/// [`Kind::Bug`] if the table has none.
pub fn partition<'t>(table: &'t Table, name: &str) -> Result<&'t Partition> {
    table
        .partition(name)
        .ok_or_else(|| Error::new(Kind::Bug, format!("the table has no partition `{name}`")))
}
