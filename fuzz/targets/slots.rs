//! What the boot partition says of the slots: a copy of the record, also with its sum made right,
//! and a name.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_images::slot::Record;
use slipway_images::slot::name::Name;

fuzz_target!(|bytes: &[u8]| {
    let mut copy = bytes.to_vec();
    drop(Record::decode(&copy));
    if let Some(len) = copy.get(12..16) {
        let len = u32::from_le_bytes(len.try_into().unwrap()) as usize;
        if let Some(json) = len.checked_add(32).and_then(|end| copy.get(32..end)) {
            let sum = crc32fast::hash(&[&copy[..24], json].concat());
            copy[24..28].copy_from_slice(&sum.to_le_bytes());
        }
    }
    if let Some((sequence, record)) = Record::decode(&copy) {
        // What is written of it is read as it was written.
        let written = record.encode(sequence);
        let (again, read) = Record::decode(&written).unwrap();
        assert_eq!(again, sequence);
        assert_eq!(read.encode(sequence), written);
    }
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Some(name) = Name::parse(text)
    {
        assert_eq!(Name::parse(&name.to_string()), Some(name));
    }
});
