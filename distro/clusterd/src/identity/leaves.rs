//! The table of certificates: who is who, and who has to be restarted for which.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use slipway_access::pki;
use slipway_images::seed::{Role, San};

use crate::component::Name;
use crate::joining::{AGENT, AGENTS};
use crate::options::Config;

/// The file name of clusterd's own certificate.
pub const OWN: &str = "clusterd";

/// A certificate of this machine.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// File name in the PKI directory, without extension.
    pub name: &'static str,
    /// What is to be issued.
    pub request: pki::Leaf,
    /// Signed by the front-proxy CA, not by the cluster's.
    pub front_proxy: bool,
    /// The CA's certificate is behind it: who joins takes it from there.
    pub shows_ca: bool,
    /// Who reads it at start.
    pub users: &'static [Name],
    /// Written into this kubeconfig, too.
    pub kubeconfig: Option<PathBuf>,
}

/// Every certificate of this machine.
pub fn leaves(config: &Config) -> Vec<Leaf> {
    let mut leaves = match config.seed.cluster.role {
        Role::Server => of_server(config),
        Role::Agent => of_agent(config),
    };
    for leaf in &mut leaves {
        leaf.request.lifetime = config.tuning.certificate_lifetime;
        leaf.request.dns_names.sort();
        leaf.request.dns_names.dedup();
        leaf.request.addresses.sort();
        leaf.request.addresses.dedup();
    }
    leaves
}

/// What an agent of this node has, its own first. Asked for by the agent, and what the server
/// compares that with.
pub fn agent_leaves(node: &str, addresses: &[IpAddr]) -> Vec<pki::Leaf> {
    let user = format!("system:node:{node}");
    vec![
        pki::Leaf::client(&format!("{AGENT}{node}"), Some(AGENTS)),
        pki::Leaf::client(&user, Some("system:nodes")),
        // Not on loopback, as a server's: the API is there, for every node's programs.
        pki::Leaf::server(&user, vec![node.to_owned()], addresses.to_vec()),
        pki::Leaf::client("system:kube-proxy", None),
    ]
}

fn of_agent(config: &Config) -> Vec<Leaf> {
    let kubeconfig = |name| Some(config.paths.kubeconfig(name));
    let files: [(_, &[Name], _); 4] = [
        (OWN, &[], None),
        ("kubelet", &[Name::Kubelet], kubeconfig("kubelet")),
        ("kubelet-server", &[Name::Kubelet], None),
        ("kube-proxy", &[Name::KubeProxy], kubeconfig("kube-proxy")),
    ];
    let requests = agent_leaves(&config.node_name, &[config.node_address]);
    let leaves = files.into_iter().zip(requests);
    leaves
        .map(|((name, users, kubeconfig), request)| Leaf {
            name,
            request,
            front_proxy: false,
            shows_ca: false,
            users,
            kubeconfig,
        })
        .collect()
}

fn of_server(config: &Config) -> Vec<Leaf> {
    let node = config.node_name.as_str();
    let loopback = || vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let client = |name, user: &str, group, users| Leaf {
        name,
        request: pki::Leaf::client(user, group),
        front_proxy: false,
        shows_ca: false,
        users,
        kubeconfig: Some(config.paths.kubeconfig(name)),
    };
    let server = |name, request, users| Leaf {
        name,
        request,
        front_proxy: false,
        shows_ca: false,
        users,
        kubeconfig: None,
    };
    // `system:masters` bypasses RBAC: the owner's key, and clusterd's, which has to work
    // before there are any roles. Everybody else has only what their role says.
    let mut leaves = vec![
        Leaf {
            shows_ca: true,
            ..server("apiserver", api_server_leaf(config), &[Name::ApiServer])
        },
        Leaf {
            kubeconfig: None,
            ..client(
                "apiserver-kubelet-client",
                "slipway:apiserver-kubelet-client",
                None,
                &[Name::ApiServer],
            )
        },
        Leaf {
            front_proxy: true,
            kubeconfig: None,
            ..client(
                "front-proxy-client",
                "front-proxy-client",
                None,
                &[Name::ApiServer],
            )
        },
        Leaf {
            kubeconfig: Some(config.paths.admin_kubeconfig()),
            ..client("admin", "admin", Some("system:masters"), &[])
        },
        Leaf {
            kubeconfig: None,
            ..client(OWN, "slipway:clusterd", Some("system:masters"), &[])
        },
        client(
            "controller-manager",
            "system:kube-controller-manager",
            None,
            &[Name::ControllerManager],
        ),
        server(
            "controller-manager-server",
            pki::Leaf::server(
                "kube-controller-manager",
                vec!["localhost".into()],
                loopback(),
            ),
            &[Name::ControllerManager],
        ),
        client(
            "scheduler",
            "system:kube-scheduler",
            None,
            &[Name::Scheduler],
        ),
        server(
            "scheduler-server",
            pki::Leaf::server("kube-scheduler", vec!["localhost".into()], loopback()),
            &[Name::Scheduler],
        ),
    ];
    if !config.control_plane_only {
        let addresses = vec![config.node_address, IpAddr::V4(Ipv4Addr::LOCALHOST)];
        leaves.push(client(
            "kubelet",
            &format!("system:node:{node}"),
            Some("system:nodes"),
            &[Name::Kubelet],
        ));
        leaves.push(server(
            "kubelet-server",
            pki::Leaf::server(
                &format!("system:node:{node}"),
                vec![node.to_owned()],
                addresses,
            ),
            &[Name::Kubelet],
        ));
        leaves.push(client(
            "kube-proxy",
            "system:kube-proxy",
            None,
            &[Name::KubeProxy],
        ));
    }
    leaves
}

/// Every name and address under which the API server may be asked for.
pub fn api_server_leaf(config: &Config) -> pki::Leaf {
    let domain = &config.seed.cluster.cluster_domain;
    let mut names = vec![
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{domain}"),
        "localhost".to_owned(),
        config.node_name.clone(),
    ];
    let mut addresses = vec![
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        config.node_address,
    ];
    // The service `kubernetes` has the first address of the services.
    addresses.extend(config.seed.cluster.service_cidr.nth(1));
    for san in config.seed.cluster.sans() {
        match san {
            San::Address(address) => addresses.push(address),
            San::Dns(name) => names.push(name),
        }
    }
    pki::Leaf::server("kube-apiserver", names, addresses)
}
