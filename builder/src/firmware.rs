//! Firmware for machines in QEMU where the host has none: Debian's `ovmf`, `qemu-efi-aarch64` or
//! `u-boot-qemu`, through the same verified reader as everything else.

use std::fs;
use std::path::{Path, PathBuf};

use slipway_images::info::Loader;
use slipway_qemu::machine::Arch;

use crate::atomic;
use crate::board::Board;
use crate::debian::{self, Mirror};
use crate::error::{At as _, Error, Kind, Result};
use crate::progress::Progress;
use crate::source::Source;

/// The board whose suites and keys it is fetched by: the packages are for all architectures.
const BOARD: &str = "x86_64";

/// The package with the firmware of a processor, and its files that machines use.
fn package(arch: Arch, loader: Loader) -> Result<(&'static str, &'static [&'static str])> {
    match (arch, loader) {
        (_, Loader::UBoot) => Ok((
            "u-boot-qemu",
            &[
                "usr/lib/u-boot/qemu_arm/u-boot.bin",
                "usr/lib/u-boot/qemu_arm64/u-boot.bin",
            ],
        )),
        (Arch::X86_64, Loader::SystemdBoot) => Ok((
            "ovmf",
            &[
                "usr/share/OVMF/OVMF_CODE_4M.fd",
                "usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
                "usr/share/OVMF/OVMF_VARS_4M.fd",
            ],
        )),
        (Arch::Aarch64, Loader::SystemdBoot) => Ok((
            "qemu-efi-aarch64",
            &[
                "usr/share/AAVMF/AAVMF_CODE.fd",
                "usr/share/AAVMF/AAVMF_VARS.fd",
            ],
        )),
        (Arch::Armv7, Loader::SystemdBoot) => Err(Error::new(
            Kind::Missing,
            "there is no UEFI firmware for 32-bit ARM to be fetched",
        )),
    }
}

/// Fetches the firmware and returns the directory below which it is in its usual
/// places. What was fetched once is found again.
///
/// # Errors
/// Those of the reader; [`Kind::Input`] outside a checkout, where it isn't known
/// whom to trust.
pub fn fetch(
    arch: Arch,
    loader: Loader,
    source: Option<&Path>,
    cache: &Path,
    progress: &Progress,
) -> Result<PathBuf> {
    let (name, files) = package(arch, loader)?;
    let board = Source::find(source)
        .and_then(|s| Board::load(&s.path("board-configs"), BOARD))
        .map_err(|e| e.within("fetching firmware"))?;
    progress.say("fetching firmware for QEMU, since this machine has none");
    let mirror = Mirror::resolve(None)?;
    let archive = debian::open(&mirror, &board, cache, true, progress)?;
    let packages = archive.closure(&[name.to_owned()], &[])?;
    let fetched = debian::fetch(&mirror, &packages, cache, progress)?;
    let package = fetched
        .iter()
        .find(|f| f.package.name == name)
        .ok_or_else(|| Error::new(Kind::Bug, format!("{name} isn't in its own closure")))?;
    let dir = cache.join("firmware").join(&package.package.sha256);
    let taken = debian::take(package, files, cache)?;
    for (path, content) in &taken {
        let target = dir.join(path);
        if !target.exists() {
            atomic::write(&target, &content.read()?, 0o644)?;
        }
    }
    for file in files {
        fs::metadata(dir.join(file)).at("reading", dir.join(file))?;
    }
    Ok(dir)
}
