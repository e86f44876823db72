//! A CD image with a few files at its root, as a seed's volume is: names of level 1 for
//! whoever knows no better, Rock Ridge and Joliet for the real, lower-case ones.
//!
//! | sector of 2048 bytes | what |
//! |---|---|
//! | 0..16 | system area, zeros |
//! | 16 | primary volume descriptor |
//! | 17 | supplementary volume descriptor: Joliet |
//! | 18 | terminator |
//! | 19, 20 | path table, little and big endian |
//! | 21, 22 | the same for Joliet |
//! | 23 | root directory, with Rock Ridge entries |
//! | 24 | root directory of Joliet |
//! | 25.. | the files, each from a new sector |
//!
//! | offset in a descriptor | size | field |
//! |---|---|---|
//! | 0 | 1 | type: 1, 2 or 255 |
//! | 1 | 5 | `CD001` |
//! | 6 | 1 | version 1 |
//! | 40 | 32 | volume identifier |
//! | 80 | 8 | sectors, in both byte orders |
//! | 88 | 32 | escape sequences: `%/E` for Joliet |
//! | 120 | 12 | volumes in the set, this one's number, bytes in a sector: both orders |
//! | 132 | 8 | bytes of a path table, both orders |
//! | 140 | 4 | sector of the path table, little endian |
//! | 148 | 4 | sector of the path table, big endian |
//! | 156 | 34 | the root directory's record |
//! | 190 | 623 | names of people and files: blanks |
//! | 813 | 68 | four dates: not given |
//! | 881 | 1 | version 1 |
//!
//! | offset in a directory record | size | field |
//! |---|---|---|
//! | 0 | 1 | length of the record, even |
//! | 2 | 8 | first sector, both orders |
//! | 10 | 8 | length in bytes, both orders |
//! | 18 | 7 | date: years since 1900, month, day, hour, minute, second, zone |
//! | 25 | 1 | 2: a directory |
//! | 28 | 4 | volume number, both orders |
//! | 32 | 1 | length of the name |
//! | 33 | | name, a zero if its length is even, Rock Ridge entries |
//!
//! | Rock Ridge entry | bytes | in |
//! |---|---|---|
//! | `SP` 7 1 BE EF 0 | 7 | the directory itself |
//! | `ER` 18 1 10 0 0 1 `RRIP_1991A` | 18 | the directory itself |
//! | `PX` 36 1, mode, links, owner, group: both orders | 36 | all |
//! | `NM` 5+n 1 0, name | 5+n | files |
//!
//! Sources: ECMA-119; SUSP 1.12; RRIP 1.12; the Joliet specification. Every date is
//! 1980-01-01, so that the same files give the same bytes.

use crate::error::{Error, Kind, Result};

const SECTOR: usize = 2048;
const PATH_TABLES: u32 = 19;
const ROOT: u32 = 23;
const JOLIET_ROOT: u32 = 24;
const FILES: u32 = 25;

/// 1980-01-01 00:00:00 UTC.
const DATE: [u8; 7] = [80, 1, 1, 0, 0, 0, 0];
const FLAG_DIRECTORY: u8 = 2;

/// The name of a file as level 1, Rock Ridge and Joliet have it.
struct Entry<'a> {
    name: &'a str,
    short: String,
    sector: u32,
    bytes: &'a [u8],
}

/// The image's bytes.
///
/// # Errors
/// [`Kind::Input`] for names or sizes that don't fit.
pub fn image<'a>(
    label: &str,
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
) -> Result<Vec<u8>> {
    let mut entries: Vec<Entry<'a>> = Vec::new();
    let mut next = FILES;
    for (name, bytes) in files {
        let short = short_name(name, &entries)?;
        entries.push(Entry {
            name,
            short,
            sector: next,
            bytes,
        });
        next = u32::try_from(bytes.len().div_ceil(SECTOR))
            .ok()
            .and_then(|n| next.checked_add(n))
            .filter(|n| u32::try_from(*n as u64 * SECTOR as u64).is_ok())
            .ok_or_else(|| refuse("its files are too large"))?;
    }
    entries.sort_by(|a, b| a.short.cmp(&b.short));
    let mut out = vec![0; 16 * SECTOR];
    let mut sector = |bytes: &[u8]| {
        out.extend_from_slice(bytes);
        out.resize(out.len().next_multiple_of(SECTOR), 0);
    };
    sector(&descriptor(label, next, false));
    sector(&descriptor(label, next, true));
    sector(b"\xffCD001\x01");
    for root in [ROOT, JOLIET_ROOT] {
        sector(&path_table(root.to_le_bytes(), 1_u16.to_le_bytes()));
        sector(&path_table(root.to_be_bytes(), 1_u16.to_be_bytes()));
    }
    sector(&one_sector(directory(&entries))?);
    sector(&one_sector(joliet_directory(&entries))?);
    entries.sort_by_key(|e| e.sector);
    for entry in &entries {
        sector(entry.bytes);
    }
    Ok(out)
}

fn refuse(why: &str) -> Error {
    Error::new(Kind::Input, format!("the CD image: {why}"))
}

/// `USER_DAT` for `user-data`: 8 capitals, digits and underscores, no two alike.
fn short_name(name: &str, others: &[Entry<'_>]) -> Result<String> {
    if name.is_empty()
        || name.len() > 64
        || name.contains('/')
        || name.chars().any(char::is_control)
    {
        return Err(refuse(&format!("`{name}` is no name for a file")));
    }
    let mut short: String = name
        .chars()
        .map(|c| match c.to_ascii_uppercase() {
            c if c.is_ascii_uppercase() || c.is_ascii_digit() => c,
            _ => '_',
        })
        .take(8)
        .collect();
    for n in 0..=99 {
        if !others.iter().any(|o| o.short == short) {
            return Ok(short);
        }
        short.truncate(6);
        short.push_str(&format!("{n:02}"));
    }
    Err(refuse("too many files have names that begin alike"))
}

fn both16(n: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (n.to_le_bytes(), n.to_be_bytes());
    [a, b, c, d]
}

fn both32(n: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (n.to_le_bytes(), n.to_be_bytes());
    [a, b, c, d, e, f, g, h]
}

fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// Puts bytes at their offset.
fn put(into: &mut [u8], offset: usize, bytes: &[u8]) {
    into[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn descriptor(label: &str, sectors: u32, joliet: bool) -> [u8; SECTOR] {
    let mut d = [0; SECTOR];
    d[0] = if joliet { 2 } else { 1 };
    put(&mut d, 1, b"CD001\x01");
    // Blanks: the system's name and the volume's, then those of people and files.
    for (from, to) in [(8, 72), (190, 813)] {
        if joliet {
            for pair in d[from..to].chunks_exact_mut(2) {
                pair[1] = b' ';
            }
        } else {
            d[from..to].fill(b' ');
        }
    }
    let mut name = if joliet { ucs2(label) } else { label.into() };
    name.truncate(32);
    put(&mut d, 40, &name);
    put(&mut d, 80, &both32(sectors));
    if joliet {
        put(&mut d, 88, b"%/E");
    }
    put(&mut d, 120, &both16(1));
    put(&mut d, 124, &both16(1));
    put(&mut d, 128, &both16(SECTOR as u16));
    put(&mut d, 132, &both32(10));
    let tables = if joliet { PATH_TABLES + 2 } else { PATH_TABLES };
    put(&mut d, 140, &tables.to_le_bytes());
    put(&mut d, 148, &(tables + 1).to_be_bytes());
    let root = if joliet { JOLIET_ROOT } else { ROOT };
    put(
        &mut d,
        156,
        &record(&[0], root, SECTOR as u32, FLAG_DIRECTORY, &[]),
    );
    for date in [813, 830, 847, 864] {
        put(&mut d, date, b"0000000000000000");
    }
    d[881] = 1;
    d
}

/// The one entry of a path table: the root, which is its own parent.
fn path_table(sector: [u8; 4], parent: [u8; 2]) -> [u8; 10] {
    let ([a, b, c, d], [e, f]) = (sector, parent);
    [1, 0, a, b, c, d, e, f, 0, 0]
}

fn record(name: &[u8], sector: u32, len: u32, flags: u8, system_use: &[u8]) -> Vec<u8> {
    let mut r = vec![0, 0];
    r.extend(both32(sector));
    r.extend(both32(len));
    r.extend(DATE);
    r.extend([flags, 0, 0]);
    r.extend(both16(1));
    r.push(name.len() as u8);
    r.extend(name);
    r.resize(r.len().next_multiple_of(2), 0);
    r.extend(system_use);
    r.resize(r.len().next_multiple_of(2), 0);
    r[0] = r.len() as u8;
    r
}

fn posix(mode: u32, links: u32) -> Vec<u8> {
    let mut px = b"PX\x24\x01".to_vec();
    for n in [mode, links, 0, 0] {
        px.extend(both32(n));
    }
    px
}

fn directory(entries: &[Entry<'_>]) -> Vec<u8> {
    let attributes = posix(0o040_555, 2);
    let mut own = b"SP\x07\x01\xbe\xef\0".to_vec();
    own.extend(&attributes);
    own.extend(b"ER\x12\x01\x0a\0\0\x01RRIP_1991A");
    let mut out = record(&[0], ROOT, SECTOR as u32, FLAG_DIRECTORY, &own);
    out.extend(record(
        &[1],
        ROOT,
        SECTOR as u32,
        FLAG_DIRECTORY,
        &attributes,
    ));
    for entry in entries {
        let mut rock_ridge = posix(0o100_444, 1);
        rock_ridge.extend([b'N', b'M', 5 + entry.name.len() as u8, 1, 0]);
        rock_ridge.extend(entry.name.as_bytes());
        let name = format!("{}.;1", entry.short);
        let len = entry.bytes.len() as u32;
        out.extend(record(name.as_bytes(), entry.sector, len, 0, &rock_ridge));
    }
    out
}

fn joliet_directory(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for name in [0, 1] {
        out.extend(record(
            &[name],
            JOLIET_ROOT,
            SECTOR as u32,
            FLAG_DIRECTORY,
            &[],
        ));
    }
    let mut named: Vec<(Vec<u8>, &Entry<'_>)> = entries.iter().map(|e| (ucs2(e.name), e)).collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, entry) in named {
        out.extend(record(
            &name,
            entry.sector,
            entry.bytes.len() as u32,
            0,
            &[],
        ));
    }
    out
}

fn one_sector(directory: Vec<u8>) -> Result<Vec<u8>> {
    if directory.len() > SECTOR {
        return Err(refuse("it has too many files"));
    }
    Ok(directory)
}
