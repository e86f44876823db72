//! Where the node is: its interfaces, and in which families it talks there.

use std::net::IpAddr;

/// An interface in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The interface's index.
    pub index: u32,
    /// IPv6 or IPv4.
    pub v6: bool,
}

/// An interface with its addresses and the lengths of their networks' prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl Interface {
    /// Where there is something to talk from: an IPv4 address, a link-local IPv6 address.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let index = self.index;
        let has = |wanted: fn(&IpAddr) -> bool| self.addresses.iter().any(|(a, _)| wanted(a));
        let v4 = has(IpAddr::is_ipv4).then_some(Place { index, v6: false });
        let v6 = has(is_link_local).then_some(Place { index, v6: true });
        v4.into_iter().chain(v6).collect()
    }

    /// Whether an address is on this network.
    #[must_use]
    pub fn reaches(&self, other: IpAddr) -> bool {
        is_link_local(&other)
            || (self.addresses.iter()).any(|(own, prefix)| same_network(*own, other, *prefix))
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn same_network(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let prefix = u32::from(prefix);
    match (one, other) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
            u32::from(a) & mask == u32::from(b) & mask
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mask = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
            u128::from(a) & mask == u128::from(b) & mask
        }
        _ => false,
    }
}
