//! UEFI firmware for virtual machines: OVMF's code, and a pristine set of its
//! variables to copy for each machine.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{At as _, Error, Result};
use crate::machine::{Arch, Boot};

/// A pair of flash images that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    /// The code, read-only.
    pub code: PathBuf,
    /// Variables as shipped, to be copied, never to be booted from.
    pub vars: PathBuf,
    /// Whether the code enforces Secure Boot.
    pub secure: bool,
}

/// Where distributions put it (code, variables), relative to a root. Debian's
/// package unpacked into a directory matches the same way.
const X86_64: [(&str, &str); 6] = [
    // Debian, Ubuntu
    (
        "usr/share/OVMF/OVMF_CODE_4M.fd",
        "usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    ("usr/share/OVMF/OVMF_CODE.fd", "usr/share/OVMF/OVMF_VARS.fd"),
    // Fedora
    (
        "usr/share/edk2/ovmf/OVMF_CODE.fd",
        "usr/share/edk2/ovmf/OVMF_VARS.fd",
    ),
    // Arch
    (
        "usr/share/edk2/x64/OVMF_CODE.4m.fd",
        "usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
    // openSUSE
    (
        "usr/share/qemu/ovmf-x86_64-code.bin",
        "usr/share/qemu/ovmf-x86_64-vars.bin",
    ),
    // A directory that holds nothing but the two
    ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
];
/// Of these, code that enforces Secure Boot, with variables without keys.
const X86_64_SECURE: [(&str, &str); 4] = [
    (
        "usr/share/OVMF/OVMF_CODE_4M.secboot.fd",
        "usr/share/OVMF/OVMF_VARS_4M.fd",
    ),
    (
        "usr/share/edk2/ovmf/OVMF_CODE.secboot.fd",
        "usr/share/edk2/ovmf/OVMF_VARS.fd",
    ),
    (
        "usr/share/edk2/x64/OVMF_CODE.secboot.4m.fd",
        "usr/share/edk2/x64/OVMF_VARS.4m.fd",
    ),
    ("OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.fd"),
];
const AARCH64: [(&str, &str); 3] = [
    (
        "usr/share/AAVMF/AAVMF_CODE.fd",
        "usr/share/AAVMF/AAVMF_VARS.fd",
    ),
    (
        "usr/share/edk2/aarch64/QEMU_CODE.fd",
        "usr/share/edk2/aarch64/QEMU_VARS.fd",
    ),
    ("AAVMF_CODE.fd", "AAVMF_VARS.fd"),
];
const ARMV7: [(&str, &str); 2] = [
    (
        "usr/share/AAVMF/AAVMF32_CODE.fd",
        "usr/share/AAVMF/AAVMF32_VARS.fd",
    ),
    ("AAVMF32_CODE.fd", "AAVMF32_VARS.fd"),
];

/// U-Boot for machines of type virt, below `/` or one of `extra_dirs`.
///
/// # Errors
/// [`Error::FirmwareMissing`] with the places that were looked at; [`Error::Invalid`] for PCs,
/// which U-Boot doesn't start here.
pub fn find_u_boot(arch: Arch, extra_dirs: &[PathBuf]) -> Result<PathBuf> {
    let name = match arch {
        Arch::Armv7 => "qemu_arm",
        Arch::Aarch64 => "qemu_arm64",
        Arch::X86_64 => {
            return Err(Error::Invalid("PCs aren't started by U-Boot here".into()));
        }
    };
    let mut searched = Vec::new();
    for root in std::iter::once(Path::new("/")).chain(extra_dirs.iter().map(PathBuf::as_path)) {
        let dir = root.join("usr/lib/u-boot").join(name);
        let code = dir.join("u-boot.bin");
        if code.is_file() {
            return Ok(code);
        }
        searched.push(dir);
    }
    Err(Error::FirmwareMissing {
        arch: arch.name(),
        searched,
    })
}

impl Firmware {
    /// Looks below `/` first, then below each of `extra_dirs`: a directory with
    /// the two files, or one that a firmware package was unpacked into. `secure` asks for
    /// code that enforces Secure Boot, with variables that have no keys yet.
    ///
    /// # Errors
    /// [`Error::FirmwareMissing`] with the places that were looked at. A caller
    /// can then fetch the package, unpack it, and ask again.
    pub fn find(arch: Arch, secure: bool, extra_dirs: &[PathBuf]) -> Result<Self> {
        let mut roots = vec![PathBuf::from("/")];
        roots.extend_from_slice(extra_dirs);
        Self::find_below(arch, secure, &roots)
    }

    /// Looks below `roots` only.
    ///
    /// # Errors
    /// As [`Firmware::find`].
    pub fn find_below(arch: Arch, secure: bool, roots: &[PathBuf]) -> Result<Self> {
        let places: &[(&str, &str)] = match (arch, secure) {
            (Arch::X86_64, false) => &X86_64,
            (Arch::X86_64, true) => &X86_64_SECURE,
            (Arch::Aarch64, false) => &AARCH64,
            (Arch::Armv7, false) => &ARMV7,
            (Arch::Aarch64 | Arch::Armv7, true) => {
                return Err(Error::Invalid(format!(
                    "Secure Boot of {} machines can't be tried in QEMU",
                    arch.name()
                )));
            }
        };
        let mut searched = Vec::new();
        for root in roots {
            for (code, vars) in places {
                let (code, vars) = (root.join(code), root.join(vars));
                if code.is_file() && vars.is_file() {
                    return Ok(Self { code, vars, secure });
                }
                let dir = code.parent().unwrap_or(root).to_owned();
                if !searched.contains(&dir) {
                    searched.push(dir);
                }
            }
        }
        Err(Error::FirmwareMissing {
            arch: arch.name(),
            searched,
        })
    }

    /// Fetches a prebuilt OVMF over the network into `cache`, checked by digest:
    /// for hosts that have none and builds that can't reach a Debian mirror.
    ///
    /// # Errors
    /// [`Error::Tool`] if it can't be fetched or its digest is wrong;
    /// [`Error::FirmwareMissing`] for 32-bit ARM, which is not provided.
    #[cfg(feature = "ovmf-prebuilt")]
    pub fn fetch_prebuilt(arch: Arch, cache: &Path) -> Result<Self> {
        use ovmf_prebuilt::{Arch as Theirs, FileType, Prebuilt, Source};
        let theirs = match arch {
            Arch::X86_64 => Theirs::X64,
            Arch::Aarch64 => Theirs::Aarch64,
            Arch::Armv7 => {
                return Err(Error::FirmwareMissing {
                    arch: arch.name(),
                    searched: Vec::new(),
                });
            }
        };
        let prebuilt = Prebuilt::fetch(Source::LATEST, cache).map_err(|e| Error::Tool {
            command: "fetching prebuilt OVMF".into(),
            status: "failed".into(),
            output: e.to_string(),
        })?;
        Ok(Self {
            code: prebuilt.get_file(theirs, FileType::Code),
            vars: prebuilt.get_file(theirs, FileType::Vars),
            secure: false,
        })
    }

    /// Puts a pristine copy of the variables at `to`, unless one is there.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn provide_vars(&self, to: &Path) -> Result<()> {
        if to.exists() {
            return Ok(());
        }
        // Copied aside: half a copy would be kept for ever.
        let aside = to.with_extension("new");
        fs::copy(&self.vars, &aside).at("copying the firmware's variables to", &aside)?;
        // Debian ships the variables read-only for everybody but root.
        let mut permissions = fs::metadata(&aside).at("reading", &aside)?.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
        fs::set_permissions(&aside, permissions).at("setting the mode of", &aside)?;
        fs::rename(&aside, to).at("renaming into", to)
    }

    /// To boot by, with variables at `vars`.
    #[must_use]
    pub fn boot(self, vars: PathBuf) -> Boot {
        Boot::Firmware {
            code: self.code,
            vars,
            secure: self.secure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_package_or_a_bare_directory_does() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let missing =
            Firmware::find_below(Arch::X86_64, false, std::slice::from_ref(&root)).unwrap_err();
        assert!(
            missing.hint().unwrap().contains("install ovmf"),
            "{missing}"
        );
        assert!(
            missing.hint().unwrap().contains("usr/share/edk2"),
            "{missing}"
        );

        fs::write(root.join("OVMF_CODE_4M.fd"), "code").unwrap();
        // Code without variables is of no use.
        Firmware::find_below(Arch::X86_64, false, std::slice::from_ref(&root)).unwrap_err();
        fs::write(root.join("OVMF_VARS_4M.fd"), "vars").unwrap();
        let bare = Firmware::find_below(Arch::X86_64, false, std::slice::from_ref(&root)).unwrap();
        assert_eq!(bare.code, root.join("OVMF_CODE_4M.fd"));

        let share = root.join("usr/share/OVMF");
        fs::create_dir_all(&share).unwrap();
        fs::write(share.join("OVMF_CODE_4M.fd"), "code").unwrap();
        fs::write(share.join("OVMF_VARS_4M.fd"), "vars").unwrap();
        let found = Firmware::find_below(Arch::X86_64, false, std::slice::from_ref(&root)).unwrap();
        assert_eq!(found.vars, share.join("OVMF_VARS_4M.fd"));

        fs::write(share.join("OVMF_CODE_4M.secboot.fd"), "code").unwrap();
        let secure = Firmware::find_below(Arch::X86_64, true, std::slice::from_ref(&root)).unwrap();
        assert_eq!(secure.code, share.join("OVMF_CODE_4M.secboot.fd"));
        assert!(secure.secure && !found.secure);
        Firmware::find_below(Arch::Aarch64, true, &[]).unwrap_err();

        let mine = root.join("mine.fd");
        found.provide_vars(&mine).unwrap();
        fs::write(&mine, "changed by the guest").unwrap();
        found.provide_vars(&mine).unwrap();
        assert_eq!(fs::read(&mine).unwrap(), b"changed by the guest");
    }
}
