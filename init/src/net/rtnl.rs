//! Links, addresses and routes over rtnetlink (rtnetlink(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, CacheInfo};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

/// Groups of events: RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_ND_USEROPT.
const GROUPS: [u32; 4] = [1, 5, 9, 20];
/// RTM_NEWNDUSEROPT: an option of a router advertisement.
const RTM_NEWNDUSEROPT: u16 = 68;

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
    /// DNS servers of a router advertisement (RFC 8106): index, servers, seconds.
    Dns(u32, Vec<IpAddr>, u32),
}

/// A socket for requests.
pub struct Rtnl {
    socket: Socket,
    sequence: u32,
}

fn serialize(message: &mut NetlinkMessage<RouteNetlinkMessage>) -> Vec<u8> {
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Splits a datagram into netlink messages, by their length fields.
fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some(field) = bytes.get(..4) {
        let length = u32::from_ne_bytes([field[0], field[1], field[2], field[3]]) as usize;
        match bytes.get(..length) {
            Some(message) if length >= 16 => messages.push(message),
            _ => break,
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

impl Rtnl {
    /// Opens a socket.
    ///
    /// # Errors
    /// Those of socket(2).
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel answers at once; never hang on it all the same.
        setsockopt(&borrow(&socket), ReceiveTimeout, &TimeVal::seconds(5))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    fn send(&mut self, payload: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut message =
            NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(payload));
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        self.socket.send(&serialize(&mut message), 0).map(drop)
    }

    /// Sends a change and waits for the kernel's verdict.
    fn change(&mut self, payload: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(payload, flags | NLM_F_ACK)?;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for message in split(&bytes) {
                let message = decode(message)?;
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                if let NetlinkPayload::Error(error) = message.payload {
                    return match error.raw_code() {
                        0 => Ok(()),
                        _ => Err(error.to_io()),
                    };
                }
            }
        }
    }

    /// All links.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        self.send(
            RouteNetlinkMessage::GetLink(LinkMessage::default()),
            NLM_F_DUMP,
        )?;
        let mut links = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for message in split(&bytes) {
                match decode(message)?.payload {
                    NetlinkPayload::Done(_) => return Ok(links),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                        links.extend(link_of(&link));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Sets a link up.
    ///
    /// # Errors
    /// Those of the kernel.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::SetLink(link), 0)
    }

    /// Sets a link's MTU in bytes.
    ///
    /// # Errors
    /// EINVAL for what the device cannot do.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.attributes.push(LinkAttribute::Mtu(mtu));
        self.change(RouteNetlinkMessage::SetLink(link), 0)
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
        let mut message = address_message(index, address, prefix);
        if let IpAddr::V4(v4) = address {
            let host = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
            if prefix < 31 {
                let all = Ipv4Addr::from(u32::from(v4) | host);
                message.attributes.push(AddressAttribute::Broadcast(all));
            }
        }
        if let Some(lifetime) = lifetime {
            let mut info = CacheInfo::default();
            info.ifa_valid = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
            info.ifa_preferred = info.ifa_valid;
            message.attributes.push(AddressAttribute::CacheInfo(info));
        }
        self.change(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Takes an address away; its routes go with it.
    ///
    /// # Errors
    /// EADDRNOTAVAIL if it was not there.
    pub fn remove_address(&mut self, index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let message = address_message(index, address, prefix);
        self.change(RouteNetlinkMessage::DelAddress(message), 0)
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
        let mut route = RouteMessage::default();
        route.header.address_family = family(destination);
        route.header.destination_prefix_length = prefix;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.header.protocol = RouteProtocol::Dhcp;
        route.header.kind = RouteType::Unicast;
        if prefix > 0 {
            route
                .attributes
                .push(RouteAttribute::Destination(route_address(destination)));
        }
        match gateway {
            Some(gateway) => route
                .attributes
                .push(RouteAttribute::Gateway(route_address(gateway))),
            None => route.header.scope = RouteScope::Link,
        }
        route.attributes.push(RouteAttribute::Oif(index));
        route.attributes.push(RouteAttribute::Priority(metric));
        self.change(
            RouteNetlinkMessage::NewRoute(route),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }
}

fn borrow(socket: &Socket) -> BorrowedFd<'_> {
    crate::sys::borrow(socket.as_raw_fd())
}

fn decode(bytes: &[u8]) -> io::Result<NetlinkMessage<RouteNetlinkMessage>> {
    NetlinkMessage::deserialize(bytes).map_err(|e| io::Error::other(e.to_string()))
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn address_message(index: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    message
}

fn link_of(message: &LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    let name = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::Address(bytes) => <[u8; 6]>::try_from(bytes.as_slice()).ok(),
        _ => None,
    });
    Some(Link {
        index: message.header.index,
        name,
        mac,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp) && flags.contains(LinkFlags::Running),
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
        Ok(Self(socket))
    }

    /// Waits for the next changes.
    ///
    /// # Errors
    /// ENOBUFS: changes were lost, list everything again.
    pub fn next(&self) -> io::Result<Vec<Event>> {
        let (bytes, from) = self.0.recv_from_full()?;
        if from.port_number() != 0 {
            return Ok(Vec::new());
        }
        Ok(parse(&bytes))
    }
}

/// Parses a datagram of changes; what is not understood is left out.
pub fn parse(bytes: &[u8]) -> Vec<Event> {
    split(bytes).into_iter().filter_map(parse_one).collect()
}

fn parse_one(bytes: &[u8]) -> Option<Event> {
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    if kind == RTM_NEWNDUSEROPT {
        return parse_rdnss(bytes.get(16..)?);
    }
    let NetlinkPayload::InnerMessage(inner) = decode(bytes).ok()?.payload else {
        return None;
    };
    match inner {
        RouteNetlinkMessage::NewLink(link) => link_of(&link).map(Event::Link),
        RouteNetlinkMessage::DelLink(link) => Some(Event::LinkGone(link.header.index)),
        RouteNetlinkMessage::NewAddress(a) => Some(Event::Address(
            a.header.index,
            address_of(&a)?,
            a.header.prefix_len,
        )),
        RouteNetlinkMessage::DelAddress(a) => {
            Some(Event::AddressGone(a.header.index, address_of(&a)?))
        }
        _ => None,
    }
}

fn address_of(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
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
