//! The network: links up, addresses by DHCPv4, router advertisements or the seed, names.
//!
//! One thread follows the kernel's events; each interface with DHCP has a client in a
//! thread of its own. The boot does not wait for any of them.

pub mod dhcp;
pub mod netlink;
pub mod resolv;
pub mod rtnl;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use crate::phase::{Context, Failure, Outcome};
use crate::{files, say};
use dhcp::{Interface, Order};
use resolv::{Resolv, Source};
use rtnl::{Event, Link, Monitor, Rtnl};

/// How the interfaces are to be configured. What is not named gets DHCP and router
/// advertisements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// By name, such as `eth0`.
    pub interfaces: BTreeMap<String, Static>,
}

/// One interface's configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Static {
    /// Whether DHCPv4 is used, besides the addresses.
    pub dhcp4: bool,
    /// Addresses with the length of their network's prefix.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Routes: destination, length of its prefix, gateway.
    pub routes: Vec<(IpAddr, u8, IpAddr)>,
    /// DNS servers.
    pub nameservers: Vec<IpAddr>,
    /// Domains to search.
    pub search: Vec<String>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
}

/// Servers of time that the network has named, by interface.
#[derive(Debug, Clone, Default)]
pub struct TimeServers(Arc<Mutex<BTreeMap<String, Vec<String>>>>);

impl TimeServers {
    /// Says what an interface's network names.
    pub fn set(&self, interface: &str, servers: Vec<String>) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(interface.to_owned(), servers);
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.values().flatten().cloned().collect()
    }
}

/// What all interfaces share.
#[derive(Clone)]
pub struct Shared {
    /// Sent to DHCP servers.
    pub hostname: Option<String>,
    /// /etc/resolv.conf.
    pub resolv: Resolv,
    /// Servers of time.
    pub time_servers: TimeServers,
}

/// What the main loop is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// An address that others can reach is on an interface.
    Address {
        /// The interface.
        interface: String,
        /// The address.
        address: IpAddr,
        /// Length of its network's prefix.
        prefix: u8,
    },
    /// It is gone.
    AddressGone {
        /// The interface.
        interface: String,
        /// The address.
        address: IpAddr,
    },
}

struct Manager<F> {
    network: Network,
    shared: Shared,
    rtnl: Rtnl,
    links: HashMap<u32, Link>,
    clients: HashMap<u32, Sender<Order>>,
    tell: F,
}

/// Brings the loopback up and starts the threads.
///
/// # Errors
/// When the kernel refuses a socket; single interfaces are said on the console.
pub fn start(network: Network, shared: Shared, tell: impl FnMut(News) + Send + 'static) -> Outcome {
    // First, so that no change is missed between the list and the events.
    let monitor = Monitor::open().context("listening for network changes")?;
    let mut rtnl = Rtnl::open().context("rtnetlink")?;
    let links = rtnl.links().context("listing the interfaces")?;
    if let Some(lo) = links.iter().find(|l| l.name == "lo") {
        rtnl.set_up(lo.index).context("loopback")?;
    }
    let names: Vec<_> = links
        .iter()
        .filter(|l| is_physical(l))
        .map(|l| l.name.clone())
        .collect();
    let mut manager = Manager {
        network,
        shared,
        rtnl,
        links: HashMap::new(),
        clients: HashMap::new(),
        tell,
    };
    for link in links {
        manager.link(link);
    }
    std::thread::Builder::new()
        .name("network".into())
        .stack_size(256 << 10)
        .spawn(move || manager.run(&monitor))
        .map_err(Failure::from)?;
    Ok(names.join(" "))
}

/// Ethernet with hardware (or a hypervisor) behind it: not the bridges and pairs of pods.
fn is_physical(link: &Link) -> bool {
    link.ethernet
        && Path::new("/sys/class/net")
            .join(&link.name)
            .join("device")
            .exists()
}

/// Whether others can reach a node at this address.
fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

impl<F: FnMut(News)> Manager<F> {
    fn run(&mut self, monitor: &Monitor) {
        loop {
            match monitor.next() {
                Ok(events) => events.into_iter().for_each(|e| self.event(e)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // ENOBUFS: some were lost.
                Err(_) => match self.rtnl.links() {
                    Ok(links) => links.into_iter().for_each(|l| self.link(l)),
                    Err(error) => {
                        say!("network: {error}");
                        std::thread::sleep(std::time::Duration::from_secs(1));
                    }
                },
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Link(link) => self.link(link),
            Event::LinkGone(index) => {
                self.links.remove(&index);
                if let Some(client) = self.clients.remove(&index) {
                    // It may have ended by itself.
                    crate::ignore(client.send(Order::Stop));
                }
            }
            Event::Address(index, address, prefix) => {
                if let Some(link) = self.links.get(&index)
                    && is_global(&address)
                {
                    let interface = link.name.clone();
                    (self.tell)(News::Address {
                        interface,
                        address,
                        prefix,
                    });
                }
            }
            Event::AddressGone(index, address) => {
                if let Some(link) = self.links.get(&index)
                    && is_global(&address)
                {
                    let interface = link.name.clone();
                    (self.tell)(News::AddressGone { interface, address });
                }
            }
            Event::Dns(index, servers, lifetime) => {
                if let Some(link) = self.links.get(&index) {
                    let servers = if lifetime == 0 {
                        Vec::new()
                    } else {
                        scoped(servers, link)
                    };
                    self.shared
                        .resolv
                        .set(Source::Router(link.name.clone()), servers, Vec::new());
                }
            }
        }
    }

    /// Takes in how a link is now. Only those that we configure are kept.
    fn link(&mut self, link: Link) {
        let known = self.links.contains_key(&link.index);
        if !known && !is_physical(&link) {
            return;
        }
        if !known {
            self.first_seen(&link);
        }
        let order = if link.carrier && link.up {
            Order::LinkUp
        } else {
            Order::LinkDown
        };
        let before = self.links.insert(link.index, link.clone());
        let changed = before.is_none_or(|b| (b.carrier && b.up) != (link.carrier && link.up));
        if let (true, Some(client)) = (changed, self.clients.get(&link.index)) {
            // It may have ended; the interface is then going too.
            crate::ignore(client.send(order));
        }
    }

    fn first_seen(&mut self, link: &Link) {
        let name = &link.name;
        // 2: take router advertisements although the node forwards for its pods.
        let accept = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
        if Path::new(&accept).exists()
            && let Err(error) = files::write_existing(&accept, "2")
        {
            say!("{name}: accept_ra: {error}");
        }
        let wish = self
            .network
            .interfaces
            .get(name)
            .cloned()
            .unwrap_or(Static {
                dhcp4: true,
                ..Static::default()
            });
        if let Err(error) = self.configure(link, &wish) {
            say!("{name}: {error}");
        }
        if let (true, Some(mac)) = (wish.dhcp4, link.mac) {
            let interface = Interface {
                index: link.index,
                name: name.clone(),
                mac,
            };
            match dhcp::start(interface, self.shared.clone()) {
                Ok(client) => drop(self.clients.insert(link.index, client)),
                Err(error) => say!("{name}: no DHCP: {error}"),
            }
        }
    }

    fn configure(&mut self, link: &Link, wish: &Static) -> Result<(), Failure> {
        if let Some(mtu) = wish.mtu {
            self.rtnl
                .set_mtu(link.index, mtu)
                .context(format_args!("MTU {mtu}"))?;
        }
        self.rtnl.set_up(link.index).context("setting it up")?;
        for (address, prefix) in &wish.addresses {
            self.rtnl
                .add_address(link.index, *address, *prefix, None)
                .context(format_args!("address {address}/{prefix}"))?;
        }
        for (destination, prefix, gateway) in &wish.routes {
            let metric = 100 + link.index;
            self.rtnl
                .add_route(link.index, (*destination, *prefix), Some(*gateway), metric)
                .context(format_args!("route to {destination}/{prefix}"))?;
        }
        let source = Source::Static(link.name.clone());
        self.shared
            .resolv
            .set(source, wish.nameservers.clone(), wish.search.clone());
        Ok(())
    }
}

/// Link-local servers need their interface, which resolv.conf cannot be given here as a
/// type: they are left out.
fn scoped(servers: Vec<IpAddr>, _link: &Link) -> Vec<IpAddr> {
    servers.into_iter().filter(is_global).collect()
}
