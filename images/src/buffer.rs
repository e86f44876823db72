//! Memory for large reads and writes.

use std::ops::{Deref, DerefMut};

/// What buffers are aligned to in memory: at least the logical block of any disk.
const ALIGNMENT: usize = 4096;

/// Bytes at an address that direct I/O takes.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` zero bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start, len }
    }

    /// The same memory with another length, if there is as much; else `None`.
    #[must_use]
    pub fn with_len(self, len: usize) -> Option<Self> {
        (self.start + len <= self.bytes.len()).then_some(Self { len, ..self })
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Whether all bytes are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    // Whole words first; the compiler makes vectors of it.
    let (words, after) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_le_bytes(*word) == 0) && after.iter().all(|b| *b == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_have_their_length() {
        for len in [0, 1, 512, 4096, 1 << 20] {
            let buffer = Buffer::new(len);
            assert_eq!(buffer.len(), len);
            assert!((buffer.as_ptr() as usize).is_multiple_of(ALIGNMENT));
            let shorter = buffer.with_len(len / 2).unwrap();
            assert_eq!(shorter.len(), len / 2);
            assert_eq!(shorter.with_len(len).unwrap().len(), len);
        }
        assert!(Buffer::new(1).with_len(2 << 20).is_none());
    }
}
