//! `slipway channel publish`.

use std::fs;

use slipway::channel::{PublishArgs, Published, publish};
use slipway::keys::update;
use slipway::{Kind, Result};
use slipway_images::bundle::channel::Index;

use super::{Kit, ONE, Place, quiet};

fn offer(place: &Place, bundle: &str, percent: u8) -> Result<Published> {
    offer_after(place, bundle, percent, None)
}

/// With the key that has signed the index until now.
fn offer_after(
    place: &Place,
    bundle: &str,
    percent: u8,
    previous: Option<&str>,
) -> Result<Published> {
    let args = PublishArgs {
        dir: place.at("www"),
        bundle: place.at(bundle),
        key: place.at("update.key"),
        previous_key: previous.map(|name| place.at(name)),
        percent,
        expires: 30,
    };
    publish(&args, &quiet())
}

#[test]
fn a_channel_goes_forward_only() {
    let place = Place::new();
    let make = |name: &str, number| {
        let image = place.image("x.img", Kit { number, ..ONE });
        place.make(&image, &[], name).unwrap();
    };
    make("one.slip", 1);
    make("two.slip", 2);
    let key = update::load_public(&place.at("update.pub")).unwrap();
    let read = || {
        let bytes = fs::read(place.at("www/x86_64.channel")).unwrap();
        Index::open(&bytes, &[key]).unwrap()
    };

    offer(&place, "one.slip", 10).unwrap();
    let index = read();
    assert_eq!((index.sequence, index.percent), (1, 10));
    assert_eq!(index.version, "0.1.0");
    let bundle = fs::read(place.at("www").join(&index.file)).unwrap();
    assert!(bundle == fs::read(place.at("one.slip")).unwrap());
    assert_eq!(index.head, place.open("one.slip").0.head());
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    index.believe("x86_64", 0, now + 29 * 86_400).unwrap();
    assert!(index.believe("x86_64", 0, now + 31 * 86_400).is_err());

    // To more nodes, from where it lies now.
    offer(&place, "www/x86_64-0.1.0.slip", 100).unwrap();
    assert_eq!((read().sequence, read().percent), (2, 100));
    offer(&place, "two.slip", 100).unwrap();
    assert_eq!((read().sequence, read().version), (3, "0.2.0".to_owned()));

    let before = read();
    let error = offer(&place, "one.slip", 100).unwrap_err();
    assert_eq!(error.kind, Kind::Input);
    assert!(error.message().contains("later than 0.1.0"), "{error}");
    fs::write(place.at("damaged.slip"), b"SLIPBNDL").unwrap();
    assert_eq!(
        offer(&place, "damaged.slip", 1).unwrap_err().kind,
        Kind::Untrusted
    );
    // The key is changed: the number goes on from what the one before has signed.
    fs::rename(place.at("update.key"), place.at("old.key")).unwrap();
    fs::rename(place.at("update.pub"), place.at("old.pub")).unwrap();
    update::generate(&place.at("update.key"), &place.at("update.pub")).unwrap();
    assert_eq!(
        offer(&place, "two.slip", 1).unwrap_err().kind,
        Kind::Untrusted
    );
    make("three.slip", 3);
    let error = offer(&place, "three.slip", 1).unwrap_err();
    assert_eq!(error.kind, Kind::Untrusted);
    assert_eq!(read(), before);
    let published = offer_after(&place, "three.slip", 1, Some("old.pub")).unwrap();
    assert_eq!(published.index.sequence, before.sequence + 1);
    // From now on the new key will do.
    assert_eq!(
        offer(&place, "three.slip", 2).unwrap().index.sequence,
        before.sequence + 2
    );
}
