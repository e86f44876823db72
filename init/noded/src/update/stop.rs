//! A word to an update that is under way: that it is to end.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Why it is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// Nobody wants it any more.
    Stop,
    /// It goes on over another connection: what is written stays as it is.
    MakeWay,
}

/// Whether an update is to end.
#[derive(Debug, Default)]
pub struct Stop {
    told: Mutex<Option<Word>>,
    changed: Condvar,
}

impl Stop {
    fn lock(&self) -> MutexGuard<'_, Option<Word>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says it. Who is stopped makes way for nobody.
    pub fn tell(&self, word: Word) {
        let mut told = self.lock();
        if *told != Some(Word::Stop) {
            *told = Some(word);
        }
        drop(told);
        self.changed.notify_all();
    }

    /// What was said.
    #[must_use]
    pub fn told(&self) -> Option<Word> {
        *self.lock()
    }

    /// An error if anything was said.
    ///
    /// # Errors
    /// That error.
    pub fn check(&self) -> io::Result<()> {
        match self.told() {
            Some(_) => Err(io::Error::other("it was stopped")),
            None => Ok(()),
        }
    }

    /// Waits, but not when it is to end.
    pub fn wait(&self, time: Duration) {
        let guard = self.lock();
        let waited = self
            .changed
            .wait_timeout_while(guard, time, |told| told.is_none());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
