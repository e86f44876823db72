//! Letting machines join as agents: the token, and what comes with it.
//!
//! | who | group | may |
//! |---|---|---|
//! | has the token | [`JOINING`] | ask for an agent's certificate ([`crate::signer`]), once for a node's name |
//! | an agent | [`AGENTS`] | ask for the certificates of its node; read the cluster's networks, the nodes, and where API servers are |
//!
//! The token's secret itself goes nowhere: what an agent sends, and what the API server's file
//! has, is its hash ([`bearer`]), so any text does as a secret.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use slipway_access::durable;
use slipway_access::pki;
use slipway_images::hex::hex;
use slipway_images::info::ImageInfo;
use slipway_images::seed::{Cidr, Role, Token};

use crate::error::{Context, Error, read_if_there};
use crate::log::info;
use crate::options::Config;
use crate::random::random;

/// The group of who has the token and nothing else.
pub const JOINING: &str = "slipway:joining-agents";
/// The group of agents, in their certificates.
pub const AGENTS: &str = "slipway:agents";
/// An agent's name is this and its node's.
pub const AGENT: &str = "slipway:agent:";
/// Where agents read about the cluster.
pub const ABOUT: &str = "/api/v1/namespaces/kube-system/configmaps/slipway-cluster";

/// What an agent has to know of its cluster, as the config map `slipway-cluster` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct About {
    /// The cluster's name.
    pub name: String,
    /// Addresses of pods.
    pub pod_cidr: Cidr,
    /// Addresses of services.
    pub service_cidr: Cidr,
    /// DNS domain of services.
    pub cluster_domain: String,
    /// Kubernetes' version on the server, as `v1.36.3`; empty outside an image.
    pub kubernetes: String,
}

impl About {
    /// This server's cluster.
    pub fn of(config: &Config) -> Self {
        let cluster = &config.seed.cluster;
        Self {
            name: cluster.name.clone(),
            pod_cidr: cluster.pod_cidr,
            service_cidr: cluster.service_cidr,
            cluster_domain: cluster.cluster_domain.clone(),
            kubernetes: ImageInfo::read(&config.paths.image_info())
                .map(|image| image.kubernetes)
                .unwrap_or_default(),
        }
    }
}

/// What the API server knows a token's secret by: 64 hexadecimal digits.
pub fn bearer(token: &Token) -> String {
    let digest = Sha256::new()
        .chain_update(b"slipway agent token\0")
        .chain_update(token.secret())
        .finalize();
    hex(&digest)
}

/// Writes the token that agents join with, for the owner and for the API server: the seed's, or
/// one of the server's own making.
pub fn prepare(config: &Config, ca_pem: &str) -> Result<(), Error> {
    let ca = pki::sha256(ca_pem)?;
    let path = config.paths.agent_token();
    let secret = match &config.seed.cluster.agent_token {
        Some(token) => token.secret().to_owned(),
        None => match kept(config)? {
            Some(token) => token.secret().to_owned(),
            None => hex(&random::<32>()?),
        },
    };
    let token = Token::new(ca, Role::Agent, &secret);
    let text = format!("{}\n", token.reveal());
    durable::write_if_changed(&path, text.as_bytes(), 0o600)
        .context(|| format!("write {}", path.display()))?;
    // Token, user, user's id, groups (kube-apiserver's `--token-auth-file`).
    let line = format!("{},{JOINING},{JOINING},{JOINING}\n", bearer(&token));
    let path = config.paths.config("tokens.csv");
    durable::write_if_changed(&path, line.as_bytes(), 0o600)
        .context(|| format!("write {}", path.display()))
        .map(drop)
}

/// The token of an earlier start. A damaged one is made anew: who has the old one has to ask again.
fn kept(config: &Config) -> Result<Option<Token>, Error> {
    let path = config.paths.agent_token();
    let Some(bytes) = read_if_there(&path)? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes).unwrap_or_default();
    let token = Token::parse(&text)
        .ok()
        .filter(|token| token.role() == Some(Role::Agent));
    if token.is_none() {
        info!(
            "{} is damaged; agents join with a new token",
            path.display()
        );
    }
    Ok(token)
}

/// The rights of agents, and what they are told, as manifests.
pub fn manifests(config: &Config) -> Result<String, Error> {
    let about = serde_json::to_value(About::of(config))
        .map_err(std::io::Error::from)
        .context(|| "write the cluster's description".to_owned())?;
    let about = serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "slipway-cluster", "namespace": "kube-system"},
        "data": about,
    });
    Ok(format!("{RIGHTS}---\n{about}\n"))
}

const RIGHTS: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: slipway:asking-for-certificates
rules:
- apiGroups: [certificates.k8s.io]
  resources: [certificatesigningrequests]
  verbs: [create, get, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: slipway:asking-for-certificates
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: slipway:asking-for-certificates
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: Group
  name: slipway:joining-agents
- apiGroup: rbac.authorization.k8s.io
  kind: Group
  name: slipway:agents
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: slipway:agents
rules:
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
# The health of its own kubelet and kube-proxy.
- apiGroups: [""]
  resources: [nodes/healthz]
  verbs: [get]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: slipway:agents
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: slipway:agents
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: Group
  name: slipway:agents
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: slipway:agents
  namespace: kube-system
rules:
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [slipway-cluster]
  verbs: [get]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: slipway:agents
  namespace: kube-system
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: slipway:agents
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: Group
  name: slipway:agents
---
# Where the API servers are.
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: slipway:agents
  namespace: default
rules:
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: slipway:agents
  namespace: default
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: slipway:agents
subjects:
- apiGroup: rbac.authorization.k8s.io
  kind: Group
  name: slipway:agents
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_access::api::parse_documents;

    #[test]
    fn the_rights_parse_and_agents_learn_the_networks() {
        let config = crate::component::tests::config(true);
        let all = parse_documents(&manifests(&config).unwrap()).unwrap();
        assert_eq!(all.len(), 9);
        let about: About = serde_json::from_value(all[8]["data"].clone()).unwrap();
        assert_eq!(about, About::of(&config));
        assert!(
            all[8]["data"]
                .as_object()
                .unwrap()
                .values()
                .all(|value| value.is_string())
        );
    }

    #[test]
    fn a_secret_of_any_letters_is_sent_as_its_hash() {
        let token = |text| Token::parse(text).unwrap();
        let hash = bearer(&token("ein Geheimnis, \"quoted\""));
        assert_eq!(hash.len(), 64);
        assert_ne!(hash, bearer(&token("another")));
        let whole = Token::new([1; 32], Role::Agent, "another");
        assert_eq!(bearer(&whole), bearer(&token("another")));
    }
}
