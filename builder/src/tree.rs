//! A root filesystem in memory, on its way from packages to a filesystem image.
//!
//! Paths are absolute within the image without the leading slash (`usr/bin/nft`),
//! in UTF-8, sorted bytewise: the order in which writers see them is the order
//! of the map, which is what makes images reproducible.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Cursor, Read, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::{At as _, Error, Kind, Result};

/// Where the bytes of a regular file are. Small ones are held, large ones stay
/// in the file they were built or fetched into.
#[derive(Debug, Clone)]
pub enum Content {
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// `len` bytes of the file at `path`, beginning at `offset`.
    Range {
        /// A file of the host that does not change during the build.
        path: Arc<PathBuf>,
        /// First byte.
        offset: u64,
        /// Length in bytes.
        len: u64,
    },
}

impl Content {
    /// A whole file of the host.
    pub fn file(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let len = std::fs::metadata(&path).at("reading", &path)?.len();
        Ok(Self::Range {
            path: Arc::new(path),
            offset: 0,
            len,
        })
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(b) => b.len() as u64,
            Self::Range { len, .. } => *len,
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A reader of exactly [`Content::len`] bytes.
    pub fn open(&self) -> Result<Box<dyn Read + Send>> {
        match self {
            Self::Bytes(b) => Ok(Box::new(Cursor::new(Arc::clone(b)))),
            Self::Range { path, offset, len } => {
                let path = path.as_path();
                let mut file = File::open(path).at("opening", path)?;
                file.seek(SeekFrom::Start(*offset)).at("reading", path)?;
                Ok(Box::new(file.take(*len)))
            }
        }
    }

    /// All bytes, in memory.
    pub fn read(&self) -> Result<Arc<[u8]>> {
        if let Self::Bytes(b) = self {
            return Ok(Arc::clone(b));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(self.len()).unwrap_or(0));
        self.open()?
            .read_to_end(&mut bytes)
            .map_err(|e| Error::new(Kind::Io, format!("reading a file for the image: {e}")))?;
        Ok(bytes.into())
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Bytes(text.as_bytes().into())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

/// What a path is.
#[derive(Debug, Clone)]
pub enum NodeKind {
    /// A regular file.
    File(Content),
    /// A directory.
    Directory,
    /// A symbolic link and its target.
    Symlink(String),
    /// A hard link to another path of the tree (which is a regular file).
    Hardlink(String),
}

/// An entry with what is true of every kind.
#[derive(Debug, Clone)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits, with setuid, setgid and sticky (`0o7777`).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Extended attributes, by full name (`security.capability`).
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Node {
    /// An entry owned by root without extended attributes.
    pub fn new(kind: NodeKind, mode: u16) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid: 0,
            xattrs: BTreeMap::new(),
        }
    }
}

/// The tree: path to entry. Parents of an inserted path are made as needed.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// An empty tree (the root directory itself is implied, `0755 root:root`).
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts an entry in place of whatever was there, making missing parents
    /// (`0755`). A parent that is a symbolic link inside the tree is followed,
    /// which is how packages that still say `lib/` land in `usr/lib/`. A
    /// directory that exists keeps its contents and takes the new attributes.
    ///
    /// # Errors
    /// [`Kind::Input`] for a path that leaves the tree or runs through a file.
    pub fn insert(&mut self, path: &str, node: Node) -> Result<()> {
        let path = self.resolve_parent(path)?;
        if let (NodeKind::Directory, Some(there)) = (&node.kind, self.nodes.get(&path))
            && matches!(there.kind, NodeKind::Symlink(_))
        {
            // `./lib/` of a package onto our usr-merge symlink.
            return Ok(());
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// A file owned by root.
    pub fn file(&mut self, path: &str, mode: u16, content: impl Into<Content>) -> Result<()> {
        self.insert(path, Node::new(NodeKind::File(content.into()), mode))
    }

    /// A directory owned by root, `0755`.
    pub fn dir(&mut self, path: &str) -> Result<()> {
        self.insert(path, Node::new(NodeKind::Directory, 0o755))
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.insert(path, Node::new(NodeKind::Symlink(target.to_owned()), 0o777))
    }

    /// The entry at a path, following no links.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path.trim_matches('/'))
    }

    /// The file's content at a path, following symbolic and hard links.
    pub fn content(&self, path: &str) -> Option<&Content> {
        let mut path = path.trim_matches('/').to_owned();
        for _ in 0..16 {
            match &self.nodes.get(&path)?.kind {
                NodeKind::File(content) => return Some(content),
                NodeKind::Hardlink(target) => path = target.clone(),
                NodeKind::Symlink(target) => path = join(&path, target)?,
                NodeKind::Directory => return None,
            }
        }
        None
    }

    /// Every entry, sorted by path; a directory comes before what is in it.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(p, n)| (p.as_str(), n))
    }

    /// The entries below a directory, without itself.
    pub fn below<'a>(&'a self, dir: &str) -> impl Iterator<Item = (&'a str, &'a Node)> {
        let prefix = format!("{}/", dir.trim_matches('/'));
        self.nodes
            .range(prefix.clone()..)
            .take_while(move |(p, _)| p.starts_with(&prefix))
            .map(|(p, n)| (p.as_str(), n))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing was inserted.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Keeps what the rule says; a hard link to a file that goes becomes that file.
    pub fn retain(&mut self, mut keep: impl FnMut(&str, &Node) -> bool) {
        let gone: BTreeMap<String, Node> = {
            let mut gone = BTreeMap::new();
            self.nodes.retain(|p, n| {
                let kept = keep(p, n);
                if !kept {
                    gone.insert(p.clone(), n.clone());
                }
                kept
            });
            gone
        };
        let mut moved: BTreeMap<String, String> = BTreeMap::new();
        for (path, node) in &mut self.nodes {
            let NodeKind::Hardlink(target) = &mut node.kind else {
                continue;
            };
            if let Some(new) = moved.get(target) {
                target.clone_from(new);
            } else if let Some(source) = gone.get(target) {
                moved.insert(target.clone(), path.clone());
                *node = source.clone();
            }
        }
    }

    /// Follows symbolic links among the parents of `path` and makes those that
    /// are missing.
    fn resolve_parent(&mut self, path: &str) -> Result<String> {
        let outside = || Error::new(Kind::Input, format!("path `{path}` leaves the image"));
        let mut done = String::new();
        let mut todo: Vec<String> = split(path).ok_or_else(outside)?;
        todo.reverse();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            let here = if done.is_empty() {
                part
            } else {
                format!("{done}/{part}")
            };
            if todo.is_empty() {
                return Ok(here);
            }
            match self.nodes.get(&here).map(|n| &n.kind) {
                None => {
                    self.nodes
                        .insert(here.clone(), Node::new(NodeKind::Directory, 0o755));
                    done = here;
                }
                Some(NodeKind::Directory) => done = here,
                Some(NodeKind::Symlink(target)) => {
                    links += 1;
                    let target = join(&here, target).ok_or_else(outside)?;
                    if links > 16 {
                        return Err(Error::new(
                            Kind::Input,
                            format!("path `{path}` goes round in symbolic links"),
                        ));
                    }
                    todo.extend(split(&target).ok_or_else(outside)?.into_iter().rev());
                    done = String::new();
                }
                Some(_) => {
                    return Err(Error::new(
                        Kind::Input,
                        format!("path `{path}` runs through `{here}`, which is a file"),
                    ));
                }
            }
        }
        Err(outside())
    }
}

/// The parts of a path without `.` and empty ones; `None` if it has `..` or NUL.
fn split(path: &str) -> Option<Vec<String>> {
    path.split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .map(|p| (p != ".." && !p.contains('\0')).then(|| p.to_owned()))
        .collect()
}

/// Where a symbolic link at `link` to `target` leads, as a path of the tree;
/// `None` if it would leave it.
fn join(link: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = if target.starts_with('/') {
        Vec::new()
    } else {
        let mut p: Vec<&str> = link.split('/').collect();
        p.pop();
        p
    };
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_says_lib_lands_in_usr_lib() {
        let mut tree = Tree::new();
        tree.symlink("lib", "usr/lib").unwrap();
        tree.dir("./lib/").unwrap();
        tree.file("./lib/x86_64/ld.so", 0o755, "elf").unwrap();
        assert!(tree.get("usr/lib/x86_64/ld.so").is_some());
        assert!(matches!(
            tree.get("lib").unwrap().kind,
            NodeKind::Symlink(_)
        ));
    }

    #[test]
    fn paths_that_leave_the_tree_are_refused() {
        let mut tree = Tree::new();
        assert!(tree.file("../etc/passwd", 0o644, "").is_err());
        tree.symlink("out", "../..").unwrap();
        assert!(tree.file("out/x", 0o644, "").is_err());
        tree.symlink("a", "b").unwrap();
        tree.symlink("b", "a").unwrap();
        assert!(tree.file("a/x", 0o644, "").is_err());
    }

    #[test]
    fn removing_a_hard_links_target_keeps_the_bytes() {
        let mut tree = Tree::new();
        tree.file("doc/a", 0o644, "text").unwrap();
        tree.insert(
            "usr/b",
            Node::new(NodeKind::Hardlink("doc/a".into()), 0o644),
        )
        .unwrap();
        tree.insert(
            "usr/c",
            Node::new(NodeKind::Hardlink("doc/a".into()), 0o644),
        )
        .unwrap();
        tree.retain(|p, _| !p.starts_with("doc"));
        assert_eq!(&*tree.content("usr/b").unwrap().read().unwrap(), b"text");
        assert!(matches!(&tree.get("usr/c").unwrap().kind, NodeKind::Hardlink(t) if t == "usr/b"));
    }
}
