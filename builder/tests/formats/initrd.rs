//! The initrd, against GNU cpio and zstd.

use std::fs;
use std::process::{Command, Stdio};

use slipway::formats::cpio::{archive, compressed};
use slipway::tree::{Node, NodeKind, Tree};

use super::{EPOCH, noise, run, str};

fn tree() -> Tree {
    let mut tree = Tree::new();
    tree.dir("proc").unwrap();
    tree.file("init", 0o755, noise(1, 12_345)).unwrap();
    tree.symlink("lib", "usr/lib").unwrap();
    tree.file("usr/lib/modules/6.12/x.ko", 0o644, vec![7; 300_000])
        .unwrap();
    // It sorts before its target, so the bytes have to come with it.
    tree.insert(
        "a-link",
        Node::new(NodeKind::Hardlink("init".into()), 0o600),
    )
    .unwrap();
    tree.file("empty", 0o600, "").unwrap();
    tree
}

#[test]
fn gnu_cpio_and_zstd_unpack_it() {
    let dir = tempfile::tempdir().unwrap();
    let packed = dir.path().join("initrd.zst");
    fs::write(&packed, compressed(&tree(), EPOCH, 19).unwrap()).unwrap();
    run("zstd", &["-t", str(&packed)]);
    // What a decoder has to hold: RFC 8878 asks every decoder for 8 MiB.
    let info = run("zstd", &["-lv", str(&packed)]);
    assert!(info.contains("Check: XXH64"), "{info}");
    let archive = dir.path().join("initrd");
    run("zstd", &["-q", "-d", str(&packed), "-o", str(&archive)]);
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let status = Command::new("cpio")
        .args(["-i", "--quiet", "--no-preserve-owner"])
        .current_dir(&out)
        .stdin(Stdio::from(fs::File::open(&archive).unwrap()))
        .status()
        .expect("cpio is needed for this test, see ci/setup");
    assert!(status.success());
    use std::os::unix::fs::MetadataExt as _;
    let init = fs::metadata(out.join("init")).unwrap();
    assert_eq!(init.mode() & 0o7777, 0o755);
    assert_eq!(init.ino(), fs::metadata(out.join("a-link")).unwrap().ino());
    assert_eq!(fs::read(out.join("init")).unwrap(), noise(1, 12_345));
    assert_eq!(
        fs::read_link(out.join("lib")).unwrap().to_str(),
        Some("usr/lib")
    );
    assert_eq!(
        fs::read(out.join("lib/modules/6.12/x.ko")).unwrap(),
        [7; 300_000]
    );
    assert_eq!(fs::read(out.join("empty")).unwrap(), b"");
    assert!(out.join("proc").is_dir());
}

#[test]
fn the_same_tree_gives_the_same_bytes_with_the_time_that_was_given() {
    assert_eq!(
        archive(&tree(), EPOCH).unwrap(),
        archive(&tree(), EPOCH).unwrap()
    );
    assert_ne!(
        archive(&tree(), EPOCH).unwrap(),
        archive(&tree(), EPOCH + 1).unwrap()
    );
}

#[test]
fn a_hard_link_to_nothing_is_said() {
    let mut tree = Tree::new();
    tree.insert("x", Node::new(NodeKind::Hardlink("gone".into()), 0o644))
        .unwrap();
    let error = archive(&tree, EPOCH).unwrap_err();
    assert!(error.message().contains("hard link to `gone`"), "{error}");
}
