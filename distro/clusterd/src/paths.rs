//! Where clusterd's files are, below its root.
//!
//! | path | mode | what |
//! |---|---|---|
//! | `var/lib/clusterd/pki/` | 0700 | CAs, certificates, keys |
//! | `var/lib/clusterd/kubeconfig/` | 0700 | the components' kubeconfigs |
//! | `var/lib/clusterd/config/` | 0700 | the components' configuration files |
//! | `var/lib/clusterd/db/` | 0700 | the datastore: `state.db` (SQLite, WAL), and `written-by.json` |
//! | `var/lib/clusterd/db.new/` | 0700 | one that is being restored; `db-VERSION-N/`: one put aside |
//! | `var/lib/clusterd/snapshots/` | 0700 | snapshots of it |
//! | `var/lib/clusterd/admin.kubeconfig` | 0600 | for the cluster's owner |
//! | `var/lib/clusterd/agent-token` | 0600 | what agents join with |
//! | `run/clusterd/` | 0700 | datastore's socket, lock, `status.json` |
//! | `var/log/clusterd/<component>.log` | | what the components say |
//! | `etc/cni/net.d/10-slipway.conflist` | 0644 | the pods' network |

use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::datastore::DATABASE;
use crate::error::{Context, Error};

/// All paths, made from the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
    state: PathBuf,
    run: PathBuf,
}

impl Paths {
    /// The layout below `root`.
    pub fn new(root: &Path) -> Self {
        Self {
            state: root.join("var/lib/clusterd"),
            run: root.join("run/clusterd"),
            root: root.to_owned(),
        }
    }

    /// Makes every directory, private ones private even if they were there with another mode.
    pub fn create(&self) -> Result<(), Error> {
        let private = [
            self.state.clone(),
            self.state.join("pki"),
            self.state.join("kubeconfig"),
            self.state.join("config"),
            self.datastore(),
            self.run.clone(),
        ];
        for directory in private {
            make(&directory, 0o700)?;
        }
        make(&self.logs(), 0o755)
    }

    /// Makes the directories that only a node with workloads needs.
    pub fn create_for_node(&self) -> Result<(), Error> {
        make(&self.root.join("etc/cni/net.d"), 0o755)?;
        make(&self.root.join("var/log/pods"), 0o755)?;
        make(&self.kubelet(), 0o755)?;
        make(&self.root.join("etc/kubernetes/manifests"), 0o755)
    }

    /// Below which everything is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A certificate authority's or leaf's file: `NAME.crt` or `NAME.key`.
    pub fn pki(&self, file: &str) -> PathBuf {
        self.state.join("pki").join(file)
    }

    /// The token that agents join with, on a server.
    pub fn agent_token(&self) -> PathBuf {
        self.state.join("agent-token")
    }

    /// A component's kubeconfig.
    pub fn kubeconfig(&self, component: &str) -> PathBuf {
        self.state
            .join("kubeconfig")
            .join(format!("{component}.kubeconfig"))
    }

    /// The owner's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.state.join("admin.kubeconfig")
    }

    /// A component's configuration file.
    pub fn config(&self, file: &str) -> PathBuf {
        self.state.join("config").join(file)
    }

    /// The datastore's directory.
    pub fn datastore(&self) -> PathBuf {
        self.state.join("db")
    }

    /// The database in it.
    pub fn database(&self) -> PathBuf {
        self.datastore().join(DATABASE)
    }

    /// A datastore that is being restored.
    pub fn datastore_new(&self) -> PathBuf {
        self.state.join("db.new")
    }

    /// Snapshots of the datastore.
    pub fn snapshots(&self) -> PathBuf {
        self.state.join("snapshots")
    }

    /// Where kine listens. Its directory keeps everybody else out.
    pub fn kine_socket(&self) -> PathBuf {
        self.run.join("kine.sock")
    }

    /// What `status.rs` writes.
    pub fn status(&self) -> PathBuf {
        self.run.join("status.json")
    }

    /// Held by the running clusterd.
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// Directory of the components' logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("var/log/clusterd")
    }

    /// The kubelet's state.
    pub fn kubelet(&self) -> PathBuf {
        self.root.join("var/lib/kubelet")
    }

    /// Static pods of the owner.
    pub fn manifests(&self) -> PathBuf {
        self.root.join("etc/kubernetes/manifests")
    }

    /// Where the pods' logs are.
    pub fn pod_logs(&self) -> PathBuf {
        self.root.join("var/log/pods")
    }

    /// The pods' network.
    pub fn cni(&self) -> PathBuf {
        self.root.join("etc/cni/net.d/10-slipway.conflist")
    }

    /// Host-local's book of given addresses. Volatile: after a boot there are no pods.
    pub fn cni_addresses(&self) -> PathBuf {
        self.root.join("run/cni/networks")
    }

    /// Container images of the system image.
    pub fn images(&self) -> PathBuf {
        self.root.join("usr/share/slipway/images")
    }

    /// Which images were imported; in containerd's own directory, so that both go together.
    pub fn imported(&self) -> PathBuf {
        self.root.join("var/lib/containerd/slipway-imported")
    }

    /// Manifests of the system image.
    pub fn addons(&self) -> PathBuf {
        self.root.join("usr/share/slipway/addons")
    }

    /// What the system image says of itself.
    pub fn image_info(&self) -> PathBuf {
        self.root.join("usr/lib/slipway/image.json")
    }

    /// The seed as `init` leaves it.
    pub fn seed(&self) -> PathBuf {
        self.root.join("run/slipway/seed.json")
    }

    /// There while the machine goes down, and not only this service.
    pub fn shutdown_mark(&self) -> PathBuf {
        self.root.join("run/slipway/shutdown")
    }
}

/// Makes a directory and its parents with this mode, or gives it this mode.
pub fn make(directory: &Path, mode: u32) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .and_then(|()| std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode)))
        .context(|| format!("make the directory {}", directory.display()))
}
