//! `slipway keys new`, and a boot partition that is sealed with its keys.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use slipway::formats::efi_variable::Authenticated;
use slipway::keys::read_certificate;
use slipway::secure_boot::{Enroll, SecureBoot};
use slipway::tree::Tree;

use super::programs::{loader, unified};
use super::{KEYS, run, slipway, str};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn openssl_finds_keys_and_certificates_sound() {
    assert_eq!(mode(&KEYS.dir("mine")), 0o700);
    for (name, subject) in [
        ("PK", "Test platform key"),
        ("KEK", "Test key exchange key"),
        ("db", "Test signature key"),
    ] {
        let at = |suffix: &str| KEYS.path("mine", &format!("{name}.{suffix}"));
        assert_eq!(mode(&at("key")), 0o600);
        let (key, crt, der) = (at("key"), at("crt"), at("der"));
        let checked = run("openssl", &["pkey", "-in", str(&key), "-check", "-noout"]);
        assert!(checked.contains("Key is valid"), "{checked}");
        let text = run("openssl", &["x509", "-in", str(&crt), "-noout", "-text"]);
        for word in [
            "Version: 3",
            "sha256WithRSAEncryption",
            "(2048 bit)",
            subject,
            "Digital Signature",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let verify = ["verify", "-check_ss_sig", "-CAfile", str(&crt), str(&crt)];
        run("openssl", &verify);
        let shown = run(
            "openssl",
            &[
                "x509",
                "-in",
                str(&der),
                "-noout",
                "-fingerprint",
                "-sha256",
            ],
        );
        let shown = shown
            .trim()
            .rsplit('=')
            .next()
            .unwrap()
            .replace(':', "")
            .to_lowercase();
        assert_eq!(shown, read_certificate(&crt).unwrap().fingerprint());
    }
    assert_eq!(mode(&KEYS.path("mine", "update.key")), 0o600);
    assert_eq!(mode(&KEYS.path("mine", "update.pub")), 0o644);
}

#[test]
fn keys_are_never_written_over() {
    let before = fs::read(KEYS.path("mine", "db.key")).unwrap();
    let (done, said) = slipway(&["keys", "new", str(&KEYS.dir("mine"))]);
    assert!(!done && said.contains("is there already"), "{said}");
    assert_eq!(fs::read(KEYS.path("mine", "db.key")).unwrap(), before);
    let (done, said) = slipway(&["keys", "new", "/nowhere", "--name", ""]);
    assert!(!done && said.contains("no name for keys"), "{said}");
}

#[test]
fn firmware_can_be_told_to_trust_others_too() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("keys");
    let trusted = KEYS.path("mine", "db.der");
    let (done, said) = slipway(&["keys", "new", str(&dir), "--trust", str(&trusted)]);
    assert!(done, "{said}");
    let file = fs::read(dir.join("db.auth")).unwrap();
    let read = Authenticated::parse(&file).unwrap();
    let own = read_certificate(&dir.join("db.crt")).unwrap();
    let theirs = KEYS.certificate("mine", "db");
    assert_eq!(read.certificates().unwrap(), [own.der(), theirs.der()]);
    assert!(said.contains(&own.fingerprint()), "{said}");
    // Nothing else is left beside it.
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 1);
    let key = KEYS.path("mine", "db.key");
    let no = scratch.path().join("no");
    let (done, said) = slipway(&["keys", "new", str(&no), "--trust", str(&key)]);
    assert!(
        !done && said.contains("no certificate") && !no.exists(),
        "{said}"
    );
}

fn esp() -> Tree {
    let mut esp = Tree::new();
    esp.file("EFI/BOOT/BOOTX64.EFI", 0o644, loader()).unwrap();
    esp.file("EFI/Linux/slipway-1-a.efi", 0o644, unified())
        .unwrap();
    esp.file("EFI/Linux/slipway.slots", 0o644, vec![0; 8192])
        .unwrap();
    esp.file("loader/loader.conf", 0o644, "timeout 0\n")
        .unwrap();
    esp
}

#[test]
fn a_boot_partition_is_sealed_and_holds_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    let keys = SecureBoot::load(&KEYS.dir("mine"), Enroll::IfSafe).unwrap();
    let mut sealed = esp();
    keys.seal(&mut sealed).unwrap();
    let content = |path: &str| sealed.content(path).unwrap().read().unwrap();
    for path in ["EFI/BOOT/BOOTX64.EFI", "EFI/Linux/slipway-1-a.efi"] {
        let program = dir.path().join("program");
        fs::write(&program, content(path)).unwrap();
        let crt = KEYS.path("mine", "db.crt");
        run("sbverify", &["--cert", str(&crt), str(&program)]);
    }
    assert_eq!(*content("EFI/Linux/slipway.slots"), [0; 8192]);
    assert_eq!(
        *content("loader/loader.conf"),
        *b"timeout 0\nsecure-boot-enroll if-safe\n"
    );
    for name in ["PK", "KEK", "db"] {
        let file = fs::read(KEYS.path("mine", &format!("{name}.auth"))).unwrap();
        assert_eq!(*content(&format!("loader/keys/auto/{name}.auth")), *file);
        // Neither a key's text nor the numbers in it.
        let key = fs::read_to_string(KEYS.path("mine", &format!("{name}.key"))).unwrap();
        let line = key.lines().nth(3).unwrap().as_bytes();
        for (path, _) in sealed.iter().filter(|(path, _)| path.contains('.')) {
            let bytes = content(path);
            assert!(!bytes.windows(line.len()).any(|w| w == line), "{path}");
            assert!(!bytes.windows(11).any(|w| w == b"PRIVATE KEY"), "{path}");
        }
    }
    let signer = serde_json::to_value(keys.signer()).unwrap();
    assert_eq!(
        signer["certificate"],
        KEYS.certificate("mine", "db").fingerprint()
    );
    assert_eq!(signer["subject"], "CN=Test signature key");
    assert_eq!(signer["enroll"], "if-safe");
    assert!(!format!("{keys:?}").contains("key: "), "{keys:?}");
}

#[test]
fn keys_off_the_boot_partition_sign_all_the_same() {
    let keys = SecureBoot::load(&KEYS.dir("mine"), Enroll::Off).unwrap();
    let mut sealed = esp();
    keys.seal(&mut sealed).unwrap();
    assert!(sealed.below("loader/keys").next().is_none());
}

/// Firmware that trusts a key by which nothing is signed starts nothing any more.
#[test]
fn files_that_do_not_belong_together_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let copy = || {
        for entry in fs::read_dir(KEYS.dir("mine")).unwrap() {
            let from = entry.unwrap().path();
            fs::copy(&from, dir.join(from.file_name().unwrap())).unwrap();
        }
    };
    let load = || SecureBoot::load(dir, Enroll::Force).map(drop);
    copy();
    // These may be elsewhere.
    for key in ["PK.key", "KEK.key", "update.key"] {
        fs::remove_file(dir.join(key)).unwrap();
    }
    load().unwrap();
    for (file, why) in [
        ("db.key", "not the key of CN=Test"),
        ("db.crt", "not the key of CN=Another"),
        ("db.auth", "not signed by CN=Test"),
        ("KEK.auth", "not signed by CN=Test"),
        ("PK.auth", "not signed by CN=Test"),
        ("KEK.crt", "isn't in it"),
        ("PK.crt", "not signed by CN=Another"),
    ] {
        copy();
        fs::copy(KEYS.path("others", file), dir.join(file)).unwrap();
        let error = load().unwrap_err();
        assert_eq!(error.kind, slipway::Kind::Input, "{file}: {error}");
        assert!(error.message().contains(why), "{file}: {error}");
        let text = fs::read(dir.join(file)).unwrap();
        for damage in [&text[..text.len() / 2], &b""[..]] {
            fs::write(dir.join(file), damage).unwrap();
            let error = load().unwrap_err();
            assert_eq!(error.kind, slipway::Kind::Input, "{file}: {error}");
        }
    }
    copy();
    fs::copy(KEYS.path("others", "db.crt"), dir.join("db.crt")).unwrap();
    fs::copy(KEYS.path("others", "db.key"), dir.join("db.key")).unwrap();
    let error = load().unwrap_err();
    assert!(error.message().contains("isn't in it"), "{error}");
    fs::remove_file(dir.join("db.key")).unwrap();
    let error = load().unwrap_err();
    assert!(
        error.advice().unwrap().contains("slipway keys new"),
        "{error}"
    );
}
