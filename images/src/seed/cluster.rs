//! What a seed says about the cluster that the machine makes or joins.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Cidr, Secret};
use crate::hex::{hex, unhex};

/// What the machine's cluster is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Cluster {
    /// Name of the cluster.
    pub name: String,
    /// This machine's part in it.
    pub role: Role,
    /// Names and addresses, perhaps with a port, under which clients reach the API,
    /// best first. They are in the API server's certificate, too.
    pub endpoint: Vec<String>,
    /// More names and addresses that the API server's certificate is valid for.
    pub extra_sans: Vec<San>,
    /// Secret for joining as this machine's role.
    pub token: Option<Token>,
    /// Secret that agents join with; a server knows it to let them in.
    pub agent_token: Option<Token>,
    /// Servers to join, as `HOST` or `HOST:PORT`; without any, a server begins a cluster.
    pub servers: Vec<String>,
    /// Where the cluster's state is kept.
    pub datastore: Datastore,
    /// Of which network the node's address is; without, it is the default route's.
    pub node_address: Option<Cidr>,
    /// Addresses of pods.
    pub pod_cidr: Cidr,
    /// Addresses of services.
    pub service_cidr: Cidr,
    /// DNS domain of services.
    pub cluster_domain: String,
    /// Labels that the node registers itself with.
    pub labels: BTreeMap<String, String>,
    /// Taints that the node registers itself with.
    pub taints: Vec<Taint>,
    /// More command-line flags, by component.
    pub extra_args: BTreeMap<Component, Vec<Flag>>,
    /// CAs made beforehand; without them the first server makes its own.
    pub ca: Option<CaSeed>,
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            name: "slipway".to_owned(),
            role: Role::Server,
            endpoint: Vec::new(),
            extra_sans: Vec::new(),
            token: None,
            agent_token: None,
            servers: Vec::new(),
            datastore: Datastore::Sqlite,
            node_address: None,
            pod_cidr: Cidr::v4([10, 42, 0, 0], 16),
            service_cidr: Cidr::v4([10, 43, 0, 0], 16),
            cluster_domain: "cluster.local".to_owned(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            extra_args: BTreeMap::new(),
            ca: None,
        }
    }
}

impl Cluster {
    /// All names and addresses beyond the node's own that the API server's certificate is
    /// valid for.
    #[must_use]
    pub fn sans(&self) -> Vec<San> {
        let host = |text: &String| {
            let socket = |s: std::net::SocketAddr| s.ip();
            match text.parse().or_else(|_| text.parse().map(socket)) {
                Ok(address) => San::Address(address),
                Err(_) => San::Dns(text.split(':').next().unwrap_or_default().to_owned()),
            }
        };
        let mut sans: Vec<San> = self.endpoint.iter().map(host).collect();
        sans.extend(self.extra_sans.iter().cloned());
        sans
    }
}

/// A machine's part in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs the control plane, and workloads.
    #[default]
    Server,
    /// Runs workloads only.
    Agent,
}

impl Role {
    /// In one word, as in a seed.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Agent => "agent",
        }
    }
}

/// A name or address a certificate is valid for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum San {
    /// An IP address.
    Address(IpAddr),
    /// A DNS name, lower-case.
    Dns(String),
}

/// Where a cluster's state is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Datastore {
    /// In a file of the only server.
    Sqlite,
    /// On the servers themselves, an odd number of them.
    Etcd,
    /// In a database elsewhere: its URL, with credentials.
    External(Secret),
}

/// A taint a node registers itself with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value; may be empty.
    pub value: String,
    /// Effect.
    pub effect: Effect,
}

impl fmt::Display for Taint {
    /// As the kubelet's `--register-with-taints` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}:{:?}", self.key, self.value, self.effect)
    }
}

/// What a taint does to pods that don't tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// They are not scheduled here.
    NoSchedule,
    /// They are scheduled here last.
    PreferNoSchedule,
    /// They are not scheduled here, and those that run here end.
    NoExecute,
}

/// A program of the cluster that takes flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// kube-apiserver
    KubeApiserver,
    /// kube-controller-manager
    KubeControllerManager,
    /// kube-scheduler
    KubeScheduler,
    /// kubelet
    Kubelet,
    /// kube-proxy
    KubeProxy,
    /// etcd
    Etcd,
}

/// A command-line flag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    /// Name without dashes.
    pub name: String,
    /// Value.
    pub value: String,
}

/// The three CAs of a cluster, made beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CaSeed {
    /// CA of the Kubernetes API and its clients.
    pub cluster: CaPair,
    /// CA of the datastore.
    pub etcd: CaPair,
    /// CA of the API server's identity towards aggregated API servers.
    pub front_proxy: CaPair,
}

/// A CA's certificate and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaPair {
    /// PEM of the certificate.
    pub certificate: String,
    /// PEM of the private key.
    pub key: Secret,
}

/// What stands for the registries that have no settings of their own.
pub const ANY_REGISTRY: &str = "*";

/// A container registry, as the machine is to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Registry {
    /// URLs to be asked before the registry itself, best first.
    pub mirrors: Vec<String>,
    /// User.
    pub username: Option<String>,
    /// Its password or access token.
    pub password: Option<Secret>,
    /// CAs that may sign its certificate and its mirrors', PEM.
    pub ca: Option<String>,
}

/// A secret for joining, which may carry the hash of the cluster's CA.
///
/// `S1<hash>.<role>.<secret>`: the hash is the SHA-256 of the DER of the cluster's CA
/// certificate in 64 hexadecimal digits, the role `server` or `agent`. Who joins
/// with it can check a server before telling it the secret. Any other text is a secret
/// without a hash.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(Secret);

impl Token {
    /// A token for a role, from the CA's hash and a secret of at least 128 bits.
    #[must_use]
    pub fn new(ca_sha256: [u8; 32], role: Role, secret: &str) -> Self {
        let hash = hex(&ca_sha256);
        let role = role.word();
        Self(Secret::new(format!("S1{hash}.{role}.{secret}")))
    }

    /// Takes a text.
    ///
    /// # Errors
    /// It begins as one with a hash does and isn't one.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let token = Self(Secret::new(text.trim()));
        let begins = token.reveal().starts_with("S1") && token.reveal().matches('.').count() == 2;
        match token.reveal() {
            "" => Err("is empty"),
            _ if begins && token.parts().is_none() => {
                Err("begins as a token with the hash of a CA and is none; was it copied whole?")
            }
            _ => Ok(token),
        }
    }

    /// The whole text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        self.0.reveal()
    }

    /// SHA-256 of the DER of the CA that signs the servers, if the token carries it.
    #[must_use]
    pub fn ca_sha256(&self) -> Option<[u8; 32]> {
        self.parts().map(|(hash, _, _)| hash)
    }

    /// Which role it lets in, if the token says so.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.parts().map(|(_, role, _)| role)
    }

    /// What only members know: what a server compares.
    #[must_use]
    pub fn secret(&self) -> &str {
        self.parts().map_or(self.reveal(), |(_, _, secret)| secret)
    }

    fn parts(&self) -> Option<([u8; 32], Role, &str)> {
        let mut parts = self.reveal().strip_prefix("S1")?.splitn(3, '.');
        let (hex, role, secret) = (parts.next()?, parts.next()?, parts.next()?);
        let role = match role {
            "server" => Role::Server,
            "agent" => Role::Agent,
            _ => return None,
        };
        let hash = unhex(hex)?;
        (!secret.is_empty()).then_some((hash, role, secret))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(token)")
    }
}
