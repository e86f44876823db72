//! DHCPv6 messages between client and server.
//!
//! RFC 9915 (before: RFC 8415), section 8, figure 2; options in section 21:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | msg-type |
//! | 1 | 3 | transaction-id |
//! | 4 | | options: code 2, length 2, value |
//!
//! | option | value |
//! |---|---|
//! | 1, 2 client and server identifier | a DUID |
//! | 3 IA_NA | IAID 4, T1 4, T2 4, options |
//! | 5 IA address, inside of 3 | address 16, preferred lifetime 4, valid lifetime 4, options |
//! | 6 option request | codes, 2 each |
//! | 7 preference | 1 |
//! | 8 elapsed time | hundredths of a second, 2 |
//! | 13 status, also inside of 3 and 5 | code 2, text |
//! | 14 rapid commit | |
//! | 23 DNS servers, 31 SNTP servers | addresses, 16 each (RFC 3646, RFC 4075) |
//! | 24 domains | names as in DNS, uncompressed (RFC 3646) |
//! | 32 information refresh time | seconds, 4 |
//! | 39 client's name | flags 1, name as in DNS (RFC 4704) |
//! | 56 NTP servers | options: 1 address 16, 2 multicast address 16, 3 name as in DNS (RFC 5908) |
//! | 82, 83 SOL_MAX_RT, INF_MAX_RT | seconds, 4 |
//!
//! Own code, as that of DHCPv4: `dhcproto` brings a DNS library with it.

use std::net::Ipv6Addr;

/// Port of clients.
pub const CLIENT_PORT: u16 = 546;
/// Port of servers.
pub const SERVER_PORT: u16 = 547;
/// All servers and relays of a link.
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_ADDRESS: u16 = 5;
const OPTION_REQUEST: u16 = 6;
const PREFERENCE: u16 = 7;
const ELAPSED: u16 = 8;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
const DNS: u16 = 23;
const DOMAINS: u16 = 24;
const SNTP: u16 = 31;
const REFRESH: u16 = 32;
const CLIENT_NAME: u16 = 39;
const NTP: u16 = 56;
const SOL_MAX_RT: u16 = 82;
const INF_MAX_RT: u16 = 83;

/// Most addresses that are taken from one message.
const MOST_ADDRESSES: usize = 8;
/// Longest DUID, in bytes (section 11.1).
const LONGEST_DUID: usize = 130;

/// Kinds of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Looks for servers.
    Solicit,
    /// A server's offer.
    Advertise,
    /// Takes an offer.
    Request,
    /// Asks whether an old address still fits the link.
    Confirm,
    /// Asks the server that gave the address for more time.
    Renew,
    /// Asks all servers for more time.
    Rebind,
    /// A server's answer.
    Reply,
    /// Gives addresses back.
    Release,
    /// Says that another machine has an address already.
    Decline,
    /// Asks for settings without an address.
    InformationRequest,
    /// Any other.
    Other(u8),
}

impl Kind {
    const ALL: [(u8, Self); 10] = [
        (1, Self::Solicit),
        (2, Self::Advertise),
        (3, Self::Request),
        (4, Self::Confirm),
        (5, Self::Renew),
        (6, Self::Rebind),
        (7, Self::Reply),
        (8, Self::Release),
        (9, Self::Decline),
        (11, Self::InformationRequest),
    ];

    fn from_code(code: u8) -> Self {
        let known = Self::ALL.iter().find(|(c, _)| *c == code);
        known.map_or(Self::Other(code), |(_, kind)| *kind)
    }

    fn code(self) -> u8 {
        match self {
            Self::Other(code) => code,
            kind => Self::ALL
                .iter()
                .find(|(_, k)| *k == kind)
                .map_or(0, |(c, _)| *c),
        }
    }
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What it is.
    pub kind: Kind,
    /// Number of the exchange, 24 bits.
    pub xid: u32,
    /// Hundredths of a second since the exchange began.
    pub elapsed: u16,
    /// Who the client is.
    pub duid: Vec<u8>,
    /// Whom it is for; `None`: all servers.
    pub server: Option<Vec<u8>>,
    /// The addresses it is about. `None`: only settings are asked for.
    pub addresses: Option<Vec<Ipv6Addr>>,
    /// Which of the client's interfaces it is about.
    pub iaid: u32,
    /// The client's name.
    pub hostname: Option<String>,
}

/// An address from a server; times in seconds, `u32::MAX` for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given {
    /// The address.
    pub address: Ipv6Addr,
    /// How long new connections may be made from it.
    pub preferred: u32,
    /// How long it is ours. 0: no longer.
    pub valid: u32,
}

/// A status from a server (section 21.13).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its code.
    pub code: u16,
    /// For people.
    pub message: String,
}

impl Status {
    /// The server has no address for us.
    pub const NO_ADDRESSES: u16 = 2;
    /// The server doesn't know the address as ours.
    pub const NO_BINDING: u16 = 3;
    /// The address doesn't fit the link.
    pub const NOT_ON_LINK: u16 = 4;
}

/// Settings that don't belong to an address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// DNS servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains to look for short names in.
    pub search: Vec<String>,
    /// Servers of time: addresses and names.
    pub ntp: Vec<String>,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// What it is.
    pub kind: Kind,
    /// Number of the exchange.
    pub xid: u32,
    /// Whom it is for.
    pub client: Vec<u8>,
    /// Whose it is.
    pub server: Vec<u8>,
    /// Higher is better.
    pub preference: u8,
    /// Whether a Solicit is answered with the address itself.
    pub rapid: bool,
    /// What became of the message; `None`: success.
    pub status: Option<Status>,
    /// What is said of addresses, for the interface asked for.
    pub ia: Option<Ia>,
    /// The settings.
    pub settings: Settings,
    /// After how many seconds settings are to be asked for again.
    pub refresh: Option<u32>,
    /// Longest pause between two Solicits, in seconds.
    pub solicit_pause: Option<u32>,
    /// Longest pause between two Information-requests, in seconds.
    pub information_pause: Option<u32>,
}

/// The addresses of one interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ia {
    /// Which interface.
    pub iaid: u32,
    /// When to renew, in seconds; 0: as the client likes.
    pub t1: u32,
    /// When to rebind, in seconds; 0: as the client likes.
    pub t2: u32,
    /// What became of it; `None`: success.
    pub status: Option<Status>,
    /// The addresses.
    pub addresses: Vec<Given>,
}

impl Request {
    /// The message as it goes into UDP.
    pub fn encode(&self) -> Vec<u8> {
        let xid = self.xid.to_be_bytes();
        let mut m = vec![self.kind.code(), xid[1], xid[2], xid[3]];
        option(&mut m, CLIENT_ID, &self.duid);
        if let Some(server) = &self.server {
            option(&mut m, SERVER_ID, server);
        }
        option(&mut m, ELAPSED, &self.elapsed.to_be_bytes());
        if let Some(addresses) = &self.addresses {
            let mut ia = [self.iaid.to_be_bytes(), [0; 4], [0; 4]].concat();
            for address in addresses {
                // Without wishes for its times (section 18.2.1 and on).
                let value = [address.octets().as_slice(), &[0; 8]].concat();
                option(&mut ia, IA_ADDRESS, &value);
            }
            option(&mut m, IA_NA, &ia);
        }
        let mut asked = vec![DNS, DOMAINS, SNTP, NTP];
        match self.kind {
            Kind::Solicit => {
                option(&mut m, RAPID_COMMIT, &[]);
                asked.push(SOL_MAX_RT);
            }
            Kind::Request | Kind::Renew | Kind::Rebind => asked.push(SOL_MAX_RT),
            Kind::InformationRequest => asked.extend([REFRESH, INF_MAX_RT]),
            // These bring no settings.
            _ => return m,
        }
        let asked: Vec<u8> = asked.into_iter().flat_map(u16::to_be_bytes).collect();
        option(&mut m, OPTION_REQUEST, &asked);
        if let (Some(name), true) = (&self.hostname, self.addresses.is_some()) {
            // 1: the server may tell DNS of the name and the address.
            let value = [&[1], wire_name(name).as_slice()].concat();
            option(&mut m, CLIENT_NAME, &value);
        }
        m
    }
}

fn option(to: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    to.extend_from_slice(&code.to_be_bytes());
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(value.get(..usize::from(length)).unwrap_or(value));
}

/// A name as in DNS; one without a dot is not ended, since its domain isn't known.
fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|l| !l.is_empty() && l.len() < 64) {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    if name.contains('.') {
        wire.push(0);
    }
    wire
}

/// The options in some bytes, in their order; `None` if the last is cut off.
fn options(mut bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let code = u16::from_be_bytes(*bytes.first_chunk()?);
        let length = usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?));
        let value = bytes.get(4..4 + length)?;
        all.push((code, value));
        bytes = bytes.get(4 + length..)?;
    }
    Some(all)
}

fn first<'a>(options: &[(u16, &'a [u8])], code: u16) -> Option<&'a [u8]> {
    options.iter().find(|(c, _)| *c == code).map(|(_, v)| *v)
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

fn addresses(value: &[u8]) -> Vec<Ipv6Addr> {
    let all = value.as_chunks::<16>().0.iter().copied();
    all.map(Ipv6Addr::from)
        .filter(|a| !a.is_unspecified() && !a.is_multicast())
        .take(MOST_ADDRESSES)
        .collect()
}

/// Names as in DNS; what could do harm in resolv.conf ends them.
fn names(mut value: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    while let (Some((name, rest)), true) = (wire_labels(value), all.len() < MOST_ADDRESSES) {
        all.push(name);
        value = rest;
    }
    all
}

fn wire_labels(mut value: &[u8]) -> Option<(String, &[u8])> {
    let mut labels: Vec<&str> = Vec::new();
    loop {
        let (length, rest) = value.split_first()?;
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        value = rest;
        if label.is_empty() {
            break;
        }
        // More than 63 is a pointer, which has no place here.
        let sane = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if *length > 63 || !label.iter().all(sane) {
            return None;
        }
        labels.push(std::str::from_utf8(label).ok()?);
    }
    let name = labels.join(".");
    (!name.is_empty() && name.len() < 254).then_some((name, value))
}

fn status(options: &[(u16, &[u8])]) -> Option<Status> {
    let (code, text) = first(options, STATUS)?.split_first_chunk()?;
    let code = u16::from_be_bytes(*code);
    // What a server says goes to the console.
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let message = String::from_utf8_lossy(text);
    (code != 0).then(|| Status {
        code,
        message: message.chars().map(plain).take(200).collect(),
    })
}

fn ia(value: &[u8]) -> Option<Ia> {
    let field = |at: usize| number(value.get(at..at + 4)?);
    let (iaid, t1, t2) = (field(0)?, field(4)?, field(8)?);
    let inner = options(value.get(12..)?)?;
    // Such times make no sense, and the whole is left out (section 21.4).
    if t1 > t2 && t2 > 0 {
        return None;
    }
    let given = |value: &[u8]| {
        let (address, rest) = value.split_first_chunk::<16>()?;
        let address = Ipv6Addr::from(*address);
        let (preferred, valid) = (number(rest.get(..4)?)?, number(rest.get(4..8)?)?);
        let own = options(rest.get(8..)?)?;
        let usable = !(address.is_unspecified()
            || address.is_multicast()
            || address.is_loopback()
            || address.is_unicast_link_local());
        (usable && preferred <= valid && status(&own).is_none()).then_some(Given {
            address,
            preferred,
            valid,
        })
    };
    let addresses = inner.iter().filter(|(code, _)| *code == IA_ADDRESS);
    Some(Ia {
        iaid,
        t1,
        t2,
        status: status(&inner),
        addresses: addresses
            .filter_map(|(_, value)| given(value))
            .take(MOST_ADDRESSES)
            .collect(),
    })
}

/// Servers of time: those for NTP, else those for SNTP.
fn time_servers(options: &[(u16, &[u8])]) -> Vec<String> {
    let mut all = Vec::new();
    for (_, value) in options.iter().filter(|(code, _)| *code == NTP) {
        for (code, value) in self::options(value).unwrap_or_default() {
            match code {
                1 => all.extend(addresses(value).iter().map(ToString::to_string)),
                3 => all.extend(names(value)),
                // Multicast: nothing is asked there.
                _ => {}
            }
        }
    }
    if all.is_empty() {
        let sntp = first(options, SNTP).map(addresses).unwrap_or_default();
        all.extend(sntp.iter().map(ToString::to_string));
    }
    all
}

impl Reply {
    /// Parses what came in UDP, about the interface `iaid`; `None` for what no server says.
    pub fn parse(message: &[u8], iaid: u32) -> Option<Self> {
        let (head, rest) = message.split_first_chunk::<4>()?;
        let kind = Kind::from_code(head[0]);
        if !matches!(kind, Kind::Advertise | Kind::Reply) {
            return None;
        }
        let options = options(rest)?;
        let get = |code: u16| first(&options, code);
        let duid = |code| get(code).filter(|id| (1..=LONGEST_DUID).contains(&id.len()));
        let seconds = |code| get(code).and_then(number);
        let own = options.iter().filter(|(code, _)| *code == IA_NA);
        Some(Self {
            kind,
            xid: u32::from_be_bytes([0, head[1], head[2], head[3]]),
            client: duid(CLIENT_ID)?.to_vec(),
            server: duid(SERVER_ID)?.to_vec(),
            preference: get(PREFERENCE).and_then(|v| v.first()).map_or(0, |p| *p),
            rapid: get(RAPID_COMMIT).is_some(),
            status: status(&options),
            ia: own.filter_map(|(_, v)| ia(v)).find(|ia| ia.iaid == iaid),
            settings: Settings {
                dns: get(DNS).map(addresses).unwrap_or_default(),
                search: get(DOMAINS).map(names).unwrap_or_default(),
                ntp: time_servers(&options),
            },
            refresh: seconds(REFRESH),
            solicit_pause: seconds(SOL_MAX_RT),
            information_pause: seconds(INF_MAX_RT),
        })
    }
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
