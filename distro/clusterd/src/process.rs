//! A child process: started with its output captured, watched by a pidfd.

#![expect(
    unsafe_code,
    reason = "pre_exec is the only way to set a death signal for a child"
)]

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::component::Component;
use crate::error::{Context, Error};

/// A running component.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pidfd: OwnedFd,
}

impl Process {
    /// Starts a component in a process group of its own (a Ctrl-C is clusterd's to handle).
    /// Its output is a pipe for the caller to read. It dies with the calling thread, however
    /// that ends: nothing of a killed clusterd is left to hold ports and files.
    pub fn start(component: &Component) -> Result<(Self, std::process::ChildStdout), Error> {
        let action = || format!("start {}", component.program.display());
        let (reader, writer) = std::io::pipe().context(action)?;
        let mut command = Command::new(&component.program);
        command
            .args(&component.arguments)
            .env_clear()
            .envs(
                component
                    .environment
                    .iter()
                    .map(|(key, value)| (key, value)),
            )
            .stdin(Stdio::null())
            .stderr(writer.try_clone().context(action)?)
            .stdout(writer)
            .process_group(0);
        let parent = rustix::process::getpid();
        // SAFETY: between fork and exec only two system calls are made; neither allocates.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may be gone already; then nobody would ever signal.
                if rustix::process::getppid() != Some(parent) {
                    return Err(rustix::io::Errno::SRCH.into());
                }
                Ok(())
            });
        }
        let child = command.spawn().context(action)?;
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).context(action)?;
        let output = OwnedFd::from(reader).into();
        Ok((Self { child, pidfd }, output))
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Readable once the process has ended.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Signals exactly this process, never one that got its number later. One that has
    /// ended is no error.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        match pidfd_send_signal(&self.pidfd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).context(|| format!("signal process {}", self.pid())),
        }
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> Result<ExitStatus, Error> {
        self.child
            .wait()
            .context(|| "wait for a component".to_owned())
    }
}

/// An exit status in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown status".to_owned(),
    }
}
