//! What runs before a slot is chosen: the board's firmware files and U-Boot on the partition
//! `firmware`, U-Boot at places before the first partition, systemd-boot on the ESP. It is in
//! neither slot, and no update touches it. The root carries the same files, so that whoever
//! wants can have them renewed from a version that has proved itself.
//!
//! | in [`DIRECTORY`] of the root | |
//! |---|---|
//! | `manifest.json` | a [`Manifest`] |
//! | SHA-256 in hexadecimal | the file with that digest |

mod places;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::hex;

pub use places::{FirmwareError, Found, Places};

/// Where the files are in the root.
pub const DIRECTORY: &str = "usr/lib/slipway/firmware";
/// Name of the [`Manifest`] there.
pub const MANIFEST: &str = "manifest.json";

/// What belongs before the slots, in the order in which it is to be written: what is of use
/// only together lies side by side, and what most depends on comes last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The pieces.
    pub pieces: Vec<Piece>,
}

/// One of its pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Where it belongs.
    pub place: Place,
    /// SHA-256 of it, in hexadecimal.
    pub sha256: String,
    /// Bytes.
    pub size: u32,
}

/// Where a piece belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A path on the boot partition.
    File(String),
    /// Bytes from the beginning of the disk.
    Raw(u64),
}

impl Piece {
    /// That of this content.
    #[must_use]
    pub fn new(place: Place, content: &[u8]) -> Self {
        Self {
            place,
            sha256: digest(content),
            size: u32::try_from(content.len()).unwrap_or(u32::MAX),
        }
    }

    /// Whether it is this content.
    #[must_use]
    pub fn is(&self, content: &[u8]) -> bool {
        content.len() as u64 == u64::from(self.size) && digest(content) == self.sha256
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.write_str(path),
            Self::Raw(at) => write!(f, "the disk at {} KiB", at >> 10),
        }
    }
}

fn digest(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// Texts that such programs have their version in: what is before it, what is behind it, and
/// what of the first is left out when it is shown.
const VERSIONS: [(&str, &[u8], usize); 4] = [
    ("U-Boot SPL 2", b" ", 0),
    ("U-Boot 2", b" ", 0),
    // systemd's src/boot/efi/util.h
    ("#### LoaderInfo: ", b" ####", 17),
    // The Raspberry Pi's start4.elf
    ("VC_BUILD_ID_VERSION: ", b" ", 21),
];
/// No version is as long.
const LONGEST: usize = 80;

/// The version that a program says it is of, if it is of a kind that does.
#[must_use]
pub fn version(content: &[u8]) -> Option<String> {
    VERSIONS.into_iter().find_map(|(before, behind, left_out)| {
        let start = find(content, before.as_bytes())?;
        let rest = content.get(start..)?;
        let rest = &rest[..rest.len().min(LONGEST)];
        let end = before.len() + find(rest.get(before.len()..)?, behind)?;
        let text = std::str::from_utf8(rest.get(left_out..end)?).ok()?;
        let printable = text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
        printable.then(|| text.to_owned())
    })
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_say_their_version() {
        let of = |text: &str| version(format!("\u{7f}\0x\0{text}\0y").as_bytes());
        let uboot = of("U-Boot 2025.01-3+deb13u1 (Jun 24 2026 - 09:07:15 +0000)");
        assert_eq!(uboot.as_deref(), Some("U-Boot 2025.01-3+deb13u1"));
        let spl = of("U-Boot SPL 2025.01-3 (Jun 24");
        assert_eq!(spl.as_deref(), Some("U-Boot SPL 2025.01-3"));
        let boot = of("#### LoaderInfo: systemd-boot 257.13-1~deb13u1 ####");
        assert_eq!(boot.as_deref(), Some("systemd-boot 257.13-1~deb13u1"));
        let start = of("VC_BUILD_ID_VERSION: 86ccc427f35f (clean)");
        assert_eq!(start.as_deref(), Some("86ccc427f35f"));
        for none in ["", "U-Boot", "U-Boot 2\u{1} x", "U-Boot 2025.01"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn a_manifest_is_read_as_written() {
        let manifest = Manifest {
            pieces: vec![
                Piece::new(Place::Raw(128 << 10), b"first"),
                Piece::new(Place::File("u-boot.bin".into()), b"second"),
            ],
        };
        let text = serde_json::to_string(&manifest).unwrap();
        assert!(
            text.contains(r#"{"place":{"raw":131072},"sha256":"#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
        assert!(manifest.pieces[0].is(b"first") && !manifest.pieces[0].is(b"fist"));
    }
}
