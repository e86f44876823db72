//! What a DHCPv6 server has given, and for how long.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::packet::{Given, Reply, Settings};

/// Shortest time between two renewals, whatever a server says.
const MIN_RENEWAL: Duration = Duration::from_secs(10);

/// Preferred and valid time that are left; `None` is for ever.
pub type Times = (Option<Duration>, Option<Duration>);

/// Addresses from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Them, with their times.
    pub addresses: Vec<Given>,
    /// The settings that came with them.
    pub settings: Settings,
    /// Who gave them.
    pub server: Vec<u8>,
    /// When.
    pub since: Instant,
    /// When to ask the server for more time; `None`: they are for ever.
    pub renew: Option<Instant>,
    /// When to ask all servers.
    pub rebind: Option<Instant>,
    /// When the last of them ends.
    pub expiry: Option<Instant>,
}

impl Lease {
    /// Those of a server's answer; `None` if it gives none.
    pub fn new(reply: &Reply, now: Instant) -> Option<Self> {
        let ia = reply.ia.as_ref().filter(|_| reply.status.is_none())?;
        let alive = ia.addresses.iter().filter(|given| given.valid > 0);
        let addresses: Vec<Given> = alive.copied().collect();
        let valid = addresses.iter().map(|given| given.valid).max()?;
        let preferred = addresses.iter().map(|given| given.preferred).min()?;
        // The preferred time's parts, where the server leaves it to us (section 21.4).
        let part = |of: u32| match preferred {
            u32::MAX => u32::MAX,
            seconds => (u64::from(seconds) * u64::from(of) / 10) as u32,
        };
        let t1 = if ia.t1 == 0 { part(5) } else { ia.t1 };
        let t2 = if ia.t2 == 0 { part(8) } else { ia.t2 };
        let at = |seconds: u32| {
            (seconds != u32::MAX).then(|| now + Duration::from_secs(u64::from(seconds)))
        };
        Some(Self {
            addresses,
            settings: reply.settings.clone(),
            server: reply.server.clone(),
            since: now,
            renew: at(t1).map(|at| at.max(now + MIN_RENEWAL)),
            rebind: at(t2.max(t1)),
            expiry: at(valid),
        })
    }

    /// Whether one of them is still ours.
    pub fn is_good(&self, now: Instant) -> bool {
        self.expiry.is_none_or(|expiry| now < expiry)
    }

    /// The addresses alone.
    pub fn list(&self) -> Vec<Ipv6Addr> {
        self.addresses.iter().map(|given| given.address).collect()
    }

    /// What is left of each address: itself, its preferred time and its valid time; `None` is
    /// for ever.
    pub fn left(&self, now: Instant) -> impl Iterator<Item = (Ipv6Addr, Times)> {
        let gone = now.saturating_duration_since(self.since);
        let left = move |seconds: u32| match seconds {
            u32::MAX => None,
            seconds => Some(Duration::from_secs(u64::from(seconds)).saturating_sub(gone)),
        };
        let each = self.addresses.iter();
        each.map(move |given| (given.address, (left(given.preferred), left(given.valid))))
    }
}
