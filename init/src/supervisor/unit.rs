//! One service: its state and what may happen to it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use slipway_images::service::{KillMode, Ready, Service};

use super::{Capture, HEALTHY, Message, NotifySocket, Paths, SOCKET_POLL};
use crate::reaper::Reaper;
use crate::{files, say, sys};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a service stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Needs others, or a condition, first.
    Waiting,
    /// Runs, and is not ready yet.
    Starting {
        /// Its process.
        pid: i32,
        /// When it was started.
        since: Instant,
    },
    /// Runs and is ready.
    Ready {
        /// Its process.
        pid: i32,
        /// Since when it is ready.
        since: Instant,
        /// When it last gave a sign of life.
        last_sign: Instant,
    },
    /// Has ended and will be started again.
    Backoff {
        /// When.
        until: Instant,
    },
    /// Was told to end.
    Stopping {
        /// Its process.
        pid: i32,
        /// When it is killed.
        until: Instant,
    },
    /// Has ended for good.
    Stopped,
}

/// A service with its state.
pub struct Unit {
    /// As in its file.
    pub service: Service,
    /// Where it stands.
    pub state: State,
    /// The last `STATUS=` it gave.
    pub status: String,
    /// Whether `status` has not been shown yet.
    pub status_is_new: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// Where it says how it is.
    pub(super) notify: NotifySocket,
    delay: Duration,
    /// Whether it was told to end.
    told_to_stop: bool,
    capture: Capture,
    cgroup: Option<PathBuf>,
}

impl Unit {
    pub(super) fn new(service: Service, paths: &Paths) -> io::Result<Self> {
        let name = &service.name;
        Ok(Self {
            notify: NotifySocket::bind(&paths.notify.join(name))?,
            capture: Capture::start(name, &paths.logs)?,
            cgroup: paths.cgroup.as_ref().map(|c| c.join(name)),
            delay: service.restart_delay,
            told_to_stop: false,
            state: State::Waiting,
            status: String::new(),
            status_is_new: false,
            restarts: 0,
            service,
        })
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<i32> {
        match self.state {
            State::Starting { pid, .. }
            | State::Ready { pid, .. }
            | State::Stopping { pid, .. } => Some(pid),
            State::Waiting | State::Backoff { .. } | State::Stopped => None,
        }
    }

    /// Its notify socket, for poll(2).
    pub fn socket(&self) -> &std::os::unix::net::UnixDatagram {
        self.notify.socket()
    }

    /// When something is due without anything else happening.
    pub(super) fn next_event(&self, now: Instant) -> Option<Instant> {
        match self.state {
            State::Starting { since, .. } => Some(match self.service.ready {
                Ready::Socket(_) => now + SOCKET_POLL,
                _ => since + self.service.start_timeout,
            }),
            State::Ready { last_sign, .. } => self.service.watchdog.map(|w| last_sign + w),
            State::Backoff { until } | State::Stopping { until, .. } => Some(until),
            State::Waiting | State::Stopped => None,
        }
    }

    fn command(&self) -> io::Result<Command> {
        let mut argv = self.service.command.iter();
        let program = argv.next().map_or("", String::as_str);
        let mut command = Command::new(program);
        command
            .args(argv)
            .current_dir("/")
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", "/root")
            .envs(&self.service.environment)
            .stdin(Stdio::null())
            .stdout(OwnedFd::from(self.capture.writer()?))
            .stderr(OwnedFd::from(self.capture.writer()?));
        if self.service.ready == Ready::Notify || self.service.watchdog.is_some() {
            command.env("NOTIFY_SOCKET", self.notify.path());
        }
        if let Some(limit) = self.service.watchdog {
            command.env("WATCHDOG_USEC", limit.as_micros().to_string());
        }
        let procs = self.group_procs()?;
        sys::prepare_child(&mut command, procs, Some(self.service.oom_score_adj));
        Ok(command)
    }

    /// Makes its cgroup, with limits, and opens the file through which a process joins.
    fn group_procs(&self) -> io::Result<Option<File>> {
        let Some(group) = &self.cgroup else {
            return Ok(None);
        };
        fs::create_dir_all(group)?;
        for (file, value) in [
            ("memory.high", &self.service.memory_high),
            ("memory.max", &self.service.memory_max),
        ] {
            if let Some(value) = value
                && let Err(error) = files::write_existing(group.join(file), value)
            {
                say!("{}: {file} = {value}: {error}", self.service.name);
            }
        }
        let procs = OpenOptions::new()
            .write(true)
            .open(group.join("cgroup.procs"))?;
        Ok(Some(procs))
    }

    pub(super) fn start(&mut self, reaper: &Reaper, now: Instant) {
        let name = self.service.name.clone();
        self.told_to_stop = false;
        let started = self
            .command()
            .and_then(|mut command| reaper.spawn(&mut command));
        match started {
            Ok(child) => {
                let pid = child.id() as i32;
                self.capture.note(&format!("started, pid {pid}"));
                self.state = State::Starting { pid, since: now };
                say!("{name}: started");
                if self.service.ready == Ready::Started {
                    self.state = State::Ready {
                        pid,
                        since: now,
                        last_sign: now,
                    };
                }
            }
            Err(error) => {
                let program = self.service.command.first().map_or("", String::as_str);
                self.fail(&format!("cannot start {program}: {error}"), now);
            }
        }
    }

    pub(super) fn ready(&mut self, now: Instant) {
        if let State::Starting { pid, since } = self.state {
            let seconds = now.duration_since(since).as_secs_f64();
            say!("{}: ready after {seconds:.1} s", self.service.name);
            self.state = State::Ready {
                pid,
                since: now,
                last_sign: now,
            };
        }
    }

    pub(super) fn say_status(&mut self, status: String) {
        if status != self.status {
            self.status = status;
            self.status_is_new = true;
        }
    }

    pub(super) fn notified(&mut self, message: &Message, now: Instant) {
        if let Some(status) = &message.status {
            self.say_status(status.clone());
        }
        if message.ready {
            self.ready(now);
        }
        if let State::Ready { last_sign, .. } = &mut self.state {
            *last_sign = now;
        }
    }

    pub(super) fn stop(&mut self, now: Instant) {
        if let Some(pid) = self.pid() {
            self.told_to_stop = true;
            self.state = State::Stopping {
                pid,
                until: now + self.service.stop_timeout,
            };
            self.signal(pid, Signal::SIGTERM);
        }
    }

    /// Kills it; its end comes through [`exited`](Self::exited).
    pub(super) fn kill(&mut self) {
        if let Some(pid) = self.pid() {
            self.signal(pid, Signal::SIGKILL);
            // Not again with the next tick.
            let far = Instant::now() + Duration::from_secs(3600);
            match &mut self.state {
                State::Stopping { until, .. } => *until = far,
                state => *state = State::Stopping { pid, until: far },
            }
        }
    }

    fn signal(&self, pid: i32, signal: Signal) {
        // It is our child and not reaped yet, so the number is still its own.
        if let Err(error) = kill(Pid::from_raw(pid), signal) {
            say!("{}: {signal}: {error}", self.service.name);
        }
    }

    /// Kills what is left in its group.
    fn clear_group(&self) {
        if self.service.kill_mode == KillMode::Group
            && let Some(group) = &self.cgroup
            && let Err(error) = files::write_existing(group.join("cgroup.kill"), "1")
        {
            say!("{}: clearing its cgroup: {error}", self.service.name);
        }
    }

    pub(super) fn exited(&mut self, status: ExitStatus, stopping: bool, now: Instant) {
        if let State::Ready { since, .. } = self.state
            && now.duration_since(since) >= HEALTHY
        {
            self.delay = self.service.restart_delay;
        }
        self.clear_group();
        let how = describe(status);
        self.capture.note(&how);
        if stopping || self.told_to_stop {
            self.state = match stopping {
                true => State::Stopped,
                false => State::Waiting,
            };
            say!("{}: stopped", self.service.name);
            return;
        }
        self.fail(&how, now);
    }

    fn fail(&mut self, reason: &str, now: Instant) {
        let name = &self.service.name;
        let delay = self.delay;
        say!(
            "{name}: {reason}; again in {delay:?}. Log: {}",
            self.capture.path().display()
        );
        for line in self.capture.tail() {
            say!("{name}| {line}");
        }
        self.state = State::Backoff { until: now + delay };
        self.delay = (delay * 2).min(self.service.restart_delay_max);
        self.restarts += 1;
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => format!("ended by {signal}"),
            Err(_) => format!("ended by signal {signal}"),
        },
        (None, None) => "ended".to_owned(),
    }
}
