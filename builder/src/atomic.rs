//! Outputs appear whole or not at all: written aside, fsynced, then renamed.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{At as _, Result};
use crate::progress::Whole;

/// An output that is being written beside its final place. Dropping it without
/// [`Pending::commit`] removes what was written.
pub struct Pending {
    file: NamedTempFile,
    target: PathBuf,
}

impl Pending {
    /// Begins to write what shall become `target`, making its directory.
    pub fn create(target: &Path) -> Result<Self> {
        let dir = match target.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        fs::create_dir_all(dir).at("creating", dir)?;
        let file = NamedTempFile::new_in(dir).at("creating a file in", dir)?;
        Ok(Self {
            file,
            target: target.to_owned(),
        })
    }

    /// The open file.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Where the bytes are until they are committed.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Syncs the bytes and puts them in their place with the given permissions
    /// (`0o644` for what may be shared, `0o600` for secrets).
    pub fn commit(self, mode: u32) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.file.as_file();
        file.set_permissions(fs::Permissions::from_mode(mode))
            .at("setting the mode of", &self.target)?;
        file.sync_all().at("writing", &self.target)?;
        let target = self.target;
        self.file
            .persist(&target)
            .map_err(|e| e.error)
            .at("renaming into", &target)?;
        if let Some(dir) = target.parent().filter(|p| !p.as_os_str().is_empty()) {
            File::open(dir)
                .and_then(|d| d.sync_all())
                .at("syncing", dir)?;
        }
        Ok(())
    }
}

/// Writes `bytes` to `target` whole or not at all.
pub fn write(target: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    // So that nothing lies aside when the process is ended.
    let _whole = Whole::begin();
    let mut pending = Pending::create(target)?;
    pending.file().write_all(bytes).at("writing", target)?;
    pending.commit(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_of_an_abandoned_output() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out");
        let mut pending = Pending::create(&target).unwrap();
        pending.file().write_all(b"half").unwrap();
        drop(pending);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_secret_is_never_readable_by_others() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("key");
        let pending = Pending::create(&target).unwrap();
        assert_eq!(
            fs::metadata(pending.path()).unwrap().permissions().mode() & 0o77,
            0
        );
        drop(pending);
        write(&target, b"k", 0o600).unwrap();
        assert_eq!(
            fs::metadata(&target).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
