//! Boot phases as data, and the runner that walks through them.
//!
//! A phase has a name, a function, a policy for retries, a deadline and what its failure
//! means. The runner prints one line for each:
//! `[3/14] network … 0.41 s`. A deadline that passes reboots the machine: a node that
//! hangs where nobody stands is worse than one that tries again.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use slipway_images::node::Phase as Report;
use slipway_images::node::PhaseResult;

use crate::say;

/// What a phase says when it has failed: one line, with what to do where we know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

impl Failure {
    /// One of all of these, if there are any: where one part's failure doesn't keep the
    /// others from being done.
    ///
    /// # Errors
    /// All of them, in one line.
    pub fn all(failures: impl IntoIterator<Item = Self>) -> Result<(), Self> {
        let all: Vec<String> = failures.into_iter().map(|failure| failure.0).collect();
        match all.is_empty() {
            true => Ok(()),
            false => Err(Self(all.join("; "))),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            let inner_text = inner.to_string();
            if !text.contains(&inner_text) {
                text = format!("{text}: {inner_text}");
            }
            source = inner.source();
        }
        Self(text)
    }
}

/// Makes a [`Failure`] from what was being done and why it failed.
pub trait Context<T> {
    /// Puts `what` before the error.
    ///
    /// # Errors
    /// The same error, now as a [`Failure`].
    fn context(self, what: impl fmt::Display) -> Result<T, Failure>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T, Failure> {
        self.map_err(|e| Failure(format!("{what}: {e}")))
    }
}

/// What to print behind a phase's time; empty for nothing.
pub type Outcome = Result<String, Failure>;

/// What a phase's failure means once the retries are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// The boot goes on; the node is shown as degraded.
    GoOn,
    /// Without it there is no node: reboot.
    Reboot,
}

/// One named step of the boot.
pub struct Phase<C> {
    /// Shown on the console.
    pub name: &'static str,
    /// The work.
    pub run: fn(&mut C) -> Outcome,
    /// How often to try, at least once.
    pub attempts: u32,
    /// Pause between two tries.
    pub pause: Duration,
    /// Longest time for one try.
    pub deadline: Duration,
    /// What a failure means.
    pub on_failure: OnFailure,
}

impl<C> Phase<C> {
    /// A phase that is tried once, has 30 seconds, and whose failure does not stop the boot.
    pub const fn new(name: &'static str, run: fn(&mut C) -> Outcome) -> Self {
        Self {
            name,
            run,
            attempts: 1,
            pause: Duration::ZERO,
            deadline: Duration::from_secs(30),
            on_failure: OnFailure::GoOn,
        }
    }

    /// With so many tries and a pause between.
    #[must_use]
    pub const fn retry(mut self, attempts: u32, pause: Duration) -> Self {
        self.attempts = attempts;
        self.pause = pause;
        self
    }

    /// With this deadline for one try.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Whose failure reboots the machine.
    #[must_use]
    pub const fn essential(mut self) -> Self {
        self.on_failure = OnFailure::Reboot;
        self
    }
}

/// What is being run until when, shared with whoever enforces deadlines and feeds the watchdog.
#[derive(Debug, Clone, Default)]
pub struct Deadline(Arc<Mutex<Option<(&'static str, Instant)>>>);

impl Deadline {
    fn lock(&self) -> MutexGuard<'_, Option<(&'static str, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, value: Option<(&'static str, Instant)>) {
        *self.lock() = value;
    }

    /// The name of the phase whose deadline has passed.
    pub fn passed(&self) -> Option<&'static str> {
        self.lock()
            .and_then(|(name, until)| (Instant::now() >= until).then_some(name))
    }
}

/// How a walk through the phases ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// All were run; these failed and the boot went on.
    Done {
        /// Names of failed phases.
        failed: Vec<&'static str>,
    },
    /// A phase without which there is no node failed.
    Reboot {
        /// Its name.
        phase: &'static str,
    },
}

/// Runs the phases in order. `observe` is told how each try ended.
pub fn run<C>(
    phases: &[Phase<C>],
    context: &mut C,
    deadline: &Deadline,
    observe: impl Fn(Report),
) -> End {
    let count = phases.len();
    let mut failed = Vec::new();
    for (index, phase) in phases.iter().enumerate() {
        let label = format!("[{}/{count}] {}", index + 1, phase.name);
        let mut ok = false;
        for attempt in 1..=phase.attempts.max(1) {
            let started = Instant::now();
            deadline.set(Some((phase.name, started + phase.deadline)));
            let outcome = (phase.run)(context);
            deadline.set(None);
            let took = started.elapsed();
            let seconds = took.as_secs_f64();
            let (result, note) = match &outcome {
                Ok(note) => (PhaseResult::Done, note.clone()),
                Err(failure) if attempt < phase.attempts => {
                    (PhaseResult::Retrying, failure.0.clone())
                }
                Err(failure) => (PhaseResult::Failed, failure.0.clone()),
            };
            observe(Report {
                name: phase.name.to_owned(),
                result,
                milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                note,
            });
            match outcome {
                Ok(note) if note.is_empty() => say!("{label} … {seconds:.2} s"),
                Ok(note) => say!("{label} … {seconds:.2} s, {note}"),
                Err(failure) => {
                    say!("{label} FAILED after {seconds:.2} s: {failure}");
                    if attempt < phase.attempts {
                        say!(
                            "{label}: try {} of {} in {:?}",
                            attempt + 1,
                            phase.attempts,
                            phase.pause
                        );
                        std::thread::sleep(phase.pause);
                    }
                    continue;
                }
            }
            ok = true;
            break;
        }
        if !ok {
            if phase.on_failure == OnFailure::Reboot {
                return End::Reboot { phase: phase.name };
            }
            failed.push(phase.name);
        }
    }
    End::Done { failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Log = Vec<&'static str>;

    fn flaky(log: &mut Log) -> Outcome {
        log.push("flaky");
        if log.len() < 3 {
            return Err(Failure("not yet".into()));
        }
        Ok("at last".into())
    }

    fn bad(log: &mut Log) -> Outcome {
        log.push("bad");
        Err(Failure("broken".into()))
    }

    fn good(log: &mut Log) -> Outcome {
        log.push("good");
        Ok(String::new())
    }

    #[test]
    fn retries_then_goes_on() {
        let phases = [
            Phase::new("flaky", flaky as fn(&mut Log) -> Outcome)
                .retry(5, Duration::from_millis(1)),
            Phase::new("bad", bad),
            Phase::new("good", good),
        ];
        let mut log = Log::new();
        let told = std::cell::RefCell::new(Vec::new());
        let end = run(&phases, &mut log, &Deadline::default(), |report| {
            told.borrow_mut().push((report.result, report.note));
        });
        let retry = (PhaseResult::Retrying, "not yet".to_owned());
        assert_eq!(
            told.into_inner(),
            [
                retry.clone(),
                retry,
                (PhaseResult::Done, "at last".to_owned()),
                (PhaseResult::Failed, "broken".to_owned()),
                (PhaseResult::Done, String::new()),
            ]
        );
        assert_eq!(
            end,
            End::Done {
                failed: vec!["bad"]
            }
        );
        assert_eq!(log, ["flaky", "flaky", "flaky", "bad", "good"]);
    }

    #[test]
    fn an_essential_failure_ends_the_walk() {
        let phases = [
            Phase::new("bad", bad as fn(&mut Log) -> Outcome).essential(),
            Phase::new("good", good),
        ];
        let mut log = Log::new();
        let end = run(&phases, &mut log, &Deadline::default(), |_| {});
        assert_eq!(end, End::Reboot { phase: "bad" });
        assert_eq!(log, ["bad"]);
    }

    #[test]
    fn a_deadline_is_seen_from_outside() {
        fn slow(seen: &mut (Deadline, bool)) -> Outcome {
            let until = Instant::now() + Duration::from_secs(5);
            while Instant::now() < until && !seen.1 {
                seen.1 = seen.0.passed() == Some("slow");
                std::thread::yield_now();
            }
            Ok(String::new())
        }
        let deadline = Deadline::default();
        let mut context = (deadline.clone(), false);
        let phases = [
            Phase::new("slow", slow as fn(&mut (Deadline, bool)) -> Outcome)
                .deadline(Duration::from_millis(5)),
        ];
        run(&phases, &mut context, &deadline, |_| {});
        assert!(context.1);
        assert_eq!(deadline.passed(), None);
    }

    #[test]
    fn failures_keep_the_whole_chain() {
        let error: Result<(), _> = Err(std::io::Error::other("disk full"));
        assert_eq!(
            error.context("writing x").unwrap_err().0,
            "writing x: disk full"
        );
    }
}
