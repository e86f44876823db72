//! Whatever is thrown at the readers.

use std::sync::OnceLock;

use proptest::prelude::*;
use slipway_images::bundle::Bundle;
use slipway_images::bundle::manifest::{Digest, Manifest};
use slipway_images::bundle::segment::unpack;

use super::maker::{Draft, Version, compress, key, noise, public, stored};
use super::node::Served;

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
            let [one, two] = [Version::first(), Version::first().next()];
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
            prop_assert!(Bundle::open(&mut Served::new(bytes), &[public(&key(1))]).is_err());
        }
    }
}
