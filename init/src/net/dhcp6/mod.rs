//! DHCPv6 on one interface: the machine of states with a real socket and a thread.
//!
//! Routes and prefixes are the routers' to tell; here an address is one alone (/128). It is
//! not given back when the node goes down: with the same DUID it gets the same one again.

pub mod lease;
pub mod machine;
pub mod packet;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sha2::{Digest as _, Sha256};
use slipway_images::seed::network::Interface as Wish;

use super::dhcp::{Client, Interface, LISTEN, Order};
use super::resolv::Source;
use super::rtnl::{IFA_F_DADFAILED, IFA_F_TENTATIVE, RouterFlags, Rtnl};
use super::{Shared, is_global};
use crate::{say, sys};
use lease::Lease;
use machine::{Action, Machine, Mode};
use packet::{ALL_SERVERS, CLIENT_PORT, Reply, SERVER_PORT, Settings};

/// The kernel's IPv6 addresses.
const ADDRESSES: &str = "/proc/net/if_inet6";

/// A DUID-UUID (RFC 6355: type 4, a UUID) of a machine-id, which it doesn't tell.
pub fn duid(machine_id: &str) -> Vec<u8> {
    // Whoever reads the machine-id elsewhere doesn't know the node by it, and the other way
    // round (machine-id(5)).
    let hash: [u8; 32] = Sha256::digest(format!("slipway dhcpv6 {machine_id}")).into();
    let [head @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = hash;
    let uuid = uuid::Builder::from_custom_bytes(head).into_uuid();
    [&[0, 4], uuid.as_bytes().as_slice()].concat()
}

/// What to ask for on an interface, by the seed and what routers say.
fn mode(wish: &Wish, routers: RouterFlags) -> Mode {
    let follows = wish.accept_ra != Some(false);
    match routers {
        _ if wish.dhcp6 => Mode::Stateful,
        RouterFlags { managed: true, .. } if follows => Mode::Stateful,
        RouterFlags { other: true, .. } if follows => Mode::Information,
        _ => Mode::Off,
    }
}

struct Worker {
    interface: Interface,
    machine: Machine,
    wish: Wish,
    shared: Shared,
    rtnl: Rtnl,
    socket: Option<UdpSocket>,
    /// The link is up, and its link-local address is awaited.
    coming: bool,
    /// Addresses of which it isn't known yet whether another machine has them.
    tentative: Vec<Ipv6Addr>,
}

/// Starts a client in a thread of its own, if one may be needed: by the seed, or because
/// routers may say so.
///
/// # Errors
/// When there can be no thread or socket.
pub fn start(
    interface: Interface,
    shared: Shared,
    wish: &Wish,
    routers: RouterFlags,
) -> io::Result<Option<Client>> {
    let Some(duid) = shared.duid.clone().filter(|_| {
        // Whether routers could ask for it.
        let any = RouterFlags {
            managed: true,
            other: true,
        };
        mode(wish, any) != Mode::Off
    }) else {
        return Ok(None);
    };
    let (orders, receiver) = channel();
    let mut random = [0; 8];
    sys::random_early(&mut random)?;
    let [_, _, iaid @ ..] = interface.mac;
    let client = machine::Client {
        duid,
        iaid: u32::from_be_bytes(iaid),
        hostname: shared.told_name(&wish.dhcp6_overrides),
    };
    let random = u64::from_ne_bytes(random);
    let mut worker = Worker {
        machine: Machine::new(client, mode(wish, routers), random, Instant::now()),
        rtnl: Rtnl::open()?,
        wish: wish.clone(),
        shared,
        socket: None,
        coming: false,
        tentative: Vec::new(),
        interface,
    };
    let thread = std::thread::Builder::new()
        .name(format!("dhcp6 {}", worker.interface.name))
        .stack_size(256 << 10)
        .spawn(move || worker.run(&receiver))?;
    Ok(Some(Client::new(orders, thread)))
}

impl Worker {
    fn run(&mut self, orders: &Receiver<Order>) {
        loop {
            let order = match orders.recv_timeout(self.wait()) {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let now = Instant::now();
            match order {
                Some(Order::LinkUp) => self.coming = true,
                Some(Order::LinkDown) => {
                    self.coming = false;
                    self.socket = None;
                    self.tentative.clear();
                    self.machine.link_down();
                }
                Some(Order::Routers(flags)) => {
                    self.machine.set_mode(mode(&self.wish, flags), now);
                }
                Some(Order::Stop) => return,
                Some(Order::Release) => {
                    let actions = self.machine.release(now);
                    self.perform(actions);
                    self.forget_settings();
                    return;
                }
                None => {}
            }
            self.look_at_addresses(now);
            let actions = self.machine.timer(now);
            self.perform(actions);
            if self.machine.is_listening() {
                self.listen();
            } else {
                self.socket = None;
            }
        }
    }

    /// How long to wait for orders alone.
    fn wait(&self) -> Duration {
        if self.machine.is_listening() {
            // The waiting is for packets, then.
            return Duration::ZERO;
        }
        let until = |at: Instant| at.saturating_duration_since(Instant::now());
        let until = (self.machine.deadline()).map_or(Duration::from_secs(3600), until);
        match self.coming || !self.tentative.is_empty() {
            true => until.min(LISTEN),
            false => until,
        }
    }

    /// Whether what is awaited of the kernel's addresses has come.
    fn look_at_addresses(&mut self, now: Instant) {
        if !self.coming && self.tentative.is_empty() {
            return;
        }
        let text = match fs::read_to_string(ADDRESSES) {
            Ok(text) => text,
            Err(error) => {
                // Without IPv6 in the kernel there is no such file, and nothing to do.
                self.coming = false;
                self.tentative.clear();
                if error.kind() != io::ErrorKind::NotFound {
                    say!("dhcp6 {}: {ADDRESSES}: {error}", self.interface.name);
                }
                return;
            }
        };
        let own = addresses(&text, self.interface.index);
        let is_good = |flags: u8| flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) == 0;
        let local = own.iter().find(|(a, _)| a.is_unicast_link_local());
        if self.coming && local.is_some_and(|(_, flags)| is_good(*flags)) {
            self.coming = false;
            self.machine.link_up(now);
        }
        if local.is_none() {
            // Set down, and with it goes all; the order comes.
            return;
        }
        let flags = |address: &Ipv6Addr| own.iter().find(|(a, _)| a == address).map(|(_, f)| *f);
        // One that is not for ever is gone then (net/ipv6/addrconf.c, `addrconf_dad_stop`).
        let failed = |address: &&Ipv6Addr| flags(address).is_none_or(|f| f & IFA_F_DADFAILED != 0);
        let taken: Vec<Ipv6Addr> = self.tentative.iter().filter(failed).copied().collect();
        if !taken.is_empty() {
            self.tentative.clear();
            let actions = self.machine.taken(&taken, now);
            self.perform(actions);
            return;
        }
        self.tentative
            .retain(|address| flags(address).is_some_and(|flags| flags & IFA_F_TENTATIVE != 0));
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            let done = match action {
                Action::Send(request) => self.send(&request.encode()),
                Action::Configure(lease) => self.configure(&lease),
                Action::Deconfigure(addresses) => self.deconfigure(&addresses),
                Action::Inform(settings) => {
                    self.inform(&settings);
                    Ok(())
                }
                Action::Note(text) => {
                    say!("dhcp6 {}: {text}", self.interface.name);
                    Ok(())
                }
            };
            if let Err(error) = done {
                say!("dhcp6 {}: {error}", self.interface.name);
            }
        }
    }

    fn socket(&mut self) -> io::Result<&UdpSocket> {
        if self.socket.is_none() {
            let text = fs::read_to_string(ADDRESSES)?;
            let own = addresses(&text, self.interface.index);
            let local = own
                .into_iter()
                .map(|(address, _)| address)
                .find(Ipv6Addr::is_unicast_link_local)
                .ok_or_else(|| io::Error::other("no link-local address"))?;
            let socket = UdpSocket::bind(self.scoped(local, CLIENT_PORT))?;
            socket.set_nonblocking(true)?;
            self.socket = Some(socket);
        }
        self.socket
            .as_ref()
            .ok_or_else(|| io::Error::other("no socket"))
    }

    fn scoped(&self, address: Ipv6Addr, port: u16) -> SocketAddrV6 {
        SocketAddrV6::new(address, port, 0, self.interface.index)
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let to = self.scoped(ALL_SERVERS, SERVER_PORT);
        self.socket()?.send_to(message, to).map(drop)
    }

    /// Waits a little for packets and takes in what has come.
    fn listen(&mut self) {
        let until_timer = self
            .machine
            .deadline()
            .map_or(LISTEN, |d| d.saturating_duration_since(Instant::now()));
        let wait = until_timer.min(LISTEN) + Duration::from_millis(1);
        let Some(socket) = &self.socket else {
            // Nothing was sent yet, or it couldn't be.
            std::thread::sleep(wait);
            return;
        };
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
        if !matches!(poll(&mut fds, timeout), Ok(n) if n > 0) {
            return;
        }
        let mut buffer = [0u8; 2048];
        while let Some(socket) = &self.socket {
            match socket.recv_from(&mut buffer) {
                Ok((length, _)) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    if let Some(reply) = Reply::parse(bytes, self.machine.iaid()) {
                        let actions = self.machine.received(&reply, Instant::now());
                        self.perform(actions);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The next message opens it anew.
                Err(_) => self.socket = None,
            }
            if !self.machine.is_listening() {
                return;
            }
        }
    }

    fn configure(&mut self, lease: &Lease) -> io::Result<()> {
        let index = self.interface.index;
        let mut failed = Ok(());
        for (address, times) in lease.left(Instant::now()) {
            match self.rtnl.add_address_for(index, address.into(), 128, times) {
                Ok(()) if !self.tentative.contains(&address) => self.tentative.push(address),
                Ok(()) => {}
                Err(error) => failed = Err(error),
            }
        }
        self.inform(&lease.settings);
        failed
    }

    fn inform(&self, settings: &Settings) {
        let take = &self.wish.dhcp6_overrides;
        let dns = settings.dns.iter().map(|a| IpAddr::V6(*a));
        let dns = dns.filter(|a| take.use_dns && is_global(a)).collect();
        let search = settings.search.iter().filter(|_| take.use_domains);
        let source = Source::Dhcp6(self.interface.name.clone());
        self.shared
            .resolv
            .set(source.clone(), dns, search.cloned().collect());
        let servers = settings.ntp.iter().filter(|_| take.use_ntp);
        self.shared
            .time_servers
            .set(source, servers.cloned().collect());
    }

    fn forget_settings(&self) {
        self.inform(&Settings::default());
    }

    fn deconfigure(&mut self, gone: &[Ipv6Addr]) -> io::Result<()> {
        self.tentative.retain(|address| !gone.contains(address));
        self.forget_settings();
        let mut failed = Ok(());
        for address in gone {
            let index = self.interface.index;
            match self.rtnl.remove_address(index, (*address).into(), 128) {
                Ok(()) => {}
                // The kernel took it away when its time had passed.
                Err(e) if e.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {}
                Err(error) => failed = Err(error),
            }
        }
        failed
    }
}

/// Addresses and flags of an interface in `/proc/net/if_inet6`: address, index, length of the
/// prefix, scope and flags, all in hex, and the interface's name.
fn addresses(text: &str, index: u32) -> Vec<(Ipv6Addr, u8)> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address = u128::from_str_radix(words.next()?, 16).ok()?;
        let number = u32::from_str_radix(words.next()?, 16).ok()?;
        let flags = u8::from_str_radix(words.nth(2)?, 16).ok()?;
        (number == index).then_some((Ipv6Addr::from(address), flags))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
