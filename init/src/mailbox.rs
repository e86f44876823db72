//! Messages from threads to the main loop, which sleeps in poll(2).

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::net::News;
use crate::phase::{End, Report};

/// What threads tell the main loop.
#[derive(Debug)]
pub enum Event {
    /// Something about the network.
    Net(News),
    /// The clock has been set from a server.
    TimeSet,
    /// The power button was pressed.
    PowerButton,
    /// A device of this subsystem has appeared.
    Device(String),
    /// A condition for services holds.
    Condition(&'static str),
    /// A condition for services holds no more.
    ConditionGone(&'static str),
    /// A phase was tried.
    Phase(Report),
    /// Whether the console is to have a status page.
    StatusPage(bool),
    /// Services may start.
    StartServices {
        /// Whether `/var` is there; without it only those that need none of it.
        data: bool,
    },
    /// The slot that runs was on trial and has failed; why.
    TrialFailed(String),
    /// The phases are through.
    Booted(End),
}

/// The sending end.
#[derive(Clone)]
pub struct Mailbox {
    sender: Sender<Event>,
    wake: Arc<EventFd>,
}

/// The receiving end.
pub struct Inbox {
    receiver: Receiver<Event>,
    wake: Arc<EventFd>,
}

/// Makes a pair.
///
/// # Errors
/// Those of eventfd(2).
pub fn mailbox() -> std::io::Result<(Mailbox, Inbox)> {
    let (sender, receiver) = channel();
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let wake = Arc::new(EventFd::from_flags(flags)?);
    let inbox = Inbox {
        receiver,
        wake: Arc::clone(&wake),
    };
    Ok((Mailbox { sender, wake }, inbox))
}

impl Mailbox {
    /// Sends and wakes the loop.
    pub fn send(&self, event: Event) {
        // The loop lives as long as the machine; a full counter means it is awake anyway.
        crate::ignore(self.sender.send(event));
        crate::ignore(self.wake.write(1));
    }
}

impl Inbox {
    /// What poll(2) waits on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// All that has come.
    pub fn take(&self) -> Vec<Event> {
        crate::ignore(self.wake.read());
        self.receiver.try_iter().collect()
    }
}
