//! Certificates for agents: their requests (`certificates.k8s.io`, signer [`SIGNER`]) are
//! answered by the server, which has the CA.
//!
//! An agent gets the certificates of its own node and no others ([`decide`]). A node's name
//! belongs to the key that was the first to ask for it: which that is, the config map
//! `kube-system/slipway-agents` has. So a second machine of the same name, or somebody with the
//! token who would like to be a node that is there already, is refused; a machine that was
//! reset is let in after its node was deleted.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use slipway_access::api::{ApiError, Client};
use slipway_access::pki::{Asked, CertificateAuthority, Leaf, Usage};
use slipway_images::hex::hex;

use crate::access::Access;
use crate::board::{Board, Facts};
use crate::error::Error;
use crate::identity::{agent_leaves, api_server_leaf};
use crate::joining::{AGENT, AGENTS, JOINING};
use crate::log::info;
use crate::options::{self, Config};

/// Whom requests are addressed to.
pub const SIGNER: &str = "slipway.local/agent";
/// Where requests are.
pub const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// Which key has which node's name: `NODE: "SHA-256 SECONDS"`.
const RECORDS: &str = "/api/v1/namespaces/kube-system/configmaps/slipway-agents";
/// From the first certificate to the node that registers itself; slow machines take minutes.
const REGISTERING: Duration = Duration::from_secs(15 * 60);
/// Longest life of a watch.
const WATCH: Duration = Duration::from_secs(300);
/// A node has few addresses.
const MOST_ADDRESSES: usize = 8;

/// Answers requests until everything ends.
pub fn follow(config: &Config, ca: &CertificateAuthority, access: &Access, board: &Board) {
    let selector = format!(
        "fieldSelector=spec.signerName%3D{}",
        SIGNER.replace('/', "%2F")
    );
    while board.wait(Facts::api_serves) {
        // An answer changes the request twice, and each change comes back here.
        let mut answered = BTreeSet::new();
        let result = access.client().and_then(|client| {
            client.follow(REQUESTS, &selector, WATCH, |requests| {
                board.note("certificates for agents", &Ok::<_, Error>(()));
                answered.retain(|name| requests.contains_key(name));
                for (name, request) in requests {
                    if answered.contains(name) || !is_open(request) {
                        continue;
                    }
                    match answer(config, ca, &client, request) {
                        Ok(()) => drop(answered.insert(name.clone())),
                        Err(error) => info!("certificates for agents: {name}: {error}"),
                    }
                }
                !board.facts().stopping
            })
        });
        board.note("certificates for agents", &result);
        if !board.pause(Duration::from_millis(500)) {
            return;
        }
    }
}

/// Neither refused nor answered.
fn is_open(request: &Value) -> bool {
    let conditions = request["status"]["conditions"].as_array();
    let ended = |condition: &Value| condition["type"] == "Denied" || condition["type"] == "Failed";
    request["status"].get("certificate").is_none() && !conditions.into_iter().flatten().any(ended)
}

/// Decides and answers. What is half answered after a crash is decided again.
fn answer(
    config: &Config,
    ca: &CertificateAuthority,
    client: &Client,
    request: &Value,
) -> Result<(), Error> {
    let name = request["metadata"]["name"].as_str().unwrap_or_default();
    let path = format!("{REQUESTS}/{name}");
    let (kind, message, certificate) = match grant(config, ca, client, request)? {
        Ok(certificate) => ("Approved", "an agent's own".to_owned(), Some(certificate)),
        Err(reason) => {
            info!("certificates for agents: {name} is refused: {reason}");
            ("Denied", reason, None)
        }
    };
    let mut answered = request.clone();
    let approved = |condition: &Value| condition["type"] == "Approved";
    let conditions = request["status"]["conditions"].as_array();
    if !conditions.into_iter().flatten().any(approved) {
        answered["status"]["conditions"] = json!([{
            "type": kind,
            "status": "True",
            "reason": "Slipway",
            "message": message,
        }]);
        answered = match client.replace(&format!("{path}/approval"), &answered) {
            // Given up meanwhile. Somebody else's change is an error: it is looked at again.
            Err(error) if error.is_not_found() => return Ok(()),
            other => other?,
        };
    }
    if let Some(certificate) = certificate {
        answered["status"]["certificate"] = json!(STANDARD.encode(certificate));
        match client.replace(&format!("{path}/status"), &answered) {
            Err(error) if error.is_not_found() => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Who asks, as the API server has established.
#[derive(Debug, PartialEq, Eq)]
enum Asker {
    /// With the token.
    Joining,
    /// The agent of this node.
    Agent(String),
}

impl Asker {
    fn of(request: &Value) -> Result<Self, String> {
        let groups = request["spec"]["groups"].as_array();
        let is_in = |group: &str| groups.into_iter().flatten().any(|found| found == group);
        let user = request["spec"]["username"].as_str().unwrap_or_default();
        match user.strip_prefix(AGENT) {
            Some(node) if is_in(AGENTS) => Ok(Self::Agent(node.to_owned())),
            _ if is_in(JOINING) => Ok(Self::Joining),
            _ => Err(format!("{user} is no agent: this signer is for agents")),
        }
    }
}

/// Who has a node's name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    /// SHA-256 of the public key, hexadecimal.
    key: String,
    /// When it got its first certificate, in seconds since 1970.
    since: u64,
}

impl Record {
    fn parse(text: &str) -> Option<Self> {
        let (key, since) = text.split_once(' ')?;
        Some(Self {
            key: key.to_owned(),
            since: since.parse().ok()?,
        })
    }
}

/// What is known when a request is decided on.
#[derive(Debug, Default)]
struct Known {
    /// Who has the name of the node that is asked for.
    record: Option<Record>,
    /// The node's object exists.
    registered: bool,
    /// Addresses that others have: the API server's, other nodes'.
    taken: Vec<IpAddr>,
    /// Now, in seconds since 1970.
    now: u64,
}

/// The certificate, or why there is none; writes down first who has the node's name now.
fn grant(
    config: &Config,
    ca: &CertificateAuthority,
    client: &Client,
    request: &Value,
) -> Result<Result<String, String>, Error> {
    let asker = match Asker::of(request) {
        Ok(asker) => asker,
        Err(reason) => return Ok(Err(reason)),
    };
    let pem = request["spec"]["request"].as_str().unwrap_or_default();
    let pem = STANDARD
        .decode(pem)
        .ok()
        .and_then(|pem| String::from_utf8(pem).ok());
    let asked = match Asked::parse(&pem.unwrap_or_default()) {
        Ok(asked) => asked,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let node = match node_of(&asker, asked.leaf()) {
        Ok(node) => node,
        Err(reason) => return Ok(Err(reason)),
    };
    let records = client.find(RECORDS)?;
    let now = SystemTime::now();
    let seconds = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| passed.as_secs());
    let (registered, taken) = nodes(config, client, &node)?;
    let known = Known {
        record: records
            .as_ref()
            .and_then(|map| map["data"][&node].as_str())
            .and_then(Record::parse),
        registered,
        taken,
        now: seconds,
    };
    let mut leaf = match decide(&asker, &node, &asked, &known) {
        Ok(leaf) => leaf,
        Err(reason) => return Ok(Err(reason)),
    };
    if leaf.common_name.starts_with(AGENT) {
        let key = hex(&asked.key_sha256());
        if known.record.is_none_or(|record| record.key != key) {
            let record = json!({"data": {(&node): format!("{key} {seconds}")}});
            write_record(client, records.is_some(), &record)?;
        }
    }
    leaf.lifetime = config.tuning.certificate_lifetime;
    let certificate = ca.sign(&asked, &leaf, now)?;
    info!(
        "certificates for agents: {} for node {node}",
        leaf.common_name
    );
    Ok(Ok(certificate))
}

fn write_record(client: &Client, exists: bool, record: &Value) -> Result<(), ApiError> {
    if exists {
        return client.merge_patch(RECORDS, record).map(drop);
    }
    let mut map = record.clone();
    map["apiVersion"] = json!("v1");
    map["kind"] = json!("ConfigMap");
    map["metadata"] = json!({"name": "slipway-agents", "namespace": "kube-system"});
    let collection = "/api/v1/namespaces/kube-system/configmaps";
    client.create(collection, &map).map(drop)
}

/// Whether the node is registered, and the addresses that are others'.
fn nodes(config: &Config, client: &Client, node: &str) -> Result<(bool, Vec<IpAddr>), Error> {
    let mut registered = false;
    let mut taken = api_server_leaf(config).addresses;
    for one in client.list("/api/v1/nodes")? {
        if one["metadata"]["name"] == node {
            registered = true;
            continue;
        }
        let addresses = one["status"]["addresses"].as_array();
        taken.extend(
            addresses
                .into_iter()
                .flatten()
                .filter_map(|address| address["address"].as_str()?.parse::<IpAddr>().ok()),
        );
    }
    Ok((registered, taken))
}

/// Whose certificate it is about.
fn node_of(asker: &Asker, wish: &Leaf) -> Result<String, String> {
    let node = match asker {
        Asker::Agent(node) => node.as_str(),
        Asker::Joining => wish.common_name.strip_prefix(AGENT).ok_or_else(|| {
            "the token is for an agent's certificate; the others are asked for with that".to_owned()
        })?,
    };
    if options::is_node_name(node) {
        Ok(node.to_owned())
    } else {
        Err(format!("{node:?} can't be a node's name"))
    }
}

/// What is issued for a request, or why nothing is.
fn decide(asker: &Asker, node: &str, asked: &Asked, known: &Known) -> Result<Leaf, String> {
    let wish = asked.leaf();
    let leaf = agent_leaves(node, &wish.addresses)
        .into_iter()
        .find(|leaf| leaf.common_name == wish.common_name && leaf.usage == wish.usage)
        .ok_or_else(|| format!("{} is nothing that node {node} has", wish.common_name))?;
    if leaf.organization != wish.organization
        || leaf.dns_names != wish.dns_names
        || leaf.addresses != wish.addresses
    {
        return Err(format!(
            "{} has other groups, names or addresses than the request",
            leaf.common_name
        ));
    }
    if leaf.usage == Usage::Server {
        addresses_are_its_own(&leaf.addresses, known)?;
    }
    if *asker == Asker::Joining {
        name_is_free(node, &hex(&asked.key_sha256()), known)?;
    }
    Ok(leaf)
}

fn addresses_are_its_own(addresses: &[IpAddr], known: &Known) -> Result<(), String> {
    if addresses.is_empty() || addresses.len() > MOST_ADDRESSES {
        return Err(format!("{} addresses for a node", addresses.len()));
    }
    for address in addresses {
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
            return Err(format!("{address} is no node's address"));
        }
        if known.taken.contains(address) {
            return Err(format!(
                "{address} is the address of another node or of the API"
            ));
        }
    }
    Ok(())
}

fn name_is_free(node: &str, key: &str, known: &Known) -> Result<(), String> {
    let of_key = known.record.as_ref().map(|record| record.key == key);
    if of_key == Some(true) {
        return Ok(());
    }
    if known.registered {
        return Err(format!(
            "another machine is node {node}: give this one another hostname; if it is the same and was reset, delete the node first (kubectl delete node {node})"
        ));
    }
    let since = known.record.as_ref().map_or(0, |record| record.since);
    let joining = since <= known.now && known.now - since < REGISTERING.as_secs();
    if of_key.is_some() && joining {
        return Err(format!(
            "another machine is just joining as node {node}: give this one another hostname; if it is the same and was reset, it is let in {} minutes after that",
            REGISTERING.as_secs() / 60
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
