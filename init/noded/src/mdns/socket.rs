//! A socket for each place. It is bound to the group's address, so the kernel gives it what
//! was sent to the group on that interface and nothing that somebody sent to the node alone.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::place::Place;
use super::responder::PORT;

const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// RFC 6762 section 11.
const TTL: u32 = 255;

/// All who speak multicast DNS at a place.
#[must_use]
pub fn group(place: Place) -> SocketAddr {
    match place.v6 {
        true => SocketAddrV6::new(GROUP_V6, PORT, 0, place.index).into(),
        false => SocketAddrV4::new(GROUP_V4, PORT).into(),
    }
}

/// Opens the socket of a place on the interface of this name.
///
/// # Errors
/// Those of socket(2), bind(2), setsockopt(2).
pub fn open(place: Place, interface: &str) -> io::Result<UdpSocket> {
    let domain = if place.v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    // Other responders of the machine may be there.
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    if place.v6 {
        socket.set_only_v6(true)?;
        socket.set_multicast_all_v6(false)?;
        socket.set_multicast_if_v6(place.index)?;
        socket.set_multicast_hops_v6(TTL)?;
        socket.set_unicast_hops_v6(TTL)?;
    } else {
        socket.set_multicast_all_v4(false)?;
        socket.set_multicast_ttl_v4(TTL)?;
        socket.set_ttl_v4(TTL)?;
    }
    socket.bind(&group(place).into())?;
    if place.v6 {
        socket.join_multicast_v6(&GROUP_V6, place.index)?;
    } else {
        let interface = InterfaceIndexOrAddress::Index(place.index);
        socket.join_multicast_v4_n(&GROUP_V4, &interface)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
