//! A disk of our own: it records every write and flush, and shows what a power cut leaves.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;

use slipway_images::slot::{Disk, Slot};

/// Bytes of the boot partition: the least that makes a FAT32 of clusters of 512.
pub const ESP: u64 = 34 << 20;
/// Bytes of a root partition here.
pub const ROOT: u64 = 64 << 10;
/// Bytes of a boot area here, which only U-Boot has.
pub const AREA: u64 = 16 << 10;
/// Bytes of all of it.
pub const DISK: u64 = ESP + 2 * ROOT + 2 * AREA;
const SECTOR: u64 = 512;

pub type Sector = [u8; SECTOR as usize];

/// What happened to the disk.
#[derive(Debug, Clone)]
pub enum Event {
    /// These sectors were written.
    Write(Vec<(u64, Sector)>),
    /// All before in this range of sectors is on the medium. What is elsewhere may still be in
    /// the page cache: another partition's device has its own.
    Flush(Range<u64>),
}

/// A disk in memory: what is on the medium, and what happened since.
pub struct Recorder {
    medium: File,
    changed: BTreeMap<u64, Sector>,
    pub log: Vec<Event>,
}

/// The part of it that somebody has.
#[derive(Clone)]
pub struct Part {
    disk: Rc<RefCell<Recorder>>,
    start: u64,
    len: u64,
}

impl Recorder {
    /// A disk with this content.
    pub fn new(content: &[u8]) -> Rc<RefCell<Self>> {
        let file = tempfile::tempfile_in(memory()).unwrap();
        fill(&file, content);
        Self::on(file)
    }

    /// A disk with what a file shows, which stays as it is.
    pub fn over(shown: &Shown) -> Rc<RefCell<Self>> {
        Self::on(shown.file.try_clone().unwrap())
    }

    /// A disk with what is in a file, which stays as it is.
    pub fn on(medium: File) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            medium,
            changed: BTreeMap::new(),
            log: Vec::new(),
        }))
    }

    fn sector(&self, number: u64) -> Sector {
        if let Some(changed) = self.changed.get(&number) {
            return *changed;
        }
        let mut sector = [0; SECTOR as usize];
        self.medium
            .read_exact_at(&mut sector, number * SECTOR)
            .unwrap();
        sector
    }

    /// The sectors that were written, as they are now.
    pub fn changes(&self) -> Vec<(u64, Sector)> {
        self.changed.iter().map(|(n, s)| (*n, *s)).collect()
    }
}

/// A directory that is memory, if there is one.
fn memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    }
}

/// Writes what isn't zero.
fn fill(file: &File, content: &[u8]) {
    file.set_len(content.len() as u64).unwrap();
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    for (n, bytes) in content.chunks(ZEROS.len()).enumerate() {
        // Compared as a whole: byte by byte takes a second in a debug build.
        if bytes != &ZEROS[..bytes.len()] {
            file.write_all_at(bytes, (n * ZEROS.len()) as u64).unwrap();
        }
    }
}

/// A partition.
pub fn part(disk: &Rc<RefCell<Recorder>>, start: u64, len: u64) -> Part {
    Part {
        disk: Rc::clone(disk),
        start,
        len,
    }
}

pub fn esp(disk: &Rc<RefCell<Recorder>>) -> Part {
    part(disk, 0, ESP)
}

pub fn root(disk: &Rc<RefCell<Recorder>>, slot: Slot) -> Part {
    part(disk, root_at(slot), ROOT)
}

pub fn area(disk: &Rc<RefCell<Recorder>>, slot: Slot) -> Part {
    Part {
        disk: Rc::clone(disk),
        start: area_at(slot),
        len: AREA,
    }
}

pub fn area_at(slot: Slot) -> u64 {
    match slot {
        Slot::A => ESP + 2 * ROOT,
        Slot::B => ESP + 2 * ROOT + AREA,
    }
}

pub fn root_at(slot: Slot) -> u64 {
    match slot {
        Slot::A => ESP,
        Slot::B => ESP + ROOT,
    }
}

impl Disk for Part {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        assert!(offset + buffer.len() as u64 <= self.len);
        let disk = self.disk.borrow();
        let (at, end) = (
            self.start + offset,
            self.start + offset + buffer.len() as u64,
        );
        disk.medium.read_exact_at(buffer, at)?;
        for (number, sector) in disk.changed.range(at / SECTOR..end.div_ceil(SECTOR)) {
            for (byte, place) in sector.iter().zip(number * SECTOR..) {
                if (at..end).contains(&place) {
                    buffer[(place - at) as usize] = *byte;
                }
            }
        }
        Ok(())
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset + bytes.len() as u64 <= self.len);
        let mut disk = self.disk.borrow_mut();
        let (mut at, mut rest, mut written) = (self.start + offset, bytes, Vec::new());
        while !rest.is_empty() {
            let (within, mut sector) = ((at % SECTOR) as usize, disk.sector(at / SECTOR));
            let len = rest.len().min(SECTOR as usize - within);
            sector[within..within + len].copy_from_slice(&rest[..len]);
            disk.changed.insert(at / SECTOR, sector);
            written.push((at / SECTOR, sector));
            rest = &rest[len..];
            at += len as u64;
        }
        disk.log.push(Event::Write(written));
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let range = self.start / SECTOR..(self.start + self.len) / SECTOR;
        self.disk.borrow_mut().log.push(Event::Flush(range));
        Ok(())
    }
}

/// A file with a disk's content, for tools to look at, which can be changed and changed back.
pub struct Shown {
    _dir: Option<tempfile::TempDir>,
    pub path: PathBuf,
    file: File,
    before: BTreeMap<u64, Sector>,
}

impl Shown {
    pub fn new(medium: &[u8]) -> Self {
        let dir = tempfile::tempdir_in(memory()).unwrap();
        let path = dir.path().join("disk");
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        let file = options.open(&path).unwrap();
        fill(&file, medium);
        Self {
            file,
            _dir: Some(dir),
            path,
            before: BTreeMap::new(),
        }
    }

    /// What is in a file already.
    #[allow(dead_code, reason = "for the test that boots what it shows")]
    pub fn at(path: PathBuf) -> Self {
        Self {
            file: File::options().read(true).write(true).open(&path).unwrap(),
            _dir: None,
            path,
            before: BTreeMap::new(),
        }
    }

    /// A file with what a disk has, flushed or not.
    pub fn of(disk: &Rc<RefCell<Recorder>>) -> Self {
        let disk = disk.borrow();
        let mut content = vec![0; disk.medium.metadata().unwrap().len() as usize];
        disk.medium.read_exact_at(&mut content, 0).unwrap();
        let mut shown = Self::new(&content);
        shown.put(&disk.changes());
        shown.keep();
        shown
    }

    /// Puts sectors on the disk until [`restore`](Self::restore).
    pub fn put(&mut self, sectors: &[(u64, Sector)]) {
        for (number, sector) in sectors {
            let mut old = [0; SECTOR as usize];
            self.file.read_exact_at(&mut old, number * SECTOR).unwrap();
            self.before.entry(*number).or_insert(old);
            self.file.write_all_at(sector, number * SECTOR).unwrap();
        }
    }

    /// What was put since stays.
    pub fn keep(&mut self) {
        self.before.clear();
    }

    pub fn restore(&mut self) {
        for (number, sector) in std::mem::take(&mut self.before) {
            self.file.write_all_at(&sector, number * SECTOR).unwrap();
        }
    }

    pub fn bytes(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, offset).unwrap();
        bytes
    }

    pub fn medium(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    /// What fsck.vfat says of the boot partition, changing nothing.
    pub fn fsck(&self) -> Vec<String> {
        let out = Command::new("fsck.vfat")
            .arg("-n")
            .arg(&self.path)
            .output()
            .expect("ci/setup installs dosfstools");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.code().is_some_and(|c| c < 2), "{text}");
        let findings = text.lines().filter(|line| {
            let start = ["fsck.fat ", "Leaving filesystem unchanged", "  ", "\t"];
            !line.is_empty()
                && !start.iter().any(|s| line.starts_with(s))
                && !line.contains(" files, ")
        });
        findings.map(str::to_owned).collect()
    }
}

/// Runs one of mtools on the boot partition.
pub fn mtools(tool: &str, image: &std::path::Path, arguments: &[&str]) -> Option<Vec<u8>> {
    let out = Command::new(tool)
        .env("MTOOLS_SKIP_CHECK", "1")
        .arg("-i")
        .arg(image)
        .args(arguments)
        .output()
        .expect("ci/setup installs mtools");
    out.status.success().then_some(out.stdout)
}
