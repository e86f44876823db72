//! What the firmware has told the kernel.
//!
//! | offset in `/sys/kernel/boot_params/data` | size | field |
//! |---|---|---|
//! | 0x1ec | 1 | secure_boot: 2 off, 3 on; 0 and 1: nobody knows |
//!
//! Sources: Documentation/arch/x86/zero-page.rst; `enum efi_secureboot_mode` in
//! include/linux/efi.h. The firmware's own variable says the same, but reading it takes a
//! module, a mount and a walk through all variables; by this one the kernel itself goes when it
//! locks down.

use std::fs;
use std::path::Path;

const BOOT_PARAMS: &str = "sys/kernel/boot_params/data";
const SECURE_BOOT: usize = 0x1ec;

/// Whether firmware and loader have verified what they started; `None` where there is no UEFI.
#[must_use]
pub fn secure_boot(root: &Path) -> Option<bool> {
    match fs::read(root.join(BOOT_PARAMS)).ok()?.get(SECURE_BOOT)? {
        2 => Some(false),
        3 => Some(true),
        _ => None,
    }
}

/// The same in words, for the console.
#[must_use]
pub fn note(root: &Path) -> String {
    match secure_boot(root) {
        Some(true) => "Secure Boot on".to_owned(),
        Some(false) => "Secure Boot off".to_owned(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_said() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(secure_boot(root.path()), None);
        let path = root.path().join(BOOT_PARAMS);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        for (byte, known, said) in [
            (0, None, ""),
            (1, None, ""),
            (2, Some(false), "Secure Boot off"),
            (3, Some(true), "Secure Boot on"),
            (4, None, ""),
        ] {
            let mut page = vec![0; 4096];
            page[SECURE_BOOT] = byte;
            fs::write(&path, page).unwrap();
            assert_eq!(secure_boot(root.path()), known);
            assert_eq!(note(root.path()), said);
        }
        fs::write(&path, [3; SECURE_BOOT]).unwrap();
        assert_eq!(secure_boot(root.path()), None);
    }
}
