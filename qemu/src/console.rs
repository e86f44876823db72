//! The serial console: following its log, and sitting down at it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::argv::{CONSOLE_LOG, CONSOLE_SOCKET};
use crate::error::{At as _, Error, Result};
use crate::process::remaining;
use crate::qmp::connect_below;

/// The key that leaves an attached console: Ctrl-].
pub const DETACH_KEY: u8 = 0x1d;

/// A reader of a log that is being written.
#[derive(Debug)]
pub struct Follow {
    file: File,
    inotify: OwnedFd,
}

impl Follow {
    /// Follows the console's log in a machine's directory, from its beginning or
    /// from its end; makes it if it isn't there yet.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn console(dir: &Path, from_end: bool) -> Result<Self> {
        let path = dir.join(CONSOLE_LOG);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .at("opening", &path)?;
        let inotify =
            inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).at("watching", &path)?;
        inotify::add_watch(&inotify, &path, WatchFlags::MODIFY).at("watching", &path)?;
        file.seek(if from_end {
            SeekFrom::End(0)
        } else {
            SeekFrom::Start(0)
        })
        .at("reading", &path)?;
        Ok(Self { file, inotify })
    }

    /// What has come since the last call, perhaps nothing.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("reading the console's log", e))?;
        Ok(bytes)
    }

    /// Sleeps until something was written, one of `others` is readable, or
    /// `deadline` is there; `true` for each of `others` that is readable.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn wait(&self, others: &[BorrowedFd<'_>], deadline: Instant) -> Result<Vec<bool>> {
        let mut fds = vec![PollFd::new(&self.inotify, PollFlags::IN)];
        fds.extend(others.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, Some(&remaining(deadline))) {
            // A signal came; whoever waits looks at what it changed.
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Error::io("waiting for the console", e)),
        }
        let ready = fds
            .iter()
            .skip(1)
            .map(|fd| !fd.revents().is_empty())
            .collect();
        let mut buffer = [MaybeUninit::uninit(); 512];
        let mut events = inotify::Reader::new(self.inotify.as_fd(), &mut buffer);
        // Only that there were events matters; the file tells the rest.
        while events.next().is_ok() {}
        Ok(ready)
    }
}

/// Makes whole lines of what arrives in pieces, without escape sequences and
/// carriage returns: firmware draws, and a kernel's console is in raw mode.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Takes bytes in and returns the lines they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.pending.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(end) = self.pending.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            lines.push(plain(&line));
        }
        lines
    }
}

/// Text without ANSI escape sequences, carriage returns and other controls, and
/// without blanks at its end.
pub fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            // CSI: parameters, then a final byte in `@` to `~`. Others: one byte.
            '\x1b' => {
                if chars.next() == Some('[') {
                    for c in chars.by_ref() {
                        if ('@'..='~').contains(&c) {
                            break;
                        }
                    }
                }
            }
            '\t' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out.truncate(out.trim_end().len());
    out
}

/// The last `lines` lines of the console's log, made plain.
///
/// # Errors
/// [`Error::Io`] if there is no log.
pub fn tail(dir: &Path, lines: usize) -> Result<String> {
    let path = dir.join(CONSOLE_LOG);
    let bytes = std::fs::read(&path).at("reading", &path)?;
    let all: Vec<String> = bytes.split(|&b| b == b'\n').map(plain).collect();
    let all = match all.split_last() {
        Some((last, rest)) if last.is_empty() => rest,
        _ => &all,
    };
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}

/// Why an attached console ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The user pressed [`DETACH_KEY`], or input ended.
    Detached,
    /// The machine went off.
    MachineOff,
}

/// Joins a terminal (`input`, `output`) and the console of the machine in `dir`.
/// The terminal is raw meanwhile, so that Ctrl-C goes to the guest.
///
/// # Errors
/// [`Error::Io`], also if the machine doesn't run.
pub fn attach(dir: &Path, input: &mut File, output: &mut File) -> Result<Ended> {
    let failed = |e| Error::io("the console", e);
    let mut socket = connect_below(dir, CONSOLE_SOCKET).map_err(|e| {
        Error::io(
            format_args!("connecting to {}", dir.join(CONSOLE_SOCKET).display()),
            e,
        )
    })?;
    let _raw = RawMode::enter(input)?;
    let mut buffer = [0; 4096];
    loop {
        let mut fds = [
            PollFd::new(&*input, PollFlags::IN),
            PollFd::new(&socket, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(e) => return Err(failed(e.into())),
        }
        let [from_user, from_guest] = fds.map(|fd| !fd.revents().is_empty());
        if from_guest {
            match socket.read(&mut buffer) {
                Ok(0) => return Ok(Ended::MachineOff),
                Ok(n) => output
                    .write_all(&buffer[..n])
                    .and_then(|()| output.flush())
                    .map_err(failed)?,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(Ended::MachineOff);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
        if from_user {
            let n = input.read(&mut buffer).map_err(failed)?;
            let typed = &buffer[..n];
            let (typed, leave) = match typed.iter().position(|&b| b == DETACH_KEY) {
                Some(at) => (&typed[..at], true),
                None => (typed, n == 0),
            };
            socket.write_all(typed).map_err(failed)?;
            if leave {
                return Ok(Ended::Detached);
            }
        }
    }
}

/// A terminal in raw mode until dropped; anything else is left alone.
pub struct RawMode {
    saved: Option<(OwnedFd, Termios)>,
}

impl RawMode {
    /// Puts it into raw mode.
    ///
    /// # Errors
    /// [`Error::Io`] if the terminal refuses.
    pub fn enter(terminal: &File) -> Result<Self> {
        let failed = |e: Errno| Error::io("setting up the terminal", e);
        let Ok(saved) = tcgetattr(terminal) else {
            return Ok(Self { saved: None });
        };
        let mut raw = saved.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Flush, &raw).map_err(failed)?;
        let fd = terminal
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| Error::io("setting up the terminal", e))?;
        Ok(Self {
            saved: Some((fd, saved)),
        })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some((fd, saved)) = &self.saved {
            // The terminal may be gone by now.
            tcsetattr(fd, OptionalActions::Flush, saved).unwrap_or_default();
        }
    }
}

/// Waits for a line that holds `text`, reading on in `follow`, and returns it.
/// `gone` is readable once the machine has ended.
///
/// # Errors
/// [`Error::Timeout`], or [`Error::NotRunning`] if the machine ended first.
pub fn wait_for_line(
    follow: &mut Follow,
    lines: &mut Lines,
    text: &str,
    gone: BorrowedFd<'_>,
    timeout: Duration,
) -> Result<String> {
    let deadline = Instant::now() + timeout;
    let mut ended = false;
    loop {
        let new = lines.push(&follow.read()?);
        // Lines after the match are lost to later calls, so cut there.
        if let Some(at) = new.iter().position(|l| l.contains(text)) {
            let mut rest: Vec<u8> = new[at + 1..].join("\n").into_bytes();
            if !rest.is_empty() {
                rest.push(b'\n');
            }
            rest.extend_from_slice(&lines.pending);
            lines.pending = rest;
            return Ok(new[at].clone());
        }
        if ended {
            return Err(Error::Invalid(format!(
                "the machine went off before its console said `{text}`"
            )));
        }
        if Instant::now() >= deadline {
            return Err(Error::Timeout {
                what: format!("`{text}` on the console"),
                after: timeout,
            });
        }
        // What was written last is read once more after the end was seen.
        ended = follow.wait(&[gone], deadline)?.first() == Some(&true);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_are_whole_and_plain() {
        let mut lines = Lines::default();
        assert!(lines.push(b"\x1b[2J\x1b[01;01Hslip").is_empty());
        assert_eq!(lines.push(b"way\r\nready \r\n\x1b"), ["slipway", "ready"]);
        assert_eq!(lines.push(b"[0mnext\n"), ["next"]);
    }

    proptest! {
        #[test]
        fn pieces_make_the_same_lines(
            text in proptest::collection::vec(any::<u8>(), 0..200),
            cut in 0_usize..200,
        ) {
            let mut whole = Lines::default();
            let mut parts = Lines::default();
            let cut = cut.min(text.len());
            let mut pieces = parts.push(&text[..cut]);
            pieces.extend(parts.push(&text[cut..]));
            prop_assert_eq!(whole.push(&text), pieces);
        }
    }

    #[test]
    fn a_growing_log_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let mut follow = Follow::console(dir.path(), false).unwrap();
        let mut log = OpenOptions::new()
            .append(true)
            .open(dir.path().join(CONSOLE_LOG))
            .unwrap();
        assert!(follow.read().unwrap().is_empty());
        let writer = std::thread::spawn(move || log.write_all(b"one\ntwo\n").unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        follow.wait(&[], deadline).unwrap();
        writer.join().unwrap();
        assert_eq!(follow.read().unwrap(), b"one\ntwo\n");
        assert_eq!(tail(dir.path(), 1).unwrap(), "two");
        let mut later = Follow::console(dir.path(), true).unwrap();
        assert!(later.read().unwrap().is_empty());
    }
}
