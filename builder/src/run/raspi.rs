//! A Raspberry Pi 4's image on QEMU's machine for it ([`slipway_qemu::raspi`]): U-Boot and the
//! device tree are the image's own, and the seed is where whoever flashes a card puts it.

use std::fs;
use std::path::{Path, PathBuf};

use slipway_qemu::machine::{Arch, Boot, Machine};
use slipway_qemu::{VmDir, disk, host, raspi};

use super::args::{MachineType, RunArgs};
use super::{identity, image};
use crate::atomic;
use crate::error::{At as _, Error, Kind, Result};
use crate::progress::Progress;
use crate::seed::{Files, volume};

/// What is on the partition that a Pi starts from.
const U_BOOT: &str = "u-boot.bin";
const DEVICE_TREE: &str = "bcm2711-rpi-4-b.dtb";
/// The tree in the machine's directory.
const ADAPTED: &str = "raspi4b.dtb";

/// Makes a new machine whose image is a Pi's into one, if that is wished or there is nothing
/// against it, and returns the ground of its disk, which is then its own: it gets the seed.
///
/// # Errors
/// [`Kind::Missing`] if the host's QEMU is too old for `--machine raspi4b`; [`Kind::Usage`] if
/// the image isn't a Pi's; [`Kind::Io`].
pub fn settle(
    args: &RunArgs,
    base: PathBuf,
    dir: &VmDir,
    machine: &mut Machine,
    progress: &Progress,
) -> Result<PathBuf> {
    let direct = args.bios || args.kernel.is_some();
    if args.machine == Some(MachineType::Virt) || direct || machine.arch != Arch::Aarch64 {
        return match args.machine {
            Some(MachineType::Raspi4b) => Err(not_a_pis()),
            _ => Ok(base),
        };
    }
    let Some((u_boot, device_tree)) = files(&base)? else {
        return match args.machine {
            Some(_) => Err(not_a_pis()),
            None => Ok(base),
        };
    };
    match raspi::check(&host::emulator(machine.arch)?) {
        Err(error) if args.machine.is_none() => {
            progress.say(&format!("{error}; its place takes `virt`"));
            return Ok(base);
        }
        checked => checked?,
    }
    let (tree, program) = (dir.file(ADAPTED), dir.file(U_BOOT));
    atomic::write(&tree, &raspi::adapt(&device_tree)?, 0o600)?;
    atomic::write(&program, &u_boot, 0o600)?;
    machine.boot = Boot::RaspberryPi4 {
        u_boot: U_BOOT.into(),
        device_tree: ADAPTED.into(),
    };
    machine.cpus = std::num::NonZeroU16::new(raspi::CPUS).unwrap_or(machine.cpus);
    machine.memory = raspi::MEMORY;
    image::own_base(&base, dir, progress)
}

fn not_a_pis() -> Error {
    Error::new(
        Kind::Usage,
        "--machine raspi4b is for images of Raspberry Pi 4",
    )
}

/// U-Boot and the device tree of a Pi's image; `None` for another.
///
/// # Errors
/// [`Kind::Io`]; [`Kind::Input`] if its partition is no FAT.
pub fn files(image: &Path) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
    let Some(tree) = volume::read_file(image, DEVICE_TREE)? else {
        return Ok(None);
    };
    Ok(volume::read_file(image, U_BOOT)?.map(|program| (program, tree)))
}

/// Refuses what isn't to be had: a Pi has what it has, and a machine stays what it was made as.
///
/// # Errors
/// [`Kind::Usage`].
pub fn refuse_other(args: &RunArgs, machine: &Machine, dir: &VmDir) -> Result<()> {
    let is_raspi = machine.is_raspi();
    let usage = |why: String, hint: &str| Err(Error::new(Kind::Usage, why).hint(hint));
    if args
        .machine
        .is_some_and(|kind| (kind == MachineType::Raspi4b) != is_raspi)
    {
        return usage(
            format!("`{}` was made as another machine", dir.name()),
            "leave --machine out, or start over: --fresh",
        );
    }
    if !is_raspi {
        return Ok(());
    }
    let other = "leave it out, or emulate another machine: --fresh --machine virt";
    if args.cpus.is_some_and(|cpus| cpus.get() != raspi::CPUS) {
        return usage(
            format!("QEMU's raspi4b has {} processors", raspi::CPUS),
            other,
        );
    }
    if args.memory.is_some_and(|memory| memory != raspi::MEMORY) {
        return usage(format!("QEMU's raspi4b has {}", raspi::MEMORY), other);
    }
    if args.tpm {
        return usage("QEMU's raspi4b has no TPM".to_owned(), other);
    }
    let size = disk::virtual_size(&dir.overlay())?;
    if !size.is_power_of_two() {
        return usage(
            format!(
                "QEMU's cards have a power of two of bytes, and this is one of {} MiB",
                size >> 20
            ),
            "give it another size: --fresh --disk-size 16G",
        );
    }
    Ok(())
}

/// Puts the machine's seed onto its card.
///
/// # Errors
/// [`Kind::Io`]; [`Kind::Input`] if there is no room.
pub fn embed_seed(dir: &VmDir) -> Result<()> {
    let path = dir.file(identity::SEED_FILE);
    let seed = fs::read(&path).at("reading", &path)?;
    let files = Files::of(identity::meta_data(dir), seed);
    volume::embed(&image::base(dir), &files)
}
