//! What the node was told to fetch, kept so that it goes on after a restart, a reboot or a
//! power cut: `var/lib/slipway/update/order.json`, 0600, as a URL may hold a secret.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use slipway_access::durable;
use slipway_images::bundle::Digest;
use slipway_images::node::update::How;
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

fn path(paths: &Paths) -> PathBuf {
    paths.updates().join("order.json")
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

    /// The one that is kept, if there is one that can be read.
    #[must_use]
    pub fn load(paths: &Paths) -> Option<Self> {
        let bytes = std::fs::read(path(paths)).ok()?;
        serde_json::from_slice(&bytes)
            .inspect_err(|error| notice!("the update's order is damaged and forgotten: {error}"))
            .ok()
    }

    /// Keeps it. Without a data partition it is done all the same, but not gone on with.
    pub fn keep(&self, paths: &Paths) {
        let kept = make_private(&paths.updates())
            .and_then(|()| Ok(serde_json::to_vec(self)?))
            .and_then(|text| durable::write(&path(paths), &text, 0o600));
        if let Err(error) = kept {
            notice!("the update's order can't be kept: {error}");
        }
    }

    /// Forgets whatever is kept.
    pub fn forget(paths: &Paths) {
        match std::fs::remove_file(path(paths)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                notice!("the update's order can't be forgotten: {error}");
            }
            _ => {}
        }
    }
}
