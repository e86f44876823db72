//! The root filesystem: ext4, written in one pass without mounting anything.
//!
//! | blocks of 4096 bytes | what |
//! |---|---|
//! | 0 | superblock at byte 1024 |
//! | 1.. | group descriptors |
//! | next | block bitmaps, inode bitmaps, inode tables of up to 16 groups (flex_bg) |
//! | next | journal, the smallest there is: 1024 blocks of zeros |
//! | next | directories, in the order of their paths |
//! | next | files: large ones by path, then small ones by path |
//!
//! Sources: the kernel's Documentation/filesystems/ext4; the layout is that of the
//! `mkext4` crate, which writes no 64bit feature and always has a journal (a root that
//! is mounted read-only never touches it).
//!
//! The order is what keeps images alike between versions, for the compressor's cache
//! and for deltas: inode tables have a size that depends on the filesystem's size only,
//! large files come first, and what small edits touch comes last, so that a change moves
//! little of what follows. Every time stamp is the build's `SOURCE_DATE_EPOCH`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use mkext4::sink::RegionSink;
use mkext4::{FsBuilder, InodeCount, InodeHandle, Meta, ROOT};
use uuid::Uuid;

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::tree::{Content, Node, NodeKind, Tree};

/// Files of at least this many bytes are laid out before the others.
const LARGE: u64 = 1 << 20;

const BLOCK: u64 = 4096;

/// Blocks of the smallest journal.
const JOURNAL_BLOCKS: u32 = 1024;

/// What a filesystem is made with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its size in bytes, a multiple of 4096.
    pub size: u64,
    /// By which the kernel's command line names it. The hash seed of directories follows
    /// from it.
    pub uuid: Uuid,
    /// At most 16 bytes.
    pub label: String,
    /// Every time stamp, in seconds since 1970: `SOURCE_DATE_EPOCH`.
    pub epoch: i64,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Entries of the tree.
    pub entries: usize,
    /// Bytes of the files, without what rounding to blocks adds.
    pub content: u64,
    /// Bytes taken: files in whole blocks, directories, tables, journal.
    pub used: u64,
    /// Size of the filesystem.
    pub size: u64,
}

/// Writes the tree as a filesystem into `file` at `offset`. That region must be all holes.
///
/// # Errors
/// [`Kind::Input`] if the tree doesn't fit or holds what ext4 or we can't represent,
/// [`Kind::Io`], [`Kind::Interrupted`].
pub fn write(
    tree: &Tree,
    file: &File,
    offset: u64,
    options: &Options,
    progress: &Progress,
) -> Result<Stats> {
    let plan = Plan::of(tree)?;
    let task = progress.task("writing the root filesystem", Some(plan.content));
    let mut builder = FsBuilder::new(plan.options(options)).map_err(|e| plan.error(&e, options))?;
    let files = plan
        .declare(&mut builder, options.epoch)
        .map_err(|e| plan.error(&e, options))?;
    let layout = builder.seal().map_err(|e| plan.error(&e, options))?;
    let mut sink = Region {
        file,
        offset,
        used: 0,
    };
    let mut writer = layout
        .writer(&mut sink)
        .map_err(|e| plan.error(&e, options))?;
    for (handle, content, path) in files {
        progress.check()?;
        let mut reader = content.open().map_err(|e| e.within(path))?;
        writer
            .fill(handle, &mut reader)
            .map_err(|e| plan.error(&e, options).within(path))?;
        task.add(content.len());
    }
    writer.finish().map_err(|e| plan.error(&e, options))?;
    Ok(Stats {
        entries: tree.len(),
        content: plan.content,
        used: sink.used.next_multiple_of(BLOCK) + u64::from(JOURNAL_BLOCKS) * BLOCK,
        size: options.size,
    })
}

/// The tree in the order in which it goes to the disk.
struct Plan<'t> {
    directories: Vec<(&'t str, &'t Node)>,
    others: Vec<(&'t str, &'t Node)>,
    links: Vec<(&'t str, &'t str)>,
    content: u64,
    blocks: u64,
}

impl<'t> Plan<'t> {
    fn of(tree: &'t Tree) -> Result<Self> {
        let mut plan = Self {
            directories: Vec::new(),
            others: Vec::new(),
            links: Vec::new(),
            content: 0,
            blocks: 0,
        };
        for (path, node) in tree.iter() {
            if let Some(acl) = node
                .xattrs
                .keys()
                .find(|n| n.starts_with("system.posix_acl"))
            {
                return Err(Error::new(
                    Kind::Input,
                    format!("`{path}` has a POSIX ACL ({acl}), which images don't carry"),
                )
                .hint("exclude the file, or give it a plain mode"));
            }
            match &node.kind {
                NodeKind::Directory => {
                    plan.directories.push((path, node));
                    plan.blocks += 1;
                }
                NodeKind::Hardlink(target) => plan.links.push((path, target)),
                NodeKind::Symlink(_) => plan.others.push((path, node)),
                NodeKind::File(content) => {
                    plan.others.push((path, node));
                    plan.content += content.len();
                    plan.blocks += content.len().div_ceil(BLOCK);
                }
            }
        }
        plan.others
            .sort_by_key(|(path, node)| (size(node) < LARGE, *path));
        Ok(plan)
    }

    fn options(&self, options: &Options) -> mkext4::Options {
        // One inode for 16 KiB as mke2fs has it: by size and not by what is in the tree, so
        // that one more file moves nothing.
        let by_size = options.size / 16384;
        let needed = (self.directories.len() + self.others.len() + 16) as u64;
        let inodes = by_size.max(needed.next_multiple_of(8192));
        let mut o = mkext4::Options::new(options.size, *options.uuid.as_bytes(), options.epoch);
        o.inodes = InodeCount::Exact(u32::try_from(inodes).unwrap_or(u32::MAX));
        o.label = Some(options.label.clone());
        o.reserved_percent = 0;
        o.journal_blocks = Some(JOURNAL_BLOCKS);
        o
    }

    /// Declares everything, and gives the files that have bytes in the order of their blocks.
    fn declare(
        &self,
        builder: &mut FsBuilder,
        epoch: i64,
    ) -> mkext4::Result<Vec<(InodeHandle, &'t Content, &'t str)>> {
        let meta = |node: &Node| Meta::new(node.mode, node.uid, node.gid, (epoch, 0));
        let mut handles: BTreeMap<&str, InodeHandle> = BTreeMap::from([("", ROOT)]);
        let parent = |handles: &BTreeMap<&str, InodeHandle>, path: &'t str| {
            let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
            let missing = || mkext4::Error::Invalid(format!("`{path}` has no directory"));
            match handles.get(dir) {
                Some(handle) => Ok((*handle, name)),
                None => Err(missing()),
            }
        };
        for (path, node) in &self.directories {
            let (dir, name) = parent(&handles, path)?;
            let handle = builder.mkdir(dir, name, meta(node))?;
            set_xattrs(builder, handle, node)?;
            handles.insert(path, handle);
        }
        let mut files = Vec::new();
        for (path, node) in &self.others {
            let (dir, name) = parent(&handles, path)?;
            let handle = match &node.kind {
                NodeKind::File(content) => {
                    let handle = builder.file(dir, name, meta(node), content.len())?;
                    if !content.is_empty() {
                        files.push((handle, content, *path));
                    }
                    handle
                }
                NodeKind::Symlink(target) => builder.symlink(dir, name, target, meta(node))?,
                NodeKind::Directory | NodeKind::Hardlink(_) => continue,
            };
            set_xattrs(builder, handle, node)?;
            handles.insert(path, handle);
        }
        for (path, target) in &self.links {
            let (dir, name) = parent(&handles, path)?;
            let handle = *handles.get(target).ok_or_else(|| {
                mkext4::Error::Invalid(format!(
                    "`{path}` is a hard link to `{target}`, which is not there"
                ))
            })?;
            builder.hardlink(dir, name, handle)?;
        }
        Ok(files)
    }

    fn error(&self, error: &mkext4::Error, options: &Options) -> Error {
        let text = error.to_string();
        let needed = self.needed(options.size);
        if text.contains("full") || needed > options.size {
            return Error::new(
                Kind::Input,
                format!(
                    "the root filesystem needs about {} MiB and has {} MiB",
                    needed.div_ceil(1 << 20),
                    options.size >> 20
                ),
            )
            .hint("make the board's root partition larger, or exclude more");
        }
        match error {
            mkext4::Error::Io(e) => Error::io_of("writing", "the root filesystem", e),
            _ => Error::new(Kind::Input, format!("the root filesystem: {text}")),
        }
    }

    /// What the tree takes with the tables around it.
    fn needed(&self, size: u64) -> u64 {
        let tables = size / 16384 * 256 + size / 1024;
        (self.blocks + u64::from(JOURNAL_BLOCKS)) * BLOCK + tables
    }
}

fn size(node: &Node) -> u64 {
    match &node.kind {
        NodeKind::File(content) => content.len(),
        _ => 0,
    }
}

fn set_xattrs(builder: &mut FsBuilder, handle: InodeHandle, node: &Node) -> mkext4::Result<()> {
    for (name, value) in &node.xattrs {
        builder.set_xattr(handle, name, value)?;
    }
    Ok(())
}

/// A part of a file, in which zeros are left as holes.
struct Region<'f> {
    file: &'f File,
    offset: u64,
    used: u64,
}

impl RegionSink for Region<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.used += bytes.len() as u64;
        self.file.write_all_at(bytes, self.offset + offset)
    }

    fn zeros(&mut self, _offset: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
