//! The format against the tool that owns it, and against damage.

use super::*;
use proptest::prelude::*;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

const MEMORY: u64 = 1 << 30;
const SIZE: u64 = 20 << 20;
const COPY: u64 = SIZES[0];

fn cryptsetup(args: &[&str], device: &Path, passphrase: &[u8]) -> Output {
    let mut child = Command::new("/usr/sbin/cryptsetup")
        .args(args)
        .args(["--batch-mode", "--key-file", "-"])
        .arg(device)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("cryptsetup-bin is needed (ci/setup installs it)");
    child.stdin.take().unwrap().write_all(passphrase).unwrap();
    child.wait_with_output().unwrap()
}

fn opens(device: &Path, passphrase: &[u8]) -> bool {
    let out = cryptsetup(&["open", "--test-passphrase"], device, passphrase);
    // 2: no key opens it.
    assert!([Some(0), Some(2)].contains(&out.status.code()), "{out:?}");
    out.status.success()
}

fn blank() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    file
}

/// Not random, and another each time.
fn counter() -> impl FnMut(&mut [u8]) -> io::Result<()> {
    let mut n = 0u64;
    move |bytes| {
        for byte in bytes {
            n = n
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (n >> 56) as u8;
        }
        Ok(())
    }
}

const WISH: Wish<'static> = Wish {
    label: "a-label",
    subsystem: "slipway",
    sector_size: 4096,
};

fn made(passphrase: &[u8], strength: Strength) -> (tempfile::NamedTempFile, VolumeKey) {
    let file = blank();
    let key = NewKey {
        passphrase,
        strength,
        token: None,
    };
    let mut device = file.as_file();
    let made = format(&mut device, WISH, &[key], &mut counter(), |f| f.sync_all());
    (file, made.unwrap().1)
}

fn find(file: &tempfile::NamedTempFile) -> Result<Option<Volume>, LuksError> {
    Volume::find(&mut file.as_file(), 0)
}

fn found(file: &tempfile::NamedTempFile) -> Volume {
    find(file).unwrap().unwrap()
}

#[test]
fn what_we_write_cryptsetup_opens() {
    let token = serde_json::json!({"type": "slipway-test", "x": 1});
    let file = blank();
    let key = |passphrase, strength| NewKey {
        passphrase,
        strength,
        token: token.as_object(),
    };
    let keys = [
        key(b"chosen", Strength::Chosen),
        key(b"random", Strength::Random),
    ];
    let mut device = file.as_file();
    let made = format(&mut device, WISH, &keys, &mut counter(), |f| f.sync_all());
    let (_, key) = made.unwrap();
    assert!(opens(file.path(), b"chosen") && opens(file.path(), b"random"));
    assert!(!opens(file.path(), b"other"));
    let out = cryptsetup(&["luksDump"], file.path(), b"");
    let text = String::from_utf8(out.stdout).unwrap();
    for line in [
        "Label:         \ta-label",
        "Subsystem:     \tslipway",
        "cipher: aes-xts-plain64",
        "sector: 4096",
        "argon2id",
        "slipway-test",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    // The key itself, not only a keyslot that opens.
    let out = cryptsetup(&["luksDump", "--dump-volume-key"], file.path(), b"chosen");
    let text = String::from_utf8(out.stdout).unwrap();
    let (_, dumped) = text.split_once("MK dump:").unwrap();
    let dumped: String = dumped.split_whitespace().collect();
    assert_eq!(dumped, *key.reveal_hex());
    assert_eq!(found(&file).tokens().next().unwrap()["keyslots"][0], "0");
}

#[test]
fn what_cryptsetup_writes_we_open() {
    let pbkdf = |kind, more: [&'static str; 2]| {
        let args = ["luksFormat", "--type", "luks2", "--pbkdf", kind];
        [&args[..], &more].concat()
    };
    let argon = ["--pbkdf-memory=8192", "--pbkdf-parallel=2"];
    for (mut args, sector) in [
        (pbkdf("argon2id", argon), 512),
        (pbkdf("argon2i", argon), 4096),
        (pbkdf("pbkdf2", ["--hash=sha512", "--key-size=256"]), 4096),
        (
            pbkdf("pbkdf2", ["--hash=sha256", "--luks2-metadata-size=64k"]),
            512,
        ),
    ] {
        let file = blank();
        let of_sector = format!("--sector-size={sector}");
        let iterations = match args[4] {
            "pbkdf2" => "--pbkdf-force-iterations=1000",
            _ => "--pbkdf-force-iterations=4",
        };
        args.extend([&of_sector, iterations]);
        let out = cryptsetup(&args, file.path(), b"a passphrase\n\0 with all");
        assert!(out.status.success(), "{args:?}: {out:?}");
        let volume = found(&file);
        assert!(!volume.is_half(), "{args:?}");
        let segment = volume.segment().unwrap();
        assert_eq!(segment.sector_size, sector);
        assert_eq!(
            (segment.encryption.as_str(), segment.iv_tweak),
            ("aes-xts-plain64", 0)
        );
        assert_eq!(segment.size_on(SIZE), Some(SIZE - segment.offset));
        let unlock = |passphrase| volume.unlock(&mut file.as_file(), passphrase, MEMORY);
        unlock(b"a passphrase\n\0 with all").unwrap();
        assert!(matches!(unlock(b"a passphrase"), Err(LuksError::WrongKey)));
    }
}

#[test]
fn one_damaged_copy_is_mended_and_two_are_an_error() {
    let (file, key) = made(b"x", Strength::Random);
    let good = found(&file);
    assert!(!good.is_half());
    let unlocked = |volume: &Volume| volume.unlock(&mut file.as_file(), b"x", MEMORY).unwrap();
    for place in [0, 100, 5000, COPY, COPY + 30, COPY + 4200] {
        file.as_file().write_all_at(b"damage", place).unwrap();
        let mut volume = found(&file);
        assert!(volume.is_half(), "at {place}");
        assert_eq!(unlocked(&volume), key);
        let label = volume.label().to_owned();
        volume
            .write(&mut file.as_file(), &label, |f| f.sync_all())
            .unwrap();
        assert_eq!(found(&file), volume);
        assert!(opens(file.path(), b"x"), "at {place}");
    }
    for (first, second) in [(100, COPY + 100), (5000, COPY + 5000), (0, COPY + 8)] {
        let (file, _) = made(b"x", Strength::Random);
        file.as_file().write_all_at(b"damage", first).unwrap();
        file.as_file().write_all_at(b"damage", second).unwrap();
        let error = find(&file).unwrap_err();
        assert!(matches!(error, LuksError::Damaged(_)), "{error}");
    }
}

/// Power is cut when any number of a change's writes are done, and in the midst of one.
#[test]
fn a_label_changes_or_stays() {
    let (file, _) = made(b"x", Strength::Random);
    let mut changed = found(&file);
    let mut device = io::Cursor::new(std::fs::read(file.path()).unwrap());
    let before = device.get_ref().clone();
    changed.write(&mut device, "another", |_| Ok(())).unwrap();
    let after = device.into_inner();
    let (copy, both) = (COPY as usize, 2 * COPY as usize);
    let mut labels = Vec::new();
    for cut in (0..both).step_by(509).chain([copy, both]) {
        // The second copy is written before the first.
        let mut torn = before.clone();
        let written = (copy..both).chain(0..copy).take(cut);
        written.for_each(|at| torn[at] = after[at]);
        let found = Volume::find(&mut io::Cursor::new(torn), 0).unwrap();
        labels.push((cut, found.unwrap().label().to_owned()));
    }
    labels.sort();
    let first_new = labels.partition_point(|(_, label)| label == "a-label");
    let (old, new) = labels.split_at(first_new);
    assert!(
        !old.is_empty() && new.iter().all(|(_, label)| label == "another"),
        "{labels:?}"
    );
    assert!(new[0].0 <= copy, "{labels:?}");
    let volume = Volume::find(&mut io::Cursor::new(after), 0)
        .unwrap()
        .unwrap();
    assert_eq!((volume.label(), volume.is_half()), ("another", false));
}

#[test]
fn destroyed_keys_open_nothing() {
    let (file, _) = made(b"x", Strength::Random);
    let volume = found(&file);
    volume
        .destroy_keys(&mut file.as_file(), |f| f.sync_all())
        .unwrap();
    assert!(!opens(file.path(), b"x"));
    let refused = volume.unlock(&mut file.as_file(), b"x", MEMORY);
    assert!(matches!(refused, Err(LuksError::WrongKey)));
}

#[test]
fn others_are_not_taken_for_ours() {
    let file = blank();
    assert!(find(&file).unwrap().is_none());
    assert!(
        Volume::find(&mut io::Cursor::new(vec![0; 100]), 0)
            .unwrap()
            .is_none()
    );
    let out = cryptsetup(
        &[
            "luksFormat",
            "--type",
            "luks1",
            "--pbkdf-force-iterations=1000",
        ],
        file.path(),
        b"x",
    );
    assert!(out.status.success(), "{out:?}");
    let error = find(&file).unwrap_err();
    assert!(error.to_string().contains("version 1 of LUKS"), "{error}");
}

#[test]
fn a_keyslot_that_takes_too_much_memory_is_an_error_of_its_own() {
    let (file, _) = made(b"x", Strength::Chosen);
    let refused = found(&file).unlock(&mut file.as_file(), b"x", 10 << 20);
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("64 MiB"), "{error}");
}

#[test]
fn too_small_a_device_is_left_alone() {
    let mut device = io::Cursor::new(vec![7; 1 << 20]);
    let key = NewKey {
        passphrase: b"x",
        strength: Strength::Random,
        token: None,
    };
    let made = format(&mut device, WISH, &[key], &mut counter(), |_| Ok(()));
    assert!(matches!(made, Err(LuksError::NoRoom)));
    assert!(device.get_ref().iter().all(|byte| *byte == 7));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// With its checksums put right, so that the text's reader sees the damage.
    #[test]
    fn no_header_makes_it_panic(
        changes in prop::collection::vec((0usize..1200, any::<u8>()), 1..12),
        truncated in prop::option::of(0usize..(40 << 10)),
        text in prop::option::of("[\\{\\}\"a-z0-9:,]{0,200}"),
    ) {
        let (file, _) = made(b"x", Strength::Random);
        let mut volume = found(&file);
        for (at, byte) in changes {
            let length = volume.copy.text.len();
            volume.copy.text[at % length] = byte;
        }
        if let Some(text) = text {
            volume.copy.text = text.into_bytes();
        }
        let mut bytes = std::fs::read(file.path()).unwrap();
        let copy = volume.copy.bytes(Which::First).unwrap();
        bytes[..copy.len()].copy_from_slice(&copy);
        bytes[COPY as usize..2 * COPY as usize].fill(0);
        bytes.truncate(truncated.unwrap_or(bytes.len()));
        let mut device = io::Cursor::new(bytes);
        if let Ok(Some(volume)) = Volume::find(&mut device, 0)
            // Iterations that a flipped digit makes are no panic, but take their time.
            && !String::from_utf8_lossy(&volume.copy.text).contains("argon")
            && volume.metadata.digests.values().all(|digest| match digest {
                Digest::Pbkdf2(digest) => digest.iterations < 100_000,
                Digest::Other => true,
            })
        {
            drop(volume.unlock(&mut device, b"x", MEMORY));
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        let mut bytes = bytes;
        drop(Volume::find(&mut io::Cursor::new(&bytes), 0));
        let magic = bytes.len().min(8);
        bytes[..magic].copy_from_slice(&b"LUKS\xba\xbe\x00\x02"[..magic]);
        drop(Volume::find(&mut io::Cursor::new(&bytes), 0));
    }
}
