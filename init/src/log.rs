//! Lines for the console and the kernel's log, without ever blocking.
//!
//! A serial console may be slow, stopped by flow control or absent. Lines go through a
//! bounded queue to a thread; when the queue is full they are counted and dropped.
//! The kernel's own console output is turned down to errors by the mounts phase, so that a
//! line that is also in /dev/kmsg does not appear twice.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::consoles::Consoles;

enum Item {
    Line(String),
    /// Not for the kernel's log.
    ConsoleOnly(String),
    /// Where lines go from now on, if not to the console.
    Move(Option<PathBuf>),
    Flush(SyncSender<()>),
}

static QUEUE: OnceLock<SyncSender<Item>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Says one line, as `slipway: ...`, on the console and in the kernel's log.
#[macro_export]
macro_rules! say {
    ($($arg:tt)*) => { $crate::log::line(format_args!($($arg)*)) };
}

/// Starts the thread that writes. Before this, lines go to stderr.
///
/// # Errors
/// When no thread can be made.
pub fn start() -> std::io::Result<()> {
    let (sender, receiver) = sync_channel(512);
    if QUEUE.set(sender).is_err() {
        return Ok(());
    }
    std::thread::Builder::new()
        .name("console".into())
        .spawn(move || write_lines(&receiver))
        .map(drop)
}

/// Queues one line; see [`say!`](crate::say).
pub fn line(text: fmt::Arguments<'_>) {
    let text = clean(&text.to_string());
    match QUEUE.get() {
        Some(queue) => {
            if queue.try_send(Item::Line(text)).is_err() {
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        None => {
            // A tool such as `modprobe`, or a test: stderr is whoever called us.
            drop(writeln!(std::io::stderr(), "slipway: {text}"));
        }
    }
}

/// Queues a line for the console alone: what the kernel's log has in other words.
pub fn console_only(text: &str) {
    if let Some(queue) = QUEUE.get()
        && queue.try_send(Item::ConsoleOnly(clean(text))).is_err()
    {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Has the console's lines go to another terminal from now on, or to the console again.
pub fn move_to(terminal: Option<PathBuf>) {
    if let Some(queue) = QUEUE.get()
        && queue.try_send(Item::Move(terminal)).is_err()
    {
        say!("the log stays on its terminal: it is too slow");
    }
}

/// Opens a terminal for writing without waiting, and without becoming its session's.
///
/// # Errors
/// Those of open(2).
pub fn open_terminal(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)
}

/// Waits until the lines queued so far are written, at most `limit`.
pub fn flush(limit: Duration) {
    if let Some(queue) = QUEUE.get() {
        let (done, wait) = sync_channel(1);
        if queue.try_send(Item::Flush(done)).is_ok() {
            // Either it is done or the console is stuck; both end the waiting.
            crate::ignore(wait.recv_timeout(limit));
        }
    }
}

/// Outside text must not move the cursor or forge lines: control characters become spaces.
fn clean(text: &str) -> String {
    text.trim_end()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(1000)
        .collect()
}

fn write_lines(receiver: &Receiver<Item>) {
    let mut sinks = Sinks {
        console: None,
        terminal: None,
        kmsg: None,
    };
    while let Ok(item) = receiver.recv() {
        let dropped = match item {
            Item::Line(_) | Item::ConsoleOnly(_) => DROPPED.swap(0, Ordering::Relaxed),
            Item::Flush(_) | Item::Move(_) => 0,
        };
        if dropped > 0 {
            let note = format!("({dropped} lines dropped: the console is too slow)");
            sinks.kmsg(&note);
            sinks.console(&note);
        }
        match item {
            Item::Line(text) => {
                sinks.kmsg(&text);
                sinks.console(&text);
            }
            Item::ConsoleOnly(text) => sinks.console(&text),
            Item::Move(terminal) => {
                sinks.terminal = terminal;
                sinks.console = None;
            }
            // The waiter may have given up already.
            Item::Flush(done) => crate::ignore(done.try_send(())),
        }
    }
}

/// Where lines go. There is no device before devtmpfs is mounted: opening is tried again with
/// each line.
struct Sinks {
    console: Option<File>,
    /// If not the console.
    terminal: Option<PathBuf>,
    kmsg: Option<File>,
}

impl Sinks {
    fn kmsg(&mut self, text: &str) {
        if self.kmsg.is_none() {
            self.kmsg = OpenOptions::new().write(true).open("/dev/kmsg").ok();
        }
        if let Some(file) = &mut self.kmsg {
            // <14>: facility user, level info.
            let lost = file.write_all(format!("<14>slipway: {text}\n").as_bytes());
            if lost.is_err() {
                self.kmsg = None;
            }
        }
    }

    fn console(&mut self, text: &str) {
        if self.console.is_none() {
            let root = Path::new("/");
            let terminal = self.terminal.clone();
            let terminal = terminal.unwrap_or_else(|| root.join(Consoles::read(root).device()));
            self.console = open_terminal(&terminal).ok();
        }
        if let Some(file) = &mut self.console {
            let lost = write_patiently(file, format!("slipway: {text}\r\n").as_bytes());
            if lost.is_err() {
                self.console = None;
            }
        }
    }
}

/// Writes to a non-blocking file, waiting at most two seconds for it to take all. What it
/// doesn't take is lost.
///
/// # Errors
/// Those of write(2) and poll(2).
pub fn write_patiently(file: &mut File, mut bytes: &[u8]) -> std::io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(2);
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(n) => bytes = bytes.get(n..).unwrap_or_default(),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(());
                }
                let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                poll(
                    &mut fds,
                    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
                )?;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_text_cannot_forge_lines() {
        assert_eq!(clean("a\nslipway: b\x1b[2J\r\n"), "a slipway: b [2J");
    }

    #[test]
    fn a_full_pipe_does_not_block() {
        let (_reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        let mut file = File::from(writer);
        let started = Instant::now();
        write_patiently(&mut file, &vec![b'x'; 1 << 20]).unwrap();
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
