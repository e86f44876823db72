//! The network between the nodes' pods: VXLAN (RFC 7348), as flannel's backend of that name
//! does it, without a program of its own.
//!
//! Each node has a share of the pods' addresses (`spec.podCIDR`). Every other node's share is
//! reached through the device [`DEVICE`]: a route to the share by its first address, which is
//! that node's end of the tunnel; a neighbour entry with that end's MAC; and a forwarding entry
//! from the MAC to the node's address. The MAC is made from the end's address ([`mac`]), so
//! nodes learn all of it from each other's objects and write nothing there.
//!
//! ```text
//! pod ─ cni0 ─ route 10.42.1.0/24 via 10.42.1.0 ─ slipway0 ─ UDP 8472 ─ 192.0.2.2 ─ slipway0 ─ cni0 ─ pod
//! ```
//!
//! What leaves for the world gets the node's address (`masquerade`), by nftables: the bridge
//! plugin's own rule would do so to other nodes' pods, too. As long as the cluster has one node
//! there is no device.

mod device;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use slipway_images::seed::Cidr;

use crate::access::Access;
use crate::board::{Board, Facts};
use crate::error::{Context, Error};
use crate::log::info;
use crate::network;
use crate::options::Config;
use device::Device;

/// The tunnels' device.
pub const DEVICE: &str = "slipway0";
/// What a packet grows by: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14.
pub const OVERHEAD: u32 = 50;

/// flannel's identifier and port, which Linux had before 4789 was assigned.
const VNI: u32 = 1;
const PORT: u16 = 8472;
/// Before the rules are loaded again.
const RETRY: Duration = Duration::from_secs(10);
/// Longest life of a watch.
const WATCH: Duration = Duration::from_secs(300);

/// Another node, as far as its pods are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Peer {
    /// Where tunnelled packets are sent.
    node: Ipv4Addr,
    /// First address of its share, and the share's prefix length.
    share: (Ipv4Addr, u8),
}

/// The nodes' shares: this node's own, and by name the others'.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    /// This node's address and its share.
    own: Peer,
    /// The other nodes.
    peers: BTreeMap<String, Peer>,
}

impl Plan {
    /// From the cluster's nodes; `None` as long as this one has no share.
    fn of(config: &Config, nodes: &BTreeMap<String, Value>) -> Option<Self> {
        let mut peers: BTreeMap<String, Peer> = nodes
            .iter()
            .filter_map(|(name, node)| Some((name.clone(), peer(node)?)))
            .collect();
        let own = peers.remove(&config.node_name)?;
        Some(Self { own, peers })
    }
}

/// What a node's object says of its place in the network.
fn peer(node: &Value) -> Option<Peer> {
    let share: Cidr = node["spec"]["podCIDR"].as_str()?.parse().ok()?;
    let IpAddr::V4(first) = share.address() else {
        return None;
    };
    let addresses = node["status"]["addresses"].as_array()?;
    let node = addresses
        .iter()
        .filter(|address| address["type"] == "InternalIP")
        .find_map(|address| address["address"].as_str()?.parse().ok())?;
    Some(Peer {
        node,
        share: (first, share.prefix()),
    })
}

/// The MAC of a tunnel's end: locally administered, unicast, and the same everywhere.
fn mac(end: Ipv4Addr) -> [u8; 6] {
    let digest = Sha256::new()
        .chain_update(b"slipway overlay\0")
        .chain_update(end.octets())
        .finalize();
    let mut mac = [0; 6];
    mac.copy_from_slice(&digest[..6]);
    mac[0] = mac[0] & 0xfe | 0x02;
    mac
}

/// Follows the cluster's nodes until everything ends. The device stays: pods outlive clusterd.
pub fn follow(config: &Config, access: &Access, board: &Board) {
    while !tell(board, masquerade(config)) {
        if !board.pause(RETRY) {
            return;
        }
    }
    if !config.seed.cluster.pod_cidr.address().is_ipv4() {
        info!("pods have IPv6 addresses: other nodes' are reached by routes of the network's own");
        return;
    }
    let mut device: Option<Device> = None;
    while board.wait(Facts::api_serves) {
        let result = access.client().and_then(|client| {
            client.follow("/api/v1/nodes", "", WATCH, |nodes| {
                if let Some(plan) = Plan::of(config, nodes) {
                    tell(board, apply(&mut device, &plan));
                }
                !board.facts().stopping
            })
        });
        if let Err(error) = result
            && !error.is_transient()
        {
            info!("network: {error}");
        }
        if !board.pause(Duration::from_secs(1)) {
            return;
        }
    }
}

/// Says how something went; whether it went well.
fn tell(board: &Board, result: Result<(), Error>) -> bool {
    board.note("network", &result);
    if let Err(error) = &result {
        info!("{error}");
    }
    result.is_ok()
}

/// Makes the device as the plan says: anew where this node's own place changed, and otherwise
/// peer by peer.
fn apply(device: &mut Option<Device>, plan: &Plan) -> Result<(), Error> {
    if device
        .as_ref()
        .is_some_and(|device| device.own() != plan.own)
    {
        *device = None;
    }
    if plan.peers.is_empty() && device.is_none() {
        return Ok(());
    }
    let device = match device {
        Some(device) => device,
        None => {
            let made = Device::make(plan.own, network::mtu(plan.own.node)? - OVERHEAD)
                .context(|| format!("make the device {DEVICE}"))?;
            info!(
                "network: {DEVICE} of {}/{}",
                plan.own.share.0, plan.own.share.1
            );
            device.insert(made)
        }
    };
    device.set_peers(&plan.peers)
}

/// Gives what pods send to the world the node's address.
fn masquerade(config: &Config) -> Result<(), Error> {
    let rules = rules(config.seed.cluster.pod_cidr);
    let action = || "load the rules of nftables for pods (nft)".to_owned();
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context(action)?;
    if let Some(mut stdin) = nft.stdin.take() {
        stdin.write_all(rules.as_bytes()).context(action)?;
    }
    let output = nft.wait_with_output().context(action)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(std::io::Error::other(said.trim().replace('\n', " "))).context(action)
}

/// The table, made anew in one transaction.
fn rules(pods: Cidr) -> String {
    let (family, multicast) = if pods.address().is_ipv4() {
        ("ip", "224.0.0.0/4")
    } else {
        ("ip6", "ff00::/8")
    };
    format!(
        "table {family} slipway
delete table {family} slipway
table {family} slipway {{
\tchain postrouting {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\t{family} saddr {pods} {family} daddr != {{ {pods}, {multicast} }} masquerade fully-random
\t}}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Set in the test's namespaces: the two nodes are nobody's tests elsewhere.
    const SCENE: &str = "SLIPWAY_TEST_SCENE";

    fn node(address: &str, share: &str) -> Value {
        json!({
            "spec": {"podCIDR": share},
            "status": {"addresses": [
                {"type": "Hostname", "address": "x"},
                {"type": "InternalIP", "address": address},
            ]},
        })
    }

    #[test]
    fn a_plan_has_the_nodes_that_have_a_share_and_an_address() {
        let config = crate::component::tests::config(false);
        let mut nodes = BTreeMap::from([
            ("node2".to_owned(), node("192.0.2.8", "10.42.1.0/24")),
            ("without".to_owned(), json!({"spec": {}, "status": {}})),
            ("six".to_owned(), node("192.0.2.9", "fd00::/64")),
        ]);
        assert_eq!(Plan::of(&config, &nodes), None);
        nodes.insert("node1".to_owned(), node("192.0.2.7", "10.42.0.0/24"));
        let plan = Plan::of(&config, &nodes).unwrap();
        assert_eq!(plan.own.node, Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(
            plan.peers,
            BTreeMap::from([(
                "node2".to_owned(),
                Peer {
                    node: Ipv4Addr::new(192, 0, 2, 8),
                    share: (Ipv4Addr::new(10, 42, 1, 0), 24),
                }
            )])
        );
    }

    #[test]
    fn ends_have_macs_of_their_own() {
        let one = mac(Ipv4Addr::new(10, 42, 0, 0));
        assert_ne!(one, mac(Ipv4Addr::new(10, 42, 1, 0)));
        // Locally administered, and no group.
        assert_eq!(one[0] & 0x03, 0x02);
    }

    #[test]
    fn other_nodes_pods_keep_their_addresses() {
        let rules = rules("10.42.0.0/16".parse().unwrap());
        assert!(rules.contains(
            "ip saddr 10.42.0.0/16 ip daddr != { 10.42.0.0/16, 224.0.0.0/4 } masquerade"
        ));
    }

    /// The second node's part, in a namespace of its own: it makes its way, and answers.
    #[test]
    #[ignore = "the first node runs it"]
    fn second_node() {
        if std::env::var_os(SCENE).is_none() {
            return;
        }
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).unwrap();
        run("ip addr add 192.0.2.2/24 dev xb && ip link set xb up && ip link set lo up");
        run("ip addr add 10.42.1.1/32 dev lo");
        let mut device = Device::make(at(2, 1), 1450).unwrap();
        device
            .set_peers(&BTreeMap::from([("one".to_owned(), at(1, 0))]))
            .unwrap();
        let socket = std::net::UdpSocket::bind("10.42.1.1:7").unwrap();
        println!("up");
        let mut buffer = [0; 2000];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(from.ip().to_string(), "10.42.0.1");
        socket.send_to(&buffer[..length], from).unwrap();
    }

    fn at(node: u8, share: u8) -> Peer {
        Peer {
            node: Ipv4Addr::new(192, 0, 2, node),
            share: (Ipv4Addr::new(10, 42, share, 0), 24),
        }
    }

    fn run(script: &str) {
        assert!(
            Command::new("sh")
                .args(["-ec", script])
                .status()
                .unwrap()
                .success(),
            "{script}"
        );
    }

    /// The whole of it, in two network namespaces of the test's own.
    #[test]
    #[ignore = "run in a namespace by pods_of_two_nodes_reach_each_other"]
    fn first_node() {
        use std::io::{BufRead as _, BufReader};
        if std::env::var_os(SCENE).is_none() {
            return;
        }
        let mut second = Command::new("unshare")
            .args(["-n", "--kill-child", "--fork"])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "overlay::tests::second_node",
                "--ignored",
                "--nocapture",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // unshare's child is in the new namespace.
        let children = format!("/proc/{0}/task/{0}/children", second.id());
        let child = loop {
            let found = std::fs::read_to_string(&children).unwrap();
            if let Some(child) = found.split_whitespace().next() {
                break child.to_owned();
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        run(&format!(
            "ip link add name xa type veth peer name xb netns {child}
             ip addr add 192.0.2.1/24 dev xa; ip link set xa up; ip link set lo up
             ip addr add 10.42.0.1/32 dev lo"
        ));
        assert_eq!(network::mtu(Ipv4Addr::new(192, 0, 2, 1)).unwrap(), 1500);
        assert!(network::mtu(Ipv4Addr::new(192, 0, 2, 99)).is_err());
        second.stdin.take().unwrap().write_all(b"\n").unwrap();
        let mut lines = BufReader::new(second.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("up")));

        let mut made = None;
        let alone = Plan {
            own: at(1, 0),
            peers: BTreeMap::new(),
        };
        apply(&mut made, &alone).unwrap();
        assert!(made.is_none());
        let both = Plan {
            own: at(1, 0),
            peers: BTreeMap::from([("two".to_owned(), at(2, 1))]),
        };
        apply(&mut made, &both).unwrap();
        let socket = std::net::UdpSocket::bind("10.42.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        // As long as the device takes: 1450 less IPv4's and UDP's heads.
        let sent = [7; 1422];
        socket.send_to(&sent, "10.42.1.1:7").unwrap();
        let mut buffer = [0; 2000];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(
            (&buffer[..length], from.to_string()),
            (&sent[..], "10.42.1.1:7".to_owned())
        );
        assert!(second.wait().unwrap().success());

        // A node that is gone has no way left; one at another address has a new one.
        apply(&mut made, &alone).unwrap();
        assert!(socket.send_to(&sent, "10.42.1.1:7").is_err());
        apply(&mut made, &both).unwrap();
        apply(&mut made, &both).unwrap();
        // A restart of clusterd finds what is there.
        drop(made);
        let mut made = None;
        let moved = Plan {
            own: at(1, 0),
            peers: BTreeMap::from([("two".to_owned(), at(3, 1))]),
        };
        apply(&mut made, &moved).unwrap();
        let entries = Command::new("bridge")
            .args(["fdb", "show", "dev", DEVICE])
            .output()
            .unwrap();
        let entries = String::from_utf8(entries.stdout).unwrap();
        assert!(
            entries.contains("dst 192.0.2.3") && !entries.contains("192.0.2.2"),
            "{entries}"
        );
    }

    #[test]
    fn pods_of_two_nodes_reach_each_other() {
        let out = Command::new("unshare")
            .args(["-Urnm", "--kill-child", "-pf", "--mount-proc"])
            .arg(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "overlay::tests::first_node",
                "--ignored",
                "--nocapture",
            ])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        assert!(
            out.status.success() && said.contains("1 passed"),
            "{said}\n{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
}
