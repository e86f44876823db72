//! Where in an old payload the bytes of a new segment are most likely to be found.
//!
//! A version more or a longer file moves all that comes behind it, by blocks in a filesystem
//! and by single bytes in a program. So both are marked by their content: a rolling checksum
//! over 64 bytes ("gear", Xia and others, 2014) picks about one place in a thousand, and is that
//! place's name. Where most of a segment's names are in the old payload, there lies its base.

use std::collections::HashMap;
use std::ops::Range;

use slipway_images::bundle::manifest::PREFIX_LIMIT;

/// These bits of the checksum are all 0 at a place that gets a name.
const MASK: u64 = 0x3ff << 54;
/// Names that are found more often say nothing: tables, padding.
const REPEATS: u8 = 4;
/// Stretches begin at a multiple of it.
const ALIGN: u64 = 4096;

/// The named places of a payload, fed piece by piece.
#[derive(Debug, Default)]
pub struct Marks {
    places: HashMap<u64, (u64, u8)>,
    at: u64,
    checksum: u64,
}

impl Marks {
    /// Takes the next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        let start = self.at;
        let checksum = each(self.checksum, bytes, |place, name| {
            let known = self.places.entry(name).or_insert((start + place as u64, 0));
            known.1 = known.1.saturating_add(1);
        });
        self.checksum = checksum;
        self.at += bytes.len() as u64;
    }

    /// The stretch of this payload that has most of what is in `segment`, which lies at `at`
    /// in the new one. Without any names in common: what is around the same place. None beyond
    /// the end.
    pub fn stretch(&self, segment: &[u8], at: u64) -> Option<Range<u64>> {
        let mut found = Vec::new();
        each(0, segment, |_, name| {
            if let Some((place, count)) = self.places.get(&name)
                && *count <= REPEATS
            {
                found.push(*place);
            }
        });
        found.sort_unstable();
        let limit = u64::from(PREFIX_LIMIT);
        let room = limit - limit / 6;
        let most = (0..found.len())
            .map(|first| (first, found.partition_point(|p| *p < found[first] + room)))
            .max_by_key(|(first, end)| (end - first, std::cmp::Reverse(*first)));
        let (first, last) = match most {
            Some((first, end)) => (found[first], found[end - 1]),
            None => (at, at + segment.len() as u64),
        };
        // Something on both sides, where it continues.
        let middle = first.midpoint(last);
        let start = middle.saturating_sub(limit / 2) / ALIGN * ALIGN;
        let start = start.min(self.at.saturating_sub(limit).next_multiple_of(ALIGN));
        let end = (start + limit).min(self.at);
        (start < end).then_some(start..end)
    }
}

/// Rolls over bytes and gives each place that has a name, with its name.
fn each(mut checksum: u64, bytes: &[u8], mut found: impl FnMut(usize, u64)) -> u64 {
    for (place, byte) in bytes.iter().enumerate() {
        checksum = (checksum << 1).wrapping_add(GEAR[*byte as usize]);
        if checksum & MASK == 0 {
            found(place, checksum);
        }
    }
    checksum
}

/// A number for each byte, by SplitMix64 (Steele and others, 2014).
const GEAR: [u64; 256] = {
    let mut table = [0; 256];
    let mut state = 0u64;
    let mut n = 0;
    while n < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[n] = z ^ (z >> 31);
        n += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u8
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn marks(payload: &[u8]) -> Marks {
        let mut marks = Marks::default();
        for piece in payload.chunks(100_000) {
            marks.add(piece);
        }
        marks
    }

    #[test]
    fn what_has_moved_is_found() {
        let old = noise(64 << 20, 1);
        let marks = marks(&old);
        for (from, at) in [(50 << 20, 0), (4 << 20, 40 << 20), (33_333_333, 1 << 20)] {
            let segment = &old[from..from + (2 << 20)];
            let stretch = marks.stretch(segment, at).unwrap();
            let wanted = from as u64..(from + segment.len()) as u64;
            assert!(
                stretch.start <= wanted.start && stretch.end >= wanted.end,
                "{wanted:?} in {stretch:?}"
            );
            assert!(stretch.end - stretch.start <= u64::from(PREFIX_LIMIT));
        }
    }

    #[test]
    fn what_is_new_gets_what_is_around_it() {
        let marks = marks(&noise(1 << 20, 1));
        let new = noise(300_000, 2);
        assert_eq!(marks.stretch(&new, 500_000), Some(0..1 << 20));
        assert_eq!(marks.stretch(&new, 1 << 40), Some(0..1 << 20));
        assert_eq!(Marks::default().stretch(&new, 0), None);
    }
}
