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
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::packet::{IN, Message, Record, kind};
use super::place::{Interface, Place};
use super::records::{Facts, Names};
use super::spot::{Output, Spot, Stage, addressed, answers, is_known};

/// Where multicast DNS is spoken.
pub const PORT: u16 = 5353;
/// Answers to single askers, a second and place.
pub const UNICASTS: u32 = 20;

const PROBES: u8 = 3;
const PROBE_EVERY: Duration = Duration::from_millis(250);
const ANNOUNCEMENTS: u8 = 2;
/// A record is sent to all no more often.
pub const SECOND: Duration = Duration::from_secs(1);
/// Who asks whether a name is free is told sooner that it isn't.
const DEFENCE: Duration = Duration::from_millis(250);
/// So many conflicts in ten seconds, and each further try waits five (RFC 6762 section 8.1).
const CONFLICTS: usize = 15;
const CONFLICT_WINDOW: Duration = Duration::from_secs(10);
const CONFLICT_PAUSE: Duration = Duration::from_secs(5);
/// How much it may ask at a time; its questions are repeated in the answer.
const LEGACY_QUESTIONS: usize = 4;

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
                    let at = now + self.between(0, 250);
                    let spot = Spot::new(interface.clone(), fresh, now, at);
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
                    out.extend(spot.probe(*place, &self.names));
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

    /// Looks whether another host has the node's names. While they are asked for they are left
    /// to it; later both have announced them: asked again, and whoever answers keeps them.
    fn compare(&mut self, place: Place, from: SocketAddr, message: &Message, now: Instant) {
        let taken = (message.answers.iter().chain(&message.additional)).any(|record| {
            record.class == IN
                && record.ttl > 0
                && record.kind != kind::NSEC
                && self.names.has(&record.name)
                && !self.is_own(record)
        });
        let Some(stage) = self.spots.get(&place).map(|spot| spot.stage) else {
            return;
        };
        // Before the first probe is out it is nobody's answer, and will be asked for anyway.
        if !taken || matches!(stage, Stage::Probe(0, _)) {
            return;
        }
        let mut wait = self.conflict(now);
        if matches!(stage, Stage::Probe(..)) {
            wait += self.between(0, 250);
            self.rename(from);
        }
        for spot in self.spots.values_mut() {
            spot.stage = Stage::Probe(0, now + wait);
            for own in &mut spot.records {
                own.due = None;
            }
        }
    }

    /// Takes the next name, since another host has this one.
    fn rename(&mut self, other: SocketAddr) {
        let before = self.names.label().to_owned();
        self.number = self.number.saturating_add(1);
        self.names = Names::new(&self.machine, self.number);
        self.news.push(format!(
            "{before}.local is another machine's on this network ({}): this one is {}.local there",
            other.ip(),
            self.names.label()
        ));
        for spot in self.spots.values_mut() {
            spot.records = addressed(&self.names, &self.facts, &spot.interface);
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
            let own = sorted(spot.probed().filter(|r| r.name == *name));
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

fn farewell(record: &Record) -> Record {
    Record {
        ttl: 0,
        ..record.clone()
    }
}

/// In the order in which they are compared: class, type, data.
fn sorted<'a>(records: impl Iterator<Item = &'a Record>) -> Vec<(u16, u16, &'a [u8])> {
    let mut all: Vec<_> = records
        .map(|r| (r.class, r.kind, r.data.as_slice()))
        .collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
#[path = "responder_tests.rs"]
mod tests;
