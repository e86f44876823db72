//! A stored piece: one zstd frame that gives one segment.
//!
//! | offset in the frame | size | field (RFC 8878, section 3.1.1) |
//! |---|---|---|
//! | 0 | 4 | magic, fd2fb528 |
//! | 4 | 1 | descriptor: bits 6-7 size of the content's size, 5 single segment, 3 reserved, 2 checksum, 0-1 size of the dictionary's id |
//! | 5 | 0 or 1 | window, unless a single segment: 10 + bits 3-7 the exponent, bits 0-2 eighths |
//! | then | 0 | dictionary's id: a prefix has none |
//! | then | 1, 2, 4 or 8 | bytes of the content |
//!
//! The decoder is given a buffer of just the segment's size, and reaches back no further than
//! that and the prefix: whatever a frame says, it gets no more memory.

use zstd_safe::DCtx;

use super::manifest::{Digest, Stored};

/// Binary logarithm of how far back a frame may reach.
pub const WINDOW_LOG: u32 = 25;
const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();

/// Why a piece doesn't give its segment.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SegmentError {
    /// The piece itself is another one.
    #[error("it isn't what was signed (SHA-256 {found}, not {expected}); fetch it again")]
    Piece {
        /// The manifest's digest.
        expected: Digest,
        /// What was fetched.
        found: Digest,
    },
    /// It is no zstd frame with a known size.
    #[error("it is no zstd frame of the kind that bundles have")]
    Frame,
    /// It unpacks to another size.
    #[error("it unpacks to {found} bytes, not {expected}")]
    Size {
        /// The manifest's.
        expected: u64,
        /// The frame's.
        found: u64,
    },
    /// It reaches back too far.
    #[error("its window has {0} bytes; at most 32 MiB are taken")]
    Window(u64),
    /// The decoder gives up.
    #[error("it can't be unpacked: {0}")]
    Unpack(&'static str),
    /// It unpacks to other bytes.
    #[error("it unpacks to other bytes than were signed (SHA-256 {found}, not {expected})")]
    Content {
        /// The manifest's digest.
        expected: Digest,
        /// What came out.
        found: Digest,
    },
}

/// What a frame says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// Bytes of the content.
    pub content: u64,
    /// Bytes that it reaches back.
    pub window: u64,
}

impl FrameHead {
    /// Reads the beginning of a frame.
    ///
    /// # Errors
    /// [`SegmentError::Frame`] for what has no size or wants a dictionary.
    pub fn parse(frame: &[u8]) -> Result<Self, SegmentError> {
        let (descriptor, rest) = frame
            .strip_prefix(&MAGIC)
            .and_then(<[u8]>::split_first)
            .ok_or(SegmentError::Frame)?;
        let single = descriptor & 0x20 != 0;
        if descriptor & 0x0b != 0 {
            return Err(SegmentError::Frame);
        }
        let (window, rest) = match single {
            true => (None, rest),
            false => {
                let (byte, rest) = rest.split_first().ok_or(SegmentError::Frame)?;
                let base = 1u64 << (10 + (byte >> 3));
                (Some(base + base / 8 * u64::from(byte & 7)), rest)
            }
        };
        let size = match (descriptor >> 6, single) {
            (0, false) => return Err(SegmentError::Frame),
            (n, _) => 1usize << n,
        };
        let field = rest.get(..size).ok_or(SegmentError::Frame)?;
        let number = field.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let content = if size == 2 { number + 256 } else { number };
        Ok(Self {
            content,
            window: window.unwrap_or(content),
        })
    }
}

/// Unpacks a piece into a buffer of the segment's size, with a prefix if it is a delta.
///
/// # Errors
/// [`SegmentError`]; then the buffer holds nothing of use.
pub fn unpack(
    piece: &[u8],
    stored: &Stored,
    prefix: &[u8],
    segment: &mut [u8],
    sha256: Digest,
) -> Result<(), SegmentError> {
    let found = Digest::of(piece);
    if found != stored.sha256 {
        return Err(SegmentError::Piece {
            expected: stored.sha256,
            found,
        });
    }
    let head = FrameHead::parse(piece)?;
    if head.window > 1 << WINDOW_LOG {
        return Err(SegmentError::Window(head.window));
    }
    if head.content != segment.len() as u64 {
        return Err(SegmentError::Size {
            expected: segment.len() as u64,
            found: head.content,
        });
    }
    let failed = |code| SegmentError::Unpack(zstd_safe::get_error_name(code));
    if zstd_safe::find_frame_compressed_size(piece).map_err(failed)? != piece.len() {
        return Err(SegmentError::Frame);
    }
    let mut decoder = DCtx::try_create().ok_or(SegmentError::Unpack("not enough memory"))?;
    decoder.ref_prefix(prefix).map_err(failed)?;
    let expected = segment.len() as u64;
    let unpacked = decoder.decompress(segment, piece).map_err(failed)? as u64;
    if unpacked != expected {
        return Err(SegmentError::Size {
            expected,
            found: unpacked,
        });
    }
    match Digest::of(segment) {
        found if found == sha256 => Ok(()),
        found => Err(SegmentError::Content {
            expected: sha256,
            found,
        }),
    }
}
