//! The index of a channel.

use proptest::prelude::*;
use slipway_images::bundle::channel::{ChannelError, INDEX_LIMIT, Index, KIND};
use slipway_images::bundle::signed::{SignedError, verify};
use slipway_images::bundle::{Digest, KIND as BUNDLE};

use super::maker::{key, public, sign};

fn index() -> Index {
    Index {
        board: "test".into(),
        sequence: 7,
        expires: 1_800_000_000,
        version: "0.2.0-20261125-1a2b3c4d".into(),
        release: 3,
        file: "test-0.2.0-20261125-1a2b3c4d.slip".into(),
        size: 1000,
        head: Digest::of(b"head"),
        percent: 100,
    }
}

fn signed(index: &Index) -> Vec<u8> {
    sign(&KIND, &serde_json::to_vec(index).unwrap(), &key(1))
}

#[test]
fn an_index_is_believed_from_its_key_until_its_date_and_never_backwards() {
    let trusted = [public(&key(2)), public(&key(1))];
    let read = Index::open(&signed(&index()), &trusted).unwrap();
    assert_eq!(read, index());
    let now = 1_799_999_999;
    read.believe("test", 7, now).unwrap();
    read.believe("test", 0, read.expires).unwrap();
    let refused = |result: Result<(), ChannelError>| result.unwrap_err();
    assert!(matches!(
        refused(read.believe("other", 0, now)),
        ChannelError::Board { .. }
    ));
    assert!(matches!(
        refused(read.believe("test", 8, now)),
        ChannelError::Replayed {
            sequence: 7,
            seen: 8
        }
    ));
    assert_eq!(
        refused(read.believe("test", 7, read.expires + 1)),
        ChannelError::Expired { late: 1 }
    );
}

#[test]
fn every_changed_byte_and_every_cut_is_refused() {
    let trusted = [public(&key(1))];
    let bytes = signed(&index());
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        assert!(Index::open(&bad, &trusted).is_err(), "byte {at}");
        assert!(Index::open(&bytes[..at], &trusted).is_err(), "cut at {at}");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(Index::open(&longer, &trusted).is_err());
    assert!(matches!(
        Index::open(&bytes, &[public(&key(2))]),
        Err(ChannelError::Signed(SignedError::UnknownKey { .. }))
    ));
}

#[test]
fn a_signed_document_of_another_kind_is_no_index() {
    let json = serde_json::to_vec(&index()).unwrap();
    let bundle = sign(&BUNDLE, &json, &key(1));
    assert_eq!(
        Index::open(&bundle, &[public(&key(1))]),
        Err(ChannelError::Signed(SignedError::Foreign("channel index")))
    );
    let mut relabelled = bundle;
    relabelled[..8].copy_from_slice(&KIND.magic);
    assert!(matches!(
        Index::open(&relabelled, &[public(&key(1))]),
        Err(ChannelError::Signed(SignedError::BadSignature(_)))
    ));
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    for file in [
        "../x.slip",
        "/etc/passwd",
        "",
        ".hidden",
        "a/b",
        "http:x",
        "a b",
    ] {
        let bad = Index {
            file: file.into(),
            ..index()
        };
        let opened = Index::open(&signed(&bad), &[public(&key(1))]);
        assert!(matches!(opened, Err(ChannelError::Index(_))), "{file:?}");
    }
    let bad = Index {
        percent: 101,
        ..index()
    };
    assert!(Index::open(&signed(&bad), &[public(&key(1))]).is_err());
}

#[test]
fn a_rollout_grows_and_another_version_begins_elsewhere() {
    let at = |percent, version: &str| Index {
        percent,
        version: version.into(),
        ..index()
    };
    let nodes: Vec<String> = (0..2000).map(|n| format!("node-{n}")).collect();
    let chosen = |index: Index| -> Vec<bool> { nodes.iter().map(|n| index.includes(n)).collect() };
    let count = |chosen: &[bool]| chosen.iter().filter(|c| **c).count();
    let (ten, half) = (chosen(at(10, "1")), chosen(at(50, "1")));
    assert!((120..280).contains(&count(&ten)), "{}", count(&ten));
    assert!((850..1150).contains(&count(&half)), "{}", count(&half));
    assert!(ten.iter().zip(&half).all(|(a, b)| !a || *b));
    assert_ne!(ten, chosen(at(10, "2")));
    assert_eq!(count(&chosen(at(0, "1"))), 0);
    assert_eq!(count(&chosen(at(100, "1"))), 2000);
}

proptest! {
    #[test]
    fn any_bytes_are_refused(bytes: Vec<u8>, json in "\\PC{0,200}") {
        let trusted = [public(&key(1))];
        prop_assert!(Index::open(&bytes, &trusted).is_err());
        let begun = [&KIND.magic[..], &1u32.to_le_bytes(), &bytes].concat();
        prop_assert!(Index::open(&begun, &trusted).is_err());
        prop_assert!(verify(&KIND, &begun, &trusted).is_err());
        // Signed nonsense, too.
        let signed = sign(&KIND, json.as_bytes(), &key(1));
        prop_assert!(Index::open(&signed, &trusted).is_err());
    }

    #[test]
    fn what_is_signed_is_read(sequence: u64, release: u64, size: u64, percent in 0u8..=100) {
        let index = Index { sequence, release, size, percent, ..index() };
        let bytes = signed(&index);
        prop_assert!(bytes.len() <= INDEX_LIMIT);
        prop_assert_eq!(Index::open(&bytes, &[public(&key(1))]).unwrap(), index);
    }
}
