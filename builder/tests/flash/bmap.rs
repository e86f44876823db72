//! The block map, with bmaptool.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use slipway::formats::bmap;

use super::*;

/// A target full of what an earlier system left.
fn used_card(dir: &Path, len: u64) -> PathBuf {
    let card = dir.join("card");
    fs::write(&card, vec![0xff; usize::try_from(len).unwrap()]).unwrap();
    card
}

fn with_map(dir: &Path) -> PathBuf {
    let image = image(dir);
    let text = bmap::text(&image, &table(), &quiet()).unwrap();
    fs::write(dir.join("x.img.bmap"), text).unwrap();
    image
}

#[test]
fn bmaptool_makes_a_clean_system_of_a_used_card() {
    let dir = tempfile::tempdir().unwrap();
    let image = with_map(dir.path());
    let card = used_card(dir.path(), fs::metadata(&image).unwrap().len());
    run("bmaptool", &["copy", str(&image), str(&card)]);
    let shown = run("sgdisk", &["-v", str(&card)]);
    assert!(shown.contains("No problems found"), "{shown}");
    assert_clean(&card);
    let out = dir.path().join("out");
    let esp = cut_out(&card, ESP);
    run(
        "mcopy",
        &["-n", "-i", str(&esp), "::/EFI/BOOT/BOOTX64.EFI", str(&out)],
    );
    assert!(fs::read(out).unwrap() == noise(1, 3_000_000));
    // It really left something out.
    let bytes = fs::read(&card).unwrap();
    assert!(bytes.chunks(4096).any(|b| b.iter().all(|x| *x == 0xff)));
}

#[test]
fn bmaptool_takes_the_compressed_image_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let image = with_map(dir.path());
    run("zstd", &["-q", "--rm", str(&image)]);
    let card = used_card(dir.path(), fs::metadata(&image).map_or(76 << 20, |m| m.len()));
    run(
        "bmaptool",
        &["copy", str(&dir.path().join("x.img.zst")), str(&card)],
    );
    assert_clean(&card);
}

#[test]
fn bmaptool_refuses_an_image_that_was_tampered_with() {
    let dir = tempfile::tempdir().unwrap();
    let image = with_map(dir.path());
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(b"tampered", (1 << 20) + 90).unwrap();
    let card = dir.path().join("card");
    let out = output(
        Command::new("bmaptool").args(["copy", str(&image), str(&card)]),
        "bmaptool",
    );
    assert!(!out.status.success());
    assert!(text(&out).contains("checksum mismatch"), "{}", text(&out));
}

#[test]
fn bmaptool_refuses_a_map_that_was_tampered_with() {
    let dir = tempfile::tempdir().unwrap();
    let image = with_map(dir.path());
    let map = dir.path().join("x.img.bmap");
    let changed = fs::read_to_string(&map)
        .unwrap()
        .replacen("<Range chksum=\"", "<Range chksum=\"0", 1);
    fs::write(&map, changed).unwrap();
    let card = dir.path().join("card");
    let out = output(
        Command::new("bmaptool").args(["copy", str(&image), str(&card)]),
        "bmaptool",
    );
    assert!(!out.status.success(), "{}", text(&out));
}

#[test]
fn free_blocks_are_those_that_dumpe2fs_counts() {
    let dir = tempfile::tempdir().unwrap();
    let image = with_map(dir.path());
    let shown = run("dumpe2fs", &["-h", str(&cut_out(&image, "root-a"))]);
    let count = |key: &str| -> u64 {
        let line = shown.lines().find(|l| l.starts_with(key)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let used = count("Block count:") - count("Free blocks:");
    let root = table().partition("root-a").cloned().unwrap();
    let (first, last) = (root.offset().get() / 4096, root.end().get() / 8);
    let map = fs::read_to_string(dir.path().join("x.img.bmap")).unwrap();
    let mapped: u64 = map
        .lines()
        .filter_map(|l| l.split_once("\">")?.1.strip_suffix("</Range>"))
        .map(|range| {
            let (a, b) = range.split_once('-').unwrap_or((range, range));
            let (a, b): (u64, u64) = (a.parse().unwrap(), b.parse().unwrap());
            (b + 1).min(last).saturating_sub(a.max(first))
        })
        .sum();
    assert_eq!(mapped, used);
}

#[test]
fn the_same_image_gives_the_same_map_whatever_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let full = dir.path().join("full.img");
    fs::write(&full, fs::read(&image).unwrap()).unwrap();
    let map = |path: &Path| bmap::text(path, &table(), &quiet()).unwrap();
    assert_eq!(map(&image), map(&full));
}
