//! UEFI: systemd-boot on the ESP, and unified kernel images.

use std::sync::Arc;

use slipway_images::firmware::Place;
use slipway_images::slot::{DIRECTORY, RECORD_FILE, RECORD_SIZE, shipped_name};

use super::{Ingredients, missing};
use crate::board::{Architecture, Board};
use crate::error::{Error, Kind, Result};
use crate::formats::{cpio, uki};
use crate::secure_boot::SecureBoot;
use crate::tree::{NodeKind, Tree};

/// systemd-boot's settings (loader.conf(5)): no menu unless a key is held, no
/// editing of the command line, and the slot that was staged last and isn't used up.
const LOADER_CONF: &str = "timeout 0\neditor no\nconsole-mode keep\nauto-firmware no\n";

/// What packages bring.
pub struct Files {
    /// systemd's stub, the head of a unified kernel.
    stub: Arc<[u8]>,
    /// systemd-boot.
    loader: Arc<[u8]>,
    /// What firmware looks for in `EFI/BOOT` where nothing else is set up (UEFI 2.10,
    /// section 3.5.1.1).
    loader_name: &'static str,
    /// The text of `os-release`.
    os_release: String,
}

impl Files {
    /// Takes them from the tree.
    pub fn take(tree: &Tree, board: &Board) -> Result<Self> {
        let (efi, loader_name) = match board.architecture {
            Architecture::Amd64 => ("x64", "BOOTX64.EFI"),
            Architecture::Arm64 => ("aa64", "BOOTAA64.EFI"),
            Architecture::Armhf => ("arm", "BOOTARM.EFI"),
        };
        let take = |path: &str| -> Result<Arc<[u8]>> {
            tree.content(path)
                .ok_or_else(|| missing(path, &board.boot.package))?
                .read()
        };
        Ok(Self {
            stub: take(&format!("usr/lib/systemd/boot/efi/linux{efi}.efi.stub"))?,
            loader: take(&format!("usr/lib/systemd/boot/efi/systemd-boot{efi}.efi"))?,
            loader_name,
            os_release: String::from_utf8_lossy(&take("etc/os-release")?).into_owned(),
        })
    }

    /// A slot's payload.
    pub fn unified_kernel(&self, from: &Ingredients<'_>) -> Result<Vec<u8>> {
        uki::assemble(uki::Parts {
            stub: &self.stub,
            linux: &from.root.boot.kernel,
            // Not compressed: an update's delta finds the old one in it, 0.4 MB instead of 4.1 for
            // another kernel's modules, and the image's download is compressed anyway.
            initrd: &cpio::archive(&from.root.initrd, from.epoch)?,
            cmdline: &from.command_line(),
            os_release: &uki::without_version(&self.os_release),
            uname: &from.root.boot.release,
        })
    }

    /// What can be renewed later: the loader, signed where the image is.
    pub fn pieces(&self, keys: Option<&SecureBoot>) -> Result<Vec<(Place, Arc<[u8]>)>> {
        let path = self.loader_path();
        let loader = match keys {
            Some(keys) => keys.sign(&path, self.loader.to_vec())?.into(),
            None => self.loader.clone(),
        };
        Ok(vec![(Place::File(path), loader)])
    }

    fn loader_path(&self) -> String {
        format!("EFI/BOOT/{}", self.loader_name)
    }

    /// The ESP.
    pub fn boot_partition(&self, uki: Vec<u8>) -> Result<Tree> {
        let mut esp = Tree::new();
        esp.file(&self.loader_path(), 0o644, self.loader.to_vec())?;
        esp.file(&format!("{DIRECTORY}/{}", shipped_name()), 0o644, uki)?;
        esp.file(RECORD_FILE, 0o644, vec![0; RECORD_SIZE as usize])?;
        esp.file("loader/loader.conf", 0o644, LOADER_CONF)?;
        Ok(esp)
    }
}

/// Checks that the next version's kernel has room beside this one: without it the image would
/// boot, and take no update.
///
/// # Errors
/// [`Kind::Input`].
pub fn check_room(esp: &Tree, size: u64) -> Result<()> {
    let files = esp.iter().map(|(path, node)| match &node.kind {
        NodeKind::File(content) if path.starts_with(DIRECTORY) => 2 * content.len(),
        NodeKind::File(content) => content.len(),
        _ => 0,
    });
    let needed: u64 = files.sum();
    // Two tables of 4 bytes for each cluster, of which the smallest have 512.
    if needed > size - size / 64 {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        return Err(Error::new(
            Kind::Input,
            format!(
                "image.boot-size: two versions' kernels and the loader take {} MiB, and {} MiB hold {}",
                mib(needed),
                mib(size),
                (size - size / 64) >> 20
            ),
        )
        .hint("make it larger: an update's kernel is written beside the one that runs"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_partition_has_room_for_the_next_kernel() {
        let mut esp = Tree::new();
        esp.file("EFI/BOOT/BOOTX64.EFI", 0o644, vec![0; 1 << 20])
            .unwrap();
        let kernel = format!("{DIRECTORY}/{}", shipped_name());
        esp.file(&kernel, 0o644, vec![0; 31 << 20]).unwrap();
        check_room(&esp, 64 << 20).unwrap();
        esp.file(&kernel, 0o644, vec![0; 32 << 20]).unwrap();
        let error = check_room(&esp, 64 << 20).unwrap_err();
        assert!(error.message().contains("take 65 MiB, and 64 MiB hold 63"));
    }
}
