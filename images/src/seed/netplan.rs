//! `network-config`: netplan's version 2, as a table of keys.
//!
//! Source: netplan's YAML reference. What the keys mean together is checked in
//! [`super::links`].

use std::net::IpAddr;

use super::finding::Document;
use super::links;
use super::network::{InterfaceAddress, Network};
use super::read::{At, Cx, MapOf, Naming, Number, OneOrMany, Read, Word, mapping};
use super::shape::{Shape, Text};
use super::words::{DnsName, Glob, InterfaceId, InterfaceName, Mac, choice, text};
use super::yaml::Value;
use super::{Cidr, Cluster, Secret, yaml};

const KERNEL: &str = "the node leaves it as the kernel has it";
const RENDERER: &str = "the node sets its interfaces up itself";
const ENTERPRISE: &str = "only WPA2 and WPA3 personal are understood";

/// At most what the kernel takes; 68 is the least of IPv4 (RFC 791).
pub(super) type Mtu = Number<68, 65535>;
pub(super) type Metric = Number<0, 4_294_967_295>;
pub(super) type Millis = Number<0, 600_000>;
pub(super) type Seconds = Number<0, 65535>;

mapping! {
    /// The outer mapping, which netplan's own files have and cloud-init's may.
    struct FileKeys {
        "network" => network: NetworkKeys, "All of it; may be left out, its keys then stand at the top";
    }
}

mapping! {
    /// The mapping with the version.
    struct NetworkKeys {
        "version" => version: Number<0, 9>, "Always `2`";
        "renderer" => renderer: Renderer, "Accepted and without effect: the node sets its interfaces up itself";
        "ethernets" => ethernets: MapOf<Id, LinkKeys>, "Wired interfaces";
        "wifis" => wifis: MapOf<Id, WifiKeys>, "Wireless interfaces";
        "vlans" => vlans: MapOf<Id, VlanKeys>, "VLANs";
        "bonds" => bonds: MapOf<Id, BondKeys>, "Several interfaces as one";
        "bridges" => bridges: MapOf<Id, BridgeKeys>, "Switches made of interfaces";
    }
    others {
        Refused "it is of network-config version 1; write version 2, netplan's form" => ["config"];
        Ignored "nodes have no such interfaces; pods' networks are the cluster's" => ["tunnels", "modems", "vrfs", "dummy-devices", "virtual-ethernets", "nm-devices", "openvswitch"];
    }
}

/// Makes a mapping that has an interface's common keys and its own.
macro_rules! interface {
    ($(#[$doc:meta])* struct $name:ident { $($key:literal => $field:ident: $type:ty, $meaning:literal;)* } device) => {
        interface! { $(#[$doc])* struct $name {
            $($key => $field: $type, $meaning;)*
            "match" => matching: MatchKeys, "Which devices are meant; without it the one named as the id";
            "set-name" => set_name: InterfaceName, "Name that the matching device gets";
        } with { Ignored KERNEL => ["wakeonlan", "emit-lldp", "receive-checksum-offload", "transmit-checksum-offload", "tcp-segmentation-offload", "tcp6-segmentation-offload", "generic-segmentation-offload", "generic-receive-offload", "large-receive-offload", "openvswitch", "embedded-switch-mode", "delay-virtual-functions-rebind", "infiniband-mode", "virtual-function-count", "link", "wakeonwlan"]; } }
    };
    ($(#[$doc:meta])* struct $name:ident { $($key:literal => $field:ident: $type:ty, $meaning:literal;)* } virtual) => {
        interface! { $(#[$doc])* struct $name { $($key => $field: $type, $meaning;)* }
            with { Ignored "it is for devices; this is made by the node" => ["match", "set-name"]; } }
    };
    ($(#[$doc:meta])* struct $name:ident { $($key:literal => $field:ident: $type:ty, $meaning:literal;)* } with { $($others:tt)* }) => {
        mapping! {
            $(#[$doc])*
            struct $name {
                $($key => $field: $type, $meaning;)*
                "macaddress" => macaddress: Mac, "MAC address that the interface gets";
                "dhcp4" => dhcp4: bool, "Whether it asks for an IPv4 address; default `false`";
                "dhcp6" => dhcp6: bool, "Whether it asks for an IPv6 address; default `false`";
                "dhcp4-overrides" => dhcp4_overrides: OverrideKeys, "What of DHCPv4's answer is used";
                "dhcp6-overrides" => dhcp6_overrides: OverrideKeys, "What of DHCPv6's answer is used";
                "addresses" => addresses: Vec<At<InterfaceAddress>>, "Fixed addresses with the length of their network's prefix";
                "routes" => routes: Vec<At<RouteKeys>>, "Routes";
                "gateway4" => gateway4: IpAddr, "Older form of a default route of IPv4 in `routes`";
                "gateway6" => gateway6: IpAddr, "Older form of a default route of IPv6 in `routes`";
                "nameservers" => nameservers: NameserverKeys, "Name servers";
                "mtu" => mtu: Mtu, "Largest packet in bytes";
                "accept-ra" => accept_ra: bool, "Whether router advertisements are followed; default: the kernel's choice";
                "optional" => optional: bool, "Whether the boot doesn't wait for it; default `false`";
            }
            others {
                $($others)*
                Granted RENDERER => ["renderer"];
                Refused "only WPA2 and WPA3 personal of wireless networks are understood, no IEEE 802.1X" => ["auth"];
                Ignored KERNEL => ["link-local", "ipv6-privacy", "ipv6-address-generation", "ipv6-address-token", "ipv6-mtu", "neigh-suppress", "activation-mode", "ignore-carrier", "critical", "dhcp-identifier", "optional-addresses", "ra-overrides", "routing-policy", "networkmanager"];
            }
        }
    };
}

interface! {
    /// An entry of `ethernets`.
    struct LinkKeys {} device
}

interface! {
    /// An entry of `wifis`.
    struct WifiKeys {
        "access-points" => access_points: MapOf<Ssid, AccessPointKeys>, "Networks to join, by their name (SSID), best first";
        "regulatory-domain" => country: Country, "Country whose rules of radio hold, two letters";
    } device
}

interface! {
    /// An entry of `vlans`.
    struct VlanKeys {
        "id" => tag: Number<0, 4094>, "The VLAN's number";
        "link" => link: InterfaceId, "Id of the interface that it is on";
    } virtual
}

interface! {
    /// An entry of `bonds`.
    struct BondKeys {
        "interfaces" => members: Vec<At<InterfaceId>>, "Ids of the interfaces in it";
        "parameters" => parameters: BondParameterKeys, "How they share";
    } virtual
}

interface! {
    /// An entry of `bridges`.
    struct BridgeKeys {
        "interfaces" => members: Vec<At<InterfaceId>>, "Ids of the interfaces in it";
        "parameters" => parameters: BridgeParameterKeys, "How it forwards";
    } virtual
}

mapping! {
    /// `match`
    struct MatchKeys {
        "macaddress" => macaddress: Mac, "The device's own MAC address";
        "name" => name: Glob, "The kernel's name for it, a glob";
        "driver" => driver: OneOrMany<Glob>, "The driver's name, a glob, or several of which one holds";
    }
}

mapping! {
    /// `dhcp4-overrides`, `dhcp6-overrides`
    struct OverrideKeys {
        "use-dns" => use_dns: bool, "Name servers; default `true`";
        "use-ntp" => use_ntp: bool, "Time servers; default `true`";
        "use-routes" => use_routes: bool, "Routes; default `true`";
        "use-mtu" => use_mtu: bool, "Largest packet; default `true`";
        "use-hostname" => use_hostname: bool, "The name that it gives the machine; default `false`: a node keeps its name";
        "use-domains" => use_domains: UseDomains, "The domain that it gives, for short names; default `true`";
        "send-hostname" => send_hostname: bool, "Whether the machine tells its name; default `true`";
        "hostname" => hostname: DnsName, "The name it tells instead of its own";
        "route-metric" => route_metric: Metric, "Metric of the routes; the lower wins";
    }
}

mapping! {
    /// An entry of `routes`.
    struct RouteKeys {
        "to" => to: Destination, "Whereto: a network, or `default`";
        "via" => via: IpAddr, "Through which router";
        "metric" => metric: Metric, "The lower wins";
        "on-link" => on_link: bool, "Whether the router is reachable though no address says so; default `false`";
        "mtu" => mtu: Mtu, "Largest packet in bytes";
    }
    others {
        Ignored "the node has one table of plain routes" => ["from", "table", "type", "scope", "congestion-window", "advertised-receive-window", "advertised-mss"];
    }
}

mapping! {
    /// `nameservers`
    struct NameserverKeys {
        "addresses" => addresses: Vec<At<IpAddr>>, "Their addresses";
        "search" => search: Vec<At<DnsName>>, "Domains to look for short names in";
    }
}

mapping! {
    /// An entry of `access-points`.
    struct AccessPointKeys {
        "password" => password: Passphrase, "WPA2 passphrase, or the key in 64 hexadecimal digits";
        "auth" => auth: AuthKeys, "How to get in, where that is more than a passphrase of WPA2";
        "hidden" => hidden: bool, "Whether the network doesn't announce itself; default `false`";
        "bssid" => bssid: Mac, "MAC address of the one station to join";
        "mode" => mode: WifiMode, "Only `infrastructure`";
    }
    others {
        Ignored "the driver finds it" => ["band", "channel"];
        Ignored RENDERER => ["networkmanager"];
    }
}

mapping! {
    /// `auth` of an access point.
    struct AuthKeys {
        "key-management" => management: KeyManagement, "WPA2 personal, WPA3 personal, or nothing";
        "password" => password: Passphrase, "Passphrase, or the key in 64 hexadecimal digits";
    }
    others {
        Refused ENTERPRISE => ["method", "identity", "anonymous-identity", "ca-certificate", "client-certificate", "client-key", "client-key-password", "phase2-auth"];
    }
}

mapping! {
    /// `parameters` of a bond.
    struct BondParameterKeys {
        "mode" => mode: BondMode, "How they share";
        "mii-monitor-interval" => mii: Millis, "Milliseconds between looks at the links";
        "lacp-rate" => lacp_rate: LacpRate, "How often LACP speaks";
        "transmit-hash-policy" => hash: HashPolicy, "What decides which link a packet takes";
        "primary" => primary: InterfaceId, "Id of the interface that is used while it works";
        "up-delay" => up_delay: Millis, "Milliseconds before a link that came up is used";
        "down-delay" => down_delay: Millis, "Milliseconds before a link that went down is given up";
    }
    others {
        Ignored KERNEL => ["min-links", "ad-select", "all-members-active", "all-slaves-active", "arp-interval", "arp-ip-targets", "arp-validate", "arp-all-targets", "fail-over-mac-policy", "gratuitous-arp", "packets-per-member", "packets-per-slave", "primary-reselect-policy", "resend-igmp", "learn-packet-interval"];
    }
}

mapping! {
    /// `parameters` of a bridge.
    struct BridgeParameterKeys {
        "stp" => stp: bool, "Whether loops are looked for; default `false`";
        "forward-delay" => forward_delay: Seconds, "Seconds before a port forwards";
        "hello-time" => hello_time: Seconds, "Seconds between messages";
        "max-age" => max_age: Seconds, "Seconds that a message counts";
        "ageing-time" => ageing_time: Seconds, "Seconds that an address is remembered";
        "priority" => priority: Seconds, "The lower becomes the root";
    }
    others {
        Ignored KERNEL => ["port-priority", "path-cost", "hairpin", "port-mac-learning"];
    }
}

/// An interface's id.
pub(super) struct Id;
impl Naming for Id {
    const OF: &'static str = "id";
}

/// A wireless network's name.
pub(super) struct Ssid;
impl Naming for Ssid {
    const OF: &'static str = "ssid";
}

/// One of netplan's back ends; all the same here.
pub(super) struct Renderer;
choice!(Renderer { "networkd" => Self, "NetworkManager" => Self });

/// The one way of joining a wireless network.
pub(super) struct WifiMode;
choice!(WifiMode { "infrastructure" => Self });

/// How a wireless network lets one in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyManagement {
    Open,
    Psk,
    Sae,
}
choice!(KeyManagement { "none" => Self::Open, "psk" => Self::Psk, "sae" => Self::Sae });

/// Words of the kernel's, checked and handed on.
pub(super) struct BondMode(pub &'static str);
choice!(BondMode {
    "balance-rr" => Self("balance-rr"),
    "active-backup" => Self("active-backup"),
    "balance-xor" => Self("balance-xor"),
    "broadcast" => Self("broadcast"),
    "802.3ad" => Self("802.3ad"),
    "balance-tlb" => Self("balance-tlb"),
    "balance-alb" => Self("balance-alb"),
});

/// How often LACP speaks.
pub(super) struct LacpRate(pub &'static str);
choice!(LacpRate { "slow" => Self("slow"), "fast" => Self("fast") });

/// What decides which link a packet takes.
pub(super) struct HashPolicy(pub &'static str);
choice!(HashPolicy {
    "layer2" => Self("layer2"),
    "layer3+4" => Self("layer3+4"),
    "layer2+3" => Self("layer2+3"),
    "encap2+3" => Self("encap2+3"),
    "encap3+4" => Self("encap3+4"),
    "vlan+srcmac" => Self("vlan+srcmac"),
});

/// Whether DHCP's domain is used; netplan's `route` is more than the node's resolver can.
pub(super) struct UseDomains(pub bool);
choice!(UseDomains {
    "true" => Self(true),
    "false" => Self(false),
    "yes" => Self(true),
    "no" => Self(false),
});

/// A route's destination.
pub(super) enum Destination {
    /// Everything else, of the router's family.
    Default,
    /// A network.
    Network(Cidr),
}

impl Word for Destination {
    const TEXT: Text = text("network, as 192.0.2.0/24, or `default`");
    fn parse(text: &str) -> Result<Self, String> {
        if text == "default" {
            return Ok(Self::Default);
        }
        // A single address is a network of one.
        let whole = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => format!("{text}/32"),
            Ok(IpAddr::V6(_)) => format!("{text}/128"),
            Err(_) => text.to_owned(),
        };
        Cidr::parse(&whole).map(Self::Network)
    }
}

impl Word for InterfaceAddress {
    const TEXT: Text = text("address with prefix, as 192.0.2.10/24");
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(str::to_owned)
    }
}

/// A passphrase of 8 to 63 characters, or a key of 64 hexadecimal digits (IEEE 802.11, J.4).
pub(super) struct Passphrase(pub Secret);

impl Word for Passphrase {
    const TEXT: Text = Text {
        what: "secret text of 8 to 63 characters, or 64 hexadecimal digits",
        choices: &[],
        secret: true,
    };
    fn parse(text: &str) -> Result<Self, String> {
        let plain = (8..=63).contains(&text.len()) && text.bytes().all(|b| (32..127).contains(&b));
        let key = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if plain || key {
            Ok(Self(Secret::new(text)))
        } else {
            Err(
                "is no passphrase of 8 to 63 ASCII characters, nor a key of 64 hexadecimal digits"
                    .into(),
            )
        }
    }
}

/// ISO 3166 code of a country.
pub(super) struct Country(pub String);

impl Word for Country {
    const TEXT: Text = text("country code of two letters");
    fn parse(text: &str) -> Result<Self, String> {
        if text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic()) {
            Ok(Self(text.to_ascii_uppercase()))
        } else {
            Err("is no country's code of two letters".into())
        }
    }
}

/// The form of the document.
pub const SHAPE: &Shape =
    &Shape::Either(&[<NetworkKeys as Read>::SHAPE, <FileKeys as Read>::SHAPE]);

/// Reads the document; `None` if it says nothing. The cluster is that of user-data.
pub fn read(text: &str, cluster: &Cluster, cx: &mut Cx) -> Option<Network> {
    let node = match yaml::parse(text, Document::NetworkConfig) {
        Ok(node) => node,
        Err(fault) => {
            cx.push(fault);
            return None;
        }
    };
    let keys = match &node.value {
        Value::Null => return None,
        Value::Map(entries) if entries.iter().any(|(key, _)| key.name == "network") => {
            FileKeys::read(&node, cx)?.network?
        }
        _ => cx.at::<NetworkKeys>(&node)?,
    };
    match keys.version.as_ref().map(|version| version.value.0) {
        Some(2) => {}
        Some(other) => {
            let message = format!(
                "network-config version {other} is not understood; write version 2, netplan's form"
            );
            if let Some(version) = &keys.version {
                cx.error(&version.spot, message);
            }
            return None;
        }
        None => cx.warn(&keys.spot, "has no `version: 2`, which other readers want"),
    }
    Some(links::check(keys.value, cluster, cx))
}
