//! `/etc/ld.so.cache`: where the dynamic linker finds libraries, as `ldconfig` writes it.
//!
//! | offset | size | field of `cache_file_new` |
//! |---|---|---|
//! | 0 | 17 | magic `glibc-ld.so.cache` |
//! | 17 | 3 | version `1.1` |
//! | 20 | 4 | nlibs |
//! | 24 | 4 | len_strings |
//! | 28 | 1 | flags: 2 little-endian |
//! | 29 | 3 | padding |
//! | 32 | 4 | extension_offset: 0, there is none |
//! | 36 | 12 | unused |
//! | 48 | 24 each | entries |
//! | then | | strings, each ending in NUL |
//!
//! | offset in an entry | size | field |
//! |---|---|---|
//! | 0 | 4 | flags: 3 for an ELF library of libc 6, plus the architecture |
//! | 4 | 4 | key: offset in the file of the soname |
//! | 8 | 4 | value: offset of the path |
//! | 12 | 4 | osversion: 0 |
//! | 16 | 8 | hwcap: 0 |
//!
//! Entries descend in the order of [`compare`], since the linker searches by halving.
//! Sources: glibc's sysdeps/generic/dl-cache.h, elf/cache.c and elf/ldconfig.c. Entries
//! for special processors (glibc-hwcaps) are not made: Debian's packages have none.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use object::elf;
use object::read::elf::{Dyn as _, FileHeader, ProgramHeader as _};

use super::resolve;
use crate::error::{Error, Kind, Result};
use crate::tree::{NodeKind, Tree};

const CACHE: &str = "etc/ld.so.cache";
const CONFIGURATION: &str = "etc/ld.so.conf";
/// Searched after what is configured.
const DEFAULT_DIRECTORIES: [&str; 4] = ["/lib", "/usr/lib", "/lib64", "/usr/lib64"];
const HEADER: usize = 48;
const ENTRY: usize = 24;

/// Makes the links from sonames to libraries that packages don't bring, and the cache.
///
/// # Errors
/// [`Kind::Input`] for a configuration that can't be followed, [`Kind::Io`].
pub fn write(tree: &mut Tree) -> Result<String> {
    let mut entries: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    let mut links = Vec::new();
    let mut seen = BTreeSet::new();
    for dir in directories(tree)? {
        let Some(real) = resolve(tree, &dir) else {
            continue;
        };
        if !seen.insert(real.clone()) {
            continue;
        }
        for (soname, library) in libraries(tree, &real)? {
            if tree.get(&format!("{real}/{soname}")).is_none() {
                links.push((format!("{real}/{soname}"), library.name.clone()));
            }
            entries.entry(soname.clone()).or_default().push(Entry {
                flags: library.flags,
                path: format!("{dir}/{soname}"),
            });
        }
    }
    for (path, target) in &links {
        tree.symlink(path, target)?;
    }
    let count: usize = entries.values().map(Vec::len).sum();
    tree.file(CACHE, 0o644, encode(entries)?)?;
    Ok(format!(
        "ld.so.cache: {count} libraries, {} links made",
        links.len()
    ))
}

struct Entry {
    flags: u32,
    path: String,
}

/// A library as it lies in a directory.
struct Library {
    name: String,
    flags: u32,
}

/// The directories to search, as ldconfig takes them from its configuration.
fn directories(tree: &Tree) -> Result<Vec<String>> {
    let mut found = Vec::new();
    read_configuration(tree, CONFIGURATION, 0, &mut found)?;
    found.extend(DEFAULT_DIRECTORIES.map(str::to_owned));
    Ok(found)
}

fn read_configuration(
    tree: &Tree,
    path: &str,
    depth: usize,
    found: &mut Vec<String>,
) -> Result<()> {
    let refuse = |why: String| Error::new(Kind::Input, format!("`{path}`: {why}"));
    let Some(content) = resolve(tree, path).and_then(|p| tree.content(&p).cloned()) else {
        return Ok(());
    };
    if depth > 8 {
        return Err(refuse("includes go too deep".into()));
    }
    let bytes = content.read()?;
    let text = str::from_utf8(&bytes).map_err(|_| refuse("it is not UTF-8".into()))?;
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        if let Some(glob) = line.strip_prefix("include ") {
            let glob = glob.trim();
            let from = path.rsplit_once('/').map_or("", |(dir, _)| dir);
            let glob = match glob.strip_prefix('/') {
                Some(absolute) => absolute.to_owned(),
                None => format!("{from}/{glob}"),
            };
            let matcher = globset::GlobBuilder::new(&glob)
                .literal_separator(true)
                .build()
                .map_err(|e| refuse(e.to_string()))?
                .compile_matcher();
            let files: Vec<&str> = tree
                .iter()
                .map(|(p, _)| p)
                .filter(|p| matcher.is_match(p))
                .collect();
            for file in files {
                read_configuration(tree, file, depth + 1, found)?;
            }
        } else if line.starts_with('/') {
            found.push(line.trim_end_matches('/').to_owned());
        } else if !line.is_empty() {
            return Err(refuse(format!("`{line}` is no directory")));
        }
    }
    Ok(())
}

/// The libraries of one directory, by soname.
fn libraries(tree: &Tree, dir: &str) -> Result<BTreeMap<String, Library>> {
    let mut found: BTreeMap<String, Library> = BTreeMap::new();
    for (path, node) in tree.below(dir) {
        let name = &path[dir.len() + 1..];
        let like_a_library = (name.starts_with("lib") || name.starts_with("ld-"))
            && name.contains(".so")
            && !name.contains('/');
        if !like_a_library {
            continue;
        }
        let mut is_link = matches!(node.kind, NodeKind::Symlink(_));
        let Some(real) = resolve(tree, path) else {
            continue;
        };
        let Some(content) = tree.content(&real) else {
            continue;
        };
        let bytes = content.read().map_err(|e| e.within(path))?;
        let Some(elf) = parse(&bytes) else { continue };
        let mut soname = elf.soname.unwrap_or_else(|| name.to_owned());
        if is_link {
            // A link that is named neither by the soname nor as ld(1) wants it counts as a
            // library itself.
            is_link = name == soname || (name.ends_with(".so") && soname.starts_with(name));
        }
        if is_link {
            soname = name.to_owned();
        }
        let newer = |there: &Library| compare(name, &there.name) == Ordering::Greater;
        if found
            .get(&soname)
            .is_none_or(|there| !is_link && newer(there))
        {
            found.insert(
                soname,
                Library {
                    name: name.to_owned(),
                    flags: elf.flags,
                },
            );
        }
    }
    Ok(found)
}

struct Elf {
    soname: Option<String>,
    flags: u32,
}

/// What the cache wants to know of a library; `None` for what is none, or of an
/// architecture that has no images.
fn parse(bytes: &[u8]) -> Option<Elf> {
    match object::FileKind::parse(bytes).ok()? {
        object::FileKind::Elf64 => parse_as::<elf::FileHeader64<object::Endianness>>(bytes),
        object::FileKind::Elf32 => parse_as::<elf::FileHeader32<object::Endianness>>(bytes),
        _ => None,
    }
}

fn parse_as<H: FileHeader<Endian = object::Endianness>>(bytes: &[u8]) -> Option<Elf> {
    let header = H::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    if header.e_type(endian) != elf::ET_DYN {
        return None;
    }
    // FLAG_* of glibc's sysdeps/generic/ldconfig.h, with FLAG_ELF_LIBC6.
    let flags = match header.e_machine(endian) {
        elf::EM_X86_64 => 0x0303,
        elf::EM_AARCH64 => 0x0a03,
        elf::EM_ARM => 0x0903,
        _ => return None,
    };
    let segments = header.program_headers(endian, bytes).ok()?;
    let dynamic = segments
        .iter()
        .find_map(|s| s.dynamic(endian, bytes).ok().flatten())?;
    let value = |tag| {
        dynamic
            .iter()
            .find(|d| d.tag(endian) == tag)
            .map(|d| d.val(endian))
    };
    let soname = match (value(elf::DT_SONAME), value(elf::DT_STRTAB)) {
        (Some(offset), Some(table)) => {
            // The table is given by address; the segment that is loaded there has it.
            let segment = segments.iter().find_map(|s| {
                let start: u64 = s.p_vaddr(endian).into();
                let at = table.checked_sub(start)?;
                let data = s.data(endian, bytes).ok()?;
                (s.p_type(endian) == elf::PT_LOAD).then_some(())?;
                data.get(usize::try_from(at.checked_add(offset)?).ok()?..)
            })?;
            let end = segment.iter().position(|b| *b == 0)?;
            Some(str::from_utf8(&segment[..end]).ok()?.to_owned())
        }
        _ => None,
    };
    if soname
        .as_deref()
        .is_some_and(|s| s.is_empty() || s.contains('/'))
    {
        return None;
    }
    Some(Elf { soname, flags })
}

fn encode(entries: BTreeMap<String, Vec<Entry>>) -> Result<Vec<u8>> {
    let mut flat: Vec<(String, Entry)> = Vec::new();
    for (soname, paths) in entries {
        flat.extend(paths.into_iter().map(|e| (soname.clone(), e)));
    }
    // Stable: directories keep their order for one soname.
    flat.sort_by(|a, b| compare(&b.0, &a.0).then(b.1.flags.cmp(&a.1.flags)));
    let mut strings = Vec::new();
    let base = HEADER + flat.len() * ENTRY;
    let too_large = || Error::new(Kind::Input, "there are too many libraries for ld.so.cache");
    let mut place = |text: &str| -> Result<u32> {
        let at = u32::try_from(base + strings.len()).map_err(|_| too_large())?;
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        Ok(at)
    };
    let mut table = Vec::new();
    let mut last: Option<(&str, u32)> = None;
    for (soname, entry) in &flat {
        let key = match last {
            Some((name, key)) if name == soname => key,
            _ => place(soname)?,
        };
        last = Some((soname, key));
        for word in [entry.flags, key, place(&entry.path)?, 0, 0, 0] {
            table.extend_from_slice(&word.to_le_bytes());
        }
    }
    let mut out = b"glibc-ld.so.cache1.1".to_vec();
    for n in [flat.len(), strings.len()] {
        out.extend_from_slice(&u32::try_from(n).map_err(|_| too_large())?.to_le_bytes());
    }
    out.push(2);
    out.resize(HEADER, 0);
    out.extend_from_slice(&table);
    out.extend_from_slice(&strings);
    Ok(out)
}

/// glibc's `_dl_cache_libcmp`: runs of digits compare as numbers, and come after
/// everything else.
fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let (n, rest_a) = number(a);
                let (m, rest_b) = number(b);
                if n != m {
                    return n.cmp(&m);
                }
                (a, b) = (rest_a, rest_b);
            }
            (Some(x), Some(_)) if x.is_ascii_digit() => return Ordering::Greater,
            (Some(_), Some(y)) if y.is_ascii_digit() => return Ordering::Less,
            (Some(x), Some(y)) if x != y => return x.cmp(y),
            _ => (a, b) = (&a[1..], &b[1..]),
        }
    }
}

/// As C's int wraps there; names with such numbers don't occur, so it only must not panic.
fn number(bytes: &[u8]) -> (i32, &[u8]) {
    let end = bytes
        .iter()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(bytes.len());
    let value = bytes[..end].iter().fold(0i32, |n, d| {
        n.wrapping_mul(10).wrapping_add(i32::from(*d - b'0'))
    });
    (value, &bytes[end..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(compare("libx.so.10", "libx.so.9"), Ordering::Greater);
        assert_eq!(compare("libx.so.1", "libx.so"), Ordering::Greater);
        assert_eq!(compare("lib1", "liba"), Ordering::Greater);
        assert_eq!(compare("liba", "libb"), Ordering::Less);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_library_or_not(
            mut bytes in prop::collection::vec(any::<u8>(), 0..400),
            elf in any::<bool>(),
        ) {
            if elf && bytes.len() > 20 {
                bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
                bytes[16..20].copy_from_slice(&[3, 0, 62, 0]);
            }
            drop(parse(&bytes));
        }

        #[test]
        fn the_order_is_one(a in "[a-c0-9.]{0,8}", b in "[a-c0-9.]{0,8}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
        }
    }
}
