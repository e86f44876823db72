//! Our changes to a FAT32 volume, against dosfstools and mtools.

use proptest::prelude::*;
use slipway_images::slot::fat::{FatError, Volume};

use super::disk::{DISK, ESP, Recorder, Shown, esp, mtools};
use super::loader::formatted;

fn listed(shown: &Shown, directory: &str) -> Vec<String> {
    let out = mtools("mdir", &shown.path, &["-b", &format!("::/{directory}")]);
    let text = String::from_utf8(out.unwrap_or_default()).unwrap();
    let name = |line: &str| line.rsplit('/').next().unwrap().to_owned();
    let mut names: Vec<String> = text.lines().map(name).filter(|n| !n.is_empty()).collect();
    names.sort();
    names
}

fn bytes(n: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(n)).collect()
}

#[test]
fn files_come_change_and_go_as_the_tools_see_them() {
    let disk = Recorder::new(&formatted());
    let mut volume = Volume::open(esp(&disk)).unwrap();
    let content = bytes(7, 9000);
    let file = volume.create("EFI/Linux/slipway-1-a.new", 9000).unwrap();
    volume.write(&file, 0, &content[..700]).unwrap();
    volume.write(&file, 700, &content[700..]).unwrap();
    assert!(matches!(
        volume.write(&file, 8999, &[1, 2]),
        Err(FatError::Beyond(_))
    ));
    let file = volume
        .rename("EFI/Linux", &file, "slipway-1-a+3.efi")
        .unwrap();
    volume.create("EFI/Linux/empty.txt", 0).unwrap();
    let taken = volume.create("EFI/Linux/EMPTY.TXT", 0);
    assert!(matches!(taken, Err(FatError::Unusable(_))), "{taken:?}");
    assert!(matches!(
        volume.create("EFI/none/x", 0),
        Err(FatError::Missing(_))
    ));
    let mut read = vec![0; 9000];
    volume.read(&file, 0, &mut read).unwrap();
    assert!(read == content);
    drop(volume);

    let shown = Shown::of(&disk);
    assert_eq!(shown.fsck(), [""; 0]);
    assert_eq!(
        listed(&shown, "EFI/Linux"),
        ["empty.txt", "slipway-1-a+3.efi"]
    );
    let seen = mtools("mtype", &shown.path, &["::/EFI/Linux/slipway-1-a+3.efi"]);
    assert!(seen.unwrap() == content);

    let disk = Recorder::over(&shown);
    let mut volume = Volume::open(esp(&disk)).unwrap();
    let file = volume.find("efi/linux/SLIPWAY-1-A+3.EFI").unwrap().unwrap();
    volume.remove("EFI/Linux", &file).unwrap();
    assert_eq!(volume.tidy().unwrap(), 0, "nothing is lost");
    drop(volume);
    let shown = Shown::of(&disk);
    assert_eq!(shown.fsck(), [""; 0]);
    assert_eq!(listed(&shown, "EFI/Linux"), ["empty.txt"]);
}

#[test]
fn a_full_partition_is_said_and_left_as_it_was() {
    let disk = Recorder::new(&formatted());
    let mut volume = Volume::open(esp(&disk)).unwrap();
    let full = volume.create("EFI/Linux/large", ESP as u32);
    assert!(matches!(full, Err(FatError::Full { .. })), "{full:?}");
    drop(volume);
    assert!(disk.borrow().log.is_empty());
}

#[test]
fn room_is_just_what_a_file_can_have_once_all_is_tidy() {
    let disk = Recorder::new(&formatted());
    let mut volume = Volume::open(esp(&disk)).unwrap();
    let old = volume.create("EFI/Linux/slipway-2-b.efi", 5000).unwrap();
    // What a power cut leaves: clusters without a name.
    let lost = volume.create("EFI/Linux/lost", 9000).unwrap();
    volume.forget(&lost).unwrap();
    let room = volume.room(std::slice::from_ref(&old)).unwrap();
    assert_eq!(room, volume.room(&[]).unwrap() + 5120);
    volume.remove("EFI/Linux", &old).unwrap();
    volume.tidy().unwrap();
    let larger = volume.create("EFI/Linux/new", room as u32 + 1);
    assert!(matches!(larger, Err(FatError::Full { .. })), "{larger:?}");
    volume.create("EFI/Linux/new", room as u32).unwrap();
    assert_eq!(volume.room(&[]).unwrap(), 0);
}

#[test]
fn a_directory_grows_by_clusters() {
    let disk = Recorder::new(&formatted());
    let mut volume = Volume::open(esp(&disk)).unwrap();
    for n in 0..40 {
        volume
            .create(&format!("EFI/Linux/a-rather-long-name-{n}"), 600)
            .unwrap();
    }
    drop(volume);
    let shown = Shown::of(&disk);
    assert_eq!(shown.fsck(), [""; 0]);
    assert_eq!(listed(&shown, "EFI/Linux").len(), 40);
}

#[test]
fn what_is_no_fat32_is_refused() {
    for (at, byte) in [
        (510, 0),
        (11, 1),
        (13, 3),
        (14, 0),
        (16, 0),
        (40, 0x80),
        (44, 0),
    ] {
        let mut image = formatted();
        image[at] = byte;
        if at == 44 {
            image[44..48].fill(0xff);
        }
        let opened = Volume::open(esp(&Recorder::new(&image)));
        assert!(matches!(opened, Err(FatError::Unusable(_))), "{at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn damage_is_refused_or_read_and_never_hangs(
        damage in proptest::collection::vec((0..4usize, 0..4096usize, any::<u8>()), 1..20)
    ) {
        let mut image = damaged_base().clone();
        // Boot sector, table, root directory, where EFI and EFI/Linux are.
        for (where_, at, byte) in damage {
            let base = [0, 16384, 565_248, 565_248 + 512][where_];
            image[base + at] = byte;
        }
        image.truncate(DISK as usize);
        let disk = Recorder::new(&image);
        if let Ok(mut volume) = Volume::open(esp(&disk)) {
            drop(volume.tidy());
            if let Ok(entries) = volume.list("EFI/Linux") {
                for entry in entries.iter().filter(|e| !e.is_dir) {
                    drop(volume.read(entry, 0, &mut [0; 10]));
                }
            }
        }
    }
}

fn damaged_base() -> &'static Vec<u8> {
    static BASE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BASE.get_or_init(formatted)
}
