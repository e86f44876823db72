//! The hardware watchdog (Documentation/watchdog/watchdog-api.rst): once opened it reboots
//! the machine unless it is fed. Fed from PID 1's main loop, so that a PID 1 that hangs, or a
//! kernel that does, ends in a reboot.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{Duration, Instant};

use crate::{say, sys};

const TIMEOUT: i32 = 60;
/// So often within its time-out, which some hardware has shorter.
const MEALS: u32 = 4;

/// The armed watchdog.
pub struct Watchdog {
    file: File,
    fed: Instant,
    every: Duration,
}

impl Watchdog {
    /// Arms the first watchdog; `None` where there is none.
    pub fn arm() -> Option<Self> {
        let path = ["/dev/watchdog0", "/dev/watchdog"]
            .into_iter()
            .find(|p| std::path::Path::new(p).exists())?;
        let file = match OpenOptions::new().write(true).open(path) {
            Ok(file) => file,
            Err(error) => {
                say!("{path}: {error}");
                return None;
            }
        };
        // Refused where the hardware's is fixed, or shorter.
        let seconds = sys::watchdog_timeout(&file, TIMEOUT)
            .or_else(|_| sys::watchdog_own_timeout(&file))
            .map(|seconds| seconds.clamp(1, TIMEOUT));
        match &seconds {
            Ok(seconds) => say!("watchdog armed, {seconds} s"),
            Err(error) => say!("watchdog armed with a time-out of its own ({error})"),
        }
        let seconds = seconds.map_or(1, i32::unsigned_abs);
        let mut watchdog = Self {
            file,
            fed: Instant::now(),
            every: Duration::from_secs(seconds.into()) / MEALS,
        };
        watchdog.feed();
        Some(watchdog)
    }

    fn feed(&mut self) {
        self.fed = Instant::now();
        if let Err(error) = self.file.write_all(b"1") {
            say!("feeding the watchdog: {error}");
        }
    }

    /// When it wants food next.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.fed + self.every
    }

    /// Feeds it when due.
    pub fn tick(&mut self, now: Instant) {
        if now >= self.due() {
            self.feed();
        }
    }

    /// Feeds it a last time and leaves it armed: a shutdown that hangs ends in a reset.
    pub fn leave_armed(mut self) {
        self.feed();
        // Not closed: some drivers stop on a close without the magic character.
        std::mem::forget(self.file);
    }

    /// Disarms it, before the power goes off.
    pub fn disarm(mut self) {
        if let Err(error) = self.file.write_all(b"V") {
            say!("disarming the watchdog: {error}");
        }
    }
}
