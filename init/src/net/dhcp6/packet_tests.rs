//! Tests of DHCPv6's messages.

use super::*;
use proptest::prelude::*;

const DUID: [u8; 4] = [0, 4, 1, 2];

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

/// A server's message with these options behind the identifiers.
fn message(kind: u8, more: &[(u16, &[u8])]) -> Vec<u8> {
    let mut m = vec![kind, 0x12, 0x34, 0x56];
    option(&mut m, CLIENT_ID, &DUID);
    option(&mut m, SERVER_ID, &[0, 3, 9]);
    for (code, value) in more {
        option(&mut m, *code, value);
    }
    m
}

fn address(text: &str, preferred: u32, valid: u32) -> Vec<u8> {
    let times = [preferred.to_be_bytes(), valid.to_be_bytes()].concat();
    [ip(text).octets().as_slice(), &times].concat()
}

fn ia_value(iaid: u32, t1: u32, t2: u32, inside: &[(u16, &[u8])]) -> Vec<u8> {
    let mut value = [iaid, t1, t2].map(u32::to_be_bytes).concat();
    for (code, inner) in inside {
        option(&mut value, *code, inner);
    }
    value
}

#[test]
fn a_solicit_is_as_the_standard_draws_it() {
    let request = Request {
        kind: Kind::Solicit,
        xid: 0x00ab_cdef,
        elapsed: 258,
        duid: DUID.to_vec(),
        server: None,
        addresses: Some(vec![]),
        iaid: 7,
        hostname: Some("node1".into()),
    };
    let expected = [
        &[1, 0xab, 0xcd, 0xef][..],
        &[0, 1, 0, 4, 0, 4, 1, 2],
        &[0, 8, 0, 2, 1, 2],
        &[0, 3, 0, 12, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 14, 0, 0],
        &[0, 6, 0, 10, 0, 23, 0, 24, 0, 31, 0, 56, 0, 82],
        &[0, 39, 0, 7, 1, 5, b'n', b'o', b'd', b'e', b'1'],
    ];
    assert_eq!(request.encode(), expected.concat());
    // Who gives back wants nothing, and who only asks has no addresses.
    let release = Request {
        kind: Kind::Release,
        server: Some(vec![9]),
        addresses: Some(vec![ip("2001:db8::1")]),
        ..request.clone()
    };
    let bytes = release.encode();
    let options = options(&bytes[4..]).unwrap();
    let codes: Vec<u16> = options.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [CLIENT_ID, SERVER_ID, ELAPSED, IA_NA]);
    let information = Request {
        kind: Kind::InformationRequest,
        addresses: None,
        ..request
    };
    let bytes = information.encode();
    let options = super::options(&bytes[4..]).unwrap();
    let codes: Vec<u16> = options.iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, [CLIENT_ID, ELAPSED, OPTION_REQUEST]);
}

#[test]
fn names_end_where_their_domain_is_known() {
    assert_eq!(wire_name("a.example"), b"\x01a\x07example\0");
    assert_eq!(wire_name("a"), b"\x01a");
}

#[test]
fn everything_a_server_can_say() {
    let given = address("2001:db8::5", 100, 200);
    let ours = ia_value(7, 50, 80, &[(IA_ADDRESS, &given)]);
    let others = ia_value(8, 0, 0, &[(IA_ADDRESS, &given)]);
    let dns = [ip("2001:db8::53").octets(), ip("fe80::1").octets()].concat();
    let ntp = {
        let mut inside = Vec::new();
        option(&mut inside, 1, &ip("2001:db8::123").octets());
        option(&mut inside, 2, &ip("ff05::101").octets());
        option(&mut inside, 3, b"\x04time\x07example\0");
        inside
    };
    let bytes = message(
        7,
        &[
            (IA_NA, &others),
            (IA_NA, &ours),
            (PREFERENCE, &[200]),
            (RAPID_COMMIT, &[]),
            (DNS, &dns),
            (DOMAINS, b"\x03lan\0\x01a\x07example\0"),
            (SNTP, &ip("2001:db8::4").octets()),
            (NTP, &ntp),
            (REFRESH, &900u32.to_be_bytes()),
            (SOL_MAX_RT, &120u32.to_be_bytes()),
            (INF_MAX_RT, &60u32.to_be_bytes()),
            (999, b"what nobody knows"),
        ],
    );
    let reply = Reply::parse(&bytes, 7).unwrap();
    assert_eq!((reply.kind, reply.xid), (Kind::Reply, 0x0012_3456));
    assert_eq!((reply.client, reply.server), (DUID.to_vec(), vec![0, 3, 9]));
    assert_eq!((reply.preference, reply.rapid), (200, true));
    assert_eq!(reply.status, None);
    let ia = reply.ia.unwrap();
    assert_eq!((ia.iaid, ia.t1, ia.t2, ia.status), (7, 50, 80, None));
    let expected = Given {
        address: ip("2001:db8::5"),
        preferred: 100,
        valid: 200,
    };
    assert_eq!(ia.addresses, [expected]);
    assert_eq!(reply.settings.dns, [ip("2001:db8::53"), ip("fe80::1")]);
    assert_eq!(reply.settings.search, ["lan", "a.example"]);
    // Those for NTP go before those for SNTP; nobody is asked by multicast.
    assert_eq!(reply.settings.ntp, ["2001:db8::123", "time.example"]);
    assert_eq!(
        (reply.refresh, reply.solicit_pause, reply.information_pause),
        (Some(900), Some(120), Some(60))
    );
}

#[test]
fn refusals_stand_in_three_places() {
    let no = [&[0, 2], b"none\nleft".as_slice()].concat();
    let reply = Reply::parse(&message(2, &[(STATUS, &no)]), 7).unwrap();
    // It goes to the console.
    assert_eq!(reply.status.unwrap().message, "none left");
    let inside = ia_value(7, 0, 0, &[(STATUS, &no)]);
    let reply = Reply::parse(&message(2, &[(IA_NA, &inside)]), 7).unwrap();
    assert_eq!(reply.ia.unwrap().status.unwrap().code, Status::NO_ADDRESSES);
    let mut given = address("2001:db8::5", 100, 200);
    option(&mut given, STATUS, &no);
    let inside = ia_value(7, 0, 0, &[(IA_ADDRESS, &given)]);
    let reply = Reply::parse(&message(7, &[(IA_NA, &inside)]), 7).unwrap();
    assert_eq!(reply.ia.unwrap().addresses, []);
    let success = Reply::parse(&message(7, &[(STATUS, &[0, 0])]), 7).unwrap();
    assert_eq!(success.status, None);
}

#[test]
fn what_makes_no_sense_is_left_out() {
    for (text, preferred, valid) in [
        ("fe80::5", 1, 2),
        ("::1", 1, 2),
        ("ff02::1", 1, 2),
        ("::", 1, 2),
        ("2001:db8::5", 3, 2),
    ] {
        let given = address(text, preferred, valid);
        let inside = ia_value(7, 0, 0, &[(IA_ADDRESS, &given)]);
        let reply = Reply::parse(&message(7, &[(IA_NA, &inside)]), 7).unwrap();
        assert_eq!(reply.ia.unwrap().addresses, [], "{text}");
    }
    // T1 after T2: the whole goes.
    let inside = ia_value(7, 9, 8, &[]);
    let reply = Reply::parse(&message(7, &[(IA_NA, &inside)]), 7).unwrap();
    assert_eq!(reply.ia, None);
    // Not a server's, without identifiers, cut off.
    assert_eq!(Reply::parse(&message(1, &[]), 7), None);
    assert_eq!(Reply::parse(&[7, 0, 0, 0], 7), None);
    let whole = message(7, &[]);
    for end in 0..whole.len() {
        assert_eq!(Reply::parse(&whole[..end], 7), None, "{end}");
    }
}

#[test]
fn names_that_would_forge_resolv_conf_are_refused() {
    for bad in [
        b"\x0ca\nnameserver\0".as_slice(),
        b"\x03a b\0",
        b"\xc0\x0c",
        b"\x05ab",
        b"\0",
    ] {
        let reply = Reply::parse(&message(7, &[(DOMAINS, bad)]), 7).unwrap();
        assert_eq!(reply.settings.search, [""; 0], "{bad:?}");
    }
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), code in 0u16..90, inner in 0u16..20) {
        drop(Reply::parse(&bytes, 7));
        let reply = Reply::parse(&message(7, &[(code, &bytes)]), 7);
        prop_assert!(reply.is_some() || code == CLIENT_ID || code == SERVER_ID);
        let inside = ia_value(7, 0, 0, &[(inner, &bytes)]);
        drop(Reply::parse(&message(7, &[(IA_NA, &inside)]), 7));
        for name in names(&bytes) {
            prop_assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c)));
        }
    }
}
