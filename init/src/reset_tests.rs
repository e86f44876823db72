//! What is forgotten, and that it stays forgotten whenever the power goes.

use super::*;
use std::process::Command;

use crate::data::{inspect, mkfs_arguments};

const SIZE: u64 = 300 << 20;

fn tool(program: &str, args: &[&str], path: &Path) -> Option<i32> {
    let out = Command::new(program).args(args).arg(path).output();
    let out = out.expect("e2fsprogs is needed (ci/setup installs it)");
    out.status.code()
}

const MKE2FS: &str = "/usr/sbin/mke2fs";
const E2FSCK: &str = "/usr/sbin/e2fsck";

fn blank() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(SIZE).unwrap();
    file
}

fn look(file: &tempfile::NamedTempFile, unfinished: bool) -> Found {
    inspect(&mut File::open(file.path()).unwrap(), unfinished).unwrap()
}

/// Labelled as the node API does it, in every superblock.
fn to_be_reset() -> tempfile::NamedTempFile {
    let file = blank();
    let mut args = mkfs_arguments();
    args[9] = LABEL_RESET;
    assert_eq!(tool(MKE2FS, &args, file.path()), Some(0));
    file
}

#[test]
fn a_reset_forgets_and_outlives_power_cuts() {
    let file = to_be_reset();
    let disk = file.as_file();
    let secret = b"an old secret";
    for offset in [SIZE / 3, SIZE - 4096] {
        disk.write_all_at(secret, offset).unwrap();
    }
    assert_eq!(look(&file, false), Found::Reset);
    assert_eq!(look(&file, true), Found::Reset);
    let note = forget(file.path(), &Found::Reset).unwrap();
    assert_eq!(note.as_deref(), Some("reset: old content wiped"));
    for offset in [SIZE / 3, SIZE - 4096] {
        let mut found = [0; 13];
        disk.read_exact_at(&mut found, offset).unwrap();
        assert_eq!(found, [0; 13], "at {offset}");
    }
    // Power is cut before mke2fs: it is still to be reset.
    assert_eq!(look(&file, false), Found::Reset);
    // And after mke2fs has removed the old superblock.
    disk.write_all_at(&[0; 1024], 1024).unwrap();
    assert_eq!(look(&file, false), Found::Empty);
    assert_eq!(tool(MKE2FS, &mkfs_arguments(), file.path()), Some(0));
    assert_eq!(look(&file, false), Found::Empty);
    assert_eq!(tool(E2FSCK, &["-fn"], file.path()), Some(0));
}
