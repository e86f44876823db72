//! Which servers of time there are, and whether they are to be asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slipway_images::seed::Ntp;

use super::resolv::Source;

/// Servers of time: those of the seed, else what the networks name.
#[derive(Debug, Clone, Default)]
pub struct TimeServers(Arc<(Mutex<Named>, Condvar)>);

#[derive(Debug, Default)]
struct Named {
    off: bool,
    chosen: Vec<String>,
    /// How often these two have been changed.
    changes: u64,
    by_network: BTreeMap<Source, Vec<String>>,
}

impl TimeServers {
    fn lock(&self) -> MutexGuard<'_, Named> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the seed's, if there are any, whatever networks name; if it wants any at all.
    /// Who waits is woken when that is a change.
    pub fn choose(&self, ntp: &Ntp) {
        let servers: Vec<String> = ntp.servers.iter().chain(&ntp.pools).cloned().collect();
        let mut named = self.lock();
        if (&named.chosen, named.off) != (&servers, !ntp.enabled) {
            (named.chosen, named.off) = (servers, !ntp.enabled);
            named.changes += 1;
            self.0.1.notify_all();
        }
    }

    /// How often the choice has changed: to be asked for before what is chosen is.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Waits so long, or until the choice is another than when [`changes`](Self::changes)
    /// said `seen`.
    pub fn wait(&self, time: Duration, seen: u64) {
        let named = self.lock();
        let unchanged = |named: &mut Named| named.changes == seen;
        // What is behind the lock is looked at again in any case.
        drop(self.0.1.wait_timeout_while(named, time, unchanged));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_choice_ends_the_waiting() {
        let servers = TimeServers::default();
        let network = || Source::Dhcp("eth0".into());
        servers.set(network(), vec!["192.0.2.1".into()]);
        assert_eq!(servers.all(), ["192.0.2.1"]);
        let seen = servers.changes();
        servers.choose(&Ntp::default());
        assert_eq!(servers.changes(), seen, "that was the choice already");
        let waiting = {
            let servers = servers.clone();
            std::thread::spawn(move || servers.wait(Duration::from_secs(3600), seen))
        };
        servers.choose(&Ntp {
            servers: vec!["a.example".into()],
            pools: vec!["b.example".into()],
            ..Ntp::default()
        });
        waiting.join().unwrap();
        assert_eq!(servers.all(), ["a.example", "b.example"]);
        servers.choose(&Ntp {
            enabled: false,
            ..Ntp::default()
        });
        assert!(!servers.are_on());
        // What came before the waiting isn't missed.
        servers.wait(Duration::from_secs(3600), seen);
    }
}
