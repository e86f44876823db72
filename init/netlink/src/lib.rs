//! rtnetlink (rtnetlink(7)), as far as PID 1's network and the cluster's overlay use it: the
//! encoding of messages, and a socket for requests. What the messages say is their users'.

mod codec;

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

pub use codec::{
    Builder, HEADER, Message, address, attributes, messages, nested, text, u16_at, u32_at,
};

// Types of messages that every request may be answered with (linux/netlink.h).
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

// Flags of requests (linux/netlink.h).
const REQUEST: u16 = 1;
/// The kernel is to say how it went.
pub const ACK: u16 = 4;
/// An object that is there is replaced.
pub const REPLACE: u16 = 0x100;
/// All objects.
pub const DUMP: u16 = 0x300;
/// An object that is there is an error.
pub const EXCLUSIVE: u16 = 0x200;
/// An object that isn't there is made.
pub const CREATE: u16 = 0x400;

/// A socket for requests.
pub struct Requests {
    socket: Socket,
    sequence: u32,
}

impl Requests {
    /// Opens a socket.
    ///
    /// # Errors
    /// Those of socket(2).
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel answers at once; never hang on it all the same.
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(5))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Begins a request with its fixed part.
    pub fn begin(&mut self, kind: u16, flags: u16, fixed: &[u8]) -> Builder {
        self.sequence += 1;
        Builder::new(kind, REQUEST | flags, self.sequence, fixed)
    }

    /// Sends a change, begun with [`ACK`], and waits for the kernel's verdict.
    ///
    /// # Errors
    /// The kernel's.
    pub fn change(&mut self, message: Builder) -> io::Result<()> {
        self.socket.send(&message.finish(), 0)?;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for message in messages(&bytes) {
                if message.sequence == self.sequence && message.kind == NLMSG_ERROR {
                    return verdict(message.body);
                }
            }
        }
    }

    /// Sends a question, begun with [`DUMP`], and hands each answer of a kind to `each`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn list(
        &mut self,
        question: Builder,
        kind: u16,
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.socket.send(&question.finish(), 0)?;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for message in messages(&bytes) {
                match message.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => verdict(message.body)?,
                    found if found == kind => each(message.body),
                    _ => {}
                }
            }
        }
    }
}

/// What NLMSG_ERROR says: 0 for done, or a negative errno.
fn verdict(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::Error::other("the kernel's answer is cut off")),
    }
}
