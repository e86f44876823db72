//! What is said at one place: which of the node's records answer a question, when they are
//! sent to all, and what goes to single askers.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::packet::{IN, Message, Name, Question, Record, kind};
use super::place::{Interface, Place};
use super::records::{Facts, Names, Own, records};
use super::responder::{SECOND, UNICASTS};

/// What somebody who doesn't speak multicast DNS may keep, in seconds.
const LEGACY_TTL: u32 = 10;

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
pub enum Stage {
    /// So many probes were sent; the next, or the end of waiting, is at a time.
    Probe(u8, Instant),
    /// So many announcements were sent; the next is at a time.
    Announce(u8, Instant),
    /// All is said.
    Settled,
}

/// A place, with the records that the node has there.
pub struct Spot {
    /// The interface.
    pub interface: Interface,
    /// The records.
    pub records: Vec<Own>,
    /// How far it is.
    pub stage: Stage,
    /// Unicasts in the second that began then.
    unicasts: (Instant, u32),
}

/// The records of an interface.
pub fn addressed(names: &Names, facts: &Facts, interface: &Interface) -> Vec<Own> {
    let addresses: Vec<IpAddr> = interface.addresses.iter().map(|(a, _)| *a).collect();
    records(names, facts, &addresses)
}

/// Records as an answer; nothing for none.
pub fn answers(place: Place, to: Option<SocketAddr>, answers: Vec<Record>) -> Vec<Output> {
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

/// Whether an asker knows it for at least half of its time.
pub fn is_known(own: &Own, message: &Message) -> bool {
    (message.answers.iter()).any(|known| known.says(&own.record) && known.ttl >= own.record.ttl / 2)
}

impl Own {
    /// Sends it to all at `at`, or when `pause` has passed since it last was.
    pub fn ask(&mut self, at: Instant, pause: Duration, asker: IpAddr) {
        let at = self.last.map_or(at, |last| at.max(last + pause));
        self.asker = match self.due {
            None => Some(asker),
            Some(_) => self.asker.filter(|known| *known == asker),
        };
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }
}

impl Spot {
    /// A place that is new: its names are asked for from `at` on.
    #[must_use]
    pub fn new(interface: Interface, records: Vec<Own>, now: Instant, at: Instant) -> Self {
        Self {
            interface,
            records,
            stage: Stage::Probe(0, at),
            unicasts: (now, 0),
        }
    }

    /// What is asked for before it is announced. An address's name is the node's by the
    /// address.
    pub fn probed(&self) -> impl Iterator<Item = &Record> {
        (self.records.iter())
            .filter(|own| !own.is_denial())
            .map(|own| &own.record)
            .filter(|record| record.unique && record.kind != kind::PTR)
    }

    /// The question whether the names are free.
    #[must_use]
    pub fn probe(&self, place: Place, names: &Names) -> Vec<Output> {
        let question = |name: &Name| Question {
            name: name.clone(),
            kind: kind::ANY,
            class: IN,
            unicast: true,
        };
        let message = Message {
            questions: vec![question(&names.instance), question(&names.host)],
            authorities: (self.probed())
                .map(|record| Record {
                    unique: false,
                    ..record.clone()
                })
                .collect(),
            ..Message::default()
        };
        outputs(place, None, &message)
    }

    /// The records that answer a question, by their places in the list.
    pub fn matching(&self, names: &Names, question: &Question) -> Vec<usize> {
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
    pub fn leave_out_known(&self, wanted: &mut Vec<usize>, message: &Message) {
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
    pub fn send_due(&mut self, place: Place, now: Instant) -> Vec<Output> {
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
    pub fn may_unicast(&mut self, now: Instant) -> bool {
        if now.duration_since(self.unicasts.0) >= SECOND {
            self.unicasts = (now, 0);
        }
        self.unicasts.1 += 1;
        self.unicasts.1 <= UNICASTS
    }

    /// An answer to one asker; if that doesn't speak multicast DNS, in the way it understands.
    pub fn unicast(
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
