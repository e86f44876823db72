//! Where an image is cut into segments.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use slipway_images::buffer::is_zero;

use crate::formats::sparse::{self, BLOCK};

/// Zeros of at least this length are a segment of their own.
const ZERO_RUN: u64 = 1 << 20;

/// The longest segment of zeros: sizes in the seek table have 32 bits, and one segment
/// is held in memory.
const ZERO_MAX: u64 = 64 << 20;

/// How segments are sized, in bytes; multiples of 4096.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cuts {
    /// No segment of data is cut by its content before this.
    pub min: u64,
    /// The mean distance from there to the next cut by content; a power of two.
    pub mean: u64,
    /// The longest segment. What a decoder needs as memory follows from it.
    pub max: u64,
}

impl Cuts {
    /// The sizes of a shipped image, as measured ([`super`]): larger ones gain little more
    /// and make small changes dearer, smaller ones lose two percent.
    pub const DEFAULT: Self = Self {
        min: 16 << 20,
        mean: 16 << 20,
        max: 64 << 20,
    };
}

/// A part of the image that becomes one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub start: u64,
    /// The byte after the last one.
    pub end: u64,
    /// Whether it is nothing but zeros.
    pub zero: bool,
}

impl Segment {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it has no bytes; no segment of an image has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn size(&self) -> usize {
        // At most `Cuts::max` or `ZERO_MAX`.
        usize::try_from(self.len()).unwrap_or(usize::MAX)
    }
}

/// Cuts a file. Holes are not read.
pub(super) fn cut(file: &File, cuts: Cuts) -> io::Result<Vec<Segment>> {
    let len = file.metadata()?.len();
    let mut cutter = Cutter {
        cuts,
        mask: u32::try_from(cuts.mean / BLOCK as u64).unwrap_or(u32::MAX) - 1,
        start: 0,
        at: 0,
        zeros: 0,
        segments: Vec::new(),
    };
    let mut buffer = vec![0; 256 * BLOCK];
    for range in sparse::data_ranges(file)? {
        // Whole blocks from the file's beginning, so that cuts don't depend on holes.
        let start = range.start / BLOCK as u64 * BLOCK as u64;
        let end = range.end.next_multiple_of(BLOCK as u64).min(len);
        cutter.zeros(start);
        let mut at = cutter.at;
        while at < end {
            let n = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            file.read_exact_at(&mut buffer[..n], at)?;
            for block in buffer[..n].chunks(BLOCK) {
                cutter.block(block);
            }
            at += n as u64;
        }
    }
    cutter.zeros(len);
    Ok(cutter.finish())
}

struct Cutter {
    cuts: Cuts,
    /// A block ends a segment if these bits of its checksum are all 0.
    mask: u32,
    /// Where the current segment began.
    start: u64,
    at: u64,
    /// How many bytes before `at` are zero.
    zeros: u64,
    segments: Vec<Segment>,
}

impl Cutter {
    /// Takes zeros up to `to`.
    fn zeros(&mut self, to: u64) {
        let more = to.saturating_sub(self.at);
        self.at += more;
        self.zeros += more;
    }

    fn block(&mut self, block: &[u8]) {
        let n = block.len() as u64;
        if is_zero(block) {
            self.zeros(self.at + n);
            return;
        }
        self.end_zeros();
        self.at += n;
        let len = self.at - self.start;
        let by_content = len >= self.cuts.min && crc32fast::hash(block) & self.mask == 0;
        if by_content || len >= self.cuts.max {
            self.push(self.at, false);
        }
    }

    /// Zeros have come to an end: a long run becomes segments of its own, a short one
    /// stays in the data.
    fn end_zeros(&mut self) {
        let from = self.at - self.zeros;
        if self.zeros >= ZERO_RUN {
            if from > self.start {
                self.push(from, false);
            }
            while self.at - self.start > ZERO_MAX {
                self.push(self.start + ZERO_MAX, true);
            }
            self.push(self.at, true);
        } else {
            while self.at - self.start >= self.cuts.max {
                self.push(self.start + self.cuts.max, false);
            }
        }
        self.zeros = 0;
    }

    fn push(&mut self, end: u64, zero: bool) {
        self.segments.push(Segment {
            start: self.start,
            end,
            zero,
        });
        self.start = end;
    }

    fn finish(mut self) -> Vec<Segment> {
        self.end_zeros();
        if self.at > self.start {
            self.push(self.at, false);
        }
        self.segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMALL: Cuts = Cuts {
        min: 16 << 10,
        mean: 16 << 10,
        max: 128 << 10,
    };

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut x = seed | 1;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        };
        (0..len / 8).flat_map(|_| next().to_le_bytes()).collect()
    }

    fn segments(parts: &[(u64, Vec<u8>)], len: u64) -> Vec<Segment> {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        for (at, bytes) in parts {
            file.write_all_at(bytes, *at).unwrap();
        }
        cut(&file, SMALL).unwrap()
    }

    #[test]
    fn an_insertion_leaves_most_segments_as_they_were() {
        let bytes = noise(1, 2 << 20);
        let moved = [noise(2, BLOCK), bytes.clone()].concat();
        let a = segments(&[(0, bytes.clone())], bytes.len() as u64);
        let b = segments(&[(0, moved.clone())], moved.len() as u64);
        let contents = |s: &[Segment], of: &[u8]| -> Vec<Vec<u8>> {
            s.iter()
                .map(|s| of[s.start as usize..s.end as usize].to_vec())
                .collect()
        };
        let (a, b) = (contents(&a, &bytes), contents(&b, &moved));
        let same = b.iter().filter(|s| a.contains(s)).count();
        assert!(a.len() > 20 && same + 4 >= a.len(), "{same} of {}", a.len());
    }

    #[test]
    fn written_zeros_and_holes_are_cut_alike() {
        let len = 8 << 20;
        let data = noise(3, 1 << 20);
        let sparse = segments(&[(0, data.clone()), (5 << 20, data.clone())], len);
        let mut whole = vec![0; len as usize];
        whole[..1 << 20].copy_from_slice(&data);
        whole[5 << 20..6 << 20].copy_from_slice(&data);
        assert_eq!(sparse, segments(&[(0, whole)], len));
        assert!(sparse.iter().any(|s| s.zero && s.len() == 4 << 20));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn segments_cover_the_file_once_within_their_limits(
            parts in prop::collection::vec((0u64..600, 1usize..80, any::<u64>()), 0..5),
            tail in 0u64..9000,
        ) {
            let parts: Vec<_> = parts
                .into_iter()
                .map(|(at, blocks, seed)| (at * BLOCK as u64, noise(seed, blocks * BLOCK)))
                .collect();
            let end = parts.iter().map(|(at, b)| at + b.len() as u64).max().unwrap_or(0);
            let len = end + tail;
            let mut at = 0;
            for s in segments(&parts, len) {
                prop_assert_eq!(s.start, at);
                prop_assert!(!s.is_empty());
                let most = if s.zero { ZERO_MAX } else { SMALL.max + ZERO_RUN };
                prop_assert!(s.len() <= most);
                at = s.end;
            }
            prop_assert_eq!(at, len);
        }
    }
}
