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
//!
//! | word of the kernel's command line | |
//! |---|---|
//! | `slipway.bootloader=0x5F50DE7F` | when the bootloader in a Raspberry Pi's EEPROM was built, in seconds since 1970; U-Boot's script appends it (`board-configs/pi4.toml`) |
//! | `slipway.bootloader-since=2020-09-03` | what the board needs |
//! | `slipway.overlay-failed=NAME` | an overlay that U-Boot couldn't put over the device tree, for which reason there is none |

use std::fs;
use std::path::Path;

use slipway_images::calendar::date;

use crate::files;

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

/// The bootloader in the board's EEPROM in words: of which day it is, and whether that is too
/// old; `None` on boards without, or where it hasn't said.
#[must_use]
pub fn bootloader(root: &Path) -> Option<String> {
    let cmdline = command_line(root)?;
    let word = |key| word(&cmdline, key);
    let built = word("slipway.bootloader")?.strip_prefix("0x")?;
    let built = date(u32::from_str_radix(built, 16).ok()?.into());
    Some(match word("slipway.bootloader-since") {
        // Both are written so that the earlier is the smaller.
        Some(since) if *built < *since => format!(
            "the EEPROM's bootloader is of {built}, and one of {since} or later is needed: write a \
             newer one (docs/boards/pi4.md)"
        ),
        _ => format!("the EEPROM's bootloader is of {built}"),
    })
}

/// In words, that an overlay couldn't be put over the device tree; `None` if all were.
#[must_use]
pub fn overlay_failed(root: &Path) -> Option<String> {
    let cmdline = command_line(root)?;
    let name = word(&cmdline, "slipway.overlay-failed")?;
    Some(format!(
        "overlay {name} can't be applied to the device tree, which therefore has none"
    ))
}

fn command_line(root: &Path) -> Option<String> {
    files::read_trimmed(root.join("proc/cmdline")).ok()
}

fn word<'l>(cmdline: &'l str, key: &str) -> Option<&'l str> {
    let mut words = cmdline.split_ascii_whitespace();
    words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// What is known in words, for the console.
#[must_use]
pub fn note(root: &Path) -> String {
    let secure_boot = match secure_boot(root) {
        Some(true) => Some("Secure Boot on".to_owned()),
        Some(false) => Some("Secure Boot off".to_owned()),
        None => None,
    };
    let (bootloader, overlay) = (bootloader(root), overlay_failed(root));
    let known: Vec<String> = [secure_boot, bootloader, overlay]
        .into_iter()
        .flatten()
        .collect();
    known.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlay_that_could_not_be_applied_is_named() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("proc")).unwrap();
        let cmdline = root.path().join("proc/cmdline");
        fs::write(&cmdline, "quiet").unwrap();
        assert_eq!(overlay_failed(root.path()), None);
        fs::write(&cmdline, "quiet slipway.overlay-failed=mine\n").unwrap();
        assert!(note(root.path()).starts_with("overlay mine can't be applied"));
    }

    #[test]
    fn the_eeproms_bootloader_is_held_against_what_the_board_needs() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("proc")).unwrap();
        let of = |cmdline: &str| {
            fs::write(root.path().join("proc/cmdline"), cmdline).unwrap();
            bootloader(root.path())
        };
        let since = "quiet slipway.bootloader-since=2020-09-03";
        for nothing in ["", "=", "=0x", "=printable", "=0x123456789"] {
            let cmdline = format!("{since} slipway.bootloader{nothing}\n");
            assert_eq!(of(&cmdline), None, "{nothing}");
        }
        let new = "the EEPROM's bootloader is of 2020-09-03";
        assert_eq!(
            of(&format!("{since} slipway.bootloader=0x5F50DE7F")).unwrap(),
            new
        );
        let old = of(&format!("{since} slipway.bootloader=0x5E980CA6")).unwrap();
        let said = "is of 2020-04-16, and one of 2020-09-03 or later is needed: write a newer";
        assert!(old.contains(said), "{old}");
        assert_eq!(note(root.path()), old);
        let unasked = of("slipway.bootloader=0x5E980CA6").unwrap();
        assert_eq!(unasked, "the EEPROM's bootloader is of 2020-04-16");
    }

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
