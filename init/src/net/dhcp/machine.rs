//! The DHCP client's states, without sockets or clocks of its own.
//!
//! RFC 2131, figure 5. The caller gives packets and the time, and does the actions.
//! Without a lease it begins with INIT; when the link comes back while a lease is still
//! good, with INIT-REBOOT.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::packet::{Kind, Reply, Request};

/// The first pause before a message is sent again; doubles to `MAX_PAUSE`, each plus or
/// minus a second (RFC 2131, 4.1).
const FIRST_PAUSE: Duration = Duration::from_secs(2);
const MAX_PAUSE: Duration = Duration::from_secs(64);
/// A request of an offer or an old lease is repeated so often before starting over.
const REQUEST_TRIES: u32 = 4;
/// The least pause between two renewals (RFC 2131, 4.4.5).
const MIN_RENEWAL_PAUSE: Duration = Duration::from_secs(60);
/// When a server says nothing of a lease's time, in seconds.
const DEFAULT_LEASE: u32 = 3600;

/// A configuration from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// What the server said.
    pub reply: Reply,
    /// Our address.
    pub address: Ipv4Addr,
    /// Length of the network's prefix.
    pub prefix: u8,
    /// Whom to ask for renewal.
    pub server: Ipv4Addr,
    /// How long it is good, from when it was asked for.
    pub lifetime: Duration,
    /// When it was asked for.
    pub since: Instant,
}

/// What the caller is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send to all, from no address.
    Broadcast(Request),
    /// Send to a server, from our address.
    Unicast(Ipv4Addr, Request),
    /// Use this, from now on or further on.
    Configure(Box<Lease>),
    /// The address is no longer ours.
    Deconfigure(Ipv4Addr),
    /// For the log.
    Note(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The link is down.
    Idle,
    Selecting,
    Requesting {
        offer: Box<Reply>,
    },
    Rebooting,
    Bound,
    Renewing,
    Rebinding,
}

/// The client of one interface.
#[derive(Debug)]
pub struct Machine {
    state: State,
    mac: [u8; 6],
    hostname: Option<String>,
    lease: Option<Lease>,
    xid: u32,
    began: Instant,
    sent: Instant,
    tries: u32,
    next: Option<Instant>,
    random: u64,
}

impl Machine {
    /// A client for the interface with this address; `random` is different for each machine.
    pub fn new(mac: [u8; 6], hostname: Option<String>, random: u64, now: Instant) -> Self {
        Self {
            state: State::Idle,
            mac,
            hostname,
            lease: None,
            xid: 0,
            began: now,
            sent: now,
            tries: 0,
            next: None,
            random: random | 1,
        }
    }

    /// When [`timer`](Self::timer) is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Whether replies are awaited, so that a socket is needed.
    pub fn is_listening(&self) -> bool {
        !matches!(self.state, State::Idle | State::Bound)
    }

    /// The lease in use.
    pub fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// xorshift64: for jitter and the exchanges' numbers, which need not be secret.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn request(&self, kind: Kind, now: Instant) -> Request {
        let secs = now.duration_since(self.began).as_secs();
        Request {
            kind,
            xid: self.xid,
            secs: u16::try_from(secs).unwrap_or(u16::MAX),
            mac: self.mac,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            requested: None,
            server: None,
            hostname: self.hostname.clone(),
        }
    }

    /// Plans the next try of the message just sent.
    fn plan(&mut self, now: Instant) {
        let pause = (FIRST_PAUSE * 2u32.saturating_pow(self.tries.min(8))).min(MAX_PAUSE);
        let jitter = Duration::from_millis(self.random() % 2000);
        self.tries += 1;
        self.sent = now;
        self.next = Some(now + (pause + jitter).saturating_sub(Duration::from_secs(1)));
    }

    /// The link has come up.
    pub fn link_up(&mut self, now: Instant) -> Vec<Action> {
        if self.state != State::Idle {
            return Vec::new();
        }
        self.begin(now);
        let good = self.lease.as_ref().filter(|l| now < l.since + l.lifetime);
        match good {
            Some(_) => self.send_reboot(now),
            None => self.send_discover(now),
        }
    }

    /// The link is down. The lease is kept for when it comes back.
    pub fn link_down(&mut self) {
        self.state = State::Idle;
        self.next = None;
    }

    fn begin(&mut self, now: Instant) {
        self.began = now;
        self.tries = 0;
        self.xid = self.random() as u32;
    }

    fn send_discover(&mut self, now: Instant) -> Vec<Action> {
        self.state = State::Selecting;
        let mut request = self.request(Kind::Discover, now);
        request.requested = self.lease.as_ref().map(|l| l.address);
        self.plan(now);
        vec![Action::Broadcast(request)]
    }

    fn send_reboot(&mut self, now: Instant) -> Vec<Action> {
        self.state = State::Rebooting;
        let mut request = self.request(Kind::Request, now);
        request.requested = self.lease.as_ref().map(|l| l.address);
        self.plan(now);
        vec![Action::Broadcast(request)]
    }

    fn send_request(&mut self, offer: Reply, now: Instant) -> Vec<Action> {
        let mut request = self.request(Kind::Request, now);
        request.requested = Some(offer.yiaddr);
        request.server = offer.server;
        self.state = State::Requesting {
            offer: Box::new(offer),
        };
        self.plan(now);
        vec![Action::Broadcast(request)]
    }

    fn send_renewal(&mut self, now: Instant) -> Vec<Action> {
        let Some(lease) = self.lease.clone() else {
            return self.send_discover(now);
        };
        let (_, rebind, expiry) = times(&lease);
        let rebinding = now >= rebind;
        let mut request = self.request(Kind::Request, now);
        request.ciaddr = lease.address;
        self.sent = now;
        // Half of what is left until the next state, at least a minute (4.4.5).
        let until = if rebinding { expiry } else { rebind };
        let pause = (until.saturating_duration_since(now) / 2).max(MIN_RENEWAL_PAUSE);
        self.next = Some((now + pause).min(until));
        if rebinding {
            self.state = State::Rebinding;
            return vec![Action::Broadcast(request)];
        }
        self.state = State::Renewing;
        vec![Action::Unicast(lease.server, request)]
    }

    /// The time [`deadline`](Self::deadline) gave has come.
    pub fn timer(&mut self, now: Instant) -> Vec<Action> {
        if self.next.is_none_or(|next| now < next) {
            return Vec::new();
        }
        match self.state.clone() {
            State::Idle => Vec::new(),
            State::Selecting => self.send_discover(now),
            State::Requesting { offer } if self.tries < REQUEST_TRIES => {
                self.send_request(*offer, now)
            }
            State::Rebooting if self.tries < REQUEST_TRIES => self.send_reboot(now),
            State::Requesting { .. } => self.start_over(now, "the server does not answer"),
            State::Rebooting => self.start_over(now, "no server knows the old lease"),
            State::Bound => {
                self.begin(now);
                self.send_renewal(now)
            }
            State::Renewing | State::Rebinding => {
                let expired = self
                    .lease
                    .as_ref()
                    .is_none_or(|l| now >= l.since + l.lifetime);
                if expired {
                    return self.start_over(now, "the lease has expired");
                }
                self.send_renewal(now)
            }
        }
    }

    /// Gives the address up, if any, and looks for servers anew.
    fn start_over(&mut self, now: Instant, reason: &str) -> Vec<Action> {
        let mut actions = vec![Action::Note(reason.to_owned())];
        if let Some(lease) = self.lease.take() {
            actions.push(Action::Deconfigure(lease.address));
        }
        self.begin(now);
        actions.extend(self.send_discover(now));
        actions
    }

    /// A message has come in.
    pub fn received(&mut self, reply: &Reply, now: Instant) -> Vec<Action> {
        if reply.xid != self.xid || reply.mac != self.mac {
            return Vec::new();
        }
        match (self.state.clone(), reply.kind) {
            (State::Selecting, Kind::Offer) if is_usable(reply) => {
                self.tries = 0;
                self.send_request(reply.clone(), now)
            }
            (State::Requesting { offer }, Kind::Ack)
                if is_usable(reply) && reply.server.is_none_or(|s| Some(s) == offer.server) =>
            {
                self.bind(reply, Some(&offer), now)
            }
            (State::Rebooting | State::Renewing | State::Rebinding, Kind::Ack)
                if is_usable(reply) =>
            {
                self.bind(reply, None, now)
            }
            (
                State::Requesting { .. } | State::Rebooting | State::Renewing | State::Rebinding,
                Kind::Nak,
            ) => {
                let why = reply.message.as_deref().unwrap_or("no reason given");
                let mut actions = self.start_over(now, &format!("the server refused: {why}"));
                // Not in a tight circle with a server that offers and then refuses.
                actions.retain(|a| !matches!(a, Action::Broadcast(_)));
                actions
            }
            _ => Vec::new(),
        }
    }

    fn bind(&mut self, reply: &Reply, offer: Option<&Reply>, now: Instant) -> Vec<Action> {
        let old = self.lease.take();
        let server = reply
            .server
            .or(offer.and_then(|o| o.server))
            .or(old.as_ref().map(|l| l.server))
            .unwrap_or(Ipv4Addr::BROADCAST);
        let prefix = reply
            .prefix
            .or(offer.and_then(|o| o.prefix))
            .or(old.as_ref().map(|l| l.prefix))
            .unwrap_or(24);
        // A lease of a few seconds would only keep everybody busy.
        let seconds = reply.lease.unwrap_or(DEFAULT_LEASE).max(30);
        let lease = Lease {
            reply: reply.clone(),
            address: reply.yiaddr,
            prefix,
            server,
            lifetime: Duration::from_secs(u64::from(seconds)),
            since: self.sent,
        };
        let (renew, ..) = times(&lease);
        self.state = State::Bound;
        // 0xffffffff is for ever.
        self.next = (seconds != u32::MAX).then(|| renew.max(now));
        let mut actions = Vec::new();
        if let Some(old) = old
            && old.address != lease.address
        {
            actions.push(Action::Deconfigure(old.address));
        }
        self.lease = Some(lease.clone());
        actions.push(Action::Configure(Box::new(lease)));
        actions
    }
}

fn is_usable(reply: &Reply) -> bool {
    let a = reply.yiaddr;
    !(a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_broadcast())
}

/// When to renew, to rebind, and when the lease ends (4.4.5: T1 is half, T2 seven eighths).
fn times(lease: &Lease) -> (Instant, Instant, Instant) {
    let whole = lease.lifetime;
    let asked = |seconds: Option<u32>| seconds.map(|s| Duration::from_secs(u64::from(s)));
    let rebind = asked(lease.reply.rebinding)
        .filter(|t| *t < whole)
        .unwrap_or(whole * 7 / 8);
    let renew = asked(lease.reply.renewal)
        .filter(|t| *t < rebind)
        .unwrap_or(whole / 2);
    let renew = renew.min(rebind);
    (
        lease.since + renew,
        lease.since + rebind,
        lease.since + whole,
    )
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
