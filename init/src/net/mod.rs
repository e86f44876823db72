//! The network: links up, addresses by DHCP, router advertisements or the seed, names.
//!
//! Without a network-config every wired interface gets DHCPv4 and router advertisements, and
//! DHCPv6 where those ask for it. With one, what it names is set up as it says, and the rest
//! left alone.
//!
//! One thread follows the kernel's events; each interface with DHCP has a client in a
//! thread of its own. The boot does not wait for any of them.

pub mod dhcp;
pub mod dhcp6;
pub mod resolv;
pub mod rtnl;
mod set_up;
mod time_servers;
pub mod wifi;
pub mod wishes;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slipway_images::seed::network::{Interface, Kind, Network, Overrides};

use crate::phase::{Context, Failure, Outcome};
use crate::say;
use dhcp::Order;
use resolv::{Resolv, Source};
use rtnl::{Event, Link, Made, Monitor, RouterFlags, Rtnl};
pub use time_servers::TimeServers;
use wifi::Wifi;
use wishes::Device;

/// How long the interfaces that the seed names may take to appear before those that are
/// there get DHCP: a node with a typing error in its seed must stay reachable.
const NAMED_WAIT: Duration = Duration::from_secs(30);

/// What all interfaces share.
#[derive(Clone)]
pub struct Shared {
    /// Sent to DHCP servers.
    pub hostname: Option<String>,
    /// Who this machine is to DHCPv6 servers; without it none is asked.
    pub duid: Option<Vec<u8>>,
    /// /etc/resolv.conf.
    pub resolv: Resolv,
    /// Servers of time.
    pub time_servers: TimeServers,
}

impl Shared {
    /// The name that DHCP servers are told, if any.
    fn told_name(&self, overrides: &Overrides) -> Option<String> {
        let own = overrides.hostname.clone();
        own.or_else(|| self.hostname.clone())
            .filter(|_| overrides.send_hostname)
    }
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
    /// Whether the seed has wireless interfaces, so that wpa_supplicant is to run.
    WifiWanted(bool),
    /// How they fare, in words; nothing while there are none.
    WifiStatus(String),
}

/// A network that is up.
pub struct Handle(Arc<Mutex<Manager>>);

/// Several threads have something to tell.
type Tell = Arc<Mutex<dyn FnMut(News) + Send>>;

fn tell(to: &Tell, news: News) {
    to.lock().unwrap_or_else(PoisonError::into_inner)(news);
}

struct Manager {
    network: Network,
    shared: Shared,
    rtnl: Rtnl,
    links: HashMap<u32, Link>,
    /// What others can reach us at, with the links' indices.
    addresses: Vec<(u32, IpAddr)>,
    /// Indices of the links that are set up as an interface of the seed, by its id.
    named: BTreeMap<String, Vec<u32>>,
    /// When interfaces that the seed doesn't name are used after all.
    fall_back: Option<Instant>,
    clients: HashMap<u32, Vec<dhcp::Client>>,
    /// What routers said last; kept when the network is changed, as the kernel keeps it.
    routers: HashMap<u32, RouterFlags>,
    wifi: Wifi,
    tell: Tell,
}

/// Brings the loopback up and starts the threads.
///
/// # Errors
/// When the kernel refuses a socket; single interfaces are said on the console.
pub fn start(
    network: Network,
    shared: Shared,
    tell: impl FnMut(News) + Send + 'static,
) -> Result<(Handle, String), Failure> {
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
    let tell: Tell = Arc::new(Mutex::new(tell));
    let mut manager = Manager {
        fall_back: (!network.interfaces.is_empty()).then(|| Instant::now() + NAMED_WAIT),
        network,
        shared,
        rtnl,
        links: HashMap::new(),
        addresses: Vec::new(),
        named: BTreeMap::new(),
        clients: HashMap::new(),
        routers: HashMap::new(),
        wifi: Wifi::new(wifi::DIRECTORY.into(), Arc::clone(&tell)),
        tell,
    };
    for link in links {
        manager.link(link);
    }
    manager.make_links();
    let handle = Handle(Arc::new(Mutex::new(manager)));
    let shared = Arc::clone(&handle.0);
    std::thread::Builder::new()
        .name("network".into())
        .stack_size(256 << 10)
        .spawn(move || run(&shared, &monitor))
        .map_err(Failure::from)?;
    Ok((handle, names.join(" ")))
}

/// Follows the kernel's events, for ever.
fn run(manager: &Mutex<Manager>, monitor: &Monitor) {
    loop {
        let events = monitor.next();
        let mut manager = lock(manager);
        match events {
            Ok(events) => {
                events.into_iter().for_each(|e| manager.event(e));
                manager.make_links();
                manager.use_unnamed();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // ENOBUFS: some were lost.
            Err(_) => match manager.rtnl.links() {
                Ok(links) => links.into_iter().for_each(|l| manager.link(l)),
                Err(error) => {
                    drop(manager);
                    say!("network: {error}");
                    std::thread::sleep(Duration::from_secs(1));
                }
            },
        }
    }
}

fn lock(manager: &Mutex<Manager>) -> MutexGuard<'_, Manager> {
    manager.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    /// Sets the network up otherwise. What is up must be what a node without network-config
    /// has: DHCP and router advertisements on devices, nothing made, nothing renamed.
    ///
    /// # Errors
    /// When the kernel refuses to list the interfaces; single ones are said on the console.
    pub fn change(&self, network: Network, hostname: Option<String>) -> Outcome {
        let mut manager = lock(&self.0);
        if network == manager.network && hostname == manager.shared.hostname {
            return Ok("as it was for fetching the seed".into());
        }
        manager.change(network, hostname)
    }
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

impl Manager {
    fn change(&mut self, network: Network, hostname: Option<String>) -> Outcome {
        for client in std::mem::take(&mut self.clients).into_values().flatten() {
            client.release();
        }
        for (index, link) in std::mem::take(&mut self.links) {
            self.wifi.leave(&link.name);
            // Down, so that what routers have given goes.
            if let Err(error) = self.rtnl.set_down(index) {
                say!("{}: setting it down: {error}", link.name);
            }
            let gone = [
                Source::Dhcp(link.name.clone()),
                Source::Dhcp6(link.name.clone()),
                Source::Router(link.name.clone()),
            ];
            for source in gone {
                self.shared.time_servers.set(source.clone(), Vec::new());
                self.shared.resolv.set(source, Vec::new(), Vec::new());
            }
            // At once: who waits for a network must not take the old one for it.
            let (gone, rest) = std::mem::take(&mut self.addresses)
                .into_iter()
                .partition(|(i, _)| *i == index);
            self.addresses = rest;
            let gone: Vec<(u32, IpAddr)> = gone;
            for (_, address) in gone {
                let interface = link.name.clone();
                tell(&self.tell, News::AddressGone { interface, address });
            }
        }
        // A second try begins here, with what was not changed yet.
        let links = self.rtnl.links().context("listing the interfaces")?;
        self.named.clear();
        self.fall_back = (!network.interfaces.is_empty()).then(|| Instant::now() + NAMED_WAIT);
        self.network = network;
        self.shared.hostname = hostname;
        for link in links {
            self.link(link);
        }
        self.make_links();
        Ok("changed to what the seed says".into())
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Link(link) => self.link(link),
            Event::LinkGone(index) => {
                if let Some(link) = self.links.remove(&index) {
                    self.wifi.leave(&link.name);
                }
                self.routers.remove(&index);
                self.tell_clients(index, Order::Stop);
                self.clients.remove(&index);
            }
            Event::Address(index, address, prefix) => {
                if let Some(link) = self.links.get(&index)
                    && is_global(&address)
                {
                    let interface = link.name.clone();
                    if !self.addresses.contains(&(index, address)) {
                        self.addresses.push((index, address));
                    }
                    let news = News::Address {
                        interface,
                        address,
                        prefix,
                    };
                    tell(&self.tell, news);
                }
            }
            Event::AddressGone(index, address) => {
                self.addresses.retain(|known| *known != (index, address));
                if let Some(link) = self.links.get(&index)
                    && is_global(&address)
                {
                    let interface = link.name.clone();
                    tell(&self.tell, News::AddressGone { interface, address });
                }
            }
            Event::Routers(index, flags) => {
                let is_ours = self.links.contains_key(&index);
                if is_ours && self.routers.insert(index, flags) != Some(flags) {
                    self.tell_clients(index, Order::Routers(flags));
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
        if changed {
            self.tell_clients(link.index, order);
        }
    }

    fn tell_clients(&self, index: u32, order: Order) {
        for client in self.clients.get(&index).into_iter().flatten() {
            client.tell(order);
        }
    }

    /// Sets up a device that has just appeared.
    fn first_seen(&mut self, link: &Link) {
        let device = Device::of(link);
        if self.network.interfaces.is_empty() && !device.wireless {
            self.set_up(link, &by_itself(&link.name));
            return;
        }
        match wishes::find(&self.network, &device).cloned() {
            Some(wish) => self.name(link, &wish),
            None => say!("{}: not in network-config, left alone", link.name),
        }
    }

    /// Sets up a link as an interface of the seed.
    fn name(&mut self, link: &Link, wish: &Interface) {
        let indices = self.named.entry(wish.id.clone()).or_default();
        indices.push(link.index);
        let mut link = link.clone();
        if let Err(error) = self.prepare(&mut link, wish) {
            say!("{}: {error}", link.name);
        }
        if let Kind::Wifi {
            access_points,
            country,
        } = &wish.kind
            && let Err(failure) = self.join_wireless(&link, access_points, country.as_deref())
        {
            say!("{}: {failure}", link.name);
        }
        if let Some(master) = wishes::master_of(&self.network, &wish.id).cloned() {
            self.join(&link, &master);
        }
        self.set_up(&link, wish);
    }

    /// Its name and hardware address, which want it down.
    fn prepare(&mut self, link: &mut Link, wish: &Interface) -> Result<(), Failure> {
        let mac = wish.macaddress.as_deref().and_then(wishes::mac_bytes);
        let mac = mac.filter(|mac| link.mac != Some(*mac));
        let name = wish.set_name.clone().filter(|name| *name != link.name);
        if mac.is_none() && name.is_none() {
            return Ok(());
        }
        if link.up {
            self.rtnl.set_down(link.index).context("setting it down")?;
        }
        if let Some(mac) = mac {
            let shown = wishes::mac_text(mac);
            self.rtnl
                .set_mac(link.index, mac)
                .context(format_args!("address {shown}"))?;
            link.mac = Some(mac);
        }
        if let Some(name) = name {
            self.rtnl
                .set_name(link.index, &name)
                .context(format_args!("name {name}"))?;
            say!("{} is {name} now", link.name);
            link.name = name;
        }
        Ok(())
    }

    /// Makes a link part of its bond or bridge, if that is there already.
    fn join(&mut self, link: &Link, master: &Interface) {
        let Some(index) = self.named.get(&master.id).and_then(|all| all.first()) else {
            return;
        };
        let joined = match (link.up, &master.kind) {
            // A bond takes only what is down.
            (true, Kind::Bond { .. }) => self.rtnl.set_down(link.index),
            _ => Ok(()),
        }
        .and_then(|()| self.rtnl.set_master(link.index, *index))
        .and_then(|()| self.rtnl.set_up(link.index));
        if let Err(error) = joined {
            say!("{}: joining {}: {error}", link.name, master.id);
        }
        if let Kind::Bond { parameters, .. } = &master.kind
            && let Some(primary) = &parameters.primary
            && self
                .named
                .get(primary)
                .is_some_and(|all| all.contains(&link.index))
        {
            wishes::set_primary(&master.id, &link.name);
        }
    }

    /// Makes the bonds, bridges and VLANs that can be made by now.
    fn make_links(&mut self) {
        for wish in self.network.interfaces.clone() {
            if self.named.contains_key(&wish.id) {
                continue;
            }
            let made = match &wish.kind {
                Kind::Ethernet | Kind::Wifi { .. } => continue,
                Kind::Bond { .. } => Made::Bond,
                Kind::Bridge { .. } => Made::Bridge,
                Kind::Vlan { tag, link } => {
                    match self.named.get(link).and_then(|all| all.first()) {
                        Some(parent) => Made::Vlan {
                            parent: *parent,
                            tag: *tag,
                        },
                        None => continue,
                    }
                }
            };
            if let Err(error) = self.make_link(&wish, made) {
                say!("{}: {error}", wish.id);
                // Not tried with each event that comes.
                self.named.entry(wish.id).or_default();
            }
        }
    }

    fn make_link(&mut self, wish: &Interface, made: Made) -> Result<(), Failure> {
        match self.rtnl.add_link(&wish.id, made) {
            // From before this process started anew.
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            other => other.context("making it")?,
        }
        let links = self.rtnl.links().context("listing the interfaces")?;
        let link = (links.into_iter().find(|link| link.name == wish.id))
            .ok_or_else(|| Failure("it was made and isn't there".into()))?;
        match &wish.kind {
            Kind::Bond { parameters, .. } => wishes::set_bond(&wish.id, parameters),
            Kind::Bridge { parameters, .. } => wishes::set_bridge(&wish.id, parameters),
            _ => {}
        }
        self.name(&link, wish);
        for member in wish.kind.needs() {
            for index in self.named.get(member).cloned().unwrap_or_default() {
                if let (Some(link), false) = (
                    self.links.get(&index).cloned(),
                    matches!(wish.kind, Kind::Vlan { .. }),
                ) {
                    self.join(&link, wish);
                }
            }
        }
        // Its changes of state come as events, which find it known.
        self.links.insert(link.index, Link { up: false, ..link });
        Ok(())
    }

    /// DHCP for what is there, if nothing that the seed names has come.
    fn use_unnamed(&mut self) {
        if self.fall_back.is_none_or(|at| Instant::now() < at) {
            return;
        }
        self.fall_back = None;
        let devices = |wish: &&Interface| wishes::is_device(wish);
        // A radio without a network is of no use: its passphrase may be wrong.
        let is_joined = |index| self.links.get(index).is_some_and(|link| link.carrier);
        let came = |wish: &Interface| match (self.named.get(&wish.id), &wish.kind) {
            (Some(indices), Kind::Wifi { .. }) => indices.iter().any(is_joined),
            (found, _) => found.is_some(),
        };
        if self.network.interfaces.iter().filter(devices).any(came) {
            return;
        }
        let links = self.links.clone().into_values();
        for link in links.filter(|link| !wifi::is_wireless(&link.name)) {
            say!(
                "{}: no interface of network-config can be used; DHCP is used",
                link.name
            );
            self.set_up(&link, &by_itself(&link.name));
        }
    }
}

/// What an interface gets without a network-config.
fn by_itself(name: &str) -> Interface {
    Interface {
        dhcp4: true,
        ..Interface::new(name, Kind::Ethernet)
    }
}

/// Link-local servers need their interface, which resolv.conf cannot be given here as a
/// type: they are left out.
fn scoped(servers: Vec<IpAddr>, _link: &Link) -> Vec<IpAddr> {
    servers.into_iter().filter(is_global).collect()
}
