//! What an image is written to: a disk or a file, checked, then opened.
//!
//! | named | not in use | mounted, held, or this system's | too small, a partition, read-only |
//! |---|---|---|---|
//! | once | asks, or `--yes` | refused | refused |
//! | twice | asks, or `--yes` | asks, or `--yes` | refused |
//!
//! A file that isn't there is written aside and renamed; one that is there is
//! written in place, as a disk is.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use slipway_images::buffer::Buffer;
use slipway_images::direct::{Direct, Share};

use super::devices::{Disk, Node, System};
use super::ioctl;
use super::source::Source;
use crate::atomic::Pending;
use crate::error::{At as _, Error, Kind, Result};
use crate::progress::Progress;

/// What is cleared where a node's own partitions will begin: a filesystem left there
/// by an earlier node would be taken for this one's.
const CLEARED: u64 = 1 << 20;

/// The most that one request to zero a range asks for, so that Ctrl-C is heard.
const ZERO_STEP: u64 = 64 << 20;

/// A target that may be written to.
#[derive(Debug)]
pub struct Target {
    path: PathBuf,
    place: Place,
    share: Share,
}

#[derive(Debug)]
enum Place {
    /// A file that isn't there yet.
    NewFile,
    /// A file that is there, of so many bytes.
    OldFile(u64),
    /// A whole disk.
    Disk(Box<Disk>),
}

impl Target {
    /// Checks what `path` names. `insisted` is whether it was named twice.
    ///
    /// # Errors
    /// [`Kind::Usage`] for what can't be a target or takes another device;
    /// [`Kind::Missing`] for a device in use; [`Kind::Io`].
    pub fn check(path: &Path, insisted: bool, system: &System, source: &Source) -> Result<Self> {
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if path.starts_with("/dev") {
                    return Err(no_device(path, system));
                }
                return Ok(Self {
                    path: path.to_owned(),
                    place: Place::NewFile,
                    share: Share::Shared,
                });
            }
            Err(e) => return Err(e).at("looking at", path),
        };
        if meta.is_file() {
            let image = fs::metadata(source.path()).at("looking at", source.path())?;
            if (image.dev(), image.ino()) == (meta.dev(), meta.ino()) {
                return Err(Error::new(
                    Kind::Usage,
                    format!("{} is the image itself", path.display()),
                ));
            }
            return Ok(Self {
                path: fs::canonicalize(path).at("resolving", path)?,
                place: Place::OldFile(meta.len()),
                share: Share::Shared,
            });
        }
        if !meta.file_type().is_block_device() {
            return Err(Error::new(
                Kind::Usage,
                format!("{} is neither a block device nor a file", path.display()),
            ));
        }
        let disk = match system.find(meta.rdev())? {
            Some(Node::Disk(disk)) => disk,
            Some(Node::Partition(disk)) => {
                return Err(
                    Error::new(Kind::Usage, format!("{} is a partition", path.display())).hint(
                        format!("an image takes a whole disk: {}", disk.path.display()),
                    ),
                );
            }
            None => {
                return Err(Error::new(
                    Kind::Usage,
                    format!("{} is no disk that the kernel knows of", path.display()),
                ));
            }
        };
        let share = permit(&disk, insisted)?;
        fits(&disk, source)?;
        Ok(Self {
            path: path.to_owned(),
            place: Place::Disk(disk),
            share,
        })
    }

    /// What will be lost, or `None` if there is nothing to lose.
    pub fn loses(&self) -> Option<String> {
        match &self.place {
            Place::NewFile | Place::OldFile(0) => None,
            Place::OldFile(_) => Some(format!("the file {}", self.path.display())),
            Place::Disk(disk) => Some(format!("all of {disk}")),
        }
    }

    /// Opens it for writing. A disk is cleared where the node's partitions will begin.
    ///
    /// # Errors
    /// [`Kind::Missing`] if it is in use after all, [`Kind::Io`].
    pub fn open(self, source: &Source) -> Result<Device> {
        let path = self.path;
        match self.place {
            Place::NewFile => {
                let pending = Pending::create(&path)?;
                let direct = Direct::open(pending.path(), Share::Shared);
                let direct = direct.at("opening", pending.path())?;
                Ok(Device {
                    zero: true,
                    pending: Some(pending),
                    ..Device::new(path, direct)
                })
            }
            Place::OldFile(len) => {
                let direct = Direct::open(&path, self.share).at("opening", &path)?;
                // Holes read as zeros, and so does what is beyond the end.
                let punched = source.size.is_some_and(|size| {
                    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                    fallocate(direct.file(), flags, 0, size).is_ok()
                });
                Ok(Device {
                    zero: len == 0 || punched,
                    touched: len != 0,
                    ..Device::new(path, direct)
                })
            }
            Place::Disk(disk) => {
                let direct = Direct::open(&path, self.share).map_err(|e| match e.kind() {
                    io::ErrorKind::ResourceBusy => in_use(&path, "another program has it"),
                    io::ErrorKind::PermissionDenied => Error::io("opening", &path, &e)
                        .hint("be root, or in the group `disk`, to write to a disk"),
                    _ => Error::io("opening", &path, &e),
                })?;
                let mut device = Device {
                    disk: true,
                    offloads_zeros: disk.offloads_zeros,
                    limit: Some(disk.size),
                    ..Device::new(path, direct)
                };
                for start in source.added_partitions(disk.size)? {
                    device.zero(start, CLEARED.min(disk.size - start))?;
                }
                Ok(device)
            }
        }
    }
}

fn no_device(path: &Path, system: &System) -> Error {
    let disks: Vec<String> = system
        .disks()
        .unwrap_or_default()
        .iter()
        .filter(|d| d.is_candidate())
        .map(|d| d.path.display().to_string())
        .collect();
    let error = Error::new(
        Kind::Usage,
        format!("there is no device {}", path.display()),
    );
    if disks.is_empty() {
        error.hint("plug it in; `slipway flash IMAGE` lists what is there")
    } else {
        error.hint(format!("there are: {}", disks.join(", ")))
    }
}

fn in_use(path: &Path, by: &str) -> Error {
    Error::new(Kind::Missing, format!("{} is in use: {by}", path.display()))
        .hint("unmount it first, or name the device twice to write to it all the same")
}

/// Whether a disk may be written to, and how it is opened then.
fn permit(disk: &Disk, insisted: bool) -> Result<Share> {
    let name = disk.path.display();
    if disk.read_only {
        return Err(Error::new(Kind::Usage, format!("{name} is read-only"))
            .hint("slide the card's lock, or choose another device"));
    }
    match (disk.uses.first(), insisted) {
        (Some(_), true) => Ok(Share::Shared),
        (Some(_), false) if disk.is_system() => Err(Error::new(
            Kind::Usage,
            format!(
                "{name} is the disk that this system runs from: {}",
                disk.uses_text()
            ),
        )
        .hint(format!(
            "choose another device; to destroy this system, name it twice: {name} {name}"
        ))),
        (Some(_), false) => Err(in_use(&disk.path, &disk.uses_text())),
        (None, _) => Ok(Share::Exclusive),
    }
}

fn fits(disk: &Disk, source: &Source) -> Result<()> {
    if let Some(size) = source.size.filter(|s| *s > disk.size) {
        return Err(too_small(&disk.path, disk.size, size));
    }
    source
        .added_partitions(disk.size)
        .map_err(|e| e.within(disk.path.display()))?;
    Ok(())
}

fn too_small(path: &Path, has: u64, needs: u64) -> Error {
    Error::new(
        Kind::Usage,
        format!(
            "{} is too small: it has {has} bytes, and the image takes {needs}",
            path.display()
        ),
    )
    .hint("choose a larger device")
}

/// An open target.
pub struct Device {
    direct: Direct,
    path: PathBuf,
    /// The file in the making, of a new one.
    pending: Option<Pending>,
    /// It is a block device.
    disk: bool,
    /// What isn't written reads as zeros.
    zero: bool,
    /// The device can zero a range by itself.
    offloads_zeros: bool,
    /// Its size, where it has one.
    limit: Option<u64>,
    /// Something was written or cleared.
    touched: bool,
}

impl Device {
    fn new(path: PathBuf, direct: Direct) -> Self {
        Self {
            direct,
            path,
            pending: None,
            disk: false,
            zero: false,
            offloads_zeros: false,
            limit: None,
            touched: false,
        }
    }

    /// What it is called.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its bytes are: of a new file, aside.
    pub fn place(&self) -> &Path {
        self.pending.as_ref().map_or(&self.path, Pending::path)
    }

    /// Whether what isn't written reads as zeros.
    pub fn is_zero(&self) -> bool {
        self.zero
    }

    /// Makes sure that it reaches to `end`.
    ///
    /// # Errors
    /// [`Kind::Usage`] if it doesn't.
    pub fn reserve(&self, end: u64) -> Result<()> {
        match self.limit {
            Some(limit) if limit < end => Err(too_small(&self.path, limit, end)),
            _ => Ok(()),
        }
    }

    /// Writes bytes; a multiple of 4096 from such a multiple where that is possible.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        self.touched = true;
        self.direct
            .write_all_at(bytes, offset)
            .at("writing", &self.path)
    }

    /// Makes a range read as zeros, by the device itself where it can.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn zero(&mut self, offset: u64, len: u64) -> Result<()> {
        if self.zero {
            return Ok(());
        }
        self.touched = true;
        let mut buffer = None;
        let mut done = 0;
        while done < len {
            if self.offloads_zeros {
                let step = (len - done).min(ZERO_STEP);
                match ioctl::zero_out(self.direct.file(), offset + done, step) {
                    Ok(()) => done += step,
                    // It says that it can and does not: by hand from here on.
                    Err(_) => self.offloads_zeros = false,
                }
                continue;
            }
            let zeros = buffer.get_or_insert_with(|| Buffer::new(CLEARED as usize));
            let step = (len - done).min(CLEARED);
            self.write(&zeros[..step as usize], offset + done)?;
            done += step;
        }
        Ok(())
    }

    /// Fills the buffer.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn read(&mut self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.direct
            .read_exact_at(bytes, offset)
            .at("reading back", &self.path)
    }

    /// Gives a file its length: that of the image, or its own if it was longer.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn extend(&mut self, len: u64) -> Result<()> {
        if self.disk {
            return Ok(());
        }
        let file = self.direct.file();
        let has = file.metadata().at("looking at", &self.path)?.len();
        if has < len {
            file.set_len(len).at("writing", &self.path)?;
        }
        Ok(())
    }

    /// Keeps others from reading a file, before secrets come into it.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn restrict(&self) -> Result<()> {
        if self.disk {
            return Ok(());
        }
        let file = self.direct.file();
        let mode = file.metadata().at("looking at", &self.path)?.permissions();
        let mode = fs::Permissions::from_mode(mode.mode() & 0o600);
        file.set_permissions(mode)
            .at("setting the mode of", &self.path)
    }

    /// Makes everything durable and empties the cache of it.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn settle(&self) -> Result<()> {
        self.direct.settle().at("writing", &self.path)
    }

    /// Ends the work: a new file appears, and of a disk the kernel reads the new
    /// table. `secret` is whether others must not read a new file.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn finish(self, secret: bool, progress: &Progress) -> Result<()> {
        self.settle()?;
        if self.disk {
            if let Err(e) = reread(self.direct.file()) {
                progress.warn(&format!(
                    "{}: the kernel still has the old partition table ({e}): unplug the device and plug it in again",
                    self.path.display()
                ));
            }
            return Ok(());
        }
        match self.pending {
            Some(pending) => pending.commit(if secret { 0o600 } else { 0o644 }),
            None => Ok(()),
        }
    }

    /// What a failure left behind, said with it.
    pub fn explain(&self, error: Error) -> Error {
        if self.pending.is_some() || !self.touched {
            return error;
        }
        let what = match error.kind {
            Kind::Interrupted => "stopped",
            _ => error.message(),
        };
        let message = format!(
            "{what}; {} now holds an incomplete image",
            self.path.display()
        );
        let hint = error.advice().unwrap_or("write it again before it is used");
        Error::new(error.kind, message).hint(hint)
    }
}

/// Makes the kernel read the table. udev opens a disk that was just written to, for
/// a moment.
fn reread(device: &fs::File) -> io::Result<()> {
    for _ in 0..20 {
        match ioctl::reread_partitions(device) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
                std::thread::sleep(Duration::from_millis(100));
            }
            result => return result,
        }
    }
    ioctl::reread_partitions(device)
}

#[cfg(test)]
mod tests {
    use super::super::devices::{How, Transport, Use};
    use super::*;

    fn disk(uses: &[How]) -> Disk {
        Disk {
            name: "sdb".into(),
            path: "/dev/sdb".into(),
            size: 1 << 30,
            model: String::new(),
            transport: Transport::Usb,
            removable: true,
            read_only: false,
            offloads_zeros: false,
            uses: uses
                .iter()
                .map(|how| Use {
                    device: "sdb1".into(),
                    how: how.clone(),
                })
                .collect(),
        }
    }

    #[test]
    fn a_disk_in_use_takes_insisting() {
        let mounted = disk(&[How::Mounted("/mnt".into())]);
        let refused = permit(&mounted, false).unwrap_err();
        assert_eq!(refused.kind, Kind::Missing);
        assert!(refused.message().contains("mounted on /mnt"), "{refused}");
        assert_eq!(permit(&mounted, true).unwrap(), Share::Shared);
        assert_eq!(permit(&disk(&[]), false).unwrap(), Share::Exclusive);
    }

    #[test]
    fn the_systems_disk_takes_insisting_and_is_named() {
        let system = disk(&[How::Held("dm-0".into()), How::Mounted("/".into())]);
        let refused = permit(&system, false).unwrap_err();
        assert_eq!(refused.kind, Kind::Usage);
        assert!(refused.message().contains("this system runs from"));
        assert!(refused.advice().unwrap().contains("/dev/sdb /dev/sdb"));
        assert_eq!(permit(&system, true).unwrap(), Share::Shared);
    }

    #[test]
    fn a_locked_card_stays_locked() {
        let locked = Disk {
            read_only: true,
            ..disk(&[])
        };
        assert!(permit(&locked, true).is_err());
    }

    #[test]
    fn a_disk_too_small_is_refused_however_often_it_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.img");
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        let source = Source::open(&path).unwrap();
        let small = Disk {
            size: (1 << 20) - 512,
            ..disk(&[])
        };
        let refused = fits(&small, &source).unwrap_err();
        assert_eq!(refused.kind, Kind::Usage);
        assert!(refused.message().contains("too small"), "{refused}");
        fits(&disk(&[]), &source).unwrap();
    }

    #[test]
    fn a_disk_that_holds_the_image_but_no_node_is_too_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.img");
        let table = slipway_images::layout::Sizes::X86_64
            .shipped(b"seed")
            .unwrap();
        crate::formats::gpt::assemble(&path, &table, |_, _| Ok(())).unwrap();
        let source = Source::open(&path).unwrap();
        let refused = fits(&disk(&[]), &source).unwrap_err();
        assert!(refused.message().contains("a node needs"), "{refused}");
        let large = Disk {
            size: 4 << 30,
            ..disk(&[])
        };
        fits(&large, &source).unwrap();
        // root-b and data, behind each other.
        let added = source.added_partitions(large.size).unwrap();
        assert_eq!(added, [897 << 20, 1665 << 20]);
    }
}
