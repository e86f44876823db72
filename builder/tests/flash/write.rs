//! Writing an image into files, and what goes wrong.

use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use slipway::digest;

use super::*;

/// `x.img.zst` of frames like those of `slipway build`, with a checksum each.
fn packed(image: &Path) -> PathBuf {
    let out = image.with_extension("img.zst");
    let cache = image.with_extension("cache");
    slipway::formats::zst::compress(image, &out, 3, &cache, 2, &quiet()).unwrap();
    out
}

/// The manifest of an image, as far as `slipway flash` reads it.
fn manifest(image: &Path, packed: &Path) {
    let file = |path: &Path| {
        serde_json::json!({
            "size": fs::metadata(path).unwrap().len(),
            "sha256": digest::file(path).unwrap(),
        })
    };
    let text = serde_json::json!({"image": file(image), "download": file(packed)});
    let path = image.with_extension("manifest.json");
    fs::write(path, text.to_string()).unwrap();
}

fn same(a: &Path, b: &Path) -> bool {
    fs::read(a).unwrap() == fs::read(b).unwrap()
}

#[test]
fn raw_and_packed_give_the_same_file_with_holes() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let packed = packed(&image);
    for (n, source) in [&image, &packed].into_iter().enumerate() {
        let card = dir.path().join(format!("card{n}"));
        let out = slipway(&["flash", str(source), str(&card)]);
        assert!(out.status.success(), "{}", text(&out));
        assert!(same(&image, &card));
        let taken = fs::metadata(&card).unwrap().blocks() * 512;
        assert!(taken < 40 << 20, "{taken} bytes taken");
        // No file is left aside.
        assert!(text(&out).contains("written and read back"));
    }
    let left = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 5, "image, packed, its cache, two cards");
}

#[test]
fn what_a_larger_file_held_is_gone_within_the_image_and_kept_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let len = fs::metadata(&image).unwrap().len();
    let card = dir.path().join("card");
    let full = vec![0xaa; usize::try_from(len).unwrap() + 8192];
    for source in [image.clone(), packed(&image)] {
        fs::write(&card, &full).unwrap();
        let (code, said) = refused(&["flash", str(&source), str(&card)]);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains("--yes"), "{said}");
        assert!(fs::read(&card).unwrap() == full, "written without asking");

        let out = slipway(&["flash", str(&source), str(&card), "--yes"]);
        assert!(out.status.success(), "{}", text(&out));
        let bytes = fs::read(&card).unwrap();
        let (image_part, rest) = bytes.split_at(usize::try_from(len).unwrap());
        assert!(image_part == fs::read(&image).unwrap());
        assert!(rest == vec![0xaa; 8192]);
    }
}

#[test]
fn a_shorter_file_grows() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let card = dir.path().join("card");
    fs::write(&card, vec![0xaa; 3_000_001]).unwrap();
    let out = slipway(&["flash", str(&image), str(&card), "--yes"]);
    assert!(out.status.success(), "{}", text(&out));
    assert!(same(&image, &card));
}

#[test]
fn an_image_of_odd_length_is_written_to_its_last_byte() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("odd.img");
    for len in [1, 511, (2 << 20) + 1, (6 << 20) + 4097] {
        fs::write(&image, noise(len as u64, len)).unwrap();
        let card = dir.path().join("card");
        let out = slipway(&["flash", str(&image), str(&card), "--yes"]);
        assert!(out.status.success(), "{}", text(&out));
        assert!(same(&image, &card), "{len}");
    }
}

#[test]
fn a_download_that_is_cut_off_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let packed = packed(&image);
    let whole = fs::read(&packed).unwrap();
    let table = slipway::formats::zst::seek_table(&packed).unwrap();
    // In a frame, and between two, where a decoder sees nothing wrong.
    let between = usize::try_from(table.last().unwrap().compressed_at).unwrap();
    for cut in [whole.len() / 2, between] {
        fs::write(&packed, &whole[..cut]).unwrap();
        let card = dir.path().join("card");
        fs::write(&card, vec![1; 77 << 20]).unwrap();
        let (code, said) = refused(&["flash", str(&packed), str(&card), "--yes"]);
        assert_eq!(code, 3, "{said}");
        assert!(said.contains("is cut off"), "{said}");
        assert!(
            said.contains("card now holds an incomplete image"),
            "{said}"
        );
        // Without a table of partitions nothing starts from it.
        let mut start = [1; 4096];
        let file = File::open(&card).unwrap();
        file.read_exact_at(&mut start, 0).unwrap();
        assert_eq!(start, [0; 4096]);
        fs::remove_file(&card).unwrap();

        // A file that was not there before doesn't appear.
        refused(&["flash", str(&packed), str(&card)]);
        assert!(!card.exists());
    }
}

#[test]
fn a_raw_image_that_is_cut_off_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let file = File::options().write(true).open(&image).unwrap();
    file.set_len(60 << 20).unwrap();
    let card = dir.path().join("card");
    let (code, said) = refused(&["flash", str(&image), str(&card)]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("is cut off"), "{said}");
}

#[test]
fn a_damaged_download_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let packed = packed(&image(dir.path()));
    let mut bytes = fs::read(&packed).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&packed, bytes).unwrap();
    let card = dir.path().join("card");
    let (code, said) = refused(&["flash", str(&packed), str(&card)]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("damaged"), "{said}");
}

#[test]
fn the_manifest_beside_an_image_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let packed = packed(&image);
    manifest(&image, &packed);
    let card = dir.path().join("card");
    let flash = |source: &Path| refused(&["flash", str(source), str(&card)]);
    let out = slipway(&["flash", str(&packed), str(&card), "--json"]);
    assert!(text(&out).contains("\"compared\":true"), "{}", text(&out));
    fs::remove_file(&card).unwrap();

    // Another image in the place of the one that was built.
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(b"tampered", 50 << 20).unwrap();
    let (code, said) = flash(&image);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("isn't what was built"), "{said}");
    assert!(!card.exists());
    // The same, packed.
    slipway::formats::zst::compress(&image, &packed, 3, dir.path(), 2, &quiet()).unwrap();
    assert_eq!(flash(&packed).0, 5);
    // A download that is cut off: before anything is written.
    fs::write(&packed, &fs::read(&packed).unwrap()[..1000]).unwrap();
    let (code, said) = flash(&packed);
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("nothing was written"), "{said}");
}

#[test]
fn other_packers_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.img");
    fs::write(&path, b"\xfd7zXZ\0\0\0").unwrap();
    let (code, said) = refused(&["flash", str(&path), str(&dir.path().join("card"))]);
    assert_eq!(code, 3);
    assert!(said.contains("compressed with xz"), "{said}");
}

#[test]
fn targets_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    for (targets, why) in [
        (vec![str(dir.path())], "neither a block device nor a file"),
        (vec!["/dev/null"], "neither a block device nor a file"),
        (vec!["/dev/no-such-disk"], "there is no device"),
        (vec![str(&image)], "is the image itself"),
        (vec!["a", "b"], "these are two devices"),
    ] {
        let mut args = vec!["flash", str(&image)];
        args.extend(targets);
        let (code, said) = refused(&args);
        assert_eq!(code, 2, "{said}");
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn without_a_device_and_a_terminal_there_is_one_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let (code, said) = refused(&["flash", str(&image)]);
    // A machine has disks to offer, or none.
    assert!(code == 2 || code == 8, "{said}");
    assert_eq!(said.matches("slipway: ").count(), 1, "{said}");
}

#[test]
fn a_full_disk_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let card = dir.path().join("card");
    // Files limited to 45 MiB stand for a full disk.
    let out = output(
        Command::new("bash").args([
            "-c",
            "ulimit -f 46080; trap '' XFSZ; exec \"$@\"",
            "bash",
            env!("CARGO_BIN_EXE_slipway"),
            "flash",
            str(&image),
            str(&card),
        ]),
        "bash",
    );
    assert_eq!(out.status.code(), Some(7), "{}", text(&out));
    assert!(!card.exists());
}

#[test]
fn ctrl_c_leaves_a_clear_message() {
    let dir = tempfile::tempdir().unwrap();
    let image = large_image(dir.path());
    let card = dir.path().join("card");
    fs::write(&card, "old").unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_slipway"))
        .args(["flash", str(&image), str(&card), "--yes"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It has begun once the old bytes are gone.
    while fs::read(&card).unwrap().starts_with(b"old") {
        std::thread::yield_now();
        assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", text(&out));
    let said = text(&out);
    assert!(said.contains("stopped; "), "{said}");
    assert!(said.contains("now holds an incomplete image"), "{said}");
}

#[test]
fn a_device_that_forgets_is_found_out() {
    use slipway::flash::devices::System;
    use slipway::flash::source::Source;
    use slipway::flash::target::Target;
    use slipway::flash::{verify, write};

    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let card = dir.path().join("card");
    fs::write(&card, "x").unwrap();
    let mut source = Source::open(&image).unwrap();
    let target = Target::check(&card, false, &System::here(), &source).unwrap();
    let mut device = target.open(&source).unwrap();
    let summary = write::write(&mut source, &mut device, &quiet()).unwrap();
    verify::verify(&mut device, &summary.written, &quiet()).unwrap();
    for at in [0, (1 << 20) + 91, (41 << 20) + 1024 + 56] {
        let file = File::options().read(true).write(true).open(&card).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let error = verify::verify(&mut device, &summary.written, &quiet()).unwrap_err();
        assert_eq!(error.kind, slipway::Kind::Untrusted);
        assert!(error.message().contains("doesn't hold"), "{error}");
        file.write_all_at(&byte, at).unwrap();
    }
    verify::verify(&mut device, &summary.written, &quiet()).unwrap();
}
