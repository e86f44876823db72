//! What one interface gets: a wireless network, addresses, routes, names, and clients for DHCP.

use std::io;
use std::path::Path;

use slipway_images::seed::network::{AccessPoint, Interface, Kind, Route};

use super::resolv::Source;
use super::rtnl::Link;
use super::{Manager, dhcp, dhcp6, wifi, wishes};
use crate::phase::{Context, Failure};
use crate::{files, say};

/// Metrics of the seed's routes that have none. DHCP's begin at 1000.
const METRIC: u32 = 100;
/// While a cable is plugged in, it is used.
const WIFI_METRIC: u32 = 600;
const WIFI_DHCP_METRIC: u32 = 3000;

impl Manager {
    /// Does all of it.
    pub(super) fn set_up(&mut self, link: &Link, wish: &Interface) {
        let name = &link.name;
        // 2: take router advertisements although the node forwards for its pods.
        let value = if wish.accept_ra == Some(false) {
            "0"
        } else {
            "2"
        };
        let accept = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
        if Path::new(&accept).exists()
            && let Err(error) = files::write_existing(&accept, value)
        {
            say!("{name}: accept_ra: {error}");
        }
        if let Err(error) = self.configure(link, wish) {
            say!("{name}: {error}");
        }
        if let Some(mac) = link.mac {
            let interface = dhcp::Interface {
                index: link.index,
                name: name.clone(),
                mac,
            };
            self.start_clients(&interface, wish);
        }
    }

    /// Has wpa_supplicant join a network with it. DHCP then waits for that as for a cable.
    pub(super) fn join_wireless(
        &mut self,
        link: &Link,
        access_points: &[AccessPoint],
        country: Option<&str>,
    ) -> Result<(), Failure> {
        if !wifi::is_there() {
            return Err(Failure(format!(
                "no wireless network is joined: this image lacks {}. Add the package \
                 wpasupplicant by `inherits = [..., \"base-wifi\"]` in the board's TOML",
                wifi::PROGRAM
            )));
        }
        // wpa_supplicant follows the switch, too.
        if let Err(failure) = wifi::unblock(&link.name) {
            say!("{}: {failure}", link.name);
        }
        self.wifi.join(&link.name, access_points, country)
    }

    fn start_clients(&mut self, interface: &dhcp::Interface, wish: &Interface) {
        let (name, shared) = (&interface.name, &self.shared);
        let mut clients = Vec::new();
        if wish.dhcp4 {
            let mut overrides = wish.dhcp4_overrides.clone();
            if let Kind::Wifi { .. } = wish.kind {
                let metric = WIFI_DHCP_METRIC + interface.index;
                overrides.route_metric.get_or_insert(metric);
            }
            match dhcp::start(interface.clone(), shared.clone(), overrides) {
                Ok(client) => clients.push(client),
                Err(error) => say!("{name}: no DHCP: {error}"),
            }
        }
        // What is part of a bond or bridge has no addresses of its own, unless asked for.
        if wishes::master_of(&self.network, &wish.id).is_some() && !wish.dhcp6 {
            self.clients.insert(interface.index, clients);
            return;
        }
        let routers = self.routers.get(&interface.index).copied();
        let routers = routers.unwrap_or_default();
        match dhcp6::start(interface.clone(), shared.clone(), wish, routers) {
            Ok(client) => clients.extend(client),
            Err(error) => say!("{name}: no DHCPv6: {error}"),
        }
        self.clients.insert(interface.index, clients);
    }

    fn configure(&mut self, link: &Link, wish: &Interface) -> Result<(), Failure> {
        if let Some(mtu) = wish.mtu {
            self.rtnl
                .set_mtu(link.index, mtu)
                .context(format_args!("MTU {mtu}"))?;
        }
        self.rtnl.set_up(link.index).context("setting it up")?;
        for own in &wish.addresses {
            self.rtnl
                .add_address(link.index, own.address, own.prefix, None)
                .context(format_args!("address {own}"))?;
        }
        for route in &wish.routes {
            let metric = match wish.kind {
                Kind::Wifi { .. } => WIFI_METRIC,
                _ => METRIC,
            };
            self.add_route(link, route, metric)
                .context(format_args!("route to {}", route.to))?;
        }
        let source = Source::Static(link.name.clone());
        self.shared
            .resolv
            .set(source, wish.nameservers.clone(), wish.search.clone());
        Ok(())
    }

    /// Adds a route; without a metric of its own it gets `metric` and the link's index.
    fn add_route(&mut self, link: &Link, route: &Route, metric: u32) -> io::Result<()> {
        let metric = route.metric.unwrap_or(metric + link.index);
        if let (true, Some(via)) = (route.on_link, route.via) {
            let width = if via.is_ipv4() { 32 } else { 128 };
            self.rtnl
                .add_route(link.index, (via, width), None, metric)?;
        }
        let to = (route.to.address(), route.to.prefix());
        self.rtnl.add_route(link.index, to, route.via, metric)
    }
}
