//! Watching a machine start, run and end: its console, the node's readiness,
//! the user's signals and the clock, in one loop.

use std::io::Read as _;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use slipway_access::kubeconfig::Kubeconfig;
use slipway_qemu::console::{Follow, Lines, tail};
use slipway_qemu::vm::PRESS_AGAIN;
use slipway_qemu::{Vm, VmDir};

use super::args::{RunArgs, Started, Until};
use super::ready::Watcher;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// How a node's own lines begin on its console.
const NODE_LINE: &str = "slipway: ";
/// How long a machine may take to power off before it is said that it doesn't.
const POWER_OFF: Duration = Duration::from_secs(120);
/// Console lines shown when something went wrong.
const TAIL: usize = 30;

/// Ctrl-C, SIGTERM and SIGHUP as a readable descriptor, until dropped.
pub struct Signals {
    readable: UnixStream,
    registered: Vec<signal_hook::SigId>,
}

impl Signals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn catch() -> Result<Self> {
        let failed = |e: std::io::Error| Error::new(Kind::Io, format!("catching signals: {e}"));
        let (readable, writable) = UnixStream::pair().map_err(failed)?;
        readable.set_nonblocking(true).map_err(failed)?;
        let mut registered = Vec::new();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let end = writable.try_clone().map_err(failed)?;
            registered.push(signal_hook::low_level::pipe::register(signal, end).map_err(failed)?);
        }
        Ok(Self {
            readable,
            registered,
        })
    }

    /// Readable once one has come.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }

    /// How many came since the last call.
    pub fn take(&mut self) -> usize {
        let mut buffer = [0; 16];
        // "Would block" is: none.
        self.readable.read(&mut buffer).unwrap_or(0)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

/// A machine that was just started, and those who watch it.
pub struct Session<'a> {
    /// Its directory.
    pub dir: &'a VmDir,
    /// It.
    pub vm: Vm,
    /// What to report.
    pub started: Started,
    /// When it was started.
    pub since: SystemTime,
    /// Its console from the moment it was started.
    pub console: Follow,
    /// The console's lines.
    pub lines: Lines,
    /// The user's wish to end.
    pub signals: Signals,
    /// Where lines go.
    pub progress: &'a Progress,
}

/// Why watching ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The node is Ready, and that was what was waited for.
    Ready,
    /// The time is over.
    Elapsed,
    /// The machine went off.
    Off,
    /// The user wants to end.
    Signal,
}

impl Session<'_> {
    /// Watches as long as the arguments say and reports.
    ///
    /// # Errors
    /// [`Kind::Timeout`] if the node isn't Ready in time, [`Kind::Tool`] if the
    /// machine goes off before, [`Kind::Interrupted`] on Ctrl-C while waiting.
    pub fn watch(&mut self, args: &RunArgs) -> Result<ExitCode> {
        if args.detach && args.until.is_none() {
            self.progress.result(&self.started)?;
            return Ok(ExitCode::SUCCESS);
        }
        let deadline = match args.until {
            Some(Until::Ready) => Some(Duration::from_secs(args.timeout.unwrap_or(600))),
            Some(Until::After(time)) => Some(time),
            None => None,
        };
        let end = {
            let _task = (args.until == Some(Until::Ready))
                .then(|| self.progress.task("waiting for the node to be Ready", None));
            self.follow(args, deadline)?
        };
        match end {
            End::Ready => self.finish(args),
            End::Elapsed if matches!(args.until, Some(Until::After(_))) => self.finish(args),
            End::Elapsed => {
                let after = deadline.unwrap_or_default().as_secs();
                let error = Error::new(
                    Kind::Timeout,
                    format!("`{}` was not Ready within {after} s", self.started.name),
                );
                Err(self.give_up(args, error))
            }
            End::Off if args.until == Some(Until::Ready) => {
                self.show_tail();
                Err(Error::new(
                    Kind::Tool,
                    format!("`{}` went off before it was Ready", self.started.name),
                )
                .hint(format!(
                    "the whole console: {}",
                    self.started.console_log.display()
                )))
            }
            End::Off => {
                self.progress
                    .say(&format!("`{}` has powered off", self.started.name));
                Ok(ExitCode::SUCCESS)
            }
            End::Signal => self.interrupted(args),
        }
    }

    /// The loop: console, readiness, signals, the machine's end, the clock.
    fn follow(&mut self, args: &RunArgs, limit: Option<Duration>) -> Result<End> {
        let began = Instant::now();
        let far = Duration::from_secs(3600);
        let mut watcher = match &self.started.kubeconfig {
            None => None,
            Some(path) => {
                let config =
                    Kubeconfig::read(path).map_err(|e| Error::new(Kind::Input, e.to_string()))?;
                Some(Watcher::start(&config, &self.started.name, self.since)?)
            }
        };
        // In the background only what the node itself says.
        let all = !args.detach;
        loop {
            self.show_console(all)?;
            if self.signals.take() > 0 {
                return Ok(End::Signal);
            }
            if self.vm.wait(Duration::ZERO)? {
                self.show_console(all)?;
                return Ok(End::Off);
            }
            let left = limit.map_or(far, |limit| limit.saturating_sub(began.elapsed()));
            if left.is_zero() {
                return Ok(End::Elapsed);
            }
            let mut fds = vec![self.signals.fd(), self.vm.ended_fd()];
            fds.extend(watcher.as_ref().map(Watcher::fd));
            let woken = self.console.wait(&fds, Instant::now() + left)?;
            if woken.get(2) == Some(&true) {
                watcher = None;
                self.note_ready(args)?;
                if args.until == Some(Until::Ready) {
                    return Ok(End::Ready);
                }
            }
        }
    }

    fn note_ready(&mut self, args: &RunArgs) -> Result<()> {
        let after = self.since.elapsed().unwrap_or_default().as_secs_f64();
        self.started.ready_after = Some(after);
        self.started.state = "ready";
        self.progress.say(&format!(
            "node `{}` is Ready after {after:.1} s",
            self.started.name
        ));
        // Whoever doesn't wait for it gets the result now, in the foreground.
        if args.until.is_none() {
            self.progress.result(&self.started)?;
        }
        Ok(())
    }

    /// What was waited for has come.
    fn finish(&mut self, args: &RunArgs) -> Result<ExitCode> {
        if !args.detach {
            self.power_off()?;
            self.started.state = "stopped";
        }
        self.progress.result(&self.started)?;
        Ok(ExitCode::SUCCESS)
    }

    /// What was waited for has not come.
    fn give_up(&mut self, args: &RunArgs, error: Error) -> Error {
        self.show_tail();
        if args.detach {
            return error.hint(format!(
                "it is still running: `slipway console {0}` shows it, `slipway stop {0}` stops it",
                self.started.name
            ));
        }
        if let Err(e) = self.vm.kill() {
            self.progress.warn(&e.to_string());
        }
        error.hint(format!(
            "the whole console: {}",
            self.started.console_log.display()
        ))
    }

    fn interrupted(&mut self, args: &RunArgs) -> Result<ExitCode> {
        if args.detach {
            return Err(Error::new(
                Kind::Interrupted,
                format!("stopped waiting; `{}` is still running", self.started.name),
            )
            .hint(format!("`slipway stop {}` stops it", self.started.name)));
        }
        self.power_off()?;
        if args.until.is_some() {
            return Err(Error::new(
                Kind::Interrupted,
                format!("stopped; `{}` was powered off", self.started.name),
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Presses the power button and waits; another signal pulls the plug.
    fn power_off(&mut self) -> Result<()> {
        let name = self.started.name.clone();
        self.progress.say(&format!("powering `{name}` off"));
        let deadline = Instant::now() + POWER_OFF;
        let mut press = Instant::now();
        loop {
            self.show_console(false)?;
            if self.vm.wait(Duration::ZERO)? {
                self.progress.say(&format!("`{name}` is off"));
                return Ok(());
            }
            if Instant::now() >= press {
                // A guest that is still booting doesn't hear it: again later.
                if let Err(e) = self.vm.press_power_button()
                    && !self.vm.wait(Duration::ZERO)?
                {
                    self.progress.warn(&e.to_string());
                }
                press = Instant::now() + PRESS_AGAIN;
            }
            if self.signals.take() > 0 {
                self.vm.kill()?;
                return Err(Error::new(
                    Kind::Interrupted,
                    format!(
                        "the plug of `{name}` was pulled; its disk will be checked at the next start"
                    ),
                ));
            }
            if Instant::now() >= deadline {
                self.show_tail();
                self.vm.kill()?;
                return Err(Error::new(
                    Kind::Timeout,
                    format!(
                        "`{name}` did not power off within {} s; its plug was pulled",
                        POWER_OFF.as_secs()
                    ),
                ));
            }
            let fds = [self.signals.fd(), self.vm.ended_fd()];
            self.console.wait(&fds, deadline.min(press))?;
        }
    }

    /// Shows the console's new lines: all, or the node's own.
    fn show_console(&mut self, all: bool) -> Result<()> {
        for line in self.lines.push(&self.console.read()?) {
            if all || line.starts_with(NODE_LINE) {
                self.progress.say(&line);
            }
        }
        Ok(())
    }

    fn show_tail(&self) {
        let shown = tail(self.dir.path(), TAIL).unwrap_or_else(|e| e.to_string());
        self.progress.say("--- the console's end ---");
        for line in shown.lines() {
            self.progress.say(line);
        }
        let qemu = self.vm.qemu_log();
        if !qemu.is_empty() {
            self.progress.say(&format!("--- QEMU: {qemu}"));
        }
    }
}
