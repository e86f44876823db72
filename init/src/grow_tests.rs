//! Tests of the growth on image files, judged by sgdisk.

use super::*;
use std::fs::File;
use std::process::Command;

const MIB: u64 = 1 << 20;

fn sgdisk(args: &[&str], path: &std::path::Path) -> String {
    let out = Command::new("/usr/sbin/sgdisk")
        .args(args)
        .arg(path)
        .output()
        .expect("sgdisk is needed (ci/setup installs gdisk)");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{text} {}",
        String::from_utf8_lossy(&out.stderr)
    );
    text
}

/// An image as shipped (esp, root-a), then `disk` bytes long as if written to a disk.
fn image(disk: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(66 * MIB).unwrap();
    let root = format!("-t2:{}", layout::TYPE_ROOT_X86_64);
    sgdisk(
        &[
            "-n1:1M:+16M",
            "-t1:ef00",
            "-c1:esp",
            "-n2:17M:+48M",
            &root,
            "-c2:root-a",
        ],
        file.path(),
    );
    file.as_file().set_len(disk).unwrap();
    file
}

fn open(file: &tempfile::NamedTempFile) -> File {
    File::options()
        .read(true)
        .write(true)
        .open(file.path())
        .unwrap()
}

fn assert_sound(path: &std::path::Path) {
    let text = sgdisk(&["-v"], path);
    assert!(text.contains("No problems found"), "{text}");
}

/// What a table could be in: the first and the last MiB.
fn ends(file: &tempfile::NamedTempFile) -> Vec<u8> {
    let mut disk = open(file);
    let mut bytes = vec![0; 2 << 20];
    disk.read_exact(&mut bytes[..1 << 20]).unwrap();
    disk.seek(SeekFrom::End(-(1 << 20))).unwrap();
    disk.read_exact(&mut bytes[1 << 20..]).unwrap();
    bytes
}

#[test]
fn a_shipped_image_becomes_whole_once() {
    let file = image(2048 * MIB);
    let grown = grow(&mut open(&file), b"seed").unwrap();
    assert!(grown.changed && grown.data_unfinished, "{grown:?}");
    assert_eq!(grown.table.number("data"), Some(4));
    assert_sound(file.path());
    let attributes = read_table(&mut open(&file))
        .unwrap()
        .table
        .partition("data")
        .unwrap()
        .attributes;
    assert_eq!(attributes, ATTRIBUTE_UNFINISHED);

    let before = ends(&file);
    let again = grow(&mut open(&file), b"other").unwrap();
    assert!(
        !again.changed && again.data_unfinished && again.note.is_empty(),
        "{again:?}"
    );
    assert!(before == ends(&file));
}

#[test]
fn a_larger_disk_grows_data_only() {
    let file = image(2048 * MIB);
    let small = grow(&mut open(&file), b"seed").unwrap().table;
    file.as_file().set_len(3000 * MIB).unwrap();
    let grown = grow(&mut open(&file), b"seed").unwrap();
    assert_eq!(grown.note, "data grown");
    assert_sound(file.path());
    assert_eq!(small.partition("root-b"), grown.table.partition("root-b"));
    let (old, new) = (
        small.partition("data").unwrap(),
        grown.table.partition("data").unwrap(),
    );
    assert_eq!(
        (old.first, old.guid, old.attributes),
        (new.first, new.guid, new.attributes)
    );
    assert!(new.len > old.len);
}

#[test]
fn foreign_partitions_and_small_disks_are_refused_untouched() {
    let foreign = image(4096 * MIB);
    sgdisk(&["-e"], foreign.path());
    sgdisk(&["-n3:100M:+900M", "-c3:precious"], foreign.path());
    let small = image(600 * MIB);
    for (file, part) in [(&foreign, "precious"), (&small, "too small")] {
        let before = ends(file);
        let error = grow(&mut open(file), b"seed").unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(before == ends(file));
    }
    let mut empty = tempfile::tempfile().unwrap();
    empty.set_len(100 * MIB).unwrap();
    assert!(matches!(
        grow(&mut empty, b"seed"),
        Err(LayoutError::Absent)
    ));
}

#[test]
fn the_unfinished_mark_goes_when_the_filesystem_is_there() {
    let file = image(2048 * MIB);
    let grown = grow(&mut open(&file), b"seed").unwrap();
    let start = grown.table.partition("data").unwrap().offset().get();
    for (label, unfinished) in [("other", true), (LABEL_UNFINISHED, true), (LABEL, false)] {
        let out = Command::new("/usr/sbin/mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-L", label, "-E"])
            .arg(format!("offset={start}"))
            .arg(file.path())
            .arg("64M")
            .output()
            .expect("mke2fs is needed (ci/setup installs e2fsprogs)");
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let grown = grow(&mut open(&file), b"seed").unwrap();
        assert_eq!(
            (grown.data_unfinished, grown.changed),
            (unfinished, !unfinished),
            "{label}"
        );
    }
    assert_sound(file.path());
    // Once cleared it stays so, whatever happens to the filesystem.
    let mut disk = open(&file);
    disk.seek(SeekFrom::Start(start)).unwrap();
    disk.write_all(&vec![0; 1 << 20]).unwrap();
    assert!(!grow(&mut disk, b"seed").unwrap().data_unfinished);
}

/// The header of an encrypted volume says the same as a filesystem's label.
#[test]
fn an_encrypted_volume_is_not_taken_for_an_empty_partition() {
    use slipway_images::luks::{self, NewKey, Strength};
    let file = image(2048 * MIB);
    let grown = grow(&mut open(&file), b"seed").unwrap();
    let data = grown.table.partition("data").unwrap().offset().get();
    let part = tempfile::NamedTempFile::new().unwrap();
    part.as_file().set_len(32 * MIB).unwrap();
    let wish = luks::Wish {
        label: LABEL_UNFINISHED,
        subsystem: "",
        sector_size: 4096,
    };
    let key = NewKey {
        passphrase: b"x",
        strength: Strength::Random,
        token: None,
    };
    let mut random = |bytes: &mut [u8]| {
        bytes.fill(7);
        Ok(())
    };
    let mut device = part.as_file();
    let made = luks::format(&mut device, wish, &[key], &mut random, |_| Ok(()));
    let (mut volume, _) = made.unwrap();
    for (label, unfinished) in [("home", true), (LABEL_UNFINISHED, true), (LABEL, false)] {
        volume.write(&mut device, label, |_| Ok(())).unwrap();
        let mut disk = open(&file);
        disk.seek(SeekFrom::Start(data)).unwrap();
        disk.write_all(&std::fs::read(part.path()).unwrap())
            .unwrap();
        let grown = grow(&mut disk, b"seed").unwrap();
        let found = (grown.data_unfinished, grown.changed);
        assert_eq!(found, (unfinished, !unfinished), "{label}");
    }
}

/// A disk whose power is cut after so many bytes written.
struct Cut {
    file: File,
    left: usize,
}

impl Read for Cut {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

impl Seek for Cut {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Write for Cut {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(self.left);
        self.left -= n;
        match n {
            0 => Err(io::Error::other("power cut")),
            n => self.file.write(&buf[..n]),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Device for Cut {
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_power_cut_at_any_point_is_mended_by_the_next_boot() {
    // Two arrays of 16384 bytes, two headers and the protective MBR.
    let total = 2 * 16384 + 3 * 512;
    let pristine = image(2048 * MIB);
    // All that an image of 66 MiB without content holds is its two tables.
    let mut start = vec![0; MIB as usize];
    open(&pristine).read_exact(&mut start).unwrap();
    for sector in (0..total).step_by(512) {
        for after in [sector, sector + 91] {
            let file = tempfile::NamedTempFile::new().unwrap();
            open(&file).write_all(&start).unwrap();
            file.as_file().set_len(2048 * MIB).unwrap();
            let mut disk = Cut {
                file: open(&file),
                left: after,
            };
            assert!(grow(&mut disk, b"seed").is_err(), "cut after {after}");
            let grown = grow(&mut open(&file), b"seed")
                .unwrap_or_else(|e| panic!("cut after {after}: {e}"));
            assert_eq!(grown.table.partitions.len(), 4, "cut after {after}");
            assert!(
                !read_table(&mut open(&file)).unwrap().needs_repair,
                "cut after {after}"
            );
            if sector % 8192 == 0 {
                assert_sound(file.path());
            }
        }
    }
}
