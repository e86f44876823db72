//! A stored piece, as if it were what was signed. The first 3 bytes say how large the segment is,
//! and how much of the rest is the prefix.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slipway_images::bundle::Digest;
use slipway_images::bundle::manifest::Stored;
use slipway_images::bundle::segment::{SegmentError, unpack};

fuzz_target!(|bytes: &[u8]| {
    let Some((&[low, high, prefix], rest)) = bytes.split_first_chunk() else {
        return;
    };
    let (prefix, piece) = rest.split_at(usize::from(prefix).min(rest.len()));
    let mut segment = vec![0; usize::from(u16::from_le_bytes([low, high]))];
    let stored = Stored {
        size: piece.len() as u32,
        sha256: Digest::of(piece),
    };
    let wanted = Digest::of(b"a segment");
    let why = unpack(piece, &stored, prefix, &mut segment, wanted).unwrap_err();
    assert!(!matches!(why, SegmentError::Piece { .. }), "{why}");
});
