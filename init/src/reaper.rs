//! Children of PID 1: spawning them and learning how they ended.
//!
//! PID 1 reaps every process that has lost its parent, with waitpid(-1). So that it does not
//! take away the status somebody else waits for, all children are started under one lock and
//! entered in a table before the reaper can look.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
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
        let what = format!("{command:?}");
        let (reader, writer) = io::pipe().context(&what)?;
        let (status, receiver) = sync_channel(1);
        let second = writer.try_clone().context(&what)?;
        command
            .stdin(Stdio::null())
            .stdout(OwnedFd::from(writer))
            .stderr(OwnedFd::from(second));
        sys::prepare_child(command, None, None);
        {
            let mut table = self.lock();
            let child = command.spawn().context(&what)?;
            table.insert(child.id() as i32, Waiter::Thread(status));
        }
        // Our ends of the pipe are in the command; without them the reading would not end.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut output = Vec::new();
        let mut reader = reader;
        reader.read_to_end(&mut output).context(&what)?;
        let status = receiver.recv().context(&what)?;
        Ok((status, String::from_utf8_lossy(&output).into_owned()))
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
