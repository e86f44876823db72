//! The partition table, against `sgdisk`, against the `gpt` crate and against power cuts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

use std::fs::{self, File};
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use slipway_images::layout::{
    Bytes, DATA, ESP, FIRMWARE, Found, LayoutError, Sectors, Sizes, Slot, TYPE_VAR, grow, read,
    share_first, write,
};

const GIB: u64 = 1 << 30;

fn sectors(bytes: u64) -> Sectors {
    Bytes::new(bytes).sectors().unwrap()
}

/// Where U-Boot starts, behind what the board's ROM reads.
const U_BOOT: Sizes = Sizes {
    start: Bytes::mib(4),
    esp: Bytes::mib(64),
    boot: Some(Bytes::mib(64)),
    ..Sizes::X86_64
};

/// A sparse file of `size` bytes with the shipped table at its start, as `dd` leaves it.
fn flashed(dir: &Path, size: u64) -> File {
    flashed_with(&Sizes::X86_64, dir, size)
}

fn flashed_with(sizes: &Sizes, dir: &Path, size: u64) -> File {
    let table = sizes.shipped(b"seed").unwrap();
    let image = table.disk.bytes().unwrap().get();
    let file = open(&dir.join("disk.img"));
    file.set_len(image).unwrap();
    write(&mut &file, &table, |_| Ok(())).unwrap();
    file.set_len(size.max(image)).unwrap();
    file
}

fn open(path: &Path) -> File {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
}

fn grown(file: &File) -> Result<Option<slipway_images::layout::Table>, LayoutError> {
    let size = sectors(file.metadata().unwrap().len());
    grow(&read(&mut &*file, size)?, b"machine")
}

fn sgdisk(path: &Path) -> String {
    let out = Command::new("sgdisk")
        .args(["-v", "-p"])
        .arg(path)
        .output()
        .expect("sgdisk is needed: apt install gdisk");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success() && text.contains("No problems found"),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
    text
}

#[test]
fn a_shipped_image_is_clean_and_follows_from_its_seed() {
    let dir = tempfile::tempdir().unwrap();
    let file = flashed(dir.path(), 0);
    let shown = sgdisk(&dir.path().join("disk.img"));
    assert!(shown.contains("root-a") && !shown.contains("root-b"));
    let found = read(&mut &file, sectors(file.metadata().unwrap().len())).unwrap();
    assert!(!found.needs_repair);
    assert_eq!(found.table, Sizes::X86_64.shipped(b"seed").unwrap());
    assert_ne!(
        found.table.disk_guid,
        Sizes::X86_64.shipped(b"other").unwrap().disk_guid
    );
    assert_eq!(found.table.number(Slot::A.root()), Some(2));
    assert_eq!(found.table.partition(ESP).unwrap().offset(), Bytes::mib(1));
}

#[test]
fn with_u_boot_a_slot_has_a_boot_area_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = flashed_with(&U_BOOT, dir.path(), 8 * GIB);
    let table = grown(&file).unwrap().unwrap();
    write(&mut &file, &table, |f| f.sync_all()).unwrap();
    let names: Vec<&str> = table.partitions.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(
        names,
        [FIRMWARE, "boot-a", "root-a", "boot-b", "root-b", DATA]
    );
    // The script on the firmware partition names them by number.
    assert_eq!(table.number(Slot::A.boot()), Some(2));
    assert_eq!(table.number(Slot::B.boot()), Some(4));
    let part = |name: &str| table.partition(name).unwrap();
    assert_eq!(part(FIRMWARE).offset(), Bytes::mib(4));
    for (a, b) in [("boot-a", "boot-b"), ("root-a", "root-b")] {
        assert_eq!(part(a).len, part(b).len);
        assert_eq!(part(a).type_guid, part(b).type_guid);
        assert_ne!(part(a).guid, part(b).guid);
    }
    assert_eq!(grown(&file).unwrap(), None);
    sgdisk(&dir.path().join("disk.img"));

    // A cut that left the first of them alone.
    let mut some = table.clone();
    some.partitions.truncate(4);
    write(&mut &file, &some, |f| f.sync_all()).unwrap();
    assert_eq!(grown(&file).unwrap(), Some(table.clone()));
    some.partitions.truncate(2);
    write(&mut &file, &some, |f| f.sync_all()).unwrap();
    let half = grown(&file).unwrap_err();
    assert!(
        half.to_string().contains("`root-a` are not all there"),
        "{half}"
    );
}

#[test]
fn what_a_hybrid_mbr_shares_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    let file = flashed_with(&U_BOOT, dir.path(), 8 * GIB);
    let shipped = U_BOOT.shipped(b"seed").unwrap();
    share_first(&mut &file, &shipped).unwrap();
    write(&mut &file, &shipped, |_| Ok(())).unwrap();
    let table = grown(&file).unwrap().unwrap();
    write(&mut &file, &table, |f| f.sync_all()).unwrap();
    let shown = sgdisk(&path);
    assert!(shown.contains("firmware"), "{shown}");
    // As a ROM reads it that knows no GPT.
    let out = Command::new("sfdisk")
        .args(["--label-nested", "dos", "-d"])
        .arg(&path)
        .output();
    let text = String::from_utf8_lossy(&out.unwrap().stdout).into_owned();
    let line = |n: usize| {
        text.lines()
            .filter(|l| l.contains("start="))
            .nth(n)
            .unwrap()
    };
    let words = |n| line(n).split_whitespace().collect::<String>();
    assert!(words(0).contains("start=8192,size=131072,type=c"), "{text}");
    assert!(words(1).contains("start=1,size=8191,type=ee"), "{text}");

    // Another first partition isn't shared by itself.
    let other = Sizes::X86_64.shipped(b"seed").unwrap();
    write(&mut &file, &other, |_| Ok(())).unwrap();
    let mut sector = [0; 512];
    (&file).seek(SeekFrom::Start(0)).unwrap();
    (&file).read_exact(&mut sector).unwrap();
    assert_eq!(sector[450], 0xee);
    assert_eq!(sector[466], 0);
}

#[test]
fn the_gpt_crate_reads_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let file = flashed(dir.path(), 8 * GIB);
    let table = grown(&file).unwrap().unwrap();
    write(&mut &file, &table, |f| f.sync_all()).unwrap();
    let disk = gpt::GptConfig::new()
        .only_valid_headers(true)
        .open(dir.path().join("disk.img"))
        .unwrap();
    assert_eq!(*disk.guid(), table.disk_guid);
    assert_eq!(disk.partitions().len(), 4);
    for (theirs, ours) in disk.partitions().values().zip(&table.partitions) {
        assert_eq!(theirs.name, ours.name);
        assert_eq!(theirs.part_guid, ours.guid);
        assert_eq!(theirs.part_type_guid.guid, ours.type_guid);
        assert_eq!(theirs.first_lba, ours.first.get());
        assert_eq!(theirs.last_lba, ours.end().get() - 1);
    }
}

#[test]
fn growing_is_complete_clean_idempotent_and_follows_a_larger_disk() {
    let dir = tempfile::tempdir().unwrap();
    let file = flashed(dir.path(), 8 * GIB);
    let table = grown(&file).unwrap().unwrap();
    write(&mut &file, &table, |f| f.sync_all()).unwrap();
    sgdisk(&dir.path().join("disk.img"));
    let (a, b, data) = (
        table.partition("root-a").unwrap(),
        table.partition("root-b").unwrap(),
        table.partition(DATA).unwrap(),
    );
    assert_eq!((a.len, a.type_guid), (b.len, b.type_guid));
    assert_eq!(data.type_guid, TYPE_VAR);
    assert!(data.end().bytes().unwrap().get() > 8 * GIB - (2 << 20));
    assert_eq!(grown(&file).unwrap(), None);

    file.set_len(10 * GIB).unwrap();
    let larger = grown(&file).unwrap().unwrap();
    assert_eq!(larger.partition(DATA).unwrap().guid, data.guid);
    assert_eq!(larger.partition(DATA).unwrap().first, data.first);
    write(&mut &file, &larger, |f| f.sync_all()).unwrap();
    sgdisk(&dir.path().join("disk.img"));
    assert_eq!(grown(&file).unwrap(), None);
}

#[test]
fn foreign_small_and_empty_disks_are_refused_each_in_its_way() {
    let dir = tempfile::tempdir().unwrap();
    let file = flashed(dir.path(), 2 * GIB);
    let error = grown(&file).unwrap_err();
    assert!(matches!(error, LayoutError::TooSmall { .. }), "{error}");
    assert!(error.to_string().contains("2690 MiB"), "{error}");

    let mut found = read(&mut &file, sectors(2 * GIB)).unwrap();
    found.table.partitions[1].name = "Microsoft reserved".into();
    assert!(matches!(
        grow(&found, b""),
        Err(LayoutError::Foreign { number: 2, .. })
    ));
    found.table.partitions.truncate(1);
    assert!(matches!(grow(&found, b""), Err(LayoutError::Corrupt(_))));

    let mut empty = Cursor::new(vec![0; 1 << 20]);
    assert!(matches!(
        read(&mut empty, sectors(1 << 20)),
        Err(LayoutError::Absent)
    ));
    assert!(matches!(
        read(&mut Cursor::new(vec![0; 512]), Sectors::new(1)),
        Err(LayoutError::Absent)
    ));
    let short = read(&mut Cursor::new(vec![0; 512]), Sectors::new(4096));
    assert!(matches!(short, Err(LayoutError::Io { .. })));
}

#[test]
fn one_broken_copy_is_repaired_and_two_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = flashed(dir.path(), 0);
    let size = file.metadata().unwrap().len();
    let break_at = |file: &mut File, at: u64| {
        let mut byte = [0];
        file.seek(SeekFrom::Start(at)).unwrap();
        file.read_exact(&mut byte).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&[!byte[0]]).unwrap();
    };
    break_at(&mut file, 1024 + 40);
    let found = read(&mut file, sectors(size)).unwrap();
    assert!(found.needs_repair);
    write(&mut file, &found.table, |f| f.sync_all()).unwrap();
    sgdisk(&dir.path().join("disk.img"));
    break_at(&mut file, 1024 + 40);
    break_at(&mut file, size - 512 + 60);
    let error = read(&mut file, sectors(size)).unwrap_err();
    assert!(matches!(error, LayoutError::Corrupt(_)), "{error}");
}

#[test]
fn boot_code_in_front_of_the_table_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = flashed(dir.path(), 8 * GIB);
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&[0xeb; 440]).unwrap();
    let table = grown(&file).unwrap().unwrap();
    write(&mut file, &table, |f| f.sync_all()).unwrap();
    let mut mbr = [0; 512];
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_exact(&mut mbr).unwrap();
    assert_eq!(mbr[..440], [0xeb; 440]);
    assert_eq!(mbr[450], 0xee);
}

/// A disk that dies after so many bytes have been written.
struct Dying<'a> {
    file: &'a File,
    left: usize,
}

impl Read for Dying<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

impl Seek for Dying<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Write for Dying<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(self.left);
        if n == 0 {
            return Err(io::Error::other("power cut"));
        }
        self.left -= n;
        self.file.write(&buf[..n])
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_power_cut_at_any_moment_of_growing_leaves_a_disk_that_grows_at_the_next_boot() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.img");
    for left in (0..34 * 1024).step_by(512) {
        let file = flashed(dir.path(), 8 * GIB);
        let table = grown(&file).unwrap().unwrap();
        let mut dying = Dying { file: &file, left };
        let written = write(&mut dying, &table, |_| Ok(()));
        let again = grown(&file).unwrap();
        if written.is_err() {
            let again = again.unwrap_or_else(|| table.clone());
            assert_eq!(again, table, "after {left} bytes");
            write(&mut &file, &again, |f| f.sync_all()).unwrap();
        }
        assert_eq!(grown(&file).unwrap(), None, "after {left} bytes");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn tables_that_make_no_sense_are_not_written() {
    let table = Sizes::X86_64.shipped(b"").unwrap();
    let mut disk = Cursor::new(Vec::new());
    let mut refused = |table| {
        let result = write(&mut disk, &table, |_| Ok(()));
        assert!(
            matches!(result, Err(LayoutError::Unsupported(_))),
            "{result:?}"
        );
    };
    let mut overlapping = table.clone();
    overlapping.partitions[1].first = Sectors::new(4096);
    refused(overlapping);
    let mut outside = table.clone();
    outside.disk = Sectors::new(10_000);
    refused(outside);
    let mut named = table.clone();
    named.partitions[0].name = "n".repeat(37);
    refused(named);
    let mut empty = table;
    empty.partitions[0].len = Sectors::new(0);
    refused(empty);
    assert!(disk.get_ref().is_empty());
    for esp in [0, 1000, u64::MAX] {
        let sizes = Sizes {
            esp: Bytes::new(esp),
            ..Sizes::X86_64
        };
        assert!(sizes.shipped(b"").is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any bytes for a table, with valid checksums so that the checks behind them are met.
    #[test]
    fn reading_never_panics(
        changes in prop::collection::vec((0usize..600, any::<u64>()), 0..6),
        fix in any::<bool>(),
        size in 60u64..100_000,
    ) {
        let table = Sizes { esp: Bytes::mib(1), root: Bytes::mib(1), ..Sizes::X86_64 }
            .shipped(b"").unwrap();
        let mut disk = Cursor::new(Vec::new());
        write(&mut disk, &table, |_| Ok(())).unwrap();
        let mut bytes = disk.into_inner();
        for (at, value) in changes {
            bytes[512 + at..520 + at].copy_from_slice(&value.to_le_bytes());
        }
        if fix {
            let entries = crc32fast::hash(&bytes[1024..1024 + 128 * 128]);
            bytes[600..604].copy_from_slice(&entries.to_le_bytes());
            bytes[528..532].fill(0);
            let header = crc32fast::hash(&bytes[512..604]);
            bytes[528..532].copy_from_slice(&header.to_le_bytes());
        }
        if let Ok(found) = read(&mut Cursor::new(bytes), Sectors::new(size)) {
            let Found { table, .. } = &found;
            prop_assert!(table.partitions.iter().all(|p| p.end() <= table.disk));
            drop(grow(&found, b"machine"));
        }
    }
}
