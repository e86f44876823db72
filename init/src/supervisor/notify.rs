//! sd_notify(3): services say on a datagram socket how they are.
//!
//! Understood: `READY=1`, `STATUS=text`, `WATCHDOG=1`, `STOPPING=1`; other assignments are
//! ignored. Each service has a socket of its own, and the kernel says which process sent.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt::PassCred,
};

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// `READY=1`.
    pub ready: bool,
    /// `WATCHDOG=1`.
    pub watchdog: bool,
    /// `STOPPING=1`.
    pub stopping: bool,
    /// `STATUS=`, one line.
    pub status: Option<String>,
}

/// Parses a datagram.
pub fn parse(bytes: &[u8]) -> Message {
    let mut message = Message::default();
    for line in String::from_utf8_lossy(bytes).lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => message.ready = true,
            Some(("WATCHDOG", "1")) => message.watchdog = true,
            Some(("STOPPING", "1")) => message.stopping = true,
            Some(("STATUS", text)) => message.status = Some(text.trim().to_owned()),
            _ => {}
        }
    }
    message
}

/// The socket of one service.
pub struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl NotifySocket {
    /// Makes the socket at `path`; what lies there is replaced.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let socket = UnixDatagram::bind(path)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, PassCred, &true)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
        })
    }

    /// Where it is, for `NOTIFY_SOCKET`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The socket, for poll(2).
    pub fn socket(&self) -> &UnixDatagram {
        &self.socket
    }

    /// The next message and the process that sent it; `None` when there is none.
    pub fn receive(&self) -> Option<(i32, Message)> {
        let mut buffer = [0u8; 4096];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut space = cmsg_space!(UnixCredentials);
        let received = recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .ok()?;
        let pid = received.cmsgs().ok()?.find_map(|c| match c {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
            _ => None,
        })?;
        let length = received.bytes;
        Some((pid, parse(buffer.get(..length)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages() {
        let m = parse(b"READY=1\nSTATUS=node Ready, 3 pods\nMAINPID=7\n");
        assert!(m.ready && !m.watchdog);
        assert_eq!(m.status.as_deref(), Some("node Ready, 3 pods"));
        assert!(parse(b"WATCHDOG=1").watchdog && parse(b"STOPPING=1").stopping);
        assert_eq!(parse(b"READY=0"), Message::default());
    }

    #[test]
    fn the_sender_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/notify");
        let socket = NotifySocket::bind(&path).unwrap();
        assert!(socket.receive().is_none());
        UnixDatagram::unbound()
            .unwrap()
            .send_to(b"READY=1", &path)
            .unwrap();
        let (pid, message) = socket.receive().unwrap();
        assert_eq!(pid, std::process::id() as i32);
        assert!(message.ready);
        drop(NotifySocket::bind(&path).unwrap());
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&bytes);
        }
    }
}
