//! What a node owns: its records, which differ from network to network by addresses alone.
//!
//! | name | type | data | TTL | unique |
//! |---|---|---|---|---|
//! | `_services._dns-sd._udp.local` | PTR | `_slipway._tcp.local` | 75 min | |
//! | `_slipway._tcp.local` | PTR | `NAME._slipway._tcp.local` | 75 min | |
//! | `NAME._slipway._tcp.local` | SRV | port of the node API at `NAME.local` | 2 min | yes |
//! | `NAME._slipway._tcp.local` | TXT | [`Advert`] | 75 min | yes |
//! | `NAME.local` | A, AAAA | addresses on that network | 2 min | yes |
//! | address in `in-addr.arpa`, `ip6.arpa` | PTR | `NAME.local` | 2 min | yes |
//! | `NAME._slipway._tcp.local`, `NAME.local` | NSEC | there are no other types | 2 min | yes |

use std::net::IpAddr;
use std::time::Instant;

use slipway_images::node::discovery::{Advert, SERVICE};

use super::packet::{IN, Name, Record, kind};

/// TTL of records that hold a host's name or address (RFC 6762 section 10), in seconds.
const HOST_TTL: u32 = 120;
/// TTL of others.
const OTHER_TTL: u32 = 4500;
/// Addresses of one interface that are told.
pub const ADDRESSES: usize = 16;

/// What is told beside names and addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// TCP port of the node API.
    pub port: u16,
    /// The TXT record.
    pub advert: Advert,
}

/// The node's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    label: String,
    /// `NAME.local`
    pub host: Name,
    /// `NAME._slipway._tcp.local`
    pub instance: Name,
}

impl Names {
    /// Those of a machine's name; `number` is above 1 if others have it already. Of a name
    /// with dots it is the first part.
    #[must_use]
    pub fn new(machine: &str, number: u32) -> Self {
        let first = machine.split('.').next().unwrap_or_default();
        let first = if first.is_empty() { "node" } else { first };
        let suffix = match number {
            0 | 1 => String::new(),
            n => format!("-{n}"),
        };
        let room = 63 - suffix.len();
        let mut label: String = first.to_owned();
        while label.len() > room {
            label.pop();
        }
        label.push_str(&suffix);
        Self {
            host: Name::of(&[&label, "local"]),
            instance: Name::of(&[&label, SERVICE[0], SERVICE[1], "local"]),
            label,
        }
    }

    /// `NAME`.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether a name is one of these.
    #[must_use]
    pub fn has(&self, name: &Name) -> bool {
        *name == self.host || *name == self.instance
    }
}

/// A record of the node's on one network.
#[derive(Debug, Clone)]
pub struct Own {
    /// It.
    pub record: Record,
    /// When it was last sent to all.
    pub last: Option<Instant>,
    /// When it is to be sent to all.
    pub due: Option<Instant>,
    /// Who alone has asked for it since, if it is due.
    pub asker: Option<IpAddr>,
}

impl Own {
    /// Whether it says only which records there are not: told to those who ask for one.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        self.record.kind == kind::NSEC
    }
}

/// The records for a network on which the node has these addresses.
#[must_use]
pub fn records(names: &Names, facts: &Facts, addresses: &[IpAddr]) -> Vec<Own> {
    let service = Name::of(&[SERVICE[0], SERVICE[1], "local"]);
    let all = Name::of(&["_services", "_dns-sd", "_udp", "local"]);
    let mut records = vec![
        shared(&all, service.wire().to_vec()),
        shared(&service, names.instance.wire().to_vec()),
        unique(&names.instance, kind::SRV, HOST_TTL, srv(names, facts)),
        unique(&names.instance, kind::TXT, OTHER_TTL, txt(&facts.advert)),
    ];
    for address in addresses.iter().take(ADDRESSES) {
        let (kind, data) = match address {
            IpAddr::V4(v4) => (kind::A, v4.octets().to_vec()),
            IpAddr::V6(v6) => (kind::AAAA, v6.octets().to_vec()),
        };
        records.push(unique(&names.host, kind, HOST_TTL, data));
        let host = names.host.wire().to_vec();
        records.push(unique(&reverse(*address), kind::PTR, HOST_TTL, host));
    }
    for name in [&names.instance, &names.host] {
        let kinds: Vec<u16> = records
            .iter()
            .filter(|record| record.name == *name)
            .map(|record| record.kind)
            .collect();
        records.push(unique(name, kind::NSEC, HOST_TTL, nsec(name, &kinds)));
    }
    records
        .into_iter()
        .map(|record| Own {
            record,
            last: None,
            due: None,
            asker: None,
        })
        .collect()
}

fn shared(name: &Name, data: Vec<u8>) -> Record {
    Record {
        name: name.clone(),
        kind: kind::PTR,
        class: IN,
        unique: false,
        ttl: OTHER_TTL,
        data,
    }
}

fn unique(name: &Name, kind: u16, ttl: u32, data: Vec<u8>) -> Record {
    Record {
        name: name.clone(),
        kind,
        class: IN,
        unique: true,
        ttl,
        data,
    }
}

/// Priority 0, weight 0, port, target.
fn srv(names: &Names, facts: &Facts) -> Vec<u8> {
    let mut data = vec![0; 4];
    data.extend_from_slice(&facts.port.to_be_bytes());
    data.extend_from_slice(names.host.wire());
    data
}

/// Strings `key=value`, each behind its length.
fn txt(advert: &Advert) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in advert.pairs() {
        let text = format!("{key}={value}");
        data.push(text.len() as u8);
        data.extend_from_slice(text.as_bytes());
    }
    data
}

/// Which types there are (RFC 6762 section 6.1): the name, then window 0, which holds all types
/// below 256, with a bit for each, the highest first.
fn nsec(name: &Name, kinds: &[u16]) -> Vec<u8> {
    let mut bits = vec![0u8; 32];
    for kind in kinds {
        if let Some(byte) = bits.get_mut(usize::from(kind / 8)) {
            *byte |= 0x80 >> (kind % 8);
        }
    }
    while bits.last() == Some(&0) {
        bits.pop();
    }
    let mut data = name.wire().to_vec();
    data.extend_from_slice(&[0, bits.len() as u8]);
    data.extend_from_slice(&bits);
    data
}

/// The name under which an address's name is looked up.
fn reverse(address: IpAddr) -> Name {
    let mut labels: Vec<String> = match address {
        IpAddr::V4(v4) => v4.octets().iter().rev().map(u8::to_string).collect(),
        IpAddr::V6(v6) => {
            let nibbles = |byte: &u8| [byte & 15, byte >> 4].map(|n| format!("{n:x}"));
            v6.octets().iter().rev().flat_map(nibbles).collect()
        }
    };
    let tree = if address.is_ipv4() { "in-addr" } else { "ip6" };
    labels.extend([tree.to_owned(), "arpa".to_owned()]);
    Name::of(&labels.iter().map(String::as_str).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_whatever_the_machine_is_called() {
        assert_eq!(Names::new("node1.example.org", 1).label(), "node1");
        assert_eq!(Names::new("node1", 2).label(), "node1-2");
        assert_eq!(Names::new("", 1).label(), "node");
        let long = "x".repeat(64);
        assert_eq!(Names::new(&long, 1).label().len(), 63);
        let number = Names::new(&long, 17);
        assert!(number.label().len() == 63 && number.label().ends_with("-17"));
        assert!(Names::new("ü".repeat(40).as_str(), 3).label().len() <= 63);
    }

    #[test]
    fn reverse_names() {
        let is = |address: &str, labels: &str| {
            let labels: Vec<&str> = labels.split('.').collect();
            assert_eq!(reverse(address.parse().unwrap()), Name::of(&labels));
        };
        is("192.0.2.1", "1.2.0.192.in-addr.arpa");
        let zeros = ["0"; 20].join(".");
        is(
            "2001:db8::567:89ab",
            &format!("b.a.9.8.7.6.5.0.{}.8.b.d.0.1.0.0.2.ip6.arpa", &zeros[..31]),
        );
    }

    #[test]
    fn an_absent_type_is_denied() {
        let name = Name::of(&["n", "local"]);
        let data = nsec(&name, &[kind::A, kind::AAAA]);
        // Types 1 and 28.
        assert_eq!(&data[name.wire().len()..], [0, 4, 0x40, 0, 0, 0x08]);
    }
}
