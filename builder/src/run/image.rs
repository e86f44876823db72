//! Which image is meant, and making it the ground of a machine's disk.

use std::fs::{self, File};
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use slipway_images::info::Loader;
use slipway_images::layout::{self, Sectors};
use slipway_qemu::VmDir;
use slipway_qemu::machine::Arch;

use crate::error::{At as _, Error, Kind, Result, near_miss};
use crate::progress::Progress;

/// The board that `slipway run` without arguments means.
pub const DEFAULT_BOARD: &str = "x86_64";

/// The file in a machine's directory that its overlay rests on.
const BASE: &str = "base.img";

/// The image that `given` names: a path, or a board whose image was built into
/// `images`.
///
/// # Errors
/// [`Kind::Input`] if there is none, with the near misses or how to build it.
pub fn find(given: &str, images: &Path) -> Result<PathBuf> {
    if given.contains('/') || given.ends_with(".img") || given.ends_with(".img.zst") {
        let path = std::path::absolute(given).at("resolving", given)?;
        return if path.is_file() {
            Ok(path)
        } else {
            Err(missing_path(&path))
        };
    }
    let path = images.join(format!("{given}.img"));
    if path.is_file() {
        return std::path::absolute(&path).at("resolving", &path);
    }
    let packed = images.join(format!("{given}.img.zst"));
    if packed.is_file() {
        return std::path::absolute(&packed).at("resolving", &packed);
    }
    let built = images_in(images);
    let error = Error::new(
        Kind::Input,
        format!("no image of board `{given}` in {}", images.display()),
    );
    Err(match near_miss(given, built.iter().map(String::as_str)) {
        Some(near) => error.hint(format!(
            "did you mean `{near}`? Otherwise build it first: slipway build {given}"
        )),
        None if built.is_empty() => error.hint(format!("build it first: slipway build {given}")),
        None => error.hint(format!(
            "there are images of: {}; or build it first: slipway build {given}",
            built.join(", ")
        )),
    })
}

fn missing_path(path: &Path) -> Error {
    let error = Error::new(Kind::Input, format!("there is no image {}", path.display()));
    let dir = path.parent().unwrap_or(Path::new("/"));
    let near = path.file_name().and_then(|n| n.to_str()).and_then(|name| {
        let there = images_in(dir);
        near_miss(
            name.trim_end_matches(".zst").trim_end_matches(".img"),
            there.iter().map(String::as_str),
        )
        .map(|near| dir.join(format!("{near}.img")))
    });
    match near {
        Some(near) => error.hint(format!("did you mean {}?", near.display())),
        None => error.hint("`slipway build` makes one and says where"),
    }
}

/// The names of images in a directory, without their endings. One that can't be
/// read has none: this is for advice only.
fn images_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| {
            let name = name.strip_suffix(".zst").unwrap_or(&name);
            Some(name.strip_suffix(".img")?.to_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// What kind of machine an image starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Its processor.
    pub arch: Arch,
    /// What starts it.
    pub loader: Loader,
}

/// For which machine an image is, by its partitions. What has no root of ours is taken for a
/// PC's.
///
/// # Errors
/// [`Kind::Io`], [`Kind::Input`] if it can't be unpacked.
pub fn target(image: &Path) -> Result<Target> {
    // The primary partition table; what a disk has at its end isn't asked for.
    const HEAD: u64 = 34 * Sectors::SIZE;
    let file = File::open(image).at("opening", image)?;
    let mut head = Vec::new();
    if image.extension().is_some_and(|e| e == "zst") {
        let mut input = zstd::Decoder::new(file).at("reading", image)?;
        input.window_log_max(31).at("reading", image)?;
        let read = input.take(HEAD).read_to_end(&mut head);
        read.map_err(|e| cannot_unpack(image, &e))?;
    } else {
        let read = file.take(HEAD).read_to_end(&mut head);
        read.at("reading", image)?;
    }
    let size = Sectors::new(u64::MAX / Sectors::SIZE);
    let pc = Target {
        arch: Arch::X86_64,
        loader: Loader::SystemdBoot,
    };
    let Ok(found) = layout::read(&mut io::Cursor::new(head), size) else {
        return Ok(pc);
    };
    let types = found.table.partitions.iter().map(|p| p.type_guid);
    let mut known = types.filter_map(|guid| match guid {
        layout::TYPE_ROOT_X86_64 => Some(Arch::X86_64),
        layout::TYPE_ROOT_ARM64 => Some(Arch::Aarch64),
        layout::TYPE_ROOT_ARM => Some(Arch::Armv7),
        _ => None,
    });
    Ok(Target {
        arch: known.next_back().unwrap_or(pc.arch),
        loader: match found.table.partition(layout::FIRMWARE) {
            Some(_) => Loader::UBoot,
            None => Loader::SystemdBoot,
        },
    })
}

fn cannot_unpack(image: &Path, why: &io::Error) -> Error {
    Error::new(
        Kind::Input,
        format!("{} can't be unpacked: {why}", image.display()),
    )
    .hint("fetch it again, or build it: slipway build")
}

/// Makes `image` the ground of a machine's disk and returns the path to rest on.
/// A hard link where that is possible: when the image is built anew, which puts
/// another file in its place, the disk keeps the old one under it. Across
/// filesystems the image itself; what is compressed is unpacked.
///
/// # Errors
/// [`Kind::Input`] if it can't be unpacked, [`Kind::Io`].
pub fn provide_base(image: &Path, dir: &VmDir, progress: &Progress) -> Result<PathBuf> {
    let base = dir.file(BASE);
    match fs::remove_file(&base) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).at("removing", &base),
        _ => {}
    }
    if image.extension().is_some_and(|e| e == "zst") {
        unpack(image, &base, progress)?;
        return Ok(base);
    }
    // A symbolic link would be linked itself, and say nothing about its target.
    let image = fs::canonicalize(image).at("resolving", image)?;
    match fs::hard_link(&image, &base) {
        Ok(()) => Ok(base),
        Err(_) => Ok(image),
    }
}

/// Where the file is that a machine's disk rests on if it has one of its own.
pub fn base(dir: &VmDir) -> PathBuf {
    dir.file(BASE)
}

/// Makes `base`, which the machine's disk is to rest on, a file that nothing else shares.
///
/// # Errors
/// [`Kind::Io`].
pub fn own_base(base: &Path, dir: &VmDir, progress: &Progress) -> Result<PathBuf> {
    let own = dir.file(BASE);
    let mut input = File::open(base).at("opening", base)?;
    let metadata = input.metadata().at("reading", base)?;
    if base == own && metadata.nlink() == 1 {
        return Ok(own);
    }
    let _task = progress.task("copying the image", None);
    place(&mut input, &own, progress).map_err(|e| match e {
        Copy::Read(e) => Error::io("reading", base, &e),
        Copy::Write(e) => Error::io("writing", &own, &e),
        Copy::Stopped(e) => e,
    })?;
    Ok(own)
}

/// Whether the machine's disk rests on a file of its own.
pub fn has_base(dir: &VmDir) -> bool {
    dir.file(BASE).exists()
}

fn unpack(image: &Path, base: &Path, progress: &Progress) -> Result<()> {
    let packed = File::open(image).at("opening", image)?;
    let len = packed.metadata().at("reading", image)?.len();
    let task = progress.task(format!("unpacking {}", image.display()), Some(len));
    let counted = Counted {
        inner: packed,
        count: |n| task.add(n),
    };
    let mut input = zstd::Decoder::new(counted).at("reading", image)?;
    // Where the packer used a long window, as `slipway build` does.
    input.window_log_max(31).at("reading", image)?;
    place(&mut input, base, progress).map_err(|e| match e {
        Copy::Read(e) => cannot_unpack(image, &e),
        Copy::Write(e) => Error::io("writing", base, &e),
        Copy::Stopped(e) => e,
    })
}

/// Copies into a file that is there whole or not at all.
fn place(
    input: &mut impl Read,
    target: &Path,
    progress: &Progress,
) -> std::result::Result<(), Copy> {
    let aside = target.with_extension("new");
    let mut output = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .map_err(Copy::Write)?;
    copy_sparse(input, &mut output, || progress.check())?;
    fs::rename(&aside, target).map_err(Copy::Write)
}

enum Copy {
    Read(io::Error),
    Write(io::Error),
    Stopped(Error),
}

/// Copies, leaving holes where there are only zeros.
fn copy_sparse(
    input: &mut impl Read,
    output: &mut File,
    mut check: impl FnMut() -> Result<()>,
) -> std::result::Result<(), Copy> {
    const BLOCK: usize = 64 << 10;
    let mut block = vec![0; BLOCK];
    let mut length = 0_u64;
    loop {
        check().map_err(Copy::Stopped)?;
        let mut filled = 0;
        while filled < BLOCK {
            match input.read(&mut block[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Copy::Read(e)),
            }
        }
        if filled == 0 {
            return output.set_len(length).map_err(Copy::Write);
        }
        let piece = &block[..filled];
        if piece.iter().any(|&b| b != 0) {
            output
                .seek(SeekFrom::Start(length))
                .and_then(|_| output.write_all(piece))
                .map_err(Copy::Write)?;
        }
        length += filled as u64;
    }
}

struct Counted<R, F> {
    inner: R,
    count: F,
}

impl<R: Read, F: FnMut(u64)> Read for Counted<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        (self.count)(n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use slipway_qemu::StateDir;

    use super::*;
    use crate::progress::Style;

    #[test]
    fn an_image_that_is_not_there_has_near_misses() {
        let dir = tempfile::tempdir().unwrap();
        let none = find("x86_64", dir.path()).unwrap_err();
        assert_eq!(none.kind, Kind::Input);
        assert_eq!(none.advice(), Some("build it first: slipway build x86_64"));

        fs::write(dir.path().join("x86_64.img"), "").unwrap();
        find("x86_64", dir.path()).unwrap();
        let near = find("x86-64", dir.path()).unwrap_err();
        assert!(
            near.advice().unwrap().contains("did you mean `x86_64`"),
            "{near}"
        );
        let far = find("raspberrypi", dir.path()).unwrap_err();
        assert!(far.advice().unwrap().contains("images of: x86_64"), "{far}");

        let path = dir.path().join("x86_46.img");
        let near = find(path.to_str().unwrap(), dir.path()).unwrap_err();
        assert!(near.advice().unwrap().contains("x86_64.img?"), "{near}");
    }

    #[test]
    fn a_rebuilt_image_leaves_the_old_ground() {
        let tmp = tempfile::tempdir().unwrap();
        let vm = StateDir::new(tmp.path()).vm(&"x".parse().unwrap());
        vm.create().unwrap();
        let image = tmp.path().join("x.img");
        fs::write(&image, "first").unwrap();
        let progress = Progress::with_style(Style::Quiet);
        let base = provide_base(&image, &vm, &progress).unwrap();
        crate::atomic::write(&image, b"second", 0o644).unwrap();
        assert_eq!(fs::read(&base).unwrap(), b"first");
        let base = provide_base(&image, &vm, &progress).unwrap();
        assert_eq!(fs::read(&base).unwrap(), b"second");
    }

    #[test]
    fn a_packed_image_is_unpacked_with_holes() {
        let tmp = tempfile::tempdir().unwrap();
        let vm = StateDir::new(tmp.path()).vm(&"x".parse().unwrap());
        vm.create().unwrap();
        let image = tmp.path().join("x.img.zst");
        let mut bytes = vec![0; 8 << 20];
        bytes[5 << 20] = 7;
        bytes.extend([1, 2, 3]);
        bytes.extend([0; 5]);
        fs::write(&image, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
        let progress = Progress::with_style(Style::Quiet);
        let base = provide_base(&image, &vm, &progress).unwrap();
        assert!(fs::read(&base).unwrap() == bytes);
        assert!(fs::metadata(&base).unwrap().blocks() * 512 < 1 << 20);

        fs::write(&image, b"not zstd").unwrap();
        let error = provide_base(&image, &vm, &progress).unwrap_err();
        assert_eq!(error.kind, Kind::Input);
        assert!(!has_base(&vm), "half an image was left");
    }
}
