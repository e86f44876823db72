//! The GUID partition table on disk (UEFI 2.10, section 5.3), for 512-byte sectors.
//!
//! | sector | what |
//! |---|---|
//! | 0 | protective MBR: boot code 0..446, one entry of type 0xEE at 446, signature 55 AA at 510; or a hybrid one ([`share_first`]) |
//! | 1 | primary header |
//! | 2..34 | 128 entries of 128 bytes |
//! | 34..n-33 | usable; here from sector 2048 |
//! | n-33..n-1 | backup of the entries |
//! | n-1 | backup header |
//!
//! | offset in the header | size | field | |
//! |---|---|---|---|
//! | 0 | 8 | Signature | `EFI PART` |
//! | 8 | 4 | Revision | 0x00010000 |
//! | 12 | 4 | HeaderSize | 92 |
//! | 16 | 4 | HeaderCRC32 | with this field 0 |
//! | 20 | 4 | Reserved | 0 |
//! | 24 | 8 | MyLBA | |
//! | 32 | 8 | AlternateLBA | |
//! | 40 | 8 | FirstUsableLBA | |
//! | 48 | 8 | LastUsableLBA | inclusive |
//! | 56 | 16 | DiskGUID | mixed-endian |
//! | 72 | 8 | PartitionEntryLBA | |
//! | 80 | 4 | NumberOfPartitionEntries | 128 |
//! | 84 | 4 | SizeOfPartitionEntry | 128 |
//! | 88 | 4 | PartitionEntryArrayCRC32 | |
//!
//! | offset in an entry | size | field |
//! |---|---|---|
//! | 0 | 16 | PartitionTypeGUID, 0 if unused |
//! | 16 | 16 | UniquePartitionGUID |
//! | 32 | 8 | StartingLBA |
//! | 40 | 8 | EndingLBA, inclusive |
//! | 48 | 8 | Attributes |
//! | 56 | 72 | PartitionName, UTF-16LE |
//!
//! The `gpt` crate is the oracle of the tests rather than the code in use: it asserts on
//! an entry size that a disk may well have, believes any entry count, and rewrites the
//! primary copy before the backup, so that a power cut on first boot could leave none.

use std::io::{self, Read, Seek, SeekFrom, Write};

use uuid::Uuid;

use super::{Bytes, LayoutError, Partition, Sectors, Table};

const SECTOR: usize = Sectors::SIZE as usize;
const SIGNATURE: &[u8; 8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
const HEADER_SIZE: usize = 92;
const ENTRY_SIZE: usize = 128;
const ENTRIES: usize = 128;
/// Sectors that the entries take.
const ENTRY_SECTORS: u64 = (ENTRIES * ENTRY_SIZE / SECTOR) as u64;
/// The most bytes of entries that we read of a table made elsewhere.
const MAX_ENTRY_BYTES: u64 = 1 << 20;

const _: () = assert!(ENTRY_SECTORS == 32 && (ENTRIES * ENTRY_SIZE).is_multiple_of(SECTOR));

/// Where the primary copy ends: before the first partition, the rest is free.
pub const PRIMARY_END: Bytes = Bytes::new((2 + ENTRY_SECTORS) * Sectors::SIZE);

/// A table that was read, and whether it wants writing again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The table, with the disk's real size.
    pub table: Table,
    /// One copy is broken or not where it belongs, as after writing an image onto a
    /// larger disk.
    pub needs_repair: bool,
}

/// The sector after the last one that partitions may use; `None` on a disk that can't
/// hold a table.
pub(super) fn usable_end(disk: Sectors) -> Option<Sectors> {
    disk.0.checked_sub(1 + ENTRY_SECTORS).map(Sectors)
}

/// Reads the table of a disk of `size` sectors: the primary copy, or else the backup at
/// the disk's end.
///
/// # Errors
/// [`LayoutError::Absent`] without any, [`LayoutError::Corrupt`] if neither copy is
/// valid, [`LayoutError::Io`].
pub fn read<D: Read + Seek>(disk: &mut D, size: Sectors) -> Result<Found, LayoutError> {
    if size.0 < 4 + 2 * ENTRY_SECTORS {
        return Err(LayoutError::Absent);
    }
    let last = Sectors(size.0 - 1);
    let primary = read_copy(disk, Sectors(1), size);
    let backup = read_copy(disk, last, size);
    let (table, needs_repair) = match (primary, backup) {
        (Ok(p), Ok(b)) => {
            let whole = p.table == b.table && p.alternate == last && b.alternate == Sectors(1);
            (p.table, !whole)
        }
        (Ok(p), Err(_)) => (p.table, true),
        (Err(LayoutError::Io { doing, source }), Err(_)) => {
            return Err(LayoutError::Io { doing, source });
        }
        (Err(_), Ok(b)) => (b.table, true),
        // No signature at the disk's end says nothing; the primary's fault does.
        (Err(e), Err(_)) => return Err(e),
    };
    Ok(Found {
        table,
        needs_repair,
    })
}

/// Writes both copies and the protective MBR, in an order in which one valid copy is on
/// the disk at every moment: the backup, `sync`, then the primary, `sync`. Boot code in
/// sector 0 is kept.
///
/// # Errors
/// [`LayoutError::Io`], and [`LayoutError::Unsupported`] for a table that can't be
/// written: too many partitions, a name too long, overlapping or outside of the disk.
pub fn write<D: Read + Write + Seek>(
    disk: &mut D,
    table: &Table,
    mut sync: impl FnMut(&mut D) -> io::Result<()>,
) -> Result<(), LayoutError> {
    check(table).map_err(LayoutError::Unsupported)?;
    let entries = encode_entries(table);
    let last = Sectors(table.disk.0 - 1);
    let backup_entries = Sectors(last.0 - ENTRY_SECTORS);
    let primary = encode_header(table, &entries, Sectors(1), last, Sectors(2));
    let backup = encode_header(table, &entries, last, Sectors(1), backup_entries);
    let mut mbr = [0; SECTOR];
    let result = (|| {
        put(disk, backup_entries, &entries)?;
        put(disk, last, &backup)?;
        sync(disk)?;
        seek(disk, Sectors(0))?;
        // A new image has no sector 0 to keep anything of.
        match disk.read_exact(&mut mbr) {
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e),
            _ => {}
        }
        protect(&mut mbr, table);
        put(disk, Sectors(2), &entries)?;
        put(disk, Sectors(1), &primary)?;
        put(disk, Sectors(0), &mbr)?;
        sync(disk)
    })();
    result.map_err(|source| LayoutError::Io {
        doing: "writing",
        source,
    })
}

/// What both readers and the writer demand of a table.
fn check(table: &Table) -> Result<(), String> {
    let end = match usable_end(table.disk) {
        Some(end) if table.disk.bytes().is_some() => end,
        _ => return Err(format!("a disk of {} sectors", table.disk.0)),
    };
    if table.partitions.len() > ENTRIES {
        return Err(format!("{} partitions", table.partitions.len()));
    }
    let mut spans: Vec<(Sectors, Sectors)> = Vec::new();
    for partition in &table.partitions {
        let name = &partition.name;
        if name.encode_utf16().count() > 36 {
            return Err(format!("the partition name `{name}` is too long"));
        }
        let last = partition.first.0.checked_add(partition.len.0);
        match last {
            Some(last)
                if partition.len.0 > 0
                    && partition.first.0 >= 2 + ENTRY_SECTORS
                    && last <= end.0 => {}
            _ => return Err(format!("partition `{name}` lies outside of the disk")),
        }
        if partition.type_guid.is_nil() {
            return Err(format!("partition `{name}` has no type"));
        }
        spans.push((partition.first, partition.end()));
    }
    spans.sort();
    match spans.windows(2).any(|w| w[0].1 > w[1].0) {
        true => Err("partitions overlap".into()),
        false => Ok(()),
    }
}

struct Copy {
    table: Table,
    alternate: Sectors,
}

fn read_copy<D: Read + Seek>(
    disk: &mut D,
    lba: Sectors,
    size: Sectors,
) -> Result<Copy, LayoutError> {
    let io = |source| LayoutError::Io {
        doing: "reading",
        source,
    };
    let corrupt = |what: &str| LayoutError::Corrupt(format!("{what} (sector {})", lba.0));
    let mut header = [0; SECTOR];
    seek(disk, lba).map_err(io)?;
    disk.read_exact(&mut header).map_err(io)?;
    if &header[..8] != SIGNATURE {
        return Err(LayoutError::Absent);
    }
    let header_size = u32_at(&header, 12) as usize;
    if !(HEADER_SIZE..=SECTOR).contains(&header_size) {
        return Err(corrupt("the header has a wrong size"));
    }
    let header_crc = u32_at(&header, 16);
    header[16..20].fill(0);
    if crc32fast::hash(&header[..header_size]) != header_crc {
        return Err(corrupt("the header's checksum doesn't hold"));
    }
    if u64_at(&header, 24) != lba.0 {
        return Err(corrupt("the header is not where it says it is"));
    }
    let entry_lba = Sectors(u64_at(&header, 72));
    let (count, entry_size) = (u32_at(&header, 80), u32_at(&header, 84));
    let bytes = u64::from(count) * u64::from(entry_size);
    if entry_size < 128 || !entry_size.is_multiple_of(8) || bytes > MAX_ENTRY_BYTES {
        return Err(LayoutError::Unsupported(format!(
            "{count} entries of {entry_size} bytes"
        )));
    }
    let last_entry = entry_lba.0.checked_add(bytes.div_ceil(Sectors::SIZE));
    if last_entry.is_none_or(|last| last > size.0) {
        return Err(corrupt("the entries lie outside of the disk"));
    }
    let mut entries = vec![0; usize::try_from(bytes).unwrap_or(0)];
    seek(disk, entry_lba).map_err(io)?;
    disk.read_exact(&mut entries).map_err(io)?;
    if crc32fast::hash(&entries) != u32_at(&header, 88) {
        return Err(corrupt("the entries' checksum doesn't hold"));
    }
    let mut partitions = Vec::new();
    let mut gap = false;
    for entry in entries.chunks_exact(entry_size as usize) {
        let type_guid = guid_at(entry, 0);
        if type_guid.is_nil() {
            gap = true;
            continue;
        }
        if gap {
            return Err(LayoutError::Unsupported(
                "there are unused entries between used ones".into(),
            ));
        }
        let (first, last) = (u64_at(entry, 32), u64_at(entry, 40));
        let len = last
            .checked_sub(first)
            .and_then(|n| n.checked_add(1))
            .ok_or_else(|| corrupt("a partition ends before it begins"))?;
        let units: Vec<u16> = entry[56..128]
            .chunks_exact(2)
            .map(|c| u16::from_le_bytes([c[0], c[1]]))
            .take_while(|c| *c != 0)
            .collect();
        partitions.push(Partition {
            name: String::from_utf16_lossy(&units),
            type_guid,
            guid: guid_at(entry, 16),
            first: Sectors(first),
            len: Sectors(len),
            attributes: u64_at(entry, 48),
        });
    }
    let table = Table {
        disk_guid: guid_at(&header, 56),
        disk: size,
        partitions,
    };
    check(&table).map_err(LayoutError::Corrupt)?;
    Ok(Copy {
        table,
        alternate: Sectors(u64_at(&header, 32)),
    })
}

fn encode_entries(table: &Table) -> Vec<u8> {
    let mut bytes = vec![0; ENTRIES * ENTRY_SIZE];
    for (entry, partition) in bytes.chunks_exact_mut(ENTRY_SIZE).zip(&table.partitions) {
        entry[..16].copy_from_slice(&partition.type_guid.to_bytes_le());
        entry[16..32].copy_from_slice(&partition.guid.to_bytes_le());
        entry[32..40].copy_from_slice(&partition.first.0.to_le_bytes());
        entry[40..48].copy_from_slice(&(partition.end().0 - 1).to_le_bytes());
        entry[48..56].copy_from_slice(&partition.attributes.to_le_bytes());
        for (to, unit) in entry[56..]
            .chunks_exact_mut(2)
            .zip(partition.name.encode_utf16())
        {
            to.copy_from_slice(&unit.to_le_bytes());
        }
    }
    bytes
}

fn encode_header(
    table: &Table,
    entries: &[u8],
    my_lba: Sectors,
    alternate: Sectors,
    entry_lba: Sectors,
) -> [u8; SECTOR] {
    let last_usable = table.disk.0 - 2 - ENTRY_SECTORS;
    let mut h = [0; SECTOR];
    h[..8].copy_from_slice(SIGNATURE);
    h[8..12].copy_from_slice(&REVISION.to_le_bytes());
    h[12..16].copy_from_slice(&(HEADER_SIZE as u32).to_le_bytes());
    h[24..32].copy_from_slice(&my_lba.0.to_le_bytes());
    h[32..40].copy_from_slice(&alternate.0.to_le_bytes());
    h[40..48].copy_from_slice(&(2 + ENTRY_SECTORS).to_le_bytes());
    h[48..56].copy_from_slice(&last_usable.to_le_bytes());
    h[56..72].copy_from_slice(&table.disk_guid.to_bytes_le());
    h[72..80].copy_from_slice(&entry_lba.0.to_le_bytes());
    h[80..84].copy_from_slice(&(ENTRIES as u32).to_le_bytes());
    h[84..88].copy_from_slice(&(ENTRY_SIZE as u32).to_le_bytes());
    h[88..92].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
    let crc = crc32fast::hash(&h[..HEADER_SIZE]);
    h[16..20].copy_from_slice(&crc.to_le_bytes());
    h
}

/// A hybrid MBR: its first entry is the table's first partition, as a FAT32, for ROMs that know
/// no GPT (those of Raspberry Pis before the 4). What knows one goes by the second entry, of type
/// 0xEE. Written before [`write`], which keeps it.
///
/// # Errors
/// [`LayoutError::Io`].
pub fn share_first<D: Write + Seek>(disk: &mut D, table: &Table) -> Result<(), LayoutError> {
    let mut mbr = [0; SECTOR];
    if let Some(first) = table.partitions.first() {
        mbr[446..462].copy_from_slice(&mbr_entry(FAT32_LBA, first.first, first.len));
    }
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
    put(disk, Sectors(0), &mbr).map_err(|source| LayoutError::Io {
        doing: "writing",
        source,
    })
}

/// Types of MBR entries.
const FAT32_LBA: u8 = 0x0c;
const PROTECTIVE: u8 = 0xee;

/// An entry: not active, CHS addresses "beyond", type, first sector and their number.
fn mbr_entry(kind: u8, first: Sectors, len: Sectors) -> [u8; 16] {
    let number = |n: Sectors| u32::try_from(n.0).unwrap_or(u32::MAX).to_le_bytes();
    let mut entry = [
        0, 0xff, 0xff, 0xff, kind, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    entry[8..12].copy_from_slice(&number(first));
    entry[12..].copy_from_slice(&number(len));
    entry
}

/// Protects the table from tools that know none; what a hybrid MBR shares stays.
fn protect(mbr: &mut [u8; SECTOR], table: &Table) {
    let shared = table.partitions.first().filter(|first| {
        let entry = mbr_entry(FAT32_LBA, first.first, first.len);
        mbr[446..462] == entry && mbr[510..512] == [0x55, 0xaa]
    });
    let (at, len) = match shared {
        Some(first) => (462, Sectors(first.first.0 - 1)),
        None => (446, Sectors(table.disk.0 - 1)),
    };
    mbr[at..510].fill(0);
    let mut entry = mbr_entry(PROTECTIVE, Sectors(1), len);
    // StartingCHS 0/0/2, as UEFI has it.
    entry[1..4].copy_from_slice(&[0, 2, 0]);
    mbr[at..at + 16].copy_from_slice(&entry);
    mbr[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn seek<D: Seek>(disk: &mut D, lba: Sectors) -> io::Result<()> {
    let offset = lba
        .bytes()
        .ok_or_else(|| io::Error::other("sector address too large"))?;
    disk.seek(SeekFrom::Start(offset.get())).map(drop)
}

fn put<D: Write + Seek>(disk: &mut D, lba: Sectors, bytes: &[u8]) -> io::Result<()> {
    seek(disk, lba)?;
    disk.write_all(bytes)
}

/// Fields lie within buffers whose length the callers have checked, so a short read
/// can't happen; it would yield 0, which no check accepts.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

fn guid_at(bytes: &[u8], at: usize) -> Uuid {
    bytes
        .get(at..at + 16)
        .and_then(|b| b.try_into().ok())
        .map_or(Uuid::nil(), Uuid::from_bytes_le)
}
