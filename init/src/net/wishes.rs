//! Which of the seed's interfaces a link is, and what is set through /sys.

use std::fs;
use std::path::Path;

use slipway_images::seed::network::{BondParameters, BridgeParameters, Interface, Kind, Network};

use super::rtnl::Link;
use super::wifi;
use crate::modules::glob_match;
use crate::{files, say};

const CLASS: &str = "/sys/class/net";
/// Times of bridges are in hundredths of a second (USER_HZ) in /sys.
const HZ: u32 = 100;

/// What tells a device from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The kernel's name.
    pub name: String,
    /// Its hardware address, `52:54:00:12:34:56`.
    pub mac: Option<String>,
    /// Its driver's name; empty if it has none.
    pub driver: String,
    /// Whether it is a radio.
    pub wireless: bool,
}

impl Device {
    /// The device that a link is.
    pub fn of(link: &Link) -> Self {
        Self {
            name: link.name.clone(),
            mac: link.mac.map(mac_text),
            driver: driver(&link.name),
            wireless: wifi::is_wireless(&link.name),
        }
    }
}

/// The first interface of the seed that a device is: by its name, or by what is to match. A
/// radio is one of `wifis`, everything else of `ethernets`.
pub fn find<'a>(network: &'a Network, device: &Device) -> Option<&'a Interface> {
    let Device {
        name, mac, driver, ..
    } = device;
    network.interfaces.iter().find(|wish| {
        let of_its_kind = match wish.kind {
            Kind::Ethernet => !device.wireless,
            Kind::Wifi { .. } => device.wireless,
            Kind::Vlan { .. } | Kind::Bond { .. } | Kind::Bridge { .. } => false,
        };
        let Some(matching) = &wish.matching else {
            return of_its_kind && wish.id == *name;
        };
        of_its_kind
            && (matching.macaddress.as_ref()).is_none_or(|m| Some(m) == mac.as_ref())
            && matching.name.as_ref().is_none_or(|n| glob_match(n, name))
            && (matching.driver.is_empty() || matching.driver.iter().any(|d| glob_match(d, driver)))
    })
}

/// Whether it is found rather than made.
pub fn is_device(wish: &Interface) -> bool {
    matches!(wish.kind, Kind::Ethernet | Kind::Wifi { .. })
}

/// The bond or bridge that an interface is part of.
pub fn master_of<'a>(network: &'a Network, id: &str) -> Option<&'a Interface> {
    network.interfaces.iter().find(|wish| match &wish.kind {
        Kind::Bond { members, .. } | Kind::Bridge { members, .. } => {
            members.iter().any(|m| m == id)
        }
        _ => false,
    })
}

/// `52:54:00:12:34:56`.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Six bytes from such a text.
pub fn mac_bytes(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

/// The name of a device's driver; empty if it has none.
fn driver(name: &str) -> String {
    fs::read_link(Path::new(CLASS).join(name).join("device/driver"))
        .ok()
        .and_then(|target| Some(target.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_default()
}

/// Sets up a bond that has no devices yet: its mode can't be changed later.
pub fn set_bond(name: &str, parameters: &BondParameters) {
    let number = |value: Option<u32>| value.map(|v| v.to_string());
    // The order matters: delays need the monitor, and the rate its mode.
    set(name, "bonding/mode", parameters.mode.clone());
    set(
        name,
        "bonding/miimon",
        Some(number(parameters.mii_monitor_interval).unwrap_or_else(|| "100".into())),
    );
    set(name, "bonding/updelay", number(parameters.up_delay));
    set(name, "bonding/downdelay", number(parameters.down_delay));
    set(name, "bonding/lacp_rate", parameters.lacp_rate.clone());
    set(
        name,
        "bonding/xmit_hash_policy",
        parameters.transmit_hash_policy.clone(),
    );
}

/// Says which of a bond's devices comes first, once it is one of them.
pub fn set_primary(name: &str, device: &str) {
    set(name, "bonding/primary", Some(device.to_owned()));
}

/// Sets up a bridge.
pub fn set_bridge(name: &str, parameters: &BridgeParameters) {
    let time = |value: Option<u32>| value.map(|v| v.saturating_mul(HZ).to_string());
    set(name, "bridge/forward_delay", time(parameters.forward_delay));
    set(name, "bridge/hello_time", time(parameters.hello_time));
    set(name, "bridge/max_age", time(parameters.max_age));
    set(name, "bridge/ageing_time", time(parameters.ageing_time));
    set(
        name,
        "bridge/priority",
        parameters.priority.map(|v| v.to_string()),
    );
    set(
        name,
        "bridge/stp_state",
        parameters.stp.map(|on| u8::from(on).to_string()),
    );
}

fn set(name: &str, key: &str, value: Option<String>) {
    if let Some(value) = value
        && let Err(error) = files::write_existing(Path::new(CLASS).join(name).join(key), &value)
    {
        say!("{name}: {key} = {value}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_images::seed::{Seed, SeedFiles};

    fn network(text: &str) -> Network {
        let files = SeedFiles {
            user_data: "#cloud-config\n",
            network_config: Some(text),
            meta_data: None,
        };
        Seed::read(files).unwrap().seed.network.unwrap()
    }

    fn device(name: &str, last: u8, driver: &str) -> Device {
        Device {
            name: name.into(),
            mac: Some(mac_text([0x52, 0x54, 0, 0, 0, last])),
            driver: driver.into(),
            wireless: false,
        }
    }

    #[test]
    fn devices_are_matched_by_name_address_and_driver() {
        let network = network(
            "version: 2\nethernets:\n  eth0: {dhcp4: true}\n  \
             lan: {match: {macaddress: '52:54:00:00:00:07'}}\n  \
             fast: {match: {name: 'en*', driver: [ixgbe, 'mlx*']}}\n\
             bridges:\n  br0: {interfaces: [lan]}\n",
        );
        let id = |device| find(&network, &device).map(|wish| wish.id.as_str());
        assert_eq!(id(device("eth0", 1, "")), Some("eth0"));
        assert_eq!(id(device("eth1", 7, "e1000")), Some("lan"));
        assert_eq!(id(device("enp1s0", 1, "mlx5_core")), Some("fast"));
        assert_eq!(id(device("enp1s0", 1, "e1000")), None);
        assert_eq!(id(device("br0", 1, "")), None, "what is made is not found");
        assert_eq!(
            master_of(&network, "lan").map(|m| m.id.as_str()),
            Some("br0")
        );
        assert!(master_of(&network, "eth0").is_none());
    }

    #[test]
    fn radios_are_not_taken_for_cables() {
        let network = network(
            "version: 2\nethernets:\n  all: {match: {name: '*'}}\n\
             wifis:\n  any: {match: {name: '*'}, access-points: {home: {password: 12345678}}}\n",
        );
        let id = |device| find(&network, &device).map(|wish| wish.id.as_str());
        let wired = device("eth0", 1, "");
        let radio = Device {
            wireless: true,
            ..device("wlan0", 2, "")
        };
        assert_eq!((id(wired), id(radio)), (Some("all"), Some("any")));
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(
            mac_bytes("52:54:00:00:00:0a"),
            Some([0x52, 0x54, 0, 0, 0, 10])
        );
        assert_eq!(mac_text([0x52, 0x54, 0, 0, 0, 10]), "52:54:00:00:00:0a");
        for not in ["", "52:54", "52:54:00:00:00:0a:0b", "x2:54:00:00:00:0a"] {
            assert_eq!(mac_bytes(not), None, "{not}");
        }
    }
}
