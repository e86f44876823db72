//! What was expensive to make, kept in the cache directory by the digest of what it was
//! made from.
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 32 | SHA-256 of the rest |
//! | 32 | | the bytes |
//!
//! An entry that doesn't hold, or can't be read, counts as missing. Nothing is synced: an
//! entry that a crash of the host has torn shows by its digest.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use crate::digest;
use crate::error::{At as _, Result};
use crate::tree::Content;

const DIGEST: usize = 32;

/// One kind of results in the cache directory.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The results of that kind in `cache`.
    pub fn new(cache: &Path, kind: &str) -> Self {
        Self {
            dir: cache.join(kind),
        }
    }

    fn path(&self, key: &[u8; 32]) -> PathBuf {
        let key = digest::to_hex(key);
        self.dir.join(&key[..2]).join(&key[2..])
    }

    /// The bytes kept under the key.
    pub fn get(&self, key: &[u8; 32]) -> Option<Vec<u8>> {
        let path = self.path(key);
        let mut bytes = fs::read(&path).ok()?;
        if bytes.len() < DIGEST || Sha256::digest(&bytes[DIGEST..])[..] != bytes[..DIGEST] {
            return None;
        }
        // What was used last is what a clean-up keeps; if the time can't be set, the
        // entry is merely taken for older than it is.
        fs::File::options()
            .append(true)
            .open(&path)
            .and_then(|f| f.set_modified(SystemTime::now()))
            .unwrap_or_default();
        Some(bytes.split_off(DIGEST))
    }

    /// Keeps the bytes under the key.
    ///
    /// # Errors
    /// [`Kind::Io`](crate::Kind::Io).
    pub fn put(&self, key: &[u8; 32], bytes: &[u8]) -> Result<()> {
        let path = self.path(key);
        let dir = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(dir).at("creating", dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir).at("creating a file in", dir)?;
        file.write_all(&Sha256::digest(bytes))
            .and_then(|()| file.write_all(bytes))
            .at("writing", &path)?;
        file.persist(&path)
            .map_err(|e| e.error)
            .at("renaming into", &path)?;
        Ok(())
    }

    /// The entry of the key as content of a tree, to be read when it is needed. The entry
    /// must be there and hold `len` bytes.
    pub fn content(&self, key: &[u8; 32], len: u64) -> Content {
        Content::Range {
            path: Arc::new(self.path(key)),
            offset: DIGEST as u64,
            len,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_got_unless_it_was_torn() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "x");
        let key = [7; 32];
        assert_eq!(store.get(&key), None);
        store.put(&key, b"bytes").unwrap();
        assert_eq!(store.get(&key).unwrap(), b"bytes");
        assert_eq!(&*store.content(&key, 5).read().unwrap(), b"bytes");
        let path = store.path(&key);
        fs::write(&path, &fs::read(&path).unwrap()[..35]).unwrap();
        assert_eq!(store.get(&key), None);
        fs::write(&path, b"").unwrap();
        assert_eq!(store.get(&key), None);
    }
}
