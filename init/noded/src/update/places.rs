//! The node's slots as files: the boot partition, and both root partitions.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom};
use std::path::Path;

use slipway_images::direct::Direct;
use slipway_images::info::{IMAGE_INFO_PATH, ImageInfo, Loader};
use slipway_images::slot::{Area, Slot, Slots};
use slipway_init::slots::{self, Boot};

use crate::paths::Paths;

/// Why the node has no slots to write.
const NONE: &str = "this machine has no slots: it wasn't started from an image of Slipway";

/// What an update reads and writes.
pub struct Node {
    /// The slots, with the boot partition open for as long as they are.
    pub slots: Slots<Boot>,
    /// The root partition of the slot that doesn't run, and its bytes.
    pub root: (Direct, u64),
    /// That of the one that runs. As it is on the disk: what is read through dm-verity restarts
    /// the machine when it is damaged, and here every byte is compared with a digest.
    pub running: Option<Direct>,
}

impl Node {
    /// Opens all of it.
    ///
    /// # Errors
    /// A sentence.
    pub fn open(paths: &Paths) -> Result<Self, String> {
        let root = paths.root();
        let booted = slots::booted(root).ok_or(NONE)?;
        let info = paths.at(IMAGE_INFO_PATH.trim_start_matches('/'));
        let info = ImageInfo::read(&info).map_err(|error| error.to_string())?;
        let device = |name: &str| slots::partition(root, name);
        let missing = |name: &str| format!("the disk has no partition {name}");
        let first = slots::boot_partition(info.loader);
        let partition = device(first).ok_or_else(|| missing(first))?;
        let boot = slots::open(&partition).map_err(|error| {
            format!(
                "the boot partition {} can't be opened: {error}",
                partition.display()
            )
        })?;
        let area = |slot: Slot| match info.loader {
            Loader::SystemdBoot => Ok(None),
            Loader::UBoot => {
                let path = device(slot.boot()).ok_or_else(|| missing(slot.boot()))?;
                let opened = open_sized(&path);
                let (disk, size) =
                    opened.map_err(|error| format!("{}: {error}", path.display()))?;
                Ok::<_, String>(Some(Area { disk, size }))
            }
        };
        let areas = [area(Slot::A)?, area(Slot::B)?];
        let boot = slots::boot(info.loader, boot, areas).map_err(|error| error.to_string())?;
        let slots = Slots::load(boot, booted).map_err(|error| error.to_string())?;
        let other: Slot = !booted;
        let path = device(other.root()).ok_or_else(|| missing(other.root()))?;
        let direct = |(file, size)| Ok((Direct::new(file)?, size));
        let root = open_sized(&path)
            .and_then(direct)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        let running = device(booted.root()).and_then(|path| File::open(path).ok());
        let running = running.and_then(|file| Direct::new(file).ok());
        Ok(Self {
            slots,
            root,
            running,
        })
    }
}

/// A partition's device, and its bytes.
fn open_sized(path: &Path) -> io::Result<(File, u64)> {
    // Alone: who has it mounted by hand must not see it change.
    let mut file = slots::open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    Ok((file, size))
}
