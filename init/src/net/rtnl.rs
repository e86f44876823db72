//! Links, addresses and routes over rtnetlink (rtnetlink(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use slipway_netlink::{
    self as netlink, ACK, Builder, CREATE, DUMP, EXCLUSIVE, REPLACE, Requests, attributes,
    messages, nested, text, u16_at, u32_at,
};

/// Groups of events: RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR,
/// RTNLGRP_IPV6_IFINFO, RTNLGRP_ND_USEROPT.
const GROUPS: [u32; 5] = [1, 5, 9, 12, 20];

// Types of messages (linux/rtnetlink.h).
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
/// An option of a router advertisement.
const RTM_NEWNDUSEROPT: u16 = 68;

// Attributes (linux/if_link.h, linux/if_addr.h, linux/rtnetlink.h).
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_PROTINFO: u16 = 12;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_INET6_FLAGS: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_CACHEINFO: u16 = 6;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;

// Flags of addresses and of interfaces' IPv6 (linux/if_addr.h, include/net/if_inet6.h).
/// Another machine has the address.
pub const IFA_F_DADFAILED: u8 = 0x08;
/// Not known yet whether another machine has it.
pub const IFA_F_TENTATIVE: u8 = 0x40;
const IF_RA_MANAGED: u32 = 0x40;
const IF_RA_OTHERCONF: u32 = 0x80;

// Lengths of the fixed parts.
const IFINFO: usize = 16;
const IFADDR: usize = 8;

const ARPHRD_ETHER: u16 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_DHCP: u8 = 16;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;

/// What is known of a network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its hardware address, if it has six bytes.
    pub mac: Option<[u8; 6]>,
    /// Whether it is of Ethernet's kind.
    pub ethernet: bool,
    /// Administratively up.
    pub up: bool,
    /// A cable is plugged in and the other side there.
    pub carrier: bool,
}

/// Links that are made, not found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Several links as one.
    Bond,
    /// A switch.
    Bridge,
    /// A VLAN.
    Vlan {
        /// Index of the link it is on.
        parent: u32,
        /// Its number.
        tag: u16,
    },
}

/// What a router advertisement says about DHCPv6 (RFC 4861, section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RouterFlags {
    /// It gives addresses (M).
    pub managed: bool,
    /// It gives other settings (O).
    pub other: bool,
}

/// What the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link is new or has changed.
    Link(Link),
    /// A link is gone; by index.
    LinkGone(u32),
    /// An address is on a link: index, address, prefix length.
    Address(u32, IpAddr, u8),
    /// An address is gone.
    AddressGone(u32, IpAddr),
    /// What the last router advertisement says about DHCPv6; by index.
    Routers(u32, RouterFlags),
    /// DNS servers of a router advertisement (RFC 8106): index, servers, seconds.
    Dns(u32, Vec<IpAddr>, u32),
}

/// A socket for requests.
pub struct Rtnl(Requests);

impl Rtnl {
    /// Opens a socket.
    ///
    /// # Errors
    /// Those of socket(2).
    pub fn open() -> io::Result<Self> {
        Requests::open().map(Self)
    }

    /// All links.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let request = self.0.begin(RTM_GETLINK, DUMP, &[0; IFINFO]);
        let mut links = Vec::new();
        self.0
            .list(request, RTM_NEWLINK, |body| links.extend(link_of(body)))?;
        Ok(links)
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.set_flags(index, libc::IFF_UP as u32)
    }

    /// Sets a link down: its name, address and master can't be changed otherwise.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn set_down(&mut self, index: u32) -> io::Result<()> {
        self.set_flags(index, 0)
    }

    fn set_flags(&mut self, index: u32, up: u32) -> io::Result<()> {
        let mask = (libc::IFF_UP as u32).to_ne_bytes();
        let fixed = [[0; 4], index.to_ne_bytes(), up.to_ne_bytes(), mask];
        let message = self.0.begin(RTM_SETLINK, ACK, fixed.as_flattened());
        self.0.change(message)
    }

    fn set_link(&mut self, index: u32) -> Builder {
        let fixed = [&[0; 4], index.to_ne_bytes().as_slice(), &[0; 8]].concat();
        self.0.begin(RTM_SETLINK, ACK, &fixed)
    }

    /// Sets a link's MTU in bytes.
    ///
    /// # Errors
    /// EINVAL for what the device cannot do.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let message = self.set_link(index).number(IFLA_MTU, mtu);
        self.0.change(message)
    }

    /// Gives a link that is down another name.
    ///
    /// # Errors
    /// EEXIST if another link has it, EBUSY if the link is up.
    pub fn set_name(&mut self, index: u32, name: &str) -> io::Result<()> {
        let message = self.set_link(index).attribute(IFLA_IFNAME, &text(name));
        self.0.change(message)
    }

    /// Gives a link another hardware address.
    ///
    /// # Errors
    /// EOPNOTSUPP and EBUSY for what the device can't do, or not while it is up.
    pub fn set_mac(&mut self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        let message = self.set_link(index).attribute(IFLA_ADDRESS, &mac);
        self.0.change(message)
    }

    /// Makes a link part of a bond or bridge.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn set_master(&mut self, index: u32, master: u32) -> io::Result<()> {
        let message = self.set_link(index).number(IFLA_MASTER, master);
        self.0.change(message)
    }

    /// Makes a link that is no device.
    ///
    /// # Errors
    /// EEXIST if there is one of this name, EOPNOTSUPP if the kernel lacks the kind.
    pub fn add_link(&mut self, name: &str, made: Made) -> io::Result<()> {
        let kind = |kind: &str| nested(&[(IFLA_INFO_KIND, kind.as_bytes())]);
        let message = self
            .0
            .begin(RTM_NEWLINK, ACK | CREATE | EXCLUSIVE, &[0; IFINFO])
            .attribute(IFLA_IFNAME, &text(name));
        let message = match made {
            Made::Bond => message.attribute(IFLA_LINKINFO, &kind("bond")),
            Made::Bridge => message.attribute(IFLA_LINKINFO, &kind("bridge")),
            Made::Vlan { parent, tag } => {
                let data = nested(&[(IFLA_VLAN_ID, &tag.to_ne_bytes())]);
                let info = nested(&[(IFLA_INFO_KIND, b"vlan"), (IFLA_INFO_DATA, &data)]);
                message
                    .number(IFLA_LINK, parent)
                    .attribute(IFLA_LINKINFO, &info)
            }
        };
        self.0.change(message)
    }

    /// Puts an address on a link, or renews it. With a lifetime the kernel takes it away
    /// when that has passed.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn add_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix: u8,
        lifetime: Option<Duration>,
    ) -> io::Result<()> {
        self.add_address_for(index, address, prefix, (lifetime, lifetime))
    }

    /// The same, with a preferred and a valid lifetime; `None` is for ever.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn add_address_for(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix: u8,
        (preferred, valid): (Option<Duration>, Option<Duration>),
    ) -> io::Result<()> {
        let fixed = address_header(index, address, prefix);
        let mut message = self
            .0
            .begin(RTM_NEWADDR, ACK | CREATE | REPLACE, &fixed)
            .address(IFA_LOCAL, address)
            .address(IFA_ADDRESS, address);
        if let (IpAddr::V4(v4), 0..=30) = (address, prefix) {
            let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            let all = Ipv4Addr::from(u32::from(v4) | host);
            message = message.address(IFA_BROADCAST, all.into());
        }
        if valid.is_some() || preferred.is_some() {
            // struct ifa_cacheinfo: preferred, valid, created, updated.
            let seconds = |time: Option<Duration>| {
                let seconds = time.and_then(|time| u32::try_from(time.as_secs()).ok());
                seconds.unwrap_or(u32::MAX).to_ne_bytes()
            };
            let info = [seconds(preferred), seconds(valid), [0; 4], [0; 4]];
            message = message.attribute(IFA_CACHEINFO, info.as_flattened());
        }
        self.0.change(message)
    }

    /// Takes an address away; its routes go with it.
    ///
    /// # Errors
    /// EADDRNOTAVAIL if it was not there.
    pub fn remove_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let fixed = address_header(index, address, prefix);
        let message = self
            .0
            .begin(RTM_DELADDR, ACK, &fixed)
            .address(IFA_LOCAL, address);
        self.0.change(message)
    }

    /// Adds a route, or replaces one of the same destination and metric. Without a gateway
    /// the destination is on the link.
    ///
    /// # Errors
    /// ENETUNREACH when the gateway cannot be reached.
    pub fn add_route(
        &mut self,
        index: u32,
        (destination, prefix): (IpAddr, u8),
        gateway: Option<IpAddr>,
        metric: u32,
    ) -> io::Result<()> {
        let scope = if gateway.is_some() { 0 } else { RT_SCOPE_LINK };
        let family = family(destination);
        let mut fixed = vec![
            family,
            prefix,
            0,
            0,
            RT_TABLE_MAIN,
            RTPROT_DHCP,
            scope,
            RTN_UNICAST,
        ];
        fixed.extend_from_slice(&[0; 4]);
        let mut message = self.0.begin(RTM_NEWROUTE, ACK | CREATE | REPLACE, &fixed);
        if prefix > 0 {
            message = message.address(RTA_DST, destination);
        }
        if let Some(gateway) = gateway {
            message = message.address(RTA_GATEWAY, gateway);
        }
        let message = message.number(RTA_OIF, index).number(RTA_PRIORITY, metric);
        self.0.change(message)
    }
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => libc::AF_INET as u8,
        IpAddr::V6(_) => libc::AF_INET6 as u8,
    }
}

fn address_header(index: u32, address: IpAddr, prefix: u8) -> [u8; IFADDR] {
    let mut fixed = [0; IFADDR];
    fixed[0] = family(address);
    fixed[1] = prefix;
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    fixed
}

fn link_of(body: &[u8]) -> Option<Link> {
    let flags = u32_at(body, 8)?;
    let has = |flag: libc::c_int| flags & flag as u32 != 0;
    let attributes = attributes(body, IFINFO);
    let get = |kind: u16| attributes.iter().find(|(k, _)| *k == kind).map(|(_, v)| *v);
    let name = get(IFLA_IFNAME)?.split(|b| *b == 0).next()?;
    Some(Link {
        index: u32_at(body, 4)?,
        name: String::from_utf8_lossy(name).into_owned(),
        mac: get(IFLA_ADDRESS).and_then(|v| v.try_into().ok()),
        ethernet: u16_at(body, 2)? == ARPHRD_ETHER,
        up: has(libc::IFF_UP),
        carrier: has(libc::IFF_LOWER_UP) && has(libc::IFF_RUNNING),
    })
}

/// A socket on which the kernel tells of changes.
pub struct Monitor(Socket);

impl Monitor {
    /// Opens it; changes from now on are kept in its buffer.
    ///
    /// # Errors
    /// Those of socket(2).
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        let fd = crate::sys::borrow(socket.as_raw_fd());
        setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(5))?;
        Ok(Self(socket))
    }

    /// Waits some seconds for the next changes; there may be none.
    ///
    /// # Errors
    /// ENOBUFS: changes were lost, list everything again.
    pub fn next(&self) -> io::Result<Vec<Event>> {
        let (bytes, from) = match self.0.recv_from_full() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Vec::new()),
            other => other?,
        };
        if from.port_number() != 0 {
            return Ok(Vec::new());
        }
        Ok(parse(&bytes))
    }
}

/// Parses a datagram of changes; what is not understood is left out.
pub fn parse(bytes: &[u8]) -> Vec<Event> {
    messages(bytes).into_iter().filter_map(parse_one).collect()
}

fn parse_one(message: netlink::Message<'_>) -> Option<Event> {
    let body = message.body;
    match message.kind {
        RTM_NEWLINK if body.first() == Some(&(libc::AF_INET6 as u8)) => routers_of(body),
        RTM_NEWLINK => link_of(body).map(Event::Link),
        // A bridge that loses a port says so with the port's index, in its own family.
        RTM_DELLINK if body.first() == Some(&0) => u32_at(body, 4).map(Event::LinkGone),
        RTM_NEWADDR => {
            let (prefix, flags) = (*body.get(1)?, *body.get(2)?);
            // Another machine may have it; it is told again when that isn't so.
            if flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) != 0 {
                return None;
            }
            Some(Event::Address(u32_at(body, 4)?, address_of(body)?, prefix))
        }
        RTM_DELADDR => Some(Event::AddressGone(u32_at(body, 4)?, address_of(body)?)),
        RTM_NEWNDUSEROPT => parse_rdnss(body),
        _ => None,
    }
}

fn address_of(body: &[u8]) -> Option<IpAddr> {
    let attributes = attributes(body, IFADDR);
    let get = |kind: u16| attributes.iter().find(|(k, _)| *k == kind).map(|(_, v)| *v);
    get(IFA_LOCAL)
        .or(get(IFA_ADDRESS))
        .and_then(netlink::address)
}

/// What an interface's IPv6 knows of its routers.
fn routers_of(body: &[u8]) -> Option<Event> {
    let of_family = attributes(body, IFINFO);
    let (_, inside) = of_family.iter().find(|(k, _)| *k == IFLA_PROTINFO)?;
    let inside = attributes(inside, 0);
    let (_, flags) = inside.iter().find(|(k, _)| *k == IFLA_INET6_FLAGS)?;
    let flags = u32_at(flags, 0)?;
    let said = RouterFlags {
        managed: flags & IF_RA_MANAGED != 0,
        other: flags & IF_RA_OTHERCONF != 0,
    };
    Some(Event::Routers(u32_at(body, 4)?, said))
}

/// `struct nduseroptmsg` (linux/rtnetlink.h): family 1, pad 1, length of options 2, ifindex 4,
/// icmp type 1, code 1, pad 6; then the options as on the wire. RDNSS (RFC 8106): type 25,
/// length in units of 8 bytes, reserved 2, lifetime 4, addresses 16 each.
fn parse_rdnss(message: &[u8]) -> Option<Event> {
    let index = u32::from_ne_bytes(message.get(4..8)?.try_into().ok()?);
    let option = message.get(16..)?;
    if option.first() != Some(&25) {
        return None;
    }
    let length = usize::from(*option.get(1)?) * 8;
    let lifetime = u32::from_be_bytes(option.get(4..8)?.try_into().ok()?);
    let servers = option
        .get(8..length)?
        .chunks_exact(16)
        .filter_map(|c| <[u8; 16]>::try_from(c).ok())
        .map(IpAddr::from)
        .collect();
    Some(Event::Dns(index, servers, lifetime))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_loopback_is_found() {
        let links = Rtnl::open().unwrap().links().unwrap();
        let lo = links.iter().find(|l| l.name == "lo").expect("lo");
        assert!(!lo.ethernet && lo.index > 0);
    }

    #[test]
    fn refusals_of_the_kernel_are_errors() {
        let error = Rtnl::open().unwrap().set_up(0x7fff_fff0).unwrap_err();
        assert!(
            matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)),
            "{error}"
        );
    }

    #[test]
    fn dns_servers_of_a_router() {
        let mut m = vec![0u8; 16];
        m[0] = 10;
        m[4..8].copy_from_slice(&3u32.to_ne_bytes());
        m.extend_from_slice(&[25, 3, 0, 0, 0, 0, 2, 0x58]);
        let server: std::net::Ipv6Addr = "fe80::2".parse().unwrap();
        m.extend_from_slice(&server.octets());
        assert_eq!(
            parse_rdnss(&m),
            Some(Event::Dns(3, vec![server.into()], 600))
        );
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in 16u16..70) {
            parse(&bytes);
            parse_rdnss(&bytes);
            if bytes.len() >= 16 {
                let length = bytes.len() as u32;
                bytes[..4].copy_from_slice(&length.to_ne_bytes());
                bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
                parse(&bytes);
            }
        }
    }
}
