//! Children of PID 1: spawning them and learning how they ended.
//!
//! PID 1 reaps every process that has lost its parent, with waitpid(-1). So that it does not
//! take away the status somebody else waits for, all children are started under one lock and
//! entered in a table before the reaper can look.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::phase::{Context, Failure};
use crate::sys;

/// Who wants to know how a child ended.
enum Waiter {
    /// A thread waits for it.
    Thread(SyncSender<ExitStatus>),
    /// The main loop gets it from [`Reaper::reap`].
    Loop,
}

/// The table of children.
#[derive(Clone, Default)]
pub struct Reaper(Arc<Mutex<HashMap<i32, Waiter>>>);

impl Reaper {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Waiter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a child whose end [`reap`](Self::reap) reports.
    ///
    /// # Errors
    /// Those of fork(2) and execve(2).
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let mut table = self.lock();
        let child = command.spawn()?;
        table.insert(child.id() as i32, Waiter::Loop);
        Ok(child)
    }

    /// Runs a command to its end and gives its status and its output (both streams).
    /// Needs somebody who calls [`reap`](Self::reap).
    ///
    /// # Errors
    /// When it cannot be started; the command is named.
    pub fn output(&self, command: &mut Command) -> Result<(ExitStatus, String), Failure> {
        self.run(command, None)
    }

    /// As [`output`](Self::output); a command that takes longer than `limit` is killed.
    ///
    /// # Errors
    /// When it cannot be started, or was killed.
    pub fn output_within(
        &self,
        command: &mut Command,
        limit: Duration,
    ) -> Result<(ExitStatus, String), Failure> {
        self.run(command, Some(limit))
    }

    fn run(
        &self,
        command: &mut Command,
        limit: Option<Duration>,
    ) -> Result<(ExitStatus, String), Failure> {
        // Not its environment, where secrets may be.
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
        let what = words.join(" ");
        let (reader, writer) = io::pipe().context(&what)?;
        let (status, receiver) = sync_channel(1);
        let second = writer.try_clone().context(&what)?;
        command
            .stdin(Stdio::null())
            .stdout(OwnedFd::from(writer))
            .stderr(OwnedFd::from(second));
        sys::prepare_child(command, None, None);
        let until = limit.map(|limit| Instant::now() + limit);
        let pid = {
            let mut table = self.lock();
            let child = command.spawn().context(&what)?;
            let pid = child.id() as i32;
            table.insert(pid, Waiter::Thread(status));
            pid
        };
        // Our ends of the pipe are in the command; without them the reading would not end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let ended = read_all(reader, until)
            .context(&what)?
            .and_then(|output| Some((wait(&receiver, until)?, output)));
        let Some((status, output)) = ended else {
            self.kill(pid);
            return Err(Failure(format!("{what}: not done in time, and killed")));
        };
        Ok((status, String::from_utf8_lossy(&output).into_owned()))
    }

    /// Kills a child with what it has started, unless it is reaped already.
    fn kill(&self, pid: i32) {
        // With the lock the number can't become another's meanwhile.
        let table = self.lock();
        if table.contains_key(&pid) {
            // It is a group's leader by `prepare_child`, and may have ended by itself.
            crate::ignore(killpg(Pid::from_raw(pid), Signal::SIGKILL));
        }
    }

    /// Reaps all that have ended, and gives those started with [`spawn`](Self::spawn).
    pub fn reap(&self) -> Vec<(i32, ExitStatus)> {
        let mut ended = Vec::new();
        let mut table = self.lock();
        loop {
            let (pid, raw) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, (code & 0xff) << 8),
                Ok(WaitStatus::Signaled(pid, signal, core)) => {
                    (pid, signal as i32 | if core { 0x80 } else { 0 })
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => break,
            };
            let status = ExitStatus::from_raw(raw);
            match table.remove(&pid.as_raw()) {
                Some(Waiter::Loop) => ended.push((pid.as_raw(), status)),
                // The waiting thread may have given up.
                Some(Waiter::Thread(sender)) => drop(sender.try_send(status)),
                // An orphan.
                None => {}
            }
        }
        ended
    }
}

/// Reads to the end; `None` if that does not come in time.
fn read_all(mut reader: io::PipeReader, until: Option<Instant>) -> io::Result<Option<Vec<u8>>> {
    let mut output = Vec::new();
    let mut part = [0; 4096];
    loop {
        if let Some(until) = until {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) if left < Duration::from_millis(1) => return Ok(None),
                // Rounded down to milliseconds.
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match reader.read(&mut part) {
            Ok(0) => return Ok(Some(output)),
            Ok(length) => output.extend_from_slice(part.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The end of a child; `None` if it does not come in time.
fn wait(receiver: &Receiver<ExitStatus>, until: Option<Instant>) -> Option<ExitStatus> {
    match until {
        None => receiver.recv().ok(),
        Some(until) => {
            let left = until.saturating_duration_since(Instant::now());
            receiver.recv_timeout(left).ok()
        }
    }
}
