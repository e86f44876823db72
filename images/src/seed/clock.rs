//! Times of the day, by the node's clock and time zone.

use std::fmt;
use std::str::FromStr;

use super::read::Word;
use super::shape::Text;
use super::words::text;
use crate::text::as_text;

const DAY: u16 = 24 * 60;

/// A minute of the day, `HH:MM`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u16);

/// A text that is no time of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no time of the day: HH:MM, from 00:00 to 23:59")]
pub struct NoTime;

impl TimeOfDay {
    /// That of an hour and minute; none beyond 23:59.
    #[must_use]
    pub fn new(hour: u16, minute: u16) -> Option<Self> {
        (hour < 24 && minute < 60).then_some(Self(hour * 60 + minute))
    }

    /// Minutes from here to `other`, on the next day if it is earlier.
    #[must_use]
    pub fn until(self, other: Self) -> u16 {
        (other.0 + DAY - self.0) % DAY
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl FromStr for TimeOfDay {
    type Err = NoTime;

    fn from_str(text: &str) -> Result<Self, NoTime> {
        let (hour, minute) = text.split_once(':').ok_or(NoTime)?;
        let two = |part: &str| match part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit()) {
            true => part.parse().map_err(|_| NoTime),
            false => Err(NoTime),
        };
        Self::new(two(hour)?, two(minute)?).ok_or(NoTime)
    }
}

/// From one time of the day to another, without the latter: `HH:MM-HH:MM`. It may go over
/// midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    from: TimeOfDay,
    to: TimeOfDay,
}

/// A text that is no window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no window of two different times: HH:MM-HH:MM")]
pub struct NoWindow;

impl Window {
    /// Whether a time is in it.
    #[must_use]
    pub fn contains(&self, time: TimeOfDay) -> bool {
        self.from.until(time) < self.minutes()
    }

    /// How long it is, in minutes.
    #[must_use]
    pub fn minutes(&self) -> u16 {
        self.from.until(self.to)
    }

    /// Minutes from a time until it begins.
    #[must_use]
    pub fn begins_in(&self, time: TimeOfDay) -> u16 {
        time.until(self.from)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.from, self.to)
    }
}

impl FromStr for Window {
    type Err = NoWindow;

    fn from_str(text: &str) -> Result<Self, NoWindow> {
        let (from, to) = text.split_once('-').ok_or(NoWindow)?;
        let time = |text: &str| text.trim().parse().map_err(|NoTime| NoWindow);
        let window = Self {
            from: time(from)?,
            to: time(to)?,
        };
        match window.from == window.to {
            true => Err(NoWindow),
            false => Ok(window),
        }
    }
}

impl Word for Window {
    const TEXT: Text = text("times of the day, `HH:MM-HH:MM`");
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|error: NoWindow| error.to_string())
    }
}

as_text!(TimeOfDay, Window);

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> TimeOfDay {
        text.parse().unwrap()
    }

    #[test]
    fn times_have_one_form() {
        assert_eq!(at("00:00").to_string(), "00:00");
        assert_eq!(at("23:59").to_string(), "23:59");
        for wrong in [
            "", "1:00", "24:00", "12:60", "12", "12:0", "+1:00", "12:000",
        ] {
            assert_eq!(wrong.parse::<TimeOfDay>(), Err(NoTime), "{wrong}");
        }
        assert_eq!(at("23:30").until(at("00:15")), 45);
        assert_eq!(at("12:00").until(at("12:00")), 0);
    }

    #[test]
    fn a_window_has_its_beginning_and_not_its_end() {
        let day: Window = "02:00-05:00".parse().unwrap();
        let night: Window = "22:30 - 04:00".parse().unwrap();
        let seen = |window: Window, times: [&str; 4]| times.map(|time| window.contains(at(time)));
        let sides = [false, true, true, false];
        assert_eq!(seen(day, ["01:59", "02:00", "04:59", "05:00"]), sides);
        assert_eq!(seen(night, ["22:29", "22:30", "03:59", "04:00"]), sides);
        assert!(night.contains(at("00:00")) && !night.contains(at("12:00")));
        assert_eq!((night.minutes(), night.begins_in(at("22:00"))), (330, 30));
        assert_eq!(night.to_string(), "22:30-04:00");
        for wrong in ["", "02:00", "02:00-02:00", "02:00-25:00", "2-5"] {
            assert_eq!(wrong.parse::<Window>(), Err(NoWindow), "{wrong}");
        }
        let json = serde_json::to_string(&day).unwrap();
        assert_eq!(json, "\"02:00-05:00\"");
        assert_eq!(serde_json::from_str::<Window>(&json).unwrap(), day);
    }
}
