//! The time of the day by the node's time zone.

#![expect(unsafe_code, reason = "the zone's rules are known to libc alone")]

use std::time::{SystemTime, UNIX_EPOCH};

use nix::libc;
use slipway_images::seed::TimeOfDay;

/// A moment by the node's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Seconds since 1970-01-01 UTC.
    pub seconds: u64,
    /// The time of the day; by UTC where the node has no time zone. A zone that was changed
    /// counts from noded's next start on.
    pub of_day: TimeOfDay,
}

impl Moment {
    /// This one.
    #[must_use]
    pub fn now() -> Self {
        let passed = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = passed.map_or(0, |passed| passed.as_secs());
        Self {
            seconds,
            of_day: at(seconds.try_into().unwrap_or(0)),
        }
    }
}

fn at(seconds: libc::time_t) -> TimeOfDay {
    // SAFETY: `tm` is plain numbers and a pointer that nobody follows; zeros are fine.
    let mut broken_down: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid for the call, which keeps neither.
    let done = unsafe { libc::localtime_r(&raw const seconds, &raw mut broken_down) };
    let part = |n: libc::c_int| u16::try_from(n).unwrap_or(0);
    let (hour, minute) = (part(broken_down.tm_hour), part(broken_down.tm_min));
    let found = (!done.is_null()).then(|| TimeOfDay::new(hour, minute));
    // A time that libc can't break down is none that a clock shows.
    found.flatten().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_pass_as_everywhere() {
        // Every zone there is has quarters of an hour.
        let (first, later) = (at(1_800_000_000), at(1_800_000_000 + 7 * 60 + 59));
        assert_eq!(first.until(later), 7);
        let shown = std::process::Command::new("date")
            .args(["-d", "@1800000000", "+%H:%M"])
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&shown.stdout).trim(),
            first.to_string()
        );
    }
}
