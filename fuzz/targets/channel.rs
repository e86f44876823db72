//! A channel's index: as a file, and as what a key has signed.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use slipway_images::bundle::channel::{Index, KIND};
use slipway_images::bundle::keys::PublicKey;

static KEY: LazyLock<(Ed25519KeyPair, PublicKey)> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
    let public = PublicKey::new(pair.public_key().as_ref().try_into().unwrap());
    (pair, public)
});

fuzz_target!(|bytes: &[u8]| {
    let (pair, public) = &*KEY;
    assert!(Index::open(bytes, &[*public]).is_err());
    let mut signed = KIND.unsigned(public.id(), bytes);
    let signature = pair.sign(&signed);
    signed.extend(signature.as_ref());
    if let Ok(index) = Index::open(&signed, &[*public]) {
        assert!(index.check().is_ok());
        drop(index.believe("test", 1, 1_800_000_000));
        assert!(index.percent < 100 || index.includes("node"));
    }
});
