//! The block map, with bmaptool.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::process::Command;

use slipway::formats::bmap;

use super::*;

/// Blocks of the image by the map's ranges: first and last.
fn ranges(map: &Path) -> Vec<(u64, u64)> {
    let map = fs::read_to_string(map).unwrap();
    map.lines()
        .filter_map(|l| l.split_once("\">")?.1.strip_suffix("</Range>"))
        .map(|range| {
            let (a, b) = range.split_once('-').unwrap_or((range, range));
            (a.parse().unwrap(), b.parse().unwrap())
        })
        .collect()
}

fn with_map(dir: &Path) -> PathBuf {
    let image = image(dir);
    let text = bmap::text(&image, &table(), &quiet()).unwrap();
    fs::write(dir.join("x.img.bmap"), text).unwrap();
    image
}

#[test]
fn the_mapped_blocks_make_a_clean_system_of_a_used_card() {
    let dir = tempfile::tempdir().unwrap();
    let image = with_map(dir.path());
    let bytes = fs::read(&image).unwrap();
    // What an earlier system left, written over as bmaptool does with a disk; a file it
    // empties first.
    let mut used = vec![0xff; bytes.len()];
    for (first, last) in ranges(&dir.path().join("x.img.bmap")) {
        let (start, end) = (first as usize * 4096, (last as usize + 1) * 4096);
        let end = end.min(bytes.len());
        used[start..end].copy_from_slice(&bytes[start..end]);
    }
    let card = dir.path().join("card");
    fs::write(&card, &used).unwrap();
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
    assert!(used.chunks(4096).any(|b| b.iter().all(|x| *x == 0xff)));
}

#[test]
fn bmaptool_takes_the_image_raw_or_packed_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let image = with_map(dir.path());
    let packed = dir.path().join("x.img.zst");
    run("zstd", &["-q", str(&image), "-o", str(&packed)]);
    for source in [image, packed] {
        let card = dir.path().join("card");
        run("bmaptool", &["copy", str(&source), str(&card)]);
        assert_clean(&card);
    }
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
    let changed =
        fs::read_to_string(&map)
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

/// Verity's tree has free blocks as zeros, so they must be.
#[test]
fn each_block_of_the_root_is_mapped() {
    let dir = tempfile::tempdir().unwrap();
    with_map(dir.path());
    let root = table().partition("root-a").cloned().unwrap();
    let (first, last) = (root.offset().get() / 4096, root.end().get() / 8);
    let mapped: u64 = ranges(&dir.path().join("x.img.bmap"))
        .into_iter()
        .map(|(a, b)| (b + 1).min(last).saturating_sub(a.max(first)))
        .sum();
    assert_eq!(mapped, last - first);
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
