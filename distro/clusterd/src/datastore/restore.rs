//! Putting a snapshot in the datastore's place, so that a power cut leaves one whole datastore.
//!
//! | step | `db` | `db.new` | after a cut behind it |
//! |---|---|---|---|
//! | [`build`] | the newer | the restored; its record is written last | begun again |
//! | [`exchange`], one renameat2(2) | the restored | the newer | [`settle`] goes on |
//! | [`settle`] | the restored | | |
//!
//! The newer datastore is kept as `db-VERSION-N`, the last two of them.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::record;
use super::snapshots::{Snapshot, Snapshots};
use crate::error::{Context, Error};
use crate::log::info;
use crate::paths::{Paths, make};

/// How many datastores that were put aside are kept.
const KEPT: usize = 2;

/// Makes a whole datastore of a snapshot, beside the one in use.
pub fn build(paths: &Paths, snapshots: &Snapshots, snapshot: &Snapshot) -> Result<(), Error> {
    let new = paths.datastore_new();
    remove(&new)?;
    make(&new, 0o700)?;
    let file = snapshots.file(snapshot);
    snapshot.engine.unpack(&file, &new)?;
    // With it the directory is flushed, too.
    record::write(&new, &snapshot.writer)?;
    sync_parent(&new)
}

/// Lets the two change places.
pub fn exchange(paths: &Paths) -> Result<(), Error> {
    let (one, other) = (paths.datastore(), paths.datastore_new());
    renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE)
        .context(|| format!("exchange {} and {}", one.display(), other.display()))?;
    sync_parent(&one)
}

/// Puts away what a restore, or one that was cut, has left: the newer datastore is kept, what
/// was only being made isn't. Gives where a newer one is kept now.
pub fn settle(paths: &Paths) -> Result<Option<PathBuf>, Error> {
    let new = paths.datastore_new();
    if !new.exists() {
        return Ok(None);
    }
    let minor = |directory: &Path| -> Result<_, Error> {
        Ok(record::read(directory)?.map(|writer| writer.kubernetes))
    };
    // Unfinished, it has no record.
    let (used, aside) = (minor(&paths.datastore())?, minor(&new)?);
    let newer = match (used, aside) {
        (Some(used), Some(aside)) if aside.minor() > used.minor() => aside,
        _ => {
            remove(&new)?;
            return Ok(None);
        }
    };
    let kept = kept(paths)?;
    let number = kept.last().map_or(1, |(number, _)| number + 1);
    let to = paths
        .datastore()
        .with_file_name(format!("db-{newer}-{number}"));
    std::fs::rename(&new, &to)
        .context(|| format!("rename {} to {}", new.display(), to.display()))?;
    sync_parent(&to)?;
    info!("the newer datastore is kept as {}", to.display());
    let superfluous = (kept.len() + 1).saturating_sub(KEPT);
    for (_, path) in kept.into_iter().take(superfluous) {
        info!(
            "an older one that was put aside is removed: {}",
            path.display()
        );
        remove(&path)?;
    }
    Ok(Some(to))
}

/// Datastores that were put aside, by their numbers.
fn kept(paths: &Paths) -> Result<Vec<(u64, PathBuf)>, Error> {
    let db = paths.datastore();
    let state = db.parent().unwrap_or(&db);
    let names: Vec<OsString> = std::fs::read_dir(state)
        .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect())
        .context(|| format!("list {}", state.display()))?;
    let mut found: Vec<(u64, PathBuf)> = names
        .iter()
        .filter_map(|name| {
            let (_, number) = name.to_str()?.strip_prefix("db-")?.rsplit_once('-')?;
            Some((number.parse().ok()?, state.join(name)))
        })
        .collect();
    found.sort();
    Ok(found)
}

fn remove(directory: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context(|| format!("remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

fn sync_parent(path: &Path) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(path);
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .context(|| format!("flush {}", parent.display()))
}
