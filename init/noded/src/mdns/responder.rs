//! The responder (RFC 6762): what is sent when, without a socket or a clock.
//!
//! A place is a network interface in one of the families. In each the node's names are first
//! asked for (probed), then announced, then defended and told to whoever asks. If others have
//! them, the node takes `NAME-2`, everywhere; a later conflict begins with asking again.
//!
//! What strangers can cause is bounded: state is the node's own records and nothing that was
//! received; a record is sent to all at most once a second, to single askers at most
//! [`UNICASTS`] times; what comes from another network is not heard.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::packet::{IN, Message, Question, Record, kind};
use super::records::{Facts, Names, Own, records};

/// Where multicast DNS is spoken.
pub const PORT: u16 = 5353;
/// Answers to single askers, a second and place.
pub const UNICASTS: u32 = 20;

const PROBES: u8 = 3;
const PROBE_EVERY: Duration = Duration::from_millis(250);
const ANNOUNCEMENTS: u8 = 2;
const SECOND: Duration = Duration::from_secs(1);
/// Who asks whether a name is free is told sooner that it isn't.
const DEFENCE: Duration = Duration::from_millis(250);
/// So many conflicts in ten seconds, and each further try waits five (RFC 6762 section 8.1).
const CONFLICTS: usize = 15;
const CONFLICT_WINDOW: Duration = Duration::from_secs(10);
const CONFLICT_PAUSE: Duration = Duration::from_secs(5);
/// What somebody who doesn't speak multicast DNS may keep, in seconds.
const LEGACY_TTL: u32 = 10;
/// How much it may ask at a time; its questions are repeated in the answer.
const LEGACY_QUESTIONS: usize = 4;

/// An interface in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The interface's index.
    pub index: u32,
    /// IPv6 or IPv4.
    pub v6: bool,
}

/// An interface with its addresses and the lengths of their networks' prefixes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl Interface {
    /// Where there is something to talk from: an IPv4 address, a link-local IPv6 address.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let index = self.index;
        let has = |wanted: fn(&IpAddr) -> bool| self.addresses.iter().any(|(a, _)| wanted(a));
        let v4 = has(IpAddr::is_ipv4).then_some(Place { index, v6: false });
        let v6 = has(is_link_local).then_some(Place { index, v6: true });
        v4.into_iter().chain(v6).collect()
    }

    /// Whether an address is on this network.
    fn reaches(&self, other: IpAddr) -> bool {
        is_link_local(&other)
            || (self.addresses.iter()).any(|(own, prefix)| same_network(*own, other, *prefix))
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn same_network(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let prefix = u32::from(prefix);
    match (one, other) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mask = u32::MAX.checked_shl(32 - prefix.min(32)).unwrap_or(0);
            u32::from(a) & mask == u32::from(b) & mask
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let mask = u128::MAX.checked_shl(128 - prefix.min(128)).unwrap_or(0);
            u128::from(a) & mask == u128::from(b) & mask
        }
        _ => false,
    }
}

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where.
    pub place: Place,
    /// To whom; none for all.
    pub to: Option<SocketAddr>,
    /// The message.
    pub bytes: Vec<u8>,
}

/// How far a place is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// So many probes were sent; the next, or the end of waiting, is at a time.
    Probe(u8, Instant),
    /// So many announcements were sent; the next is at a time.
    Announce(u8, Instant),
    /// All is said.
    Settled,
}

struct Spot {
    interface: Interface,
    records: Vec<Own>,
    stage: Stage,
    /// Unicasts in the second that began then.
    unicasts: (Instant, u32),
}

/// See the module.
pub struct Responder {
    machine: String,
    number: u32,
    names: Names,
    facts: Facts,
    spots: BTreeMap<Place, Spot>,
    conflicts: VecDeque<Instant>,
    random: u64,
    /// A line for the log, when names change.
    news: Vec<String>,
}

impl Responder {
    /// For a machine of this name.
    #[must_use]
    pub fn new(machine: &str, facts: Facts) -> Self {
        let seed = std::hash::RandomState::new().build_hasher().finish();
        Self {
            machine: machine.to_owned(),
            number: 1,
            names: Names::new(machine, 1),
            facts,
            spots: BTreeMap::new(),
            conflicts: VecDeque::new(),
            random: seed | 1,
            news: Vec::new(),
        }
    }

    /// The name that it has or tries to have.
    #[must_use]
    pub fn label(&self) -> &str {
        self.names.label()
    }

    /// What has happened to the names.
    pub fn take_news(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }

    /// A time between two, in milliseconds (xorshift64).
    fn between(&mut self, from: u64, to: u64) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        Duration::from_millis(from + self.random % (to - from + 1))
    }

    /// The interfaces are these. What is new is probed, what has changed announced.
    pub fn set_interfaces(&mut self, interfaces: &[Interface], now: Instant) -> Vec<Output> {
        let mut out = Vec::new();
        let mut places = BTreeMap::new();
        for interface in interfaces {
            for place in interface.places() {
                places.insert(place, interface);
            }
        }
        self.spots.retain(|place, _| places.contains_key(place));
        for (place, interface) in places {
            let fresh = addressed(&self.names, &self.facts, interface);
            match self.spots.get_mut(&place) {
                Some(spot) if spot.interface == *interface => {}
                Some(spot) => {
                    let gone: Vec<Record> = (spot.records.iter())
                        .filter(|old| !fresh.iter().any(|new| new.record.says(&old.record)))
                        .filter(|old| !old.is_denial())
                        .map(|old| farewell(&old.record))
                        .collect();
                    spot.interface = interface.clone();
                    spot.records = fresh;
                    if !matches!(spot.stage, Stage::Probe(..)) {
                        spot.stage = Stage::Announce(0, now);
                        out.extend(answers(place, None, gone));
                    }
                }
                None => {
                    let spot = Spot {
                        interface: interface.clone(),
                        records: fresh,
                        stage: Stage::Probe(0, now + self.between(0, 250)),
                        unicasts: (now, 0),
                    };
                    self.spots.insert(place, spot);
                }
            }
        }
        out
    }

    /// What is told has changed.
    pub fn set_facts(&mut self, facts: Facts, now: Instant) {
        self.facts = facts;
        for spot in self.spots.values_mut() {
            spot.records = addressed(&self.names, &self.facts, &spot.interface);
            if spot.stage == Stage::Settled {
                spot.stage = Stage::Announce(0, now);
            }
        }
    }

    /// When [`Responder::tick`] wants to be called.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let stage = |spot: &Spot| match spot.stage {
            Stage::Probe(_, at) | Stage::Announce(_, at) => Some(at),
            Stage::Settled => None,
        };
        let due = |spot: &Spot| spot.records.iter().filter_map(|own| own.due).min();
        (self.spots.values())
            .flat_map(|spot| [stage(spot), due(spot)])
            .flatten()
            .min()
    }

    /// Sends what is due.
    pub fn tick(&mut self, now: Instant) -> Vec<Output> {
        let mut out = Vec::new();
        for (place, spot) in &mut self.spots {
            match spot.stage {
                Stage::Probe(sent, at) if at <= now && sent < PROBES => {
                    spot.stage = Stage::Probe(sent + 1, now + PROBE_EVERY);
                    out.extend(probe(*place, &self.names, spot));
                }
                Stage::Probe(_, at) if at <= now => {
                    spot.stage = Stage::Announce(0, now);
                }
                _ => {}
            }
            if let Stage::Announce(sent, at) = spot.stage
                && at <= now
            {
                spot.stage = match sent + 1 {
                    ANNOUNCEMENTS => Stage::Settled,
                    sent => Stage::Announce(sent, now + SECOND),
                };
                for own in spot.records.iter_mut().filter(|own| !own.is_denial()) {
                    own.due = Some(now);
                }
            }
            out.extend(spot.send_due(*place, now));
        }
        out
    }

    /// Says that all this is over, where it was announced.
    pub fn goodbye(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        for (place, spot) in &self.spots {
            if !matches!(spot.stage, Stage::Probe(..)) {
                // That there is such a service stays true if others have it.
                let own = spot.records.iter().skip(1).filter(|own| !own.is_denial());
                let records = own.map(|own| farewell(&own.record)).collect();
                out.extend(answers(*place, None, records));
            }
        }
        self.spots.clear();
        out
    }

    /// A message has come.
    pub fn receive(
        &mut self,
        place: Place,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Vec<Output> {
        let Some(spot) = self.spots.get(&place) else {
            return Vec::new();
        };
        if !spot.interface.reaches(from.ip()) {
            return Vec::new();
        }
        let Some(message) = Message::parse(bytes) else {
            return Vec::new();
        };
        let own = self.spots.values().any(|spot| {
            spot.interface
                .addresses
                .iter()
                .any(|(a, _)| *a == from.ip())
        });
        match message.response {
            true if from.port() == PORT && !own => self.compare(place, from, &message, now),
            true => {}
            false => {
                if !own && !message.authorities.is_empty() {
                    self.break_tie(place, &message, now);
                }
                return self.answer(place, from, &message, now);
            }
        }
        self.tick(now)
    }

    /// Whether one of the node's records anywhere says the same: a network may be bridged to
    /// another of the node's.
    fn is_own(&self, record: &Record) -> bool {
        (self.spots.values())
            .flat_map(|spot| &spot.records)
            .any(|own| own.record.says(record))
    }

    /// Looks whether another host has the node's names.
    fn compare(&mut self, place: Place, from: SocketAddr, message: &Message, now: Instant) {
        let mut taken = (message.answers.iter().chain(&message.additional)).any(|record| {
            record.class == IN
                && record.ttl > 0
                && record.kind != kind::NSEC
                && self.names.has(&record.name)
                && !self.is_own(record)
        });
        let Some(spot) = self.spots.get_mut(&place) else {
            return;
        };
        match spot.stage {
            // Before the first probe is out it was nobody's answer; it is asked for anyway.
            Stage::Probe(0, _) => taken = false,
            Stage::Probe(..) => {}
            _ if taken => {
                // Both have announced it: asked again, and whoever answers keeps it.
                taken = false;
                let wait = self.conflict(now);
                self.probe_again(now + wait);
            }
            _ => {}
        }
        if taken {
            let wait = self.conflict(now) + self.between(0, 250);
            let before = self.names.label().to_owned();
            self.number = self.number.saturating_add(1);
            self.names = Names::new(&self.machine, self.number);
            self.news.push(format!(
                "{before}.local is another machine's on this network ({}): this one is {}.local there",
                from.ip(),
                self.names.label()
            ));
            for spot in self.spots.values_mut() {
                spot.records = addressed(&self.names, &self.facts, &spot.interface);
            }
            self.probe_again(now + wait);
        }
    }

    fn probe_again(&mut self, at: Instant) {
        for spot in self.spots.values_mut() {
            spot.stage = Stage::Probe(0, at);
            for own in &mut spot.records {
                own.due = None;
            }
        }
    }

    /// Notes a conflict; gives how long to wait because there were many.
    fn conflict(&mut self, now: Instant) -> Duration {
        self.conflicts.push_back(now);
        while self.conflicts.len() > CONFLICTS {
            self.conflicts.pop_front();
        }
        let many = self.conflicts.len() == CONFLICTS;
        match self.conflicts.front() {
            Some(first) if many && now.duration_since(*first) < CONFLICT_WINDOW => CONFLICT_PAUSE,
            _ => Duration::ZERO,
        }
    }

    /// Two ask for the same name at the same time: whose records are less waits and asks
    /// again, and will be answered by the other (RFC 6762 section 8.2).
    fn break_tie(&mut self, place: Place, message: &Message, now: Instant) {
        let names = [self.names.host.clone(), self.names.instance.clone()];
        let Some(spot) = self.spots.get_mut(&place) else {
            return;
        };
        if !matches!(spot.stage, Stage::Probe(1.., _)) {
            return;
        }
        let lost = names.iter().any(|name| {
            let theirs = sorted(message.authorities.iter().filter(|r| r.name == *name));
            let own = sorted(probed(spot).filter(|r| r.name == *name));
            !theirs.is_empty() && theirs > own
        });
        if lost {
            spot.stage = Stage::Probe(0, now + SECOND);
        }
    }

    /// Answers a query.
    fn answer(
        &mut self,
        place: Place,
        from: SocketAddr,
        message: &Message,
        now: Instant,
    ) -> Vec<Output> {
        let shared_delay = match message.truncated {
            true => self.between(400, 500),
            false => self.between(20, 120),
        };
        let names = self.names.clone();
        let Some(spot) = self.spots.get_mut(&place) else {
            return Vec::new();
        };
        if matches!(spot.stage, Stage::Probe(..)) {
            return self.tick(now);
        }
        if message.questions.is_empty() {
            // What its asker knows besides.
            for own in &mut spot.records {
                if own.asker == Some(from.ip()) && is_known(own, message) {
                    own.due = None;
                }
            }
        }
        let legacy = from.port() != PORT;
        if legacy && message.questions.len() > LEGACY_QUESTIONS {
            return self.tick(now);
        }
        let Some(spot) = self.spots.get_mut(&place) else {
            return Vec::new();
        };
        let defending = !message.authorities.is_empty();
        let mut unicast = Vec::new();
        for question in &message.questions {
            let mut wanted = spot.matching(&names, question);
            spot.leave_out_known(&mut wanted, message);
            let shared = wanted.iter().any(|i| !spot.records[*i].record.unique);
            for i in wanted {
                let own = &mut spot.records[i];
                let stale = Duration::from_secs(u64::from(own.record.ttl / 4));
                let fresh = own
                    .last
                    .is_some_and(|last| now.duration_since(last) < stale);
                if legacy || (question.unicast && fresh && !defending) {
                    if !unicast.contains(&i) {
                        unicast.push(i);
                    }
                    continue;
                }
                let delay = match (defending, message.truncated || shared) {
                    (false, true) => shared_delay,
                    _ => Duration::ZERO,
                };
                own.ask(
                    now + delay,
                    if defending { DEFENCE } else { SECOND },
                    from.ip(),
                );
            }
        }
        let mut out = Vec::new();
        if !unicast.is_empty() && spot.may_unicast(now) {
            out.extend(spot.unicast(place, from, &unicast, message, legacy));
        }
        out.extend(self.tick(now));
        out
    }
}

/// The records of an interface.
fn addressed(names: &Names, facts: &Facts, interface: &Interface) -> Vec<Own> {
    let addresses: Vec<IpAddr> = interface.addresses.iter().map(|(a, _)| *a).collect();
    records(names, facts, &addresses)
}

fn farewell(record: &Record) -> Record {
    Record {
        ttl: 0,
        ..record.clone()
    }
}

fn answers(place: Place, to: Option<SocketAddr>, answers: Vec<Record>) -> Vec<Output> {
    if answers.is_empty() {
        return Vec::new();
    }
    let message = Message {
        response: true,
        answers,
        ..Message::default()
    };
    outputs(place, to, &message)
}

fn outputs(place: Place, to: Option<SocketAddr>, message: &Message) -> Vec<Output> {
    let packets = message.packets().into_iter();
    packets.map(|bytes| Output { place, to, bytes }).collect()
}

/// What is asked for before it is announced. An address's name is the node's by the address.
fn probed(spot: &Spot) -> impl Iterator<Item = &Record> {
    (spot.records.iter())
        .filter(|own| !own.is_denial())
        .map(|own| &own.record)
        .filter(|record| record.unique && record.kind != kind::PTR)
}

fn probe(place: Place, names: &Names, spot: &Spot) -> Vec<Output> {
    let question = |name: &super::packet::Name| Question {
        name: name.clone(),
        kind: kind::ANY,
        class: IN,
        unicast: true,
    };
    let message = Message {
        questions: vec![question(&names.instance), question(&names.host)],
        authorities: probed(spot)
            .map(|record| Record {
                unique: false,
                ..record.clone()
            })
            .collect(),
        ..Message::default()
    };
    outputs(place, None, &message)
}

/// In the order in which they are compared: class, type, data.
fn sorted<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<(u16, u16, &'a [u8])> {
    let mut all: Vec<_> = records
        .map(|r| (r.class, r.kind, r.data.as_slice()))
        .collect();
    all.sort_unstable();
    all
}

/// Whether an asker knows it for at least half of its time.
fn is_known(own: &Own, message: &Message) -> bool {
    (message.answers.iter()).any(|known| known.says(&own.record) && known.ttl >= own.record.ttl / 2)
}

impl Own {
    /// Sends it to all at `at`, or when `pause` has passed since it last was.
    fn ask(&mut self, at: Instant, pause: Duration, asker: IpAddr) {
        let at = self.last.map_or(at, |last| at.max(last + pause));
        self.asker = match self.due {
            None => Some(asker),
            Some(_) => self.asker.filter(|known| *known == asker),
        };
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

impl Spot {
    /// The records that answer a question, by their places in the list.
    fn matching(&self, names: &Names, question: &Question) -> Vec<usize> {
        if question.class != IN && question.class != kind::ANY {
            return Vec::new();
        }
        let of_name = |own: &Own| own.record.name == question.name;
        let found = |wanted: &dyn Fn(&Own) -> bool| -> Vec<usize> {
            let all = self.records.iter().enumerate();
            all.filter(|(_, own)| of_name(own) && wanted(own))
                .map(|(i, _)| i)
                .collect()
        };
        let any = question.kind == kind::ANY;
        let matching = found(&|own| own.record.kind == question.kind || (any && !own.is_denial()));
        match matching.is_empty() && names.has(&question.name) {
            true => found(&Own::is_denial),
            false => matching,
        }
    }

    /// Leaves out what the asker knows; but of records that are the only ones of their name
    /// and type all are sent, or none, since they take the place of what is known.
    fn leave_out_known(&self, wanted: &mut Vec<usize>, message: &Message) {
        let kept: Vec<usize> = (wanted.iter().copied())
            .filter(|i| !is_known(&self.records[*i], message))
            .collect();
        wanted.retain(|i| {
            let one = &self.records[*i].record;
            kept.contains(i)
                || one.unique
                    && kept.iter().any(|other| {
                        let other = &self.records[*other].record;
                        other.name == one.name && other.kind == one.kind
                    })
        });
    }

    /// What goes with answers to save a question: the service's records with its name, the
    /// addresses with the host's.
    fn additional(&self, answers: &[usize]) -> Vec<usize> {
        let mut more: Vec<usize> = Vec::new();
        for i in answers {
            let answer = &self.records[*i].record;
            if !matches!(answer.kind, kind::PTR | kind::SRV | kind::A | kind::AAAA) {
                continue;
            }
            let ends = |own: &Own| answer.data.ends_with(own.record.name.wire());
            for (n, own) in self.records.iter().enumerate() {
                let told = match answer.kind {
                    kind::A | kind::AAAA => own.record.name == answer.name,
                    _ => ends(own) && own.record.unique,
                };
                if told && !own.is_denial() && !answers.contains(&n) && !more.contains(&n) {
                    more.push(n);
                }
            }
        }
        // With a service's host come its addresses.
        let srv = |i: &&usize| self.records[**i].record.kind == kind::SRV;
        if let Some(srv) = more.iter().find(srv).copied() {
            for n in self.additional(&[srv]) {
                if !answers.contains(&n) && !more.contains(&n) {
                    more.push(n);
                }
            }
        }
        more
    }

    fn record(&self, i: usize) -> Record {
        self.records[i].record.clone()
    }

    /// Sends to all what is due.
    fn send_due(&mut self, place: Place, now: Instant) -> Vec<Output> {
        let due: Vec<usize> = (self.records.iter().enumerate())
            .filter(|(_, own)| own.due.is_some_and(|at| at <= now))
            .map(|(i, _)| i)
            .collect();
        if due.is_empty() {
            return Vec::new();
        }
        // What has just been sent is known.
        let mut more = self.additional(&due);
        more.retain(|i| {
            let last = self.records[*i].last;
            last.is_none_or(|last| now.duration_since(last) >= SECOND)
        });
        let message = Message {
            response: true,
            answers: due.iter().map(|i| self.record(*i)).collect(),
            additional: more.iter().map(|i| self.record(*i)).collect(),
            ..Message::default()
        };
        for i in due.iter().chain(&more) {
            let own = &mut self.records[*i];
            (own.due, own.asker, own.last) = (None, None, Some(now));
        }
        outputs(place, None, &message)
    }

    /// Whether one more asker is answered.
    fn may_unicast(&mut self, now: Instant) -> bool {
        if now.duration_since(self.unicasts.0) >= SECOND {
            self.unicasts = (now, 0);
        }
        self.unicasts.1 += 1;
        self.unicasts.1 <= UNICASTS
    }

    /// An answer to one asker; if that doesn't speak multicast DNS, in the way it understands.
    fn unicast(
        &self,
        place: Place,
        to: SocketAddr,
        answers: &[usize],
        asked: &Message,
        legacy: bool,
    ) -> Vec<Output> {
        let told = |i: &usize| {
            let record = self.record(*i);
            match legacy {
                true => Record {
                    unique: false,
                    ttl: record.ttl.min(LEGACY_TTL),
                    ..record
                },
                false => record,
            }
        };
        let message = Message {
            id: if legacy { asked.id } else { 0 },
            response: true,
            questions: match legacy {
                true => asked.questions.clone(),
                false => Vec::new(),
            },
            answers: answers.iter().map(told).collect(),
            additional: self.additional(answers).iter().map(told).collect(),
            ..Message::default()
        };
        // What doesn't fit is asked for again.
        outputs(place, Some(to), &message)
            .into_iter()
            .take(1)
            .collect()
    }
}

#[cfg(test)]
#[path = "responder_tests.rs"]
mod tests;
