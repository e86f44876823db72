//! DHCPv4 on one interface: the machine of states with real sockets and a thread.

pub mod machine;
pub mod packet;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt::BindToDevice};

use slipway_images::seed::network::Overrides;

use super::Shared;
use super::resolv::Source;
use super::rtnl::{RouterFlags, Rtnl};
use crate::{say, sys};
use machine::{Action, Lease, Machine};
use packet::{CLIENT_PORT, Reply, SERVER_PORT, broadcast_packet, payload};

/// How long a wait for a packet lasts before the orders are looked at.
pub const LISTEN: Duration = Duration::from_millis(250);

/// What a client is told, of DHCPv4 or DHCPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The link has come up.
    LinkUp,
    /// The link is down.
    LinkDown,
    /// What routers say about DHCPv6.
    Routers(RouterFlags),
    /// The interface is gone.
    Stop,
    /// The interface is to be used otherwise: its address is taken away.
    Release,
}

/// A client in its thread.
pub struct Client {
    orders: Sender<Order>,
    thread: JoinHandle<()>,
}

impl Client {
    /// One that takes orders in a thread of its own.
    pub fn new(orders: Sender<Order>, thread: JoinHandle<()>) -> Self {
        Self { orders, thread }
    }

    /// Tells it something.
    pub fn tell(&self, order: Order) {
        // It may have ended; the interface is then going, too.
        crate::ignore(self.orders.send(order));
    }

    /// Ends it, with its address; waits for that, a quarter of a second at most unless the
    /// kernel is slow.
    pub fn release(self) {
        self.tell(Order::Release);
        // A panic in it has been said.
        crate::ignore(self.thread.join());
    }
}

/// An interface to work on.
#[derive(Debug, Clone)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
}

struct Worker {
    interface: Interface,
    machine: Machine,
    shared: Shared,
    overrides: Overrides,
    packets: Option<OwnedFd>,
    unicast: Option<UdpSocket>,
    rtnl: Rtnl,
}

/// Starts a client in a thread of its own. `overrides` says what of the server's answer is used.
///
/// # Errors
/// When there can be no thread or socket.
pub fn start(interface: Interface, shared: Shared, overrides: Overrides) -> io::Result<Client> {
    let (orders, receiver) = channel();
    let mut random = [0; 8];
    sys::random_early(&mut random)?;
    let random = u64::from_ne_bytes(random);
    let hostname = shared.told_name(&overrides);
    let machine = Machine::new(interface.mac, hostname, random, Instant::now());
    let mut client = Worker {
        machine,
        shared,
        overrides,
        packets: None,
        unicast: None,
        rtnl: Rtnl::open()?,
        interface,
    };
    let thread = std::thread::Builder::new()
        .name(format!("dhcp {}", client.interface.name))
        .stack_size(256 << 10)
        .spawn(move || client.run(&receiver))?;
    Ok(Client::new(orders, thread))
}

impl Worker {
    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            let order = if self.machine.is_listening() {
                match orders.try_recv() {
                    Ok(order) => Some(order),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return,
                }
            } else {
                // Nothing is expected from the network: no socket, so that not every packet
                // of the node is copied to us.
                self.packets = None;
                self.unicast = None;
                let wait = self
                    .machine
                    .deadline()
                    .map_or(Duration::from_secs(3600), |d| {
                        d.saturating_duration_since(Instant::now())
                    });
                match orders.recv_timeout(wait) {
                    Ok(order) => Some(order),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            };
            let now = Instant::now();
            let mut actions = match order {
                Some(Order::LinkUp) => self.machine.link_up(now),
                Some(Order::LinkDown) => {
                    self.machine.link_down();
                    Vec::new()
                }
                Some(Order::Stop) => return,
                Some(Order::Release) => {
                    let address = self.machine.lease().map(|lease| lease.address);
                    let gone = address.map(Action::Deconfigure);
                    self.perform(gone.into_iter().collect());
                    return;
                }
                Some(Order::Routers(_)) | None => Vec::new(),
            };
            actions.extend(self.machine.timer(now));
            self.perform(actions);
            if self.machine.is_listening() {
                self.listen();
            }
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            let name = self.interface.name.clone();
            let done = match action {
                Action::Broadcast(request) => self.broadcast(&request.encode()),
                Action::Unicast(to, request) => {
                    self.send_unicast(to, request.ciaddr, &request.encode())
                }
                Action::Configure(lease) => self.configure(&lease),
                Action::Deconfigure(address) => self.deconfigure(address),
                Action::Note(text) => {
                    say!("dhcp {name}: {text}");
                    Ok(())
                }
            };
            if let Err(error) = done {
                say!("dhcp {name}: {error}");
            }
        }
    }

    fn packet_socket(&mut self) -> io::Result<&OwnedFd> {
        if self.packets.is_none() {
            self.packets = Some(sys::packet_socket(self.interface.index)?);
        }
        self.packets
            .as_ref()
            .ok_or_else(|| io::Error::other("no socket"))
    }

    fn broadcast(&mut self, message: &[u8]) -> io::Result<()> {
        let index = self.interface.index;
        let socket = self.packet_socket()?;
        sys::packet_send(socket.as_fd(), index, [0xff; 6], &broadcast_packet(message))
    }

    fn send_unicast(&mut self, to: Ipv4Addr, from: Ipv4Addr, message: &[u8]) -> io::Result<()> {
        // The answer is read from the packet socket like all others.
        self.packet_socket()?;
        let socket = UdpSocket::bind(SocketAddrV4::new(from, CLIENT_PORT))?;
        setsockopt(&socket, BindToDevice, &self.interface.name.clone().into())?;
        socket.send_to(message, SocketAddrV4::new(to, SERVER_PORT))?;
        // Kept open, so that the kernel does not answer that nobody listens.
        self.unicast = Some(socket);
        Ok(())
    }

    /// Waits a little for packets and takes in what has come.
    fn listen(&mut self) {
        let until_timer = self
            .machine
            .deadline()
            .map_or(LISTEN, |d| d.saturating_duration_since(Instant::now()));
        let Ok(socket) = self.packet_socket().map(AsRawFd::as_raw_fd) else {
            // The interface may be gone; the order to stop will come.
            std::thread::sleep(LISTEN);
            return;
        };
        let wait = until_timer.min(LISTEN) + Duration::from_millis(1);
        let mut fds = [PollFd::new(sys::borrow(socket), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
        if !matches!(poll(&mut fds, timeout), Ok(n) if n > 0) {
            return;
        }
        let mut buffer = [0u8; 2048];
        while let Ok(length) = recv(socket, &mut buffer, MsgFlags::MSG_DONTWAIT) {
            let reply = buffer
                .get(..length)
                .and_then(payload)
                .and_then(Reply::parse);
            if let Some(reply) = reply {
                let actions = self.machine.received(&reply, Instant::now());
                self.perform(actions);
            }
            if !self.machine.is_listening() || length == 0 {
                return;
            }
        }
        // A link that went down leaves an error to be read; the next message opens anew.
        if fds[0]
            .revents()
            .is_some_and(|r| r.contains(PollFlags::POLLERR))
        {
            self.packets = None;
        }
    }

    fn configure(&mut self, lease: &Lease) -> io::Result<()> {
        let index = self.interface.index;
        let (reply, take) = (&lease.reply, &self.overrides);
        if let Some(mtu) = reply.mtu.filter(|m| *m >= 576 && take.use_mtu)
            && let Err(error) = self.rtnl.set_mtu(index, u32::from(mtu))
        {
            say!("dhcp {}: MTU {mtu}: {error}", self.interface.name);
        }
        let forever = reply.lease == Some(u32::MAX);
        let left = (lease.since + lease.lifetime).saturating_duration_since(Instant::now());
        let lifetime = (!forever).then_some(left);
        self.rtnl
            .add_address(index, lease.address.into(), lease.prefix, lifetime)?;
        // Interfaces in their order: the first wins.
        let metric = take.route_metric.unwrap_or(1000 + index);
        let default = || {
            let gateways = reply.routers.first();
            gateways
                .map(|g| (Ipv4Addr::UNSPECIFIED, 0, *g))
                .into_iter()
                .collect()
        };
        // With classless routes the routers are ignored (RFC 3442).
        let routes: Vec<_> = reply.routes.clone().unwrap_or_else(default);
        for (destination, prefix, gateway) in routes.into_iter().filter(|_| take.use_routes) {
            let to = (IpAddr::V4(destination), prefix);
            let via = (!gateway.is_unspecified()).then_some(IpAddr::V4(gateway));
            let mut added = self.rtnl.add_route(index, to, via, metric);
            if let (Err(_), Some(gateway)) = (&added, via) {
                // A gateway outside of our network, as some clouds have: it is on the link.
                added = self
                    .rtnl
                    .add_route(index, (gateway, 32), None, metric)
                    .and_then(|()| self.rtnl.add_route(index, to, via, metric));
            }
            if let Err(error) = added {
                say!(
                    "dhcp {}: route to {destination}/{prefix}: {error}",
                    self.interface.name
                );
            }
        }
        let dns = reply.dns.iter().filter(|_| take.use_dns);
        let dns = dns.map(|a| IpAddr::V4(*a)).collect();
        let search = reply.domain.clone().filter(|_| take.use_domains);
        let search = search.into_iter().collect();
        let source = Source::Dhcp(self.interface.name.clone());
        self.shared.resolv.set(source.clone(), dns, search);
        let servers = reply.ntp.iter().filter(|_| take.use_ntp);
        let servers = servers.map(ToString::to_string).collect();
        self.shared.time_servers.set(source, servers);
        Ok(())
    }

    fn deconfigure(&mut self, address: Ipv4Addr) -> io::Result<()> {
        let prefix = self.machine.lease().map_or(32, |l| l.prefix);
        let source = Source::Dhcp(self.interface.name.clone());
        self.shared.resolv.set(source, Vec::new(), Vec::new());
        match self
            .rtnl
            .remove_address(self.interface.index, address.into(), prefix)
        {
            // The kernel took it away when its time had passed.
            Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }
}
