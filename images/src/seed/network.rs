//! A machine's interfaces, as a seed's `network-config` says: the checked form.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Cidr, Secret};
use crate::text::as_text;

/// All interfaces that a seed speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Network {
    /// In the order of the text. What they are made of stands in [`Kind`]; there are no
    /// cycles, and each name they refer to is there.
    pub interfaces: Vec<Interface>,
}

/// One interface, or a rule for those that match.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Interface {
    /// Its id in the text: the interface's name, unless there is a match.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// Which devices it is about; `None`: the one named as the id.
    pub matching: Option<Match>,
    /// The name it gets.
    pub set_name: Option<String>,
    /// The MAC address it gets.
    pub macaddress: Option<String>,
    /// Whether it asks for an IPv4 address.
    pub dhcp4: bool,
    /// Whether it asks for an IPv6 address.
    pub dhcp6: bool,
    /// What of DHCPv4's answer is used.
    pub dhcp4_overrides: Overrides,
    /// What of DHCPv6's answer is used.
    pub dhcp6_overrides: Overrides,
    /// Fixed addresses.
    pub addresses: Vec<InterfaceAddress>,
    /// Routes, with those that `gateway4` and `gateway6` stand for.
    pub routes: Vec<Route>,
    /// Name servers, of the machine while the interface is up.
    pub nameservers: Vec<IpAddr>,
    /// Domains to look for short names in.
    pub search: Vec<String>,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
    /// Whether router advertisements are followed; `None`: the kernel's choice.
    pub accept_ra: Option<bool>,
    /// Whether the boot doesn't wait for it.
    pub optional: bool,
}

/// What an interface is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A wired device.
    Ethernet,
    /// A wireless device.
    Wifi {
        /// Networks to join, best first.
        access_points: Vec<AccessPoint>,
        /// Country whose rules hold, two letters.
        country: Option<String>,
    },
    /// A VLAN.
    Vlan {
        /// Its number.
        tag: u16,
        /// Id of the interface it is on.
        link: String,
    },
    /// Several devices as one.
    Bond {
        /// Ids of its devices.
        members: Vec<String>,
        /// How they share.
        parameters: BondParameters,
    },
    /// A switch.
    Bridge {
        /// Ids of its ports.
        members: Vec<String>,
        /// How it forwards.
        parameters: BridgeParameters,
    },
}

impl Interface {
    /// One that is set up, without any address.
    #[must_use]
    pub fn new(id: &str, kind: Kind) -> Self {
        Self {
            id: id.to_owned(),
            kind,
            matching: None,
            set_name: None,
            macaddress: None,
            dhcp4: false,
            dhcp6: false,
            dhcp4_overrides: Overrides::default(),
            dhcp6_overrides: Overrides::default(),
            addresses: Vec::new(),
            routes: Vec::new(),
            nameservers: Vec::new(),
            search: Vec::new(),
            mtu: None,
            accept_ra: None,
            optional: false,
        }
    }
}

impl Kind {
    /// Ids of the interfaces that must be there first.
    #[must_use]
    pub fn needs(&self) -> Vec<&str> {
        match self {
            Self::Ethernet | Self::Wifi { .. } => Vec::new(),
            Self::Vlan { link, .. } => vec![link],
            Self::Bond { members, .. } | Self::Bridge { members, .. } => {
                members.iter().map(String::as_str).collect()
            }
        }
    }
}

/// Which devices are meant: those for which all that is given holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Match {
    /// The permanent MAC address, lower-case with colons.
    pub macaddress: Option<String>,
    /// A glob of the kernel's name.
    pub name: Option<String>,
    /// Globs of the driver's name, one of which holds.
    pub driver: Vec<String>,
}

/// A wireless network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AccessPoint {
    /// Its name.
    pub ssid: String,
    /// How it is secured.
    pub security: WifiSecurity,
    /// Whether it doesn't announce itself.
    pub hidden: bool,
    /// The one station to join, lower-case with colons.
    pub bssid: Option<String>,
}

/// How a wireless network is secured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WifiSecurity {
    /// Not at all.
    Open,
    /// WPA2 personal: a passphrase, or 64 hexadecimal digits.
    Wpa2(Secret),
    /// WPA3 personal (SAE).
    Wpa3(Secret),
}

/// What of a DHCP server's answer is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Overrides {
    /// Name servers.
    pub use_dns: bool,
    /// Time servers.
    pub use_ntp: bool,
    /// Routes.
    pub use_routes: bool,
    /// Largest packet.
    pub use_mtu: bool,
    /// The name it gives the machine.
    pub use_hostname: bool,
    /// The domain it gives, for short names.
    pub use_domains: bool,
    /// Whether the machine tells its name.
    pub send_hostname: bool,
    /// The name it tells instead of its own.
    pub hostname: Option<String>,
    /// Metric of the routes; the lower wins.
    pub route_metric: Option<u32>,
}

impl Default for Overrides {
    fn default() -> Self {
        Self {
            use_dns: true,
            use_ntp: true,
            use_routes: true,
            use_mtu: true,
            use_hostname: false,
            use_domains: true,
            send_hostname: true,
            hostname: None,
            route_metric: None,
        }
    }
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Route {
    /// Whereto.
    pub to: Cidr,
    /// Through which router; none: directly.
    pub via: Option<IpAddr>,
    /// The lower wins.
    pub metric: Option<u32>,
    /// Whether the router is reachable though no address says so.
    pub on_link: bool,
    /// Largest packet in bytes.
    pub mtu: Option<u32>,
}

/// How a bond's devices share.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct BondParameters {
    /// The kernel's word for the mode, such as `802.3ad`.
    pub mode: Option<String>,
    /// Milliseconds between looks at the links.
    pub mii_monitor_interval: Option<u32>,
    /// `slow` or `fast`.
    pub lacp_rate: Option<String>,
    /// The kernel's word, such as `layer3+4`.
    pub transmit_hash_policy: Option<String>,
    /// Id of the device to be used while it works.
    pub primary: Option<String>,
    /// Milliseconds before a link that came up is used.
    pub up_delay: Option<u32>,
    /// Milliseconds before a link that went down is given up.
    pub down_delay: Option<u32>,
}

/// How a bridge forwards.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct BridgeParameters {
    /// Whether loops are looked for; `None`: no.
    pub stp: Option<bool>,
    /// Seconds.
    pub forward_delay: Option<u32>,
    /// Seconds.
    pub hello_time: Option<u32>,
    /// Seconds.
    pub max_age: Option<u32>,
    /// Seconds.
    pub ageing_time: Option<u32>,
    /// The lower becomes the root.
    pub priority: Option<u32>,
}

/// An interface's own address and the length of its network's prefix in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix.
    pub prefix: u8,
}

impl FromStr for InterfaceAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = "is not of the form ADDRESS/BITS, such as 192.0.2.10/24";
        let (address, prefix) = text.split_once('/').ok_or(form)?;
        let address: IpAddr = address.parse().map_err(|_| form)?;
        let prefix: u8 = prefix.parse().map_err(|_| form)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        if prefix == 0 || prefix > width {
            return Err("has a prefix that no network has");
        }
        if address.is_unspecified() || address.is_multicast() {
            return Err("is no address that an interface can have");
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

as_text!(InterfaceAddress);
