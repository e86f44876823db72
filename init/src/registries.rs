//! The seed's registries as containerd reads them, with each pull: a directory for each below
//! `/etc/containerd/certs.d` (containerd's docs/hosts.md; `config_path` in `containerd.toml`).
//!
//! | path | mode | what |
//! |---|---|---|
//! | `HOST[:PORT]/hosts.toml` | 0600 | mirrors, best first; credentials as a header |
//! | `HOST[:PORT]/ca.crt` | 0600 | CAs of the registry and its mirrors |
//! | `_default/...` | | those of `*` |
//!
//! A header goes to the registry, and to the place that the registry sends its clients to for
//! a token. A mirror that has settings of its own is asked with its credentials and CA.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use slipway_images::seed::{ANY_REGISTRY, Registry};

use crate::files;
use crate::phase::{Context, Failure};

const DIRECTORY: &str = "etc/containerd/certs.d";
const HOSTS: &str = "hosts.toml";
const CA: &str = "ca.crt";
/// The registry whose API is not at its name; containerd knows where it is.
const ELSEWHERE: &str = "docker.io";

/// Registries by host, as a seed has them.
pub type Registries = BTreeMap<String, Registry>;

/// Writes all below `root`, and takes away those that were there before and are no more.
///
/// # Errors
/// All that failed, in one line.
pub fn write(root: &Path, before: &Registries, now: &Registries) -> Result<(), Failure> {
    let directory = |name: &str| {
        let name = if name == ANY_REGISTRY {
            "_default"
        } else {
            name
        };
        root.join(DIRECTORY).join(name)
    };
    let gone = before.keys().filter(|name| !now.contains_key(*name));
    let gone = gone.map(|name| (name, remove(&directory(name))));
    let written = now
        .iter()
        .map(|(name, registry)| (name, write_one(&directory(name), name, registry, now)));
    let done = gone.chain(written);
    Failure::all(
        done.filter_map(|(name, done)| done.context(format_args!("registry {name}")).err()),
    )
}

fn remove(directory: &Path) -> Result<(), Failure> {
    for file in [HOSTS, CA] {
        files::remove(&directory.join(file))?;
    }
    match fs::remove_dir(directory) {
        // Files of the owner's may lie beside ours.
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.context(directory.display()),
    }
}

fn write_one(
    directory: &Path,
    name: &str,
    registry: &Registry,
    all: &Registries,
) -> Result<(), Failure> {
    fs::create_dir_all(directory).context(directory.display())?;
    let put = |file: &str, text: &str| -> Result<PathBuf, Failure> {
        let path = directory.join(file);
        files::write_atomically(&path, text.as_bytes(), 0o600).context(path.display())?;
        Ok(path)
    };
    // The CA first: hosts.toml names it.
    if let Some(ca) = &registry.ca {
        put(CA, ca)?;
    }
    put(HOSTS, &hosts(name, registry, all))?;
    if registry.ca.is_none() {
        files::remove(&directory.join(CA))?;
    }
    Ok(())
}

/// The text of `hosts.toml`.
fn hosts(name: &str, registry: &Registry, all: &Registries) -> String {
    let mut text = "# By init, from `slipway.registries` of the seed.\n".to_owned();
    // Without it containerd asks the registry by its name, which is right for all but this:
    // at localhost it would take any certificate, and HTTP.
    if registry.ca.is_some() && name != ANY_REGISTRY && name != ELSEWHERE {
        text += &format!("server = {}\n", quoted(&format!("https://{name}")));
    }
    if registry.ca.is_some() {
        text += &format!("ca = {}\n", quoted(CA));
    }
    if let Some(header) = authorization(registry) {
        text += &format!("[header]\nAuthorization = {}\n", quoted(&header));
    }
    for mirror in &registry.mirrors {
        let (host, path) = host_and_path(mirror);
        let own = all.get(host);
        let table = format!("host.{}", quoted(mirror));
        text += &format!("[{table}]\ncapabilities = [\"pull\", \"resolve\"]\n");
        // A path is the whole of the API's, as registries that mirror several others have it.
        if !["", "/v2"].contains(&path.trim_end_matches('/')) {
            text += "override_path = true\n";
        }
        let mut authorities = Vec::new();
        if registry.ca.is_some() {
            authorities.push(quoted(CA));
        }
        if own.is_some_and(|own| own.ca.is_some()) {
            authorities.push(quoted(&format!("../{host}/{CA}")));
        }
        if !authorities.is_empty() {
            text += &format!("ca = [{}]\n", authorities.join(", "));
        }
        if let Some(header) = own.and_then(authorization) {
            text += &format!("[{table}.header]\nAuthorization = {}\n", quoted(&header));
        }
    }
    text
}

/// RFC 7617.
fn authorization(registry: &Registry) -> Option<String> {
    let (name, password) = (registry.username.as_ref()?, registry.password.as_ref()?);
    let pair = format!("{name}:{}", password.reveal());
    Some(format!("Basic {}", STANDARD.encode(pair)))
}

/// `HOST[:PORT]` and what follows it, of a URL that the seed's reader has checked.
fn host_and_path(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

/// A basic string of TOML. JSON's escapes are TOML's, too; nothing here holds a DEL, which
/// only TOML forbids.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
#[path = "registries_tests.rs"]
mod tests;
