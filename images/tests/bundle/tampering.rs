//! Bundles that must not be taken, each with its own error, and no slot that could be booted.

use std::sync::OnceLock;

use proptest::prelude::*;
use slipway_images::bundle::keys::PublicKey;
use slipway_images::bundle::manifest::{Digest, Manifest, PREFIX_LIMIT, SEGMENT_LIMIT};
use slipway_images::bundle::segment::{FrameHead, SegmentError, unpack};
use slipway_images::bundle::signed::{HEAD, SignedError};
use slipway_images::bundle::{Allow, Bundle, BundleError, PayloadName};
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

use super::maker::{Draft, SEGMENT, Version, compress, key, noise, public, stored};
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
    for at in 0..end {
        served.bytes[at] ^= 1 << (at % 8);
        let opened = Bundle::open(&mut served, &trusted);
        served.bytes[at] = bundle[at];
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
    let mut node = Node::new(other, &trusted());
    for (n, piece) in draft.places(&bundle).into_iter().enumerate() {
        for at in [piece.start, piece.start + 5, piece.end - 1] {
            let mut bad = bundle.clone();
            bad[at] ^= 0x40;
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
    let boot = node.slots().into_boot();
    let mut record = {
        use slipway_images::slot::BootMethod as _;
        let mut boot = boot;
        let record = boot.record().unwrap();
        (boot, record)
    };
    record.1.remember(&three.name(), "not healthy");
    {
        use slipway_images::slot::BootMethod as _;
        record.0.set_record(&record.1).unwrap();
    }
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

/// A frame that is made as a stream: with a window and perhaps without its content's size.
fn streamed(bytes: &[u8], window: u32, size: Option<u64>) -> Vec<u8> {
    let mut encoder = CCtx::create();
    encoder
        .set_parameter(CParameter::WindowLog(window))
        .unwrap();
    encoder.set_pledged_src_size(size).unwrap();
    let mut out = Vec::with_capacity(zstd_safe::compress_bound(bytes.len()));
    let mut to = OutBuffer::around(&mut out);
    let mut from = InBuffer::around(bytes);
    encoder.compress_stream(&mut to, &mut from).unwrap();
    while encoder.end_stream(&mut to).unwrap() > 0 {}
    drop(to);
    out
}

#[test]
fn signed_pieces_that_unpack_to_something_else() {
    let [_, two] = versions();
    let of = |piece: Vec<u8>| {
        let mut draft = Draft::new(&two, &[]);
        draft.replace_root_piece(piece);
        let mut node = fresh();
        let error = node
            .update(&mut Served::new(draft.bundle(&key(1))))
            .unwrap_err();
        node.assert_safe();
        match error {
            BundleError::Segment { error, .. } => error,
            error => panic!("{error}"),
        }
    };
    let right = &two.root[..SEGMENT as usize];
    // A zip bomb: 64 MiB in some hundred bytes, whether or not it says so.
    let zeros = vec![0; 64 << 20];
    let error = of(compress(&zeros, &[]));
    assert_eq!(
        error,
        SegmentError::Size {
            expected: SEGMENT.into(),
            found: 64 << 20
        }
    );
    assert_eq!(of(streamed(&zeros, 20, None)), SegmentError::Frame);
    let mut lying = streamed(&zeros, 20, Some(64 << 20));
    let at = lying.len();
    assert_eq!(FrameHead::parse(&lying).unwrap().content, 64 << 20);
    let field = lying[..16]
        .windows(4)
        .position(|w| w == (64u32 << 20).to_le_bytes());
    lying[field.unwrap()..][..4].copy_from_slice(&SEGMENT.to_le_bytes());
    assert_eq!(lying.len(), at);
    assert!(matches!(of(lying), SegmentError::Unpack(_)));
    // A window beyond 32 MiB.
    let wide = streamed(&zeros[..(40 << 20)], 27, Some(40 << 20));
    assert!(matches!(of(wide), SegmentError::Window(w) if w > 32 << 20));
    // Two frames, and no frame.
    let twice = [compress(right, &[]), compress(&[], &[])].concat();
    assert_eq!(of(twice), SegmentError::Frame);
    assert_eq!(of(b"no frame".to_vec()), SegmentError::Frame);
    // Other bytes of the right size.
    let error = of(compress(&noise(SEGMENT as usize, 77), &[]));
    assert!(matches!(error, SegmentError::Content { .. }), "{error}");
    // A delta where there is no prefix.
    let error = of(compress(right, right));
    assert!(
        matches!(
            error,
            SegmentError::Content { .. } | SegmentError::Unpack(_)
        ),
        "{error}"
    );
}

#[test]
fn what_the_disk_changes_is_noticed_before_it_can_be_booted() {
    let [_, two] = versions();
    let draft = Draft::new(&two, &[]);
    // Segments are as signed, and the whole is another one.
    let mut bad = draft.clone();
    bad.manifest.root_hash = Version::first().root_hash();
    bad.manifest.root_hash = {
        let mut other = two.clone();
        other.root[0] ^= 1;
        other.root_hash()
    };
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
    let mut node = fresh();
    node.update(&mut Served::new(bundle)).unwrap();
    node.boot(&two);
    let new = Draft::new(&three, &[]).bundle(&key(2));
    assert!(node.update(&mut Served::new(new.clone())).is_err());
    node.keys.extend(&opened.manifest().next_keys);
    node.update(&mut Served::new(new)).unwrap();
    node.assert_has(&three);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_json_that_is_signed_is_refused_or_within_limits(
        text in "\\PC{0,100}",
        at in 0usize..2000,
        with in "[0-9a-z\\-\\[\\]{}\",:]{0,6}",
    ) {
        drop(Manifest::parse(text.as_bytes()));
        static JSON: OnceLock<String> = OnceLock::new();
        let make = || {
            let [one, two] = versions();
            serde_json::to_string(&Draft::new(&two, &[&one]).manifest).unwrap()
        };
        let mut json = JSON.get_or_init(make).clone();
        let at = at % json.len();
        json.replace_range(at..(at + with.len()).min(json.len()), &with);
        if let Ok(manifest) = Manifest::parse(json.as_bytes()) {
            prop_assert!(manifest.check().is_ok());
        }
    }

    #[test]
    fn any_piece_is_refused_or_right(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        at: prop::sample::Index,
        with: u8,
        size in 0usize..70_000,
    ) {
        let segment = noise(65_536, 1);
        let sha256 = Digest::of(&segment);
        let mut piece = compress(&segment, &[]);
        let at = at.index(piece.len());
        piece[at] = with;
        for piece in [piece, bytes.clone(), [&[0x28, 0xb5, 0x2f, 0xfd], &bytes[..]].concat()] {
            let mut into = vec![0; size];
            let unpacked = unpack(&piece, &stored(&piece), &bytes, &mut into, sha256);
            prop_assert!(unpacked.is_err());
            let mut into = vec![0; segment.len()];
            if unpack(&piece, &stored(&piece), &[], &mut into, sha256).is_ok() {
                prop_assert!(into == segment);
            }
        }
    }

    #[test]
    fn any_file_is_no_bundle(bytes: Vec<u8>) {
        let begun = [b"SLIPBNDL\x01\0\0\0", &bytes[..]].concat();
        for bytes in [bytes, begun] {
            prop_assert!(Bundle::open(&mut Served::new(bytes), &trusted()).is_err());
        }
    }
}
