//! Where stored pieces lie in a bundle.

use crate::bundle::admit::Admitted;
use crate::bundle::manifest::{PayloadName, Stored};

/// Offsets of the pieces that a node may need.
pub struct Pieces {
    full: Vec<((PayloadName, usize), u64)>,
    /// Of the base that runs.
    pub deltas: Vec<u64>,
    /// Payload and segment of each.
    of: Vec<(PayloadName, usize)>,
}

impl Pieces {
    pub fn new(admitted: &Admitted) -> Self {
        let manifest = admitted.manifest();
        let mut at = admitted.bundle.pieces();
        let mut step = |piece: &Stored| {
            let start = at;
            at += u64::from(piece.size);
            start
        };
        let full = manifest.full();
        let full = full.map(|(name, n, piece)| ((name, n), step(piece)));
        let full = full.collect();
        let mut pieces = Self {
            full,
            deltas: Vec::new(),
            of: Vec::new(),
        };
        for (n, base) in manifest.bases.iter().enumerate() {
            for delta in &base.deltas {
                let start = step(&delta.stored);
                if admitted.base == Some(n) {
                    pieces.deltas.push(start);
                    pieces.of.push((delta.payload, delta.segment as usize));
                }
            }
        }
        pieces
    }

    /// Both lists are in the order of payloads and segments.
    pub fn delta(&self, payload: PayloadName, segment: usize) -> Option<usize> {
        self.of.binary_search(&(payload, segment)).ok()
    }

    pub fn full(&self, payload: PayloadName, segment: usize) -> u64 {
        let found = (self.full).binary_search_by_key(&(payload, segment), |(of, _)| *of);
        found.map_or(0, |n| self.full[n].1)
    }
}
