use std::io::{Cursor, Write};
use std::num::NonZeroU64;

use super::*;
use proptest::prelude::*;
use slipway_images::layout::{Bytes, Sizes, Slot, Table, write};
use slipway_images::verity::{Tree, salt, tree};

const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn wishes() {
    let verified = RootWish::Verified(HASH.parse().unwrap());
    let quiet = format!("quiet roothash={HASH} console=ttyS0");
    assert_eq!(root_wish(&quiet).unwrap(), verified);
    assert_eq!(
        root_wish("root=/dev/vda2").unwrap(),
        RootWish::Device("/dev/vda2".into())
    );
    for (cmdline, said) in [
        ("quiet", "no roothash="),
        // What an older image had.
        (
            "root=UUID=0d3ff44e-23ad-4cd1-8c6a-33f2f3e6d2b4",
            "root=/dev/",
        ),
        ("roothash=12", "64 hexadecimal digits"),
        (&format!("roothash={HASH} root=/dev/vda2"), "both"),
    ] {
        let Failure(failure) = root_wish(cmdline).unwrap_err();
        assert!(failure.contains(said), "{cmdline}: {failure}");
    }
}

/// What is looked at of an ext4 of so many blocks of 4096 bytes.
fn filesystem(blocks: u32) -> Vec<u8> {
    let mut bytes = vec![0; blocks as usize * 4096];
    bytes[1024 + 0x04..][..4].copy_from_slice(&blocks.to_le_bytes());
    bytes[1024 + 0x18] = 2;
    bytes[1024 + 0x38..][..2].copy_from_slice(&0xef53u16.to_le_bytes());
    bytes
}

/// A root and its tree.
fn root(blocks: u32, mark: u8) -> (Vec<u8>, Tree) {
    let mut bytes = filesystem(blocks);
    bytes[5000] = mark;
    let read = |first: u64, into: &mut [u8]| {
        into.copy_from_slice(&bytes[(first * 4096) as usize..][..into.len()]);
        Ok::<_, Failure>(())
    };
    let count = u64::from(blocks);
    let made = tree(
        NonZeroU64::new(count).unwrap(),
        std::slice::from_ref(&(0..count)),
        &salt("x"),
        1,
        read,
    )
    .unwrap();
    bytes.extend(&made.bytes);
    (bytes, made)
}

/// A disk with two slots and these bytes in them.
fn disk(a: &[u8], b: &[u8]) -> Cursor<Vec<u8>> {
    let sizes = Sizes {
        esp: Bytes::mib(1),
        root: Bytes::mib(1),
        ..Sizes::X86_64
    };
    let shipped: Table = sizes.shipped(b"x").unwrap();
    let size = 2 << 30;
    let mut disk = Cursor::new(vec![0; size]);
    let found = slipway_images::layout::Found {
        table: Table {
            disk: slipway_images::layout::Sectors::new(size as u64 / 512),
            ..shipped
        },
        needs_repair: false,
    };
    let table = slipway_images::layout::grow(&found, b"y").unwrap().unwrap();
    write(&mut disk, &table, |_| Ok(())).unwrap();
    for (slot, bytes) in [(Slot::A, a), (Slot::B, b)] {
        let at = table.partition(slot.root()).unwrap().offset().get();
        disk.seek(SeekFrom::Start(at)).unwrap();
        disk.write_all(bytes).unwrap();
    }
    disk
}

#[test]
fn the_slot_is_that_of_the_root_hash() {
    let ((a, of_a), (b, of_b)) = (root(100, 1), root(130, 2));
    let mut both = disk(&a, &b);
    assert_eq!(search_disk(&mut both, &of_a.root).unwrap().0, 2);
    let (number, tree) = search_disk(&mut both, &of_b.root).unwrap();
    assert_eq!((number, tree.covered()), (3, 130 * 4096));
    let neither = search_disk(&mut both, &HASH.parse().unwrap()).unwrap_err();
    for said in ["root-a: another root", "root-b: another root"] {
        assert!(neither.contains(said), "{neither}");
    }
}

#[test]
fn a_damaged_slot_is_passed_over_and_named() {
    let (good, made) = root(100, 1);
    let at = 100 * 4096;
    let mut no_tree = good.clone();
    no_tree[at] = b'x';
    let mut other_kind = good.clone();
    other_kind[at + 32] = b'x';
    let mut shorter = good.clone();
    shorter[at + 72] = 99;
    let mut beyond = good.clone();
    beyond[1024 + 4..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
    // The tree of the largest filesystem that a slot of 1 MiB could seem to have.
    let mut too_long = filesystem(255);
    too_long.extend(&root(255, 0).1.bytes[..4096]);
    for (bad, said) in [
        (vec![], "no filesystem"),
        (no_tree, "no verity superblock"),
        (other_kind, "another algorithm"),
        (shorter, "covers"),
        (beyond, "no verity superblock"),
        (too_long, "doesn't fit"),
    ] {
        let mut only_bad = disk(&bad, &[]);
        let failure = search_disk(&mut only_bad, &made.root).unwrap_err();
        assert!(failure.contains(said), "{said}: {failure}");
        // The other slot has it.
        let mut other = disk(&bad, &good);
        assert_eq!(search_disk(&mut other, &made.root).unwrap().0, 3, "{said}");
    }
    let mut empty = Cursor::new(vec![0; 1 << 20]);
    assert!(search_disk(&mut empty, &made.root).is_err());
}

proptest! {
    #[test]
    fn command_lines_never_panic(text in "\\PC*") {
        drop(root_wish(&text));
        drop(root_wish(&format!("roothash={text}")));
    }
}
