//! What the keys of `network-config` mean together: that each interface named is there,
//! that none is made of itself, and that routes lead somewhere.

use std::net::IpAddr;

use super::graph::{Place, references};
use super::netplan::{
    AccessPointKeys, BondParameterKeys, BridgeParameterKeys, Destination, KeyManagement, MatchKeys,
    NameserverKeys, NetworkKeys, OverrideKeys, RouteKeys,
};
use super::network::{
    AccessPoint, BondParameters, BridgeParameters, Interface, InterfaceAddress, Kind, Match,
    Network, Overrides, Route, WifiSecurity,
};
use super::read::{At, Cx, Number, Word};
use super::words::{InterfaceId, InterfaceName};
use super::{Cidr, Cluster};

/// The fields that all kinds of interfaces have.
macro_rules! common {
    ($keys:expr, $id:expr, $kind:expr, $cluster:expr, $cx:expr) => {{
        let keys = $keys;
        let mut routes = routes(keys.routes, $cx);
        for gateway in [keys.gateway4, keys.gateway6].into_iter().flatten() {
            routes.push(gateway_route(&gateway, $cx));
        }
        let (nameservers, search) = nameservers(keys.nameservers);
        Interface {
            id: $id,
            kind: $kind,
            matching: None,
            set_name: None,
            macaddress: keys.macaddress.map(|mac| mac.value.0),
            dhcp4: yes(&keys.dhcp4),
            dhcp6: yes(&keys.dhcp6),
            dhcp4_overrides: overrides(keys.dhcp4_overrides),
            dhcp6_overrides: overrides(keys.dhcp6_overrides),
            addresses: addresses(keys.addresses, $cluster, $cx),
            routes,
            nameservers,
            search,
            mtu: keys.mtu.map(narrow),
            accept_ra: keys.accept_ra.map(|accept| accept.value),
            optional: yes(&keys.optional),
        }
    }};
}

/// What only devices have: a match and a new name.
macro_rules! device {
    ($keys:expr, $id:expr, $kind:expr, $cluster:expr, $cx:expr) => {{
        let mut keys = $keys;
        let (matching, name) = (keys.matching.take(), keys.set_name.take());
        if let Some(name) = name.as_ref().filter(|_| matching.is_none()) {
            $cx.error(
                &name.spot,
                "needs a `match` beside it that says which device is meant",
            );
        }
        let matching = matching.map(|matching| checked_match(matching, $cx));
        if matching.is_none() && InterfaceName::parse(&$id.value).is_err() {
            $cx.error(&$id.spot, "is no interface's name, and there is no `match`");
        }
        let mut interface = common!(keys, $id.value, $kind, $cluster, $cx);
        interface.matching = matching;
        interface.set_name = name.map(|name| name.value.0);
        interface
    }};
}

/// Takes all interfaces, and checks them together.
pub(super) fn check(keys: NetworkKeys, cluster: &Cluster, cx: &mut Cx) -> Network {
    let mut network = Network::default();
    let mut places: Vec<Place> = Vec::new();
    let mut add = |interface: Interface, place: Place, cx: &mut Cx| {
        if network
            .interfaces
            .iter()
            .any(|other| other.id == interface.id)
        {
            cx.error(&place.own, "is the id of another interface, too");
            return;
        }
        network.interfaces.push(interface);
        places.push(place);
    };
    for (id, keys) in keys
        .ethernets
        .map(|all| all.value.entries)
        .unwrap_or_default()
    {
        let place = alone(&id);
        let interface = device!(keys.value, id, Kind::Ethernet, cluster, cx);
        add(interface, place, cx);
    }
    for (id, keys) in keys.wifis.map(|all| all.value.entries).unwrap_or_default() {
        let place = alone(&id);
        let mut keys = keys.value;
        let points = keys.access_points.take().map(|points| points.value.entries);
        let points = points.unwrap_or_default();
        if points.is_empty() {
            cx.lacks(&id.spot, "access-points", " to join");
        }
        let access_points = points
            .into_iter()
            .map(|(ssid, keys)| access_point(&ssid, keys.value, cx));
        let kind = Kind::Wifi {
            access_points: access_points.collect(),
            country: keys.country.take().map(|country| country.value.0),
        };
        let interface = device!(keys, id, kind, cluster, cx);
        add(interface, place, cx);
    }
    for (id, keys) in keys.vlans.map(|all| all.value.entries).unwrap_or_default() {
        let mut keys = keys.value;
        let mut place = made(&id, cx);
        let (Some(tag), Some(link)) = (keys.tag.take(), keys.link.take()) else {
            cx.lacks(
                &id.spot,
                "id",
                ", its number, or `link`, the interface it is on",
            );
            continue;
        };
        place.references.push((link.value.0.clone(), link.spot));
        place.members = false;
        let kind = Kind::Vlan {
            // At most 4094.
            tag: u16::try_from(tag.value.0).unwrap_or_default(),
            link: link.value.0,
        };
        let interface = common!(keys, id.value, kind, cluster, cx);
        add(interface, place, cx);
    }
    for (id, keys) in keys.bonds.map(|all| all.value.entries).unwrap_or_default() {
        let mut keys = keys.value;
        let mut place = made(&id, cx);
        let members = members(keys.members.take(), &mut place);
        let parameters = keys.parameters.take();
        let parameters = parameters
            .map(|p| bond(p.value, &members, cx))
            .unwrap_or_default();
        let interface = common!(
            keys,
            id.value,
            Kind::Bond {
                members,
                parameters
            },
            cluster,
            cx
        );
        add(interface, place, cx);
    }
    for (id, keys) in keys
        .bridges
        .map(|all| all.value.entries)
        .unwrap_or_default()
    {
        let mut keys = keys.value;
        let mut place = made(&id, cx);
        let members = members(keys.members.take(), &mut place);
        let parameters = keys
            .parameters
            .take()
            .map(|p| bridge(p.value))
            .unwrap_or_default();
        let interface = common!(
            keys,
            id.value,
            Kind::Bridge {
                members,
                parameters
            },
            cluster,
            cx
        );
        add(interface, place, cx);
    }
    references(&network, &places, cx);
    network
}

fn alone(id: &At<String>) -> Place {
    Place {
        own: id.spot.clone(),
        references: Vec::new(),
        members: false,
    }
}

/// The place of an interface that the node makes: its id is its name.
fn made(id: &At<String>, cx: &mut Cx) -> Place {
    if let Err(why) = InterfaceName::parse(id) {
        cx.error(&id.spot, why);
    }
    Place {
        members: true,
        ..alone(id)
    }
}

fn members(given: Option<At<Vec<At<InterfaceId>>>>, place: &mut Place) -> Vec<String> {
    let given = given.map(|all| all.value).unwrap_or_default();
    place.references = given
        .into_iter()
        .map(|one| (one.value.0, one.spot))
        .collect();
    place.references.iter().map(|(id, _)| id.clone()).collect()
}

fn checked_match(given: At<MatchKeys>, cx: &mut Cx) -> Match {
    let keys = given.value;
    let matching = Match {
        macaddress: keys.macaddress.map(|mac| mac.value.0),
        name: keys.name.map(|name| name.value.0),
        driver: keys
            .driver
            .map(|all| all.value.0)
            .unwrap_or_default()
            .into_iter()
            .map(|one| one.value.0)
            .collect(),
    };
    if matching == Match::default() {
        cx.warn(
            &given.spot,
            "says nothing, so it holds for every device of this kind",
        );
    }
    matching
}

fn access_point(ssid: &At<String>, keys: AccessPointKeys, cx: &mut Cx) -> AccessPoint {
    if ssid.is_empty() || ssid.len() > 32 {
        cx.error(&ssid.spot, "is no wireless network's name: 1 to 32 bytes");
    }
    let auth = keys.auth.map(|auth| auth.value);
    let (management, inner) = auth.map_or((None, None), |auth| (auth.management, auth.password));
    let password = inner.or(keys.password);
    let security = match (management.as_ref().map(|m| m.value), password) {
        (Some(KeyManagement::Open), Some(password)) => {
            cx.error(&password.spot, "stands beside `key-management: none`");
            WifiSecurity::Open
        }
        (Some(KeyManagement::Open) | None, None) => {
            if !cx.is_reported(&ssid.spot, "password") && !cx.is_reported(&ssid.spot, "auth") {
                cx.warn(
                    &ssid.spot,
                    "has no password: all that is sent is readable for everyone near",
                );
            }
            WifiSecurity::Open
        }
        (Some(_), None) => {
            cx.lacks(&ssid.spot, "password", "");
            WifiSecurity::Open
        }
        (Some(KeyManagement::Sae), Some(password)) => {
            if password.value.0.reveal().len() == 64 {
                cx.error(
                    &password.spot,
                    "is a key of WPA2; WPA3 wants the passphrase itself",
                );
            }
            WifiSecurity::Wpa3(password.value.0)
        }
        (Some(KeyManagement::Psk) | None, Some(password)) => WifiSecurity::Wpa2(password.value.0),
    };
    AccessPoint {
        ssid: ssid.value.clone(),
        security,
        hidden: yes(&keys.hidden),
        bssid: keys.bssid.map(|mac| mac.value.0),
    }
}

/// Fixed addresses. One that lies in a network of the cluster couldn't be reached by pods.
fn addresses(
    given: Option<At<Vec<At<InterfaceAddress>>>>,
    cluster: &Cluster,
    cx: &mut Cx,
) -> Vec<InterfaceAddress> {
    let taken = [
        ("pod-cidr", cluster.pod_cidr),
        ("service-cidr", cluster.service_cidr),
    ];
    let mut addresses = Vec::new();
    for given in given.map(|all| all.value).unwrap_or_default() {
        let address = given.value;
        if addresses.contains(&address) {
            cx.warn(&given.spot, "is given twice");
        }
        for (name, network) in taken.iter().filter(|(_, n)| n.contains(address.address)) {
            let message = format!(
                "{address} lies in the cluster's {name} {network}; give the cluster another one in user-data"
            );
            cx.error(&given.spot, message);
        }
        addresses.push(address);
    }
    addresses
}

fn routes(given: Option<At<Vec<At<RouteKeys>>>>, cx: &mut Cx) -> Vec<Route> {
    let mut routes = Vec::new();
    for route in given.map(|all| all.value).unwrap_or_default() {
        let keys = route.value;
        let Some(to) = keys.to else {
            cx.lacks(&route.spot, "to", "");
            continue;
        };
        let via = keys.via.as_ref().map(|via| via.value);
        let to = match (to.value, via) {
            (Destination::Network(network), _) => network,
            (Destination::Default, Some(via)) => everything(via),
            (Destination::Default, None) => {
                cx.error(&route.spot, "leads to `default` and has no `via`");
                continue;
            }
        };
        if let Some(via) = keys.via.as_ref()
            && via.value.is_ipv4() != to.address().is_ipv4()
        {
            cx.error(&via.spot, format!("is not of the family of {to}"));
        }
        routes.push(Route {
            to,
            via,
            metric: keys.metric.map(narrow),
            on_link: yes(&keys.on_link),
            mtu: keys.mtu.map(narrow),
        });
    }
    routes
}

fn everything(router: IpAddr) -> Cidr {
    match router {
        IpAddr::V4(_) => Cidr::v4([0; 4], 0),
        IpAddr::V6(_) => Cidr::V6_ALL,
    }
}

fn gateway_route(gateway: &At<IpAddr>, cx: &mut Cx) -> Route {
    cx.warn(
        &gateway.spot,
        "is an older form; write `routes: [{to: default, via: ADDRESS}]`",
    );
    Route {
        to: everything(gateway.value),
        via: Some(gateway.value),
        metric: None,
        on_link: false,
        mtu: None,
    }
}

fn nameservers(given: Option<At<NameserverKeys>>) -> (Vec<IpAddr>, Vec<String>) {
    let Some(given) = given else {
        return (Vec::new(), Vec::new());
    };
    let addresses = given
        .value
        .addresses
        .map(|all| all.value)
        .unwrap_or_default();
    let search = given.value.search.map(|all| all.value).unwrap_or_default();
    (
        addresses.into_iter().map(|one| one.value).collect(),
        search.into_iter().map(|one| one.value.0).collect(),
    )
}

fn overrides(given: Option<At<OverrideKeys>>) -> Overrides {
    let default = Overrides::default();
    let Some(keys) = given.map(|given| given.value) else {
        return default;
    };
    let or = |given: &Option<At<bool>>, default: bool| {
        given.as_ref().map_or(default, |given| given.value)
    };
    Overrides {
        use_dns: or(&keys.use_dns, default.use_dns),
        use_ntp: or(&keys.use_ntp, default.use_ntp),
        use_routes: or(&keys.use_routes, default.use_routes),
        use_mtu: or(&keys.use_mtu, default.use_mtu),
        use_hostname: or(&keys.use_hostname, default.use_hostname),
        use_domains: keys
            .use_domains
            .map_or(default.use_domains, |domains| domains.value.0),
        send_hostname: or(&keys.send_hostname, default.send_hostname),
        hostname: keys.hostname.map(|name| name.value.0),
        route_metric: keys.route_metric.map(narrow),
    }
}

fn bond(keys: BondParameterKeys, members: &[String], cx: &mut Cx) -> BondParameters {
    if let Some(primary) = keys
        .primary
        .as_ref()
        .filter(|primary| !members.contains(&primary.value.0))
    {
        cx.error(&primary.spot, "is not among the bond's `interfaces`");
    }
    BondParameters {
        mode: keys.mode.map(|mode| mode.value.0.to_owned()),
        mii_monitor_interval: keys.mii.map(narrow),
        lacp_rate: keys.lacp_rate.map(|rate| rate.value.0.to_owned()),
        transmit_hash_policy: keys.hash.map(|policy| policy.value.0.to_owned()),
        primary: keys.primary.map(|primary| primary.value.0),
        up_delay: keys.up_delay.map(narrow),
        down_delay: keys.down_delay.map(narrow),
    }
}

fn bridge(keys: BridgeParameterKeys) -> BridgeParameters {
    BridgeParameters {
        stp: keys.stp.map(|stp| stp.value),
        forward_delay: keys.forward_delay.map(narrow),
        hello_time: keys.hello_time.map(narrow),
        max_age: keys.max_age.map(narrow),
        ageing_time: keys.ageing_time.map(narrow),
        priority: keys.priority.map(narrow),
    }
}

fn yes(given: &Option<At<bool>>) -> bool {
    given.as_ref().is_some_and(|given| given.value)
}

/// A number whose bounds fit into 32 bits.
fn narrow<const MIN: u64, const MAX: u64>(given: At<Number<MIN, MAX>>) -> u32 {
    u32::try_from(given.value.0).unwrap_or(u32::MAX)
}
