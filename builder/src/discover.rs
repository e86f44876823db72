//! `slipway discover`: which nodes are on this machine's networks, by multicast DNS.
//!
//! What nodes say there anybody could say: it is shown to find them by, with control
//! characters escaped, and `slipway node` checks certificates as ever.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use clap::Args;
use mdns_sd::{ResolvedService, ServiceDaemon, ServiceEvent};
use serde::Serialize;
use slipway_images::node::discovery::{Advert, SERVICE};

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// List the nodes on this machine's networks.
///
/// They are found by multicast DNS, which stays on a network: nodes behind a
/// router, and machines of `slipway run`, don't answer. Fingerprints are those of
/// the node APIs' certificates, as the nodes' consoles show them.
#[derive(Debug, Clone, Args)]
pub struct DiscoverArgs {
    /// How long to wait for answers, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub timeout: u64,
}

/// A node that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// The name that it is found by.
    pub name: String,
    /// Its name in DNS, which resolves where multicast DNS is set up.
    pub host: String,
    /// Its addresses; those of IPv6 that hold on one link have its interface behind `%`.
    pub addresses: Vec<String>,
    /// TCP port of its API.
    pub port: u16,
    /// What it says of itself.
    #[serde(flatten)]
    pub advert: Advert,
}

/// All that were found.
#[derive(Serialize)]
#[serde(transparent)]
struct Nodes(Vec<Found>);

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.0 {
            let Found {
                name, host, port, ..
            } = node;
            let advert = &node.advert;
            let known = |value: &Option<String>| value.clone().unwrap_or_else(|| "?".to_owned());
            writeln!(f, "{name}")?;
            let mut line = |key: &str, value: String| writeln!(f, "  {key:13}{value}");
            line("address", node.addresses.join(" "))?;
            line("node API", format!("{host}:{port}"))?;
            line(
                "image",
                format!("{} for {}", known(&advert.version), known(&advert.board)),
            )?;
            if let Some(cluster) = &advert.cluster {
                line("cluster", format!("{cluster}, {}", known(&advert.role)))?;
            }
            line("fingerprint", known(&advert.fingerprint))?;
        }
        Ok(())
    }
}

/// Runs `slipway discover`.
///
/// # Errors
/// [`Kind::Missing`] if multicast DNS can't be spoken on this machine, [`Kind::Io`],
/// [`Kind::Interrupted`].
pub fn run(args: &DiscoverArgs, progress: &Progress) -> Result<()> {
    let nodes = search(Duration::from_secs(args.timeout), progress)?;
    if nodes.is_empty() {
        progress.say(&format!(
            "no node has answered within {} s; is this machine on their network, and does its firewall let UDP port 5353 in?",
            args.timeout
        ));
        if !progress.is_json() {
            return Ok(());
        }
    }
    progress.result(&Nodes(nodes))
}

/// The nodes that answer in time, by name.
///
/// # Errors
/// See [`run`].
pub fn search(time: Duration, progress: &Progress) -> Result<Vec<Found>> {
    let failed = |e: mdns_sd::Error| {
        Error::new(Kind::Missing, format!("speaking multicast DNS: {e}"))
            .hint("another program may keep UDP port 5353 for itself: ss -lnup sport = 5353")
    };
    let _task = progress.task("looking for nodes", None);
    let daemon = ServiceDaemon::new().map_err(failed)?;
    let [service, protocol] = SERVICE;
    let events = daemon
        .browse(&format!("{service}.{protocol}.local."))
        .map_err(failed)?;
    let until = Instant::now() + time;
    let mut nodes = BTreeMap::new();
    while Instant::now() < until {
        progress.check()?;
        // Short, for Ctrl-C.
        let left = until.saturating_duration_since(Instant::now());
        match events.recv_timeout(left.min(Duration::from_millis(100))) {
            Ok(ServiceEvent::ServiceResolved(node)) => {
                nodes.insert(node.get_fullname().to_owned(), found(&node));
            }
            Ok(ServiceEvent::ServiceRemoved(_, name)) => drop(nodes.remove(&name)),
            _ => {}
        }
    }
    // It ends with the process; a farewell is for those who announce something.
    drop(daemon.shutdown());
    let mut nodes: Vec<Found> = nodes.into_values().collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nodes)
}

fn found(node: &ResolvedService) -> Found {
    let full = node.get_fullname();
    let name = full.split_once("._slipway.").map_or(full, |(name, _)| name);
    let mut addresses: Vec<_> = node.get_addresses().iter().collect();
    // Those that hold everywhere first, IPv4 before IPv6.
    addresses.sort_by_key(|a| {
        let ip = a.to_ip_addr();
        let narrow = matches!(ip, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
        (narrow, ip)
    });
    Found {
        name: escaped(name),
        host: escaped(node.get_hostname().trim_end_matches('.')),
        addresses: addresses.iter().map(|a| escaped(&a.to_string())).collect(),
        port: node.get_port(),
        advert: Advert::from_pairs(|key| node.get_property_val_str(key).map(escaped)),
    }
}

/// Whatever a stranger has written, without what could move a terminal's cursor.
fn escaped(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control() || is_invisible(c);
            let plain = (!escape).then_some(c);
            let code = escape.then(|| c.escape_default()).into_iter().flatten();
            plain.into_iter().chain(code)
        })
        .take(300)
        .collect()
}

/// Marks that turn the direction of text around, or take no room.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> Found {
        Found {
            name: "node1".into(),
            host: "node1.local".into(),
            addresses: vec!["192.0.2.1".into(), "fe80::1%eth0".into()],
            port: 7443,
            advert: Advert {
                version: Some("1.0".into()),
                cluster: Some("home".into()),
                ..Advert::default()
            },
        }
    }

    #[test]
    fn nodes_for_people_and_programs() {
        let nodes = Nodes(vec![node()]);
        assert_eq!(
            nodes.to_string(),
            "node1
  address      192.0.2.1 fe80::1%eth0
  node API     node1.local:7443
  image        1.0 for ?
  cluster      home, ?
  fingerprint  ?
"
        );
        let json = serde_json::to_value(&nodes).unwrap();
        assert_eq!(json[0]["port"], 7443);
        assert_eq!(json[0]["cluster"], "home");
        assert_eq!(json[0]["fingerprint"], serde_json::Value::Null);
    }

    #[test]
    fn what_strangers_say_stays_on_its_line() {
        assert_eq!(escaped("a\n\u{1b}[2Jb\u{202e}"), "a\\n\\u{1b}[2Jb\\u{202e}");
        assert_eq!(escaped("küche 2"), "küche 2");
    }
}
