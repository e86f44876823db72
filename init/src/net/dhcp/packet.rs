//! DHCPv4 messages, and the IP and UDP headers around them.
//!
//! RFC 2131, section 2, figure 1; options in RFC 2132, classless routes in RFC 3442:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | op: 1 request, 2 reply |
//! | 1 | 1 | htype, 1 |
//! | 2 | 1 | hlen, 6 |
//! | 4 | 4 | xid |
//! | 8 | 2 | secs |
//! | 10 | 2 | flags: 0x8000 broadcast |
//! | 12 | 4 | ciaddr |
//! | 16 | 4 | yiaddr |
//! | 20 | 4 | siaddr |
//! | 24 | 4 | giaddr |
//! | 28 | 16 | chaddr |
//! | 44 | 192 | sname, file (may hold options: 52) |
//! | 236 | 4 | 63 82 53 63 |
//! | 240 | | options: code, length, value; 255 ends |
//!
//! Own code: `dhcproto` brings a DNS library with its Unicode tables into PID 1.

use std::net::Ipv4Addr;

/// Port of servers.
pub const SERVER_PORT: u16 = 67;
/// Port of clients.
pub const CLIENT_PORT: u16 = 68;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const FIXED: usize = 236;
/// The least size of a message that old relays take (BOOTP's).
const MIN_MESSAGE: usize = 300;

/// Kinds of messages (option 53).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Looks for servers.
    Discover,
    /// A server's offer.
    Offer,
    /// Takes an offer, renews, or asks whether an old lease is still good.
    Request,
    /// The server refuses.
    Nak,
    /// The server agrees.
    Ack,
    /// Gives a lease back.
    Release,
    /// Any other.
    Other(u8),
}

impl Kind {
    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Discover,
            2 => Self::Offer,
            3 => Self::Request,
            5 => Self::Ack,
            6 => Self::Nak,
            7 => Self::Release,
            other => Self::Other(other),
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Discover => 1,
            Self::Offer => 2,
            Self::Request => 3,
            Self::Ack => 5,
            Self::Nak => 6,
            Self::Release => 7,
            Self::Other(other) => other,
        }
    }
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it is.
    pub kind: Kind,
    /// Number of the exchange.
    pub xid: u32,
    /// Seconds since the client began.
    pub secs: u16,
    /// The interface's address.
    pub mac: [u8; 6],
    /// The client's address, once it has one.
    pub ciaddr: Ipv4Addr,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 12.
    pub hostname: Option<String>,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What it is.
    pub kind: Kind,
    /// Number of the exchange.
    pub xid: u32,
    /// Whom it is for.
    pub mac: [u8; 6],
    /// The address given.
    pub yiaddr: Ipv4Addr,
    /// Option 54.
    pub server: Option<Ipv4Addr>,
    /// Option 1, as a prefix length.
    pub prefix: Option<u8>,
    /// Option 3.
    pub routers: Vec<Ipv4Addr>,
    /// Option 6.
    pub dns: Vec<Ipv4Addr>,
    /// Option 42.
    pub ntp: Vec<Ipv4Addr>,
    /// Option 15.
    pub domain: Option<String>,
    /// Option 12.
    pub hostname: Option<String>,
    /// Option 26, in bytes.
    pub mtu: Option<u16>,
    /// Option 51, in seconds.
    pub lease: Option<u32>,
    /// Option 58, in seconds.
    pub renewal: Option<u32>,
    /// Option 59, in seconds.
    pub rebinding: Option<u32>,
    /// Option 121: destination, prefix length, gateway (unspecified: on the link).
    pub routes: Option<Vec<(Ipv4Addr, u8, Ipv4Addr)>>,
    /// Option 56.
    pub message: Option<String>,
}

impl Request {
    /// The message as it goes into UDP.
    pub fn encode(&self) -> Vec<u8> {
        let mut m = vec![0; FIXED];
        m[0] = 1;
        m[1] = 1;
        m[2] = 6;
        m[4..8].copy_from_slice(&self.xid.to_be_bytes());
        m[8..10].copy_from_slice(&self.secs.to_be_bytes());
        m[12..16].copy_from_slice(&self.ciaddr.octets());
        m[28..34].copy_from_slice(&self.mac);
        m.extend_from_slice(&MAGIC);
        let mut option = |code: u8, value: &[u8]| {
            let value = value.get(..255).unwrap_or(value);
            m.extend_from_slice(&[code, value.len() as u8]);
            m.extend_from_slice(value);
        };
        option(53, &[self.kind.code()]);
        // Client identifier: type Ethernet and the address (RFC 2132, 9.14).
        let mut id = [1; 7];
        id[1..].copy_from_slice(&self.mac);
        option(61, &id);
        if let Some(address) = self.requested {
            option(50, &address.octets());
        }
        if let Some(server) = self.server {
            option(54, &server.octets());
        }
        if self.kind != Kind::Release {
            option(57, &1472u16.to_be_bytes());
            // 121 must stand before 3 (RFC 3442).
            option(55, &[1, 121, 3, 6, 12, 15, 26, 42, 51, 58, 59]);
            if let Some(hostname) = &self.hostname {
                option(12, hostname.as_bytes());
            }
        }
        m.push(255);
        m.resize(m.len().max(MIN_MESSAGE), 0);
        m
    }
}

/// All options, those of the same code joined (RFC 3396).
fn options(message: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    let mut all: Vec<(u8, Vec<u8>)> = Vec::new();
    collect(message.get(FIXED + 4..)?, &mut all);
    let overload = all
        .iter()
        .find(|(c, _)| *c == 52)
        .and_then(|(_, v)| v.first().copied());
    if let Some(which) = overload {
        if which & 1 != 0 {
            collect(message.get(108..236)?, &mut all);
        }
        if which & 2 != 0 {
            collect(message.get(44..108)?, &mut all);
        }
    }
    Some(all)
}

fn collect(mut bytes: &[u8], all: &mut Vec<(u8, Vec<u8>)>) {
    while let Some((&code, rest)) = bytes.split_first() {
        match code {
            0 => bytes = rest,
            255 => return,
            code => {
                let Some((&length, rest)) = rest.split_first() else {
                    return;
                };
                let Some(value) = rest.get(..usize::from(length)) else {
                    return;
                };
                match all.iter_mut().find(|(c, _)| *c == code) {
                    Some((_, joined)) => joined.extend_from_slice(value),
                    None => all.push((code, value.to_vec())),
                }
                bytes = rest.get(usize::from(length)..).unwrap_or_default();
            }
        }
    }
}

fn addresses(value: &[u8]) -> Vec<Ipv4Addr> {
    value
        .chunks_exact(4)
        .map(|c| Ipv4Addr::new(c[0], c[1], c[2], c[3]))
        .filter(|a| !a.is_unspecified())
        .collect()
}

fn prefix_of_mask(value: &[u8]) -> Option<u8> {
    let mask = u32::from_be_bytes(value.try_into().ok()?);
    let ones = mask.leading_ones();
    (mask.checked_shl(ones).unwrap_or(0) == 0).then_some(ones as u8)
}

fn parse_routes(mut value: &[u8]) -> Option<Vec<(Ipv4Addr, u8, Ipv4Addr)>> {
    let mut routes = Vec::new();
    while let Some((&prefix, rest)) = value.split_first() {
        if prefix > 32 {
            return None;
        }
        let significant = usize::from(prefix).div_ceil(8);
        let mut destination = [0; 4];
        destination
            .get_mut(..significant)?
            .copy_from_slice(rest.get(..significant)?);
        let gateway: [u8; 4] = rest.get(significant..significant + 4)?.try_into().ok()?;
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        let destination = u32::from_be_bytes(destination) & mask;
        routes.push((destination.into(), prefix, gateway.into()));
        value = rest.get(significant + 4..)?;
    }
    Some(routes)
}

/// A name from a server; what could do harm in resolv.conf is refused.
fn name(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim_end_matches('\0');
    let sane = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (!text.is_empty() && text.len() < 254 && text.chars().all(sane)).then(|| text.to_owned())
}

impl Reply {
    /// Parses what came in UDP; `None` for what is no reply of DHCP.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let field4 = |at: usize| -> Option<[u8; 4]> { message.get(at..at + 4)?.try_into().ok() };
        if message.first() != Some(&2) || field4(FIXED)? != MAGIC {
            return None;
        }
        let mut mac = [0; 6];
        mac.copy_from_slice(message.get(28..34)?);
        let options = options(message)?;
        let get = |code: u8| {
            options
                .iter()
                .find(|(c, _)| *c == code)
                .map(|(_, v)| v.as_slice())
        };
        let seconds = |code: u8| {
            get(code)
                .and_then(|v| v.try_into().ok())
                .map(u32::from_be_bytes)
        };
        let list = |code: u8| get(code).map(addresses).unwrap_or_default();
        Some(Self {
            kind: Kind::from_code(*get(53)?.first()?),
            xid: u32::from_be_bytes(field4(4)?),
            mac,
            yiaddr: field4(16)?.into(),
            server: list(54).first().copied(),
            prefix: get(1).and_then(prefix_of_mask),
            routers: list(3),
            dns: list(6),
            ntp: list(42),
            domain: get(15).and_then(name),
            hostname: get(12).and_then(name),
            mtu: get(26)
                .and_then(|v| v.try_into().ok())
                .map(u16::from_be_bytes),
            lease: seconds(51),
            renewal: seconds(58),
            rebinding: seconds(59),
            routes: get(121).and_then(parse_routes),
            message: get(56).map(|v| String::from_utf8_lossy(v).into_owned()),
        })
    }
}

/// The Internet checksum (RFC 1071).
fn checksum<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Puts IP and UDP headers before a message from a client without address to all servers.
pub fn broadcast_packet(message: &[u8]) -> Vec<u8> {
    let udp_length = (8 + message.len()) as u16;
    let mut ip = [0u8; 20];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(20 + udp_length).to_be_bytes());
    ip[8] = 64;
    ip[9] = 17;
    ip[16..20].copy_from_slice(&Ipv4Addr::BROADCAST.octets());
    let sum = checksum([ip.as_slice()]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut udp = [0u8; 8];
    udp[0..2].copy_from_slice(&CLIENT_PORT.to_be_bytes());
    udp[2..4].copy_from_slice(&SERVER_PORT.to_be_bytes());
    udp[4..6].copy_from_slice(&udp_length.to_be_bytes());
    let length = udp_length.to_be_bytes();
    let pseudo = [&ip[12..20], &[0, 17], &length].concat();
    let sum = match checksum([pseudo.as_slice(), &udp, message]) {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    [ip.as_slice(), &udp, message].concat()
}

/// The DHCP message in an IPv4 packet from a server; `None` for any other packet.
///
/// UDP's checksum is not looked at: a host's virtual interface may leave it to hardware that
/// does not exist. The message's own fields tell whether it is for us.
pub fn payload(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    let header = usize::from(first & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    let fragment = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?) & 0x3fff;
    if first >> 4 != 4 || header < 20 || fragment != 0 || packet.get(9) != Some(&17) {
        return None;
    }
    if checksum([packet.get(..header)?]) != 0 {
        return None;
    }
    let udp = packet.get(header..total)?;
    let port = |at: usize| -> Option<u16> {
        Some(u16::from_be_bytes(udp.get(at..at + 2)?.try_into().ok()?))
    };
    if port(0)? != SERVER_PORT || port(2)? != CLIENT_PORT {
        return None;
    }
    udp.get(8..usize::from(port(4)?))
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
