//! Mirrors that break off, lie, and come back.

use std::fs;
use std::process::Command;

use slipway::Kind;
use slipway::debian::{self, Package};

use super::archive::{Archive, Release, board, deb_of, tar_of};
use super::server::{Fault, Server};
use super::{names, open, quiet};

struct Setup {
    archive: Archive,
    server: Server,
    cache: tempfile::TempDir,
    deb: Vec<u8>,
}

impl Setup {
    fn new() -> Self {
        let mut archive = Archive::new();
        let deb = archive.package("aa", "1", "");
        archive.publish_plainly();
        let server = Server::start(archive.dir.path());
        Self {
            archive,
            server,
            cache: tempfile::tempdir().unwrap(),
            deb,
        }
    }

    fn packages(&self) -> (debian::Archive, Vec<Package>) {
        let board = board(&self.archive.gpg.public(), &["test"]);
        let opened = open(&self.server.url, &board, self.cache.path()).unwrap();
        let packages = opened.closure(&names(&["aa"]), &[]).unwrap();
        self.server.log();
        (opened, packages)
    }

    fn fetch(&self, faults: &[Fault]) -> slipway::Result<Vec<debian::Fetched>> {
        let (opened, packages) = self.packages();
        self.server.fault("aa_1.deb", faults);
        debian::fetch(opened.mirror(), &packages, self.cache.path(), &quiet())
    }

    fn arrives(&self, faults: &[Fault]) -> Vec<String> {
        let fetched = self.fetch(faults).unwrap();
        assert_eq!(fs::read(&fetched[0].path).unwrap(), self.deb);
        self.server.log()
    }
}

#[test]
fn a_dropped_connection_is_resumed_where_it_broke() {
    let s = Setup::new();
    let log = s.arrives(&[Fault::DropAfter(1000), Fault::DropAfter(2000)]);
    assert_eq!(log.len(), 3, "{log:?}");
    assert_eq!(log[1], "/pool/aa_1.deb from 1000");
    assert_eq!(log[2], "/pool/aa_1.deb from 3000");
    // The second time it is in the cache.
    assert!(s.arrives(&[]).is_empty());
}

#[test]
fn a_server_without_ranges_starts_over() {
    let s = Setup::new();
    let log = s.arrives(&[Fault::DropAfter(1000), Fault::NoRange(usize::MAX)]);
    assert_eq!(log.len(), 2, "{log:?}");
}

#[test]
fn a_server_that_answers_with_another_range() {
    let s = Setup::new();
    s.arrives(&[Fault::DropAfter(1000), Fault::WrongRange]);
}

#[test]
fn a_passing_server_error_is_waited_out() {
    let s = Setup::new();
    assert_eq!(s.arrives(&[Fault::Status(503)]).len(), 2);
}

#[test]
fn giving_up_names_the_url() {
    let s = Setup::new();
    let e = s.fetch(&[Fault::Status(503); 8]).unwrap_err();
    assert_eq!(e.kind, Kind::Network);
    assert!(
        e.message().contains("aa_1.deb") && e.message().contains("503"),
        "{e}"
    );
    assert_eq!(s.server.log().len(), 4);
}

#[test]
fn wrong_bytes_are_refused_and_leave_nothing() {
    let s = Setup::new();
    let e = s.fetch(&[Fault::Corrupt]).unwrap_err();
    assert_eq!(e.kind, Kind::Untrusted);
    assert!(e.message().contains("SHA-256"), "{e}");
    assert_eq!(fs::read_dir(s.cache.path().join("deb")).unwrap().count(), 0);
    s.arrives(&[]);
}

/// On a filesystem of 1 MiB, which needs namespaces of its own: a process started for it
/// runs the next test there.
#[test]
fn a_full_disk_is_named_and_nothing_is_half_written() {
    let probe = Command::new("unshare").args(["-rm", "true"]).output();
    if !probe.is_ok_and(|out| out.status.success()) {
        eprintln!("skipped: this machine lets nobody make a user namespace");
        return;
    }
    let out = Command::new("unshare")
        .arg("-rm")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "transfer::inside_of_a_small_disk", "--ignored"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "started by a_full_disk_is_named_and_nothing_is_half_written"]
fn inside_of_a_small_disk() {
    let mut s = Setup::new();
    let noise: Vec<u8> = (0u32..1 << 19)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect();
    let large = deb_of(&tar_of(&[("./noise", &noise)]));
    assert!(large.len() > 1 << 20, "{}", large.len());
    s.archive.package_of("large", "1", "", &large);
    s.archive.publish_plainly();
    let board = board(&s.archive.gpg.public(), &["test"]);
    let opened = open(&s.server.url, &board, s.cache.path()).unwrap();
    let packages = opened.closure(&names(&["large"]), &[]).unwrap();
    let deb = s.cache.path().join("deb");
    fs::create_dir_all(&deb).unwrap();
    let mount = |arguments: &[&str]| {
        let out = Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(&deb)
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "small"]);
    let e = debian::fetch(opened.mirror(), &packages, s.cache.path(), &quiet()).unwrap_err();
    assert_eq!(e.kind, Kind::Io, "{e}");
    assert!(e.advice().unwrap().contains("the disk is full"), "{e}");
    assert!(!deb.join(&packages[0].sha256).exists());
    mount(&["umount"]);
    let fetched = debian::fetch(opened.mirror(), &packages, s.cache.path(), &quiet()).unwrap();
    assert_eq!(fs::read(&fetched[0].path).unwrap(), large);
}

#[test]
fn a_missing_package_is_not_tried_again() {
    let s = Setup::new();
    let e = s.fetch(&[Fault::Status(404); 2]).unwrap_err();
    assert_eq!(e.kind, Kind::Network);
    assert!(e.message().contains("404"), "{e}");
    assert_eq!(s.server.log().len(), 1);
}

#[test]
fn what_an_interrupted_run_left_is_continued() {
    let s = Setup::new();
    let (opened, packages) = s.packages();
    let part = s
        .cache
        .path()
        .join("deb")
        .join(format!("{}.part", packages[0].sha256));
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, &s.deb[..5000]).unwrap();
    debian::fetch(opened.mirror(), &packages, s.cache.path(), &quiet()).unwrap();
    assert_eq!(s.server.log(), ["/pool/aa_1.deb from 5000"]);
    assert!(!part.exists());
}

#[test]
fn a_damaged_remainder_is_thrown_away() {
    let s = Setup::new();
    let (opened, packages) = s.packages();
    let part = s
        .cache
        .path()
        .join("deb")
        .join(format!("{}.part", packages[0].sha256));
    fs::create_dir_all(part.parent().unwrap()).unwrap();
    fs::write(&part, vec![7; 5000]).unwrap();
    let fetched = debian::fetch(opened.mirror(), &packages, s.cache.path(), &quiet()).unwrap();
    assert_eq!(fs::read(&fetched[0].path).unwrap(), s.deb);
    assert_eq!(
        s.server.log(),
        ["/pool/aa_1.deb from 5000", "/pool/aa_1.deb"]
    );
}

#[test]
fn nothing_changed_costs_one_question() {
    let s = Setup::new();
    s.packages();
    let board = board(&s.archive.gpg.public(), &["test"]);
    let opened = open(&s.server.url, &board, s.cache.path()).unwrap();
    opened.closure(&names(&["aa"]), &[]).unwrap();
    assert_eq!(s.server.log(), ["/dists/test/InRelease"]);
}

#[test]
fn indices_by_hash_and_without() {
    let s = Setup::new();
    s.archive.publish(&Release {
        suite: "test",
        by_hash: true,
        ..Release::default()
    });
    fs::remove_file(
        s.archive
            .dir
            .path()
            .join("dists/test/main/binary-amd64/Packages.xz"),
    )
    .unwrap();
    let board = board(&s.archive.gpg.public(), &["test"]);
    open(&s.server.url, &board, s.cache.path()).unwrap();
    assert!(s.server.log().iter().any(|l| l.contains("by-hash/SHA256")));
    // It says by-hash, but has none: the plain name does.
    fs::rename(
        s.archive
            .dir
            .path()
            .join("dists/test/main/binary-amd64/by-hash/SHA256"),
        s.archive
            .dir
            .path()
            .join("dists/test/main/binary-amd64/gone"),
    )
    .unwrap();
    let gone = super::archive::only_file(
        &s.archive
            .dir
            .path()
            .join("dists/test/main/binary-amd64/gone"),
    );
    fs::copy(
        gone,
        s.archive
            .dir
            .path()
            .join("dists/test/main/binary-amd64/Packages.xz"),
    )
    .unwrap();
    let other = tempfile::tempdir().unwrap();
    open(&s.server.url, &board, other.path()).unwrap();
}

#[test]
fn a_mirror_that_is_not_there() {
    let s = Setup::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let board = board(&s.archive.gpg.public(), &["test"]);
    let e = open(&format!("http://{port}/debian"), &board, s.cache.path())
        .map(|_| ())
        .unwrap_err();
    assert_eq!(e.kind, Kind::Network);
    assert!(e.message().contains("can't be reached"), "{e}");
    assert!(e.advice().unwrap().contains("--mirror"), "{e}");
}

#[test]
fn a_lock_needs_no_index() {
    let s = Setup::new();
    let (opened, packages) = s.packages();
    let json = serde_json::to_string(&packages).unwrap();
    let packages: Vec<Package> = serde_json::from_str(&json).unwrap();
    let cache = tempfile::tempdir().unwrap();
    debian::fetch(opened.mirror(), &packages, cache.path(), &quiet()).unwrap();
    assert_eq!(s.server.log(), ["/pool/aa_1.deb"]);
    let mut spoilt = packages;
    spoilt[0].sha256 = "../../x".into();
    let e = debian::fetch(opened.mirror(), &spoilt, cache.path(), &quiet()).unwrap_err();
    assert_eq!(e.kind, Kind::Input);
}
