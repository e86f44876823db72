//! A bundle's manifest, as if its key had signed it: whatever passes is within its limits.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_images::bundle::{Manifest, PayloadName};

fuzz_target!(|json: &[u8]| {
    let Ok(manifest) = Manifest::parse(json) else {
        return;
    };
    for name in PayloadName::BOTH {
        let payload = manifest.payload(name);
        let last = payload.segments.len() - 1;
        assert_eq!(manifest.place(name, last).end, payload.size);
    }
    let full: u64 = manifest
        .full()
        .map(|(.., piece)| u64::from(piece.size))
        .sum();
    assert_eq!(full, manifest.stored_full());
    assert!(manifest.stored() >= full);
    let again = serde_json::to_vec(&manifest).unwrap();
    assert_eq!(Manifest::parse(&again).unwrap(), manifest);
});
