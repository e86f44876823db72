//! Lengths of time in words, and civil time in UTC from Unix seconds, without a time zone database: images
//! carry one time only, that of their inputs.

pub use slipway_images::calendar::{civil, date};

/// RFC 3339, `YYYY-MM-DDTHH:MM:SSZ`.
pub fn rfc3339(unix: i64) -> String {
    let second = unix.rem_euclid(86_400);
    format!(
        "{}T{:02}:{:02}:{:02}Z",
        date(unix),
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// `75` as `1m15s`.
pub fn short(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86_400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(date(951_782_400), "2000-02-29");
        assert_eq!(rfc3339(1_795_511_744), "2026-11-24T09:15:44Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59Z");
    }

    #[test]
    fn times_are_short() {
        assert_eq!(short(5), "5s");
        assert_eq!(short(75), "1m15s");
        assert_eq!(short(3725), "1h2m");
        assert_eq!(short(200_000), "2d7h");
    }
}
