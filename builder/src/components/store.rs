//! The cache of built programs: `components/<key>/` in the cache directory, with
//! the program and `<name>.json`, which says what it is. An entry appears whole,
//! by a rename, and is never changed.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::{Built, Language, Module, elf};
use crate::board::Architecture;
use crate::error::{At as _, Error, Kind, Result};
use crate::{atomic, digest};

/// What `<name>.json` says.
#[derive(Serialize, Deserialize)]
struct Record {
    language: Language,
    version: String,
    sha256: String,
    len: u64,
    modules: Vec<Module>,
}

/// The cache below a directory that the caller chose.
pub struct Store {
    dir: PathBuf,
}

/// A program in the making, beside the place that it will have.
pub struct Building {
    dir: TempDir,
}

impl Building {
    /// A directory of its own to build in.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Store {
    /// The store in `cache`.
    pub fn new(cache: &Path) -> Self {
        Self {
            dir: cache.join("components"),
        }
    }

    fn entry(&self, key: &str) -> PathBuf {
        self.dir.join(&key[..32.min(key.len())])
    }

    /// The program called `name` under a key, if it is there and whole.
    pub fn find(&self, key: &str, name: &str) -> Option<Built> {
        let dir = self.entry(key);
        let record = fs::read(dir.join(format!("{name}.json"))).ok()?;
        let record: Record = serde_json::from_slice(&record).ok()?;
        let path = dir.join(name);
        let len = fs::metadata(&path).ok()?.len();
        (len == record.len).then_some(Built {
            name: name.to_owned(),
            path,
            sha256: record.sha256,
            version: record.version,
            links: Vec::new(),
            language: record.language,
            modules: record.modules,
        })
    }

    /// A directory to build in.
    pub fn begin(&self) -> Result<Building> {
        fs::create_dir_all(&self.dir).at("creating", &self.dir)?;
        let dir = tempfile::Builder::new()
            .prefix(".building-")
            .tempdir_in(&self.dir)
            .at("creating a directory in", &self.dir)?;
        Ok(Building { dir })
    }

    /// Checks the program `name` in a directory that was built in and puts it in its place.
    pub fn keep(
        &self,
        building: &Building,
        key: &str,
        name: &str,
        arch: Architecture,
        about: (Language, String, Vec<Module>),
    ) -> Result<Built> {
        use std::os::unix::fs::PermissionsExt as _;
        let (language, version, modules) = about;
        let made = building.path().join(name);
        let bytes = fs::read(&made).at("reading", &made)?;
        elf::check(name, &bytes, arch)?;
        let record = Record {
            language,
            version,
            sha256: digest::hex(&bytes),
            len: bytes.len() as u64,
            modules,
        };
        let json = serde_json::to_vec_pretty(&record)
            .map_err(|e| Error::new(Kind::Bug, format!("describing {name}: {e}")))?;
        let entry = self.entry(key);
        // The description comes last: without it the entry isn't there.
        fs::create_dir_all(&entry).at("creating", &entry)?;
        let target = entry.join(name);
        fs::set_permissions(&made, fs::Permissions::from_mode(0o755))
            .at("setting the mode of", &made)?;
        fs::File::open(&made)
            .and_then(|f| f.sync_all())
            .at("writing", &made)?;
        fs::rename(&made, &target).at("renaming into", &target)?;
        atomic::write(&entry.join(format!("{name}.json")), &json, 0o644)?;
        self.find(key, name).ok_or_else(|| {
            Error::new(Kind::Io, format!("{} vanished", target.display()))
                .hint("does something else clean the cache directory?")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_found_and_what_was_cut_is_not() {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::new(cache.path());
        let key = digest::hex(b"inputs");
        assert!(store.find(&key, "pause").is_none());
        let building = store.begin().unwrap();
        let mut elf = vec![0; 64];
        elf[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        elf[16..21].copy_from_slice(&[2, 0, 62, 0, 1]);
        elf[52..58].copy_from_slice(&[64, 0, 56, 0, 0, 0]);
        fs::write(building.path().join("pause"), &elf).unwrap();
        let about = (Language::Rust, "1.0.0".to_owned(), Vec::new());
        let built = store
            .keep(&building, &key, "pause", Architecture::Amd64, about.clone())
            .unwrap();
        assert_eq!(built.sha256, digest::hex(&elf));
        assert_eq!(store.find(&key, "pause").unwrap().version, "1.0.0");
        fs::write(&built.path, &elf[..10]).unwrap();
        assert!(store.find(&key, "pause").is_none());

        // For another machine: refused, and nothing appears.
        fs::write(building.path().join("pause"), &elf).unwrap();
        let other = digest::hex(b"others");
        assert!(
            store
                .keep(&building, &other, "pause", Architecture::Arm64, about)
                .is_err()
        );
        assert!(store.find(&other, "pause").is_none());
    }
}
