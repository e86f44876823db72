//! The node's own address: the one that packets to the world leave with.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

use crate::error::{Context, Error};
use crate::log::info;

/// `RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE` (linux/rtnetlink.h).
const GROUPS: u32 = 0x10 | 0x40;
/// TEST-NET-1 (RFC 5737): routed like the rest of the world, and nobody is there.
const SOMEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// The address of the default route, if there is one. Asks the kernel's routing by
/// connecting a datagram socket, which sends nothing.
pub fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(SOMEWHERE).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified() && !address.is_loopback()).then_some(address)
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
pub fn wait_for_address(changes: &Changes) -> Result<IpAddr, Error> {
    let mut said = false;
    loop {
        if let Some(address) = own_address() {
            return Ok(address);
        }
        if !said {
            info!("no default route yet; waiting for the network");
            said = true;
        }
        changes.wait(None)?;
    }
}
