//! The checkout that images are built from, and the user's cache.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};

use crate::digest;
use crate::error::{Error, Kind, Result};

/// A checkout of this repository.
#[derive(Debug, Clone)]
pub struct Source {
    root: PathBuf,
}

/// What the repository contributes to an image, by group, as named in locks.
/// Board TOMLs are not among them: a board's checked content is digested instead,
/// so that a comment or another board changes nothing.
const GROUPS: [(&str, &[&str]); 4] = [
    (
        "builder",
        &[
            "Cargo.lock",
            "builder/Cargo.toml",
            "builder/src",
            "images/src",
        ],
    ),
    (
        "node",
        &[
            "Cargo.lock",
            "Cargo.toml",
            "images/Cargo.toml",
            "images/src",
            "init/Cargo.toml",
            "init/src",
            "init/noded/Cargo.toml",
            "init/noded/src",
            "init/netlink/Cargo.toml",
            "init/netlink/src",
            "distro/access/Cargo.toml",
            "distro/access/src",
            "distro/clusterd/Cargo.toml",
            "distro/clusterd/src",
        ],
    ),
    ("components", &["distro/components", "distro/addons"]),
    (
        "files",
        &["distro/files", "distro/services", "distro/u-boot"],
    ),
];

impl Source {
    /// The checkout at `given`, or the one around the current directory.
    ///
    /// # Errors
    /// [`Kind::Input`] where there is none.
    pub fn find(given: Option<&Path>) -> Result<Self> {
        let start = match given {
            Some(dir) => dir.to_owned(),
            None => env::current_dir()
                .map_err(|e| Error::new(Kind::Io, format!("finding the current directory: {e}")))?,
        };
        let start = std::path::absolute(&start).unwrap_or(start);
        start
            .ancestors()
            .take(if given.is_some() { 1 } else { usize::MAX })
            .find(|d| d.join("board-configs").is_dir() && d.join("distro/components").is_dir())
            .map(|d| Self { root: d.to_owned() })
            .ok_or_else(|| {
                Error::new(
                    Kind::Input,
                    format!("{} is not in a checkout of Slipway", start.display()),
                )
                .hint("run this inside the checkout, or name it with --source DIR")
            })
    }

    /// The checkout's own directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path of the checkout.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The digest of each group of sources.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn digests(&self) -> Result<BTreeMap<String, String>> {
        GROUPS
            .iter()
            .map(|(name, parts)| Ok(((*name).to_owned(), digest::sources(&self.root, parts)?)))
            .collect()
    }
}

/// Where fetched and built parts are kept: `given`, else
/// `$XDG_CACHE_HOME/slipway`, else `~/.cache/slipway`.
///
/// # Errors
/// [`Kind::Missing`] if none of them is known.
pub fn cache_dir(given: Option<PathBuf>) -> Result<PathBuf> {
    let set = |name: &str| {
        env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    given
        .or_else(|| set("XDG_CACHE_HOME").map(|d| d.join("slipway")))
        .or_else(|| set("HOME").map(|d| d.join(".cache/slipway")))
        .ok_or_else(|| {
            Error::new(
                Kind::Missing,
                "there is no place for the cache: HOME is not set",
            )
            .hint("name one with --cache DIR")
        })
}
