//! The command line, and everything that is fixed for the life of the process.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use slipway_access::pki;
use slipway_images::seed::{Role, Seed};

use crate::error::{Context, Error};
use crate::paths::Paths;

/// Shown by `--help`.
pub const HELP: &str = "\
clusterd: runs and supervises a Kubernetes server, or an agent of one

    clusterd --root DIR [--seed FILE] [--control-plane-only] [--bin DIR]
    clusterd snapshot --root DIR [--bin DIR]

  --root DIR              where var/, run/ and etc/ are (in an image: /)
  --seed FILE             the checked seed, JSON (default: DIR/run/slipway/seed.json)
  --control-plane-only    no kubelet and no kube-proxy; listens on loopback only
  --bin DIR               where the components' programs are (default: PATH)
  --version               print the version

snapshot keeps the datastore as it is now, also while it is in use, and prints
as JSON what it kept.
";

/// What the process was started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Parent of `var/`, `run/`, `etc/`, `usr/`.
    pub root: PathBuf,
    /// The checked seed.
    pub seed: Option<PathBuf>,
    /// Without kubelet and kube-proxy.
    pub control_plane_only: bool,
    /// Directory of the components' programs.
    pub bin: Option<PathBuf>,
    /// Not for people: what tests change.
    pub tuning: Tuning,
}

/// What only tests change; not in the help text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuning {
    /// Listening ports.
    pub ports: Ports,
    /// Life of issued certificates. Two thirds of it after issue they are renewed.
    pub certificate_lifetime: Duration,
    /// Longest time between two looks at the certificates.
    pub certificate_interval: Duration,
    /// Name of the node instead of the host's.
    pub node_name: Option<String>,
    /// Its address instead of that of the default route.
    pub node_address: Option<IpAddr>,
    /// More `key: value` of the kubelet's configuration (JSON object).
    pub kubelet: Option<String>,
    /// More `key: value` of kube-proxy's configuration (JSON object).
    pub kube_proxy: Option<String>,
    /// containerd's socket, as the kubelet wants it.
    pub containerd: PathBuf,
}

/// Ports that components listen on. All but the API server's and the kubelet's are on loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// kube-apiserver
    pub api: u16,
    /// kube-controller-manager
    pub controller_manager: u16,
    /// kube-scheduler
    pub scheduler: u16,
    /// kubelet
    pub kubelet: u16,
    /// kube-proxy, health
    pub proxy_health: u16,
    /// kube-proxy, metrics
    pub proxy_metrics: u16,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            ports: Ports {
                api: 6443,
                controller_manager: 10257,
                scheduler: 10259,
                kubelet: 10250,
                proxy_health: 10256,
                proxy_metrics: 10249,
            },
            certificate_lifetime: pki::LEAF_LIFETIME,
            certificate_interval: Duration::from_secs(60),
            node_name: None,
            node_address: None,
            kubelet: None,
            kube_proxy: None,
            containerd: PathBuf::from("/run/containerd/containerd.sock"),
        }
    }
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Run.
    Run(Box<Options>),
    /// Take a snapshot of the datastore.
    Snapshot {
        /// See [`Options::root`].
        root: PathBuf,
        /// See [`Options::bin`].
        bin: Option<PathBuf>,
    },
    /// Print the help text.
    Help,
    /// Print the version.
    Version,
}

/// Parses the command line, without the program's name.
pub fn parse<I>(arguments: I) -> Result<Command, Error>
where
    I: IntoIterator,
    I::Item: Into<std::ffi::OsString>,
{
    use lexopt::prelude::{Long, Short, ValueExt};
    let usage = |error: lexopt::Error| Error::Usage(error.to_string());
    let mut root = None;
    let mut seed = None;
    let mut bin = None;
    let mut control_plane_only = false;
    let mut tuning = Tuning::default();
    let mut parser = lexopt::Parser::from_args(arguments);
    let snapshot = parser
        .try_raw_args()
        .is_some_and(|mut rest| rest.next_if(|word| word == "snapshot").is_some());
    while let Some(argument) = parser.next().map_err(usage)? {
        match argument {
            Long("root") => root = Some(PathBuf::from(parser.value().map_err(usage)?)),
            Long("seed") => seed = Some(PathBuf::from(parser.value().map_err(usage)?)),
            Long("bin") => bin = Some(PathBuf::from(parser.value().map_err(usage)?)),
            Long("control-plane-only") => control_plane_only = true,
            Long("help") | Short('h') => return Ok(Command::Help),
            Long("version") | Short('V') => return Ok(Command::Version),
            Long("api-port") => {
                tuning.ports.api = parser.value().map_err(usage)?.parse().map_err(usage)?
            }
            Long("controller-manager-port") => {
                tuning.ports.controller_manager =
                    parser.value().map_err(usage)?.parse().map_err(usage)?;
            }
            Long("scheduler-port") => {
                tuning.ports.scheduler = parser.value().map_err(usage)?.parse().map_err(usage)?
            }
            Long("certificate-lifetime") => {
                let seconds = parser.value().map_err(usage)?.parse().map_err(usage)?;
                tuning.certificate_lifetime = Duration::from_secs(seconds);
                tuning.certificate_interval = Duration::from_secs(1);
            }
            Long("node-name") => {
                tuning.node_name = Some(parser.value().map_err(usage)?.string().map_err(usage)?)
            }
            Long("node-address") => {
                tuning.node_address = Some(parser.value().map_err(usage)?.parse().map_err(usage)?);
            }
            Long("kubelet-config") => {
                tuning.kubelet = Some(parser.value().map_err(usage)?.string().map_err(usage)?)
            }
            Long("kube-proxy-config") => {
                tuning.kube_proxy = Some(parser.value().map_err(usage)?.string().map_err(usage)?);
            }
            Long("containerd") => tuning.containerd = PathBuf::from(parser.value().map_err(usage)?),
            other => return Err(usage(other.unexpected())),
        }
    }
    let root = root.ok_or_else(|| Error::Usage("--root is missing".to_owned()))?;
    // Components run in directories of their own choice: every path they get is absolute.
    let absolute = |path: PathBuf| {
        std::path::absolute(&path).context(|| format!("make {} absolute", path.display()))
    };
    let root = absolute(root)?;
    let bin = bin.map(absolute).transpose()?;
    if snapshot {
        return Ok(Command::Snapshot { root, bin });
    }
    Ok(Command::Run(Box::new(Options {
        root,
        seed: seed.map(absolute).transpose()?,
        control_plane_only,
        bin,
        tuning,
    })))
}

/// Everything components are configured from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where everything is.
    pub paths: Paths,
    /// The checked seed.
    pub seed: Seed,
    /// Name of the node: the host's, lower-case.
    pub node_name: String,
    /// The node's own address; changes with the network.
    pub node_address: IpAddr,
    /// Without kubelet and kube-proxy.
    pub control_plane_only: bool,
    /// Directory of the components' programs.
    pub bin: Option<PathBuf>,
    /// What tests change.
    pub tuning: Tuning,
}

impl Config {
    /// The address the API server listens on: everywhere on a node, loopback only without one.
    pub fn bind_address(&self) -> IpAddr {
        let address = if self.control_plane_only {
            Ipv4Addr::LOCALHOST
        } else {
            Ipv4Addr::UNSPECIFIED
        };
        IpAddr::V4(address)
    }

    /// Whether this machine has a control plane.
    pub fn is_server(&self) -> bool {
        self.seed.cluster.role == Role::Server
    }

    /// The API's URL on this machine: its own API server, or the way to a server's.
    pub fn api_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.tuning.ports.api)
    }

    /// The address of the cluster's DNS: the tenth of the services, as everywhere.
    pub fn cluster_dns(&self) -> Option<IpAddr> {
        self.seed.cluster.service_cidr.nth(10)
    }
}

/// The host's name as a node name (RFC 1123, lower-case).
pub fn node_name() -> Result<String, Error> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy().to_lowercase();
    if is_node_name(&name) {
        Ok(name)
    } else {
        Err(Error::Seed(format!(
            "the host's name {name:?} can't be a node's name; set a hostname of letters, digits and hyphens in the seed"
        )))
    }
}

/// Whether a node can be called so.
pub fn is_node_name(name: &str) -> bool {
    let valid =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
    !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(valid)
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_of_an_image() {
        let Command::Run(options) =
            parse(["--root", "/", "--seed", "/run/slipway/seed.json"]).unwrap()
        else {
            panic!()
        };
        assert_eq!(options.root, PathBuf::from("/"));
        assert!(!options.control_plane_only);
        assert_eq!(options.tuning.ports.api, 6443);
    }

    #[test]
    fn the_command_line_of_a_snapshot() {
        let snapshot = |root: &str| Command::Snapshot {
            root: root.into(),
            bin: None,
        };
        assert_eq!(parse(["snapshot", "--root", "/"]).unwrap(), snapshot("/"));
        assert!(parse(["--root", "/", "snapshot"]).is_err());
    }

    #[test]
    fn paths_become_absolute() {
        let Command::Run(options) = parse(["--root", "state"]).unwrap() else {
            panic!()
        };
        assert!(options.root.is_absolute());
    }

    #[test]
    fn refusals_name_the_argument() {
        let text = |arguments: &[&str]| parse(arguments.to_vec()).unwrap_err().to_string();
        assert_eq!(text(&[]), "--root is missing; see clusterd --help");
        assert!(text(&["--rot", "/"]).contains("--rot"));
        assert!(text(&["--root", "/", "--api-port", "x"]).contains("x"));
        assert_eq!(parse(["--help"]).unwrap(), Command::Help);
    }
}
