//! Files that are either the old or the new content after a power cut, never a part of it.
//!
//! Written aside in the same directory, flushed to the disk, renamed over the
//! target, and the directory flushed too: rename(2) is atomic for who reads,
//! but only fsync(2) of file and directory orders it against a loss of power.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Writes `content` to `path` with permission bits `mode` (not subject to the umask).
///
/// # Errors
/// Any I/O error; the target then still has its old content, and the file
/// aside (`.NAME.new`) is removed when that is possible.
pub fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let aside = aside(path)?;
    let written = write_aside(&aside, content, mode).and_then(|()| std::fs::rename(&aside, path));
    if let Err(error) = written {
        // The first error is the one worth telling; a leftover is overwritten by the next attempt.
        drop(std::fs::remove_file(&aside));
        return Err(error);
    }
    sync_directory(path)
}

/// Like [`write`], but leaves a file alone that already has this content. Returns whether it wrote.
///
/// # Errors
/// As [`write`].
pub fn write_if_changed(path: &Path, content: &[u8], mode: u32) -> io::Result<bool> {
    if let Ok(old) = std::fs::read(path)
        && old == content
        && std::fs::metadata(path)?.permissions().mode() & 0o7777 == mode
    {
        return Ok(false);
    }
    write(path, content, mode)?;
    Ok(true)
}

fn aside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} names no file", path.display()),
        )
    })?;
    let mut aside = std::ffi::OsString::from(".");
    aside.push(name);
    aside.push(".new");
    Ok(path.with_file_name(aside))
}

fn write_aside(aside: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    // A leftover of an interrupted write may have other permission bits.
    match std::fs::remove_file(aside) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode & 0o600)
        .open(aside)?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_content_and_mode_and_leaves_nothing_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(dir.path().join(".key.new"), "leftover of a power cut").unwrap();
        write(&path, b"one", 0o600).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        write(&path, b"two", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o644
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn unchanged_content_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        assert!(write_if_changed(&path, b"a", 0o600).unwrap());
        assert!(!write_if_changed(&path, b"a", 0o600).unwrap());
        assert!(
            write_if_changed(&path, b"a", 0o644).unwrap(),
            "another mode is a change"
        );
        assert!(write_if_changed(&path, b"b", 0o644).unwrap());
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        assert!(write(Path::new("/nonexistent/directory/file"), b"", 0o600).is_err());
    }
}
