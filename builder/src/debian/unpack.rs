//! Package contents as nodes of the image's tree, decompressed once.
//!
//! Unpacking the kernel's package costs seconds, and a warm rebuild has none to
//! spare. So the wanted files of a package are kept in the cache, under the
//! digests of the package and of the rules that chose them:
//!
//! | file | what |
//! |---|---|
//! | `unpacked/<sha256>-<rules>.data` | the contents, one after the other |
//! | `unpacked/<sha256>-<rules>.json` | [`Stored`]: names, modes, places |
//!
//! Nodes then are ranges of the `.data` file. Nothing is ever extracted to the
//! disk under its own name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use tar::EntryType;

use super::deb::{self, corrupt, damaged, unsupported};
use super::fetch::{Fetched, in_parallel};
use crate::atomic::{self, Pending};
use crate::digest;
use crate::error::{At as _, Error, Kind, Result};
use crate::progress::Progress;
use crate::tree::{Content, Node, NodeKind};

/// Goes up when the form of the cache's files, or what is put there, changes.
const FORMAT: u32 = 1;

/// No package of Debian's unpacks to more: a limit for damaged or hostile ones.
const MAX_LEN: u64 = 8 << 30;

/// Which paths to keep (`usr/share/doc/x`, as they will be in the image).
pub type Filter<'a> = &'a (dyn Fn(&str) -> bool + Sync);

/// The entries of a package that pass the filter, sorted by path.
///
/// Paths are relative and usr-merged (`lib/x` of a package is `usr/lib/x` here).
/// Directories are listed only if they pass themselves. `rules_digest` must
/// differ for filters that differ.
///
/// # Errors
/// [`Kind::Input`], naming the package, for one that is damaged or has what an
/// image can't (devices, names that aren't UTF-8); [`Kind::Io`].
pub fn unpack(
    fetched: &Fetched,
    keep: Filter<'_>,
    rules_digest: &str,
    cache: &Path,
) -> Result<Vec<(String, Node)>> {
    let place = Place::of(cache, &fetched.package.sha256, rules_digest);
    if let Some(nodes) = place.load() {
        return Ok(nodes);
    }
    place
        .fill(&fetched.path, keep)
        .map_err(|e| e.within(format!("package {}", fetched.package.name)))?;
    place.load().ok_or_else(|| {
        Error::new(
            Kind::Io,
            format!("{} was damaged while it was written", place.data.display()),
        )
    })
}

/// [`unpack`] for many packages, several at a time, in their order.
///
/// # Errors
/// As for [`unpack`]; [`Kind::Interrupted`].
pub fn unpack_all(
    fetched: &[Fetched],
    keep: Filter<'_>,
    rules_digest: &str,
    cache: &Path,
    progress: &Progress,
) -> Result<Vec<Vec<(String, Node)>>> {
    let total = fetched.iter().map(|f| f.package.size).sum();
    let task = progress.task(format!("unpacking {} packages", fetched.len()), Some(total));
    let all: Mutex<BTreeMap<usize, Vec<(String, Node)>>> = Mutex::new(BTreeMap::new());
    // The largest first: the others are done while it is decoded.
    let mut order: Vec<usize> = (0..fetched.len()).collect();
    order.sort_by_key(|&n| std::cmp::Reverse(fetched.get(n).map(|f| f.package.size)));
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    in_parallel(&order, threads, |&n| {
        task.progress().check()?;
        let Some(one) = fetched.get(n) else {
            return Ok(());
        };
        let nodes = unpack(one, keep, rules_digest, cache)?;
        task.add(one.package.size);
        if let Ok(mut all) = all.lock() {
            all.insert(n, nodes);
        }
        Ok(())
    })?;
    let all = all
        .into_inner()
        .map_err(|_| Error::new(Kind::Bug, "a thread broke down while unpacking"))?;
    Ok(all.into_values().collect())
}

/// Single files of a package by their exact paths, for what isn't part of the
/// root filesystem (a boot loader, firmware for QEMU).
///
/// # Errors
/// As for [`unpack`]; [`Kind::Input`] if the package lacks one of them.
pub fn take(fetched: &Fetched, paths: &[&str], cache: &Path) -> Result<BTreeMap<String, Content>> {
    let rules = digest::hex(format!("take\n{}", paths.join("\n")).as_bytes());
    let nodes = unpack(fetched, &|path| paths.contains(&path), &rules, cache)?;
    let mut found = BTreeMap::new();
    for (path, node) in nodes {
        if let NodeKind::File(content) = node.kind {
            found.insert(path, content);
        }
    }
    for path in paths {
        if !found.contains_key(*path) {
            return Err(Error::new(
                Kind::Input,
                format!(
                    "package {} {} has no file {path}",
                    fetched.package.name, fetched.package.version
                ),
            ));
        }
    }
    Ok(found)
}

/// What the cache knows of a package.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    format: u32,
    /// Length of the `.data` file.
    len: u64,
    entries: BTreeMap<String, StoredEntry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredEntry {
    kind: StoredKind,
    mode: u16,
    uid: u32,
    gid: u32,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum StoredKind {
    File { offset: u64, len: u64 },
    Directory,
    Symlink(String),
    Hardlink(String),
}

struct Place {
    data: PathBuf,
    index: PathBuf,
}

impl Place {
    fn of(cache: &Path, sha256: &str, rules: &str) -> Self {
        let name = format!("{sha256}-{}", rules.get(..16).unwrap_or(rules));
        let dir = cache.join("unpacked");
        Self {
            data: dir.join(format!("{name}.data")),
            index: dir.join(format!("{name}.json")),
        }
    }

    /// What is there, if it is whole and of our format.
    fn load(&self) -> Option<Vec<(String, Node)>> {
        let stored: Stored = serde_json::from_slice(&fs::read(&self.index).ok()?).ok()?;
        let len = fs::metadata(&self.data).ok()?.len();
        if stored.format != FORMAT || stored.len != len {
            return None;
        }
        let data = Arc::new(self.data.clone());
        let nodes = stored.entries.into_iter().map(|(path, entry)| {
            let kind = match entry.kind {
                StoredKind::File { len: 0, .. } => NodeKind::File(Content::from(Vec::new())),
                StoredKind::File { offset, len } => NodeKind::File(Content::Range {
                    path: Arc::clone(&data),
                    offset,
                    len,
                }),
                StoredKind::Directory => NodeKind::Directory,
                StoredKind::Symlink(target) => NodeKind::Symlink(target),
                StoredKind::Hardlink(target) => NodeKind::Hardlink(target),
            };
            let node = Node {
                kind,
                mode: entry.mode,
                uid: entry.uid,
                gid: entry.gid,
                xattrs: entry.xattrs,
            };
            (path, node)
        });
        Some(nodes.collect())
    }

    fn fill(&self, package: &Path, keep: Filter<'_>) -> Result<()> {
        // A hard link that passes may be to a file that doesn't: its bytes came
        // earlier in the stream, so a second pass takes them along.
        let mut also = BTreeSet::new();
        for _ in 0..2 {
            let mut pending = Pending::create(&self.data)?;
            let (stored, missing) = {
                let path = self.data.clone();
                let mut out = BufWriter::with_capacity(1 << 20, pending.file());
                let result = deb::with_data(package, |tar| {
                    Reader::new(&mut out, &path, keep, &also).read(tar)
                })?;
                out.flush().at("writing", &self.data)?;
                result
            };
            if !missing.is_empty() {
                also = missing;
                continue;
            }
            pending.commit(0o644)?;
            let json = serde_json::to_vec(&stored)
                .map_err(|e| Error::new(Kind::Bug, format!("writing a package's index: {e}")))?;
            return atomic::write(&self.index, &json, 0o644);
        }
        Err(corrupt("it has a hard link to nowhere"))
    }
}

/// Reads one `data.tar`.
struct Reader<'a, W> {
    out: W,
    /// Of `out`, for messages.
    out_path: &'a Path,
    keep: Filter<'a>,
    /// Files that don't pass but that a hard link needs.
    also: &'a BTreeSet<String>,
    offset: u64,
    entries: BTreeMap<String, StoredEntry>,
    missing: BTreeSet<String>,
}

impl<'a, W: Write> Reader<'a, W> {
    fn new(out: W, out_path: &'a Path, keep: Filter<'a>, also: &'a BTreeSet<String>) -> Self {
        Self {
            out,
            out_path,
            keep,
            also,
            offset: 0,
            entries: BTreeMap::new(),
            missing: BTreeSet::new(),
        }
    }

    fn read(mut self, tar: &mut dyn Read) -> Result<(Stored, BTreeSet<String>)> {
        let mut archive = tar::Archive::new(tar);
        for entry in archive.entries().map_err(|e| damaged(&e))? {
            self.entry(&mut entry.map_err(|e| damaged(&e))?)?;
        }
        self.resolve_links();
        let stored = Stored {
            format: FORMAT,
            len: self.offset,
            entries: self.entries,
        };
        Ok((stored, self.missing))
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<()> {
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            return Ok(());
        }
        let Some(path) = image_path(&entry.path_bytes(), kind == EntryType::Symlink)? else {
            return Ok(()); // the root directory itself
        };
        let wanted = (self.keep)(&path);
        if !wanted && !self.also.contains(&path) {
            return Ok(());
        }
        let within = |e: Error| e.within(&path);
        let xattrs = extended_attributes(entry).map_err(within)?;
        let stored = StoredEntry {
            mode: u16::try_from(entry.header().mode().map_err(|e| damaged(&e))? & 0o7777)
                .unwrap_or(0),
            uid: id(entry.header().uid()).map_err(within)?,
            gid: id(entry.header().gid()).map_err(within)?,
            xattrs,
            kind: match kind {
                EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                    self.content(entry).map_err(within)?
                }
                EntryType::Directory => StoredKind::Directory,
                EntryType::Symlink => {
                    let target = link_target(entry).map_err(within)?;
                    StoredKind::Symlink(target)
                }
                EntryType::Link => {
                    let target = link_target(entry).map_err(within)?;
                    let target = image_path(target.as_bytes(), false)?
                        .ok_or_else(|| within(corrupt("it is a hard link to nothing")))?;
                    StoredKind::Hardlink(target)
                }
                EntryType::Char | EntryType::Block | EntryType::Fifo => {
                    return Err(within(unsupported("it is a device or a pipe")));
                }
                _ => return Err(within(unsupported("it is of an unknown type"))),
            },
        };
        self.entries.insert(path, stored);
        Ok(())
    }

    fn content<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<StoredKind> {
        let (offset, len) = (self.offset, entry.size());
        if len > MAX_LEN || offset > MAX_LEN - len {
            return Err(unsupported("the package has more than 8 GiB"));
        }
        let mut buffer = [0; 64 << 10];
        let mut left = len;
        while left > 0 {
            let want = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let n = entry
                .read(buffer.get_mut(..want).unwrap_or_default())
                .map_err(|e| damaged(&e))?;
            if n == 0 {
                return Err(corrupt("it is cut off"));
            }
            self.out
                .write_all(buffer.get(..n).unwrap_or_default())
                .at("writing", self.out_path)?;
            left -= n as u64;
        }
        self.offset = offset + len;
        Ok(StoredKind::File { offset, len })
    }

    /// A hard link to a file that doesn't pass becomes that file; what isn't
    /// there at all is noted.
    fn resolve_links(&mut self) {
        let targets: Vec<(String, String)> = self
            .entries
            .iter()
            .filter_map(|(path, entry)| match &entry.kind {
                StoredKind::Hardlink(target) => Some((path.clone(), target.clone())),
                _ => None,
            })
            .collect();
        let mut moved: BTreeMap<String, String> = BTreeMap::new();
        for (path, target) in targets {
            if let Some(new) = moved.get(&target) {
                if let Some(entry) = self.entries.get_mut(&path) {
                    entry.kind = StoredKind::Hardlink(new.clone());
                }
                continue;
            }
            match self.entries.get(&target).cloned() {
                Some(StoredEntry {
                    kind: StoredKind::Directory,
                    ..
                })
                | None => {
                    self.missing.insert(target);
                }
                Some(source) if self.also.contains(&target) && !(self.keep)(&target) => {
                    self.entries.insert(path.clone(), source);
                    moved.insert(target, path);
                }
                Some(_) => {}
            }
        }
        self.entries
            .retain(|path, _| !self.also.contains(path) || (self.keep)(path));
    }
}

/// The path in the image: relative, usr-merged, without `.`; `None` for the root.
fn image_path(bytes: &[u8], is_symlink: bool) -> Result<Option<String>> {
    let shown = || String::from_utf8_lossy(bytes).escape_debug().to_string();
    let text = std::str::from_utf8(bytes)
        .map_err(|_| unsupported(&format!("the name `{}` is not UTF-8", shown())))?;
    let parts: Vec<&str> = text
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    if parts.contains(&"..") || text.contains('\0') {
        return Err(corrupt(&format!(
            "the name `{}` leads out of the image",
            shown()
        )));
    }
    let merged = matches!(
        parts.first(),
        Some(&("bin" | "sbin" | "lib" | "lib32" | "lib64" | "libo32" | "libx32"))
    ) && !(is_symlink && parts.len() == 1);
    let path = parts.join("/");
    Ok(match path.as_str() {
        "" => None,
        _ if merged => Some(format!("usr/{path}")),
        _ => Some(path),
    })
}

fn id(id: std::io::Result<u64>) -> Result<u32> {
    let id = id.map_err(|e| damaged(&e))?;
    u32::try_from(id).map_err(|_| corrupt("its owner is not a number of a user"))
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>) -> Result<String> {
    let target = entry
        .link_name_bytes()
        .filter(|t| !t.is_empty() && !t.contains(&0))
        .ok_or_else(|| corrupt("it is a link to nothing"))?;
    String::from_utf8(target.into_owned()).map_err(|_| unsupported("its target is not UTF-8"))
}

/// `SCHILY.xattr.*` of the pax header. Sparse files in pax form would come out
/// wrong, so they are refused (dpkg doesn't make them).
fn extended_attributes<R: Read>(
    entry: &mut tar::Entry<'_, R>,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    let Some(extensions) = entry.pax_extensions().map_err(|e| damaged(&e))? else {
        return Ok(found);
    };
    for extension in extensions {
        let extension = extension.map_err(|e| damaged(&e))?;
        let key = extension
            .key()
            .map_err(|_| unsupported("a pax key is not UTF-8"))?;
        if key.starts_with("GNU.sparse.") {
            return Err(unsupported("it is a sparse file in pax form"));
        }
        if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
            found.insert(name.to_owned(), extension.value_bytes().to_vec());
        }
    }
    Ok(found)
}
