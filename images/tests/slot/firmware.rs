//! Firmware renewed on the disk that records, and the power cut at any moment.

use std::cell::RefCell;
use std::rc::Rc;

use slipway_images::firmware::{FirmwareError, Found, Piece, Place, Places};
use slipway_images::slot::Disk;
use slipway_images::slot::fat::{FatError, Volume};

use super::cuts::{Dice, intervals};
use super::disk::{DISK, ESP, Part, Recorder, Shown, esp, part};
use super::loader::formatted;
use super::power::is_harmless;

/// Where a piece lies that is no file: behind the boot partition, on this disk.
const RAW: u64 = ESP;
/// States that are looked at for each flush.
const SAMPLES: usize = 3;

/// Content that says its version, and is as large as a program.
fn program(version: &str) -> Vec<u8> {
    let mut content = format!("\0U-Boot {version} (today)\0").into_bytes();
    content.resize(90_000, version.as_bytes()[3]);
    content
}

/// Pieces of a version, with their content.
fn pieces(version: &str) -> Vec<(Piece, Vec<u8>)> {
    let places = [
        Place::File("u-boot.bin".into()),
        Place::File("EFI/Linux/deep.bin".into()),
        Place::Raw(RAW),
    ];
    let content = |place: &Place| {
        let mut content = program(version);
        content.extend(place.to_string().bytes());
        if matches!(place, Place::Raw(_)) {
            content.truncate(20_000);
        }
        content
    };
    let piece = |place: Place| {
        let content = content(&place);
        (Piece::new(place, &content), content)
    };
    places.into_iter().map(piece).collect()
}

fn places(disk: &Rc<RefCell<Recorder>>) -> Places<Part> {
    let whole = part(disk, 0, DISK);
    Places::open(esp(disk), Some(whole)).unwrap()
}

/// Renews all, as a node does. Gives how many were written.
fn renew<D: Disk>(
    places: &mut Places<D>,
    all: &[(Piece, Vec<u8>)],
) -> Result<usize, FirmwareError> {
    let pieces: Vec<Piece> = all.iter().map(|(piece, _)| piece.clone()).collect();
    places.renew(&pieces, &mut |wanted| {
        let found = all.iter().find(|(piece, _)| piece == wanted);
        Ok(found.unwrap().1.clone())
    })
}

/// A disk with the first version.
fn installed() -> Rc<RefCell<Recorder>> {
    let disk = Recorder::new(&formatted());
    renew(&mut places(&disk), &pieces("2025.01")).unwrap();
    disk
}

#[test]
fn pieces_are_put_in_their_places() {
    let disk = installed();
    let mut places = places(&disk);
    for (piece, _) in pieces("2025.01") {
        assert_eq!(places.look(&piece).unwrap(), Found::Same);
    }
    for (piece, _) in pieces("2026.07") {
        let old = Found::Other(Some("U-Boot 2025.01".into()));
        assert_eq!(places.look(&piece).unwrap(), old);
    }
    assert_eq!(renew(&mut places, &pieces("2026.07")).unwrap(), 3);
    for (piece, _) in pieces("2026.07") {
        assert_eq!(places.look(&piece).unwrap(), Found::Same);
    }
    // What is the same isn't written again.
    disk.borrow_mut().log.clear();
    assert_eq!(renew(&mut places, &pieces("2026.07")).unwrap(), 0);
    assert!(disk.borrow().log.is_empty());
    assert_eq!(Shown::of(&disk).fsck(), [""; 0]);
}

/// Each file is the old one or the new one, what is no file is whole or no program, and it can be
/// gone on with.
#[test]
fn a_power_cut_leaves_each_piece_whole() {
    let (old, new) = (pieces("2025.01"), pieces("2026.07"));
    let disk = installed();
    let mut shown = Shown::of(&disk);
    disk.borrow_mut().log.clear();
    renew(&mut places(&disk), &new).unwrap();
    let log = disk.borrow().log.clone();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let intervals = intervals(&log);
    assert!(intervals.len() > 12, "{} flushes", intervals.len());
    for (n, interval) in intervals.iter().enumerate() {
        for sample in 0..SAMPLES {
            shown.put(&interval.some(&mut dice));
            judge(
                &shown,
                &old,
                &new,
                &format!("after flush {n}, sample {sample}"),
            );
            shown.restore();
        }
        shown.put(&interval.flushed);
        shown.keep();
        judge(&shown, &old, &new, &format!("at flush {}", n + 1));
    }
}

fn judge(shown: &Shown, old: &[(Piece, Vec<u8>)], new: &[(Piece, Vec<u8>)], at: &str) {
    for finding in shown.fsck() {
        assert!(
            is_harmless(&finding) || is_a_twin(&finding),
            "{at}: fsck.vfat: {finding}"
        );
    }
    let disk = Recorder::over(shown);
    let mut places = places(&disk);
    for ((piece, _), (was, _)) in new.iter().zip(old) {
        let mut is = |piece| places.look(piece).unwrap() == Found::Same;
        // Not yet, or no more, what a ROM takes for a program.
        let none = matches!(piece.place, Place::Raw(_)) && head_is_zero(&disk);
        assert!(
            is(piece) || is(was) || none,
            "{at}: {} is neither",
            piece.place
        );
    }
    renew(&mut places, new).unwrap_or_else(|error| panic!("{at}: {error}"));
    for (piece, _) in new {
        assert_eq!(places.look(piece).unwrap(), Found::Same, "{at}");
    }
    assert_eq!(Shown::of(&disk).fsck(), [""; 0], "{at}: gone on");
}

/// Two names for one file, of which one is to be forgotten.
fn is_a_twin(finding: &str) -> bool {
    let words = finding.trim_start();
    [
        "/slipway.new",
        "and",
        "/EFI/Linux/slipway.new",
        "/u-boot.bin",
        "/EFI/Linux/deep.bin",
    ]
    .iter()
    .any(|start| words.starts_with(start))
}

fn head_is_zero(disk: &Rc<RefCell<Recorder>>) -> bool {
    let mut head = [1; 512];
    part(disk, 0, DISK).read_at(RAW, &mut head).unwrap();
    head == [0; 512]
}

#[test]
fn another_content_than_the_manifests_is_refused() {
    let disk = installed();
    disk.borrow_mut().log.clear();
    for broken in 0..3 {
        let mut pieces = pieces("2026.07");
        pieces[broken].1[100] ^= 1;
        let error = renew(&mut places(&disk), &pieces).unwrap_err();
        assert!(matches!(error, FirmwareError::Damaged(_)), "{error}");
    }
    assert!(disk.borrow().log.is_empty(), "something was written");
}

#[test]
fn a_full_partition_is_refused_before_anything_is_written() {
    let disk = installed();
    let mut volume = Volume::open(esp(&disk)).unwrap();
    let room = volume.room(&[]).unwrap();
    volume
        .create("full", u32::try_from(room).unwrap() - 100_000)
        .unwrap();
    disk.borrow_mut().log.clear();
    let error = renew(&mut places(&disk), &pieces("2026.07")).unwrap_err();
    assert!(matches!(error, FirmwareError::Full { .. }), "{error}");
    assert!(
        error.to_string().contains("delete files of your own"),
        "{error}"
    );
    assert!(disk.borrow().log.is_empty());
}

#[test]
fn a_directory_that_is_missing_is_named() {
    let disk = installed();
    let content = program("2026.07");
    let piece = Piece::new(Place::File("none/x.bin".into()), &content);
    let error = renew(&mut places(&disk), &[(piece, content)]).unwrap_err();
    let FirmwareError::Fat {
        source: FatError::Missing(what),
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(what.contains("none"), "{error}");
}

/// A card that loses what it was given.
struct Forgetful(Part);

impl Disk for Forgetful {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.0.read_at(offset, buffer)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        // Of content, not of tables and names.
        let mut lost = bytes.to_vec();
        if let Some(byte) = lost.get_mut(8192) {
            *byte ^= 1;
        }
        self.0.write_at(offset, &lost)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[test]
fn what_the_disk_does_not_keep_is_noticed() {
    let disk = installed();
    let whole = part(&disk, 0, DISK);
    let partition = Forgetful(esp(&disk));
    let mut worn = Places::open(partition, Some(Forgetful(whole))).unwrap();
    for piece in pieces("2026.07") {
        let error = renew(&mut worn, &[piece]).unwrap_err();
        assert!(matches!(error, FirmwareError::NotKept(_)), "{error}");
    }
    // The files are what they were.
    let mut places = places(&disk);
    for (piece, _) in &pieces("2025.01")[..2] {
        assert_eq!(places.look(piece).unwrap(), Found::Same);
    }
}
