//! Tests of what the DHCPv6 client takes from the kernel and the seed.

use super::*;
use slipway_images::seed::network::Kind;

#[test]
fn addresses_of_an_interface_and_their_flags() {
    let text = "00000000000000000000000000000001 01 80 10 80       lo\n\
                fe80000000000000505400fffe123456 0a 40 20 c0     eth0\n\
                20010db8000000000000000000000005 0a 80 00 88     eth0\n\
                cut off\n";
    assert_eq!(
        addresses(text, 10),
        [
            ("fe80::5054:ff:fe12:3456".parse().unwrap(), 0xc0),
            ("2001:db8::5".parse().unwrap(), 0x88)
        ]
    );
    assert_eq!(addresses(text, 2), []);
}

#[test]
fn the_duid_is_stable_and_does_not_tell_the_machine_id() {
    let id = "0123456789abcdef0123456789abcdef";
    let own = duid(id);
    assert_eq!(own.len(), 18);
    assert_eq!(own[..2], [0, 4]);
    // A UUID of version 8 (RFC 9562).
    assert_eq!((own[8] >> 4, own[10] >> 6), (8, 2));
    assert_eq!(own, duid(id));
    assert_ne!(own, duid("0123456789abcdef0123456789abcdee"));
    assert_ne!(slipway_images::hex(&own[2..]), id);
}

#[test]
fn routers_and_the_seed_say_what_is_asked_for() {
    let flags = |managed, other| RouterFlags { managed, other };
    let mut wish = Wish::new("eth0", Kind::Ethernet);
    assert_eq!(mode(&wish, flags(false, false)), Mode::Off);
    assert_eq!(mode(&wish, flags(false, true)), Mode::Information);
    assert_eq!(mode(&wish, flags(true, true)), Mode::Stateful);
    wish.accept_ra = Some(false);
    assert_eq!(mode(&wish, flags(true, true)), Mode::Off);
    wish.dhcp6 = true;
    assert_eq!(mode(&wish, flags(false, false)), Mode::Stateful);
}
