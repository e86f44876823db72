//! The components: what each is started with, what it waits for, and how its readiness shows.
//!
//! Everything here is a pure function of the [`Config`]; `files.rs` renders what
//! they read, `keeper.rs` runs them.
//!
//! ```text
//! kine ─┐
//!       ├─ kube-apiserver ─ roles ──────┬─ kube-controller-manager
//! kubelet (at once, it tries again)     ├─ kube-scheduler
//!                                       └─ kube-proxy
//! ```

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::options::Config;
use crate::paths::Paths;

/// A supervised component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Name {
    /// The datastore: the etcd API over SQLite.
    #[serde(rename = "kine")]
    Kine,
    /// The API.
    #[serde(rename = "kube-apiserver")]
    ApiServer,
    /// The controllers.
    #[serde(rename = "kube-controller-manager")]
    ControllerManager,
    /// The scheduler.
    #[serde(rename = "kube-scheduler")]
    Scheduler,
    /// Runs pods.
    #[serde(rename = "kubelet")]
    Kubelet,
    /// Routes service addresses.
    #[serde(rename = "kube-proxy")]
    KubeProxy,
}

impl Name {
    /// The components of a server or an agent in the order of starting; stopping goes backwards.
    pub fn of(config: &Config) -> &'static [Self] {
        const ALL: [Name; 6] = [
            Name::Kine,
            Name::ApiServer,
            Name::ControllerManager,
            Name::Scheduler,
            Name::Kubelet,
            Name::KubeProxy,
        ];
        match (config.is_server(), config.control_plane_only) {
            (true, false) => &ALL,
            (true, true) => &ALL[..4],
            (false, false) => &ALL[4..],
            (false, true) => &[],
        }
    }

    /// The program's name.
    pub fn program(self) -> &'static str {
        match self {
            Self::Kine => "kine",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.program())
    }
}

/// What has to hold before a component is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it waits for others by itself.
    Nothing,
    /// The API serves ([`API_SERVES`]).
    Api,
    /// The API's bootstrap roles are in force: before, every list would be refused, and the
    /// pauses between further attempts grow.
    Roles,
    /// The API is ready, `/readyz`.
    Ready,
}

/// How one sees that a component works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// A connection to the socket is taken.
    Socket(PathBuf),
    /// `GET https://HOST:PORT/PATH` with clusterd's certificate answers 200.
    Https {
        /// Address of this machine.
        host: IpAddr,
        /// Port on loopback.
        port: u16,
        /// Path for "has it come up".
        ready: &'static str,
        /// Path for "does it still work".
        live: &'static str,
    },
    /// `GET http://127.0.0.1:PORT/PATH` answers 200.
    Http {
        /// Port on loopback.
        port: u16,
        /// Path.
        path: &'static str,
    },
}

/// A component, ready to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Which.
    pub name: Name,
    /// Program; a name without slash is looked up in PATH.
    pub program: PathBuf,
    /// Arguments, without the program.
    pub arguments: Vec<String>,
    /// The whole environment.
    pub environment: Vec<(&'static str, String)>,
    /// What it is started after.
    pub need: Need,
    /// How its readiness shows.
    pub probe: Probe,
    /// From SIGTERM to SIGKILL.
    pub stop_timeout: Duration,
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// `/livez` as soon as requests are served. The bootstrap roles come last and take longest.
pub const API_SERVES: &str = "/livez?exclude=poststarthook/rbac/bootstrap-roles";

/// Describes a component.
pub fn component(config: &Config, name: Name) -> Component {
    let (mut arguments, need, probe) = match name {
        Name::Kine => kine(config),
        Name::ApiServer => api_server(config),
        Name::ControllerManager => controller_manager(config),
        Name::Scheduler => scheduler(config),
        Name::Kubelet => kubelet(config),
        Name::KubeProxy => kube_proxy(config),
    };
    arguments.extend(extra_arguments(config, name));
    let program = match &config.bin {
        Some(directory) => directory.join(name.program()),
        None => PathBuf::from(name.program()),
    };
    Component {
        name,
        program,
        arguments,
        environment: environment(config, name),
        need,
        probe,
        stop_timeout: match name {
            // Ends its watches before it goes.
            Name::ApiServer => Duration::from_secs(15),
            _ => Duration::from_secs(10),
        },
    }
}

/// What the seed adds. They come last, and the last of a flag wins.
fn extra_arguments(config: &Config, name: Name) -> Vec<String> {
    use slipway_images::seed::Component as Of;
    let of = match name {
        Name::Kine => return Vec::new(),
        Name::ApiServer => Of::KubeApiserver,
        Name::ControllerManager => Of::KubeControllerManager,
        Name::Scheduler => Of::KubeScheduler,
        Name::Kubelet => Of::Kubelet,
        Name::KubeProxy => Of::KubeProxy,
    };
    let flags = config.seed.cluster.extra_args.get(&of);
    flags
        .into_iter()
        .flatten()
        .map(|flag| format!("--{}={}", flag.name, flag.value))
        .collect()
}

fn environment(config: &Config, name: Name) -> Vec<(&'static str, String)> {
    let system = "/usr/sbin:/usr/bin:/sbin:/bin";
    let path = match &config.bin {
        Some(directory) => format!("{}:{system}", directory.display()),
        None => std::env::var("PATH").unwrap_or_else(|_| system.to_owned()),
    };
    // Go lets the heap double before it collects (100). The API server with 60 instead takes
    // 30 MiB less; the others idle, and 50 costs them nothing. But a start makes garbage once:
    // left to lie, it takes 100 MiB for as long as a start does, and a control plane starts
    // with a fifth less processor time (4.1 s against 5.2). distro/components/settle changes
    // from one to the other.
    let settled = match name {
        Name::ApiServer => "60",
        _ => "50",
    };
    let mut variables = vec![
        ("PATH", path),
        ("HOME", "/root".to_owned()),
        ("GOGC", "400".to_owned()),
        ("SLIPWAY_SETTLED_GOGC", settled.to_owned()),
    ];
    if name == Name::ApiServer {
        // An empty datastore is filled with what the API server would make there one by one.
        variables.push(("SLIPWAY_PRIME_DATASTORE", datastore(&config.paths)));
    }
    variables
}

/// Where the API server finds the datastore.
fn datastore(paths: &Paths) -> String {
    format!("unix://{}", paths.kine_socket().display())
}

fn flags<const N: usize>(pairs: [(&str, String); N]) -> Vec<String> {
    pairs
        .into_iter()
        .map(|(flag, value)| format!("--{flag}={value}"))
        .collect()
}

type Parts = (Vec<String>, Need, Probe);

/// SQLite in WAL mode survives any crash of the process; `synchronous=FULL` makes every
/// commit survive a loss of power, too. With `NORMAL` the last commits before it could
/// vanish, and with them objects whose creation the API had already confirmed.
fn kine(config: &Config) -> Parts {
    let socket = config.paths.kine_socket();
    let parameters = "_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate";
    let arguments = flags([
        ("listen-address", datastore(&config.paths)),
        (
            "endpoint",
            format!(
                "sqlite://{}?{parameters}",
                config.paths.database().display()
            ),
        ),
        ("metrics-bind-address", "0".to_owned()),
        // Each idle connection keeps a page cache of its own.
        ("datastore-max-idle-connections", "4".to_owned()),
    ]);
    (arguments, Need::Nothing, Probe::Socket(socket))
}

fn api_server(config: &Config) -> Parts {
    let paths = &config.paths;
    let pki = |file: &str| paths.pki(file).display().to_string();
    let cluster = &config.seed.cluster;
    let mut arguments = flags([
        ("bind-address", config.bind_address().to_string()),
        ("secure-port", config.tuning.ports.api.to_string()),
        ("advertise-address", config.node_address.to_string()),
        ("etcd-servers", datastore(paths)),
        ("service-cluster-ip-range", cluster.service_cidr.to_string()),
        ("tls-cert-file", pki("apiserver.crt")),
        ("tls-private-key-file", pki("apiserver.key")),
        ("client-ca-file", pki("cluster-ca.crt")),
        // Of machines that join.
        (
            "token-auth-file",
            paths.config("tokens.csv").display().to_string(),
        ),
        ("anonymous-auth", "false".to_owned()),
        ("authorization-mode", "Node,RBAC".to_owned()),
        // Storage and network add-ons need it. Who may use it is what Pod Security
        // admission decides, by namespace.
        ("allow-privileged", "true".to_owned()),
        ("enable-admission-plugins", "NodeRestriction".to_owned()),
        (
            "encryption-provider-config",
            paths.config("encryption.json").display().to_string(),
        ),
        ("kubelet-certificate-authority", pki("cluster-ca.crt")),
        (
            "kubelet-client-certificate",
            pki("apiserver-kubelet-client.crt"),
        ),
        ("kubelet-client-key", pki("apiserver-kubelet-client.key")),
        (
            "kubelet-preferred-address-types",
            "InternalIP,Hostname".to_owned(),
        ),
        ("requestheader-client-ca-file", pki("front-proxy-ca.crt")),
        (
            "requestheader-allowed-names",
            "front-proxy-client".to_owned(),
        ),
        (
            "requestheader-extra-headers-prefix",
            "X-Remote-Extra-".to_owned(),
        ),
        ("requestheader-group-headers", "X-Remote-Group".to_owned()),
        ("requestheader-username-headers", "X-Remote-User".to_owned()),
        ("proxy-client-cert-file", pki("front-proxy-client.crt")),
        ("proxy-client-key-file", pki("front-proxy-client.key")),
        (
            "service-account-issuer",
            format!("https://kubernetes.default.svc.{}", cluster.cluster_domain),
        ),
        ("service-account-key-file", pki("service-account.pub")),
        (
            "service-account-signing-key-file",
            pki("service-account.key"),
        ),
        ("profiling", "false".to_owned()),
        // A watch never ends by itself: without this a stop would wait for all of them.
        ("shutdown-watch-termination-grace-period", "2s".to_owned()),
        // There is one API server, and these only feed metrics of an etcd that isn't there.
        ("etcd-count-metric-poll-period", "0".to_owned()),
        ("etcd-db-metric-poll-interval", "0".to_owned()),
    ]);
    if config.control_plane_only {
        // Loopback may not be the endpoint of a service.
        arguments.push("--endpoint-reconciler-type=none".to_owned());
    }
    let probe = Probe::Https {
        host: LOOPBACK,
        port: config.tuning.ports.api,
        ready: API_SERVES,
        // Not for the datastore's faults: a restart here wouldn't mend them.
        live: "/livez?exclude=etcd&exclude=poststarthook/rbac/bootstrap-roles",
    };
    (arguments, Need::Nothing, probe)
}

/// What controllers and scheduler have in common: who they are, who may ask for their
/// health, and that there is one of each.
fn controller(config: &Config, who: &str, port: u16) -> Vec<String> {
    let pki = |file: &str| config.paths.pki(file).display().to_string();
    let kubeconfig = config.paths.kubeconfig(who).display().to_string();
    flags([
        ("bind-address", "127.0.0.1".to_owned()),
        ("secure-port", port.to_string()),
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        // All that would be looked up at the API is given here.
        ("authentication-skip-lookup", "true".to_owned()),
        // Health, too, only for those who say who they are.
        ("authorization-always-allow-paths", String::new()),
        ("client-ca-file", pki("cluster-ca.crt")),
        ("requestheader-client-ca-file", pki("front-proxy-ca.crt")),
        (
            "requestheader-allowed-names",
            "front-proxy-client".to_owned(),
        ),
        ("tls-cert-file", pki(&format!("{who}-server.crt"))),
        ("tls-private-key-file", pki(&format!("{who}-server.key"))),
        // One server: a lease to be leader would only be written every two seconds for nobody.
        ("leader-elect", "false".to_owned()),
        ("profiling", "false".to_owned()),
    ])
}

fn controller_manager(config: &Config) -> Parts {
    let pki = |file: &str| config.paths.pki(file).display().to_string();
    let cluster = &config.seed.cluster;
    let port = config.tuning.ports.controller_manager;
    let mut arguments = controller(config, "controller-manager", port);
    arguments.extend(flags([
        ("cluster-name", cluster.name.clone()),
        ("allocate-node-cidrs", "true".to_owned()),
        ("cluster-cidr", cluster.pod_cidr.to_string()),
        ("service-cluster-ip-range", cluster.service_cidr.to_string()),
        ("cluster-signing-cert-file", pki("cluster-ca.crt")),
        ("cluster-signing-key-file", pki("cluster-ca.key")),
        ("root-ca-file", pki("cluster-ca.crt")),
        (
            "service-account-private-key-file",
            pki("service-account.key"),
        ),
        ("use-service-account-credentials", "true".to_owned()),
        (
            "flex-volume-plugin-dir",
            config
                .paths
                .kubelet()
                .join("volumeplugins")
                .display()
                .to_string(),
        ),
    ]));
    arguments.push(match cluster.pod_cidr.address().is_ipv4() {
        true => "--node-cidr-mask-size-ipv4=24".to_owned(),
        false => "--node-cidr-mask-size-ipv6=64".to_owned(),
    });
    // It looks at the whole of `/healthz` itself, and gives up after ten seconds.
    (arguments, Need::Ready, healthz(LOOPBACK, port))
}

fn scheduler(config: &Config) -> Parts {
    let port = config.tuning.ports.scheduler;
    let arguments = controller(config, "scheduler", port);
    (arguments, Need::Roles, healthz(LOOPBACK, port))
}

fn healthz(host: IpAddr, port: u16) -> Probe {
    Probe::Https {
        host,
        port,
        ready: "/healthz",
        live: "/healthz",
    }
}

fn kubelet(config: &Config) -> Parts {
    let mut arguments = flags([
        (
            "config",
            config.paths.config("kubelet.json").display().to_string(),
        ),
        (
            "kubeconfig",
            config.paths.kubeconfig("kubelet").display().to_string(),
        ),
        ("root-dir", config.paths.kubelet().display().to_string()),
        (
            "cert-dir",
            config.paths.kubelet().join("pki").display().to_string(),
        ),
        ("hostname-override", config.node_name.clone()),
        ("node-ip", config.node_address.to_string()),
    ]);
    let labels = config.seed.cluster.labels.iter();
    let labels: Vec<String> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if !labels.is_empty() {
        // Only a flag: a kubelet's configuration has no labels.
        arguments.push(format!("--node-labels={}", labels.join(",")));
    }
    let port = config.tuning.ports.kubelet;
    // An agent's certificate isn't for loopback.
    let host = if config.is_server() {
        LOOPBACK
    } else {
        config.node_address
    };
    (
        arguments,
        // Without an API it could start nothing: pods are known there alone. Until then it
        // would only take the processor from the API server. Its own rights are not among
        // the bootstrap roles.
        Need::Api,
        healthz(host, port),
    )
}

fn kube_proxy(config: &Config) -> Parts {
    let arguments = flags([(
        "config",
        config.paths.config("kube-proxy.json").display().to_string(),
    )]);
    let probe = Probe::Http {
        port: config.tuning.ports.proxy_health,
        path: "/livez",
    };
    (arguments, Need::Roles, probe)
}

#[cfg(test)]
pub(crate) mod tests;
