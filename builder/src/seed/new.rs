//! `slipway seed new`: the seeds of a cluster's machines and the credentials to it.
//!
//! Everything is made here, offline, so that it is valid before the first boot:
//!
//! | file | what |
//! |---|---|
//! | `NODE/user-data`, `meta-data` | a node's seed; `network-config` if one was given |
//! | `kubeconfig` | the cluster's administrator |
//! | `operator.pem` | certificate, key and CA of an operator of the nodes' API |
//! | `node-api-ca.pem` | certificate and key of the nodes' API CA, to issue more |
//!
//! Each node gets what it needs and no more: the cluster's CA keys are in the first
//! server's seed only, agents don't know the servers' token, and the node-API CA's key is
//! in none: each node has a certificate of its own. Tokens carry the hash of the
//! cluster's CA, so a node that joins can check a server before it tells a secret.

use std::fmt;
use std::fs;
use std::num::NonZeroU8;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Value, json};
use slipway_access::kubeconfig::Kubeconfig;
use slipway_access::node_api::{self, Credential};
use slipway_access::pki::{self, Cas, CertificateAuthority, Leaf, PkiError};
use slipway_images::seed::{Document, HEADER, Role, Seed, SeedFiles, Token};

use crate::atomic;
use crate::digest::to_hex;
use crate::error::{At as _, Error, Kind, Result};
use crate::progress::Progress;
use crate::run::identity::BACKDATED;
use crate::run::start::API_PORT;

/// What kind of cluster.
#[derive(clap::Args)]
pub struct NewArgs {
    /// Where the seeds go; must not be there yet, or be empty.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Name of the cluster; the machines' names begin with it.
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// Names or addresses at which servers will be reached, best first; with
    /// more than one server, each should be listed, or a name that stands for all.
    #[arg(
        long,
        value_name = "HOST[,HOST]",
        value_delimiter = ',',
        required = true
    )]
    endpoint: Vec<String>,
    /// Number of servers; more than one keep the cluster's state in etcd.
    #[arg(long, value_name = "N", default_value = "1")]
    servers: NonZeroU8,
    /// Number of agents.
    #[arg(long, value_name = "N", default_value = "0")]
    agents: u8,
    /// A file with public keys that open all machines to ssh as root.
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    /// A network-config (netplan version 2) for all machines [default: DHCP].
    #[arg(long, value_name = "FILE")]
    network_config: Option<PathBuf>,
}

/// What was written.
#[derive(Serialize)]
struct Written {
    directory: PathBuf,
    nodes: Vec<String>,
    kubeconfig: PathBuf,
    operator: PathBuf,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            writeln!(f, "{}", self.directory.join(node).display())?;
        }
        writeln!(f, "{}", self.kubeconfig.display())?;
        write!(f, "{}", self.operator.display())
    }
}

/// A file below the directory.
struct Output {
    path: PathBuf,
    text: String,
}

/// Makes everything in memory, checks it, and writes it aside before it appears.
pub fn new(args: &NewArgs, progress: &Progress) -> Result<()> {
    atomic::vacant(&args.dir, "a cluster's secrets")?;
    let plan = Plan::make(args)?;
    let mut outputs = vec![
        plan.kubeconfig()?,
        plan.operator()?,
        Output {
            path: "node-api-ca.pem".into(),
            text: format!(
                "{}{}",
                plan.node_ca.certificate_pem(),
                plan.node_ca.key_pem()
            ),
        },
    ];
    for node in &plan.nodes {
        outputs.extend(plan.seed(node, progress)?);
    }
    if plan
        .nodes
        .iter()
        .filter(|node| node.role == Role::Server)
        .count()
        % 2
        == 0
    {
        progress.warn("an even number of servers survives no more failures than one server less");
    }
    progress.check()?;
    let dir = atomic::PendingDirectory::create(&args.dir)?;
    for output in &outputs {
        dir.write(&output.path, output.text.as_bytes(), 0o600)?;
    }
    dir.commit()?;
    progress.result(&Written {
        directory: args.dir.clone(),
        nodes: plan.nodes.iter().map(|node| node.name.clone()).collect(),
        kubeconfig: args.dir.join(KUBECONFIG),
        operator: args.dir.join("operator.pem"),
    })
}

const KUBECONFIG: &str = "kubeconfig";

/// A machine of the cluster.
struct Node {
    name: String,
    role: Role,
    first: bool,
}

/// What all machines share.
struct Plan {
    cluster: String,
    endpoint: Vec<String>,
    nodes: Vec<Node>,
    ssh_keys: Vec<String>,
    network_config: Option<String>,
    cas: Cas,
    node_ca: CertificateAuthority,
    server_token: Token,
    agent_token: Token,
    now: SystemTime,
}

impl Plan {
    fn make(args: &NewArgs) -> Result<Self> {
        let cluster = args.cluster.to_lowercase();
        let name = |role: &str, n: u8| format!("{cluster}-{role}-{n}");
        let server = |n| Node {
            name: name("server", n),
            role: Role::Server,
            first: n == 1,
        };
        let agent = |n| Node {
            name: name("agent", n),
            role: Role::Agent,
            first: false,
        };
        let nodes = (1..=args.servers.get())
            .map(server)
            .chain((1..=args.agents).map(agent));
        let nodes = nodes.collect();
        let now = SystemTime::now();
        let cas = Cas::generate(&cluster, now - BACKDATED).map_err(bug)?;
        let hash = pki::sha256(cas.cluster.certificate_pem()).map_err(bug)?;
        let token = |role| -> Result<Token> { Ok(Token::new(hash, role, &to_hex(&random()?))) };
        Ok(Self {
            ssh_keys: ssh_keys(&args.ssh_key)?,
            network_config: match &args.network_config {
                Some(path) => Some(fs::read_to_string(path).at("reading", path)?),
                None => None,
            },
            endpoint: args.endpoint.clone(),
            node_ca: CertificateAuthority::generate(
                &format!("{cluster}-node-api"),
                now - BACKDATED,
            )
            .map_err(bug)?,
            server_token: token(Role::Server)?,
            agent_token: token(Role::Agent)?,
            cluster,
            nodes,
            cas,
            now,
        })
    }

    /// A node's documents, checked as the node will.
    fn seed(&self, node: &Node, progress: &Progress) -> Result<Vec<Output>> {
        let user_data = self.user_data(node)?;
        let meta_data = format!(
            "instance-id: {}-{}\nlocal-hostname: {}\n",
            node.name,
            to_hex(random()?.get(..4).unwrap_or_default()),
            node.name
        );
        let parsed = Seed::read(SeedFiles {
            user_data: &user_data,
            network_config: self.network_config.as_deref(),
            meta_data: Some(&meta_data),
        });
        let parsed = parsed.map_err(|e| {
            Error::new(
                Kind::Usage,
                format!("this would make a seed that no node takes: {e}"),
            )
        })?;
        for warning in parsed.warnings.iter().filter(|_| node.first) {
            progress.warn(&warning.to_string());
        }
        let file = |document: Document, text: String| Output {
            path: Path::new(&node.name).join(document.name()),
            text,
        };
        let mut files = vec![
            file(Document::UserData, user_data),
            file(Document::MetaData, meta_data),
        ];
        files.extend(
            self.network_config
                .clone()
                .map(|text| file(Document::NetworkConfig, text)),
        );
        Ok(files)
    }

    fn user_data(&self, node: &Node) -> Result<String> {
        let server = node.role == Role::Server;
        let token = if server {
            &self.server_token
        } else {
            &self.agent_token
        };
        let mut cluster = json!({
            "name": self.cluster,
            "role": node.role,
            "endpoint": self.endpoint,
            "token": token.reveal(),
        });
        if server {
            cluster["agent-token"] = json!(self.agent_token.reveal());
            let servers = self.nodes.iter().filter(|node| node.role == Role::Server);
            if servers.count() > 1 {
                cluster["datastore"] = json!("etcd");
            }
        }
        if node.first {
            cluster["ca"] = json!({
                "cluster": pair(&self.cas.cluster),
                "etcd": pair(&self.cas.etcd),
                "front-proxy": pair(&self.cas.front_proxy),
            });
        } else {
            cluster["servers"] = json!(self.endpoint);
        }
        let serving =
            node_api::serving(&self.node_ca, &node.name, Vec::new(), self.now).map_err(bug)?;
        let mut seed = json!({
            "hostname": node.name,
            "slipway": {
                "cluster": cluster,
                "node-api": {
                    "ca": self.node_ca.certificate_pem(),
                    "certificate": serving.certificate_pem,
                    "key": serving.key_pem,
                },
            },
        });
        if !self.ssh_keys.is_empty() {
            seed["ssh_authorized_keys"] = json!(self.ssh_keys);
        }
        // Tokens and keys stay in one line, to be found and copied.
        let options = serde_saphyr::ser_options! { folded_wrap_chars: 10_000 };
        let yaml = serde_saphyr::to_string_with_options(&seed, options)
            .map_err(|e| Error::new(Kind::Bug, format!("writing a seed: {e}")))?;
        Ok(format!(
            "{HEADER}\n# The seed of {}. It holds secrets: keep it as you keep keys. docs/seed.md explains each line.\n{yaml}",
            node.name
        ))
    }

    fn kubeconfig(&self) -> Result<Output> {
        let admin = Leaf::client("slipway-admin", Some("system:masters"));
        let endpoint = self
            .endpoint
            .first()
            .map(String::as_str)
            .unwrap_or_default();
        let config = Kubeconfig {
            cluster: self.cluster.clone(),
            user: format!("{}-admin", self.cluster),
            server: api_url(endpoint),
            ca_pem: self.cas.cluster.certificate_pem().to_owned(),
            client: self.cas.cluster.issue(&admin, self.now).map_err(bug)?,
        };
        Ok(Output {
            path: KUBECONFIG.into(),
            text: config.to_yaml(),
        })
    }

    fn operator(&self) -> Result<Output> {
        let name = format!("{}-operator", self.cluster);
        let credential =
            Credential::issue(&self.node_ca, &name, node_api::Role::Operator, self.now);
        Ok(Output {
            path: "operator.pem".into(),
            text: credential.map_err(bug)?.to_pem(),
        })
    }
}

fn pair(ca: &CertificateAuthority) -> Value {
    json!({ "certificate": ca.certificate_pem(), "key": ca.key_pem() })
}

/// `https://HOST:PORT` of an endpoint that may lack its port.
fn api_url(endpoint: &str) -> String {
    let port = API_PORT;
    match endpoint.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("https://[{address}]:{port}"),
        // A port stands behind the last colon, and behind the bracket of an IPv6 address.
        Err(_) if endpoint.contains(':') => format!("https://{endpoint}"),
        Err(_) => format!("https://{endpoint}:{port}"),
    }
}

fn ssh_keys(files: &[PathBuf]) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for path in files {
        let text = fs::read_to_string(path).at("reading", path)?;
        let lines = text.lines().map(str::trim);
        keys.extend(
            lines
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .map(str::to_owned),
        );
    }
    Ok(keys)
}

/// 256 random bits.
///
/// # Errors
/// [`Kind::Bug`] where the system gives none.
pub fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    // Up to 256 bytes are given whole or not at all (getrandom(2)).
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::new(Kind::Bug, format!("getting random bytes: {e}")))?;
    Ok(bytes)
}

fn bug(error: PkiError) -> Error {
    Error::new(Kind::Bug, format!("making keys and certificates: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_become_urls() {
        for (endpoint, url) in [
            ("node.lan", "https://node.lan:6443"),
            ("192.0.2.1", "https://192.0.2.1:6443"),
            ("192.0.2.1:7443", "https://192.0.2.1:7443"),
            ("2001:db8::1", "https://[2001:db8::1]:6443"),
            ("[2001:db8::1]:7443", "https://[2001:db8::1]:7443"),
        ] {
            assert_eq!(api_url(endpoint), url);
        }
    }
}
