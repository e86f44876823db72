//! The root filesystem, against e2fsprogs.

use std::fs;
use std::path::Path;

use slipway::Kind;
use slipway::formats::ext4::{Options, Stats, write};
use slipway::tree::{Node, NodeKind, Tree};
use uuid::Uuid;

use super::{EPOCH, in_a_child, noise, quiet, run, sparse, str};

const SIZE: u64 = 64 << 20;

fn options(size: u64) -> Options {
    Options {
        size,
        uuid: Uuid::from_u128(0x1234_5678_9abc_4def_8000_0123_4567_89ab),
        label: "root".into(),
        epoch: EPOCH,
    }
}

fn make(tree: &Tree, path: &Path, size: u64) -> slipway::Result<Stats> {
    let file = sparse(path, size);
    write(tree, &file, 0, &options(size), &quiet())
}

fn tree() -> Tree {
    let mut tree = Tree::new();
    tree.symlink("bin", "usr/bin").unwrap();
    tree.insert("tmp", Node::new(NodeKind::Directory, 0o1777))
        .unwrap();
    let mut mount = Node::new(NodeKind::File(noise(1, 50_000).into()), 0o4755);
    mount.uid = 1000;
    mount.gid = 70_000;
    tree.insert("usr/bin/mount", mount).unwrap();
    let mut ping = Node::new(NodeKind::File(noise(2, 3 << 20).into()), 0o755);
    ping.xattrs.insert(
        "security.capability".into(),
        vec![
            1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
    );
    tree.insert("usr/bin/ping", ping).unwrap();
    tree.insert(
        "usr/bin/ping4",
        Node::new(NodeKind::Hardlink("usr/bin/ping".into()), 0o755),
    )
    .unwrap();
    // A link that sorts before what it leads to.
    tree.insert(
        "usr/bin/a",
        Node::new(NodeKind::Hardlink("usr/bin/mount".into()), 0o755),
    )
    .unwrap();
    tree.symlink("usr/bin/long", &"x/".repeat(100)).unwrap();
    tree.file("etc/empty", 0o600, "").unwrap();
    tree.file(&format!("etc/{}", "ü".repeat(127)), 0o644, "name")
        .unwrap();
    tree.file("etc/zeros", 0o644, vec![0; 100_000]).unwrap();
    for i in 0..3000 {
        tree.file(&format!("usr/share/many/{i}"), 0o644, format!("{i}\n"))
            .unwrap();
    }
    tree
}

#[test]
fn e2fsprogs_find_it_clean_and_everything_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("root.img");
    let stats = make(&tree(), &image, SIZE).unwrap();
    assert_eq!(stats.entries, tree().len());
    assert!(stats.used > 3 << 20 && stats.used < 24 << 20, "{stats:?}");
    run("e2fsck", &["-fn", str(&image)]);
    let header = run("dumpe2fs", &["-h", str(&image)]);
    for line in [
        "Filesystem UUID:          12345678-9abc-4def-8000-0123456789ab",
        "Filesystem volume name:   root",
        "Filesystem state:         clean",
        "Reserved block count:     0",
        "Block count:              16384",
    ] {
        assert!(header.contains(line), "{line}: {header}");
    }
    let debugfs = |command: &str| run("debugfs", &["-R", command, str(&image)]);
    let mount = debugfs("stat /usr/bin/mount");
    for part in [
        "Mode:  04755",
        "User:  1000",
        "Group: 70000",
        "Links: 2",
        "Size: 50000",
    ] {
        assert!(mount.contains(part), "{part}: {mount}");
    }
    // 1790000000 is 0x6ab13b80.
    assert!(mount.contains("mtime: 0x6ab13b80:00000000"), "{mount}");
    let inode = |path: &str| {
        debugfs(&format!("stat {path}")).lines().find_map(|l| {
            Some(
                l.split_once("Inode: ")?
                    .1
                    .split_whitespace()
                    .next()?
                    .to_owned(),
            )
        })
    };
    assert_eq!(inode("/usr/bin/ping"), inode("/usr/bin/ping4"));
    assert_eq!(inode("/usr/bin/mount"), inode("/usr/bin/a"));
    assert!(debugfs("ea_list /usr/bin/ping").contains("security.capability (20)"));
    assert!(debugfs("stat /tmp").contains("Mode:  01777"));
    assert!(debugfs("stat /bin").contains("Fast link dest: \"usr/bin\""));
    for path in ["usr/bin/ping", "etc/zeros", "usr/share/many/2999"] {
        let out = dir.path().join("out");
        debugfs(&format!("dump /{path} {}", str(&out)));
        let bytes = tree().content(path).unwrap().read().unwrap();
        assert!(fs::read(&out).unwrap() == *bytes, "{path}");
    }
}

#[test]
fn the_same_tree_gives_the_same_bytes_at_any_place() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    make(&tree(), &a, SIZE).unwrap();
    let file = sparse(&b, SIZE + (1 << 20));
    write(&tree(), &file, 1 << 20, &options(SIZE), &quiet()).unwrap();
    assert!(fs::read(&a).unwrap() == fs::read(&b).unwrap()[1 << 20..]);
}

#[test]
fn a_small_edit_changes_few_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    make(&tree(), &a, SIZE).unwrap();
    let mut edited = tree();
    edited
        .file("usr/share/many/1500", 0o644, "another")
        .unwrap();
    edited.file("usr/share/new", 0o644, "new").unwrap();
    make(&edited, &b, SIZE).unwrap();
    let (a, b) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
    // The large file before them stays where it is.
    let ping = noise(2, 3 << 20);
    let at = |image: &[u8]| image.chunks(4096).position(|c| c == &ping[..4096]).unwrap();
    assert_eq!(at(&a), at(&b));
}

#[test]
fn what_does_not_fit_or_cannot_be_held_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("root.img");
    let mut large = Tree::new();
    large.file("large", 0o644, vec![1; 20 << 20]).unwrap();
    let error = make(&large, &image, 16 << 20).unwrap_err();
    assert_eq!(error.kind, Kind::Input);
    assert!(error.to_string().contains("has 16 MiB"), "{error}");
    assert!(error.advice().is_some());

    let mut acl = Tree::new();
    let mut node = Node::new(NodeKind::Directory, 0o755);
    node.xattrs
        .insert("system.posix_acl_default".into(), vec![2, 0, 0, 0]);
    acl.insert("var/log", node).unwrap();
    let error = make(&acl, &image, SIZE).unwrap_err();
    assert!(
        error.message().contains("`var/log` has a POSIX ACL"),
        "{error}"
    );

    let mut dangling = Tree::new();
    dangling
        .insert("a", Node::new(NodeKind::Hardlink("b".into()), 0o644))
        .unwrap();
    let error = make(&dangling, &image, SIZE).unwrap_err();
    assert!(error.message().contains("hard link to `b`"), "{error}");

    let mut odd = Tree::new();
    let mut node = Node::new(NodeKind::Directory, 0o755);
    node.xattrs.insert("strange.name".into(), vec![1]);
    odd.insert("x", node).unwrap();
    assert_eq!(make(&odd, &image, SIZE).unwrap_err().kind, Kind::Input);

    let mut missing = Tree::new();
    let content = slipway::tree::Content::Range {
        path: std::sync::Arc::new(dir.path().join("gone")),
        offset: 0,
        len: 10,
    };
    missing
        .insert("x", Node::new(NodeKind::File(content), 0o644))
        .unwrap();
    let error = make(&missing, &image, SIZE).unwrap_err();
    assert!(error.message().starts_with("x: "), "{error}");
    assert_eq!(error.kind, Kind::Io);
}

/// `RLIMIT_FSIZE` stands in for a full disk: writing ends with an error in the midst.
#[test]
fn a_disk_that_ends_is_an_error_and_leaves_nothing() {
    const NAME: &str = "ext4::a_disk_that_ends_is_an_error_and_leaves_nothing";
    if std::env::var_os("LIMITED").is_none() {
        let text = in_a_child(NAME, "LIMITED");
        assert!(text.contains("1 passed"), "{text}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("x.img");
    // Ignored, so that write(2) fails instead of the process.
    let _guard = signal_hook::flag::register(25, std::sync::Arc::default()).unwrap();
    rustix::process::setrlimit(
        rustix::process::Resource::Fsize,
        rustix::process::Rlimit {
            current: Some(8 << 20),
            maximum: None,
        },
    )
    .unwrap();
    let error = slipway::atomic::Pending::create(&target)
        .and_then(|mut pending| {
            let file = pending.file();
            write(&tree(), file, 6 << 20, &options(SIZE), &quiet()).map(drop)
        })
        .unwrap_err();
    assert_eq!(error.kind, Kind::Io, "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
