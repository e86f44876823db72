//! Outputs appear whole or not at all: written aside, fsynced, then renamed.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use crate::error::{At as _, Error, Kind, Result};
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
            sync(dir)?;
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

/// Refuses a directory that has something in it. `secrets` says what is never written over.
pub fn vacant(dir: &Path, secrets: &str) -> Result<()> {
    let is_empty = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
        Err(e) if e.kind() == std::io::ErrorKind::NotADirectory => false,
        Err(e) => return Err(e).at("reading", dir),
    };
    if is_empty {
        return Ok(());
    }
    Err(Error::new(
        Kind::Usage,
        format!("{} is there already and not empty", dir.display()),
    )
    .hint(format!(
        "choose another directory; {secrets} are never written over"
    )))
}

/// A directory that is being filled beside its final place, for its owner alone. Dropping it
/// without [`PendingDirectory::commit`] removes it.
pub struct PendingDirectory {
    aside: TempDir,
    parent: PathBuf,
    target: PathBuf,
    /// So that nothing lies aside when the process is ended.
    _whole: Whole,
}

impl PendingDirectory {
    /// Begins to fill what shall become `target`, making the directory it is in.
    pub fn create(target: &Path) -> Result<Self> {
        let whole = Whole::begin();
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).at("creating", parent)?;
        let aside = tempfile::Builder::new()
            .prefix(".slipway-")
            .permissions(private())
            .tempdir_in(parent)
            .at("creating a directory in", parent)?;
        Ok(Self {
            aside,
            parent: parent.to_owned(),
            target: target.to_owned(),
            _whole: whole,
        })
    }

    /// Where it is until it is committed.
    pub fn path(&self) -> &Path {
        self.aside.path()
    }

    /// Writes a file, and the directory it is in.
    pub fn write(&self, name: &Path, bytes: &[u8], mode: u32) -> Result<()> {
        let path = self.path().join(name);
        write(&path, bytes, mode)?;
        match path.parent().filter(|dir| *dir != self.path()) {
            Some(dir) => fs::set_permissions(dir, private()).at("setting the mode of", dir),
            None => Ok(()),
        }
    }

    /// Puts it in its place. An empty directory of this name is replaced; one that was filled
    /// meanwhile is not.
    pub fn commit(self) -> Result<()> {
        sync(self.path())?;
        fs::rename(self.path(), &self.target).at("renaming into", &self.target)?;
        // What was to be removed is elsewhere now.
        let _gone = self.aside.keep();
        sync(&self.parent)
    }
}

fn private() -> fs::Permissions {
    fs::Permissions::from_mode(0o700)
}

fn sync(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .at("syncing", dir)
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
