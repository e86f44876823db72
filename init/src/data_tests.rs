//! Tests of the decisions about the data partition, on filesystems made by mke2fs.

use super::*;
use slipway_images::seed::Encrypt;
use std::io::Write;
use std::os::unix::fs::FileExt;

const SIZE: u64 = 300 << 20;

fn tool(program: &str, args: &[&str], path: &Path) -> Option<i32> {
    let out = Command::new(program)
        .args(args)
        .arg(path)
        .output()
        .expect("e2fsprogs is needed (ci/setup installs it)");
    out.status.code()
}

fn blank() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    file
}

/// As `prepare` makes it; the kernel's final label, in all superblocks, by a second mke2fs.
fn finished() -> tempfile::NamedTempFile {
    let file = blank();
    let mut args = mkfs_arguments();
    args[9] = LABEL;
    assert_eq!(tool(MKE2FS, &args, file.path()), Some(0));
    file
}

fn look(file: &tempfile::NamedTempFile, unfinished: bool) -> Found {
    inspect(&mut File::open(file.path()).unwrap(), unfinished).unwrap()
}

#[test]
fn blank_half_made_and_finished() {
    let file = blank();
    assert_eq!(look(&file, true), Found::Empty);
    assert_eq!(look(&file, false), Found::Empty);
    assert_eq!(tool(MKE2FS, &mkfs_arguments(), file.path()), Some(0));
    assert_eq!(look(&file, true), Found::Empty);
    assert_eq!(look(&file, false), Found::Empty);
    assert_eq!(look(&finished(), true), Found::Ours { clean: true });
    assert_eq!(look(&finished(), false), Found::Ours { clean: true });
}

#[test]
fn mke2fs_cut_off_before_its_superblock() {
    // Descriptors are there, no superblock: only the partition's mark can tell.
    let file = blank();
    assert_eq!(tool(MKE2FS, &mkfs_arguments(), file.path()), Some(0));
    let disk = file.as_file();
    disk.write_all_at(&[0; 1024], 1024).unwrap();
    for offset in backup_offsets().filter(|o| *o < SIZE) {
        disk.write_all_at(&[0; 1024], offset).unwrap();
    }
    assert_eq!(look(&file, true), Found::Empty);
    assert!(matches!(look(&file, false), Found::Foreign(_)));
}

#[test]
fn a_damaged_filesystem_is_mended_and_never_formatted() {
    let file = finished();
    file.as_file().write_all_at(&[0xff; 1024], 1024).unwrap();
    let Found::Damaged { copy } = look(&file, false) else {
        panic!("{:?}", look(&file, false));
    };
    let arguments = fsck_arguments(Some(copy));
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let code = tool(E2FSCK, &arguments, file.path());
    assert_eq!(fsck_verdict(code), Checked::Good, "{code:?}");
    assert_eq!(look(&file, false), Found::Ours { clean: true });
    // And with the first MiB gone altogether.
    file.as_file().write_all_at(&vec![0; 1 << 20], 0).unwrap();
    assert_eq!(look(&file, false), Found::Damaged { copy: 32768 });
}

#[test]
fn dirty_is_checked() {
    let file = finished();
    let mut state = [0; 2];
    file.as_file()
        .read_exact_at(&mut state, 1024 + 0x3A)
        .unwrap();
    file.as_file()
        .write_all_at(&[state[0] | 2, state[1]], 1024 + 0x3A)
        .unwrap();
    assert_eq!(look(&file, false), Found::Ours { clean: false });
}

#[test]
fn others_are_refused() {
    let file = blank();
    assert_eq!(
        tool(
            MKE2FS,
            &["-q", "-F", "-t", "ext4", "-L", "home"],
            file.path()
        ),
        Some(0)
    );
    assert!(matches!(look(&file, false), Found::Foreign(what) if what.contains("home")));
    let mut luks = blank();
    luks.write_all(b"LUKS\xba\xbe").unwrap();
    assert!(matches!(look(&luks, false), Found::Foreign(_)));
    assert_eq!(look(&luks, true), Found::Empty);
    let far = blank();
    far.as_file()
        .write_all_at(b"what was encrypted", DATA_OFFSET + 5000)
        .unwrap();
    assert!(matches!(look(&far, false), Found::Foreign(_)));
}

#[test]
fn exit_codes() {
    for (code, verdict) in [
        (Some(0), Checked::Good),
        (Some(1), Checked::Good),
        (Some(2), Checked::Good),
        (Some(3), Checked::Good),
        (Some(4), Checked::Uncorrected),
        (Some(5), Checked::Uncorrected),
        (Some(8), Checked::Failed),
        (Some(12), Checked::Failed),
        (Some(32), Checked::Failed),
        (None, Checked::Failed),
    ] {
        assert_eq!(fsck_verdict(code), verdict, "{code:?}");
    }
}

fn prepared(device: &Path, unfinished: bool, keys: &Keys) -> Failure {
    let nowhere = Path::new("/nonexistent");
    prepare(&Reaper::default(), device, nowhere, unfinished, keys).unwrap_err()
}

fn hash(file: &tempfile::NamedTempFile) -> Vec<u8> {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(fs::read(file.path()).unwrap()).to_vec()
}

/// What is there, or may be wanted otherwise, isn't touched; the last line says what to do.
#[test]
fn what_the_seed_wants_otherwise_is_left_as_it_is() {
    let wants = |wish| Keys {
        wish,
        passphrase: None,
    };
    let encrypted = wants(Wish::Encrypted(Encrypt::PassphraseFile));
    for (file, keys, said) in [
        (finished(), &encrypted, "in the clear"),
        (blank(), &encrypted, "no file `passphrase`"),
        (blank(), &wants(Wish::Unknown), "the seed"),
    ] {
        let before = hash(&file);
        for unfinished in [true, false] {
            let failure = prepared(file.path(), unfinished, keys).0;
            assert!(failure.contains(said), "{said}: {failure}");
        }
        assert_eq!(hash(&file), before, "{said}");
    }
}
