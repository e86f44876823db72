//! The DHCPv6 client's states, without sockets or clocks of its own.
//!
//! RFC 9915 (before: RFC 8415), sections 15 and 18.2. The caller gives packets and the time,
//! and does the actions. Without an address it begins with Solicit; when the link comes back
//! while an address is still good, with Confirm. On networks that have only settings to give
//! it asks for those (Information-request).

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use super::lease::Lease;
use super::packet::{Kind, Reply, Request, Settings, Status};

/// The longest random pause before the first message of a link's (SOL_MAX_DELAY and its like).
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// Pause after a server has refused, so that nobody goes in a tight circle with it.
const REFUSED_PAUSE: Duration = Duration::from_secs(10);
/// How often settings are asked for again: by default, and at most (section 21.23).
const REFRESH: u32 = 86_400;
const MIN_REFRESH: u32 = 600;
/// What servers may set SOL_MAX_RT and INF_MAX_RT to (section 21.24), in seconds.
const MAX_PAUSES: std::ops::RangeInclusive<u32> = 60..=86_400;
/// After a Confirm without an answer for so long the address is used (CNF_MAX_RD).
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);
/// Tries of Request (REQ_MAX_RC) and of Decline (DEC_MAX_RC).
const REQUEST_TRIES: u32 = 10;
const DECLINE_TRIES: u32 = 4;

/// What is to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Nothing.
    Off,
    /// Settings alone.
    Information,
    /// An address, and settings.
    Stateful,
}

/// Who the client is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Its DUID.
    pub duid: Vec<u8>,
    /// Its interface.
    pub iaid: u32,
    /// Its name, if servers are told.
    pub hostname: Option<String>,
}

/// What the caller is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send to all servers.
    Send(Request),
    /// Use these addresses and settings, from now on or further on.
    Configure(Box<Lease>),
    /// The addresses are no longer ours.
    Deconfigure(Vec<Ipv6Addr>),
    /// Use these settings; addresses are none of ours.
    Inform(Settings),
    /// For the log.
    Note(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The link is down, or nothing is to be asked for.
    Idle,
    /// Holds the best offer until now.
    Soliciting(Option<Box<Reply>>),
    /// From this server, these addresses.
    Requesting(Vec<u8>, Vec<Ipv6Addr>),
    Confirming,
    Bound,
    Renewing,
    Rebinding,
    /// Another machine has these of this server's addresses.
    Declining(Vec<u8>, Vec<Ipv6Addr>),
    Informing,
    Informed,
}

/// The client of one interface.
#[derive(Debug)]
pub struct Machine {
    state: State,
    client: Client,
    mode: Mode,
    up: bool,
    lease: Option<Lease>,
    xid: u32,
    /// When the exchange's first message was sent.
    began: Instant,
    /// RFC 9915, section 15: RT.
    pause: Duration,
    tries: u32,
    next: Option<Instant>,
    solicit_pause: Duration,
    information_pause: Duration,
    random: u64,
}

impl Machine {
    /// A client; `random` is different for each machine and interface.
    pub fn new(client: Client, mode: Mode, random: u64, now: Instant) -> Self {
        Self {
            state: State::Idle,
            client,
            mode,
            up: false,
            lease: None,
            xid: 0,
            began: now,
            pause: Duration::ZERO,
            tries: 0,
            next: None,
            solicit_pause: Duration::from_secs(3600),
            information_pause: Duration::from_secs(3600),
            random: random | 1,
        }
    }

    /// When [`timer`](Self::timer) is to be called.
    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// Whether replies are awaited, so that a socket is needed.
    pub fn is_listening(&self) -> bool {
        !matches!(self.state, State::Idle | State::Bound | State::Informed)
    }

    /// Which interface it is for, to servers.
    pub fn iaid(&self) -> u32 {
        self.client.iaid
    }

    /// xorshift64: for jitter and the exchanges' numbers, which need not be secret.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// A time between nothing and `most`.
    fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_millis(self.random() % (most.as_millis() as u64).max(1))
    }

    /// The link has come up, and has its link-local address.
    pub fn link_up(&mut self, now: Instant) {
        if !self.up {
            self.up = true;
            self.start(now);
        }
    }

    /// The link is down. Addresses are kept for when it comes back.
    pub fn link_down(&mut self) {
        self.up = false;
        self.state = State::Idle;
        self.next = None;
    }

    /// What is to be asked for from now on. An address in use is kept to its end.
    pub fn set_mode(&mut self, mode: Mode, now: Instant) {
        if mode == std::mem::replace(&mut self.mode, mode) || !self.up {
            return;
        }
        let is_kept = match self.state {
            State::Idle | State::Informing | State::Informed => false,
            State::Soliciting(_) | State::Requesting(..) => mode == Mode::Stateful,
            _ => true,
        };
        if !is_kept {
            self.start(now);
        }
    }

    fn start(&mut self, now: Instant) {
        let is_good = self.lease.as_ref().is_some_and(|lease| lease.is_good(now));
        let state = match self.mode {
            _ if is_good => State::Confirming,
            Mode::Stateful => State::Soliciting(None),
            Mode::Information => State::Informing,
            Mode::Off => {
                self.state = State::Idle;
                self.next = None;
                return;
            }
        };
        self.begin(state, now);
        let delay = self.up_to(FIRST_DELAY);
        self.next = Some(now + delay);
    }

    /// Begins an exchange, whose first message is due.
    fn begin(&mut self, state: State, now: Instant) {
        self.state = state;
        self.tries = 0;
        self.xid = self.random() as u32 & 0x00ff_ffff;
        self.began = now;
        self.next = Some(now);
    }

    fn begin_now(&mut self, state: State, now: Instant) -> Vec<Action> {
        self.begin(state, now);
        self.send(now)
    }

    /// First and longest pause of the state's messages (section 7.6).
    fn pauses(&self) -> (Duration, Duration) {
        let seconds = Duration::from_secs;
        match self.state {
            State::Requesting(..) => (seconds(1), seconds(30)),
            State::Confirming => (seconds(1), seconds(4)),
            State::Renewing | State::Rebinding => (seconds(10), seconds(600)),
            State::Informing => (seconds(1), self.information_pause),
            State::Declining(..) => (seconds(1), Duration::MAX),
            _ => (seconds(1), self.solicit_pause),
        }
    }

    /// Sends the state's message and plans the next try (section 15).
    fn send(&mut self, now: Instant) -> Vec<Action> {
        let (first, longest) = self.pauses();
        // A tenth more or less; the first Solicit's only more.
        let upwards = self.tries == 0 && matches!(self.state, State::Soliciting(_));
        let tenth = self.random() % 1000;
        let sign = if upwards { tenth / 2 + 500 } else { tenth };
        let jittered = |pause: Duration, of: Duration| {
            (pause + of * sign as u32 / 5000).saturating_sub(of / 10)
        };
        self.pause = if self.tries == 0 {
            self.began = now;
            jittered(first, first)
        } else {
            match jittered(self.pause * 2, self.pause) {
                long if long > longest => jittered(longest, longest),
                pause => pause,
            }
        };
        self.tries += 1;
        // Where the state ends before the next try.
        let lease = self.lease.as_ref();
        let end = match self.state {
            State::Confirming => Some(self.began + CONFIRM_LIMIT),
            State::Renewing => lease.and_then(|lease| lease.rebind.or(lease.expiry)),
            State::Rebinding => lease.and_then(|lease| lease.expiry),
            _ => None,
        };
        let next = now + self.pause;
        self.next = Some(end.map_or(next, |end| next.min(end)));
        vec![Action::Send(self.message(now))]
    }

    fn message(&self, now: Instant) -> Request {
        let own = || self.lease.as_ref().map(Lease::list);
        let giver = || self.lease.as_ref().map(|lease| lease.server.clone());
        let (kind, server, addresses) = match &self.state {
            State::Requesting(server, wanted) => {
                (Kind::Request, Some(server.clone()), Some(wanted.clone()))
            }
            State::Declining(server, taken) => {
                (Kind::Decline, Some(server.clone()), Some(taken.clone()))
            }
            State::Confirming => (Kind::Confirm, None, own()),
            State::Renewing => (Kind::Renew, giver(), own()),
            State::Rebinding => (Kind::Rebind, None, own()),
            State::Informing => (Kind::InformationRequest, None, None),
            _ => (Kind::Solicit, None, Some(Vec::new())),
        };
        let elapsed = now.saturating_duration_since(self.began).as_millis() / 10;
        Request {
            kind,
            xid: self.xid,
            elapsed: u16::try_from(elapsed).unwrap_or(u16::MAX),
            duid: self.client.duid.clone(),
            server,
            addresses,
            iaid: self.client.iaid,
            hostname: self.client.hostname.clone(),
        }
    }

    /// The time [`deadline`](Self::deadline) gave has come.
    pub fn timer(&mut self, now: Instant) -> Vec<Action> {
        if self.next.is_none_or(|next| now < next) {
            return Vec::new();
        }
        let lease = self.lease.as_ref();
        let rebinding = lease.is_some_and(|lease| lease.rebind.is_some_and(|at| now >= at));
        let is_over = lease.is_some_and(|lease| !lease.is_good(now));
        match self.state.clone() {
            State::Idle => Vec::new(),
            State::Soliciting(Some(offer)) => self.request(&offer, now),
            State::Requesting(..) if self.tries >= REQUEST_TRIES => {
                self.start_over(now, "the server does not answer")
            }
            State::Declining(..) if self.tries >= DECLINE_TRIES => {
                self.start(now);
                Vec::new()
            }
            State::Confirming | State::Bound | State::Renewing | State::Rebinding if is_over => {
                self.start_over(now, "the lease has expired")
            }
            State::Confirming if self.tries > 0 && now >= self.began + CONFIRM_LIMIT => {
                self.resume(now)
            }
            State::Bound => self.begin_now(State::Renewing, now),
            State::Renewing if rebinding => self.begin_now(State::Rebinding, now),
            State::Informed => self.begin_now(State::Informing, now),
            _ => self.send(now),
        }
    }

    /// The addresses are used on.
    fn resume(&mut self, now: Instant) -> Vec<Action> {
        let Some(lease) = self.lease.clone() else {
            self.start(now);
            return Vec::new();
        };
        self.state = State::Bound;
        self.next = lease.renew.or(lease.expiry).map(|at| at.max(now));
        vec![Action::Configure(Box::new(lease))]
    }

    fn request(&mut self, offer: &Reply, now: Instant) -> Vec<Action> {
        let given = offer.ia.iter().flat_map(|ia| &ia.addresses);
        let wanted = given.map(|given| given.address).collect();
        self.begin_now(State::Requesting(offer.server.clone(), wanted), now)
    }

    /// Gives the addresses up, if any, and looks for servers anew.
    fn start_over(&mut self, now: Instant, reason: &str) -> Vec<Action> {
        let mut actions = vec![Action::Note(reason.to_owned())];
        if let Some(lease) = self.lease.take() {
            actions.push(Action::Deconfigure(lease.list()));
        }
        self.start(now);
        actions
    }

    /// The same, after a while.
    fn refused(&mut self, now: Instant, by: Option<&Status>) -> Vec<Action> {
        let why = by.map_or("it has no address for this machine", |status| match status
            .message
            .as_str()
        {
            "" if status.code == Status::NO_ADDRESSES => "it has no address left",
            "" if status.code == Status::NOT_ON_LINK => "the address is not of this network",
            "" => "no reason given",
            message => message,
        });
        let actions = self.start_over(now, &format!("the server refused: {why}"));
        self.next = self.next.map(|next| next + REFUSED_PAUSE);
        actions
    }

    /// A message has come in.
    pub fn received(&mut self, reply: &Reply, now: Instant) -> Vec<Action> {
        // Before the first message nothing was asked yet.
        if reply.xid != self.xid || reply.client != self.client.duid || self.tries == 0 {
            return Vec::new();
        }
        let longest = |given: Option<u32>| {
            let given = given.filter(|seconds| MAX_PAUSES.contains(seconds));
            given.map(|seconds| Duration::from_secs(u64::from(seconds)))
        };
        // Also of messages that bring nothing else (section 18.2.9).
        self.solicit_pause = longest(reply.solicit_pause).unwrap_or(self.solicit_pause);
        self.information_pause = longest(reply.information_pause).unwrap_or(self.information_pause);
        let lease = Lease::new(reply, now);
        match (self.state.clone(), reply.kind, lease) {
            (State::Soliciting(best), Kind::Advertise, Some(_)) => {
                self.advertised(reply, best, now)
            }
            (State::Soliciting(_), Kind::Reply, Some(lease)) if reply.rapid => {
                self.bind(lease, now)
            }
            (State::Requesting(server, _), Kind::Reply, lease) if server == reply.server => {
                self.answered(reply, lease, now)
            }
            (State::Confirming, Kind::Reply, _) => match &reply.status {
                None => self.resume(now),
                Some(status) if status.code == Status::NOT_ON_LINK => {
                    self.start_over(now, "this is another network")
                }
                Some(_) => Vec::new(),
            },
            (State::Renewing | State::Rebinding, Kind::Reply, lease) => {
                self.renewed(reply, lease, now)
            }
            (State::Informing, Kind::Reply, _) if reply.status.is_none() => {
                let seconds = reply.refresh.unwrap_or(REFRESH).clamp(MIN_REFRESH, REFRESH);
                self.state = State::Informed;
                self.next = Some(now + Duration::from_secs(u64::from(seconds)));
                vec![Action::Inform(reply.settings.clone())]
            }
            (State::Declining(server, _), Kind::Reply, _) if server == reply.server => {
                self.start(now);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Takes the best preference; the highest there is, or the first after a first pause, at once.
    fn advertised(&mut self, offer: &Reply, best: Option<Box<Reply>>, now: Instant) -> Vec<Action> {
        if offer.preference == u8::MAX || self.tries > 1 {
            return self.request(offer, now);
        }
        let best = best.filter(|best| best.preference >= offer.preference);
        self.state = State::Soliciting(Some(best.unwrap_or_else(|| Box::new(offer.clone()))));
        Vec::new()
    }

    /// A Request's answer.
    fn answered(&mut self, reply: &Reply, lease: Option<Lease>, now: Instant) -> Vec<Action> {
        if let Some(lease) = lease {
            return self.bind(lease, now);
        }
        let of_ia = reply.ia.as_ref().and_then(|ia| ia.status.as_ref());
        match reply.status.as_ref().or(of_ia) {
            // "Try again", at the pace of an unanswered one (section 18.2.10).
            Some(status)
                if !matches!(
                    status.code,
                    Status::NO_ADDRESSES | Status::NO_BINDING | Status::NOT_ON_LINK
                ) =>
            {
                Vec::new()
            }
            status => self.refused(now, status),
        }
    }

    /// The answer of a Renew or Rebind.
    fn renewed(&mut self, reply: &Reply, lease: Option<Lease>, now: Instant) -> Vec<Action> {
        if let Some(lease) = lease {
            return self.bind(lease, now);
        }
        let Some(ia) = reply.ia.as_ref().filter(|_| reply.status.is_none()) else {
            // Another server, or the same one later, may do better.
            return Vec::new();
        };
        let old = self.lease.as_ref().map(Lease::list).unwrap_or_default();
        match &ia.status {
            // It has forgotten us: it may give us the same addresses again.
            Some(status) if status.code == Status::NO_BINDING => {
                self.begin_now(State::Requesting(reply.server.clone(), old), now)
            }
            Some(_) => Vec::new(),
            None if ia.addresses.is_empty() => Vec::new(),
            // All with a time of 0: they are taken back.
            None => self.refused(now, None),
        }
    }

    fn bind(&mut self, mut lease: Lease, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(old) = self.lease.take() {
            let mut gone = old.list();
            gone.retain(|address| lease.addresses.iter().all(|new| new.address != *address));
            if !gone.is_empty() {
                actions.push(Action::Deconfigure(gone));
            }
            // A server that says nothing of settings while renewing doesn't take them back.
            if lease.settings == Settings::default() {
                lease.settings = old.settings;
            }
        }
        self.lease = Some(lease);
        actions.extend(self.resume(now));
        actions
    }

    /// Another machine has these addresses.
    pub fn taken(&mut self, addresses: &[Ipv6Addr], now: Instant) -> Vec<Action> {
        let Some(lease) = self.lease.take() else {
            return Vec::new();
        };
        let all = lease.list();
        let mut actions = vec![
            Action::Note(format!("another machine has {}", list(addresses))),
            Action::Deconfigure(all),
        ];
        let state = State::Declining(lease.server, addresses.to_vec());
        if self.up {
            actions.extend(self.begin_now(state, now));
        }
        actions
    }

    /// Gives the addresses back, once, and is at an end: an answer changes nothing.
    pub fn release(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Some(lease) = self.lease.take() {
            self.begin(State::Idle, now);
            let message = Request {
                kind: Kind::Release,
                server: Some(lease.server.clone()),
                addresses: Some(lease.list()),
                ..self.message(now)
            };
            // Not used any more before the server may give them to others (section 18.2.7).
            actions.push(Action::Deconfigure(lease.list()));
            if self.up {
                actions.push(Action::Send(message));
            }
        }
        self.link_down();
        actions
    }
}

/// Addresses, for the log.
pub fn list(addresses: &[Ipv6Addr]) -> String {
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    all.join(", ")
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
