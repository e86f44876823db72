//! The EFI system partition: FAT32 with long names.
//!
//! | sector of 512 bytes | what |
//! |---|---|
//! | 0 | boot sector: BIOS parameter block, volume serial, label |
//! | 1 | FSInfo |
//! | 6, 7 | backups of both |
//! | 32.. | two file allocation tables |
//! | next | clusters from number 2, the root directory's first |
//!
//! Sources: Microsoft's FAT specification 1.03; UEFI 2.10 section 13.3. It is FAT32 by
//! its cluster count (at least 65,525) whatever the size, since firmware goes by the
//! count and some of it reads nothing else inside a GPT.

use std::fs::File;

use hadris_fat::sync::write as write_volume;
use hadris_fat::{FatKind, FatOptions, VolumeLabel};
use hadris_fs::{Content, DateTime, ErrorKind};
use hadris_storage::{BlockSize, MemDevice};

use super::sparse;
use crate::error::{Error, Kind, Result};
use crate::tree::{NodeKind, Tree};

/// The least clusters that make a FAT32, with a margin for tools that count differently.
const MIN_CLUSTERS: u64 = 65_525 + 16;

/// 1980-01-01 and 2107-12-31 in seconds since 1970: what FAT's time stamps can say.
const TIMES: (i64, i64) = (315_532_800, 4_354_732_800 - 86_400);

/// What a volume is made with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its size in bytes, a multiple of 512.
    pub size: u64,
    /// At most 11 characters; stored in capitals.
    pub label: String,
    /// The volume serial number.
    pub serial: u32,
    /// Every time stamp, in seconds since 1970: `SOURCE_DATE_EPOCH`.
    pub epoch: i64,
}

/// Writes the tree's files and directories as a volume into `file` at `offset`. That
/// region must be all holes. Owners and modes have no place in FAT.
///
/// # Errors
/// [`Kind::Input`] if the tree doesn't fit or holds links, or names FAT can't hold;
/// [`Kind::Io`].
pub fn write(tree: &Tree, file: &File, offset: u64, options: &Options) -> Result<()> {
    let volume = build(tree, offset, options)?;
    sparse::write_at(file, offset, &volume)
        .map_err(|e| Error::io("writing", std::path::Path::new("the EFI partition"), &e))
}

/// The volume's bytes.
fn build(tree: &Tree, offset: u64, options: &Options) -> Result<Vec<u8>> {
    let refuse = |why: String| Error::new(Kind::Input, format!("the EFI partition: {why}"));
    let mut volume = hadris_fs::Tree::new();
    let mut content_size = 0;
    for (path, node) in tree.iter() {
        let node = match &node.kind {
            NodeKind::Directory => hadris_fs::Node::dir(),
            NodeKind::File(content) => {
                content_size += content.len();
                hadris_fs::Node::file(Content::bytes(content.read()?.to_vec()))
            }
            NodeKind::Symlink(_) | NodeKind::Hardlink(_) => {
                return Err(refuse(format!("`{path}` is a link, which FAT hasn't got")));
            }
        };
        volume
            .insert(path, node)
            .map_err(|e| refuse(format!("`{path}`: {e}")))?;
    }
    // The largest clusters that still make it FAT32: the fewer, the faster firmware reads.
    // An eighth is room enough for the tables, which take 8 bytes for each cluster.
    let cluster = [4096, 2048, 1024, 512]
        .into_iter()
        .find(|c| (options.size - options.size / 8) / u64::from(*c) >= MIN_CLUSTERS)
        .ok_or_else(|| {
            refuse(format!("{} MiB are too few for FAT32", options.size >> 20))
                .hint("make it at least 40 MiB")
        })?;
    let label = VolumeLabel::new(&options.label)
        .map_err(|e| refuse(format!("the label `{}`: {e:?}", options.label)))?;
    let time = DateTime::from_unix_seconds(options.epoch.clamp(TIMES.0, TIMES.1))
        .map_err(|e| refuse(format!("the time {}: {e:?}", options.epoch)))?;
    let fat = FatOptions::new()
        .with_kind(FatKind::Fat32)
        .with_label(label)
        .with_serial(options.serial)
        .with_time(time)
        .with_sector_size(512)
        .with_cluster_size(cluster)
        .with_partition_offset(offset)
        .with_oem_name(*b"SLIPWAY ");
    let size = usize::try_from(options.size).unwrap_or(usize::MAX);
    let block = BlockSize::new(512)
        .ok_or_else(|| Error::new(Kind::Bug, "512 is no block size for the FAT writer"))?;
    let mut device = MemDevice::new(vec![0; size], block);
    write_volume(&mut device, &volume, &fat).map_err(|e| match e.kind() {
        ErrorKind::NoSpace => refuse(format!(
            "its files take {} MiB and it has {} MiB",
            content_size >> 20,
            options.size >> 20
        ))
        .hint("make the board's EFI partition larger"),
        _ => refuse(e.to_string()),
    })?;
    Ok(device.into_inner())
}
