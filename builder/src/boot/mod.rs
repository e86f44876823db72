//! From power on to the kernel: what a board's loader finds on the disk.
//!
//! | | UEFI | U-Boot |
//! |---|---|---|
//! | first partition | `esp`: systemd-boot | `firmware`: what the board's ROM wants, U-Boot, a script |
//! | a slot's payload | a unified kernel image, a file on `esp` | a FAT with kernel, initrd and device trees in `boot-a` |
//! | who counts | systemd-boot, in the file's name | the script, in a file with a checksum |

mod systemd_boot;
mod uboot;
#[cfg(test)]
mod uboot_tests;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use slipway_images::firmware::{DIRECTORY, MANIFEST, Manifest, Piece};
use slipway_images::info;
use slipway_images::layout::{self, Table, derive_uuid};

use crate::board::Board;
use crate::digest;
use crate::error::{Error, Kind, Result};
use crate::formats::{fat, gpt, verity};
use crate::root::Root;
use crate::secure_boot::SecureBoot;
use crate::source::Source;
use crate::tree::{NodeKind, Tree};

pub use uboot::{COMMAND_LINE_FILE, COMMAND_LINE_NAME, INITRD_FILE};

/// Files that packages bring for the boot partitions.
pub struct BootFiles {
    /// The kernel; with UEFI an EFI program.
    kernel: Arc<[u8]>,
    /// Its release (`uname -r`).
    pub release: String,
    loader: Loader,
}

impl BootFiles {
    /// Has the root carry what it takes to renew what runs before a slot is chosen.
    ///
    /// # Errors
    /// [`Kind::Input`] for a loader that can't be signed.
    pub fn carry(&self, root: &mut Tree, keys: Option<&SecureBoot>) -> Result<()> {
        let pieces = match &self.loader {
            Loader::SystemdBoot(files) => files.pieces(keys)?,
            Loader::UBoot(files) => files.pieces(),
        };
        let mut manifest = Manifest { pieces: Vec::new() };
        for (place, content) in pieces {
            let piece = Piece::new(place, &content);
            let path = format!("{DIRECTORY}/{}", piece.sha256);
            root.file(&path, 0o644, content.to_vec())?;
            manifest.pieces.push(piece);
        }
        let text = serde_json::to_vec_pretty(&manifest)
            .map_err(|e| Error::new(Kind::Bug, format!("the firmware's manifest: {e}")))?;
        root.file(&format!("{DIRECTORY}/{MANIFEST}"), 0o644, text)
    }
}

enum Loader {
    SystemdBoot(systemd_boot::Files),
    UBoot(uboot::Files),
}

/// Takes kernel and loader out of the tree: they live on the boot partitions.
///
/// # Errors
/// [`Kind::Input`] where a package doesn't bring what the board needs of it.
pub fn take(tree: &mut Tree, board: &Board, source: &Source) -> Result<BootFiles> {
    let (release, kernel) = tree
        .below("boot")
        .find_map(|(path, node)| match &node.kind {
            NodeKind::File(content) => Some((path.strip_prefix("boot/vmlinuz-")?, content)),
            _ => None,
        })
        .ok_or_else(|| missing("boot/vmlinuz-*", &board.kernel.package))?;
    let (release, kernel) = (release.to_owned(), kernel.read()?);
    let loader = match board.boot.method {
        info::Loader::SystemdBoot => Loader::SystemdBoot(systemd_boot::Files::take(tree, board)?),
        info::Loader::UBoot => Loader::UBoot(uboot::Files::take(tree, board, source, &release)?),
    };
    const TAKEN: [&str; 5] = [
        "boot/vmlinuz-",
        "usr/lib/linux-image-",
        "usr/lib/raspi-firmware/",
        "usr/lib/systemd/boot/",
        "usr/lib/u-boot/",
    ];
    tree.retain(|path, _| !TAKEN.iter().any(|taken| path.starts_with(taken)));
    Ok(BootFiles {
        kernel,
        release,
        loader,
    })
}

/// Digest of the files that the board names and that lie beside its TOML; none without any.
///
/// # Errors
/// [`Kind::Io`].
pub fn digest_beside(source: &Source, board: &Board) -> Result<Option<String>> {
    let mut all = Vec::new();
    let files = board.boot.files.iter().map(|file| &file.from);
    for file in files.chain(&board.boot.overlays) {
        if let Some(content) = uboot::beside(source, file)? {
            all.extend(digest::hex(&content).bytes());
        }
    }
    Ok((!all.is_empty()).then(|| digest::hex(&all)))
}

fn missing(what: &str, package: &str) -> Error {
    Error::new(Kind::Input, format!("package {package} brings no {what}"))
}

/// What a boot partition is made from.
pub struct Ingredients<'a> {
    /// The board.
    pub board: &'a Board,
    /// The root, with the loader's files.
    pub root: &'a Root,
    /// Root hash of it.
    pub hash: &'a verity::RootHash,
    /// What numbers follow from.
    pub seed: &'a [u8],
    /// `SOURCE_DATE_EPOCH`.
    pub epoch: i64,
    /// Keys to sign loader and kernel with.
    pub keys: Option<&'a SecureBoot>,
}

impl Ingredients<'_> {
    fn command_line(&self) -> String {
        let mut words = vec![format!("roothash={}", self.hash)];
        words.extend(self.board.kernel.command_line.iter().cloned());
        words.join(" ")
    }

    /// Writes a FAT into the partition of that name.
    fn write_fat(
        &self,
        tree: &Tree,
        file: &File,
        table: &Table,
        name: &str,
        label: &str,
        purpose: &str,
    ) -> Result<()> {
        let partition = gpt::partition(table, name)?;
        let options = fat::Options {
            size: partition.size().get(),
            label: label.to_owned(),
            serial: derive_uuid(self.seed, purpose).as_u128() as u32,
            epoch: self.epoch,
        };
        fat::write(tree, file, partition.offset().get(), &options)
    }
}

/// Writes what comes before the root into an image with that table.
///
/// # Errors
/// [`Kind::Input`] for what doesn't fit, [`Kind::Io`].
pub fn write(from: &Ingredients<'_>, file: &File, table: &Table, image: &Path) -> Result<()> {
    match &from.root.boot.loader {
        Loader::SystemdBoot(files) => {
            let uki = files.unified_kernel(from)?;
            let mut esp = files.boot_partition(uki)?;
            if let Some(keys) = from.keys {
                keys.seal(&mut esp)?;
            }
            systemd_boot::check_room(&esp, from.board.image.boot_size)?;
            from.write_fat(&esp, file, table, layout::ESP, "SLIPWAY", "boot partition")
        }
        Loader::UBoot(files) => {
            if from.keys.is_some() {
                return Err(Error::new(
                    Kind::Input,
                    format!("board {}: U-Boot has no Secure Boot", from.board.name),
                )
                .hint("build it without --secure-boot-keys"));
            }
            let firmware = files.firmware_partition()?;
            from.write_fat(
                &firmware,
                file,
                table,
                layout::FIRMWARE,
                "SLIPWAY",
                "boot partition",
            )?;
            let area = files.boot_area(from)?;
            let name = layout::Slot::A.boot();
            from.write_fat(&area, file, table, name, "SLIPWAYBOOT", "boot area")?;
            if from.board.image.hybrid_mbr {
                layout::share_first(&mut &*file, table)
                    .map_err(|e| Error::new(Kind::Io, e.to_string()).within(image.display()))?;
            }
            files.write_raw(file, table, image)
        }
    }
}
