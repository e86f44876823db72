//! Tests of the DHCPv6 client's states, with time made up.

use super::super::packet::{Given, Ia};
use super::*;
use proptest::prelude::*;

const DUID: [u8; 4] = [0, 4, 1, 2];
const SERVER: [u8; 3] = [0, 3, 1];
const OTHER: [u8; 3] = [0, 3, 2];
const ADDRESS: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn machine(mode: Mode, now: Instant) -> Machine {
    let client = Client {
        duid: DUID.to_vec(),
        iaid: 7,
        hostname: Some("node1".into()),
    };
    Machine::new(client, mode, 42, now)
}

fn reply(kind: Kind, xid: u32) -> Reply {
    Reply {
        kind,
        xid,
        client: DUID.to_vec(),
        server: SERVER.to_vec(),
        preference: 0,
        rapid: false,
        status: None,
        ia: Some(Ia {
            iaid: 7,
            t1: 1000,
            t2: 1600,
            status: None,
            addresses: vec![Given {
                address: ADDRESS,
                preferred: 2000,
                valid: 3000,
            }],
        }),
        settings: Settings::default(),
        refresh: None,
        solicit_pause: None,
        information_pause: None,
    }
}

fn status(code: u16) -> Option<Status> {
    Some(Status {
        code,
        message: String::new(),
    })
}

fn sent(actions: &[Action]) -> Request {
    let message = actions.iter().find_map(|action| match action {
        Action::Send(request) => Some(request.clone()),
        _ => None,
    });
    message.unwrap_or_else(|| panic!("nothing is sent: {actions:?}"))
}

/// Goes on to the next time something is due.
fn next(m: &mut Machine, now: &mut Instant) -> Vec<Action> {
    *now = (*now).max(m.deadline().unwrap());
    m.timer(*now)
}

fn soliciting(now: &mut Instant) -> (Machine, u32) {
    let mut m = machine(Mode::Stateful, *now);
    m.link_up(*now);
    let solicit = sent(&next(&mut m, now));
    assert_eq!((solicit.kind, solicit.elapsed), (Kind::Solicit, 0));
    (m, solicit.xid)
}

fn bound(now: &mut Instant) -> Machine {
    let (mut m, xid) = soliciting(now);
    let mut offer = reply(Kind::Advertise, xid);
    offer.preference = 255;
    let request = sent(&m.received(&offer, *now));
    assert_eq!(request.kind, Kind::Request);
    assert_eq!(request.server.as_deref(), Some(SERVER.as_slice()));
    assert_eq!(request.addresses, Some(vec![ADDRESS]));
    let actions = m.received(&reply(Kind::Reply, request.xid), *now);
    assert!(matches!(&actions[..], [Action::Configure(l)] if l.list() == [ADDRESS]));
    assert!(!m.is_listening());
    m
}

#[test]
fn the_first_message_is_delayed_and_the_pauses_double() {
    let start = Instant::now();
    for seed in 1..50 {
        let mut m = machine(Mode::Stateful, start);
        m.random = seed * 7919;
        m.link_up(start);
        let first = m.deadline().unwrap();
        assert!(first < start + s(1));
        let mut now = first;
        let mut last = Duration::ZERO;
        for round in 0..16 {
            let request = sent(&m.timer(now));
            assert_eq!(request.kind, Kind::Solicit);
            let elapsed = now.duration_since(first).as_millis() / 10;
            assert_eq!(u128::from(request.elapsed), elapsed.min(0xffff));
            let pause = m.deadline().unwrap() - now;
            match round {
                // Never before servers had a whole second.
                0 => assert!((s(1)..=s(1) * 11 / 10).contains(&pause), "{pause:?}"),
                _ if last > s(1700) => {
                    assert!((s(3240)..=s(3960)).contains(&pause), "{pause:?}");
                }
                _ => assert!((last * 19 / 10..=last * 21 / 10).contains(&pause)),
            }
            (last, now) = (pause, m.deadline().unwrap());
        }
    }
}

#[test]
fn the_best_preference_is_taken_after_the_first_pause() {
    let mut now = Instant::now();
    let (mut m, xid) = soliciting(&mut now);
    let mut none = reply(Kind::Advertise, xid);
    none.ia.as_mut().unwrap().addresses.clear();
    none.preference = 200;
    none.solicit_pause = Some(120);
    let mut better = reply(Kind::Advertise, xid);
    (better.preference, better.server) = (9, OTHER.to_vec());
    for offer in [
        &none,
        &reply(Kind::Advertise, xid),
        &better,
        &reply(Kind::Advertise, xid),
    ] {
        assert_eq!(m.received(offer, now), []);
    }
    let request = sent(&next(&mut m, &mut now));
    assert_eq!(request.server.as_deref(), Some(OTHER.as_slice()));
    // Also of what brings no address (section 18.2.9).
    assert_eq!(m.solicit_pause, s(120));
    // After a second Solicit the first that answers is taken.
    let (mut m, xid) = soliciting(&mut now);
    next(&mut m, &mut now);
    let request = sent(&m.received(&reply(Kind::Advertise, xid), now));
    assert_eq!(request.kind, Kind::Request);
}

#[test]
fn a_rapid_commit_needs_no_request() {
    let mut now = Instant::now();
    let (mut m, xid) = soliciting(&mut now);
    assert_eq!(m.received(&reply(Kind::Reply, xid), now), []);
    let mut rapid = reply(Kind::Reply, xid);
    rapid.rapid = true;
    assert!(matches!(
        &m.received(&rapid, now)[..],
        [Action::Configure(_)]
    ));
}

#[test]
fn renewal_rebinding_and_expiry() {
    let mut now = Instant::now();
    let mut m = bound(&mut now);
    let since = now;
    assert_eq!(m.deadline(), Some(since + s(1000)));
    let renew = sent(&next(&mut m, &mut now));
    assert_eq!(renew.kind, Kind::Renew);
    assert_eq!(renew.server.as_deref(), Some(SERVER.as_slice()));
    assert_eq!(renew.addresses, Some(vec![ADDRESS]));
    // Renewed: times count from the answer.
    now += s(2);
    let done = m.received(&reply(Kind::Reply, renew.xid), now);
    assert!(matches!(&done[..], [Action::Configure(_)]));
    let since = now;
    assert_eq!(m.deadline(), Some(since + s(1000)));
    // Nobody answers.
    let (mut renews, mut rebinds) = (0, 0);
    loop {
        let actions = next(&mut m, &mut now);
        assert!(now <= since + s(3000));
        match &actions[..] {
            [Action::Send(r)] if r.kind == Kind::Renew => {
                assert!(now < since + s(1600));
                renews += 1;
            }
            [Action::Send(r)] => {
                assert_eq!((r.kind, r.server.as_ref()), (Kind::Rebind, None));
                assert!(now >= since + s(1600));
                rebinds += 1;
            }
            [Action::Note(_), Action::Deconfigure(gone)] => {
                assert_eq!(
                    (now, gone.as_slice()),
                    (since + s(3000), [ADDRESS].as_slice())
                );
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(renews > 3 && rebinds > 3, "{renews} {rebinds}");
    assert_eq!(sent(&next(&mut m, &mut now)).kind, Kind::Solicit);
}

#[test]
fn times_that_a_server_leaves_to_the_client() {
    let mut now = Instant::now();
    let (mut m, xid) = soliciting(&mut now);
    let mut rapid = reply(Kind::Reply, xid);
    rapid.rapid = true;
    let ia = rapid.ia.as_mut().unwrap();
    (ia.t1, ia.t2) = (0, 0);
    m.received(&rapid, now);
    let lease = m.lease.clone().unwrap();
    assert_eq!(lease.renew, Some(now + s(1000)));
    assert_eq!(lease.rebind, Some(now + s(1600)));
    let left: Vec<_> = lease.left(now + s(500)).collect();
    assert_eq!(left, [(ADDRESS, (Some(s(1500)), Some(s(2500))))]);
    // For ever.
    let (mut m, xid) = soliciting(&mut now);
    rapid.xid = xid;
    let given = &mut rapid.ia.as_mut().unwrap().addresses[0];
    (given.preferred, given.valid) = (u32::MAX, u32::MAX);
    m.received(&rapid, now);
    assert_eq!(m.deadline(), None);
}

#[test]
fn a_server_that_has_forgotten_us_is_asked_again() {
    let mut now = Instant::now();
    let mut m = bound(&mut now);
    let renew = sent(&next(&mut m, &mut now));
    let mut forgot = reply(Kind::Reply, renew.xid);
    let ia = forgot.ia.as_mut().unwrap();
    (ia.status, ia.addresses) = (status(Status::NO_BINDING), vec![]);
    let request = sent(&m.received(&forgot, now));
    assert_eq!(request.kind, Kind::Request);
    assert_eq!(request.addresses, Some(vec![ADDRESS]));
    // It gives another one: the old one goes.
    let mut new = reply(Kind::Reply, request.xid);
    let other: Ipv6Addr = "2001:db8::99".parse().unwrap();
    new.ia.as_mut().unwrap().addresses[0].address = other;
    let actions = m.received(&new, now);
    assert!(
        matches!(&actions[..], [Action::Deconfigure(gone), Action::Configure(l)] if gone == &[ADDRESS] && l.list() == [other])
    );
}

#[test]
fn refusals_are_not_answered_in_a_tight_circle() {
    for (code, patient) in [
        (1, false),
        (Status::NO_ADDRESSES, true),
        (Status::NOT_ON_LINK, true),
    ] {
        let mut now = Instant::now();
        let (mut m, xid) = soliciting(&mut now);
        let mut offer = reply(Kind::Advertise, xid);
        offer.preference = 255;
        let request = sent(&m.received(&offer, now));
        let mut no = reply(Kind::Reply, request.xid);
        (no.status, no.ia) = (status(code), None);
        let actions = m.received(&no, now);
        assert_eq!(actions.is_empty(), !patient, "{actions:?}");
        let pause = m.deadline().unwrap() - now;
        assert!(
            pause
                >= if patient {
                    s(10)
                } else {
                    Duration::from_millis(900)
                }
        );
    }
    // Taken back while renewing.
    let mut now = Instant::now();
    let mut m = bound(&mut now);
    let renew = sent(&next(&mut m, &mut now));
    let mut over = reply(Kind::Reply, renew.xid);
    let given = &mut over.ia.as_mut().unwrap().addresses[0];
    (given.preferred, given.valid) = (0, 0);
    let actions = m.received(&over, now);
    assert!(matches!(
        &actions[..],
        [Action::Note(_), Action::Deconfigure(_)]
    ));
}

#[test]
fn an_unanswered_request_ends() {
    let mut now = Instant::now();
    let (mut m, xid) = soliciting(&mut now);
    let mut offer = reply(Kind::Advertise, xid);
    offer.preference = 255;
    m.received(&offer, now);
    for _ in 1..REQUEST_TRIES {
        assert_eq!(sent(&next(&mut m, &mut now)).kind, Kind::Request);
    }
    assert!(matches!(&next(&mut m, &mut now)[..], [Action::Note(_)]));
    assert_eq!(sent(&next(&mut m, &mut now)).kind, Kind::Solicit);
}

#[test]
fn a_link_that_comes_back_is_asked_whether_it_is_the_same() {
    let confirming = |now: &mut Instant| {
        let mut m = bound(now);
        m.link_down();
        assert_eq!(m.deadline(), None);
        *now += s(60);
        m.link_up(*now);
        let confirm = sent(&next(&mut m, now));
        assert_eq!((confirm.kind, confirm.server), (Kind::Confirm, None));
        assert_eq!(confirm.addresses, Some(vec![ADDRESS]));
        (m, confirm.xid)
    };
    let mut now = Instant::now();
    let (mut m, xid) = confirming(&mut now);
    let mut yes = reply(Kind::Reply, xid);
    yes.ia = None;
    assert!(matches!(&m.received(&yes, now)[..], [Action::Configure(_)]));
    // The times are still those of before.
    assert!(m.deadline().unwrap() < now + s(1000));
    let (mut m, xid) = confirming(&mut now);
    let mut no = reply(Kind::Reply, xid);
    (no.status, no.ia) = (status(Status::NOT_ON_LINK), None);
    assert!(matches!(
        &m.received(&no, now)[..],
        [Action::Note(_), Action::Deconfigure(_)]
    ));
    // Nobody answers: the address is used.
    let (mut m, _) = confirming(&mut now);
    let began = now;
    let actions = loop {
        let actions = next(&mut m, &mut now);
        if !matches!(&actions[..], [Action::Send(r)] if r.kind == Kind::Confirm) {
            break actions;
        }
    };
    assert!(matches!(&actions[..], [Action::Configure(_)]));
    assert_eq!(now, began + CONFIRM_LIMIT);
    // Too late.
    let mut m = bound(&mut now);
    m.link_down();
    now += s(4000);
    m.link_up(now);
    assert_eq!(sent(&next(&mut m, &mut now)).kind, Kind::Solicit);
}

#[test]
fn settings_alone_are_asked_for_again() {
    let mut now = Instant::now();
    let mut m = machine(Mode::Off, now);
    m.link_up(now);
    assert_eq!(m.deadline(), None);
    m.set_mode(Mode::Information, now);
    let ask = sent(&next(&mut m, &mut now));
    assert_eq!((ask.kind, ask.addresses), (Kind::InformationRequest, None));
    let mut answer = reply(Kind::Reply, ask.xid);
    answer.ia = None;
    answer.settings.search = vec!["lan".into()];
    for (given, used) in [(None, 86_400), (Some(1), 600), (Some(7200), 7200)] {
        answer.refresh = given;
        let actions = m.received(&answer, now);
        assert_eq!(actions, [Action::Inform(answer.settings.clone())]);
        assert_eq!(m.deadline(), Some(now + s(used)));
        answer.xid = sent(&next(&mut m, &mut now)).xid;
    }
    // Routers have addresses now.
    m.set_mode(Mode::Stateful, now);
    assert_eq!(sent(&next(&mut m, &mut now)).kind, Kind::Solicit);
    m.set_mode(Mode::Off, now);
    assert_eq!(m.deadline(), None);
    // An address in use is kept.
    let mut m = bound(&mut now);
    let due = m.deadline();
    m.set_mode(Mode::Off, now);
    assert_eq!((m.deadline(), m.lease.is_some()), (due, true));
}

#[test]
fn an_address_that_another_has_is_declined() {
    let mut now = Instant::now();
    let mut m = bound(&mut now);
    let actions = m.taken(&[ADDRESS], now);
    assert!(matches!(
        &actions[..2],
        [Action::Note(_), Action::Deconfigure(_)]
    ));
    let decline = sent(&actions);
    assert_eq!(decline.kind, Kind::Decline);
    assert_eq!(decline.server.as_deref(), Some(SERVER.as_slice()));
    assert_eq!(decline.addresses, Some(vec![ADDRESS]));
    for _ in 1..DECLINE_TRIES {
        assert_eq!(sent(&next(&mut m, &mut now)).kind, Kind::Decline);
    }
    assert_eq!(next(&mut m, &mut now), []);
    assert_eq!(sent(&next(&mut m, &mut now)).kind, Kind::Solicit);
}

#[test]
fn addresses_are_given_back() {
    let mut now = Instant::now();
    let mut m = bound(&mut now);
    let actions = m.release(now);
    assert!(matches!(&actions[0], Action::Deconfigure(_)));
    let release = sent(&actions);
    assert_eq!(release.kind, Kind::Release);
    assert_eq!(release.server.as_deref(), Some(SERVER.as_slice()));
    assert_eq!(release.addresses, Some(vec![ADDRESS]));
    assert_eq!((m.deadline(), m.release(now)), (None, vec![]));
}

#[test]
fn what_is_not_for_us_is_ignored() {
    let mut now = Instant::now();
    let (mut m, xid) = soliciting(&mut now);
    let mut foreign = reply(Kind::Advertise, xid);
    foreign.client = vec![0, 4, 9];
    foreign.preference = 255;
    foreign.solicit_pause = Some(60);
    for r in [foreign, reply(Kind::Advertise, xid ^ 1)] {
        assert_eq!(m.received(&r, now), []);
        assert_eq!(m.state, State::Soliciting(None));
        assert_eq!(m.solicit_pause, s(3600));
    }
    let mut offer = reply(Kind::Advertise, xid);
    offer.preference = 255;
    let request = sent(&m.received(&offer, now));
    let mut other = reply(Kind::Reply, request.xid);
    other.server = OTHER.to_vec();
    assert_eq!(m.received(&other, now), []);
}

proptest! {
    #[test]
    fn any_order_of_things_leaves_a_live_machine(
        steps in proptest::collection::vec((0u8..9, 0u32..4_000_000, any::<u32>(), any::<u32>(), 0u16..6), 0..80)
    ) {
        let mut now = Instant::now();
        let mut m = machine(Mode::Stateful, now);
        let mut m_sent = 0u32;
        for (what, millis, t1, valid, code) in steps {
            now += Duration::from_millis(u64::from(millis));
            let before = m.deadline();
            let actions = match what {
                0..=3 => {
                    let kind = if what == 0 { Kind::Advertise } else { Kind::Reply };
                    let mut r = reply(kind, m.xid);
                    r.rapid = what == 1;
                    let ia = r.ia.as_mut().unwrap();
                    let preferred = valid / 2;
                    (ia.t1, ia.t2) = (t1.min(valid), valid);
                    (ia.addresses[0].preferred, ia.addresses[0].valid) = (preferred, valid);
                    if what == 3 { ia.status = status(code).filter(|s| s.code > 0); ia.addresses.clear(); }
                    if what == 2 { r.status = status(code).filter(|s| s.code > 0); }
                    r.preference = (t1 >> 24) as u8;
                    m.received(&r, now)
                }
                4 => { m.link_up(now); vec![] }
                5 => { m.link_down(); vec![] }
                6 => m.taken(&[ADDRESS], now),
                7 => { m.set_mode([Mode::Off, Mode::Information, Mode::Stateful][(t1 % 3) as usize], now); vec![] }
                _ => { if let Some(at) = before { now = now.max(at); } m.timer(now) }
            };
            m_sent += actions.iter().filter(|a| matches!(a, Action::Send(_))).count() as u32;
            let for_ever = m.lease.as_ref().is_some_and(|l| l.expiry.is_none());
            let idle = !m.up || m.mode == Mode::Off && m.lease.is_none();
            prop_assert!(m.next.is_some() || for_ever || idle, "{:?}", m);
            prop_assert!(m.up || m.next.is_none());
        }
        // It never goes round without time passing.
        for _ in 0..20 { m.timer(now); }
        prop_assert!(m.next.is_none_or(|at| at > now));
        prop_assert!(m_sent <= 80);
    }
}
