//! The node's own address: the one that packets to the world leave with, or one of the network
//! that the seed names.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use slipway_images::seed::Cidr;
use slipway_netlink::{DUMP, Requests, attributes, u32_at};

use crate::error::{Context, Error};
use crate::log::info;

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// `RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE` (linux/rtnetlink.h).
const GROUPS: u32 = 0x10 | 0x40;
/// TEST-NET-1 (RFC 5737): routed like the rest of the world, and nobody is there.
const SOMEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// The node's address: one of this network, or that of the default route; if there is one.
pub fn own_address(network: Option<Cidr>) -> Option<IpAddr> {
    match network {
        Some(network) => address_in(network),
        None => default_address(),
    }
}

/// The lowest of the machine's addresses that is in this network.
fn address_in(network: Cidr) -> Option<IpAddr> {
    let mut requests = Requests::open().ok()?;
    let question = requests.begin(RTM_GETADDR, DUMP, &[0; 8]);
    let mut found = None;
    let listed = requests.list(question, RTM_NEWADDR, |body| {
        let attributes = attributes(body, 8);
        let get = |kind: u16| attributes.iter().find(|(k, _)| *k == kind).map(|(_, v)| *v);
        // IPv6 has no IFA_LOCAL but on tunnels.
        let address = get(IFA_LOCAL).or_else(|| get(IFA_ADDRESS));
        let address = address.and_then(slipway_netlink::address);
        if let Some(address) = address.filter(|address| network.contains(*address)) {
            found = Some(found.map_or(address, |before: IpAddr| before.min(address)));
        }
    });
    listed.ok()?;
    found
}

/// The address of the default route, if there is one. Asks the kernel's routing by
/// connecting a datagram socket, which sends nothing.
fn default_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(SOMEWHERE).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
}

/// Bytes of the largest packet on the link that has this address.
pub fn mtu(address: Ipv4Addr) -> Result<u32, Error> {
    let action = || format!("find the link with the address {address}");
    let mut requests = Requests::open().context(action)?;
    // struct ifaddrmsg: family, prefix length, flags, scope, index.
    let question = requests.begin(RTM_GETADDR, DUMP, &[2, 0, 0, 0, 0, 0, 0, 0]);
    let mut index = None;
    requests
        .list(question, RTM_NEWADDR, |body| {
            let local =
                |(kind, value): &(u16, &[u8])| *kind == IFA_LOCAL && *value == address.octets();
            if attributes(body, 8).iter().any(local) {
                index = u32_at(body, 4);
            }
        })
        .context(action)?;
    // struct ifinfomsg: family, type, index, flags, change.
    let question = requests.begin(RTM_GETLINK, DUMP, &[0; 16]);
    let mut mtu = None;
    requests
        .list(question, RTM_NEWLINK, |body| {
            if index.is_some() && u32_at(body, 4) == index {
                let all = attributes(body, 16);
                let found = all.iter().find(|(kind, _)| *kind == IFLA_MTU);
                mtu = found.and_then(|(_, value)| u32_at(value, 0));
            }
        })
        .context(action)?;
    mtu.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))
        .context(action)
}

/// Says when addresses or routes change.
#[derive(Debug)]
pub struct Changes(OwnedFd);

impl Changes {
    /// Begins listening; changes from now on are not missed.
    pub fn listen() -> Result<Self, Error> {
        let action = || "listen to changes of the network".to_owned();
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Protocol 0 is NETLINK_ROUTE.
        let fd =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None).context(action)?;
        bind(&fd, &SocketAddrNetlink::new(0, GROUPS)).context(action)?;
        Ok(Self(fd))
    }

    /// Waits for a change, or until the time is over.
    pub fn wait(&self, time: Option<Duration>) -> Result<(), Error> {
        let time = time.map(|time| Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        match poll(&mut fds, time.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context(|| "wait for the network".to_owned()),
        }
        // What changed is looked up afresh; an overrun (ENOBUFS) tells as much.
        let mut message = [0_u8; 4096];
        while recv(&self.0, &mut message[..], RecvFlags::empty()).is_ok() {}
        Ok(())
    }
}

/// Waits for the node to have an address.
pub fn wait_for_address(changes: &Changes, network: Option<Cidr>) -> Result<IpAddr, Error> {
    let mut said = false;
    loop {
        if let Some(address) = own_address(network) {
            return Ok(address);
        }
        if !said {
            match network {
                Some(network) => info!("no address of {network} yet; waiting for the network"),
                None => info!("no default route yet; waiting for the network"),
            }
            said = true;
        }
        changes.wait(None)?;
    }
}
