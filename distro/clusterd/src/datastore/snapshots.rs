//! The snapshots that are kept, and how one is taken.
//!
//! | file in `var/lib/clusterd/snapshots/`, 0600 | |
//! |---|---|
//! | `N.db` | the snapshot, as its engine makes it |
//! | `N.json` | [`Snapshot`]; written last: what has none doesn't count |
//! | `lock` | held by who takes one |
//!
//! Of each pair of versions the last is kept, and of those the last four: so a version that
//! is tried again and again doesn't push out the one that it would fall back to.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use slipway_access::durable;
use slipway_images::hex;

use super::engine::Engine;
use super::version::Writer;
use crate::error::{Context, Error};
use crate::log::info;
use crate::paths::make;

/// How many are kept.
const KEPT: usize = 4;
/// Bytes that have to stay free on the data partition.
const MARGIN: u64 = 16 << 20;

/// What is known of a snapshot: its JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its number; a later one has a greater one.
    pub number: u64,
    /// What it is of.
    pub engine: Engine,
    /// Who wrote what is in it.
    #[serde(flatten)]
    pub writer: Writer,
    /// When it was taken, in seconds since 1970-01-01 UTC by the node's clock.
    pub taken: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
}

/// The directory of snapshots, for one at a time.
#[derive(Debug)]
pub struct Snapshots {
    directory: PathBuf,
    _lock: File,
}

impl Snapshots {
    /// Opens it; waits for another that has it.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        make(directory, 0o700)?;
        let path = directory.join("lock");
        let action = || format!("lock {}", path.display());
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .context(action)?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).context(action)?;
        Ok(Self {
            directory: directory.to_owned(),
            _lock: lock,
        })
    }

    /// Where a snapshot is.
    pub fn file(&self, snapshot: &Snapshot) -> PathBuf {
        self.directory.join(format!("{}.db", snapshot.number))
    }

    /// All of them, in no order. One whose description can't be read is said and left out.
    pub fn list(&self) -> Result<Vec<Snapshot>, Error> {
        let mut found = Vec::new();
        for path in self.entries()? {
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            let read = std::fs::read(&path)
                .and_then(|bytes| Ok(serde_json::from_slice::<Snapshot>(&bytes)?));
            match read {
                Ok(snapshot) => found.push(snapshot),
                Err(error) => info!("the snapshot {} is left out: {error}", path.display()),
            }
        }
        Ok(found)
    }

    fn entries(&self) -> Result<Vec<PathBuf>, Error> {
        std::fs::read_dir(&self.directory)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
            .context(|| format!("list {}", self.directory.display()))
    }

    /// Whether a snapshot is what its description says; else why not.
    pub fn check(&self, snapshot: &Snapshot) -> Result<(), String> {
        match digest(&self.file(snapshot)) {
            Ok(found) if found == (snapshot.size, snapshot.sha256.clone()) => Ok(()),
            Ok(_) => Err("its digest is another one".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Takes one of the datastore in `datastore`, which may run, and lets older ones go.
    ///
    /// When there isn't room for it, nothing is begun: an error that says how much is needed.
    pub fn take(
        &self,
        engine: Engine,
        datastore: &Path,
        writer: Writer,
        bin: Option<&Path>,
    ) -> Result<Snapshot, Error> {
        self.has_room(engine.size(datastore)?)?;
        let known = self.list()?;
        let numbers = self.entries()?;
        let numbers = numbers.iter().filter_map(|path| number(path));
        let number = numbers.max().unwrap_or(0) + 1;
        let aside = self.directory.join(format!(".{number}.db.new"));
        let action = || format!("write {}", aside.display());
        match std::fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).context(action);
            }
            _ => {}
        }
        let written = engine.copy(datastore, &aside, bin).and_then(|()| {
            let file = File::open(&aside).context(action)?;
            file.set_permissions(std::fs::Permissions::from_mode(0o600))
                .and_then(|()| file.sync_all())
                .and_then(|()| digest(&aside))
                .context(action)
        });
        let (size, sha256) = written.inspect_err(|_| {
            // The first error is the one worth telling; the next one takes the same name.
            drop(std::fs::remove_file(&aside));
        })?;
        let snapshot = Snapshot {
            number,
            engine,
            writer,
            taken: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |passed| passed.as_secs()),
            size,
            sha256,
        };
        std::fs::rename(&aside, self.file(&snapshot)).context(action)?;
        self.describe(&snapshot)?;
        self.prune(known, &snapshot)?;
        Ok(snapshot)
    }

    /// Writes its description, and with that it counts.
    fn describe(&self, snapshot: &Snapshot) -> Result<(), Error> {
        let path = self.directory.join(format!("{}.json", snapshot.number));
        serde_json::to_vec_pretty(snapshot)
            .map_err(io::Error::from)
            .and_then(|json| durable::write(&path, &json, 0o600))
            .context(|| format!("write {}", path.display()))
    }

    fn has_room(&self, needed: u64) -> Result<(), Error> {
        let found = rustix::fs::statvfs(&self.directory)
            .context(|| format!("see how full {} is", self.directory.display()))?;
        room(needed, found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Removes what is no longer kept, and what was never finished.
    fn prune(&self, known: Vec<Snapshot>, last: &Snapshot) -> Result<(), Error> {
        let mut all = known;
        all.push(last.clone());
        let kept = kept(all);
        for path in self.entries()? {
            if number(&path).is_some_and(|number| !kept.contains(&number)) {
                std::fs::remove_file(&path).context(|| format!("remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Whether there is room for so many bytes.
fn room(needed: u64, free: u64) -> Result<(), Error> {
    if needed.saturating_add(MARGIN) <= free {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(Error::State {
        what: "the datastore's snapshot".to_owned(),
        reason: format!(
            "it needs {} MiB on the data partition, and {} MiB are free",
            mib(needed.saturating_add(MARGIN)),
            free >> 20
        ),
        remedy: "make room there, such as by removing images and volumes that nothing uses, and try again",
    })
}

/// The numbers of those that are kept.
fn kept(mut all: Vec<Snapshot>) -> BTreeSet<u64> {
    all.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.number));
    let mut kept: Vec<Snapshot> = Vec::new();
    for snapshot in all {
        let again = kept.iter().any(|later| later.writer == snapshot.writer);
        if !again && kept.len() < KEPT {
            kept.push(snapshot);
        }
    }
    kept.iter().map(|snapshot| snapshot.number).collect()
}

/// The number in a name of ours.
fn number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.trim_start_matches('.');
    let (number, rest) = name.split_once('.')?;
    ["db", "json", "db.new", "json.new"]
        .contains(&rest)
        .then(|| number.parse().ok())?
}

/// Length and SHA-256 of a file.
fn digest(path: &Path) -> io::Result<(u64, String)> {
    let mut file = File::open(path)?;
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut buffer = vec![0; 64 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((length, hex(&hash.finalize()))),
            count => {
                hash.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn writer(kubernetes: &str, slipway: &str) -> Writer {
        Writer {
            kubernetes: kubernetes.to_owned().try_into().unwrap(),
            slipway: slipway.to_owned(),
        }
    }

    /// One of this number that a version of Kubernetes wrote.
    pub fn snapshot(number: u64, kubernetes: &str) -> Snapshot {
        Snapshot {
            number,
            engine: Engine::Sqlite,
            writer: writer(kubernetes, "0.1.0"),
            taken: 1,
            size: 0,
            sha256: String::new(),
        }
    }

    /// Puts one of this number there, with some content.
    pub fn put(directory: &Path, number: u64, kubernetes: &str, content: &str) {
        let snapshots = Snapshots::open(directory).unwrap();
        let mut snapshot = snapshot(number, kubernetes);
        let path = snapshots.file(&snapshot);
        std::fs::write(&path, content).unwrap();
        (snapshot.size, snapshot.sha256) = digest(&path).unwrap();
        snapshots.describe(&snapshot).unwrap();
    }

    #[test]
    fn trying_again_pushes_out_nothing_but_the_last_try() {
        let mut all = vec![snapshot(1, "v1.35.1"), snapshot(2, "v1.36.0")];
        all.extend((3..20).map(|number| snapshot(number, "v1.37.0")));
        assert_eq!(kept(all.clone()), BTreeSet::from([1, 2, 19]));
        all.extend([snapshot(20, "v1.37.1"), snapshot(21, "v1.37.2")]);
        assert_eq!(kept(all), BTreeSet::from([2, 19, 20, 21]));
    }

    #[test]
    fn names_of_ours() {
        let number = |name: &str| number(Path::new(name));
        assert_eq!(number("a/7.db"), Some(7));
        assert_eq!(number("a/7.json"), Some(7));
        assert_eq!(number("a/.8.db.new"), Some(8));
        assert_eq!(number("a/.8.json.new"), Some(8));
        for other in ["lock", "7", "x.db", "7.db.bak", "notes.json"] {
            assert_eq!(number(other), None, "{other}");
        }
    }

    #[test]
    fn a_full_disk_is_told_before_anything_is_written() {
        assert!(room(10 << 20, 26 << 20).is_ok());
        let text = room(10 << 20, (26 << 20) - 1).unwrap_err().to_string();
        assert!(
            text.contains("needs 26 MiB") && text.contains("25 MiB are free"),
            "{text}"
        );
        assert!(room(u64::MAX, u64::MAX - 1).is_err());
    }

    #[test]
    fn what_has_no_description_does_not_count_and_damage_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        put(directory.path(), 3, "v1.36.1", "three");
        std::fs::write(directory.path().join("9.db"), "cut before its description").unwrap();
        std::fs::write(directory.path().join("4.json"), "{").unwrap();
        let snapshots = Snapshots::open(directory.path()).unwrap();
        let found = snapshots.list().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(snapshots.check(&found[0]), Ok(()));
        std::fs::write(directory.path().join("3.db"), "thre3").unwrap();
        assert!(snapshots.check(&found[0]).is_err());
        std::fs::remove_file(directory.path().join("3.db")).unwrap();
        assert!(snapshots.check(&found[0]).is_err());
    }
}
