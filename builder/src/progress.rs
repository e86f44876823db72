//! Progress as events: bars on a terminal, plain lines elsewhere, JSON lines
//! with `--json`. All of it goes to stderr, since stdout is for data.

use std::borrow::Cow;
use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::error::{Error, Kind, Result};

/// Set by the signal handler; long work looks at it through [`Progress::check`].
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Notes that the user wants to stop (Ctrl-C, SIGTERM).
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::SeqCst);
}

/// How many pieces of work are under way that would leave something half-written.
static WHOLE: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// As long as it is there, a second Ctrl-C waits, too. For what is short.
#[must_use]
pub struct Whole(());

impl Whole {
    /// Begins a piece of work that is not to be left half-done.
    pub fn begin() -> Self {
        *WHOLE.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        Self(())
    }

    /// Waits until nobody is at such work, and does `then` before anybody begins.
    pub fn when_none<T>(then: impl FnOnce() -> T) -> T {
        let held = WHOLE.0.lock().unwrap_or_else(PoisonError::into_inner);
        let none = WHOLE.1.wait_while(held, |held| *held > 0);
        let _none = none.unwrap_or_else(PoisonError::into_inner);
        then()
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        *WHOLE.0.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        WHOLE.1.notify_all();
    }
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Bars that redraw themselves.
    Bars,
    /// One line for each event.
    Lines,
    /// One JSON object for each event.
    Json,
    /// Nothing but warnings, for tests and libraries.
    Quiet,
}

/// The sink of progress events. Cheap to clone; usable from every thread.
#[derive(Clone)]
pub struct Progress {
    style: Style,
    bars: MultiProgress,
    started: Instant,
}

/// A piece of work with a known or unknown size; ends when dropped.
pub struct Task {
    progress: Progress,
    name: Cow<'static, str>,
    bar: Option<ProgressBar>,
    total: Option<u64>,
    done: Arc<AtomicU64>,
    started: Instant,
}

impl Progress {
    /// JSON if asked for, bars on a terminal, else lines.
    pub fn new(json: bool) -> Self {
        Self::with_style(if json {
            Style::Json
        } else if std::io::stderr().is_terminal() {
            Style::Bars
        } else {
            Style::Lines
        })
    }

    /// A sink of the given style.
    pub fn with_style(style: Style) -> Self {
        Self {
            style,
            bars: MultiProgress::new(),
            started: Instant::now(),
        }
    }

    /// An error of kind [`Kind::Interrupted`] once the user has asked to stop.
    pub fn check(&self) -> Result<()> {
        if INTERRUPTED.load(Ordering::SeqCst) {
            return Err(Error::new(
                Kind::Interrupted,
                "stopped; nothing was half-written",
            ));
        }
        Ok(())
    }

    /// Begins a piece of work. `total` is in bytes where known.
    pub fn task(&self, name: impl Into<Cow<'static, str>>, total: Option<u64>) -> Task {
        let name = name.into();
        let bar = match self.style {
            Style::Bars => Some(self.bars.add(bar(&name, total))),
            Style::Json => {
                self.json(&serde_json::json!({"event": "start", "task": name, "bytes": total}));
                None
            }
            Style::Lines | Style::Quiet => None,
        };
        Task {
            progress: self.clone(),
            name,
            bar,
            total,
            done: Arc::default(),
            started: Instant::now(),
        }
    }

    /// Whether results are wanted as JSON.
    pub fn is_json(&self) -> bool {
        self.style == Style::Json
    }

    /// A line of its own.
    pub fn say(&self, line: &str) {
        match self.style {
            Style::Json => self.json(&serde_json::json!({"event": "message", "text": line})),
            Style::Quiet => {}
            Style::Bars | Style::Lines => self.line(line),
        }
    }

    /// Something the user should know though work goes on.
    pub fn warn(&self, line: &str) {
        match self.style {
            Style::Json => self.json(&serde_json::json!({"event": "warning", "text": line})),
            _ => self.line(&format!("warning: {line}")),
        }
    }

    /// The one place that writes to stdout: what a finished command found or
    /// made, as lines for people or as JSON.
    ///
    /// # Errors
    /// [`Kind::Io`] if stdout is gone.
    pub fn result<T: serde::Serialize + std::fmt::Display>(&self, value: &T) -> Result<()> {
        let text = if self.style == Style::Json {
            serde_json::to_string(value)
                .map_err(|e| Error::new(Kind::Bug, format!("writing the result: {e}")))?
        } else {
            value.to_string()
        };
        writeln!(std::io::stdout().lock(), "{}", text.trim_end())
            .map_err(|e| Error::new(Kind::Io, format!("writing to stdout: {e}")))
    }

    /// The line that a failed command ends with.
    pub fn fail(&self, error: &Error) {
        match self.style {
            Style::Json => self.json(&serde_json::json!({
                "event": "error", "kind": format!("{:?}", error.kind).to_lowercase(),
                "code": error.kind as u8, "text": error.message(), "hint": error.advice(),
            })),
            _ => self.line(&format!("slipway: {error}")),
        }
    }

    fn json(&self, event: &serde_json::Value) {
        self.line(&event.to_string());
    }

    /// A closed stderr must not end a build, so a failed write is left at that.
    fn line(&self, line: &str) {
        self.bars.suspend(|| {
            writeln!(std::io::stderr().lock(), "{line}").unwrap_or_default();
        });
    }
}

impl Task {
    /// Counts `n` more bytes as done.
    pub fn add(&self, n: u64) {
        self.done.fetch_add(n, Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.inc(n);
        }
    }

    /// The sink this task reports to.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        match self.progress.style {
            Style::Bars => {
                if let Some(bar) = &self.bar {
                    bar.finish_and_clear();
                }
                if took > Duration::from_millis(300) {
                    self.progress
                        .line(&format!("{:>7.1}s  {}", took.as_secs_f32(), self.name));
                }
            }
            Style::Lines => self.progress.line(&format!(
                "[{:>6.1}s] {} ({:.1}s)",
                self.progress.started.elapsed().as_secs_f32(),
                self.name,
                took.as_secs_f32()
            )),
            Style::Json => self.progress.json(&serde_json::json!({
                "event": "end", "task": self.name, "bytes": self.total,
                "done": self.done.load(Ordering::Relaxed), "seconds": took.as_secs_f32(),
            })),
            Style::Quiet => {}
        }
    }
}

fn bar(name: &str, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(n) => (
            ProgressBar::new(n),
            "{msg:32} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{msg:32} {spinner} {elapsed}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_is_not_to_be_left_half_done_is_waited_for() {
        let (ended, end) = channel();
        let outer = Whole::begin();
        let inner = Whole::begin();
        let waiting = std::thread::spawn(move || Whole::when_none(|| ended.send("ended").unwrap()));
        drop(inner);
        assert!(end.try_recv().is_err());
        // What is begun meanwhile is waited for, too.
        let late = Whole::begin();
        drop(outer);
        assert!(end.try_recv().is_err());
        drop(late);
        assert_eq!(end.recv().unwrap(), "ended");
        waiting.join().unwrap();
    }
}
