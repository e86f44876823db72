//! A shell on a terminal of its own: with `local_time`, the place for `unsafe` here.
#![expect(
    unsafe_code,
    reason = "a controlling terminal is set between fork and exec"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::pty::{Winsize, openpty};
use slipway_init::sys;
use tokio::io::unix::AsyncFd;

/// A running shell and the terminal's other side.
pub struct Shell {
    /// The process, leader of its session.
    pub child: Child,
    /// The terminal's other side, non-blocking.
    pub master: File,
}

/// Starts `command` on a new terminal, as the leader of a session that it controls.
///
/// # Errors
/// Those of openpty(3), fork(2) and execve(2).
pub fn start(mut command: Command) -> io::Result<Shell> {
    let pty = openpty(None, None)?;
    // The child gets the other side through its standard streams only.
    fcntl(
        &pty.master,
        FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )?;
    fcntl(
        &pty.slave,
        FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )?;
    fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let slave = |pty: &OwnedFd| pty.try_clone().map(Stdio::from);
    command
        .stdin(slave(&pty.slave)?)
        .stdout(slave(&pty.slave)?)
        .stderr(slave(&pty.slave)?);
    // A session of its own, and not noded's protection from the killer of large processes.
    sys::prepare_child(&mut command, None, Some(0));
    let control = || {
        // SAFETY: no pointers; async-signal-safe. Standard input is the terminal by now.
        match unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one async-signal-safe call and allocates nothing.
    unsafe { command.pre_exec(control) };
    let child = command.spawn()?;
    Ok(Shell {
        child,
        master: File::from(pty.master),
    })
}

/// The terminal's other side, to be waited for.
///
/// # Errors
/// When it can't be watched.
pub fn watch(master: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` gives the same open descriptor until it is dropped, after the `AsyncFd`.
    unsafe { AsyncFd::register(master) }.map_err(io::Error::from)
}

/// Tells the terminal its size; what runs in it gets a SIGWINCH.
///
/// # Errors
/// Those of ioctl(2).
pub fn resize(master: &File, columns: u16, rows: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the kernel reads one winsize.
    match unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
