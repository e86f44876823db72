//! The volume on image files: what is decided by it, whatever happens to it. That the kernel
//! opens it, the boot tests show.

use super::*;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};

use crate::data::{Found, inspect, mkfs_arguments};
use crate::reset;

const SIZE: u64 = 300 << 20;

fn blank() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    file
}

/// Not random, and quick.
fn counter() -> impl FnMut(&mut [u8]) -> io::Result<()> {
    let mut n = 1u64;
    move |bytes| {
        for byte in bytes {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = n.to_be_bytes()[0];
        }
        Ok(())
    }
}

fn keys(passphrase: &str) -> Keys {
    Keys {
        wish: Wish::Encrypted(Encrypt::PassphraseFile),
        passphrase: Some(Secret::new(passphrase)),
    }
}

fn create_in<D: Read + Write + Seek>(device: &mut D) -> (Volume, VolumeKey) {
    let wish = Encrypt::PassphraseFile;
    let made = create(device, wish, &keys("open\n"), &mut counter(), |_| Ok(()));
    let (volume, key, by) = made.unwrap();
    assert_eq!(by, "the seed's passphrase");
    (volume, key)
}

/// With its final label, as when it has been mounted.
fn finished() -> (tempfile::NamedTempFile, VolumeKey) {
    let file = blank();
    let (mut volume, key) = create_in(&mut file.as_file());
    volume
        .write(&mut file.as_file(), LABEL, |_| Ok(()))
        .unwrap();
    (file, key)
}

fn look(file: &tempfile::NamedTempFile, unfinished: bool) -> Found {
    inspect(&mut file.as_file(), unfinished).unwrap()
}

fn encrypted(file: &tempfile::NamedTempFile) -> Volume {
    for unfinished in [true, false] {
        let found = look(file, unfinished);
        assert!(matches!(found, Found::Encrypted(_)), "{found:?}");
    }
    match look(file, false) {
        Found::Encrypted(volume) => *volume,
        other => panic!("{other:?}"),
    }
}

fn cryptsetup_opens(file: &tempfile::NamedTempFile, passphrase: &str) -> bool {
    let mut child = Command::new("/usr/sbin/cryptsetup")
        .args(["open", "--test-passphrase", "--batch-mode", "--key-file=-"])
        .arg(file.path())
        .stdin(Stdio::piped())
        .spawn()
        .expect("cryptsetup-bin is needed (ci/setup installs it)");
    let mut input = child.stdin.take().unwrap();
    input.write_all(passphrase.as_bytes()).unwrap();
    drop(input);
    child.wait().unwrap().success()
}

#[test]
fn made_it_is_unfinished_and_finished_it_is_never_made_again() {
    let file = blank();
    let (mut volume, key) = create_in(&mut file.as_file());
    for unfinished in [true, false] {
        assert_eq!(look(&file, unfinished), Found::Empty);
    }
    volume
        .write(&mut file.as_file(), LABEL, |_| Ok(()))
        .unwrap();
    let (opened, by) = unlock(&mut file.as_file(), &encrypted(&file), &keys("open\n")).unwrap();
    assert_eq!((opened, by), (key, "the seed's passphrase"));
    // The line's end is none of the passphrase.
    assert!(cryptsetup_opens(&file, "open"));
}

#[test]
fn a_wrong_or_lost_passphrase_says_so_and_changes_nothing() {
    let (file, _) = finished();
    let before = std::fs::read(file.path()).unwrap();
    let volume = encrypted(&file);
    let none = Keys::default();
    for (keys, said) in [
        (&keys("opens"), "the seed's passphrase: the key opens none"),
        (&keys("\n"), "`passphrase` is empty"),
        (&none, "no file `passphrase`"),
    ] {
        let failure = open(file.path(), volume.clone(), keys).unwrap_err().0;
        let rest = ["Nothing on it was touched", "reset the node"];
        assert!(failure.contains(said), "{failure}");
        assert!(rest.iter().all(|part| failure.contains(part)), "{failure}");
    }
    assert!(std::fs::read(file.path()).unwrap() == before);
}

#[test]
fn a_damaged_header_is_no_reason_to_format() {
    for first in [0, 100, 5000] {
        let (file, _) = finished();
        file.as_file().write_all_at(b"damage", first).unwrap();
        assert!(encrypted(&file).is_half());
        file.as_file()
            .write_all_at(b"damage", (16 << 10) + 100)
            .unwrap();
        let found = look(&file, false);
        let said = |what: &str| what.contains("encrypted volume") && what.contains("damaged");
        assert!(
            matches!(&found, Found::Foreign(what) if said(what)),
            "{found:?}"
        );
    }
    // All of the header and the keys, too: what is behind it isn't nothing.
    let (file, _) = finished();
    file.as_file()
        .write_all_at(b"ciphertext", luks::DATA_OFFSET)
        .unwrap();
    luks::zero(&mut file.as_file(), 0..1 << 20).unwrap();
    assert!(matches!(look(&file, false), Found::Foreign(_)));
}

#[test]
fn others_volumes_are_refused_unless_the_partition_is_new() {
    let (file, _) = finished();
    let mut volume = encrypted(&file);
    volume
        .write(&mut file.as_file(), "home", |_| Ok(()))
        .unwrap();
    let found = look(&file, false);
    assert!(
        matches!(&found, Found::Foreign(what) if what.contains("home")),
        "{found:?}"
    );
    assert_eq!(look(&file, true), Found::Empty);
}

#[test]
fn the_table_is_the_kernels() {
    let (file, key) = finished();
    let volume = encrypted(&file);
    let segment = volume.segment().unwrap();
    let device = Path::new("/dev/vda4");
    // Not a whole number of sectors.
    let table = table(device, SIZE + 1536, segment, &key).unwrap();
    assert_eq!(
        (table.start, table.sectors),
        (0, (SIZE - luks::DATA_OFFSET) / 512)
    );
    assert_eq!(table.kind, "crypt");
    let expected = format!(
        "aes-xts-plain64 {} 0 /dev/vda4 32768 1 sector_size:4096",
        *key.reveal_hex()
    );
    assert_eq!(*table.parameters, expected);
    assert!(!format!("{table:?}").contains(&*key.reveal_hex()));
    assert!(super::table(device, 1 << 20, segment, &key).is_err());
}

#[test]
fn a_reset_destroys_the_keys_and_what_is_made_then_is_what_the_seed_wants() {
    let (file, _) = finished();
    let mut volume = encrypted(&file);
    let last = SIZE - 4096;
    file.as_file().write_all_at(b"ciphertext", last).unwrap();
    volume
        .write(&mut file.as_file(), LABEL_RESET, |_| Ok(()))
        .unwrap();
    let found = look(&file, false);
    assert!(matches!(found, Found::ResetEncrypted(_)), "{found:?}");
    let note = reset::forget(file.path(), &found).unwrap();
    assert_eq!(
        note.as_deref(),
        Some("reset: keys destroyed, old content wiped")
    );
    assert!(!cryptsetup_opens(&file, "open"));
    let mut end = [1; 10];
    file.as_file().read_exact_at(&mut end, last).unwrap();
    assert_eq!(end, [0; 10]);
    // Power is cut: it is still to be reset.
    assert!(matches!(look(&file, false), Found::ResetEncrypted(_)));
    // To be plain from now on.
    forget_volume(file.path()).unwrap();
    assert_eq!(look(&file, false), Found::Empty);
    let mut mke2fs = Command::new("/usr/sbin/mke2fs");
    mke2fs.args(mkfs_arguments()).arg(file.path());
    assert!(mke2fs.status().unwrap().success());
    assert_eq!(look(&file, false), Found::Empty);
    assert!(Volume::find(&mut file.as_file(), 0).unwrap().is_none());
}

/// Keeps what is written to it, in its order.
struct Recorder {
    file: File,
    at: u64,
    writes: Vec<(u64, Vec<u8>)>,
}

impl Read for Recorder {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Recorder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A power cut may come in the midst of it.
        let part = bytes.len().min((bytes.len() / 2).max(2048));
        self.file.write_all_at(&bytes[..part], self.at)?;
        self.writes.push((self.at, bytes[..part].to_vec()));
        self.at += part as u64;
        Ok(part)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Recorder {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::End(_) => SIZE,
            SeekFrom::Current(by) => self.at.saturating_add_signed(by),
        };
        Ok(self.at)
    }
}

/// Runs `act` on a file; then again on a file that `make` makes, one of its writes after the
/// other: what is found after each must let the next boot do it once more.
fn cut_after_each_write(make: impl Fn() -> tempfile::NamedTempFile, act: impl Fn(&mut Recorder)) {
    let file = make();
    let mut recorder = Recorder {
        file: file.reopen().unwrap(),
        at: 0,
        writes: Vec::new(),
    };
    act(&mut recorder);
    let again = make();
    for (n, (at, bytes)) in recorder.writes.iter().enumerate() {
        again.as_file().write_all_at(bytes, *at).unwrap();
        let found = look(&again, false);
        assert!(
            matches!(
                found,
                Found::Empty | Found::Reset | Found::ResetEncrypted(_)
            ),
            "after write {n} at {at}: {found:?}"
        );
    }
    assert!(recorder.writes.len() > 10);
}

fn plain_to_be_reset() -> tempfile::NamedTempFile {
    let file = blank();
    let mut args = mkfs_arguments();
    args[9] = LABEL_RESET;
    let mut mke2fs = Command::new("/usr/sbin/mke2fs");
    assert!(
        mke2fs
            .args(args)
            .arg(file.path())
            .status()
            .unwrap()
            .success()
    );
    reset::forget(file.path(), &Found::Reset).unwrap();
    file
}

fn encrypted_to_be_reset() -> tempfile::NamedTempFile {
    let (file, _) = finished();
    let mut volume = encrypted(&file);
    volume
        .write(&mut file.as_file(), LABEL_RESET, |_| Ok(()))
        .unwrap();
    // What a disk that can't wipe leaves.
    file.as_file()
        .write_all_at(b"ciphertext", luks::DATA_OFFSET)
        .unwrap();
    file
}

#[test]
fn power_cuts_between_plain_and_encrypted_are_made_good() {
    let encrypt = |recorder: &mut Recorder| drop(create_in(recorder));
    cut_after_each_write(plain_to_be_reset, encrypt);
    cut_after_each_write(encrypted_to_be_reset, encrypt);
    let decrypt = |recorder: &mut Recorder| remove(recorder, |_| Ok(())).unwrap();
    cut_after_each_write(encrypted_to_be_reset, decrypt);
    // What was being made plain is to be encrypted after all.
    let half_plain = || {
        let file = encrypted_to_be_reset();
        remove(&mut file.as_file(), |_| Ok(())).unwrap();
        file
    };
    cut_after_each_write(half_plain, encrypt);
}

#[test]
fn nothing_of_a_plain_filesystem_speaks_for_an_encrypted_one() {
    let file = plain_to_be_reset();
    let (mut volume, _) = create_in(&mut file.as_file());
    volume
        .write(&mut file.as_file(), LABEL, |_| Ok(()))
        .unwrap();
    file.as_file().write_all_at(b"damage", 100).unwrap();
    file.as_file()
        .write_all_at(b"damage", (16 << 10) + 100)
        .unwrap();
    assert!(matches!(look(&file, false), Found::Foreign(_)));
}

/// What the node API does, to a node whose volume can't be opened.
#[test]
fn it_can_be_marked_for_a_reset_without_a_key() {
    for damage in [false, true] {
        let (file, _) = finished();
        if damage {
            file.as_file().write_all_at(b"damage", 100).unwrap();
            file.as_file()
                .write_all_at(b"damage", (16 << 10) + 100)
                .unwrap();
        }
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("run/slipway")).unwrap();
        let boot = crate::initrd::Boot {
            data: Some(file.path().into()),
            ..Default::default()
        };
        let at = root.path().join("run/slipway/boot.json");
        std::fs::write(at, serde_json::to_vec(&boot).unwrap()).unwrap();
        reset::mark(root.path()).unwrap();
        let found = look(&file, false);
        let marked = match damage {
            true => found == Found::Empty,
            false => matches!(found, Found::ResetEncrypted(_)),
        };
        assert!(marked, "{found:?}");
    }
}
