//! The keys that updates and channels are believed by: the image's, and those that a bundle has
//! brought which was committed ([`rotation`]).
//!
//! | in `var/lib/slipway/update/keys` | what |
//! |---|---|
//! | `ROOT_HASH` | the head of the bundle with that root, which brings keys: of no account until it runs and is committed |
//! | `committed` | heads of bundles that were |
//!
//! So a version that falls back leaves nothing behind, and the one before trusts whom it did.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use slipway_access::durable;
use slipway_images::bundle::keys::{self, PublicKey, TRUSTED_KEYS_DIR};
use slipway_images::bundle::rotation::{self, HEADS_LIMIT};
use slipway_images::bundle::{Admitted, BundleError};
use slipway_images::slot::{SlotsStatus, State};
use slipway_images::verity::RootHash;
use slipway_init::files::read_json;

use super::work::running_root;
use crate::notice;
use crate::paths::{Paths, make_private};

/// Whoever settles is alone with the files.
static SETTLING: Mutex<()> = Mutex::new(());

/// Whom the node trusts.
#[derive(Debug)]
pub struct Trust {
    /// Their keys.
    pub keys: Vec<PublicKey>,
    /// Why what bundles have brought isn't among them.
    doubt: Option<String>,
}

impl Trust {
    /// As of now.
    ///
    /// # Errors
    /// A sentence, when the image's own keys can't be read.
    pub fn load(paths: &Paths) -> Result<Self, String> {
        settle(paths);
        let mut keys = image_keys(paths)?;
        let file = committed(paths);
        let brought = read(&file)
            .map_err(|error| error.to_string())
            .and_then(|heads| rotation::brought(&heads, &keys).map_err(|error| error.to_string()));
        let doubt = match brought {
            Ok(brought) => {
                keys.extend(brought);
                None
            }
            Err(why) => Some(format!(
                "the keys that updates have brought aren't trusted, since {} isn't as it was written ({why}): remove it, and update with a key of the image",
                file.display()
            )),
        };
        Ok(Self { keys, doubt })
    }

    /// Why somebody's word isn't taken, with what may be the reason.
    #[must_use]
    pub fn explain(&self, why: &impl std::fmt::Display) -> String {
        match &self.doubt {
            Some(doubt) => format!("{why}; {doubt}"),
            None => why.to_string(),
        }
    }
}

/// Keeps the keys that a bundle brings, before its version can be booted.
///
/// # Errors
/// A sentence.
pub fn keep(paths: &Paths, bundle: &Admitted) -> Result<(), String> {
    let manifest = bundle.manifest();
    if manifest.next_keys.is_empty() {
        return Ok(());
    }
    make_private(&directory(paths))
        .and_then(|()| {
            let file = pending(paths, manifest.root_hash);
            durable::write(&file, bundle.signed(), 0o600)
        })
        .map_err(|error| format!("the keys that the bundle brings can't be kept: {error}"))
}

/// Once what runs is committed, the keys count that its bundle has brought. Gives whether it is.
pub fn settle(paths: &Paths) -> bool {
    let slots: Option<SlotsStatus> = read_json(&paths.slots());
    if slots.is_none_or(|slots| slots.of(slots.booted).state != State::Good) {
        return false;
    }
    let settling = SETTLING.lock().unwrap_or_else(PoisonError::into_inner);
    let file = running_root(paths).map(|root| pending(paths, root));
    if let Some(file) = file.filter(|file| file.exists()) {
        match take(paths, &file) {
            Ok(()) => notice!("the keys that this version's bundle has brought are trusted now"),
            Err(why) => notice!("the keys that its bundle has brought aren't trusted: {why}"),
        }
    }
    drop(settling);
    true
}

/// Puts a head among those that count. What was pending is of no use any more, for this version
/// or another one.
fn take(paths: &Paths, file: &Path) -> Result<(), String> {
    let image = image_keys(paths)?;
    let text = |error: io::Error| error.to_string();
    let head = read(file).map_err(text)?;
    let added = read(&committed(paths))
        .map_err(BundleError::Source)
        .and_then(|heads| rotation::add(&heads, &head, &image));
    if let Ok(heads) = &added {
        durable::write(&committed(paths), heads, 0o600).map_err(text)?;
    }
    for entry in fs::read_dir(directory(paths)).map_err(text)? {
        let path = entry.map_err(text)?.path();
        if path != committed(paths) {
            fs::remove_file(path).map_err(text)?;
        }
    }
    added.map(drop).map_err(|error| error.to_string())
}

fn image_keys(paths: &Paths) -> Result<Vec<PublicKey>, String> {
    keys::trusted(&paths.at(TRUSTED_KEYS_DIR)).map_err(|error| error.to_string())
}

fn directory(paths: &Paths) -> PathBuf {
    paths.updates().join("keys")
}

fn committed(paths: &Paths) -> PathBuf {
    directory(paths).join("committed")
}

fn pending(paths: &Paths, root: RootHash) -> PathBuf {
    directory(paths).join(root.to_string())
}

/// A file of heads; nothing if it isn't there.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut heads = Vec::new();
    match fs::File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(heads),
        file => file?.take(HEADS_LIMIT as u64 + 1).read_to_end(&mut heads)?,
    };
    match heads.len() > HEADS_LIMIT {
        true => Err(io::Error::other("it is too long")),
        false => Ok(heads),
    }
}
