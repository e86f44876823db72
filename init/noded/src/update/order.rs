//! What the node was told to fetch, kept so that it goes on after a restart, a reboot or a
//! power cut, and what it has staged and is to reboot into. Two files, since an update may be
//! refused while another one waits for its time.
//!
//! | in `var/lib/slipway/update`, 0600, as a URL may hold a secret | what |
//! |---|---|
//! | `order.json` | the order of the update under way |
//! | `staged.json` | that of the version that waits for its first boot |

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use slipway_access::durable;
use slipway_images::bundle::Digest;
use slipway_images::node::update::{How, Waiting};
use slipway_images::seed::Window;

use crate::notice;
use crate::paths::{Paths, make_private};

/// An update that the node does by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Order {
    /// Where the bundle is.
    pub url: String,
    /// How it is to be done.
    pub how: How,
    /// What the channel says that it is; none if an operator has asked for it.
    #[serde(default)]
    pub head: Option<Digest>,
    /// When the machine may reboot into it; none for any time.
    #[serde(default)]
    pub window: Option<Window>,
    /// The version, once it is staged: what is left is to reboot.
    #[serde(default)]
    pub staged: Option<String>,
}

const ORDER: &str = "order.json";
const STAGED: &str = "staged.json";

fn path(paths: &Paths, name: &str) -> PathBuf {
    paths.updates().join(name)
}

impl Order {
    /// That of a bundle which is pushed: there is nothing to fetch, only to reboot.
    #[must_use]
    pub fn pushed(how: How) -> Self {
        Self {
            url: String::new(),
            how,
            head: None,
            window: None,
            staged: None,
        }
    }

    /// That of the update under way, if one is kept that can be read.
    #[must_use]
    pub fn load(paths: &Paths) -> Option<Self> {
        load(&path(paths, ORDER))
    }

    /// That of the version that waits for its boot, if one is kept that can be read.
    #[must_use]
    pub fn load_staged(paths: &Paths) -> Option<Self> {
        load(&path(paths, STAGED)).filter(|order| order.staged.is_some())
    }

    /// Keeps it. Without a data partition it is done all the same, but not gone on with.
    pub fn keep(&self, paths: &Paths) {
        let name = match self.staged {
            Some(_) => STAGED,
            None => ORDER,
        };
        let kept = make_private(&paths.updates())
            .and_then(|()| Ok(serde_json::to_vec(self)?))
            .and_then(|text| durable::write(&path(paths, name), &text, 0o600));
        if let Err(error) = kept {
            notice!("the update's order can't be kept: {error}");
        }
    }

    /// Forgets the update under way.
    pub fn forget(paths: &Paths) {
        forget(&path(paths, ORDER));
    }

    /// Forgets that a version waits for its boot.
    pub fn forget_staged(paths: &Paths) {
        forget(&path(paths, STAGED));
    }

    /// What is said of it, once its version is staged.
    #[must_use]
    pub fn waiting(&self) -> Option<Waiting> {
        Some(Waiting {
            version: self.staged.clone()?,
            reboot: self.how.reboot,
        })
    }
}

fn load(path: &Path) -> Option<Order> {
    let bytes = std::fs::read(path).ok()?;
    serde_json::from_slice(&bytes)
        .inspect_err(|error| notice!("the update's order is damaged and forgotten: {error}"))
        .ok()
}

fn forget(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            notice!("the update's order can't be forgotten: {error}");
        }
        _ => {}
    }
}
