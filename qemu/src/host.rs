//! What we need to know of the host: its programs, memory and boot.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{At as _, Error, Result};
use crate::machine::{Arch, Mebibytes};

/// What QEMU takes beside the guest's RAM, with a generous translation buffer.
const QEMU_OVERHEAD: Mebibytes = Mebibytes(256);

/// The emulator for an architecture.
///
/// # Errors
/// [`Error::ProgramMissing`] with the Debian packages to install.
pub fn emulator(arch: Arch) -> Result<PathBuf> {
    program(arch.program(), arch.packages())
}

/// A program on the `PATH`.
///
/// # Errors
/// [`Error::ProgramMissing`], naming `packages`.
pub fn program(name: &'static str, packages: &'static str) -> Result<PathBuf> {
    std::env::var_os("PATH")
        .iter()
        .flat_map(std::env::split_paths)
        .map(|dir| dir.join(name))
        .find(|p| is_executable(p))
        .ok_or(Error::ProgramMissing {
            program: name,
            packages,
        })
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// The major and minor version of an emulator; none if it doesn't say.
#[must_use]
pub fn version(emulator: &Path) -> Option<(u32, u32)> {
    let out = Command::new(emulator).arg("--version").output().ok()?;
    parse_version(&String::from_utf8_lossy(&out.stdout))
}

fn parse_version(said: &str) -> Option<(u32, u32)> {
    let (_, version) = said.split_once(" version ")?;
    let mut parts = version.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// The kernel's identifier of this boot: process ids of another one mean nothing.
pub fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path)
        .at("reading", path)?
        .trim()
        .to_owned())
}

/// `MemAvailable`: what can be used without swapping.
pub fn memory_available() -> Result<Mebibytes> {
    let path = "/proc/meminfo";
    let text = fs::read_to_string(path).at("reading", path)?;
    parse_memory_available(&text).ok_or_else(|| Error::Corrupt {
        path: path.into(),
        reason: "no MemAvailable line".into(),
    })
}

fn parse_memory_available(meminfo: &str) -> Option<Mebibytes> {
    let line = meminfo
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(Mebibytes(u32::try_from(kib / 1024).unwrap_or(u32::MAX)))
}

/// Refuses a guest that `available` can't hold.
///
/// # Errors
/// [`Error::Memory`] with both figures.
pub fn check_memory(wanted: Mebibytes, available: Mebibytes) -> Result<()> {
    let needed = Mebibytes(wanted.0.saturating_add(QEMU_OVERHEAD.0));
    if needed > available {
        return Err(Error::Memory(format!(
            "a machine with {wanted} of memory needs {needed}, and this host has {available} available"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_checked_with_figures() {
        check_memory(Mebibytes(2048), Mebibytes(4096)).unwrap();
        let said = check_memory(Mebibytes(4000), Mebibytes(4096)).unwrap_err();
        assert!(said.to_string().contains("4000 MiB"), "{said}");
        assert!(
            said.to_string().contains("has 4096 MiB available"),
            "{said}"
        );
        check_memory(Mebibytes(u32::MAX), Mebibytes(4096)).unwrap_err();
    }

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:       24684048 kB\nMemAvailable:   23821748 kB\n";
        assert_eq!(parse_memory_available(text), Some(Mebibytes(23263)));
        assert_eq!(parse_memory_available("MemAvailable: x kB"), None);
        assert_eq!(parse_memory_available(""), None);
        assert!(memory_available().unwrap() > Mebibytes(0));
    }

    #[test]
    fn versions() {
        let said = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright";
        assert_eq!(parse_version(said), Some((7, 2)));
        assert_eq!(parse_version("QEMU emulator version 10.0"), Some((10, 0)));
        assert_eq!(parse_version("version"), None);
        let own = version(&emulator(Arch::X86_64).unwrap()).unwrap();
        assert!(own > (4, 0), "{own:?}");
    }
}
