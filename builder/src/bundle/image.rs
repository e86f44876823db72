//! An image taken apart again: what of it goes into a slot.
//!
//! | what | from, with systemd-boot | with U-Boot |
//! |---|---|---|
//! | kernel payload | slot a's file on the boot partition | the partition `boot-a` |
//! | root hash | `roothash=` in its section `.cmdline` | `roothash=` in its `slot.env` |
//! | board, version, release | `image.json` in its section `.initrd` | `image.json` in its `initrd` |
//! | root | the partition `root-a`, up to its verity superblock |

use std::fs::File;
use std::io::{self, Read as _};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use slipway_images::bundle::PayloadName;
use slipway_images::info::{IMAGE_INFO_PATH, ImageInfo};
use slipway_images::layout::{self, Partition, Sectors, Slot};
use slipway_images::slot::fat::Volume;
use slipway_images::slot::{DIRECTORY, Disk, shipped_name};
use slipway_images::verity::{self, BLOCK, RootHash, SUPERBLOCK, Superblock};

use crate::boot;
use crate::error::{At as _, Error, Kind, Result};
use crate::flash::source::{Piece, Source, is_packed};
use crate::formats::{sparse, uki};
use crate::progress::Progress;

/// Filesystems end at a whole one of these.
const STEP: u64 = 1 << 20;
/// Most bytes of an initrd unpacked.
const INITRD_LIMIT: u64 = 1 << 30;

/// An image, opened and found consistent: its root is the one that its kernel starts.
#[derive(Debug)]
pub struct Image {
    /// What it says of itself.
    pub info: ImageInfo,
    /// What its kernel starts.
    pub root_hash: RootHash,
    /// The kernel image.
    pub kernel: Vec<u8>,
    file: File,
    path: PathBuf,
    /// Where the root begins in the file.
    offset: u64,
    /// Bytes of the root's filesystem.
    root_size: u64,
}

impl Image {
    /// Opens an image; a compressed one is unpacked first, into a file without a name.
    ///
    /// # Errors
    /// [`Kind::Input`] for what is no image or not whole, [`Kind::Io`],
    /// [`Kind::Interrupted`].
    pub fn open(path: &Path, progress: &Progress) -> Result<Self> {
        let file = match is_packed(path)? {
            true => unpack(path, progress)?,
            false => File::open(path).at("opening", path)?,
        };
        let refuse = |what: String| {
            Error::new(Kind::Input, format!("{}: {what}", path.display()))
                .hint("it has to be an image as `slipway build` makes it")
        };
        let len = file.metadata().at("reading", path)?.len();
        let table = layout::read(&mut &file, Sectors::new(len / Sectors::SIZE))
            .map_err(|e| refuse(e.to_string()))?
            .table;
        let part = |name: &str| {
            table
                .partition(name)
                .ok_or_else(|| refuse(format!("it has no partition `{name}`")))
        };
        let (kernel, started) = match table.partition(Slot::A.boot()) {
            None => {
                let kernel =
                    kernel(&file, part(layout::ESP)?).map_err(|e| refuse(e.to_string()))?;
                let started = read_kernel(&kernel);
                (kernel, started)
            }
            Some(area) => {
                let mut kernel = vec![0; area.size().get() as usize];
                file.read_exact_at(&mut kernel, area.offset().get())
                    .at("reading", path)?;
                let started = read_area(&file, area);
                (kernel, started)
            }
        };
        let (root_hash, info) = started.map_err(|e| e.within(path.display()))?;
        let slot = part(Slot::A.root())?;
        let root_size = filesystem(&file, slot, &root_hash)
            .at("reading", path)?
            .ok_or_else(|| refuse("its root isn't the one that its kernel starts".to_owned()))?;
        let image = Self {
            info,
            root_hash,
            kernel,
            file,
            path: path.to_owned(),
            offset: slot.offset().get(),
            root_size,
        };
        image.check(progress)?;
        Ok(image)
    }

    /// Bytes of a payload.
    #[must_use]
    pub fn size(&self, name: PayloadName) -> u64 {
        match name {
            PayloadName::Kernel => self.kernel.len() as u64,
            PayloadName::Root => self.root_size,
        }
    }

    /// Reads a part of a payload, as far as there is one.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn read(&self, name: PayloadName, start: u64, len: u32) -> Result<Vec<u8>> {
        let size = self.size(name);
        let (start, end) = (start.min(size), start.saturating_add(len.into()).min(size));
        match name {
            PayloadName::Kernel => Ok(self.kernel[start as usize..end as usize].to_vec()),
            PayloadName::Root => {
                let mut bytes = vec![0; (end - start) as usize];
                self.read_root(start, &mut bytes)?;
                Ok(bytes)
            }
        }
    }

    fn read_root(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buffer, self.offset + offset)
            .at("reading", &self.path)
    }

    /// Where it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the root's tree once more: a bundle of a damaged image would be refused by
    /// every node, after it was fetched.
    fn check(&self, progress: &Progress) -> Result<()> {
        let blocks = NonZeroU64::new(self.root_size / BLOCK)
            .ok_or_else(|| Error::new(Kind::Input, "the root is empty"))?;
        let task = progress.task("hashing the root filesystem", Some(self.root_size));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let salt = verity::salt(&self.info.board);
        let all = 0..blocks.get();
        let tree = verity::tree(
            blocks,
            std::slice::from_ref(&all),
            &salt,
            threads,
            |block, buffer: &mut [u8]| {
                progress.check()?;
                task.add(buffer.len() as u64);
                self.read_root(block * BLOCK, buffer)
            },
        )?;
        if tree.root == self.root_hash {
            return Ok(());
        }
        Err(Error::new(
            Kind::Input,
            format!(
                "{}: the root has the hash {}, and its kernel starts {}",
                self.path.display(),
                tree.root,
                self.root_hash
            ),
        )
        .hint("the image is damaged, or was booted without verity: build it again"))
    }
}

/// Unpacks a download into a file that goes when it is closed.
fn unpack(path: &Path, progress: &Progress) -> Result<File> {
    let mut source = Source::open(path)?;
    let dir = std::env::temp_dir();
    let file = tempfile::tempfile_in(&dir).at("creating a file in", &dir)?;
    let task = progress.task("unpacking the image", source.size);
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        progress.check()?;
        let n = match source.next(&mut buffer)? {
            Piece::End => break,
            Piece::Hole(n) => n,
            Piece::Data(n) => {
                sparse::write_at(&file, at, &buffer[..n]).at("writing into", &dir)?;
                n
            }
        };
        at += n as u64;
        task.add(n as u64);
    }
    file.set_len(at).at("writing into", &dir)?;
    Ok(file)
}

/// A partition of an image, to be read.
struct Part<'a> {
    file: &'a File,
    offset: u64,
}

impl Disk for Part<'_> {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, self.offset + offset)
    }

    fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The kernel image of slot a.
fn kernel(file: &File, esp: &Partition) -> Result<Vec<u8>, slipway_images::slot::FatError> {
    let path = format!("{DIRECTORY}/{}", shipped_name());
    let mut volume = Volume::open(Part {
        file,
        offset: esp.offset().get(),
    })?;
    let entry = volume
        .find(&path)?
        .ok_or(slipway_images::slot::FatError::Missing(path))?;
    let mut bytes = vec![0; entry.size as usize];
    volume.read(&entry, 0, &mut bytes)?;
    Ok(bytes)
}

/// What a kernel image starts, and what the image says of itself.
fn read_kernel(kernel: &[u8]) -> Result<(RootHash, ImageInfo)> {
    let sections = uki::read(kernel)?;
    let section = |name: &str| {
        let found = sections.iter().find(|section| section.name == name);
        found.map(|section| section.data).ok_or_else(|| {
            Error::new(
                Kind::Input,
                format!("its kernel image has no section {name}"),
            )
        })
    };
    let cmdline = String::from_utf8_lossy(section(".cmdline")?);
    Ok((root_hash(&cmdline)?, info(section(".initrd")?)?))
}

/// What a boot area starts, and what the image says of itself.
fn read_area(file: &File, area: &Partition) -> Result<(RootHash, ImageInfo)> {
    let wrong =
        |e: slipway_images::slot::FatError| Error::new(Kind::Input, format!("its boot area: {e}"));
    let offset = area.offset().get();
    let mut volume = Volume::open(Part { file, offset }).map_err(wrong)?;
    let mut file = |name: &str| -> Result<Vec<u8>> {
        let entry = volume.find(name).map_err(wrong)?;
        let entry =
            entry.ok_or_else(|| Error::new(Kind::Input, format!("its boot area has no {name}")))?;
        let mut bytes = vec![0; entry.size as usize];
        volume.read(&entry, 0, &mut bytes).map_err(wrong)?;
        Ok(bytes)
    };
    let text = file(boot::COMMAND_LINE_FILE)?;
    let text = String::from_utf8_lossy(&text);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(boot::COMMAND_LINE_NAME));
    Ok((
        root_hash(line.unwrap_or_default())?,
        info(&file(boot::INITRD_FILE)?)?,
    ))
}

fn root_hash(command_line: &str) -> Result<RootHash> {
    let words = command_line.split_ascii_whitespace();
    words
        .filter_map(|word| word.strip_prefix("roothash="))
        .find_map(|hash| hash.parse().ok())
        .ok_or_else(|| Error::new(Kind::Input, "its kernel's command line has no roothash="))
}

/// `image.json` of an initrd, compressed or not: kernel images had compressed ones once.
fn info(initrd: &[u8]) -> Result<ImageInfo> {
    let wrong = |e: io::Error| Error::new(Kind::Input, format!("its initrd: {e}"));
    let unpacked: Box<dyn io::Read + '_> =
        match initrd.starts_with(&zstd::zstd_safe::MAGICNUMBER.to_le_bytes()) {
            true => Box::new(zstd::Decoder::new(initrd).map_err(wrong)?),
            false => Box::new(initrd),
        };
    let mut archive = unpacked.take(INITRD_LIMIT);
    let wanted = IMAGE_INFO_PATH.trim_start_matches('/');
    loop {
        let mut entry = cpio::newc::Reader::new(archive).map_err(wrong)?;
        if entry.entry().is_trailer() {
            let what = format!("its initrd has no {wanted}");
            return Err(Error::new(Kind::Input, what));
        }
        if entry.entry().name().trim_start_matches('/') != wanted {
            archive = entry.finish().map_err(wrong)?;
            continue;
        }
        let mut text = String::new();
        entry.read_to_string(&mut text).map_err(wrong)?;
        return serde_json::from_str(&text)
            .map_err(|e| Error::new(Kind::Input, format!("its {wanted}: {e}")));
    }
}

/// Bytes of the filesystem in a slot: up to the superblock of the tree with this root hash.
fn filesystem(file: &File, slot: &Partition, hash: &RootHash) -> io::Result<Option<u64>> {
    let mut bytes = [0; SUPERBLOCK];
    for size in (1..slot.size().get() / STEP).rev().map(|n| n * STEP) {
        file.read_exact_at(&mut bytes, slot.offset().get() + size)?;
        let found = Superblock::parse(&bytes);
        if found.is_ok_and(|tree| tree.uuid == hash.uuid() && tree.covered() == size) {
            return Ok(Some(size));
        }
    }
    Ok(None)
}
