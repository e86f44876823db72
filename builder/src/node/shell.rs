//! `slipway node shell`: this terminal becomes the node's.
//!
//! Over a TLS session of its own, since the connection stops to be HTTP: one loop waits for
//! the terminal, the node and a change of the terminal's size.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustls::ClientConnection;
use slipway_images::node::shell::{Frame, PROTOCOL};
use slipway_qemu::console::RawMode;

use super::client::Client;
use super::upgrade::Upgraded;
use crate::error::{Error, Kind, Result};

/// A connection that was upgraded.
struct Session<'a> {
    client: &'a Client,
    tls: ClientConnection,
    stream: TcpStream,
    /// Bytes of frames that came.
    buffer: Vec<u8>,
}

/// Opens a shell and stays in it. The exit status is the shell's.
pub fn run(client: &Client) -> Result<ExitCode> {
    let mut session = Session::open(client)?;
    let terminal = io::stdin().is_terminal();
    let input = File::from(
        io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| Error::new(Kind::Io, format!("taking the terminal: {e}")))?,
    );
    let raw = match terminal {
        true => Some(RawMode::enter(&input)?),
        false => None,
    };
    let status = session.carry(input);
    drop(raw);
    // Exit statuses have eight bits.
    status.map(|status| ExitCode::from(u8::try_from(status & 0xff).unwrap_or(1)))
}

impl<'a> Session<'a> {
    fn open(client: &'a Client) -> Result<Self> {
        let term = std::env::var("TERM").unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-+._".contains(c);
        let term: String = term.chars().filter(|c| plain(*c)).collect();
        let path = format!("/v1/shell?term={term}");
        let Upgraded { tls, stream } = Upgraded::open(client, &path, PROTOCOL)?;
        Ok(Self {
            client,
            tls,
            stream,
            buffer: Vec::new(),
        })
    }

    /// Carries bytes both ways until the shell ends; gives its exit status.
    fn carry(&mut self, mut input: File) -> Result<i32> {
        let lost = |client: &Client, e: &dyn std::fmt::Display| {
            Error::new(Kind::Network, format!("{} broke off: {e}", client.at))
        };
        let failed = |e: io::Error| Error::new(Kind::Io, format!("the terminal: {e}"));
        let client = self.client;
        self.stream.set_nonblocking(true).map_err(failed)?;
        let (mut resized, tell) = UnixStream::pair().map_err(failed)?;
        resized.set_nonblocking(true).map_err(failed)?;
        let signal = signal_hook::low_level::pipe::register(signal_hook::consts::SIGWINCH, tell)
            .map_err(failed)?;
        self.put(window())?;
        let mut open = true;
        let result = loop {
            while self.tls.wants_write() {
                match self.tls.write_tls(&mut self.stream) {
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                    Err(e) => return Err(lost(client, &e)),
                }
            }
            let mut wanted = PollFlags::IN;
            if self.tls.wants_write() {
                wanted |= PollFlags::OUT;
            }
            let ready = {
                let mut fds = vec![
                    PollFd::new(&self.stream, wanted),
                    PollFd::new(&resized, PollFlags::IN),
                ];
                if open {
                    fds.push(PollFd::new(&input, PollFlags::IN));
                }
                match poll(&mut fds, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(e) => return Err(failed(e.into())),
                }
                let is = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
                [is(0), is(1), is(2)]
            };
            if ready[0]
                && let Some(status) = self.receive()?
            {
                break status;
            }
            if ready[1] {
                // "Would block" when it was for nothing.
                drop(resized.read(&mut [0; 16]));
                self.put(window())?;
            }
            if ready[2] {
                let mut part = [0; 4096];
                match input.read(&mut part).map_err(failed)? {
                    0 => {
                        open = false;
                        // As a terminal says that this is the end.
                        self.put(Some(Frame::Bytes(vec![4])))?;
                    }
                    n => self.put(part.get(..n).map(|p| Frame::Bytes(p.to_vec())))?,
                }
            }
        };
        signal_hook::low_level::unregister(signal);
        Ok(result)
    }

    fn put(&mut self, frame: Option<Frame>) -> Result<()> {
        let Some(frame) = frame else {
            return Ok(());
        };
        self.tls
            .writer()
            .write_all(&frame.encode())
            .map_err(|e| Error::new(Kind::Io, format!("to {}: {e}", self.client.at)))
    }

    /// Takes what came; the exit status once the shell has ended.
    fn receive(&mut self) -> Result<Option<i32>> {
        let lost = |why: &dyn std::fmt::Display| {
            Error::new(
                Kind::Network,
                format!("{} broke off: {why}", self.client.at),
            )
        };
        let ended = match self.tls.read_tls(&mut self.stream) {
            Ok(n) => n == 0,
            Err(e) if e.kind() == ErrorKind::WouldBlock => false,
            Err(e) => return Err(lost(&e)),
        };
        let state = self.tls.process_new_packets().map_err(|e| lost(&e))?;
        let mut plain = vec![0; state.plaintext_bytes_to_read()];
        self.tls
            .reader()
            .read_exact(&mut plain)
            .map_err(|e| lost(&e))?;
        self.buffer.extend(plain);
        let mut out = io::stdout().lock();
        while let Some(frame) = Frame::take(&mut self.buffer).map_err(|e| lost(&e))? {
            match frame {
                Frame::Bytes(bytes) => out
                    .write_all(&bytes)
                    .map_err(|e| Error::new(Kind::Io, format!("writing to stdout: {e}")))?,
                Frame::Exit(status) => return Ok(Some(status)),
                Frame::Size { .. } => {}
            }
        }
        out.flush()
            .map_err(|e| Error::new(Kind::Io, format!("writing to stdout: {e}")))?;
        match ended {
            true => Err(lost(&"the connection ended before the shell")),
            false => Ok(None),
        }
    }
}

/// This terminal's size; none without one.
fn window() -> Option<Frame> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    Some(Frame::Size {
        columns: size.ws_col,
        rows: size.ws_row,
    })
}
