//! A seed in the boot partition of an image or disk: files at the root of its FAT.
//!
//! All changes are made in memory first, sector by sector, and the filesystem that
//! results is checked; only then are the sectors written, and put back as they were
//! if that fails. A seed that was there before is replaced as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use hadris_fat::sync::{FatFs, check};
use hadris_fs::sync::Volume;
use hadris_fs::{MountOptions, Severity};
use hadris_io::ErrorType;
use hadris_storage::sync::BlockDevice;
use hadris_storage::{BlockIndex, BlockSize};
use slipway_images::layout::{Partition, Sectors, TYPE_BASIC_DATA, TYPE_ESP, read};

use super::files::{Files, NAMES, OVERLAYS, USER_TXT};
use crate::error::{At as _, Error, Kind, Result};

const SECTOR: usize = Sectors::SIZE as usize;

/// Room for [`check`] to work in: a bit for each cluster, and a path.
const SCRATCH: usize = 64 << 10;

/// Puts the seed's files into the boot partition of an image or disk.
///
/// # Errors
/// [`Kind::Input`] if there is no boot partition or no room; then nothing was
/// changed. [`Kind::Io`], which says whether everything is as it was.
pub fn embed(image: &Path, files: &Files) -> Result<()> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(image)
        .at("opening", image)?;
    let (mut sectors, start) = edit(image, &file, files)?;
    sectors.retain(|_, (new, old)| new != old);
    let put = |new: bool| {
        for (sector, (after, before)) in &sectors {
            let bytes = if new { after } else { before };
            file.write_all_at(bytes, start + sector * SECTOR as u64)?;
        }
        file.sync_all()
    };
    put(true).map_err(|e| {
        let error = Error::io("writing the seed into", image, &e);
        match put(false) {
            Ok(()) => error.within("everything was put back as it was"),
            Err(_) => error.within("the boot partition is half-written: write the image again"),
        }
    })
}

/// New and old bytes of each sector that was written to, by its number in the partition.
type Changes = BTreeMap<u64, ([u8; SECTOR], [u8; SECTOR])>;

/// The changes that put the files there, and where the partition begins.
fn edit(image: &Path, file: &File, files: &Files) -> Result<(Changes, u64)> {
    let refuse = |why: String| {
        Error::new(
            Kind::Input,
            format!("{}, the boot partition: {why}", image.display()),
        )
    };
    let boot = boot_partition(image, file)?;
    let volume = mount(image, file, &boot)?;
    let failed = |e: hadris_fs::Error<io::Error>| match e.kind() {
        hadris_fs::ErrorKind::NoSpace => refuse("there is no room for the seed".to_owned()),
        _ => refuse(e.to_string()),
    };
    for name in NAMES {
        match files.get(name) {
            Some(bytes) => volume.write(name, bytes).map_err(failed)?,
            None if name == USER_TXT => {}
            None if volume.exists(name).map_err(failed)? => {
                volume.remove_file(name).map_err(failed)?;
            }
            None => {}
        }
    }
    for (path, bytes) in files.overlays() {
        volume.create_dir_all(OVERLAYS).map_err(failed)?;
        volume.write(path, bytes).map_err(failed)?;
    }
    let mut overlay = volume
        .into_inner()
        .map_err(|_| Error::new(Kind::Bug, "a file of the boot partition is still open"))?
        .unmount()
        .map_err(|e| refuse(e.to_string()))?;
    let mut wrong = None;
    check(&mut overlay, &mut vec![0; SCRATCH], |finding| {
        if finding.severity() == Severity::Error {
            wrong.get_or_insert_with(|| finding.to_string());
        }
    })
    .map_err(|e| refuse(e.to_string()))?;
    match wrong {
        Some(wrong) => Err(refuse(wrong)),
        None => Ok((overlay.changes, boot.offset().get())),
    }
}

/// Reads the files back from the device and compares them.
///
/// # Errors
/// [`Kind::Untrusted`] if one is another; [`Kind::Input`], [`Kind::Io`].
pub fn compare(image: &Path, files: &Files) -> Result<()> {
    let file = File::open(image).at("opening", image)?;
    // From the device, not from memory; where that is refused the memory has to do.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap_or_default();
    let volume = mount(image, &file, &boot_partition(image, &file)?)?;
    for name in NAMES
        .into_iter()
        .chain(files.overlays().map(|(path, _)| path))
    {
        let found = read_from(&volume, image, name)?;
        let is_kept = name == USER_TXT && files.get(name).is_none();
        if !is_kept && found.as_deref() != files.get(name) {
            return Err(Error::new(
                Kind::Untrusted,
                format!(
                    "{} doesn't hold the {name} that was written",
                    image.display()
                ),
            )
            .hint("the device is worn out: use another"));
        }
    }
    Ok(())
}

/// A file of the boot partition; `None` if it has none of that name.
///
/// # Errors
/// [`Kind::Input`] if there is no boot partition, [`Kind::Io`].
pub fn read_file(image: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let file = File::open(image).at("opening", image)?;
    let volume = mount(image, &file, &boot_partition(image, &file)?)?;
    read_from(&volume, image, name)
}

fn read_from(
    volume: &Volume<FatFs<Overlay<'_>>>,
    image: &Path,
    name: &str,
) -> Result<Option<Vec<u8>>> {
    match volume.read(name) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == hadris_fs::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::new(
            Kind::Io,
            format!("reading {name} from {}: {e}", image.display()),
        )),
    }
}

/// The first partition that firmware starts from.
fn boot_partition(image: &Path, mut file: &File) -> Result<Partition> {
    use std::io::{Seek as _, SeekFrom};
    let size = file.seek(SeekFrom::End(0)).at("reading", image)?;
    let disk = Sectors::new(size / Sectors::SIZE);
    let found = read(&mut file, disk)
        .map_err(|e| Error::new(Kind::Input, format!("{}: {e}", image.display())))?;
    let boot = |p: &Partition| p.type_guid == TYPE_ESP || p.type_guid == TYPE_BASIC_DATA;
    let partition = found.table.partitions.into_iter().find(boot);
    partition.ok_or_else(|| {
        Error::new(
            Kind::Input,
            format!("{} has no boot partition", image.display()),
        )
    })
}

fn mount<'f>(
    image: &Path,
    file: &'f File,
    partition: &Partition,
) -> Result<Volume<FatFs<Overlay<'f>>>> {
    let block = BlockSize::new(SECTOR as u32)
        .ok_or_else(|| Error::new(Kind::Bug, "512 is no block size for the FAT driver"))?;
    let overlay = Overlay {
        file,
        block,
        start: partition.offset().get(),
        sectors: partition.len.get(),
        changes: Changes::new(),
    };
    let fs = FatFs::mount(overlay, MountOptions::new()).map_err(|e| {
        Error::new(
            Kind::Input,
            format!("{}, the boot partition: {e}", image.display()),
        )
    })?;
    Ok(Volume::new(fs))
}

/// A partition whose changes stay in memory.
struct Overlay<'f> {
    file: &'f File,
    block: BlockSize,
    start: u64,
    sectors: u64,
    changes: Changes,
}

impl Overlay<'_> {
    fn original(&self, sector: u64) -> io::Result<[u8; SECTOR]> {
        let mut bytes = [0; SECTOR];
        let at = self.start + sector * SECTOR as u64;
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// Whether so many bytes from a sector lie within the partition.
    fn within(&self, first: BlockIndex, len: usize) -> Result<(), hadris_fs::Error<io::Error>> {
        let count = (len / SECTOR) as u64;
        match first.get().checked_add(count) {
            Some(end) if end <= self.sectors && len.is_multiple_of(SECTOR) => Ok(()),
            _ => Err(hadris_fs::ErrorKind::InvalidInput.into()),
        }
    }
}

impl ErrorType for Overlay<'_> {
    type Error = io::Error;
}

impl BlockDevice for Overlay<'_> {
    fn block_size(&self) -> BlockSize {
        self.block
    }

    fn block_count(&self) -> u64 {
        self.sectors
    }

    fn writable(&self) -> bool {
        true
    }

    fn read_blocks(
        &mut self,
        first: BlockIndex,
        buf: &mut [u8],
    ) -> Result<(), hadris_fs::Error<io::Error>> {
        self.within(first, buf.len())?;
        let at = self.start + first.get() * SECTOR as u64;
        self.file
            .read_exact_at(buf, at)
            .map_err(|e| hadris_fs::Error::device(e, "reading the image"))?;
        let end = first.get() + (buf.len() / SECTOR) as u64;
        for (sector, (new, _)) in self.changes.range(first.get()..end) {
            let at = (sector - first.get()) as usize * SECTOR;
            buf[at..at + SECTOR].copy_from_slice(new);
        }
        Ok(())
    }

    fn write_blocks(
        &mut self,
        first: BlockIndex,
        buf: &[u8],
    ) -> Result<(), hadris_fs::Error<io::Error>> {
        self.within(first, buf.len())?;
        for (sector, bytes) in (first.get()..).zip(buf.as_chunks::<SECTOR>().0) {
            let old = match self.changes.get(&sector) {
                Some((_, old)) => *old,
                None => self
                    .original(sector)
                    .map_err(|e| hadris_fs::Error::device(e, "reading the image"))?,
            };
            self.changes.insert(sector, (*bytes, old));
        }
        Ok(())
    }
}
