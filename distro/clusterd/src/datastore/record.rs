//! `written-by.json`, beside the datastore: which versions wrote it last.
//!
//! It lies in the datastore's own directory, so that whatever replaces one replaces the other.

use std::path::{Path, PathBuf};

use slipway_access::durable;

use super::version::Writer;
use crate::error::{Context, Error, read_if_there};

/// The record of the datastore in a directory.
fn path(directory: &Path) -> PathBuf {
    directory.join("written-by.json")
}

/// Who wrote the datastore in this directory last; none if nobody has noted it.
pub fn read(directory: &Path) -> Result<Option<Writer>, Error> {
    let path = path(directory);
    let Some(bytes) = read_if_there(&path)? else {
        return Ok(None);
    };
    let parsed = serde_json::from_slice(&bytes).map_err(|error| Error::State {
        what: path.display().to_string(),
        reason: format!("it is damaged ({error})"),
        remedy: "remove it if the version that runs now is the one that ran before",
    })?;
    Ok(Some(parsed))
}

/// Notes who writes it from now on; before they do.
pub fn write(directory: &Path, writer: &Writer) -> Result<(), Error> {
    let path = path(directory);
    serde_json::to_vec_pretty(writer)
        .map_err(std::io::Error::from)
        .and_then(|json| durable::write_if_changed(&path, &json, 0o600))
        .map(drop)
        .context(|| format!("write {}", path.display()))
}
