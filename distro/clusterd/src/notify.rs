//! Telling the service manager (sd_notify(3)): datagrams to `NOTIFY_SOCKET`.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A line to the service manager, or to nobody.
#[derive(Debug)]
pub struct Notify(Option<(UnixDatagram, SocketAddr)>);

impl Notify {
    /// As the environment says.
    pub fn from_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
            return Self(None);
        };
        let address = match name.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(&name),
        };
        let opened = address.and_then(|address| Ok((UnixDatagram::unbound()?, address)));
        match opened {
            Ok(opened) => Self(Some(opened)),
            Err(error) => {
                crate::log::info!("can't reach the service manager at {name:?}: {error}");
                Self(None)
            }
        }
    }

    /// Sends a line, such as `READY=1`.
    pub fn send(&self, line: &str) {
        if let Some((socket, address)) = &self.0
            && let Err(error) = socket.send_to_addr(line.as_bytes(), address)
        {
            crate::log::info!("can't tell the service manager {line:?}: {error}");
        }
    }
}
