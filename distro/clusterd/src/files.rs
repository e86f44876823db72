//! The files that components read, made from the [`Config`]: kubelet, kube-proxy, the pods' network.
//!
//! JSON, which every reader of YAML takes, so that no value needs quoting.

use std::path::Path;

use serde_json::{Map, Value, json};
use slipway_access::durable;
use slipway_images::seed::Cidr;

use crate::component::Name;
use crate::error::{Context, Error};
use crate::identity::Affected;
use crate::options::Config;
use crate::{network, overlay};

/// The host's resolvers, which pods with `dnsPolicy: Default` (CoreDNS) get.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Writes all files that differ, and says which components have to be restarted for it.
pub fn write(config: &Config) -> Result<Affected, Error> {
    let mut affected = Affected::new();
    if config.control_plane_only {
        return Ok(affected);
    }
    let files = [
        (
            config.paths.config("kubelet.json"),
            kubelet(config)?,
            0o600,
            Some(Name::Kubelet),
        ),
        (
            config.paths.config("kube-proxy.json"),
            kube_proxy(config)?,
            0o600,
            Some(Name::KubeProxy),
        ),
    ];
    for (path, content, mode, user) in files {
        if write_json(&path, &content, mode)? {
            affected.extend(user);
        }
    }
    // An agent's share is what the cluster gives it, and what it gave it last.
    if config.is_server() {
        write_pod_network(config, default_pod_network(config))?;
    }
    Ok(affected)
}

/// Writes the pods' network for this range of addresses; the runtime notices by itself.
pub fn write_pod_network(config: &Config, range: Cidr) -> Result<bool, Error> {
    write_json(&config.paths.cni(), &pod_network(config, range), 0o644)
}

/// The first node's share of the pods' addresses. The controller-manager gives out the same;
/// not waiting for its word lets the node be Ready earlier.
pub fn default_pod_network(config: &Config) -> Cidr {
    let all = config.seed.cluster.pod_cidr;
    let prefix = if all.address().is_ipv4() { 24 } else { 64 };
    all.first_subnet(prefix).unwrap_or(all)
}

fn write_json(path: &Path, content: &Value, mode: u32) -> Result<bool, Error> {
    let text = format!("{content:#}\n");
    durable::write_if_changed(path, text.as_bytes(), mode)
        .context(|| format!("write {}", path.display()))
}

/// `KubeletConfiguration` (kubelet.config.k8s.io/v1beta1).
fn kubelet(config: &Config) -> Result<Value, Error> {
    let paths = &config.paths;
    // Kubelet, containerd and kube-proxy, and on a server the control plane.
    let reserved = if config.is_server() { "400Mi" } else { "150Mi" };
    let content = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "port": config.tuning.ports.kubelet,
        "readOnlyPort": 0,
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": paths.pki("cluster-ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": paths.pki("kubelet-server.crt"),
        "tlsPrivateKeyFile": paths.pki("kubelet-server.key"),
        "tlsMinVersion": "VersionTLS12",
        "containerRuntimeEndpoint": format!("unix://{}", config.tuning.containerd.display()),
        "cgroupDriver": "cgroupfs",
        "clusterDomain": config.seed.cluster.cluster_domain,
        "registerWithTaints": config.seed.cluster.taints,
        "clusterDNS": config.cluster_dns().iter().collect::<Vec<_>>(),
        "resolvConf": RESOLV_CONF,
        "staticPodPath": paths.manifests(),
        "podLogsDir": paths.pod_logs(),
        "volumePluginDir": paths.kubelet().join("volumeplugins"),
        "containerLogMaxSize": "10Mi",
        "containerLogMaxFiles": 3,
        // There are no iptables.
        "makeIPTablesUtilChains": false,
        "seccompDefault": true,
        "enableProfilingHandler": false,
        "enableDebugFlagsHandler": false,
        "enableSystemLogHandler": false,
        "eventRecordQPS": 5,
        // A small node is mostly idle: watching one's objects is cheaper than asking again and again.
        "configMapAndSecretChangeDetectionStrategy": "Watch",
        "failSwapOn": false,
        "memorySwap": {"swapBehavior": "NoSwap"},
        // Pods must not take what the node itself needs.
        "kubeReserved": {"cpu": "100m", "memory": reserved},
        "enforceNodeAllocatable": ["pods"],
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "5%",
            "nodefs.inodesFree": "5%",
            "imagefs.available": "5%",
        },
    });
    with_more(content, config.tuning.kubelet.as_deref())
}

/// `KubeProxyConfiguration` (kubeproxy.config.k8s.io/v1alpha1).
fn kube_proxy(config: &Config) -> Result<Value, Error> {
    let ports = config.tuning.ports;
    let content = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": config.paths.kubeconfig("kube-proxy")},
        "hostnameOverride": config.node_name,
        "bindAddress": "0.0.0.0",
        "healthzBindAddress": format!("127.0.0.1:{}", ports.proxy_health),
        "metricsBindAddress": format!("127.0.0.1:{}", ports.proxy_metrics),
        "clusterCIDR": config.seed.cluster.pod_cidr,
        "detectLocalMode": "ClusterCIDR",
        "enableProfiling": false,
        // The table's size is the system's business (sysctl.d).
        "conntrack": {"maxPerCore": 0, "min": 0},
        "nftables": {"minSyncPeriod": "1s", "syncPeriod": "30s"},
    });
    with_more(content, config.tuning.kube_proxy.as_deref())
}

/// A network configuration list (CNI 1.0.0): a bridge on this node, whose packets have room
/// for what the overlay puts around them.
fn pod_network(config: &Config, range: Cidr) -> Value {
    let mtu = match config.node_address {
        std::net::IpAddr::V4(address) => network::mtu(address).ok(),
        std::net::IpAddr::V6(_) => None,
    };
    // 0 is the kernel's own choice.
    let mtu = mtu.map_or(0, |mtu| mtu.saturating_sub(overlay::OVERHEAD));
    let everywhere = if range.address().is_ipv4() {
        "0.0.0.0/0"
    } else {
        "::/0"
    };
    json!({
        "cniVersion": "1.0.0",
        "name": "slipway",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                // The overlay does, and leaves the way to other nodes' pods alone.
                "ipMasq": false,
                "mtu": mtu,
                "ipam": {
                    "type": "host-local",
                    "dataDir": config.paths.cni_addresses(),
                    "ranges": [[{"subnet": range}]],
                    "routes": [{"dst": everywhere}],
                }
            },
            {
                "type": "portmap",
                "backend": "nftables",
                "capabilities": {"portMappings": true},
            }
        ]
    })
}

/// Lays the members of a JSON object over a configuration.
fn with_more(mut content: Value, more: Option<&str>) -> Result<Value, Error> {
    let Some(more) = more else { return Ok(content) };
    let more: Map<String, Value> = serde_json::from_str(more)
        .map_err(|error| Error::Usage(format!("{more} is no JSON object: {error}")))?;
    if let Some(members) = content.as_object_mut() {
        members.extend(more);
    }
    Ok(content)
}

#[cfg(test)]
mod tests;
