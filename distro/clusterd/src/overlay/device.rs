//! The tunnels' device, by rtnetlink: VXLAN that learns nothing and is told everything.
//!
//! | what | message | says |
//! |---|---|---|
//! | the device | RTM_NEWLINK, `vxlan` | identifier, port, this node's address, no learning |
//! | its address | RTM_NEWADDR | the first of this node's share, /32 |
//! | a peer's MAC | RTM_NEWNEIGH, AF_INET | the first address of its share is at [`mac`] |
//! | a peer's node | RTM_NEWNEIGH, AF_BRIDGE | that MAC is behind the node's address |
//! | a peer's share | RTM_NEWROUTE | through that first address, `onlink` |

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use rustix::net::{AddressFamily, SocketType};
use slipway_netlink::{ACK, CREATE, EXCLUSIVE, REPLACE, Requests, nested, text};

use super::{DEVICE, PORT, Peer, VNI, mac};
use crate::error::{Context, Error};

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/neighbour.h.
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const AF_INET: u8 = 2;
const AF_BRIDGE: u8 = 7;
const IFF_UP: u32 = 1;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

/// The device as it is.
pub struct Device {
    requests: Requests,
    index: u32,
    own: Peer,
    peers: BTreeMap<String, Peer>,
}

impl Device {
    /// Makes it; one that is there from earlier goes, with its routes and entries.
    ///
    /// # Errors
    /// The kernel's; ENOTSUP or EOPNOTSUPP without VXLAN in it.
    pub fn make(own: Peer, mtu: u32) -> io::Result<Self> {
        let mut requests = Requests::open()?;
        let gone = requests
            .begin(RTM_DELLINK, ACK, &[0; 16])
            .attribute(IFLA_IFNAME, &text(DEVICE));
        match requests.change(gone) {
            // ENODEV: as it should be.
            Err(error) if error.raw_os_error() != Some(19) => return Err(error),
            _ => {}
        }
        let data = nested(&[
            (IFLA_VXLAN_ID, &VNI.to_ne_bytes()),
            (IFLA_VXLAN_LOCAL, &own.node.octets()),
            (IFLA_VXLAN_LEARNING, &[0]),
            (IFLA_VXLAN_PORT, &PORT.to_be_bytes()),
        ]);
        let info = nested(&[(IFLA_INFO_KIND, b"vxlan"), (IFLA_INFO_DATA, &data)]);
        // struct ifinfomsg: family, type, index; then flags and which of them count.
        let mut fixed = [0; 16];
        fixed[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
        fixed[12..].copy_from_slice(&IFF_UP.to_ne_bytes());
        let link = requests
            .begin(RTM_NEWLINK, ACK | CREATE | EXCLUSIVE, &fixed)
            .attribute(IFLA_IFNAME, &text(DEVICE))
            .attribute(IFLA_ADDRESS, &mac(own.share.0))
            .number(IFLA_MTU, mtu)
            .attribute(IFLA_LINKINFO, &info);
        requests.change(link)?;
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        let index = rustix::net::netdevice::name_to_index(&socket, DEVICE)?;
        let mut device = Self {
            requests,
            index,
            own,
            peers: BTreeMap::new(),
        };
        device.give_address()?;
        Ok(device)
    }

    /// This node's place, for which it was made.
    pub fn own(&self) -> Peer {
        self.own
    }

    /// Makes these the peers: who isn't one any more goes first, whose addresses may be
    /// somebody else's now.
    ///
    /// # Errors
    /// The kernel's. What was done before stays, and the next call goes on from there.
    pub fn set_peers(&mut self, peers: &BTreeMap<String, Peer>) -> Result<(), Error> {
        let old: Vec<(String, Peer)> = self
            .peers
            .iter()
            .filter(|(name, peer)| peers.get(*name) != Some(peer))
            .map(|(name, peer)| (name.clone(), *peer))
            .collect();
        for (name, peer) in old {
            self.remove(peer)
                .context(|| format!("end the way to the pods of node {name}"))?;
            self.peers.remove(&name);
        }
        for (name, peer) in peers {
            if !self.peers.contains_key(name) {
                self.add(*peer)
                    .context(|| format!("make a way to the pods of node {name}"))?;
                self.peers.insert(name.clone(), *peer);
            }
        }
        Ok(())
    }

    fn give_address(&mut self) -> io::Result<()> {
        let address = IpAddr::V4(self.own.share.0);
        // struct ifaddrmsg: family, prefix length, flags, scope, index.
        let mut fixed = [AF_INET, 32, 0, 0, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&self.index.to_ne_bytes());
        let message = self
            .requests
            .begin(RTM_NEWADDR, ACK | CREATE | REPLACE, &fixed)
            .address(IFA_LOCAL, address)
            .address(IFA_ADDRESS, address);
        self.requests.change(message)
    }

    fn add(&mut self, peer: Peer) -> io::Result<()> {
        let flags = ACK | CREATE | REPLACE;
        self.forwarding(RTM_NEWNEIGH, flags, peer)?;
        self.neighbour(RTM_NEWNEIGH, flags, peer)?;
        self.route(RTM_NEWROUTE, flags, peer)
    }

    /// In the reverse order. What is gone already is fine: who took the device down did it.
    fn remove(&mut self, peer: Peer) -> io::Result<()> {
        let gone = |result: io::Result<()>| match result {
            // ESRCH, ENOENT.
            Err(error) if matches!(error.raw_os_error(), Some(3 | 2)) => Ok(()),
            other => other,
        };
        gone(self.route(RTM_DELROUTE, ACK, peer))?;
        gone(self.neighbour(RTM_DELNEIGH, ACK, peer))?;
        gone(self.forwarding(RTM_DELNEIGH, ACK, peer))
    }

    fn forwarding(&mut self, kind: u16, flags: u16, peer: Peer) -> io::Result<()> {
        let fixed = self.neighbour_header(AF_BRIDGE, NTF_SELF);
        let message = self
            .requests
            .begin(kind, flags, &fixed)
            .attribute(NDA_LLADDR, &mac(peer.share.0))
            .attribute(NDA_DST, &peer.node.octets());
        self.requests.change(message)
    }

    fn neighbour(&mut self, kind: u16, flags: u16, peer: Peer) -> io::Result<()> {
        let fixed = self.neighbour_header(AF_INET, 0);
        let message = self
            .requests
            .begin(kind, flags, &fixed)
            .attribute(NDA_DST, &peer.share.0.octets())
            .attribute(NDA_LLADDR, &mac(peer.share.0));
        self.requests.change(message)
    }

    /// struct ndmsg: family, padding, index, state, flags, type.
    fn neighbour_header(&self, family: u8, flags: u8) -> [u8; 12] {
        let mut fixed = [0; 12];
        fixed[0] = family;
        fixed[4..8].copy_from_slice(&self.index.to_ne_bytes());
        fixed[8..10].copy_from_slice(&NUD_PERMANENT.to_ne_bytes());
        fixed[10] = flags;
        fixed
    }

    fn route(&mut self, kind: u16, flags: u16, peer: Peer) -> io::Result<()> {
        let (first, prefix): (Ipv4Addr, u8) = peer.share;
        // struct rtmsg: family, lengths, service; table, protocol, scope, type; flags.
        let mut fixed = [
            AF_INET,
            prefix,
            0,
            0,
            RT_TABLE_MAIN,
            RTPROT_STATIC,
            RT_SCOPE_UNIVERSE,
            RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        fixed[8..].copy_from_slice(&RTNH_F_ONLINK.to_ne_bytes());
        let message = self
            .requests
            .begin(kind, flags, &fixed)
            .address(RTA_DST, first.into())
            .address(RTA_GATEWAY, first.into())
            .number(RTA_OIF, self.index);
        self.requests.change(message)
    }
}
