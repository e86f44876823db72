//! What differs between kinds of datastores: where its bytes are, how they are copied while
//! it runs, and how a datastore is made of such a copy.
//!
//! | engine | in the datastore's directory | a snapshot is |
//! |---|---|---|
//! | `sqlite` | `state.db`, with `-wal` and `-shm` while it is open | a database without a WAL, by `datastore-copy` |
//!
//! etcd will be one more: its snapshot is what `etcdutl snapshot restore` reads.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error};

/// The program that copies a running SQLite datastore.
const COPIER: &str = "datastore-copy";
/// The database in the datastore's directory.
pub const DATABASE: &str = "state.db";

/// A kind of datastore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// kine on SQLite.
    Sqlite,
}

impl Engine {
    /// That of the datastore in a directory; none if there is no datastore yet.
    pub fn of(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(DATABASE);
        let there = path.try_exists();
        let there = there.context(|| format!("look for {}", path.display()))?;
        Ok(there.then_some(Self::Sqlite))
    }

    /// Most bytes that a snapshot of it takes.
    pub fn size(self, directory: &Path) -> Result<u64, Error> {
        let Self::Sqlite = self;
        // Rows in the WAL aren't in the database yet, or there in an older form.
        [DATABASE, "state.db-wal"].iter().try_fold(0, |sum, name| {
            let path = directory.join(name);
            match std::fs::metadata(&path) {
                Ok(found) => Ok(sum + found.len()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(sum),
                Err(error) => Err(error).context(|| format!("read {}", path.display())),
            }
        })
    }

    /// Copies the datastore as it is at one moment to the new file `to`, whether it runs or
    /// not. The copy is not flushed. `bin` is where programs are, if not in PATH.
    pub fn copy(self, directory: &Path, to: &Path, bin: Option<&Path>) -> Result<(), Error> {
        let Self::Sqlite = self;
        let program = bin.map_or_else(|| PathBuf::from(COPIER), |bin| bin.join(COPIER));
        let action = || format!("run {}", program.display());
        let output = Command::new(&program)
            .arg(directory.join(DATABASE))
            .arg(to)
            .output()
            .context(action)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().lines().last().unwrap_or("it didn't say why");
        Err(io::Error::other(format!("{}: {said}", output.status))).context(action)
    }

    /// Makes a datastore of a snapshot in an empty directory, flushed.
    pub fn unpack(self, snapshot: &Path, directory: &Path) -> Result<(), Error> {
        let Self::Sqlite = self;
        let to = directory.join(DATABASE);
        let action = || format!("copy {} to {}", snapshot.display(), to.display());
        // With the snapshot's mode, 0600.
        std::fs::copy(snapshot, &to).context(action)?;
        std::fs::File::open(&to)
            .and_then(|file| file.sync_all())
            .context(action)
    }
}
