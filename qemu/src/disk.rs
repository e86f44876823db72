//! A machine's disk: a qcow2 overlay on an image that is never written to.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::error::{At as _, Error, Result};
use crate::host;
use crate::machine::{DiskFormat, DiskSize};

/// Which file an overlay rests on. If its bytes changed under the overlay, the
/// guest would see a mixture of both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Device number of its filesystem.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last change of its content, in nanoseconds since 1970.
    pub modified: i128,
}

impl Identity {
    /// The identity of the file that is there now.
    ///
    /// # Errors
    /// [`Error::Io`] if there is none.
    pub fn of(path: &Path) -> Result<Self> {
        let meta = fs::metadata(path).at("reading", path)?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.len(),
            modified: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        })
    }
}

/// Makes `overlay`, `size` large or as large as the base if that is more, and
/// sparse. Both paths should be absolute; the base's goes into the overlay.
///
/// # Errors
/// [`Error::ProgramMissing`] without `qemu-img`, [`Error::Tool`] if it fails.
pub fn create_overlay(
    base: &Path,
    format: DiskFormat,
    overlay: &Path,
    size: DiskSize,
) -> Result<()> {
    let base_size = match format {
        DiskFormat::Raw => fs::metadata(base).at("reading", base)?.len(),
        DiskFormat::Qcow2 => virtual_size(base)?,
    };
    let size = size.bytes().max(base_size.next_multiple_of(512));
    let format = match format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    // The base's path is a value of an option list, the overlay's is not; a
    // relative name with a colon would be taken for a protocol.
    qemu_img(&[
        OsStr::new("create"),
        OsStr::new("-q"),
        OsStr::new("-f"),
        OsStr::new("qcow2"),
        OsStr::new("-F"),
        OsStr::new(format),
        OsStr::new("-b"),
        base.as_os_str(),
        overlay.as_os_str(),
        OsStr::new(&size.to_string()),
    ])
    .map(drop)
}

/// The size of the disk that an image shows to a guest, in bytes.
///
/// # Errors
/// As [`create_overlay`]; [`Error::Corrupt`] if the tool's answer has no size.
pub fn virtual_size(image: &Path) -> Result<u64> {
    let info = info(image)?;
    info.get("virtual-size")
        .and_then(serde_json::Value::as_u64)
        .ok_or_else(|| Error::Corrupt {
            path: image.to_owned(),
            reason: "qemu-img finds no size in it".into(),
        })
}

/// What `qemu-img info` says, without locking the image against a running QEMU.
fn info(image: &Path) -> Result<serde_json::Value> {
    let out = qemu_img(&[
        OsStr::new("info"),
        OsStr::new("-U"),
        OsStr::new("--output=json"),
        image.as_os_str(),
    ])?;
    serde_json::from_slice(&out).map_err(|e| Error::Corrupt {
        path: image.to_owned(),
        reason: format!("qemu-img's description of it: {e}"),
    })
}

/// The file that an overlay rests on.
///
/// # Errors
/// As [`virtual_size`].
pub fn backing_file(overlay: &Path) -> Result<Option<PathBuf>> {
    Ok(info(overlay)?
        .get("full-backing-filename")
        .and_then(serde_json::Value::as_str)
        .map(PathBuf::from))
}

fn qemu_img(args: &[&OsStr]) -> Result<Vec<u8>> {
    let program = host::program("qemu-img", "qemu-utils")?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|e| Error::io("starting qemu-img", e))?;
    if !output.status.success() {
        return Err(Error::Tool {
            command: format!("{command:?}").replace('"', ""),
            status: output.status.to_string(),
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn an_overlay_is_large_sparse_and_rests_on_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("a, strange:name.img");
        File::create(&base).unwrap().set_len(1 << 20).unwrap();
        let overlay = dir.path().join("overlay.qcow2");
        create_overlay(&base, DiskFormat::Raw, &overlay, DiskSize::gib(16)).unwrap();
        assert_eq!(virtual_size(&overlay).unwrap(), 16 << 30);
        assert!(fs::metadata(&overlay).unwrap().blocks() * 512 < 1 << 20);
        assert_eq!(backing_file(&overlay).unwrap(), Some(base));

        // A second storey, which is how snapshots are used; never smaller than below.
        let top = dir.path().join("top.qcow2");
        create_overlay(&overlay, DiskFormat::Qcow2, &top, DiskSize::gib(1)).unwrap();
        assert_eq!(virtual_size(&top).unwrap(), 16 << 30);
    }

    #[test]
    fn a_missing_image_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("none.img");
        let said = create_overlay(
            &base,
            DiskFormat::Raw,
            &dir.path().join("o"),
            DiskSize::gib(1),
        )
        .unwrap_err();
        assert!(said.to_string().contains("none.img"), "{said}");
    }

    #[test]
    fn a_changed_image_has_another_identity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.img");
        fs::write(&path, b"one").unwrap();
        let before = Identity::of(&path).unwrap();
        assert_eq!(before, Identity::of(&path).unwrap());
        let next = dir.path().join("x.new");
        fs::write(&next, b"two").unwrap();
        fs::rename(next, &path).unwrap();
        assert_ne!(before, Identity::of(&path).unwrap());
    }
}
