//! Pieces that are signed and unpack to something else.

use slipway_images::bundle::BundleError;
use slipway_images::bundle::segment::{FrameHead, SegmentError};
use zstd_safe::{CCtx, CParameter, InBuffer, OutBuffer};

use super::maker::{Draft, SEGMENT, Version, compress, key, noise, public};
use super::node::{Node, Served};

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
    out
}

#[test]
fn signed_pieces_that_unpack_to_something_else() {
    let two = Version::first().next();
    let of = |piece: Vec<u8>| {
        let mut draft = Draft::new(&two, &[]);
        draft.replace_root_piece(piece);
        let mut node = Node::new(Version::first(), &[public(&key(1))]);
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
    // A delta where there is no prefix. From memory of its own: zstd doesn't refer to what it
    // is just packing.
    let prefix = right.to_vec();
    let error = of(compress(right, &prefix));
    assert!(
        matches!(
            error,
            SegmentError::Content { .. } | SegmentError::Unpack(_)
        ),
        "{error}"
    );
}
