//! Which servers of time there are, and whether they are to be asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::resolv::Source;

/// Servers of time: those of the seed, else what the networks name.
#[derive(Debug, Clone, Default)]
pub struct TimeServers(Arc<Mutex<Named>>);

#[derive(Debug, Default)]
struct Named {
    off: bool,
    chosen: Vec<String>,
    by_network: BTreeMap<Source, Vec<String>>,
}

impl TimeServers {
    fn lock(&self) -> MutexGuard<'_, Named> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes these, if there are any, whatever networks name; if `on` at all.
    pub fn choose(&self, servers: Vec<String>, on: bool) {
        let mut named = self.lock();
        (named.chosen, named.off) = (servers, !on);
    }

    /// Whether the clock is to be set by them.
    pub fn are_on(&self) -> bool {
        !self.lock().off
    }

    /// Says what a network names.
    pub fn set(&self, source: Source, servers: Vec<String>) {
        self.lock().by_network.insert(source, servers);
    }

    /// All that are to be asked.
    pub fn all(&self) -> Vec<String> {
        let named = self.lock();
        match named.chosen.is_empty() {
            false => named.chosen.clone(),
            true => named.by_network.values().flatten().cloned().collect(),
        }
    }
}
