//! A whole image, against sgdisk.

use std::fs;

use slipway::formats::gpt::{assemble, partition};
use slipway::formats::{ext4, fat};
use slipway::tree::Tree;
use slipway::{Error, Kind};
use slipway_images::layout::{Bytes, ESP, Sizes, Slot};

use super::{EPOCH, quiet, run, str};

const SIZES: Sizes = Sizes {
    esp: Bytes::mib(40),
    root: Bytes::mib(32),
    ..Sizes::X86_64
};

fn tree() -> Tree {
    let mut tree = Tree::new();
    tree.file("EFI/BOOT/BOOTX64.EFI", 0o644, "MZ").unwrap();
    tree
}

#[test]
fn sgdisk_and_the_filesystems_tools_find_an_image_clean() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str| {
        let path = dir.path().join(name);
        let table = SIZES.shipped(b"seed").unwrap();
        assemble(&path, &table, |file, table| {
            let esp = partition(table, ESP)?;
            let options = fat::Options {
                size: esp.size().get(),
                label: "ESP".into(),
                serial: 1,
                epoch: EPOCH,
            };
            fat::write(&tree(), file, esp.offset().get(), &options)?;
            let root = partition(table, Slot::A.root())?;
            let options = ext4::Options {
                size: root.size().get(),
                uuid: uuid::Uuid::from_u128(5),
                label: "root".into(),
                epoch: EPOCH,
            };
            ext4::write(&tree(), file, root.offset().get(), &options, &quiet()).map(drop)
        })
        .unwrap();
        path
    };
    let (a, b) = (make("a.img"), make("sub/b.img"));
    let shown = run("sgdisk", &["-v", "-p", str(&a)]);
    assert!(shown.contains("No problems found"), "{shown}");
    let bytes = fs::read(&a).unwrap();
    assert!(bytes == fs::read(&b).unwrap());
    for (name, tool) in [(ESP, "fsck.vfat"), ("root-a", "e2fsck")] {
        let table = SIZES.shipped(b"seed").unwrap();
        let p = table.partition(name).unwrap();
        let from = p.offset().get() as usize;
        let part = dir.path().join(name);
        fs::write(&part, &bytes[from..from + p.size().get() as usize]).unwrap();
        match tool {
            "e2fsck" => run(tool, &["-fn", str(&part)]),
            _ => run(tool, &["-n", str(&part)]),
        };
    }
}

#[test]
fn an_image_of_which_a_part_fails_never_appears() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.img");
    let table = SIZES.shipped(b"seed").unwrap();
    let error = assemble(&path, &table, |_, _| Err(Error::new(Kind::Input, "no"))).unwrap_err();
    assert_eq!(error.message(), "no");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(partition(&table, "data").is_err());
}
