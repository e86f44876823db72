//! Bundles that must not be taken, each with its own error, and no slot that could be booted.

use slipway_images::bundle::keys::PublicKey;
use slipway_images::bundle::manifest::{Digest, Manifest, PREFIX_LIMIT, SEGMENT_LIMIT};
use slipway_images::bundle::segment::SegmentError;
use slipway_images::bundle::signed::{HEAD, SignedError};
use slipway_images::bundle::{Allow, Bundle, BundleError, PayloadName, rotation};
use slipway_images::slot::BootMethod as _;

use super::maker::{Draft, Version, key, noise, public};
use super::node::{Node, Served};

fn versions() -> [Version; 2] {
    [Version::first(), Version::first().next()]
}

fn trusted() -> Vec<PublicKey> {
    vec![public(&key(1))]
}

fn fresh() -> Node {
    Node::new(Version::first(), &trusted())
}

/// What a fresh node says of it, having written nothing.
fn refused(bundle: Vec<u8>) -> BundleError {
    let mut node = fresh();
    let error = node.update(&mut Served::new(bundle)).unwrap_err();
    node.assert_untouched();
    error
}

#[test]
fn every_byte_of_head_and_signature_counts() {
    let [one, two] = versions();
    let draft = Draft::new(&two, &[&one]);
    let bundle = draft.bundle(&key(1));
    let end = draft.places(&bundle)[0].start;
    let trusted = trusted();
    let mut served = Served::new(bundle.clone());
    for (at, byte) in bundle.iter().enumerate().take(end) {
        served.bytes[at] ^= 1 << (at % 8);
        let opened = Bundle::open(&mut served, &trusted);
        served.bytes[at] = *byte;
        let right = match &opened {
            Err(BundleError::Signed(error)) => match at {
                0..8 => *error == SignedError::Foreign("update bundle"),
                8..12 => matches!(error, SignedError::Newer { .. } | SignedError::Foreign(_)),
                12..16 => matches!(
                    error,
                    SignedError::TooLong { .. }
                        | SignedError::CutOff(_)
                        | SignedError::BadSignature(_)
                ),
                16..32 => matches!(error, SignedError::UnknownKey { .. }),
                _ => matches!(error, SignedError::BadSignature(_)),
            },
            _ => false,
        };
        assert!(right, "byte {at}: {opened:?}");
    }
    let mut bad = bundle;
    bad[100] ^= 1;
    assert!(matches!(refused(bad), BundleError::Signed(_)));
}

#[test]
fn every_piece_counts_from_its_first_byte_to_its_last() {
    let [one, two] = versions();
    let mut draft = Draft::new(&two, &[]);
    // One that runs nothing of it: all pieces are needed.
    let other = Version {
        number: 1,
        kernel: noise(1000, 50),
        root: noise(1 << 20, 51),
    };
    let bundle = draft.bundle(&key(1));
    let mut last = None;
    for (n, piece) in draft.places(&bundle).into_iter().enumerate() {
        for at in [piece.start, piece.start + 5, piece.end - 1] {
            let mut bad = bundle.clone();
            bad[at] ^= 0x40;
            // What was fetched besides is there: another node each time.
            let mut node = Node::new(other.clone(), &trusted());
            let error = node.update(&mut Served::new(bad)).unwrap_err();
            let BundleError::Segment {
                payload,
                segment,
                error,
            } = error
            else {
                panic!("piece {n}, byte {at}: {error}");
            };
            assert!(matches!(error, SegmentError::Piece { .. }), "{error}");
            let kernel = draft.manifest.kernel.segments.len();
            let wanted = match n < kernel {
                true => (PayloadName::Kernel, n),
                false => (PayloadName::Root, n - kernel),
            };
            assert_eq!((payload, segment), wanted);
            node.assert_safe();
            last = Some(node);
        }
    }
    // Two pieces changed places: each is whole, and at the other's place it is wrong.
    draft.pieces.swap(0, 1);
    let mut other = fresh();
    let error = other
        .update(&mut Served::new(draft.bundle(&key(1))))
        .unwrap_err();
    assert!(matches!(error, BundleError::Segment { .. }), "{error}");
    // The same node takes what is right.
    let mut node = last.unwrap();
    node.update(&mut Served::new(bundle)).unwrap();
    node.assert_has(&two);

    // And a delta's piece.
    let draft = Draft::new(&two, &[&one]);
    let mut bad = draft.bundle(&key(1));
    let last = bad.len() - 1;
    bad[last] ^= 1;
    let mut node = fresh();
    let error = node.update(&mut Served::new(bad)).unwrap_err();
    assert!(matches!(error, BundleError::Segment { .. }), "{error}");
    node.assert_safe();
}

#[test]
fn cut_anywhere_and_longer_by_anything() {
    let [one, two] = versions();
    let draft = Draft::new(&two, &[&one]);
    let bundle = draft.bundle(&key(1));
    let places = draft.places(&bundle);
    let head = places[0].start;
    let boundaries = [
        0,
        7,
        8,
        12,
        16,
        HEAD - 1,
        HEAD,
        HEAD + 1,
        head - 64,
        head - 1,
    ];
    for at in boundaries {
        let mut served = Served::new(bundle[..at].to_vec());
        let error = Bundle::open(&mut served, &trusted()).unwrap_err();
        let right = match at {
            0..8 => matches!(error, BundleError::Signed(SignedError::Foreign(_))),
            _ => matches!(error, BundleError::Signed(SignedError::CutOff(_))),
        };
        assert!(right, "cut at {at}: {error}");
    }
    for at in places.iter().flat_map(|p| [p.start, p.end - 1]) {
        let error = Bundle::open(&mut Served::new(bundle[..at].to_vec()), &trusted());
        let is =
            |e: &BundleError| matches!(e, BundleError::CutOff { found, .. } if *found == at as u64);
        assert!(error.as_ref().is_err_and(is), "cut at {at}: {error:?}");
    }
    let longer = [&bundle[..], &[0]].concat();
    assert!(matches!(
        refused(longer),
        BundleError::Trailing { surplus: 1 }
    ));
}

#[test]
fn a_bundle_that_is_not_for_this_node_leaves_it_untouched() {
    let [one, two] = versions();
    let draft = Draft::new(&two, &[]);
    let with = |change: &dyn Fn(&mut Manifest)| {
        let mut draft = draft.clone();
        change(&mut draft.manifest);
        refused(draft.bundle(&key(1)))
    };
    let error = with(&|m| m.board = "pi4".into());
    assert!(
        matches!(&error, BundleError::Board { bundle, .. } if bundle == "pi4"),
        "{error}"
    );
    let error = with(&|m| m.requires = vec!["flying".into(), "swimming".into()]);
    assert!(error.to_string().contains("flying, swimming"), "{error}");
    let error = with(&|m| m.release = 0);
    assert!(
        matches!(
            error,
            BundleError::Older {
                release: 0,
                running: 1,
                ..
            }
        ),
        "{error}"
    );
    let error = with(&|m| m.root.size += 2 << 20);
    assert!(matches!(error, BundleError::Manifest(_)), "{error}");
    let error = refused(Draft::new(&one, &[]).bundle(&key(1)));
    assert!(matches!(error, BundleError::Running(_)), "{error}");
    let error = refused(draft.bundle(&key(2)));
    assert!(
        matches!(error, BundleError::Signed(SignedError::UnknownKey { .. })),
        "{error}"
    );

    let mut node = fresh();
    node.keys.clear();
    let error = node
        .update(&mut Served::new(draft.bundle(&key(1))))
        .unwrap_err();
    assert!(error.to_string().contains("--update-key"), "{error}");
    node.keys = trusted();
    node.slot_size = 1 << 20;
    let error = node
        .update(&mut Served::new(draft.bundle(&key(1))))
        .unwrap_err();
    assert!(matches!(error, BundleError::SlotTooSmall { .. }), "{error}");
    node.slot_size = 2 << 20;
    let mut large = two.clone();
    large.kernel = noise(40 << 20, 3);
    let error = node
        .update(&mut Served::new(Draft::new(&large, &[]).bundle(&key(1))))
        .unwrap_err();
    assert!(matches!(error, BundleError::BootFull { .. }), "{error}");
    node.assert_untouched();
}

#[test]
fn replays_and_bad_versions_need_an_operator() {
    let [one, two] = versions();
    let three = two.next();
    let mut node = Node::new(two.clone(), &trusted());
    let old = Draft::new(&one, &[]).bundle(&key(1));
    let error = node.update(&mut Served::new(old.clone())).unwrap_err();
    assert!(matches!(error, BundleError::Older { .. }), "{error}");
    node.assert_untouched();
    let downgrade = Allow {
        downgrade: true,
        ..Allow::default()
    };
    let go_on = &mut |_: &_| std::ops::ControlFlow::Continue(());
    node.update_with(&mut Served::new(old), downgrade, go_on)
        .unwrap();
    node.assert_has(&one);

    // A version that is tried and never gets healthy.
    let new = Draft::new(&three, &[]).bundle(&key(1));
    node.update(&mut Served::new(new.clone())).unwrap();
    let mut boot = node.slots().into_boot();
    let mut record = boot.record().unwrap();
    record.remember(&three.name(), "not healthy");
    boot.set_record(&record).unwrap();
    let error = node.update(&mut Served::new(new.clone())).unwrap_err();
    assert!(error.to_string().contains("not healthy"), "{error}");
    let force = Allow {
        bad: true,
        ..Allow::default()
    };
    node.update_with(&mut Served::new(new), force, go_on)
        .unwrap();
    node.assert_has(&three);
}

#[test]
fn a_newer_format_and_unknown_fields() {
    let [one, two] = versions();
    let draft = Draft::new(&two, &[&one]);
    let mut newer = draft.bundle(&key(1));
    newer[8] = 2;
    let error = refused(newer).to_string();
    assert!(
        error.contains("format 2") && error.contains("reads 1"),
        "{error}"
    );
    let mut json = serde_json::to_value(&draft.manifest).unwrap();
    json["later"] = serde_json::json!({"a": [1, 2]});
    json["root"]["later"] = 7.into();
    json["root"]["segments"][0]["later"] = "x".into();
    let bundle = draft.with_json(&serde_json::to_vec(&json).unwrap(), &key(1));
    let mut node = fresh();
    node.update(&mut Served::new(bundle)).unwrap();
    node.assert_has(&two);
}

#[test]
fn what_the_disk_changes_is_noticed_before_it_can_be_booted() {
    let [_, two] = versions();
    let draft = Draft::new(&two, &[]);
    // Segments are as signed, and the whole is another one.
    let mut bad = draft.clone();
    bad.manifest.root_hash = two.next().root_hash();
    let mut node = fresh();
    let error = node
        .update(&mut Served::new(bad.bundle(&key(1))))
        .unwrap_err();
    assert!(matches!(error, BundleError::Root { .. }), "{error}");
    node.assert_safe();
    let mut bad = draft.clone();
    bad.manifest.kernel_sha256 = Digest::of(b"");
    let error = node
        .update(&mut Served::new(bad.bundle(&key(1))))
        .unwrap_err();
    assert!(matches!(error, BundleError::Kernel { .. }), "{error}");
    node.assert_safe();
    node.update(&mut Served::new(draft.bundle(&key(1))))
        .unwrap();
    node.assert_has(&two);
}

#[test]
fn a_manifest_beyond_a_limit_is_refused_before_anything_is_allocated() {
    let [one, two] = versions();
    let draft = Draft::new(&two, &[&one]);
    type Change = dyn Fn(&mut Manifest);
    let changes: [(&str, &Change); 12] = [
        ("segments", &|m| m.segment_size = SEGMENT_LIMIT + 4096),
        ("segments", &|m| m.segment_size = 0),
        ("segments", &|m| m.segment_size = 1000),
        ("root", &|m| m.root.size = 1 << 60),
        ("root", &|m| m.root.size -= 1),
        ("kernel", &|m| m.kernel.size = 0),
        ("piece", &|m| {
            m.root.segments[0].stored.as_mut().unwrap().size = u32::MAX
        }),
        ("prefix", &|m| m.bases[0].deltas[0].len = PREFIX_LIMIT + 1),
        ("prefix", &|m| m.bases[0].deltas[0].from = u64::MAX),
        ("delta", &|m| m.bases[0].deltas[0].segment = u32::MAX),
        ("order", &|m| m.bases[0].deltas.reverse()),
        ("list", &|m| m.bases = vec![m.bases[0].clone(); 17]),
    ];
    for (word, change) in changes {
        let mut draft = draft.clone();
        change(&mut draft.manifest);
        let error = Bundle::open(&mut Served::new(draft.bundle(&key(1))), &trusted());
        let is = |e: &BundleError| matches!(e, BundleError::Manifest(why) if why.contains(word));
        assert!(error.as_ref().is_err_and(is), "{word}: {error:?}");
    }
    let endless = [b"SLIPBNDL\x01\0\0\0\xff\xff\xff\xff".as_slice(), &[0; 16]].concat();
    assert!(matches!(
        refused(endless),
        BundleError::Signed(SignedError::TooLong { .. })
    ));
}

#[test]
fn a_key_can_be_changed() {
    let [_, two] = versions();
    let three = two.next();
    let mut draft = Draft::new(&two, &[]);
    draft.manifest.next_keys = vec![public(&key(2))];
    let bundle = draft.bundle(&key(1));
    let opened = Bundle::open(&mut Served::new(bundle.clone()), &trusted()).unwrap();
    let heads = rotation::add(&[], opened.signed(), &trusted()).unwrap();
    let mut node = fresh();
    node.update(&mut Served::new(bundle)).unwrap();
    node.boot(&two);
    let new = Draft::new(&three, &[]).bundle(&key(2));
    assert!(node.update(&mut Served::new(new.clone())).is_err());
    node.keys
        .extend(rotation::brought(&heads, &trusted()).unwrap());
    node.update(&mut Served::new(new)).unwrap();
    node.assert_has(&three);
}
