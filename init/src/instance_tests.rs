use std::os::unix::fs::MetadataExt;

use slipway_images::seed::Content;

use super::*;

fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for path in [
        "etc/ssl/certs",
        "var/lib/slipway",
        "usr/share/zoneinfo/Europe",
    ] {
        fs::create_dir_all(dir.path().join(path)).unwrap();
    }
    fs::write(
        dir.path().join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\n",
    )
    .unwrap();
    fs::write(dir.path().join("etc/group"), "root:x:0:\ntty:x:5:\n").unwrap();
    fs::write(dir.path().join("etc/shadow"), "root:*:::::::\n").unwrap();
    fs::write(dir.path().join(BUNDLE), "DEFAULTS\n").unwrap();
    fs::write(dir.path().join("usr/share/zoneinfo/Europe/Berlin"), "TZif").unwrap();
    dir
}

/// The user who runs the tests: only root may give files to others.
fn me() -> String {
    nix::unistd::getuid().to_string()
}

fn file(path: &str, content: &str, when: When) -> WriteFile {
    WriteFile {
        path: path.into(),
        content: Content(content.as_bytes().to_vec()),
        permissions: 0o640,
        owner: me(),
        group: nix::unistd::getgid().to_string(),
        append: false,
        when,
    }
}

#[test]
fn first_boot_parts_run_once_for_each_instance() {
    let root = root();
    let at = |path: &str| root.path().join(path);
    let mut seed = Seed {
        write_files: vec![
            file("/var/lib/app/once", "1", When::FirstBoot),
            file("/etc/app.conf", "1", When::EachBoot),
        ],
        ..Seed::default()
    };
    assert_eq!(
        apply(root.path(), &seed, Data::There).unwrap(),
        "first boot of nocloud"
    );
    assert_eq!(
        fs::metadata(at("etc/app.conf")).unwrap().mode() & 0o7777,
        0o640
    );
    for file in &mut seed.write_files {
        file.content = Content(b"2".to_vec());
    }
    assert_eq!(apply(root.path(), &seed, Data::There).unwrap(), "");
    assert_eq!(fs::read_to_string(at("var/lib/app/once")).unwrap(), "1");
    assert_eq!(fs::read_to_string(at("etc/app.conf")).unwrap(), "2");
    seed.instance_id = Some("second".into());
    assert_eq!(
        apply(root.path(), &seed, Data::There).unwrap(),
        "first boot of second"
    );
    assert_eq!(fs::read_to_string(at("var/lib/app/once")).unwrap(), "2");
}

#[test]
fn a_first_boot_that_failed_is_done_again() {
    let root = root();
    fs::write(root.path().join("var/lib/app"), "in the way").unwrap();
    let seed = Seed {
        write_files: vec![
            file("/var/lib/app/once", "1", When::FirstBoot),
            file("/var/lib/other", "1", When::FirstBoot),
        ],
        ..Seed::default()
    };
    let failure = apply(root.path(), &seed, Data::There).unwrap_err();
    assert!(failure.0.contains("/var/lib/app/once"), "{failure}");
    assert!(
        root.path().join("var/lib/other").exists(),
        "the others are done"
    );
    assert!(!root.path().join(INSTANCE_FILE).exists());
    fs::remove_file(root.path().join("var/lib/app")).unwrap();
    apply(root.path(), &seed, Data::There).unwrap();
    assert!(root.path().join("var/lib/app/once").exists());
}

#[test]
fn without_data_nothing_is_written_there() {
    let root = root();
    let seed = Seed {
        write_files: vec![
            file("/var/x", "1", When::FirstBoot),
            file("/etc/x", "1", When::EachBoot),
        ],
        ..Seed::default()
    };
    assert_eq!(apply(root.path(), &seed, Data::Missing).unwrap(), "");
    assert!(!root.path().join("var/x").exists());
    assert!(root.path().join("etc/x").exists());
}

#[test]
fn a_link_on_the_way_is_not_followed() {
    let root = root();
    symlink("/tmp", root.path().join("var/link")).unwrap();
    let seed = Seed {
        write_files: vec![file("/var/link/x", "1", When::FirstBoot)],
        ..Seed::default()
    };
    let failure = apply(root.path(), &seed, Data::There).unwrap_err();
    assert!(failure.0.contains("is a link"), "{failure}");
}

#[test]
fn appending_keeps_what_is_there() {
    let root = root();
    fs::write(root.path().join("etc/app"), "a").unwrap();
    let mut wanted = file("/etc/app", "b", When::EachBoot);
    wanted.append = true;
    write(root.path(), &wanted).unwrap();
    assert_eq!(
        fs::read_to_string(root.path().join("etc/app")).unwrap(),
        "ab"
    );
    wanted.owner = "nobody-here".into();
    let failure = write(root.path(), &wanted).unwrap_err();
    assert!(failure.0.contains("`nobody-here`"), "{failure}");
    assert_eq!(
        fs::read_to_string(root.path().join("etc/app")).unwrap(),
        "ab"
    );
}

#[test]
fn zone_and_authorities() {
    let root = root();
    zone(root.path(), Some("Europe/Berlin")).unwrap();
    zone(root.path(), Some("Mars/Olympus")).unwrap();
    assert_eq!(
        fs::read_link(root.path().join("etc/localtime")).unwrap(),
        Path::new("/usr/share/zoneinfo/Europe/Berlin")
    );
    // Taken back: the image's own, which has no data here.
    zone(root.path(), None).unwrap();
    assert!(!root.path().join("etc/localtime").is_symlink());
    let mut wish = CaCerts {
        trusted: vec!["ONE".into()],
        remove_defaults: false,
    };
    authorities(root.path(), &wish).unwrap();
    assert_eq!(users::read(root.path(), BUNDLE).unwrap(), "DEFAULTS\nONE\n");
    wish.remove_defaults = true;
    authorities(root.path(), &wish).unwrap();
    assert_eq!(users::read(root.path(), BUNDLE).unwrap(), "ONE\n");
}
