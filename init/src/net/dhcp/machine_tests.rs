//! Tests of the DHCP client's states, with time made up.

use super::*;
use proptest::prelude::*;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

fn reply(kind: Kind, xid: u32) -> Reply {
    Reply {
        kind,
        xid,
        mac: MAC,
        yiaddr: ADDRESS,
        server: Some(SERVER),
        prefix: Some(24),
        routers: vec![SERVER],
        dns: vec![],
        ntp: vec![],
        domain: None,
        hostname: None,
        mtu: None,
        lease: Some(3600),
        renewal: None,
        rebinding: None,
        routes: None,
        message: None,
    }
}

fn broadcast(actions: &[Action]) -> &Request {
    actions
        .iter()
        .find_map(|a| match a {
            Action::Broadcast(r) => Some(r),
            _ => None,
        })
        .expect("a broadcast")
}

fn bound(now: Instant) -> Machine {
    let mut m = Machine::new(MAC, Some("node1".into()), 42, now);
    let discover = m.link_up(now);
    let xid = broadcast(&discover).xid;
    let request = m.received(&reply(Kind::Offer, xid), now);
    assert_eq!(broadcast(&request).requested, Some(ADDRESS));
    assert_eq!(broadcast(&request).server, Some(SERVER));
    let actions = m.received(&reply(Kind::Ack, xid), now);
    assert!(
        matches!(&actions[..], [Action::Configure(l)] if l.address == ADDRESS && l.prefix == 24)
    );
    assert!(!m.is_listening());
    m
}

#[test]
fn renewal_rebinding_and_expiry() {
    let start = Instant::now();
    let mut m = bound(start);
    let t1 = start + Duration::from_secs(1800);
    assert_eq!(m.deadline(), Some(t1));
    assert!(m.timer(t1 - Duration::from_secs(1)).is_empty());
    let actions = m.timer(t1);
    let [Action::Unicast(SERVER, request)] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(
        (request.ciaddr, request.requested, request.server),
        (ADDRESS, None, None)
    );
    // Renewed: T1 counts from when it was asked for.
    let ack = m.received(&reply(Kind::Ack, request.xid), t1 + Duration::from_secs(2));
    assert!(matches!(&ack[..], [Action::Configure(_)]));
    assert_eq!(m.deadline(), Some(t1 + Duration::from_secs(1800)));

    // Nobody answers: unicast, then broadcast from T2 on, then the address is given up.
    let (mut unicasts, mut broadcasts) = (0, 0);
    loop {
        let at = m.deadline().unwrap();
        assert!(at <= t1 + Duration::from_secs(3600));
        let actions = m.timer(at);
        match &actions[..] {
            [Action::Unicast(..)] => {
                assert!(at < t1 + Duration::from_secs(3150));
                unicasts += 1;
            }
            [Action::Broadcast(r)] => {
                assert!(at >= t1 + Duration::from_secs(3150));
                assert_eq!(r.ciaddr, ADDRESS);
                broadcasts += 1;
            }
            [
                Action::Note(_),
                Action::Deconfigure(ADDRESS),
                Action::Broadcast(r),
            ] => {
                assert_eq!(at, t1 + Duration::from_secs(3600));
                assert_eq!(r.kind, Kind::Discover);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(unicasts > 2 && broadcasts > 1, "{unicasts} {broadcasts}");
}

#[test]
fn retransmission_backs_off_with_jitter() {
    let start = Instant::now();
    let mut m = Machine::new(MAC, None, 42, start);
    m.link_up(start);
    let mut now = start;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let next = m.deadline().unwrap();
        pauses.push(next - now);
        now = next;
        assert_eq!(broadcast(&m.timer(now)).kind, Kind::Discover);
    }
    for (i, pause) in pauses.iter().enumerate() {
        let ideal = Duration::from_secs(2 << i.min(5)).min(MAX_PAUSE);
        assert!(*pause >= ideal - Duration::from_secs(1), "{i} {pause:?}");
        assert!(*pause <= ideal + Duration::from_secs(1), "{i} {pause:?}");
    }
}

#[test]
fn a_link_that_comes_back_asks_for_its_old_lease() {
    let start = Instant::now();
    let mut m = bound(start);
    m.link_down();
    assert_eq!(m.deadline(), None);
    let later = start + Duration::from_secs(60);
    let actions = m.link_up(later);
    let request = broadcast(&actions).clone();
    assert_eq!(
        (request.kind, request.requested, request.server),
        (Kind::Request, Some(ADDRESS), None)
    );
    let nak = m.received(&reply(Kind::Nak, request.xid), later);
    assert!(matches!(
        &nak[..],
        [Action::Note(_), Action::Deconfigure(ADDRESS)]
    ));
    let retry = m.deadline().unwrap();
    assert!(retry > later);
    assert_eq!(broadcast(&m.timer(retry)).kind, Kind::Discover);
    // After its end the old lease is only a wish.
    let mut m = bound(start);
    m.link_down();
    let late = start + Duration::from_secs(4000);
    let actions = m.link_up(late);
    assert_eq!(broadcast(&actions).kind, Kind::Discover);
    assert_eq!(broadcast(&actions).requested, Some(ADDRESS));
}

#[test]
fn what_is_not_for_us_is_ignored() {
    let now = Instant::now();
    let mut m = Machine::new(MAC, None, 42, now);
    let xid = broadcast(&m.link_up(now)).xid;
    let mut foreign = reply(Kind::Offer, xid);
    foreign.mac[5] ^= 1;
    let mut zero = reply(Kind::Offer, xid);
    zero.yiaddr = Ipv4Addr::UNSPECIFIED;
    for r in [
        foreign,
        zero,
        reply(Kind::Offer, xid ^ 1),
        reply(Kind::Ack, xid),
        reply(Kind::Nak, xid),
    ] {
        assert!(m.received(&r, now).is_empty(), "{r:?}");
    }
}

proptest! {
    #[test]
    fn any_order_of_things_leaves_a_live_machine(steps in proptest::collection::vec((0u8..6, 0u32..100_000, any::<u32>()), 0..60)) {
        let mut now = Instant::now();
        let mut m = Machine::new(MAC, None, 7, now);
        for (what, seconds, value) in steps {
            now += Duration::from_millis(u64::from(seconds));
            let kind = match what { 0 => Kind::Offer, 1 => Kind::Ack, _ => Kind::Nak };
            match what {
                0..=2 => {
                    let mut r = reply(kind, m.xid);
                    r.lease = Some(value);
                    r.renewal = Some(value / 3);
                    r.rebinding = Some(value.rotate_left(3));
                    m.received(&r, now);
                }
                3 => { m.link_up(now); }
                4 => m.link_down(),
                _ => { if let Some(at) = m.deadline() { now = now.max(at); m.timer(now); } }
            }
            // It waits for a link, or for a time, or has a lease for ever.
            prop_assert!(m.state == State::Idle || m.next.is_some() || m.lease.as_ref().is_some_and(|l| l.reply.lease == Some(u32::MAX)));
        }
    }
}
