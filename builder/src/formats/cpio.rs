//! The initial RAM filesystem: a cpio archive in the "newc" form, with zstd around it or not.
//!
//! | offset | size | field (hexadecimal digits) | here |
//! |---|---|---|---|
//! | 0 | 6 | magic | `070701` |
//! | 6 | 8 | ino | 1, 2, ... in the order of the archive; shared by hard links |
//! | 14 | 8 | mode | type and permissions |
//! | 22 | 8 | uid, then gid (8) | as in the tree |
//! | 38 | 8 | nlink | names of a hard-linked file, else 1 |
//! | 46 | 8 | mtime | `SOURCE_DATE_EPOCH` |
//! | 54 | 8 | filesize | |
//! | 62 | 32 | device numbers | 0 |
//! | 94 | 8 | namesize | with the final NUL |
//! | 102 | 8 | check | 0 |
//! | 110 | | name, NUL, padding to 4; then data, padding to 4 | |
//!
//! The end is an entry named `TRAILER!!!`. Source: the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst.

use std::collections::BTreeMap;
use std::io::{self, Write};

use cpio::newc::{Builder, ModeFileType, trailer};

use crate::error::{Error, Kind, Result};
use crate::tree::{Content, NodeKind, Tree};

/// The kernel's zstd decoder for initramfs takes a window of at most 8 MiB where it
/// can't know the content's size beforehand (`ZSTD_WINDOWSIZE_MAX`, lib/decompress_unzstd.c
/// has 128 MiB since 5.9; 8 MiB is what every decoder must take, RFC 8878 section 3.1.1.1.2).
const WINDOW_LOG: u32 = 23;

/// The tree as a compressed archive.
///
/// # Errors
/// [`Kind::Input`] for what an archive can't hold, [`Kind::Io`].
pub fn compressed(tree: &Tree, epoch: i64, level: i32) -> Result<Vec<u8>> {
    let archive = archive(tree, epoch)?;
    let failed = |e: io::Error| Error::new(Kind::Io, format!("compressing the initrd: {e}"));
    let mut encoder = zstd::Encoder::new(Vec::new(), level).map_err(failed)?;
    encoder.window_log(WINDOW_LOG).map_err(failed)?;
    encoder.include_checksum(true).map_err(failed)?;
    encoder
        .set_pledged_src_size(Some(archive.len() as u64))
        .map_err(failed)?;
    encoder.write_all(&archive).map_err(failed)?;
    encoder.finish().map_err(failed)
}

/// The tree as an archive.
///
/// # Errors
/// [`Kind::Input`] for a file of 4 GiB and more or a hard link that leads nowhere;
/// [`Kind::Io`].
pub fn archive(tree: &Tree, epoch: i64) -> Result<Vec<u8>> {
    // A hard-linked file's bytes come with its first name: the kernel links the later
    // ones, which have the same inode number and no bytes, to it.
    let mut names: BTreeMap<&str, u32> = BTreeMap::new();
    for (path, node) in tree.iter() {
        match &node.kind {
            NodeKind::Hardlink(target) => *names.entry(target).or_insert(1) += 1,
            NodeKind::File(_) => {
                names.entry(path).or_insert(1);
            }
            _ => {}
        }
    }
    let mut inodes: BTreeMap<&str, u32> = BTreeMap::new();
    let mut out = Vec::new();
    for (i, (path, node)) in tree.iter().enumerate() {
        let number = u32::try_from(i + 1)
            .map_err(|_| Error::new(Kind::Input, "the initrd has too many files"))?;
        let mut builder = Builder::new(path)
            .mtime(u32::try_from(epoch).unwrap_or(0))
            .uid(node.uid)
            .gid(node.gid)
            .mode(u32::from(node.mode));
        let written = match &node.kind {
            NodeKind::Directory => {
                builder = builder.set_mode_file_type(ModeFileType::Directory);
                entry(&mut out, builder.ino(number), &[])
            }
            NodeKind::Symlink(target) => {
                builder = builder.set_mode_file_type(ModeFileType::Symlink);
                entry(&mut out, builder.ino(number), target.as_bytes())
            }
            NodeKind::File(_) | NodeKind::Hardlink(_) => {
                let inode = match &node.kind {
                    NodeKind::Hardlink(target) => target.as_str(),
                    _ => path,
                };
                let (content, mode) = resolve(tree, path, inode)?;
                builder = builder
                    .mode(u32::from(mode))
                    .set_mode_file_type(ModeFileType::Regular)
                    .nlink(names.get(inode).copied().unwrap_or(1));
                match inodes.get(inode) {
                    Some(known) => entry(&mut out, builder.ino(*known), &[]),
                    None => {
                        inodes.insert(inode, number);
                        let bytes = content.read().map_err(|e| e.within(path))?;
                        entry(&mut out, builder.ino(number), &bytes)
                    }
                }
            }
        };
        written.map_err(|e| Error::new(Kind::Input, format!("`{path}` in the initrd: {e}")))?;
    }
    trailer(&mut out).map_err(|e| Error::new(Kind::Bug, format!("the initrd's end: {e}")))?;
    Ok(out)
}

/// The bytes and mode of the file that `inode` names.
fn resolve<'t>(tree: &'t Tree, path: &str, inode: &str) -> Result<(&'t Content, u16)> {
    match tree.get(inode).map(|n| (&n.kind, n.mode)) {
        Some((NodeKind::File(content), mode)) => Ok((content, mode)),
        _ => Err(Error::new(
            Kind::Input,
            format!("`{path}` in the initrd is a hard link to `{inode}`, which is no file"),
        )),
    }
}

fn entry(out: &mut Vec<u8>, builder: Builder, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len())
        .map_err(|_| io::Error::other("4 GiB and more have no place in a cpio archive"))?;
    let mut writer = builder.write(out, len);
    writer.write_all(bytes)?;
    writer.finish().map(drop)
}
