use super::*;
use crate::mdns::packet::{Name, Question};
use proptest::prelude::*;
use slipway_images::node::discovery::Advert;
use std::net::IpAddr;

fn facts() -> Facts {
    Facts {
        port: 7443,
        advert: Advert {
            version: Some("1.2.3".into()),
            ..Advert::default()
        },
    }
}

fn interface(last: u8) -> Interface {
    Interface {
        index: 2,
        name: "eth0".into(),
        addresses: vec![(IpAddr::from([10, 0, 0, last]), 24)],
    }
}

const PLACE: Place = Place {
    index: 2,
    v6: false,
};

/// Machines on one network, whose time is a number.
struct Network {
    now: Instant,
    hosts: Vec<(Responder, u8)>,
    /// All that was sent: by whom, to whom, what.
    heard: Vec<(usize, Option<SocketAddr>, Message)>,
}

impl Network {
    fn new() -> Self {
        Self {
            now: Instant::now(),
            hosts: Vec::new(),
            heard: Vec::new(),
        }
    }

    fn join(&mut self, name: &str) -> usize {
        let last = self.hosts.len() as u8 + 1;
        let mut host = Responder::new(name, facts());
        host.set_interfaces(&[interface(last)], self.now);
        self.hosts.push((host, last));
        self.hosts.len() - 1
    }

    fn address(&self, host: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, self.hosts[host].1], PORT))
    }

    /// Delivers to all, who may have something to say to it.
    fn deliver(&mut self, from: usize, outputs: Vec<Output>) {
        let mut queue: VecDeque<(usize, Output)> = outputs.into_iter().map(|o| (from, o)).collect();
        while let Some((from, output)) = queue.pop_front() {
            let address = self.address(from);
            let message = Message::parse(&output.bytes).unwrap();
            self.heard.push((from, output.to, message));
            for host in 0..self.hosts.len() {
                // What one sends to all comes back to itself, too.
                if output.to.is_none() || output.to == Some(self.address(host)) {
                    let said = self.hosts[host]
                        .0
                        .receive(PLACE, address, &output.bytes, self.now);
                    queue.extend(said.into_iter().map(|o| (host, o)));
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let next = self.hosts.iter().filter_map(|(h, _)| h.next()).min();
            match next {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
            for host in 0..self.hosts.len() {
                let out = self.hosts[host].0.tick(self.now);
                self.deliver(host, out);
            }
        }
        self.now = end;
    }

    fn labels(&self) -> Vec<&str> {
        self.hosts.iter().map(|(host, _)| host.label()).collect()
    }

    /// A stranger with this address asks; gives what is said within a time.
    fn ask(
        &mut self,
        from: SocketAddr,
        message: &Message,
    ) -> Vec<(usize, Option<SocketAddr>, Message)> {
        self.heard.clear();
        for bytes in message.packets() {
            for host in 0..self.hosts.len() {
                let said = self.hosts[host].0.receive(PLACE, from, &bytes, self.now);
                self.deliver(host, said);
            }
        }
        self.pass(Duration::from_millis(600));
        std::mem::take(&mut self.heard)
    }
}

fn stranger(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 99], port))
}

fn question(labels: &[&str], kind: u16) -> Message {
    Message {
        id: 7,
        questions: vec![Question {
            name: Name::of(labels),
            kind,
            class: IN,
            unicast: false,
        }],
        ..Message::default()
    }
}

const SERVICE: [&str; 3] = ["_slipway", "_tcp", "local"];
const LONG: Duration = Duration::from_secs(20);

fn settled(name: &str) -> Network {
    let mut network = Network::new();
    network.join(name);
    network.pass(LONG);
    network
}

#[test]
fn a_name_is_asked_for_three_times_and_announced_twice() {
    let network = settled("node1");
    let probes: Vec<_> = network
        .heard
        .iter()
        .filter(|(_, _, m)| !m.response)
        .collect();
    let answers: Vec<_> = network
        .heard
        .iter()
        .filter(|(_, _, m)| m.response)
        .collect();
    assert_eq!((probes.len(), answers.len()), (3, 2));
    let (_, _, probe) = probes[0];
    assert!(
        probe
            .questions
            .iter()
            .all(|q| q.kind == kind::ANY && q.unicast)
    );
    assert!(probe.authorities.iter().any(|r| r.kind == kind::A));
    let (_, _, announcement) = answers[0];
    for kind in [kind::PTR, kind::SRV, kind::TXT, kind::A] {
        assert!(
            announcement.answers.iter().any(|r| r.kind == kind),
            "{kind}"
        );
    }
}

#[test]
fn nothing_is_answered_before_the_name_is_the_nodes() {
    let mut network = Network::new();
    network.join("node1");
    let said = network.ask(stranger(PORT), &question(&SERVICE, kind::PTR));
    assert!(said.iter().all(|(_, _, m)| !m.response));
}

#[test]
fn who_comes_second_takes_another_name() {
    let mut network = settled("node1");
    network.join("Node1.example.org");
    network.pass(LONG);
    assert_eq!(network.labels(), ["node1", "Node1-2"]);
    network.join("node1");
    network.pass(LONG);
    assert_eq!(network.labels(), ["node1", "Node1-2", "node1-3"]);
    let news = network.hosts[1].0.take_news();
    assert_eq!(news.len(), 1);
    assert!(
        news[0].contains("Node1.local is another machine's"),
        "{news:?}"
    );
}

#[test]
fn who_come_together_agree() {
    for _ in 0..20 {
        let mut network = Network::new();
        for _ in 0..3 {
            network.join("node1");
        }
        network.pass(LONG * 3);
        let mut labels = network.labels();
        labels.sort_unstable();
        assert_eq!(labels, ["node1", "node1-2", "node1-3"]);
    }
}

#[test]
fn two_networks_that_become_one_have_one_of_a_name() {
    let mut one = settled("node1");
    let mut other = Network::new();
    other.hosts.push((Responder::new("unused", facts()), 200));
    other.join("node1");
    other.pass(LONG);
    let now = one.now.max(other.now);
    one.now = now;
    one.hosts.push(other.hosts.remove(1));
    // Somebody asks, both answer.
    one.ask(stranger(PORT), &question(&["node1", "local"], kind::A));
    one.pass(LONG);
    let mut labels = one.labels();
    labels.sort_unstable();
    assert_eq!(labels, ["node1", "node1-2"]);
}

#[test]
fn what_is_asked_is_answered_and_nothing_else() {
    let mut network = settled("node1");
    network.pass(LONG);
    let said = network.ask(stranger(PORT), &question(&SERVICE, kind::PTR));
    let [(_, None, answer)] = said.as_slice() else {
        unreachable!("{said:?}")
    };
    assert_eq!(answer.answers.len(), 1);
    let more: Vec<u16> = answer.additional.iter().map(|r| r.kind).collect();
    assert_eq!(more, [kind::SRV, kind::TXT, kind::A]);
    // Whatever the case of letters.
    let said = network.ask(stranger(PORT), &question(&["NODE1", "LOCAL"], kind::A));
    assert_eq!(said[0].2.answers[0].data, [10, 0, 0, 1]);
    // That there is none is an answer for one's own names.
    let said = network.ask(stranger(PORT), &question(&["node1", "local"], kind::AAAA));
    assert_eq!(said[0].2.answers[0].kind, kind::NSEC);
    for (labels, kind) in [
        (&["node2", "local"][..], kind::A),
        (&["local"], kind::ANY),
        (&["_http", "_tcp", "local"], kind::PTR),
    ] {
        assert_eq!(network.ask(stranger(PORT), &question(labels, kind)), []);
    }
}

#[test]
fn what_is_known_is_not_said_again() {
    let mut network = settled("node1");
    network.pass(LONG);
    let first = network.ask(stranger(PORT), &question(&SERVICE, kind::PTR));
    network.pass(LONG);
    let mut again = question(&SERVICE, kind::PTR);
    again.answers = first[0].2.answers.clone();
    assert_eq!(network.ask(stranger(PORT), &again), []);
    again.answers[0].ttl = 100;
    assert_eq!(network.ask(stranger(PORT), &again).len(), 1, "not for long");
    network.pass(LONG);
    // Known answers that come in a second message.
    let mut open = question(&SERVICE, kind::PTR);
    let mut bytes = open.packets().remove(0);
    bytes[2] |= 0x02;
    let host = &mut network.hosts[0].0;
    assert_eq!(host.receive(PLACE, stranger(PORT), &bytes, network.now), []);
    open.questions.clear();
    open.answers = first[0].2.answers.clone();
    assert_eq!(network.ask(stranger(PORT), &open), []);
}

#[test]
fn an_old_resolver_gets_an_answer_of_its_own() {
    let mut network = settled("node1");
    let said = network.ask(stranger(40000), &question(&["node1", "local"], kind::A));
    let [(_, Some(to), answer)] = said.as_slice() else {
        unreachable!("{said:?}")
    };
    assert_eq!((*to, answer.id), (stranger(40000), 7));
    assert_eq!(answer.questions.len(), 1);
    assert!(answer.answers.iter().all(|r| r.ttl <= 10 && !r.unique));
}

#[test]
fn other_networks_are_not_heard() {
    let mut network = settled("node1");
    for from in ["10.0.1.5:5353", "192.0.2.1:40000", "[2001:db8::1]:5353"] {
        let from = from.parse().unwrap();
        assert_eq!(
            network.ask(from, &question(&["node1", "local"], kind::A)),
            []
        );
    }
    // A claim from there, or from a port that isn't that of multicast DNS, neither.
    let mut claim = question(&[], kind::A);
    claim.questions.clear();
    claim.response = true;
    claim.answers.push(Record {
        name: Name::of(&["node1", "local"]),
        kind: kind::A,
        class: IN,
        unique: true,
        ttl: 120,
        data: vec![10, 0, 0, 77],
    });
    for from in ["10.0.1.5:5353", "10.0.0.5:40000"] {
        assert_eq!(network.ask(from.parse().unwrap(), &claim), []);
    }
    assert_eq!(network.labels(), ["node1"]);
}

#[test]
fn a_flood_costs_no_more_than_a_second_allows() {
    let mut network = settled("node1");
    network.pass(LONG);
    let (mut multicasts, mut unicasts) = (0, 0);
    let start = network.now;
    for n in 0..5000u32 {
        let port = if n % 2 == 0 { PORT } else { 40000 };
        let from = SocketAddr::from(([10, 0, 0, (n % 200) as u8 + 20], port));
        let mut message = question(&SERVICE, kind::ANY);
        message
            .questions
            .extend(question(&["node1", "local"], kind::ANY).questions);
        network.now = start + Duration::from_millis(u64::from(n) * 10_000 / 5000);
        let bytes = message.packets().remove(0);
        for output in network.hosts[0].0.receive(PLACE, from, &bytes, network.now) {
            match output.to {
                None => multicasts += 1,
                Some(_) => unicasts += 1,
            }
        }
    }
    // In ten seconds: some of each kind of record's.
    assert!((5..=40).contains(&multicasts), "{multicasts}");
    assert!(unicasts <= 11 * UNICASTS, "{unicasts}");
}

#[test]
fn who_lies_about_names_is_given_way_and_not_for_ever_faster() {
    let mut network = settled("node1");
    let host = &mut network.hosts[0].0;
    let mut sent = 0;
    let mut now = network.now;
    for _ in 0..20_000 {
        now += Duration::from_millis(5);
        sent += host.tick(now).len();
        let claim = Message {
            response: true,
            answers: vec![Record {
                name: Names::new(host.label(), 1).host,
                kind: kind::A,
                class: IN,
                unique: true,
                ttl: 120,
                data: vec![10, 0, 0, 77],
            }],
            ..Message::default()
        };
        let bytes = claim.packets().remove(0);
        sent += host.receive(PLACE, stranger(PORT), &bytes, now).len();
    }
    // 100 seconds of it.
    assert!(sent < 200, "{sent}");
    assert!(host.conflicts.len() <= CONFLICTS);
}

#[test]
fn a_new_address_is_told_and_the_old_taken_back() {
    let mut network = settled("node1");
    network.heard.clear();
    let mut changed = interface(7);
    changed.addresses.push((IpAddr::from([10, 0, 0, 8]), 24));
    let out = network.hosts[0].0.set_interfaces(&[changed], network.now);
    network.deliver(0, out);
    network.pass(LONG);
    let gone: Vec<&Record> = (network.heard[0].2.answers.iter())
        .filter(|r| r.ttl == 0)
        .collect();
    assert!(
        gone.iter()
            .any(|r| r.kind == kind::A && r.data == [10, 0, 0, 1])
    );
    let told: Vec<&Record> = (network.heard[1].2.answers.iter())
        .filter(|r| r.kind == kind::A)
        .collect();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|r| r.unique && r.ttl > 0));
    // Nothing is left of an interface that is gone.
    network.hosts[0].0.set_interfaces(&[], network.now);
    assert_eq!(network.hosts[0].0.next(), None);
    assert_eq!(
        network.ask(stranger(PORT), &question(&SERVICE, kind::PTR)),
        []
    );
}

#[test]
fn who_leaves_says_so_where_it_was_announced() {
    let mut network = settled("node1");
    let bytes = network.hosts[0].0.goodbye().remove(0).bytes;
    let message = Message::parse(&bytes).unwrap();
    assert!(message.answers.iter().all(|r| r.ttl == 0));
    assert!(
        message
            .answers
            .iter()
            .any(|r| r.kind == kind::PTR && r.name == Name::of(&SERVICE))
    );
    let mut new = Network::new();
    new.join("node1");
    assert_eq!(new.hosts[0].0.goodbye(), []);
}

#[test]
fn another_certificate_is_announced() {
    let mut network = settled("node1");
    network.heard.clear();
    let mut facts = facts();
    facts.advert.fingerprint = Some("ab".into());
    let now = network.now;
    network.hosts[0].0.set_facts(facts, now);
    network.pass(LONG);
    let txt = network.heard[0]
        .2
        .answers
        .iter()
        .find(|r| r.kind == kind::TXT)
        .unwrap();
    assert!(String::from_utf8_lossy(&txt.data).contains("fingerprint=ab"));
}

proptest! {
    #[test]
    fn garbage_does_no_harm(messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20)) {
        let mut network = settled("node1");
        for (n, mut bytes) in messages.into_iter().enumerate() {
            if n % 2 == 0 && bytes.len() > 12 {
                bytes[2..12].copy_from_slice(&[0x84, 0, 0, 1, 0, 1, 0, 1, 0, 1]);
            }
            network.hosts[0].0.receive(PLACE, stranger(PORT), &bytes, network.now);
        }
        network.pass(LONG);
        prop_assert_eq!(network.labels(), ["node1"]);
    }
}
