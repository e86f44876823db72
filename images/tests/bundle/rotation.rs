//! Keys that bundles have brought.

use proptest::prelude::*;
use slipway_images::bundle::keys::PublicKey;
use slipway_images::bundle::rotation::{HEADS_LIMIT, add, brought};
use slipway_images::bundle::{BundleError, KIND};

use super::maker::{Draft, Version, key, public, sign};

fn keys(seeds: &[u8]) -> Vec<PublicKey> {
    seeds.iter().map(|seed| public(&key(*seed))).collect()
}

/// The head of a bundle that one key has signed and that brings others.
fn head(by: u8, brings: &[u8]) -> Vec<u8> {
    let mut manifest = Draft::new(&Version::first(), &[]).manifest;
    manifest.next_keys = keys(brings);
    sign(&KIND, &serde_json::to_vec(&manifest).unwrap(), &key(by))
}

#[test]
fn the_last_word_of_who_is_trusted_counts() {
    let image = keys(&[1]);
    assert_eq!(brought(&[], &image).unwrap(), []);
    let heads = add(&[], &head(1, &[2]), &image).unwrap();
    assert_eq!(brought(&heads, &image).unwrap(), keys(&[2]));
    // Who came so brings the next one, who then counts alone.
    let heads = add(&heads, &head(2, &[3, 4]), &image).unwrap();
    assert_eq!(brought(&heads, &image).unwrap(), keys(&[3, 4]));
    let stale = add(&heads, &head(2, &[5]), &image);
    assert!(matches!(stale, Err(BundleError::Signed(_))), "{stale:?}");
    // The image's own key withdraws them all, and needs nothing before it.
    let last = head(1, &[6]);
    let withdrawn = add(&heads, &last, &image).unwrap();
    assert_eq!(withdrawn, last);
    assert_eq!(brought(&withdrawn, &image).unwrap(), keys(&[6]));
    // Even where what was before can't be read.
    assert_eq!(add(b"damaged", &last, &image).unwrap(), last);

    // An image withdraws who isn't in it, and whom he has brought.
    assert_eq!(brought(&heads, &keys(&[9])).unwrap(), []);
    // But not whom it trusts itself.
    assert_eq!(brought(&heads, &keys(&[2])).unwrap(), keys(&[3, 4]));
    // One without keys takes no updates, whoever has come.
    assert_eq!(brought(&heads, &[]).unwrap(), []);
    assert!(add(&[], &head(1, &[2]), &[]).is_err());
}

#[test]
fn a_stranger_adds_nothing_and_the_file_has_an_end() {
    let image = keys(&[1]);
    assert!(add(&[], &head(7, &[7]), &image).is_err());
    let forged = [head(1, &[2]), head(7, &[7])].concat();
    assert_eq!(brought(&forged, &image).unwrap(), keys(&[2]));
    let one = head(1, &[2]);
    let many = one.repeat(HEADS_LIMIT / one.len());
    let full = add(&many, &head(2, &[3]), &image);
    assert!(matches!(full, Err(BundleError::TooManyHeads)), "{full:?}");
}

proptest! {
    #[test]
    fn a_changed_byte_brings_nobody(at: prop::sample::Index, bit in 0..8u8, cut: bool) {
        let whole = [head(1, &[2]), head(2, &[3])].concat();
        let mut heads = whole.clone();
        let at = at.index(heads.len());
        match cut {
            true => heads.truncate(at),
            false => heads[at] ^= 1 << bit,
        }
        // What is left of it, as far as it is whole; never somebody else, or the last one.
        if let Ok(found) = brought(&heads, &keys(&[1])) {
            prop_assert!(found.is_empty() || found == keys(&[2]), "{at} {found:?}");
        }
    }
}
