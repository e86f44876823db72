//! What is refused before a single package is looked at.

use std::fs;
use std::time::{Duration, SystemTime};

use slipway::Kind;
use slipway::debian::{self, Mirror};

use super::archive::{Archive, Gpg, Release, board};
use super::{names, open, quiet};

const DAY: Duration = Duration::from_secs(86_400);

fn url(archive: &Archive) -> String {
    format!("file://{}", archive.dir.path().display())
}

/// Opens an archive whose InRelease is this.
fn open_with(
    archive: &Archive,
    in_release: &[u8],
    key: &[u8],
) -> slipway::Result<(debian::Archive, tempfile::TempDir)> {
    archive.write("dists/test/InRelease", in_release);
    let cache = tempfile::tempdir().unwrap();
    let opened = open(&url(archive), &board(key, &["test"]), cache.path())?;
    Ok((opened, cache))
}

fn refused(archive: &Archive, in_release: &[u8], key: &[u8], why: &str) {
    match open_with(archive, in_release, key) {
        Ok(_) => panic!("accepted; expected: {why}"),
        Err(e) => {
            assert_eq!(e.kind, Kind::Untrusted, "{e}");
            assert!(e.message().contains(why), "{e}; expected: {why}");
            assert!(e.message().contains("InRelease"), "{e}");
        }
    }
}

fn plain() -> (Archive, String) {
    let mut archive = Archive::new();
    archive.package("aa", "1", "");
    let text = archive.release_text(&Release {
        suite: "test",
        ..Release::default()
    });
    (archive, text)
}

#[test]
fn a_good_signature_opens_the_archive() {
    let (archive, text) = plain();
    let signed = archive.gpg.clearsign(&text, &[], None);
    let (opened, _cache) = open_with(&archive, &signed, &archive.gpg.public()).unwrap();
    assert_eq!(opened.snapshot().len(), 1);
    assert_eq!(opened.snapshot()[0].sha256, super::archive::sha256(&signed));
    assert_eq!(opened.closure(&names(&["aa"]), &[]).unwrap().len(), 1);
}

#[test]
fn unsigned_other_key_tampered() {
    let (archive, text) = plain();
    let key = archive.gpg.public();
    refused(&archive, text.as_bytes(), &key, "is not signed");
    let signed = String::from_utf8(archive.gpg.clearsign(&text, &[], None)).unwrap();
    let stranger = Gpg::with_key(None, "never");
    refused(
        &archive,
        signed.as_bytes(),
        &stranger.public(),
        "is not in the board's keyring",
    );
    let tampered = signed.replacen("Origin: Test", "Origin: Tesu", 1);
    refused(&archive, tampered.as_bytes(), &key, "not what key");
    // Text outside of what is signed.
    refused(
        &archive,
        format!("Suite: test\n{signed}").as_bytes(),
        &key,
        "is not signed",
    );
    refused(
        &archive,
        format!("{signed}\nSuite: evil\n").as_bytes(),
        &key,
        "well-formed",
    );
    let (head, _) = signed.split_once("-----BEGIN PGP SIGNATURE-----").unwrap();
    refused(&archive, head.as_bytes(), &key, "well-formed");
}

#[test]
fn weak_hash_future_signature_expired_signature() {
    let (archive, text) = plain();
    let key = archive.gpg.public();
    let weak = archive.gpg.clearsign(
        &text,
        &["--digest-algo", "SHA1", "--allow-weak-digest-algos"],
        None,
    );
    refused(&archive, &weak, &key, "too weak");
    let future = archive.gpg.clearsign(&text, &[], Some("20990101T000000"));
    refused(&archive, &future, &key, "future");
    let gpg = Gpg::with_key(Some("20240101T000000"), "never");
    let expired = gpg.clearsign(
        &text,
        &["--default-sig-expire", "10d"],
        Some("20240102T000000"),
    );
    refused(&archive, &expired, &gpg.public(), "signature has expired");
}

#[test]
fn expired_and_revoked_keys() {
    let (archive, text) = plain();
    let expired = Gpg::with_key(Some("20240101T000000"), "30d");
    let signed = expired.clearsign(&text, &[], Some("20240102T000000"));
    refused(&archive, &signed, &expired.public(), "has expired");

    let revoked = Gpg::with_key(None, "never");
    let signed = revoked.clearsign(&text, &[], None);
    assert!(open_with(&archive, &signed, &revoked.public()).is_ok());
    let fingerprint = revoked.fingerprint();
    revoke(&revoked, &fingerprint);
    refused(&archive, &signed, &revoked.public(), "is revoked");
}

/// gpg keeps a ready revocation for every key, behind a colon.
fn revoke(gpg: &Gpg, fingerprint: &str) {
    let home = String::from_utf8(gpg.run(None, &["--version"], b"")).unwrap();
    let home = home
        .lines()
        .find_map(|l| l.strip_prefix("Home: "))
        .unwrap()
        .to_owned();
    let path = format!("{home}/openpgp-revocs.d/{fingerprint}.rev");
    let text = fs::read_to_string(path)
        .unwrap()
        .replace(":-----BEGIN", "-----BEGIN");
    gpg.run(None, &["--import"], text.as_bytes());
}

#[test]
fn subkeys_sign_if_bound_for_it() {
    let (archive, text) = plain();
    let gpg = Gpg::new();
    gpg.run(
        None,
        &[
            "--quick-gen-key",
            "t <t@example.org>",
            "ed25519",
            "cert",
            "never",
        ],
        b"",
    );
    let fingerprint = gpg.fingerprint();
    gpg.run(
        None,
        &["--quick-add-key", &fingerprint, "ed25519", "sign", "never"],
        b"",
    );
    let signed = gpg.clearsign(&text, &[], None);
    assert!(open_with(&archive, &signed, &gpg.public()).is_ok());

    let gpg = Gpg::new();
    let then = Some("20240101T000000");
    gpg.run(
        then,
        &[
            "--quick-gen-key",
            "t <t@example.org>",
            "ed25519",
            "cert",
            "never",
        ],
        b"",
    );
    let fingerprint = gpg.fingerprint();
    gpg.run(
        then,
        &["--quick-add-key", &fingerprint, "ed25519", "sign", "30d"],
        b"",
    );
    let signed = gpg.clearsign(&text, &[], Some("20240102T000000"));
    refused(&archive, &signed, &gpg.public(), "has expired");
}

#[test]
fn releases_of_the_future_and_of_other_suites() {
    let (archive, _) = plain();
    let key = archive.gpg.public();
    let sign = |release: &Release<'_>| {
        archive
            .gpg
            .clearsign(&archive.release_text(release), &[], None)
    };
    let future = Release {
        suite: "test",
        date: Some(SystemTime::now() + DAY),
        ..Release::default()
    };
    refused(&archive, &sign(&future), &key, "future");
    let other = Release {
        suite: "other",
        ..Release::default()
    };
    refused(&archive, &sign(&other), &key, "not test");
}

#[test]
fn a_stale_suite_stops_the_build_unless_told_otherwise() {
    let (archive, _) = plain();
    archive.publish_plainly();
    let past = SystemTime::now() - DAY;
    archive.publish(&Release {
        suite: "fixes",
        date: Some(past - DAY),
        valid_until: Some(past),
        ..Release::default()
    });
    let cache = tempfile::tempdir().unwrap();
    let board = board(&archive.gpg.public(), &["test", "fixes"]);
    let mirror = Mirror::resolve(Some(&url(&archive))).unwrap();
    let open = |skip| debian::open(&mirror, &board, cache.path(), skip, &quiet());
    let e = open(false).map(|_| ()).unwrap_err();
    assert_eq!(e.kind, Kind::Untrusted);
    assert!(e.message().contains("fixes has expired"), "{e}");
    let opened = open(true).unwrap();
    assert_eq!(opened.snapshot().len(), 1);
    assert!(
        opened.warnings()[0].contains("fixes"),
        "{:?}",
        opened.warnings()
    );
}

#[test]
fn so_does_a_suite_whose_index_is_another_than_was_signed() {
    let (mut archive, _) = plain();
    archive.publish_plainly();
    archive.package("aa", "2", "");
    archive.publish(&Release {
        suite: "fixes",
        ..Release::default()
    });
    let index = "dists/fixes/main/binary-amd64/Packages.xz";
    archive.write(index, &[b'x'; 4096]);
    let cache = tempfile::tempdir().unwrap();
    let mirror = Mirror::resolve(Some(&url(&archive))).unwrap();
    let open = |suites: &[&str], skip| {
        let board = board(&archive.gpg.public(), suites);
        debian::open(&mirror, &board, cache.path(), skip, &quiet())
    };
    let e = open(&["test", "fixes"], false).map(|_| ()).unwrap_err();
    assert_eq!(e.kind, Kind::Untrusted);
    assert!(e.message().contains("fixes"), "{e}");
    let opened = open(&["test", "fixes"], true).unwrap();
    assert_eq!(opened.snapshot().len(), 1);
    let warnings = opened.warnings();
    assert!(warnings[0].contains("are left out"), "{warnings:?}");
    let e = open(&["fixes", "test"], true).map(|_| ()).unwrap_err();
    assert_eq!(e.kind, Kind::Untrusted, "the first one is never left out");
}

#[test]
fn the_first_suite_is_never_skipped() {
    let (archive, _) = plain();
    let past = SystemTime::now() - DAY;
    archive.publish(&Release {
        suite: "test",
        date: Some(past),
        valid_until: Some(past),
        ..Release::default()
    });
    let cache = tempfile::tempdir().unwrap();
    let mirror = Mirror::resolve(Some(&url(&archive))).unwrap();
    let board = board(&archive.gpg.public(), &["test"]);
    let e = debian::open(&mirror, &board, cache.path(), true, &quiet())
        .map(|_| ())
        .unwrap_err();
    assert_eq!(e.kind, Kind::Untrusted);
}

#[test]
fn a_mirror_that_goes_back_in_time_is_told_of() {
    let (archive, _) = plain();
    let board = board(&archive.gpg.public(), &["test"]);
    let cache = tempfile::tempdir().unwrap();
    archive.publish_plainly();
    assert!(
        open(&url(&archive), &board, cache.path())
            .unwrap()
            .warnings()
            .is_empty()
    );
    archive.publish(&Release {
        suite: "test",
        date: Some(SystemTime::now() - DAY),
        ..Release::default()
    });
    let opened = open(&url(&archive), &board, cache.path()).unwrap();
    assert!(
        opened.warnings()[0].contains("older"),
        "{:?}",
        opened.warnings()
    );
}

#[test]
fn an_index_that_was_not_signed_for() {
    let (archive, _) = plain();
    archive.publish_plainly();
    let index = archive
        .dir
        .path()
        .join("dists/test/main/binary-amd64/Packages.xz");
    let mut bytes = fs::read(&index).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&index, bytes).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let board = board(&archive.gpg.public(), &["test"]);
    let e = open(&url(&archive), &board, cache.path())
        .map(|_| ())
        .unwrap_err();
    assert_eq!(e.kind, Kind::Untrusted);
    assert!(e.message().contains("SHA-256"), "{e}");
}

#[test]
fn a_component_that_is_not_there() {
    let (archive, text) = plain();
    let signed = archive
        .gpg
        .clearsign(&text.replace("main/", "free/"), &[], None);
    let e = open_with(&archive, &signed, &archive.gpg.public())
        .map(|_| ())
        .unwrap_err();
    assert_eq!(e.kind, Kind::Input);
    assert!(
        e.message().contains("no component `main`") && e.message().contains("free"),
        "{e}"
    );
}
