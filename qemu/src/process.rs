//! A process's identity beyond its id: ids are reused, and a record of a machine
//! may be older than the host's last boot. No signal goes to a process whose
//! start time isn't the one that was written down.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::error::{At as _, Error, Result};
use crate::host;

/// Which process, of which boot of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The process id.
    pub pid: i32,
    /// Its start, in clock ticks since the host's boot (`proc_pid_stat(5)`, field 22).
    pub start: u64,
    /// The host's boot id.
    pub boot: String,
}

impl ProcessId {
    /// The identity of a process that is alive now, `None` if it is not.
    ///
    /// # Errors
    /// [`Error::Io`] if `/proc` can't be read.
    pub fn of(pid: i32) -> Result<Option<Self>> {
        let Some(start) = start_time(pid)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            pid,
            start,
            boot: host::boot_id()?,
        }))
    }

    /// A handle that stays with this very process, `None` if it has ended.
    /// Opened before the identity is checked, so that there is no moment in
    /// which the id could pass to another one.
    ///
    /// # Errors
    /// [`Error::Io`] for anything but the process being gone.
    pub fn open(&self) -> Result<Option<Handle>> {
        let doing = || format!("looking at process {}", self.pid);
        if host::boot_id()? != self.boot {
            return Ok(None);
        }
        let Some(pid) = Some(self.pid).filter(|p| *p > 0).and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Ok(None),
            Err(e) => return Err(Error::io(doing(), e)),
        };
        Ok((start_time(self.pid)? == Some(self.start)).then_some(Handle { fd }))
    }

    /// Whether this very process is alive.
    ///
    /// # Errors
    /// As [`ProcessId::open`].
    pub fn is_alive(&self) -> Result<bool> {
        Ok(self.open()?.is_some())
    }
}

/// A hold on one process.
#[derive(Debug)]
pub struct Handle {
    fd: OwnedFd,
}

impl Handle {
    /// Sends a signal; a process that is gone is no error.
    ///
    /// # Errors
    /// [`Error::Io`] if it isn't ours.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(Error::io("sending a signal to QEMU", e)),
        }
    }

    /// Waits for its end; `false` if it still lives after `timeout`.
    ///
    /// # Errors
    /// [`Error::Io`] if waiting itself fails.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, Some(&remaining(deadline))) {
                Ok(n) => return Ok(n > 0),
                Err(Errno::INTR) => {}
                Err(e) => return Err(Error::io("waiting for QEMU", e)),
            }
        }
    }

    /// The descriptor: readable once the process has ended.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

/// What is left until `deadline`, for `poll`.
pub(crate) fn remaining(deadline: Instant) -> Timespec {
    let left = deadline.saturating_duration_since(Instant::now());
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(left.subsec_nanos()),
    }
}

/// The start time of a process, `None` if there is none or it is a zombie.
fn start_time(pid: i32) -> Result<Option<u64>> {
    let path = format!("/proc/{pid}/stat");
    let stat = match fs::read(&path) {
        Ok(stat) => stat,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        // The process ended between open and read.
        Err(e) if e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => return Ok(None),
        Err(e) => return Err(e).at("reading", path),
    };
    match parse_stat(&stat) {
        Some((b'Z' | b'X', _)) => Ok(None),
        Some((_, start)) => Ok(Some(start)),
        None => Err(Error::Corrupt {
            path: path.into(),
            reason: "no state and start time in it".into(),
        }),
    }
}

/// State and start time from `/proc/PID/stat`. The second field is the program's
/// name in parentheses and may hold blanks and parentheses itself.
fn parse_stat(stat: &[u8]) -> Option<(u8, u64)> {
    let after = stat.iter().rposition(|&b| b == b')')? + 1;
    let rest = std::str::from_utf8(stat.get(after..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    // Field 3 was the state; field 22 is the 18th after it.
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_stat_line_is_read_whatever_the_programs_name() {
        let line = b"42 (a) S (b) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21";
        assert_eq!(parse_stat(line), Some((b'R', 777)));
    }

    proptest! {
        #[test]
        fn reading_a_stat_line_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse_stat(&bytes);
        }
    }

    /// A recorded process id that now belongs to a stranger must not be signalled.
    #[test]
    fn a_reused_process_id_is_not_ours() {
        let mut stranger = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let pid = i32::try_from(stranger.id()).unwrap();
        let real = ProcessId::of(pid).unwrap().unwrap();
        assert!(real.is_alive().unwrap());
        let older = ProcessId {
            start: real.start - 1,
            ..real.clone()
        };
        assert!(older.open().unwrap().is_none());
        let other_boot = ProcessId {
            boot: "another".into(),
            ..real.clone()
        };
        assert!(other_boot.open().unwrap().is_none());

        let handle = real.open().unwrap().unwrap();
        assert!(!handle.wait(Duration::from_millis(10)).unwrap());
        handle.signal(Signal::KILL).unwrap();
        assert!(handle.wait(Duration::from_secs(10)).unwrap());
        // Not yet reaped by us, its parent, and already no longer alive.
        assert!(!real.is_alive().unwrap());
        stranger.wait().unwrap();
        assert!(!real.is_alive().unwrap());
        handle.signal(Signal::KILL).unwrap();
    }

    #[test]
    fn nonsense_ids_are_not_alive() {
        for pid in [0, -1, i32::MAX] {
            let process = ProcessId {
                pid,
                start: 1,
                boot: host::boot_id().unwrap(),
            };
            assert!(!process.is_alive().unwrap(), "{pid}");
        }
    }
}
