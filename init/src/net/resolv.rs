//! /etc/resolv.conf from what DHCP, router advertisements and the seed say.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{files, say};

/// Where servers come from; earlier ones are asked first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The seed.
    Static(String),
    /// DHCPv4 on this interface.
    Dhcp(String),
    /// DHCPv6 on this interface.
    Dhcp6(String),
    /// Router advertisements on this interface.
    Router(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Entry {
    servers: Vec<IpAddr>,
    search: Vec<String>,
}

/// The file and what is in it.
#[derive(Clone)]
pub struct Resolv {
    path: PathBuf,
    entries: Arc<Mutex<BTreeMap<Source, Entry>>>,
}

impl Resolv {
    /// The file at `path`, written with the first change.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            entries: Arc::default(),
        }
    }

    /// Says what a source gives now; nothing takes it out.
    pub fn set(&self, source: Source, servers: Vec<IpAddr>, search: Vec<String>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Entry { servers, search };
        let old = if new == Entry::default() {
            entries.remove(&source)
        } else {
            entries.insert(source, new.clone())
        };
        if old.unwrap_or_default() == new {
            return;
        }
        let text = render(&entries);
        if let Err(error) = files::write_atomically(&self.path, text.as_bytes(), 0o644) {
            say!("{}: {error}", self.path.display());
        }
    }
}

/// At most three servers: the C library looks at no more, and the kubelet complains about them.
fn render(entries: &BTreeMap<Source, Entry>) -> String {
    let mut servers: Vec<IpAddr> = Vec::new();
    let mut search: Vec<&str> = Vec::new();
    for entry in entries.values() {
        for server in &entry.servers {
            if !servers.contains(server) && servers.len() < 3 {
                servers.push(*server);
            }
        }
        for domain in &entry.search {
            if !search.contains(&domain.as_str()) && search.len() < 6 {
                search.push(domain);
            }
        }
    }
    let mut text = String::new();
    if !search.is_empty() {
        text.push_str(&format!("search {}\n", search.join(" ")));
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_merged_and_taken_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let resolv = Resolv::new(path.clone());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        resolv.set(
            Source::Router("eth0".into()),
            vec![ip("fe80::1"), ip("10.0.2.3")],
            vec![],
        );
        resolv.set(
            Source::Dhcp("eth0".into()),
            vec![ip("10.0.2.3")],
            vec!["lan".into()],
        );
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text,
            "search lan\nnameserver 10.0.2.3\nnameserver fe80::1\n"
        );
        resolv.set(Source::Dhcp("eth0".into()), vec![], vec![]);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "nameserver fe80::1\nnameserver 10.0.2.3\n");
    }
}
