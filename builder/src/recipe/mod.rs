//! What the packages' maintainer scripts would have done, done explicitly.
//!
//! No script of a package ever runs in a build. What an image needs of their effects is
//! a step here; each says in a line what it did, and the lines go into the image's
//! manifest:
//!
//! | step | in place of |
//! |---|---|
//! | [`skeleton`] | base-files, base-passwd, passwd, systemd: directories, users, `/etc` |
//! | [`modules`] | kmod's `depmod`, and the choice of kernel modules |
//! | [`initrd`] | initramfs-tools |
//! | [`ldcache`] | libc-bin's `ldconfig` |
//! | [`certificates`] | `update-ca-certificates` |
//! | [`alternatives`] | `update-alternatives` |

pub mod alternatives;
pub mod busybox;
pub mod certificates;
pub mod initrd;
pub mod ldcache;
pub mod modules;
pub mod skeleton;

use crate::tree::{NodeKind, Tree};

/// The path that `path` leads to when every symbolic link on the way and at its end is
/// followed within the tree; `None` if that leaves the tree, goes round, or isn't there.
pub(crate) fn resolve(tree: &Tree, path: &str) -> Option<String> {
    let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
    let mut done: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = todo.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                done.pop()?;
                continue;
            }
            _ => done.push(part),
        }
        match &tree.get(&done.join("/"))?.kind {
            NodeKind::Symlink(target) => {
                links += 1;
                if links > 32 {
                    return None;
                }
                done.pop();
                if target.starts_with('/') {
                    done.clear();
                }
                todo.extend(target.split('/').rev().map(str::to_owned));
            }
            NodeKind::Directory => {}
            NodeKind::File(_) | NodeKind::Hardlink(_) if todo.is_empty() => {}
            NodeKind::File(_) | NodeKind::Hardlink(_) => return None,
        }
    }
    Some(done.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_on_the_way_and_at_the_end() {
        let mut tree = Tree::new();
        tree.symlink("lib", "usr/lib").unwrap();
        tree.file("usr/lib/x/libc.so.6", 0o755, "elf").unwrap();
        tree.symlink("usr/lib/x/libc.so", "/lib/x/../x/libc.so.6")
            .unwrap();
        tree.symlink("round", "round").unwrap();
        tree.symlink("out", "../..").unwrap();
        let found = Some("usr/lib/x/libc.so.6".to_owned());
        assert_eq!(resolve(&tree, "/lib/x/libc.so"), found);
        for nowhere in [
            "round",
            "out",
            "lib/none",
            "lib/x/libc.so.6/y",
            "../lib/../..",
        ] {
            assert_eq!(resolve(&tree, nowhere), None, "{nowhere}");
        }
    }
}
