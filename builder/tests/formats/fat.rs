//! The EFI partition, against dosfstools and mtools.

use std::fs;

use slipway::Kind;
use slipway::formats::fat::{Options, write};
use slipway::tree::Tree;

use super::{EPOCH, noise, run, sparse, str};

const MIB: u64 = 1 << 20;

fn options(size: u64) -> Options {
    Options {
        size,
        label: "esp".into(),
        serial: 0x1234_abcd,
        epoch: EPOCH,
    }
}

fn tree() -> Tree {
    let mut tree = Tree::new();
    tree.file("EFI/BOOT/BOOTX64.EFI", 0o644, noise(1, 100_000))
        .unwrap();
    tree.file("EFI/Linux/slipway-0.1.0+3.efi", 0o644, noise(2, 20 << 20))
        .unwrap();
    tree.file("loader/loader.conf", 0o644, "timeout 0\n")
        .unwrap();
    tree.file("loader/entries.srel", 0o644, "type1\n").unwrap();
    tree.dir("empty").unwrap();
    for i in 0..40 {
        tree.file(&format!("many/a rather long name {i}.txt"), 0o644, "x")
            .unwrap();
    }
    tree
}

#[test]
fn fsck_finds_it_clean_and_mtools_read_it() {
    for size in [40 * MIB, 128 * MIB] {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("esp.img");
        let file = sparse(&image, size);
        write(&tree(), &file, 0, &options(size)).unwrap();
        let report = run("fsck.vfat", &["-n", "-v", str(&image)]);
        assert!(report.contains("32 bit entries"), "{report}");
        assert!(
            report.contains(" 2 FATs") || report.contains("2 FATs"),
            "{report}"
        );
        let listed = run("mdir", &["-i", str(&image), "::/EFI/Linux"]);
        assert!(listed.contains("slipway-0.1.0+3.efi"), "{listed}");
        assert!(
            listed.contains("Volume Serial Number is 1234-ABCD"),
            "{listed}"
        );
        assert!(listed.contains("2026-09-21"), "{listed}");
        let out = dir.path().join("out");
        run(
            "mcopy",
            &[
                "-n",
                "-i",
                str(&image),
                "::/EFI/Linux/slipway-0.1.0+3.efi",
                str(&out),
            ],
        );
        assert!(fs::read(&out).unwrap() == noise(2, 20 << 20));
    }
}

#[test]
fn it_is_fat32_by_its_cluster_count() {
    for mib in [36, 40, 64, 128, 300] {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("esp.img");
        let file = sparse(&image, mib * MIB);
        let mut small = Tree::new();
        small.file("a", 0o644, "a").unwrap();
        match write(&small, &file, 0, &options(mib * MIB)) {
            Ok(()) => {
                let mut boot = [0; 512];
                std::os::unix::fs::FileExt::read_exact_at(&file, &mut boot, 0).unwrap();
                let n = |at: usize, len: usize| {
                    boot[at..at + len]
                        .iter()
                        .rev()
                        .fold(0u64, |n, b| n << 8 | u64::from(*b))
                };
                let data = n(32, 4) - n(14, 2) - n(16, 1) * n(36, 4);
                assert!(data / n(13, 1) >= 65_525, "{mib} MiB");
                assert_eq!(&boot[82..87], b"FAT32");
            }
            Err(e) => assert!(mib < 40, "{e}"),
        }
    }
}

#[test]
fn the_same_files_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let image = |name: &str| {
        let path = dir.path().join(name);
        write(&tree(), &sparse(&path, 129 * MIB), MIB, &options(128 * MIB)).unwrap();
        fs::read(path).unwrap()
    };
    assert!(image("a") == image("b"));
}

#[test]
fn what_does_not_fit_or_has_no_place_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let file = sparse(&dir.path().join("x"), 128 * MIB);
    let error = write(&tree(), &file, 0, &options(16 * MIB)).unwrap_err();
    assert!(error.message().contains("too few for FAT32"), "{error}");

    let mut large = tree();
    large.file("large", 0o644, vec![1; 130 << 20]).unwrap();
    let error = write(&large, &file, 0, &options(128 * MIB)).unwrap_err();
    assert_eq!(error.kind, Kind::Input);
    assert!(error.message().contains("it has 128 MiB"), "{error}");

    let mut link = Tree::new();
    link.symlink("a", "b").unwrap();
    assert!(write(&link, &file, 0, &options(128 * MIB)).is_err());
    let mut name = Tree::new();
    name.file("a:b?", 0o644, "").unwrap();
    assert!(write(&name, &file, 0, &options(128 * MIB)).is_err());
    let label = Options {
        label: "much too long".into(),
        ..options(128 * MIB)
    };
    assert!(write(&Tree::new(), &file, 0, &label).is_err());
}
