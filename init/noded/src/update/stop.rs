//! A word to an update that is under way: that it is to end.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Whether an update is to end.
#[derive(Debug, Default)]
pub struct Stop {
    told: Mutex<bool>,
    changed: Condvar,
    /// What it may be reading from.
    stream: Option<UnixStream>,
}

impl Stop {
    /// One for an update that reads from `stream`, which is closed with the word.
    #[must_use]
    pub fn closing(stream: UnixStream) -> Self {
        Self {
            stream: Some(stream),
            ..Self::default()
        }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says it.
    pub fn tell(&self) {
        *self.lock() = true;
        self.changed.notify_all();
        if let Some(stream) = &self.stream {
            // Closed already by the other side: the same.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// Whether it was said.
    #[must_use]
    pub fn is_told(&self) -> bool {
        *self.lock()
    }

    /// An error if it was said.
    ///
    /// # Errors
    /// That error.
    pub fn check(&self) -> io::Result<()> {
        match self.is_told() {
            true => Err(io::Error::other("it was stopped")),
            false => Ok(()),
        }
    }

    /// Waits, but not when it is to end.
    pub fn wait(&self, time: Duration) {
        let guard = self.lock();
        let waited = self.changed.wait_timeout_while(guard, time, |told| !*told);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
