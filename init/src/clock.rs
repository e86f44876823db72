//! The clock where there may be no battery behind it: never earlier than the image or the
//! last time seen.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_settime};

use crate::files;
use crate::phase::{Context, Failure, Outcome};

/// Where the last time seen is kept, in seconds since 1970.
pub const CLOCK_FILE: &str = "/var/lib/slipway/clock";

/// The clock in seconds since 1970.
pub fn now() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}

/// Sets the clock.
///
/// # Errors
/// EPERM, or a time the kernel does not take.
pub fn set(since_1970: Duration) -> Result<(), Failure> {
    let nanoseconds = i64::try_from(since_1970.as_nanos()).context("a time beyond 2262")?;
    clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::nanoseconds(nanoseconds))
        .context("setting the clock")
}

/// Moves the clock forward to `seconds` if it is earlier.
///
/// # Errors
/// Those of [`set`].
pub fn not_earlier_than(seconds: i64) -> Outcome {
    let behind = seconds.saturating_sub(now());
    if behind <= 0 {
        return Ok(String::new());
    }
    set(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))?;
    Ok(format!("moved forward by {behind} s"))
}

/// Moves the clock forward to the last time saved.
///
/// # Errors
/// Those of [`set`]; a missing or damaged file is no error.
pub fn restore(file: &Path) -> Outcome {
    let saved = files::read_trimmed(file).ok().and_then(|t| t.parse().ok());
    match saved {
        Some(seconds) => not_earlier_than(seconds),
        None => Ok(String::new()),
    }
}

/// Saves the time.
///
/// # Errors
/// Those of writing.
pub fn save(file: &Path) -> Result<(), Failure> {
    files::write_atomically(file, format!("{}\n", now()).as_bytes(), 0o644)
        .context(format_args!("saving the time in {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_moves_nothing_and_damage_is_no_error() {
        assert_eq!(not_earlier_than(1_000_000).unwrap(), "");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("clock");
        assert_eq!(restore(&file).unwrap(), "");
        std::fs::write(&file, "not a number").unwrap();
        assert_eq!(restore(&file).unwrap(), "");
        save(&file).unwrap();
        let saved: i64 = files::read_trimmed(&file).unwrap().parse().unwrap();
        assert!((saved - now()).abs() < 5);
        assert_eq!(restore(&file).unwrap(), "");
    }
}
