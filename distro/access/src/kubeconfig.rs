//! Kubeconfigs: where an API server is, how to trust it, and whom to be there.
//!
//! Only what a client with a certificate needs is written and understood
//! (k8s.io/client-go `tools/clientcmd/api/v1`); a file with tokens, exec
//! plugins or several contexts is read as far as its current context says.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use crate::durable;
use crate::pki::KeyCertificate;

/// One cluster, one user, one context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    /// Name of cluster and context.
    pub cluster: String,
    /// Name of the user's entry.
    pub user: String,
    /// `https://host:port`
    pub server: String,
    /// PEM of the CA that signs the server.
    pub ca_pem: String,
    /// Whom to be.
    pub client: KeyCertificate,
}

/// Why a kubeconfig can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// The file can't be read.
    #[error("can't read {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// The system's error.
        source: io::Error,
    },
    /// It is no kubeconfig, or is damaged.
    #[error("{path} is no usable kubeconfig: {reason}")]
    Corrupt {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Kubeconfig {
    /// The file's text (YAML).
    #[must_use]
    pub fn to_yaml(&self) -> String {
        // Names and URLs come from a seed: quoted as JSON strings, which YAML reads the same way.
        let cluster = quoted(&self.cluster);
        let user = quoted(&self.user);
        format!(
            "apiVersion: v1\n\
             kind: Config\n\
             clusters:\n\
             - name: {cluster}\n  \
               cluster:\n    \
                 server: {server}\n    \
                 certificate-authority-data: {ca}\n\
             users:\n\
             - name: {user}\n  \
               user:\n    \
                 client-certificate-data: {certificate}\n    \
                 client-key-data: {key}\n\
             contexts:\n\
             - name: {cluster}\n  \
               context:\n    \
                 cluster: {cluster}\n    \
                 user: {user}\n\
             current-context: {cluster}\n",
            server = quoted(&self.server),
            ca = BASE64.encode(&self.ca_pem),
            certificate = BASE64.encode(&self.client.certificate_pem),
            key = BASE64.encode(&self.client.key_pem),
        )
    }

    /// Writes it with mode 0600, whole or not at all.
    ///
    /// # Errors
    /// Any I/O error.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        durable::write(path, self.to_yaml().as_bytes(), 0o600)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`KubeconfigError`].
    pub fn read(path: &Path) -> Result<Self, KubeconfigError> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| KubeconfigError::Io {
            path: name.clone(),
            source,
        })?;
        Self::parse(&text).map_err(|reason| KubeconfigError::Corrupt { path: name, reason })
    }

    /// Parses a file's text.
    ///
    /// # Errors
    /// What is wrong, in words; never key material.
    pub fn parse(text: &str) -> Result<Self, String> {
        let raw: raw::Config =
            serde_saphyr::from_str(text).map_err(|error| match error.location() {
                Some(at) => format!("line {}: not the form of a kubeconfig", at.line()),
                None => "not the form of a kubeconfig".to_owned(),
            })?;
        let context = raw
            .contexts
            .into_iter()
            .find(|context| context.name == raw.current_context)
            .ok_or_else(|| format!("there is no context {:?}", raw.current_context))?
            .context;
        let cluster = raw
            .clusters
            .into_iter()
            .find(|cluster| cluster.name == context.cluster)
            .ok_or_else(|| format!("there is no cluster {:?}", context.cluster))?;
        let user = raw
            .users
            .into_iter()
            .find(|user| user.name == context.user)
            .ok_or_else(|| format!("there is no user {:?}", context.user))?;
        Ok(Self {
            ca_pem: pem(cluster.cluster.ca, "certificate-authority-data")?,
            client: KeyCertificate {
                certificate_pem: pem(user.user.certificate, "client-certificate-data")?,
                key_pem: pem(user.user.key, "client-key-data")?,
            },
            server: cluster.cluster.server,
            cluster: cluster.name,
            user: user.name,
        })
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn pem(data: Option<String>, key: &str) -> Result<String, String> {
    let data = data.ok_or_else(|| format!("{key} is missing"))?;
    let bytes = BASE64
        .decode(data.trim())
        .map_err(|_| format!("{key} is no base64"))?;
    String::from_utf8(bytes).map_err(|_| format!("{key} is no PEM"))
}

/// The file's own form.
mod raw {
    use super::Deserialize;

    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub(super) struct Config {
        pub clusters: Vec<NamedCluster>,
        pub users: Vec<NamedUser>,
        pub contexts: Vec<NamedContext>,
        pub current_context: String,
    }

    #[derive(Deserialize)]
    pub(super) struct NamedCluster {
        pub name: String,
        pub cluster: Cluster,
    }

    #[derive(Deserialize)]
    pub(super) struct Cluster {
        pub server: String,
        #[serde(rename = "certificate-authority-data")]
        pub ca: Option<String>,
    }

    #[derive(Deserialize)]
    pub(super) struct NamedUser {
        pub name: String,
        pub user: User,
    }

    #[derive(Deserialize)]
    pub(super) struct User {
        #[serde(rename = "client-certificate-data")]
        pub certificate: Option<String>,
        #[serde(rename = "client-key-data")]
        pub key: Option<String>,
    }

    #[derive(Deserialize)]
    pub(super) struct NamedContext {
        pub name: String,
        pub context: Context,
    }

    #[derive(Deserialize)]
    pub(super) struct Context {
        pub cluster: String,
        pub user: String,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Kubeconfig {
        Kubeconfig {
            cluster: "de\"mo: {x}".into(),
            user: "admin".into(),
            server: "https://127.0.0.1:6443".into(),
            ca_pem: "-----BEGIN CERTIFICATE-----\n".into(),
            client: KeyCertificate {
                certificate_pem: "cert".into(),
                key_pem: "secret-key".into(),
            },
        }
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Kubeconfig::parse(&sample().to_yaml()).unwrap(), sample());
    }

    #[test]
    fn the_file_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.kubeconfig");
        sample().write(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(Kubeconfig::read(&path).unwrap(), sample());
    }

    #[test]
    fn refusals_say_what_is_missing_and_show_no_key() {
        let text = sample().to_yaml().replace("client-key-data", "token");
        assert_eq!(
            Kubeconfig::parse(&text).unwrap_err(),
            "client-key-data is missing"
        );
        assert!(Kubeconfig::parse("").is_err());
        assert!(
            Kubeconfig::parse("clusters: 5")
                .unwrap_err()
                .contains("line 1")
        );
        assert!(!format!("{:?}", sample()).contains("secret-key"));
    }
}
