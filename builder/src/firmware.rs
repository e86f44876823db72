//! UEFI firmware for machines in QEMU where the host has none: Debian's `ovmf`,
//! through the same verified reader as everything else.

use std::fs;
use std::path::{Path, PathBuf};

use crate::atomic;
use crate::board::Board;
use crate::debian::{self, Mirror};
use crate::error::{At as _, Error, Kind, Result};
use crate::progress::Progress;
use crate::source::Source;

/// The package, and the board whose suites and keys it is fetched by.
const PACKAGE: &str = "ovmf";
const BOARD: &str = "x86_64";

/// The files of the package that machines use.
const FILES: [&str; 3] = [
    "usr/share/OVMF/OVMF_CODE_4M.fd",
    "usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
    "usr/share/OVMF/OVMF_VARS_4M.fd",
];

/// Fetches the firmware and returns the directory below which it is in its usual
/// places. What was fetched once is found again.
///
/// # Errors
/// Those of the reader; [`Kind::Input`] outside a checkout, where it isn't known
/// whom to trust.
pub fn fetch(source: Option<&Path>, cache: &Path, progress: &Progress) -> Result<PathBuf> {
    let board = Source::find(source)
        .and_then(|s| Board::load(&s.path("board-configs"), BOARD))
        .map_err(|e| e.within("fetching UEFI firmware"))?;
    progress.say("fetching UEFI firmware, since this machine has none");
    let mirror = Mirror::resolve(None)?;
    let archive = debian::open(&mirror, &board, cache, true, progress)?;
    let packages = archive.closure(&[PACKAGE.to_owned()], &[])?;
    let fetched = debian::fetch(&mirror, &packages, cache, progress)?;
    let package = fetched
        .iter()
        .find(|f| f.package.name == PACKAGE)
        .ok_or_else(|| Error::new(Kind::Bug, format!("{PACKAGE} isn't in its own closure")))?;
    let dir = cache.join("firmware").join(&package.package.sha256);
    let files = debian::take(package, &FILES, cache)?;
    for (path, content) in &files {
        let target = dir.join(path);
        if !target.exists() {
            atomic::write(&target, &content.read()?, 0o644)?;
        }
    }
    fs::metadata(dir.join(FILES[0])).at("reading", dir.join(FILES[0]))?;
    Ok(dir)
}
