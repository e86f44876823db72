//! Where things are, below the root.
//!
//! | path | mode | what |
//! |---|---|---|
//! | `var/lib/slipway/node-api/identity.json` | 0600 | the identity that a seed gave last |
//! | `var/lib/slipway/node-api/own.json` | 0600 | the one that noded made for itself |
//! | `var/lib/slipway/seed/applied.json` | 0600 | a seed that was applied |
//! | `var/lib/slipway/update/` | 0700 | what the node was told to fetch, what it has staged, and what it knows of its channel |
//! | `run/slipway/` | | what `init` writes: seed, status, events |

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use slipway_images::{info, node, seed, slot};

/// All paths, made from the root.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
    seed: PathBuf,
}

impl Paths {
    /// The layout below `root`, the checked seed perhaps elsewhere.
    #[must_use]
    pub fn new(root: &Path, seed: Option<&Path>) -> Self {
        Self {
            seed: seed.map_or_else(|| root.join("run/slipway/seed.json"), Path::to_owned),
            root: root.to_owned(),
        }
    }

    /// Any path of the root.
    #[must_use]
    pub fn at(&self, relative: &str) -> PathBuf {
        self.root.join(relative.trim_start_matches('/'))
    }

    /// The root itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The checked seed.
    #[must_use]
    pub fn seed(&self) -> &Path {
        &self.seed
    }

    /// Directory of identities.
    #[must_use]
    pub fn identities(&self) -> PathBuf {
        self.at("var/lib/slipway/node-api")
    }

    /// Directory of what outlives a restart in the middle of an update.
    #[must_use]
    pub fn updates(&self) -> PathBuf {
        self.at("var/lib/slipway/update")
    }

    /// A seed that was applied.
    #[must_use]
    pub fn applied(&self) -> PathBuf {
        self.at(seed::APPLIED_FILE)
    }

    /// What `init` says of itself.
    #[must_use]
    pub fn status(&self) -> PathBuf {
        self.at(node::STATUS_FILE)
    }

    /// What is known of the slots.
    #[must_use]
    pub fn slots(&self) -> PathBuf {
        self.at(slot::STATUS_FILE)
    }

    /// What PID 1's status page is told.
    #[must_use]
    pub fn api_info(&self) -> PathBuf {
        self.at(node::API_FILE)
    }

    /// What has happened.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.at(node::EVENTS_FILE)
    }

    /// What the image says of itself.
    #[must_use]
    pub fn image_info(&self) -> PathBuf {
        self.at(info::IMAGE_INFO_PATH)
    }

    /// What the cluster's supervisor says of itself.
    #[must_use]
    pub fn cluster_status(&self) -> PathBuf {
        self.at(node::CLUSTER_STATUS_FILE)
    }

    /// The cluster's administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.at("var/lib/clusterd/admin.kubeconfig")
    }

    /// What agents of this node's cluster join with.
    #[must_use]
    pub fn agent_token(&self) -> PathBuf {
        self.at("var/lib/clusterd/agent-token")
    }

    /// Directories of logs: the services', the cluster's components'.
    #[must_use]
    pub fn logs(&self) -> [PathBuf; 2] {
        [self.at("var/log/slipway"), self.at("var/log/clusterd")]
    }
}

/// Makes a directory, and what is missing above it, for root alone.
///
/// # Errors
/// Those of mkdir(2).
pub fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}
