use std::convert::Infallible;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use proptest::prelude::*;

fn nonzero(n: u64) -> NonZeroU64 {
    NonZeroU64::new(n).unwrap()
}

/// Blocks that differ, and every third one zeros.
fn data(blocks: u64) -> Vec<u8> {
    let mut x = blocks | 1;
    let mut bytes = vec![0; (blocks * BLOCK) as usize];
    for (n, block) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
        if n % 3 != 1 {
            for byte in block {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                *byte = x as u8;
            }
        }
    }
    bytes
}

/// The blocks that `data` fills.
fn used(blocks: u64) -> Vec<Range<u64>> {
    let first = std::iter::once(0..1);
    let others = (2..blocks).step_by(3).map(|n| n..(n + 2).min(blocks));
    first.chain(others).collect()
}

fn made(data: &[u8], used: &[Range<u64>], threads: usize) -> Tree {
    let blocks = nonzero(data.len() as u64 / BLOCK);
    let read = |first: u64, into: &mut [u8]| {
        let start = (first * BLOCK) as usize;
        into.copy_from_slice(&data[start..start + into.len()]);
        Ok::<_, Infallible>(())
    };
    tree(blocks, used, &salt("test"), threads, read).unwrap()
}

fn veritysetup(args: &[&str]) -> String {
    let out = Command::new("/usr/sbin/veritysetup")
        .args(args)
        .output()
        .expect("cryptsetup-bin is needed (ci/setup installs it)");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let error = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {said}{error}");
    said
}

/// The same bytes as veritysetup's, at each number of levels and on both sides of where a
/// level begins.
#[test]
fn trees_are_those_of_veritysetup() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let file = path.to_str().unwrap();
    for blocks in [1, 2, 127, 128, 129, 1000, 128 * 128 + 1] {
        let data = data(blocks);
        let ours = made(&data, &used(blocks), 3);
        fs::write(&path, &data).unwrap();
        let (uuid, offset) = (ours.root.uuid().to_string(), data.len().to_string());
        let salt = hex(&salt("test"));
        let said = veritysetup(&[
            "format",
            file,
            file,
            &format!("--data-blocks={blocks}"),
            &format!("--hash-offset={offset}"),
            &format!("--salt={salt}"),
            &format!("--uuid={uuid}"),
        ]);
        assert!(said.contains(&ours.root.to_string()), "{blocks}: {said}");
        let theirs = fs::read(&path).unwrap().split_off(data.len());
        // veritysetup ends its file with the superblock where there is no tree.
        let mut padded = theirs.clone();
        padded.resize(theirs.len().next_multiple_of(BLOCK_BYTES), 0);
        assert!(padded == ours.bytes, "{blocks} blocks differ");
        let superblock = Superblock::parse(ours.bytes.first_chunk().unwrap()).unwrap();
        assert_eq!(
            superblock.end(),
            Some((data.len() + ours.bytes.len()) as u64),
            "{blocks}"
        );
    }
}

#[test]
fn veritysetup_finds_a_flipped_bit_in_what_we_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let mut bytes = data(300);
    let offset = bytes.len();
    let ours = made(&bytes, &used(300), 2);
    bytes.extend(&ours.bytes);
    let verify = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Command::new("/usr/sbin/veritysetup")
            .arg("verify")
            .args([&path, &path])
            .arg(ours.root.to_string())
            .arg(format!("--hash-offset={offset}"))
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(verify(&bytes));
    for at in [0, BLOCK_BYTES + 7, offset - 1, offset + BLOCK_BYTES + 40] {
        bytes[at] ^= 4;
        assert!(!verify(&bytes), "byte {at}");
        bytes[at] ^= 4;
    }
}

#[test]
fn threads_and_holes_change_nothing() {
    let data = data(700);
    let whole = made(&data, std::slice::from_ref(&(0..700)), 1);
    assert_eq!(made(&data, &used(700), 5), whole);
    // Ranges that touch, lie over one another, are empty or go beyond the end.
    assert_eq!(
        made(&data, &[0..600, 590..600, 600..600, 600..900], 2),
        whole
    );
}

#[test]
fn a_read_that_fails_ends_it_soon() {
    let reads = AtomicUsize::new(0);
    let failed = tree(
        nonzero(1 << 16),
        std::slice::from_ref(&(0..1 << 16)),
        &salt("x"),
        2,
        |_, _| {
            reads.fetch_add(1, Ordering::Relaxed);
            Err("broken")
        },
    );
    assert_eq!(failed, Err("broken"));
    assert!(reads.into_inner() <= 2);
}

#[test]
fn root_hashes_are_read_and_shown() {
    let text = "0123456789abcdef".repeat(4);
    let hash: RootHash = text.parse().unwrap();
    assert_eq!(hash.to_string(), text);
    assert_eq!(
        hash.uuid().to_string(),
        "01234567-89ab-cdef-0123-456789abcdef"
    );
    assert_eq!(text.to_uppercase().parse(), Ok(hash));
    for wrong in [
        "",
        "0",
        &text[1..],
        &format!("{text}0"),
        &text.replace('f', "g"),
    ] {
        assert_eq!(wrong.parse::<RootHash>(), Err(NoRootHash), "{wrong}");
    }
}

#[test]
fn what_the_kernel_is_told() {
    let superblock = Superblock {
        uuid: Uuid::nil(),
        blocks: nonzero(1000),
        salt: vec![0xab, 0xcd],
    };
    let hash: RootHash = "7".repeat(64).parse().unwrap();
    assert_eq!(
        superblock.parameters("/dev/vda2", &hash),
        format!("1 /dev/vda2 /dev/vda2 4096 4096 1000 1001 sha256 {hash} abcd")
    );
    let unsalted = Superblock {
        salt: vec![],
        ..superblock
    };
    assert!(unsalted.parameters("/dev/vda2", &hash).ends_with(" -"));
}

#[test]
fn each_field_of_a_superblock_is_checked() {
    let good = Superblock {
        uuid: Uuid::from_u128(7),
        blocks: nonzero(5),
        salt: salt("x").to_vec(),
    };
    assert_eq!(Superblock::parse(&good.bytes()), Ok(good.clone()));
    for (at, value, said) in [
        (8, 2, "version 2"),
        (12, 0, "hash type 0"),
        (33, b'x', "sha256"),
        (38, b'x', "sha256"),
        (65, 2, "data blocks of bytes 512"),
        (69, 2, "hash blocks of bytes 512"),
        (72, 0, "0 data blocks"),
        (79, 0xff, "data blocks"),
        (81, 2, "a salt of 544 bytes"),
    ] {
        let mut bytes = good.bytes();
        bytes[at] = value;
        let error = Superblock::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(said), "{at}: {error}");
    }
    let mut bytes = good.bytes();
    bytes[0] = b'V';
    assert_eq!(Superblock::parse(&bytes), Err(SuperblockError::Absent));
}

proptest! {
    #[test]
    fn garbage_is_refused_or_makes_sense(
        garbage in proptest::collection::vec(any::<u8>(), SUPERBLOCK),
        valid in 0usize..=88,
    ) {
        let good = Superblock {
            uuid: Uuid::from_u128(7),
            blocks: nonzero(5),
            salt: vec![1; MAX_SALT],
        };
        let mut bytes: [u8; SUPERBLOCK] = garbage.try_into().unwrap();
        bytes[..valid].copy_from_slice(&good.bytes()[..valid]);
        if let Ok(found) = Superblock::parse(&bytes) {
            prop_assert_eq!(found.covered() / BLOCK, found.blocks.get());
            prop_assert!(found.end().is_none_or(|end| end > found.covered()));
            let known = found.bytes();
            // What is kept is what was there; padding and what is behind the salt isn't kept.
            prop_assert_eq!(&known[..82], &bytes[..82]);
            prop_assert_eq!(Superblock::parse(&known), Ok(found));
        }
    }
}
