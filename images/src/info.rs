//! `image.json`: what an image says about itself.
//!
//! The builder writes it into the initrd and the root at
//! `/usr/lib/slipway/image.json`; `init` reads it for the lower bound of the clock,
//! `clusterd` for the version it reports.

use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Where the file lies, in the initrd and in the root.
pub const IMAGE_INFO_PATH: &str = "/usr/lib/slipway/image.json";

/// What chooses a slot and starts its kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loader {
    /// systemd-boot, on UEFI.
    #[default]
    SystemdBoot,
    /// A script of U-Boot's.
    UBoot,
}

/// What an image says about itself.
///
/// Unknown keys are ignored when read: with two slots, an older reader meets newer files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Name of the board's TOML without the extension, such as `x86_64`.
    pub board: String,
    /// Version of the image.
    pub version: String,
    /// Seconds since 1970-01-01 UTC: the build's SOURCE_DATE_EPOCH. A node's clock never
    /// runs earlier than this.
    pub built: i64,
    /// The release number that the build was given; without one it is [`built`](Self::built).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release_number: Option<u64>,
    /// Version of Kubernetes, such as `v1.36.3`.
    pub kubernetes: String,
    /// Architecture as the kernel names it (`uname -m`).
    pub arch: String,
    /// UUID of the root's ext4 filesystem.
    pub root_uuid: Uuid,
    /// What starts it.
    #[serde(default)]
    pub loader: Loader,
}

/// Why `image.json` could not be had.
#[derive(Debug, thiserror::Error)]
pub enum InfoError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The reason.
        source: std::io::Error,
    },
    /// The file is not what the builder writes.
    #[error("{path} is corrupt: {source}; build the image again")]
    Corrupt {
        /// The file.
        path: String,
        /// The reason.
        source: serde_json::Error,
    },
}

impl ImageInfo {
    /// The release number, higher for a later image.
    #[must_use]
    pub fn release(&self) -> u64 {
        let built = u64::try_from(self.built).unwrap_or(0);
        self.release_number.unwrap_or(built)
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`InfoError`], with I/O and corruption kept apart.
    pub fn read(path: &Path) -> Result<Self, InfoError> {
        let text = std::fs::read_to_string(path).map_err(|source| InfoError::Io {
            path: path.display().to_string(),
            source,
        })?;
        serde_json::from_str(&text).map_err(|source| InfoError::Corrupt {
            path: path.display().to_string(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_newer_files() {
        let info = ImageInfo {
            board: "x86_64".into(),
            version: "0.1.0".into(),
            built: 1_790_000_000,
            release_number: None,
            kubernetes: "v1.36.3".into(),
            arch: "x86_64".into(),
            root_uuid: Uuid::from_u128(7),
            loader: Loader::UBoot,
        };
        let text = serde_json::to_string(&info).unwrap();
        assert_eq!(serde_json::from_str::<ImageInfo>(&text).unwrap(), info);
        assert_eq!(info.release(), 1_790_000_000);
        let numbered = text.replacen('{', "{\"release_number\": 7,", 1);
        let numbered: ImageInfo = serde_json::from_str(&numbered).unwrap();
        assert_eq!(numbered.release(), 7);
        let newer = text.replacen('{', "{\"later\": [1],", 1);
        assert_eq!(serde_json::from_str::<ImageInfo>(&newer).unwrap(), info);
    }

    #[test]
    fn missing_and_corrupt_are_told_apart() {
        let missing = ImageInfo::read(Path::new("/nonexistent/image.json"));
        assert!(matches!(missing, Err(InfoError::Io { .. })));
        let corrupt = ImageInfo::read(Path::new("/proc/self/status"));
        assert!(matches!(corrupt, Err(InfoError::Corrupt { .. })));
    }
}
