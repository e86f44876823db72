//! The interfaces on which the node can be found, and their addresses.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};
use slipway_images::node::Boot;

use super::place::Interface;
use crate::paths::Paths;

/// Of `/proc/net/if_inet6` (include/uapi/linux/if_addr.h): IFA_F_DADFAILED, IFA_F_DEPRECATED,
/// IFA_F_TENTATIVE.
const NOT_TO_USE: u32 = 0x08 | 0x20 | 0x40;

/// Those that PID 1 has given addresses to, which leaves out what belongs to pods, and that
/// are up and reach more than one other host.
#[must_use]
pub fn interfaces(paths: &Paths) -> Vec<Interface> {
    let boot: Option<Boot> = std::fs::read(paths.status())
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    let managed: Vec<String> = boot
        .map(|boot| boot.addresses.into_iter().map(|a| a.interface).collect())
        .unwrap_or_default();
    let table = std::fs::read_to_string(paths.at("proc/net/if_inet6")).unwrap_or_default();
    let usable = usable_v6(&table);
    let mut all: BTreeMap<u32, Interface> = BTreeMap::new();
    for found in getifaddrs().into_iter().flatten() {
        let name = found.interface_name;
        let wanted =
            InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING | InterfaceFlags::IFF_MULTICAST;
        let unwanted = InterfaceFlags::IFF_LOOPBACK | InterfaceFlags::IFF_POINTOPOINT;
        if !found.flags.contains(wanted)
            || found.flags.intersects(unwanted)
            || !managed.contains(&name)
        {
            continue;
        }
        let (Some(address), Some(mask)) = (found.address, found.netmask) else {
            continue;
        };
        let (ip, prefix) =
            if let (Some(a), Some(m)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
                (IpAddr::from(a.ip()), u32::from(m.ip()).count_ones())
            } else if let (Some(a), Some(m)) = (address.as_sockaddr_in6(), mask.as_sockaddr_in6()) {
                if !usable.contains(&a.ip()) {
                    continue;
                }
                (IpAddr::from(a.ip()), u128::from(m.ip()).count_ones())
            } else {
                continue;
            };
        let Ok(index) = if_nametoindex(name.as_str()) else {
            continue;
        };
        let interface = all.entry(index).or_insert_with(|| Interface {
            index,
            name,
            addresses: Vec::new(),
        });
        interface.addresses.push((ip, prefix as u8));
    }
    all.into_values()
        .map(|mut interface| {
            interface.addresses.sort_unstable();
            interface
        })
        .collect()
}

/// Addresses of `/proc/net/if_inet6` that are the machine's beyond doubt: each line has the
/// address, and as its fifth word the flags, in hexadecimal.
fn usable_v6(table: &str) -> Vec<Ipv6Addr> {
    let one = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let address = u128::from_str_radix(words.first()?, 16).ok()?;
        let flags = u32::from_str_radix(words.get(4)?, 16).ok()?;
        (flags & NOT_TO_USE == 0).then(|| Ipv6Addr::from(address))
    };
    table.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_doubt_are_left_out() {
        let table = "\
fe800000000000005054000000000001 02 40 20 80     eth0
20010db8000000000000000000000001 02 40 00 c0     eth0
20010db8000000000000000000000002 02 40 00 a0     eth0
20010db8000000000000000000000003 02 40 00 88     eth0
nonsense
";
        assert_eq!(
            usable_v6(table),
            ["fe80::5054:0:0:1".parse::<Ipv6Addr>().unwrap()]
        );
    }

    #[test]
    fn without_word_from_pid_1_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(interfaces(&Paths::new(dir.path(), None)), []);
    }
}
