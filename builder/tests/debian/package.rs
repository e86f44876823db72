//! `.deb` files: what goes through, and what is refused with one clear error.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use slipway::debian::{self, ArchiveKind, Fetched, Package};
use slipway::tree::{Node, NodeKind};
use slipway::{Error, Kind};

use super::archive::{ar, deb_of, sha256, tar_of, xz};

fn fetched(dir: &Path, deb: &[u8]) -> Fetched {
    let path = dir.join("x.deb");
    fs::write(&path, deb).unwrap();
    Fetched {
        path,
        package: Package {
            name: "x".into(),
            version: "1".into(),
            architecture: "amd64".into(),
            source: "x".into(),
            source_version: "1".into(),
            section: String::new(),
            homepage: None,
            archive: ArchiveKind::Main,
            suite: "test".into(),
            path: "pool/x.deb".into(),
            size: deb.len() as u64,
            sha256: sha256(deb),
            listed: true,
            depends: Vec::new(),
        },
    }
}

fn unpack_if(
    deb: &[u8],
    keep: &(dyn Fn(&str) -> bool + Sync),
) -> Result<Vec<(String, Node)>, Error> {
    let dir = tempfile::tempdir().unwrap();
    let nodes = debian::unpack(&fetched(dir.path(), deb), keep, "rules", dir.path())?;
    // Contents are ranges of a file in the directory that goes: take them out.
    Ok(nodes
        .into_iter()
        .map(|(path, mut node)| {
            if let NodeKind::File(content) = &node.kind {
                node.kind = NodeKind::File(content.read().unwrap().to_vec().into());
            }
            (path, node)
        })
        .collect())
}

fn unpack(deb: &[u8]) -> Result<Vec<(String, Node)>, Error> {
    unpack_if(deb, &|_| true)
}

fn refused(deb: &[u8], why: &str) {
    let e = unpack(deb).map(|n| n.len()).unwrap_err();
    assert_eq!(e.kind, Kind::Input, "{e}");
    assert!(
        e.message().contains("package x") && e.message().contains(why),
        "{e}; expected: {why}"
    );
}

/// A tar of headers that are made one by one.
fn tar_with(make: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    make(&mut tar);
    tar.into_inner().unwrap()
}

fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[test]
fn every_kind_of_entry() {
    let tar = tar_with(|tar| {
        tar.append_data(
            &mut header(tar::EntryType::Directory, 0o755),
            "./",
            &b""[..],
        )
        .unwrap();
        tar.append_data(
            &mut header(tar::EntryType::Directory, 0o2755),
            "./lib/",
            &b""[..],
        )
        .unwrap();
        let mut file = header(tar::EntryType::Regular, 0o4755);
        file.set_size(3);
        file.set_uid(7);
        file.set_gid(8);
        tar.append_data(&mut file, "./bin/a", &b"abc"[..]).unwrap();
        tar.append_link(
            &mut header(tar::EntryType::Link, 0o4755),
            "./usr/bin/b",
            "./bin/a",
        )
        .unwrap();
        tar.append_link(
            &mut header(tar::EntryType::Symlink, 0o777),
            "./lib/c",
            "../x",
        )
        .unwrap();
        let long = format!("./opt/{}", "n".repeat(180));
        let mut file = header(tar::EntryType::Regular, 0o644);
        tar.append_data(&mut file, &long, &b""[..]).unwrap();
    });
    let nodes = unpack(&deb_of(&tar)).unwrap();
    let paths: Vec<&str> = nodes.iter().map(|(p, _)| p.as_str()).collect();
    assert_eq!(
        paths[1..],
        ["usr/bin/a", "usr/bin/b", "usr/lib", "usr/lib/c"]
    );
    let a = &nodes[1].1;
    assert_eq!((a.mode, a.uid, a.gid), (0o4755, 7, 8));
    assert!(matches!(&a.kind, NodeKind::File(c) if &*c.read().unwrap() == b"abc"));
    assert!(matches!(&nodes[2].1.kind, NodeKind::Hardlink(t) if t == "usr/bin/a"));
    assert!(matches!(&nodes[4].1.kind, NodeKind::Symlink(t) if t == "../x"));
}

#[test]
fn a_hard_link_survives_its_target() {
    let tar = tar_with(|tar| {
        let mut file = header(tar::EntryType::Regular, 0o644);
        file.set_size(3);
        tar.append_data(&mut file, "./doc/a", &b"abc"[..]).unwrap();
        tar.append_link(
            &mut header(tar::EntryType::Link, 0o644),
            "./usr/b",
            "./doc/a",
        )
        .unwrap();
        tar.append_link(
            &mut header(tar::EntryType::Link, 0o644),
            "./usr/c",
            "./doc/a",
        )
        .unwrap();
    });
    let nodes = unpack_if(&deb_of(&tar), &|p| p.starts_with("usr")).unwrap();
    assert_eq!(nodes.len(), 2);
    assert!(matches!(&nodes[0].1.kind, NodeKind::File(c) if &*c.read().unwrap() == b"abc"));
    assert!(matches!(&nodes[1].1.kind, NodeKind::Hardlink(t) if t == "usr/b"));
}

#[test]
fn extended_attributes_come_along() {
    let tar = tar_with(|tar| {
        tar.append_pax_extensions([("SCHILY.xattr.security.capability", &b"\x01\x00\x00\x02"[..])])
            .unwrap();
        let mut file = header(tar::EntryType::Regular, 0o755);
        tar.append_data(&mut file, "./usr/bin/ping", &b""[..])
            .unwrap();
    });
    let nodes = unpack(&deb_of(&tar)).unwrap();
    assert_eq!(
        nodes[0].1.xattrs["security.capability"],
        b"\x01\x00\x00\x02"
    );
}

#[test]
fn every_compression() {
    let tar = tar_of(&[("./a", b"abc")]);
    let gz = {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut out, &tar).unwrap();
        out.finish().unwrap()
    };
    let zst = zstd::encode_all(&tar[..], 1).unwrap();
    for (name, data) in [
        ("data.tar", &tar),
        ("data.tar.gz", &gz),
        ("data.tar.xz", &xz(&tar)),
        ("data.tar.zst", &zst),
    ] {
        let deb = ar(&[
            ("debian-binary", b"2.0\n"),
            ("control.tar", b"x"),
            (name, data),
        ]);
        assert_eq!(unpack(&deb).unwrap().len(), 1, "{name}");
        // A slash after the name is how other tools write it.
        let deb = ar(&[("debian-binary/", b"2.0\n"), (&format!("{name}/"), data)]);
        assert_eq!(unpack(&deb).unwrap().len(), 1, "{name}/");
        if name != "data.tar" {
            for cut in [1, 4, 9, data.len() / 2] {
                let deb = ar(&[
                    ("debian-binary", b"2.0\n"),
                    (name, &data[..data.len() - cut]),
                ]);
                assert!(unpack(&deb).is_err(), "{name} without its last {cut} bytes");
            }
        }
    }
}

#[test]
fn what_is_not_a_package() {
    refused(b"", "cut off");
    refused(b"PK\x03\x04 is a zip", "no `ar` archive");
    refused(&ar(&[]), "empty");
    refused(&ar(&[("data.tar.xz", &xz(b""))]), "debian-binary");
    refused(
        &ar(&[("debian-binary", b"3.0\n"), ("data.tar", b"")]),
        "version",
    );
    refused(
        &ar(&[("debian-binary", b"2.0\n"), ("control.tar", b"")]),
        "no data.tar",
    );
    refused(
        &ar(&[("debian-binary", b"2.0\n"), ("data.tar.lzma", b"")]),
        "not supported",
    );
    let whole = deb_of(&tar_of(&[("./a", b"abc")]));
    refused(&whole[..whole.len() - 8], "cut off");
    refused(&whole[..100], "");
}

#[test]
fn what_an_image_cannot_have() {
    let one = |kind, path: &str| {
        let path = path.to_owned();
        deb_of(&tar_with(|tar| {
            let mut header = header(kind, 0o644);
            // Past the checks that the builder of the archive has of its own.
            let name = &mut header.as_old_mut().name;
            name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            tar.append(&header, &b""[..]).unwrap();
        }))
    };
    refused(
        &one(tar::EntryType::Char, "./dev/null"),
        "dev/null: it is a device",
    );
    refused(
        &one(tar::EntryType::Fifo, "./run/x"),
        "run/x: it is a device",
    );
    refused(
        &one(tar::EntryType::Regular, "./../etc/passwd"),
        "leads out of the image",
    );
    refused(
        &one(tar::EntryType::Regular, "usr/../../x"),
        "leads out of the image",
    );
    refused(&one(tar::EntryType::Symlink, "./x"), "link to nothing");
    let latin = deb_of(&tar_with(|tar| {
        let mut header = header(tar::EntryType::Regular, 0o644);
        header.as_old_mut().name[..3].copy_from_slice(b"a\xe9b");
        header.set_cksum();
        tar.append(&header, &b""[..]).unwrap();
    }));
    refused(&latin, "not UTF-8");
    let nowhere = deb_of(&tar_with(|tar| {
        tar.append_link(&mut header(tar::EntryType::Link, 0o644), "a", "b")
            .unwrap();
    }));
    refused(&nowhere, "hard link to nowhere");
    let sparse = deb_of(&tar_with(|tar| {
        tar.append_pax_extensions([("GNU.sparse.major", &b"1"[..])])
            .unwrap();
        tar.append_data(&mut header(tar::EntryType::Regular, 0o644), "a", &b""[..])
            .unwrap();
    }));
    refused(&sparse, "sparse");
}

#[test]
fn single_files_can_be_taken() {
    let dir = tempfile::tempdir().unwrap();
    let fetched = fetched(
        dir.path(),
        &deb_of(&tar_of(&[("./usr/a", b"abc"), ("./usr/b", b"b")])),
    );
    let found = debian::take(&fetched, &["usr/a"], dir.path()).unwrap();
    assert_eq!(&*found["usr/a"].read().unwrap(), b"abc");
    let e = debian::take(&fetched, &["usr/c"], dir.path()).unwrap_err();
    assert!(e.message().contains("package x 1 has no file usr/c"), "{e}");
}

#[test]
fn the_cache_is_used_and_survives_damage() {
    let dir = tempfile::tempdir().unwrap();
    let fetched = fetched(dir.path(), &deb_of(&tar_of(&[("./a", b"abc")])));
    let all = |_: &str| true;
    debian::unpack(&fetched, &all, "r", dir.path()).unwrap();
    // Without the package it must come from the cache.
    let hidden = fetched.path.with_extension("hidden");
    fs::rename(&fetched.path, &hidden).unwrap();
    assert_eq!(
        debian::unpack(&fetched, &all, "r", dir.path())
            .unwrap()
            .len(),
        1
    );
    assert!(debian::unpack(&fetched, &all, "other rules", dir.path()).is_err());
    fs::rename(&hidden, &fetched.path).unwrap();
    for file in fs::read_dir(dir.path().join("unpacked")).unwrap() {
        fs::write(file.unwrap().path(), "x").unwrap();
    }
    let nodes = debian::unpack(&fetched, &all, "r", dir.path()).unwrap();
    assert!(matches!(&nodes[0].1.kind, NodeKind::File(c) if &*c.read().unwrap() == b"abc"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        unpack(&bytes).map(|_| ()).unwrap_or(());
        unpack(&deb_of(&bytes)).map(|_| ()).unwrap_or(());
    }

    #[test]
    fn a_damaged_package_is_read_or_refused(at in 0usize..1000, with in any::<u8>(), cut in 0usize..1000) {
        let tar = tar_of(&[("./usr/bin/a", b"abc"), ("./b", b"")]);
        let mut deb = ar(&[("debian-binary", b"2.0\n"), ("data.tar", &tar)]);
        let at = at % deb.len();
        deb[at] = with;
        deb.truncate(deb.len().saturating_sub(cut / 4));
        unpack(&deb).map(|_| ()).unwrap_or(());
        let mut tar = tar;
        let at = at % tar.len();
        tar[at] = with;
        unpack(&deb_of(&tar)).map(|_| ()).unwrap_or(());
    }
}
