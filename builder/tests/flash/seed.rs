//! Seeds into images and as images, against mtools, dosfstools and CD readers.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_seed_is_embedded_and_replaced_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let seed = seed_dir(dir.path());
    let embed = || {
        let out = slipway(&["seed", "embed", str(&image), str(&seed)]);
        assert!(out.status.success(), "{}", text(&out));
        text(&out)
    };
    let said = embed();
    assert!(said.contains("could be read by others"), "{said}");
    assert_eq!(mode(&image), 0o600);
    assert_clean(&image);
    let read = |name: &str| {
        let esp = cut_out(&image, ESP);
        run("mtype", &["-i", str(&esp), &format!("::/{name}")])
    };
    assert_eq!(read("user-data"), USER_DATA);
    assert_eq!(read("meta-data"), "instance-id: one\n");
    assert_eq!(read("network-config"), "version: 2\n");

    // A second seed leaves nothing of the first, however long the files are.
    let long = format!("{USER_DATA}# {}\n", "x".repeat(100_000));
    fs::write(seed.join("user-data"), &long).unwrap();
    fs::remove_file(seed.join("network-config")).unwrap();
    let said = embed();
    assert!(!said.contains("could be read by others"), "{said}");
    assert_clean(&image);
    assert_eq!(read("user-data"), long);
    let listed = run("mdir", &["-b", "-i", str(&cut_out(&image, ESP)), "::/"]);
    assert!(!listed.contains("network-config"), "{listed}");
    // What was there for the firmware still is.
    let out = dir.path().join("out");
    let esp = cut_out(&image, ESP);
    run(
        "mcopy",
        &["-n", "-i", str(&esp), "::/EFI/BOOT/BOOTX64.EFI", str(&out)],
    );
    assert!(fs::read(out).unwrap() == noise(1, 3_000_000));
}

/// What a Raspberry Pi's `config.txt` includes.
#[test]
fn user_txt_is_the_seeds_or_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let seed = seed_dir(dir.path());
    let embed = || {
        let out = slipway(&["seed", "embed", str(&image), str(&seed)]);
        assert!(out.status.success(), "{}", text(&out));
    };
    let read = || run("mtype", &["-i", str(&cut_out(&image, ESP)), "::/user.txt"]);
    fs::write(seed.join("user.txt"), "dtparam=audio=on\n").unwrap();
    embed();
    assert_eq!(read(), "dtparam=audio=on\n");
    // A seed without leaves it alone.
    fs::remove_file(seed.join("user.txt")).unwrap();
    embed();
    assert_eq!(read(), "dtparam=audio=on\n");
    assert_clean(&image);
}

/// Of a board that U-Boot starts: `user.txt` names them.
#[test]
fn overlays_go_beside_the_firmwares_own() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let seed = seed_dir(dir.path());
    let overlay = seed.join("mine.dtbo");
    fs::write(&overlay, "/dts-v1/;\n").unwrap();
    let (code, said) = refused(&["seed", "embed", str(&image), str(&seed)]);
    assert!(
        code == 3 && said.contains("mine.dtbo is no compiled overlay"),
        "{code}: {said}"
    );
    let source = dir.path().join("mine.dts");
    let dts = "/dts-v1/;\n/plugin/;\n&spi { status = \"okay\"; };\n";
    fs::write(&source, dts).unwrap();
    let args = [
        "-q",
        "-@",
        "-I",
        "dts",
        "-O",
        "dtb",
        "-o",
        str(&overlay),
        str(&source),
    ];
    run("dtc", &args);
    let out = slipway(&["seed", "embed", str(&image), str(&seed)]);
    assert!(out.status.success(), "{}", text(&out));
    let found = dir.path().join("found");
    let esp = cut_out(&image, ESP);
    run(
        "mcopy",
        &["-n", "-i", str(&esp), "::/overlays/mine.dtbo", str(&found)],
    );
    assert!(fs::read(found).unwrap() == fs::read(&overlay).unwrap());
    assert_clean(&image);
    // A card with it is compared, and a volume of the node's has no use for it.
    let card = dir.path().join("card");
    let out = slipway(&["flash", str(&image), str(&card), "--seed", str(&seed)]);
    assert!(out.status.success(), "{}", text(&out));
    let out = slipway(&["seed", "iso", str(&seed)]);
    assert!(
        text(&out).contains("overlays/mine.dtbo is left out"),
        "{}",
        text(&out)
    );
}

#[test]
fn an_image_with_a_seed_can_be_flashed_though_it_is_not_what_was_built() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let nothing = serde_json::json!({"size": 0, "sha256": "0".repeat(64)});
    let manifest = serde_json::json!({"image": nothing, "download": nothing});
    fs::write(dir.path().join("x.manifest.json"), manifest.to_string()).unwrap();
    let card = dir.path().join("card");
    assert_eq!(refused(&["flash", str(&image), str(&card)]).0, 5);
    let seed = seed_dir(dir.path());
    assert!(
        slipway(&["seed", "embed", str(&image), str(&seed)])
            .status
            .success()
    );
    let out = slipway(&["flash", str(&image), str(&card)]);
    assert!(out.status.success(), "{}", text(&out));
    let sum = run("sha256sum", &[str(&image)]);
    let beside = fs::read_to_string(dir.path().join("x.img.sha256")).unwrap();
    assert_eq!(beside.split(' ').next(), sum.split(' ').next());
}

#[test]
fn flash_puts_a_seed_in_and_keeps_it_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let card = dir.path().join("card");
    let seed = seed_dir(dir.path());
    let out = slipway(&["flash", str(&image), str(&card), "--seed", str(&seed)]);
    assert!(out.status.success(), "{}", text(&out));
    assert_eq!(mode(&card), 0o600);
    assert_clean(&card);
    let esp = cut_out(&card, ESP);
    assert_eq!(run("mtype", &["-i", str(&esp), "::/user-data"]), USER_DATA);
}

#[test]
fn a_wrong_seed_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let before = fs::read(&image).unwrap();
    let seed = seed_dir(dir.path());
    let card = dir.path().join("card");
    let refuse = |why: &str| {
        for args in [
            vec!["seed", "embed", str(&image), str(&seed)],
            vec!["seed", "iso", str(&seed)],
            vec!["flash", str(&image), str(&card), "--seed", str(&seed)],
        ] {
            let (code, said) = refused(&args);
            assert_eq!(code, 3, "{said}");
            assert!(said.contains(why), "{said}");
        }
        assert!(fs::read(&image).unwrap() == before);
        assert!(!card.exists());
    };
    fs::write(seed.join("user-data"), "#cloud-config\nhostname: [1]\n").unwrap();
    refuse("user-data:2:11: error: hostname");
    fs::write(seed.join("user-data"), [0xff, 0xfe]).unwrap();
    refuse("user-data");
    fs::remove_file(seed.join("user-data")).unwrap();
    refuse("has no file user-data");
}

#[test]
fn odd_files_are_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let seed = seed_dir(dir.path());
    fs::write(seed.join("user-data.txt"), "x").unwrap();
    fs::write(
        seed.join("user-data"),
        format!("{USER_DATA}no_such_key: 1\n"),
    )
    .unwrap();
    let out = slipway(&["seed", "embed", str(&image), str(&seed)]);
    let said = text(&out);
    assert!(out.status.success(), "{said}");
    assert!(
        said.contains("user-data.txt is no file of a seed"),
        "{said}"
    );
    assert!(said.contains("user-data:3:1: warning"), "{said}");
}

#[test]
fn a_seed_too_large_for_the_boot_partition_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    // Fill the partition, but for less than the seed will have.
    let esp = cut_out(&image, ESP);
    let listing = run("mdir", &["-i", str(&esp)]);
    let (free, _) = listing.rsplit_once(" bytes free").unwrap();
    let free = free.rsplit('\n').next().unwrap();
    let free: usize = free.replace([' ', ','], "").parse().unwrap();
    let filler = dir.path().join("filler");
    fs::write(&filler, noise(3, free - 500_000)).unwrap();
    run("mcopy", &["-i", str(&esp), str(&filler), "::/filler"]);
    File::options()
        .write(true)
        .open(&image)
        .unwrap()
        .write_all_at(&fs::read(&esp).unwrap(), 1 << 20)
        .unwrap();
    let before = fs::read(&image).unwrap();
    let seed = seed_dir(dir.path());
    fs::write(seed.join("network-config"), "# ".repeat(500_000)).unwrap();
    let (code, said) = refused(&["seed", "embed", str(&image), str(&seed)]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("no room"), "{said}");
    assert!(fs::read(&image).unwrap() == before);
}

#[test]
fn what_has_no_boot_partition_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let seed = seed_dir(dir.path());
    let path = dir.path().join("x.img");
    fs::write(&path, vec![0; 4 << 20]).unwrap();
    let (code, said) = refused(&["seed", "embed", str(&path), str(&seed)]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("no GPT"), "{said}");
    fs::write(&path, zstd::encode_all(&b"x"[..], 1).unwrap()).unwrap();
    let (code, said) = refused(&["seed", "embed", str(&path), str(&seed)]);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("slipway flash"), "{said}");
}

#[test]
fn every_reader_of_cds_finds_the_names_and_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let seed = seed_dir(dir.path());
    let out = slipway(&["seed", "iso", str(&seed)]);
    assert!(out.status.success(), "{}", text(&out));
    let iso = dir.path().join("seed.iso");
    assert_eq!(mode(&iso), 0o600);
    let about = run("isoinfo", &["-d", "-i", str(&iso)]);
    assert!(about.contains("Volume id: CIDATA"), "{about}");
    assert!(about.contains("Joliet with UCS level 3 found"), "{about}");
    assert!(
        about.contains("Rock Ridge signatures version 1 found"),
        "{about}"
    );
    for names in ["-R", "-J"] {
        for (name, bytes) in [("user-data", USER_DATA), ("network-config", "version: 2\n")] {
            let path = format!("/{name}");
            let found = run("isoinfo", &["-i", str(&iso), names, "-x", &path]);
            assert_eq!(found, bytes, "{names} {name}");
        }
    }
    let plain = run("isoinfo", &["-i", str(&iso), "-l"]);
    assert!(plain.contains("USER_DAT.;1"), "{plain}");
    for (tool, args) in [
        ("bsdtar", vec!["-xf", str(&iso), "-C"]),
        (
            "xorriso",
            vec!["-osirrox", "on", "-indev", str(&iso), "-extract", "/"],
        ),
    ] {
        let to = dir.path().join(tool);
        fs::create_dir(&to).unwrap();
        let mut args = args;
        args.push(str(&to));
        run(tool, &args);
        for name in ["user-data", "meta-data", "network-config"] {
            let found = fs::read(to.join(name)).unwrap();
            assert_eq!(found, fs::read(seed.join(name)).unwrap(), "{tool} {name}");
        }
    }
    let label = run("blkid", &["-p", "-o", "value", "-s", "LABEL", str(&iso)]);
    assert_eq!(label.trim(), "CIDATA");
}

#[test]
fn the_same_seed_gives_the_same_cd() {
    let dir = tempfile::tempdir().unwrap();
    let seed = seed_dir(dir.path());
    fs::write(seed.join("vendor-data"), "").unwrap();
    let make = |name: &str| {
        let path = dir.path().join(name);
        let out = slipway(&["seed", "iso", str(&seed), "--out", str(&path)]);
        assert!(out.status.success(), "{}", text(&out));
        fs::read(path).unwrap()
    };
    assert!(make("a.iso") == make("b.iso"));
}
