//! `<board>.img.bmap`: which blocks of an image have to be written, for bmaptool.
//!
//! | element of `<bmap version="2.0">` | what |
//! |---|---|
//! | `ImageSize` | bytes of the image |
//! | `BlockSize` | 4096 |
//! | `BlocksCount`, `MappedBlocksCount` | of the image, and of them to be written |
//! | `ChecksumType` | `sha256` |
//! | `BmapFileChecksum` | of this file, with 64 times `0` in this place |
//! | `BlockMap/Range` | `FIRST-LAST` or `FIRST`, with the range's digest as `chksum` |
//!
//! Source: bmap-tools, whose `bmaptool copy` reads it.
//!
//! bmaptool leaves alone what isn't mapped: what was on the card before stays there. So a
//! block is mapped if anything will ever read it, zeros or not, and left out only where
//! the image itself says that it is free:
//!
//! | place | left out |
//! |---|---|
//! | FAT | clusters that the table has as 0 (`FAT32` in the boot sector at 82) |
//! | another partition | nothing |
//! | between partitions | all |
//!
//! A root has free blocks, but verity's tree has them as zeros: the kernel, reading ahead,
//! would take what it finds there instead for an attack.
//!
//! | offset in FAT's boot sector | size | field |
//! |---|---|---|
//! | 11 | 2 | bytes in a sector |
//! | 13 | 1 | sectors in a cluster |
//! | 14 | 2 | reserved sectors, before the tables |
//! | 16 | 1 | number of tables |
//! | 36 | 4 | sectors of a table |

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use slipway_images::layout::Table;

use crate::digest;
use crate::error::{At as _, Result};
use crate::formats::sparse::BLOCK;
use crate::progress::Progress;

/// What stands for the file's digest while it is computed.
const NO_CHECKSUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// The whole text of a map of `image`, whose partitions are those of `table`.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io), [`Kind::Interrupted`](crate::Kind::Interrupted).
pub fn text(image: &Path, table: &Table, progress: &Progress) -> Result<String> {
    let file = File::open(image).at("opening", image)?;
    let len = file.metadata().at("reading", image)?.len();
    let blocks = mapped(&file, len, table).at("reading", image)?;
    let count: u64 = blocks.iter().map(|r| r.end - r.start).sum();
    let task = progress.task("mapping the image", Some(count * BLOCK as u64));
    let mut ranges = String::new();
    let mut buffer = vec![0; 256 * BLOCK];
    for range in &blocks {
        let mut hash = Sha256::new();
        let mut at = range.start * BLOCK as u64;
        let end = (range.end * BLOCK as u64).min(len);
        while at < end {
            progress.check()?;
            let n = buffer
                .len()
                .min(usize::try_from(end - at).unwrap_or(usize::MAX));
            file.read_exact_at(&mut buffer[..n], at)
                .at("reading", image)?;
            hash.update(&buffer[..n]);
            task.add(n as u64);
            at += n as u64;
        }
        let digest = digest::to_hex(&hash.finalize());
        let last = range.end - 1;
        let place = match range.start == last {
            true => last.to_string(),
            false => format!("{}-{last}", range.start),
        };
        // Writing to a string can't fail.
        writeln!(ranges, "        <Range chksum=\"{digest}\">{place}</Range>").unwrap_or_default();
    }
    let total = len.div_ceil(BLOCK as u64);
    let whole = |checksum: &str| {
        format!(
            "<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n\
             \x20   <ImageSize>{len}</ImageSize>\n\
             \x20   <BlockSize>{BLOCK}</BlockSize>\n\
             \x20   <BlocksCount>{total}</BlocksCount>\n\
             \x20   <MappedBlocksCount>{count}</MappedBlocksCount>\n\
             \x20   <ChecksumType>sha256</ChecksumType>\n\
             \x20   <BmapFileChecksum>{checksum}</BmapFileChecksum>\n\
             \x20   <BlockMap>\n{ranges}    </BlockMap>\n</bmap>\n"
        )
    };
    Ok(whole(&digest::hex(whole(NO_CHECKSUM).as_bytes())))
}

/// The blocks that have to be written: ranges in ascending order, with gaps between.
fn mapped(file: &File, len: u64, table: &Table) -> io::Result<Vec<Range<u64>>> {
    let mut used: Vec<Range<u64>> = Vec::new();
    // The tables of partitions before the first of them, and after the last.
    let first = table.partitions.iter().map(|p| p.offset().get()).min();
    used.push(0..first.unwrap_or(len).min(len));
    let end = table.partitions.iter().map(|p| p.end()).max();
    let end = end.and_then(|e| e.bytes()).map_or(len, |b| b.get());
    used.push(end.min(len)..len);
    for partition in &table.partitions {
        let (start, size) = (partition.offset().get(), partition.size().get());
        let volume = Volume { file, start };
        let ranges = match fat(&volume)? {
            Some(ranges) if ranges.iter().all(|r| r.end <= size) => ranges,
            // Another filesystem, or one that isn't what it says.
            _ => std::iter::once(0..size).collect(),
        };
        used.extend(ranges.iter().map(|r| r.start + start..r.end + start));
    }
    used.retain(|r| !r.is_empty());
    used.sort_by_key(|r| r.start);
    let mut blocks: Vec<Range<u64>> = Vec::new();
    for bytes in used {
        let start = bytes.start / BLOCK as u64;
        let end = bytes.end.div_ceil(BLOCK as u64);
        match blocks.last_mut().filter(|b| b.end >= start) {
            Some(last) => last.end = last.end.max(end),
            None => blocks.push(start..end),
        }
    }
    Ok(blocks)
}

/// A partition.
struct Volume<'f> {
    file: &'f File,
    start: u64,
}

impl Volume<'_> {
    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, self.start + offset)?;
        Ok(bytes)
    }
}

/// A little-endian number of up to 8 bytes.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len]
        .iter()
        .rev()
        .fold(0, |n, b| n << 8 | u64::from(*b))
}

/// The used bytes of a FAT32; `None` if it isn't one.
fn fat(volume: &Volume<'_>) -> io::Result<Option<Vec<Range<u64>>>> {
    let boot = volume.read(0, 512)?;
    if !boot[82..].starts_with(b"FAT32") || boot[510..] != [0x55, 0xaa] {
        return Ok(None);
    }
    let sector = number(&boot, 11, 2);
    let cluster = number(&boot, 13, 1) * sector;
    let tables = number(&boot, 14, 2) * sector;
    let table = number(&boot, 36, 4) * sector;
    let data = tables + number(&boot, 16, 1) * table;
    let Ok(size) = usize::try_from(table) else {
        return Ok(None);
    };
    let entries = volume.read(tables, size)?;
    let mut ranges = Vec::new();
    push(&mut ranges, 0, data);
    // The first two entries aren't clusters; bits 28 to 31 belong to nobody.
    for (n, entry) in (0..).zip(entries.as_chunks::<4>().0.iter().skip(2)) {
        if u32::from_le_bytes(*entry) << 4 != 0 {
            push(&mut ranges, data + n * cluster, cluster);
        }
    }
    Ok(Some(ranges))
}

/// Adds a range at the end, or lengthens the last one.
fn push(ranges: &mut Vec<Range<u64>>, start: u64, len: u64) {
    match ranges.last_mut().filter(|r| r.end == start) {
        Some(last) => last.end += len,
        None => ranges.push(start..start + len),
    }
}
