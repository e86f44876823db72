//! Tests of the DHCP messages.

use super::*;
use proptest::prelude::*;

fn request() -> Request {
    Request {
        kind: Kind::Request,
        xid: 0xdead_beef,
        secs: 3,
        mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
        ciaddr: Ipv4Addr::UNSPECIFIED,
        requested: Some(Ipv4Addr::new(10, 0, 2, 15)),
        server: Some(Ipv4Addr::new(10, 0, 2, 2)),
        hostname: Some("node1".into()),
    }
}

/// A reply from the request's bytes with other options.
pub(crate) fn reply_bytes(xid: u32, kind: u8, extra: &[(u8, &[u8])]) -> Vec<u8> {
    let mut m = vec![0; FIXED];
    m[0] = 2;
    m[4..8].copy_from_slice(&xid.to_be_bytes());
    m[16..20].copy_from_slice(&[10, 0, 2, 15]);
    m[28..34].copy_from_slice(&request().mac);
    m.extend_from_slice(&MAGIC);
    m.extend_from_slice(&[53, 1, kind, 54, 4, 10, 0, 2, 2]);
    for (code, value) in extra {
        m.extend_from_slice(&[*code, value.len() as u8]);
        m.extend_from_slice(value);
    }
    m.push(255);
    m
}

#[test]
fn a_request_in_a_packet() {
    let message = request().encode();
    assert!(message.len() >= 300);
    assert_eq!(&message[236..243], &[99, 130, 83, 99, 53, 1, 3]);
    let packet = broadcast_packet(&message);
    assert_eq!(checksum([&packet[..20]]), 0);
    // Sum over pseudo header, UDP header and data is zero when right (RFC 768).
    let length = (packet.len() as u16 - 20).to_be_bytes();
    let pseudo = [&packet[12..20], &[0, 17], &length].concat();
    assert_eq!(checksum([pseudo.as_slice(), &packet[20..]]), 0);
    // Not from a server: not for us.
    assert_eq!(payload(&packet), None);
}

#[test]
fn a_reply_with_everything() {
    let bytes = reply_bytes(
        7,
        5,
        &[
            (1, &[255, 255, 255, 0]),
            (3, &[10, 0, 2, 2]),
            (6, &[10, 0, 2, 3, 1, 1, 1, 1]),
            (42, &[10, 0, 2, 9]),
            (15, b"lan.example\0"),
            (51, &3600u32.to_be_bytes()),
            (58, &1800u32.to_be_bytes()),
            (59, &3150u32.to_be_bytes()),
            (26, &1400u16.to_be_bytes()),
            (121, &[0, 10, 0, 2, 2, 24, 192, 168, 7, 0, 0, 0, 0]),
        ],
    );
    let r = Reply::parse(&bytes).unwrap();
    assert_eq!(
        (r.kind, r.xid, r.yiaddr),
        (Kind::Ack, 7, Ipv4Addr::new(10, 0, 2, 15))
    );
    assert_eq!((r.prefix, r.mtu), (Some(24), Some(1400)));
    assert_eq!(
        (r.lease, r.renewal, r.rebinding),
        (Some(3600), Some(1800), Some(3150))
    );
    assert_eq!(r.dns.len(), 2);
    assert_eq!(r.domain.as_deref(), Some("lan.example"));
    let routes = r.routes.unwrap();
    assert_eq!(
        routes[0],
        (Ipv4Addr::UNSPECIFIED, 0, Ipv4Addr::new(10, 0, 2, 2))
    );
    assert_eq!(
        routes[1],
        (Ipv4Addr::new(192, 168, 7, 0), 24, Ipv4Addr::UNSPECIFIED)
    );
}

#[test]
fn overload_and_split_options() {
    let mut bytes = reply_bytes(7, 2, &[(52, &[3]), (6, &[1, 1])]);
    bytes[108..118].copy_from_slice(&[6, 2, 1, 1, 3, 4, 10, 0, 2, 2]);
    bytes[118] = 255;
    bytes[44..50].copy_from_slice(&[51, 4, 0, 0, 0, 9]);
    bytes[50] = 255;
    let r = Reply::parse(&bytes).unwrap();
    assert_eq!(r.dns, [Ipv4Addr::new(1, 1, 1, 1)]);
    assert_eq!(r.routers, [Ipv4Addr::new(10, 0, 2, 2)]);
    assert_eq!(r.lease, Some(9));
}

#[test]
fn names_that_would_forge_resolv_conf_are_refused() {
    for bad in ["a\nnameserver 6.6.6.6", "a b", ""] {
        let bytes = reply_bytes(7, 5, &[(15, bad.as_bytes())]);
        assert_eq!(Reply::parse(&bytes).unwrap().domain, None, "{bad:?}");
    }
    assert_eq!(prefix_of_mask(&[255, 0, 255, 0]), None);
    assert_eq!(prefix_of_mask(&[255; 4]), Some(32));
    assert_eq!(prefix_of_mask(&[0; 4]), Some(0));
}

proptest! {
    #[test]
    fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..700), tail in proptest::collection::vec(any::<u8>(), 0..300)) {
        drop(Reply::parse(&bytes));
        payload(&bytes);
        let mut valid = reply_bytes(1, 2, &[]);
        valid.pop();
        valid.extend_from_slice(&tail);
        prop_assert!(Reply::parse(&valid).is_some());
        drop(parse_routes(&tail));
        let mut packet = broadcast_packet(&tail);
        packet[20..24].copy_from_slice(&[0, 67, 0, 68]);
        prop_assert_eq!(payload(&packet), Some(tail.as_slice()));
    }
}
