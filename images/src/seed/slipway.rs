//! The `slipway:` key of user-data: the machine's part in a cluster, and what cloud-init
//! has no words for.

use std::collections::BTreeMap;

use super::cluster::{ANY_REGISTRY, Registry, San};
use super::cluster::{CaPair, CaSeed, Cluster, Component, Datastore, Flag, Role, Taint, Token};
use super::labels::labels;
use super::machine::{Console, Data, Encrypt, NodeApi, Update};
use super::read::{At, Cx, MapOf, Naming, OneOrMany, Word, mapping};
use super::shape::Text;
use super::words::{
    DnsName, HostPort, Label, PemCertificate, PemKey, Program, Span, Url, Words, choice,
};
use super::{Cidr, Secret, Seed, Window};

mapping! {
    /// `slipway`
    struct SlipwayKeys {
        "cluster" => cluster: ClusterKeys, "The cluster that this machine makes or joins";
        "registries" => registries: MapOf<RegistryName, RegistryKeys>, "How container registries are reached, by their host; `*` is for all others";
        "update" => update: UpdateKeys, "Where updates of the image come from";
        "console" => console: ConsoleKeys, "What screen and serial line show";
        "data" => data: DataKeys, "How the data partition is kept; settled at the first boot";
        "node-api" => node_api: NodeApiKeys, "Who may talk to the node's own API, and as whom it answers";
    }
}

mapping! {
    /// `slipway.cluster`
    struct ClusterKeys {
        "name" => name: Label, "Name of the cluster, in CAs and kubeconfigs; default `slipway`";
        "role" => role: Role, "This machine's part: a server runs the control plane, too; default `server`";
        "endpoint" => endpoint: OneOrMany<HostPort>, "Names or addresses under which clients reach the Kubernetes API, best first";
        "extra-sans" => extra_sans: Vec<At<San>>, "More names and addresses that the API server's certificate is valid for";
        "token" => token: Token, "Secret for joining in this machine's role";
        "agent-token" => agent_token: Token, "On servers: the secret that agents join with";
        "servers" => servers: OneOrMany<HostPort>, "Servers to join, port 6443 by default; without any, a server begins a new cluster";
        "datastore" => datastore: Datastore, "Where the cluster's state is kept; default `sqlite`, and `etcd` for a server that joins";
        "node-address" => node_address: Cidr, "Network, as 192.168.7.0/24, of which the node's address is; without, it is the default route's";
        "pod-cidr" => pod_cidr: Cidr, "Addresses of pods; default `10.42.0.0/16`";
        "service-cidr" => service_cidr: Cidr, "Addresses of services; default `10.43.0.0/16`";
        "cluster-domain" => cluster_domain: DnsName, "DNS domain of services; default `cluster.local`";
        "labels" => labels: MapOf<LabelKey, Words>, "Labels that the node registers itself with";
        "taints" => taints: Vec<At<Taint>>, "Taints that the node registers itself with";
        "extra-args" => extra_args: ArgsKeys, "More command-line flags, by component; they win over Slipway's own";
        "ca" => ca: CaKeys, "CAs made beforehand, on the first server; made by it if there are none";
    }
    others {
        Refused "it is called `labels` here" => ["node-labels", "node-label"];
        Refused "it is called `taints` here" => ["node-taints", "node-taint"];
        Refused "it is called `servers` here" => ["server"];
        Refused "it is called `extra-sans` here" => ["tls-san", "tls-sans"];
    }
}

mapping! {
    /// `slipway.cluster.ca`
    struct CaKeys {
        "cluster" => cluster: PairKeys, "CA of the Kubernetes API and its clients";
        "etcd" => etcd: PairKeys, "CA of the datastore";
        "front-proxy" => front_proxy: PairKeys, "CA of the API server's identity towards aggregated API servers";
    }
}

mapping! {
    /// A certificate and its key.
    struct PairKeys {
        "certificate" => certificate: PemCertificate, "The certificate, PEM";
        "key" => key: PemKey, "Its private key, PEM";
    }
}

mapping! {
    /// `slipway.cluster.extra-args`
    struct ArgsKeys {
        "kube-apiserver" => apiserver: MapOf<FlagName, OneOrMany<Words>>, "Flags of kube-apiserver, without dashes";
        "kube-controller-manager" => controller_manager: MapOf<FlagName, OneOrMany<Words>>, "Flags of kube-controller-manager, without dashes";
        "kube-scheduler" => scheduler: MapOf<FlagName, OneOrMany<Words>>, "Flags of kube-scheduler, without dashes";
        "kubelet" => kubelet: MapOf<FlagName, OneOrMany<Words>>, "Flags of the kubelet, without dashes";
        "kube-proxy" => proxy: MapOf<FlagName, OneOrMany<Words>>, "Flags of kube-proxy, without dashes";
        "etcd" => etcd: MapOf<FlagName, OneOrMany<Words>>, "Flags of etcd, without dashes";
    }
}

mapping! {
    /// `slipway.registries.<host>`
    struct RegistryKeys {
        "mirrors" => mirrors: OneOrMany<Url>, "URLs that are asked before the registry itself, best first";
        "username" => username: Words, "User at the registry";
        "password" => password: Secret, "Its password or access token";
        "ca" => ca: PemCertificate, "CAs that may sign the certificates of the registry and its mirrors";
    }
    others {
        Refused "it would let anyone answer for the registry; give its CA in `ca`" => ["insecure", "insecure-skip-verify", "insecure_skip_verify"];
    }
}

mapping! {
    /// `slipway.update`
    struct UpdateKeys {
        "channel" => channel: Url, "Directory on a web server that new versions are taken from, as `slipway channel publish` makes it; without one the node is updated by hand only";
        "poll" => poll: Span, "How often the channel is looked at, give or take a quarter; default `6h`";
        "window" => window: Window, "When a channel's versions are fetched and booted, by the node's clock and `timezone`; default at any time";
        "dwell" => dwell: Span, "For how long a new version must be healthy without a break before it is kept; default `60s`";
        "deadline" => deadline: Span, "How long after the boot a new version must have been kept, or the node reboots and falls back in the end; default `10m`";
        "health-script" => health_script: Program, "A program that has to find a new version healthy, too, by ending with 0; it may be one of `write_files`";
    }
}

mapping! {
    /// `slipway.console`
    struct ConsoleKeys {
        "status" => status: bool, "Whether the status page is shown; default `true`";
    }
}

mapping! {
    /// `slipway.data`
    struct DataKeys {
        "encrypt" => encrypt: Encrypt, "Encrypt the data partition, with its key in the TPM 2.0 or in the file `passphrase` beside `user-data`";
    }
}

mapping! {
    /// `slipway.node-api`
    struct NodeApiKeys {
        "ca" => ca: PemCertificate, "CA that signs the certificates of clients and of nodes' APIs; `slipway seed new` makes one";
        "certificate" => certificate: PemCertificate, "The certificate that the node shows";
        "key" => key: PemKey, "Its private key";
    }
}

/// A host of a registry.
pub(super) struct RegistryName;
impl Naming for RegistryName {
    const OF: &'static str = "host";
}

/// A label's key.
pub(super) struct LabelKey;
impl Naming for LabelKey {
    const OF: &'static str = "label";
}

/// A flag's name.
pub(super) struct FlagName;
impl Naming for FlagName {
    const OF: &'static str = "flag";
}

choice!(Role { "server" => Self::Server, "agent" => Self::Agent });
choice!(Encrypt { "tpm2" => Self::Tpm2, "passphrase-file" => Self::PassphraseFile });

impl Word for Token {
    const TEXT: Text = Text {
        what: "secret text, or `S1<hash of the CA>.<role>.<secret>`",
        choices: &[],
        secret: true,
    };
    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(str::to_owned)
    }
}

impl Word for Datastore {
    const TEXT: Text = Text {
        what: "`sqlite`, `etcd`, or the URL of a database: `postgres://`, `mysql://`",
        choices: &[],
        secret: true,
    };
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "sqlite" => Ok(Self::Sqlite),
            "etcd" => Ok(Self::Etcd),
            _ => {
                let rest = ["postgres://", "postgresql://", "mysql://"]
                    .iter()
                    .find_map(|scheme| text.strip_prefix(scheme));
                match rest {
                    Some(rest) if !rest.is_empty() && !rest.contains(char::is_whitespace) => {
                        Ok(Self::External(Secret::new(text)))
                    }
                    _ => Err("is neither sqlite nor etcd nor a URL that begins with postgres:// or mysql://".into()),
                }
            }
        }
    }
}

/// Takes what stands under `slipway:` into the seed.
pub(super) fn check(keys: SlipwayKeys, seed: &mut Seed, cx: &mut Cx) {
    if let Some(cluster) = keys.cluster {
        seed.cluster = check_cluster(cluster.value, cx);
    }
    for (name, registry) in keys.registries.map(|r| r.value.entries).unwrap_or_default() {
        if name.value != ANY_REGISTRY && HostPort::parse(&name).is_err() {
            cx.error(
                &name.spot,
                "a registry is named by its HOST or HOST:PORT, or `*` for all others",
            );
            continue;
        }
        let registry = check_registry(&name, registry.value, cx);
        seed.registries.insert(name.value, registry);
    }
    if let Some(update) = keys.update {
        seed.update = check_update(update.value, cx);
    }
    if let Some(status) = keys.console.and_then(|console| console.value.status) {
        seed.console = Console {
            status: status.value,
        };
    }
    if let Some(encrypt) = keys.data.and_then(|data| data.value.encrypt) {
        seed.data = Data {
            encrypt: Some(encrypt.value),
        };
    }
    if let Some(api) = keys.node_api {
        seed.node_api = check_node_api(api, cx);
    }
}

fn check_update(keys: UpdateKeys, cx: &mut Cx) -> Update {
    let default = Update::default();
    for spot in [
        keys.poll.as_ref().map(|p| &p.spot),
        keys.window.as_ref().map(|w| &w.spot),
    ] {
        if let Some(spot) = spot.filter(|_| keys.channel.is_none()) {
            cx.warn(spot, "is for a `channel`, and there is none");
        }
    }
    let seconds = |key: &Option<At<Span>>, default| key.as_ref().map_or(default, |s| s.value.0);
    let poll = seconds(&keys.poll, default.poll);
    let dwell = seconds(&keys.dwell, default.dwell);
    let deadline = seconds(&keys.deadline, default.deadline);
    // A machine takes a while to be Ready; the rest is what it may dwell.
    if let Some(spot) = keys.deadline.or(keys.dwell).map(|key| key.spot)
        && deadline < dwell.saturating_add(60)
    {
        cx.error(
            &spot,
            "the deadline counts from the boot: it must be at least 60s more than `dwell`",
        );
    }
    Update {
        channel: keys.channel.map(|channel| channel.value.0),
        poll,
        window: keys.window.map(|window| window.value),
        dwell,
        deadline,
        health_script: keys.health_script.map(|script| script.value.0),
    }
}

fn check_registry(name: &str, keys: RegistryKeys, cx: &mut Cx) -> Registry {
    let mut mirrors = Vec::new();
    for mirror in keys.mirrors.map(|m| m.value.0).unwrap_or_default() {
        if mirror.value.0.starts_with("http://") {
            cx.warn(
                &mirror.spot,
                "is not encrypted: who is on the way can read what is fetched from it",
            );
        }
        mirrors.push(mirror.value.0);
    }
    match (&keys.username, &keys.password) {
        (Some(one), None) => cx.error(&one.spot, "needs a `password` beside it"),
        (None, Some(one)) => cx.error(&one.spot, "needs a `username` beside it"),
        _ => {}
    }
    if let Some(user) = &keys.username {
        if name == ANY_REGISTRY {
            cx.error(
                &user.spot,
                "every registry would be told the password; name the one that it is for",
            );
        }
        if user.value.0.contains(':') {
            // RFC 7617, 2.
            cx.error(
                &user.spot,
                "can't have a colon, which ends the name in HTTP",
            );
        }
    }
    Registry {
        mirrors,
        username: keys.username.map(|u| u.value.0),
        password: keys.password.map(|p| p.value),
        ca: keys.ca.map(|c| c.value.0),
    }
}

fn check_node_api(api: At<NodeApiKeys>, cx: &mut Cx) -> Option<NodeApi> {
    let keys = api.value;
    let given = [
        ("ca", keys.ca.is_some()),
        ("certificate", keys.certificate.is_some()),
        ("key", keys.key.is_some()),
    ];
    for (key, _) in given.iter().filter(|(_, is_there)| !is_there) {
        cx.lacks(
            &api.spot,
            key,
            ": give all of ca, certificate and key, or none",
        );
    }
    let (ca, certificate, key) = (keys.ca?, keys.certificate?, keys.key?);
    Some(NodeApi {
        ca: ca.value.0,
        certificate: certificate.value.0,
        key: Secret::new(key.value.0),
    })
}

fn check_cluster(keys: ClusterKeys, cx: &mut Cx) -> Cluster {
    let default = Cluster::default();
    let role = keys.role.as_ref().map_or(Role::Server, |role| role.value);
    let servers = keys
        .servers
        .as_ref()
        .map_or(&[][..], |s| s.value.0.as_slice());
    let joins = !servers.is_empty();
    if let Some(role) = keys.role.as_ref().filter(|_| role == Role::Agent && !joins) {
        cx.error(&role.spot, "an agent needs `servers` to join");
    }
    check_tokens(&keys, role, joins, cx);

    let networks = [&keys.pod_cidr, &keys.service_cidr];
    let given = networks
        .into_iter()
        .flatten()
        .next_back()
        .map(|c| c.spot.clone());
    let pod_cidr = network(keys.pod_cidr, 32, default.pod_cidr, cx);
    // kube-apiserver takes at most 20 host bits of services for IPv4, and allocates 16 of IPv6.
    let service_cidr = network(keys.service_cidr, 20, default.service_cidr, cx);
    if let Some(spot) = given.filter(|_| pod_cidr.overlaps(service_cidr)) {
        let message = format!("pod-cidr {pod_cidr} and service-cidr {service_cidr} overlap");
        cx.error(&spot, message);
    }
    let datastore = match keys.datastore {
        None if joins => Datastore::Etcd,
        None => Datastore::Sqlite,
        Some(store) => {
            if store.value == Datastore::Sqlite && joins && role == Role::Server {
                cx.error(
                    &store.spot,
                    "sqlite is for a single server; servers that join share etcd or a database",
                );
            }
            store.value
        }
    };
    let endpoint = keys.endpoint.map(|e| e.value.0).unwrap_or_default();
    Cluster {
        name: keys.name.map_or(default.name, |name| name.value.0),
        role,
        endpoint: endpoint.into_iter().map(|e| e.value.0).collect(),
        extra_sans: keys
            .extra_sans
            .map(|s| s.value)
            .unwrap_or_default()
            .into_iter()
            .map(|s| s.value)
            .collect(),
        servers: servers.iter().map(|s| s.value.0.clone()).collect(),
        token: keys.token.map(|t| t.value),
        agent_token: keys.agent_token.map(|t| t.value),
        datastore,
        node_address: keys.node_address.map(|network| network.value),
        pod_cidr,
        service_cidr,
        cluster_domain: keys
            .cluster_domain
            .map_or(default.cluster_domain, |d| d.value.0),
        labels: keys
            .labels
            .map(|l| labels(l.value.entries, cx))
            .unwrap_or_default(),
        taints: keys
            .taints
            .map(|t| t.value)
            .unwrap_or_default()
            .into_iter()
            .map(|t| t.value)
            .collect(),
        extra_args: keys
            .extra_args
            .map(|a| extra_args(a.value, cx))
            .unwrap_or_default(),
        ca: keys.ca.and_then(|ca| check_cas(ca, cx)),
    }
}

/// A machine must never tell a secret to a server that it can't be sure of.
fn check_tokens(keys: &ClusterKeys, role: Role, joins: bool, cx: &mut Cx) {
    match (&keys.token, &keys.servers) {
        (None, Some(servers)) if joins => cx.error(&servers.spot, "joining needs a `token`, too"),
        (Some(token), _) if joins && token.value.ca_sha256().is_none() => cx.error(
            &token.spot,
            "a token for joining carries the hash of the cluster's CA (S1...), so that a server proves itself first; this one doesn't",
        ),
        _ => {}
    }
    let wanted = [(&keys.token, role), (&keys.agent_token, Role::Agent)];
    for (token, wanted) in wanted {
        if let Some(token) = token
            && token.value.role().is_some_and(|found| found != wanted)
        {
            cx.error(&token.spot, "the token is for the other role");
        }
    }
    if let Some(token) = keys.agent_token.as_ref().filter(|_| role == Role::Agent) {
        cx.error(
            &token.spot,
            "is for servers; an agent has its own in `token`",
        );
    }
    if let Some(ca) = keys.ca.as_ref().filter(|_| joins) {
        cx.warn(
            &ca.spot,
            "has no effect on a machine that joins: it gets what it needs from the server",
        );
    }
}

/// A network with room for what the cluster puts into it.
fn network(given: Option<At<Cidr>>, most_bits: u8, default: Cidr, cx: &mut Cx) -> Cidr {
    let Some(given) = given else {
        return default;
    };
    let cidr = given.value;
    let host_bits = cidr.width() - cidr.prefix();
    // 256 addresses: a node's share of pods, or the well-known service addresses.
    if host_bits < 8 {
        cx.error(
            &given.spot,
            format!("{cidr} is too small, 256 addresses are the least (a /24)"),
        );
    }
    if host_bits > most_bits && most_bits < 32 {
        cx.error(
            &given.spot,
            format!("{cidr} is too large, 2^20 addresses are the most (a /12, or a /108)"),
        );
    }
    cidr
}

fn extra_args(keys: ArgsKeys, cx: &mut Cx) -> BTreeMap<Component, Vec<Flag>> {
    let all = [
        (Component::KubeApiserver, keys.apiserver),
        (Component::KubeControllerManager, keys.controller_manager),
        (Component::KubeScheduler, keys.scheduler),
        (Component::Kubelet, keys.kubelet),
        (Component::KubeProxy, keys.proxy),
        (Component::Etcd, keys.etcd),
    ];
    let mut args = BTreeMap::new();
    for (component, given) in all {
        let mut flags = Vec::new();
        for (name, values) in given.map(|g| g.value.entries).unwrap_or_default() {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
            if name.is_empty() || name.starts_with('-') || !name.bytes().all(plain) {
                cx.error(
                    &name.spot,
                    "is no flag's name; it is written without leading dashes and =",
                );
                continue;
            }
            for value in values.value.0 {
                flags.push(Flag {
                    name: name.value.clone(),
                    value: value.value.0,
                });
            }
        }
        if !flags.is_empty() {
            args.insert(component, flags);
        }
    }
    args
}

fn check_cas(ca: At<CaKeys>, cx: &mut Cx) -> Option<CaSeed> {
    let keys = ca.value;
    let all = [
        ("cluster", keys.cluster),
        ("etcd", keys.etcd),
        ("front-proxy", keys.front_proxy),
    ];
    if all.iter().all(|(_, pair)| pair.is_none()) {
        return None;
    }
    let [cluster, etcd, front_proxy] = all.map(|(name, pair)| {
        let Some(pair) = pair else {
            cx.lacks(
                &ca.spot,
                name,
                ": give all of cluster, etcd, front-proxy or none",
            );
            return None;
        };
        let PairKeys { certificate, key } = pair.value;
        if certificate.is_none() {
            cx.lacks(&pair.spot, "certificate", "");
        }
        if key.is_none() {
            cx.lacks(&pair.spot, "key", "");
        }
        Some(CaPair {
            certificate: certificate?.value.0,
            key: Secret::new(key?.value.0),
        })
    });
    Some(CaSeed {
        cluster: cluster?,
        etcd: etcd?,
        front_proxy: front_proxy?,
    })
}
