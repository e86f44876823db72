//! What of a recording can be on the medium when the power is cut.

use super::disk::{Event, Sector};

/// xorshift: the same states each time.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What isn't on the medium for sure before a flush, and what is after it.
pub struct Interval {
    pub pending: Vec<(u64, Sector)>,
    pub flushed: Vec<(u64, Sector)>,
}

impl Interval {
    /// A random part of what a cut before the flush may find on the medium: caches keep no order.
    pub fn some(&self, dice: &mut Dice) -> Vec<(u64, Sector)> {
        let share = 1 + dice.roll(9);
        let some = self.pending.iter().filter(|_| dice.roll(10) < share);
        some.copied().collect()
    }
}

/// From one flush to the next.
pub fn intervals(log: &[Event]) -> Vec<Interval> {
    let mut all = Vec::new();
    let mut pending: Vec<(u64, Sector)> = Vec::new();
    for event in log {
        match event {
            Event::Write(sectors) => pending.extend(sectors.iter().copied()),
            Event::Flush(range) => {
                let (flushed, rest): (Vec<_>, Vec<_>) =
                    (pending.iter().copied()).partition(|(n, _)| range.contains(n));
                let pending = std::mem::replace(&mut pending, rest);
                if !flushed.is_empty() {
                    all.push(Interval { pending, flushed });
                }
            }
        }
    }
    // Broken off before its flush.
    if !pending.is_empty() {
        let flushed = pending.clone();
        all.push(Interval { pending, flushed });
    }
    all
}
