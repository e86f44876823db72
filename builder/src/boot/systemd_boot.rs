//! UEFI: systemd-boot on the ESP, and unified kernel images.

use std::sync::Arc;

use slipway_images::firmware::Place;
use slipway_images::slot::{DIRECTORY, RECORD_FILE, RECORD_SIZE, shipped_name};

use super::{Ingredients, missing};
use crate::board::{Architecture, Board};
use crate::error::Result;
use crate::formats::uki;
use crate::secure_boot::SecureBoot;
use crate::tree::Tree;

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
            initrd: &from.initrd()?,
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
