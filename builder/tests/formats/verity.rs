//! The verity step on a filesystem in an image, against veritysetup.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use slipway::Kind;
use slipway::formats::ext4;
use slipway::formats::verity::{Slot, Verity, append};
use slipway::tree::Tree;
use uuid::Uuid;

use super::{EPOCH, noise, quiet, run, sparse, str};

const OFFSET: u64 = 1 << 20;
const FILESYSTEM: u64 = 64 << 20;
const SLOT: u64 = 65 << 20;

/// An image with a filesystem in it.
fn image(path: &std::path::Path) -> File {
    let file = sparse(path, OFFSET + SLOT);
    let mut tree = Tree::new();
    tree.file("usr/bin/a", 0o755, noise(1, 9 << 20)).unwrap();
    let options = ext4::Options {
        size: FILESYSTEM,
        uuid: Uuid::from_u128(7),
        label: "root".into(),
        epoch: EPOCH,
    };
    ext4::write(&tree, &file, OFFSET, &options, &quiet()).unwrap();
    file
}

fn made(file: &File, size: u64) -> slipway::Result<Verity> {
    let slot = Slot {
        offset: OFFSET,
        size,
        filesystem: FILESYSTEM,
        board: "x86_64",
    };
    append(file, slot, 2, &quiet())
}

#[test]
fn veritysetup_verifies_what_the_builder_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let file = image(&path);
    let verity = made(&file, SLOT).unwrap();
    assert_eq!(verity.offset, FILESYSTEM);
    let hash = verity.root_hash.to_string();
    let shown = serde_json::to_value(&verity).unwrap();
    assert_eq!(shown["root_hash"], hash);

    let slot = dir.path().join("slot");
    fs::write(&slot, &fs::read(&path).unwrap()[OFFSET as usize..]).unwrap();
    let offset = format!("--hash-offset={FILESYSTEM}");
    run(
        "veritysetup",
        &["verify", str(&slot), str(&slot), &hash, &offset],
    );
    // The filesystem is as it was, and nothing lies behind the tree.
    run("e2fsck", &["-fn", str(&slot)]);
    let bytes = fs::read(&slot).unwrap();
    let end = (verity.offset + verity.size) as usize;
    assert!(bytes[end - 4096..end].iter().any(|b| *b != 0));
    assert!(bytes[end..].iter().all(|b| *b == 0));

    // What was no hole is read as well, and again gives the same.
    let full = dir.path().join("full");
    fs::write(&full, fs::read(&path).unwrap()).unwrap();
    let file = File::options().read(true).write(true).open(&full).unwrap();
    assert_eq!(made(&file, SLOT).unwrap().root_hash, verity.root_hash);
    // And a byte less, another.
    file.write_all_at(b"x", OFFSET + FILESYSTEM - 1).unwrap();
    assert_ne!(made(&file, SLOT).unwrap().root_hash, verity.root_hash);
}

#[test]
fn a_slot_without_room_for_the_tree_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = image(&dir.path().join("image"));
    let refused = made(&file, FILESYSTEM + (500 << 10)).unwrap_err();
    assert_eq!(refused.kind, Kind::Input);
    assert!(refused.to_string().contains("image.slot-size"), "{refused}");
}
