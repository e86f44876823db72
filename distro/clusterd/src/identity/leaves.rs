//! The table of certificates: who is who, and who has to be restarted for which.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use slipway_access::pki;
use slipway_images::seed::San;

use crate::component::Name;
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
    /// Who reads it at start.
    pub users: &'static [Name],
    /// Written into this kubeconfig, too.
    pub kubeconfig: Option<PathBuf>,
}

/// Every certificate of this machine.
pub fn leaves(config: &Config) -> Vec<Leaf> {
    let node = config.node_name.as_str();
    let loopback = || vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    let client = |name, user: &str, group, users| Leaf {
        name,
        request: pki::Leaf::client(user, group),
        front_proxy: false,
        users,
        kubeconfig: Some(config.paths.kubeconfig(name)),
    };
    let server = |name, request, users| Leaf {
        name,
        request,
        front_proxy: false,
        users,
        kubeconfig: None,
    };
    // `system:masters` bypasses RBAC: the owner's key, and clusterd's, which has to work
    // before there are any roles. Everybody else has only what their role says.
    let mut leaves = vec![
        server("apiserver", api_server(config), &[Name::ApiServer]),
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
    for leaf in &mut leaves {
        leaf.request.lifetime = config.tuning.certificate_lifetime;
        leaf.request.dns_names.sort();
        leaf.request.dns_names.dedup();
        leaf.request.addresses.sort();
        leaf.request.addresses.dedup();
    }
    leaves
}

/// Every name and address under which the API server may be asked for.
fn api_server(config: &Config) -> pki::Leaf {
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
