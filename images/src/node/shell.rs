//! What is said over a connection that was upgraded to `slipway-shell`.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | kind: 0 bytes of the terminal, 1 its size, 2 the shell has ended |
//! | 1 | 2 | length of what follows, big-endian, at most 16384 |
//! | 3 | | kind 0: bytes; kind 1: columns and rows, u16 big-endian each; kind 2: exit status, i32 big-endian |
//!
//! The client sends kinds 0 and 1, the node kinds 0 and 2. Our own, as there is no standard.

/// The name of the protocol in `Upgrade:`.
pub const PROTOCOL: &str = "slipway-shell";
/// Longest content of one frame.
pub const LIMIT: usize = 16 << 10;
const HEADER: usize = 3;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of the terminal.
    Bytes(Vec<u8>),
    /// The terminal's size.
    Size {
        /// Columns.
        columns: u16,
        /// Rows.
        rows: u16,
    },
    /// The shell has ended: its exit status, or 128 and the signal that ended it.
    Exit(i32),
}

/// What the other side sent is no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a frame of {PROTOCOL}")]
pub struct NoFrame;

impl Frame {
    /// The frame as sent. Bytes beyond [`LIMIT`] take several frames.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |kind: u8, content: &[u8]| {
            out.push(kind);
            // At most LIMIT, which fits.
            out.extend_from_slice(&u16::try_from(content.len()).unwrap_or(0).to_be_bytes());
            out.extend_from_slice(content);
        };
        match self {
            Self::Bytes(bytes) => bytes.chunks(LIMIT).for_each(|chunk| put(0, chunk)),
            Self::Size { columns, rows } => {
                let [a, b] = columns.to_be_bytes();
                let [c, d] = rows.to_be_bytes();
                put(1, &[a, b, c, d]);
            }
            Self::Exit(status) => put(2, &status.to_be_bytes()),
        }
        out
    }

    /// Takes the first frame out of `buffer`; `None` while it isn't whole.
    ///
    /// # Errors
    /// [`NoFrame`]: there is nothing to be done but to hang up.
    pub fn take(buffer: &mut Vec<u8>) -> Result<Option<Self>, NoFrame> {
        let Some(&[kind, high, low]) = buffer.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length > LIMIT {
            return Err(NoFrame);
        }
        let Some(content) = buffer.get(HEADER..HEADER + length) else {
            return Ok(None);
        };
        let frame = match (kind, content) {
            (0, bytes) => Self::Bytes(bytes.to_vec()),
            (1, &[a, b, c, d]) => Self::Size {
                columns: u16::from_be_bytes([a, b]),
                rows: u16::from_be_bytes([c, d]),
            },
            (2, &[a, b, c, d]) => Self::Exit(i32::from_be_bytes([a, b, c, d])),
            _ => return Err(NoFrame),
        };
        buffer.drain(..HEADER + length);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let size = Frame::Size {
            columns: 80,
            rows: 24,
        };
        let mut wire = size.encode();
        wire.extend(Frame::Exit(-1).encode());
        wire.extend(Frame::Bytes(vec![7; LIMIT + 1]).encode());
        let last = wire.pop().unwrap();
        assert_eq!(Frame::take(&mut wire), Ok(Some(size)));
        assert_eq!(Frame::take(&mut wire), Ok(Some(Frame::Exit(-1))));
        assert_eq!(
            Frame::take(&mut wire),
            Ok(Some(Frame::Bytes(vec![7; LIMIT])))
        );
        assert_eq!(Frame::take(&mut wire), Ok(None), "not whole yet");
        wire.push(last);
        assert_eq!(Frame::take(&mut wire), Ok(Some(Frame::Bytes(vec![7]))));
        assert_eq!((Frame::take(&mut wire), wire.len()), (Ok(None), 0));
    }

    proptest! {
        #[test]
        fn never_panics_and_always_ends(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let length = bytes.len();
            let mut taken = 0;
            while let Ok(Some(_)) = Frame::take(&mut bytes) {
                taken += 1;
                prop_assert!(taken <= length);
            }
        }
    }
}
