//! Ports of the host: which are free, and which shall stand for "any".

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};

use crate::error::{Error, Result};
use crate::machine::{Forward, Protocol};

/// A free TCP port of loopback, from the kernel's range for such requests. It
/// stays free only as long as nobody else asks, so use it soon.
///
/// # Errors
/// [`Error::Io`] if the kernel has none left.
pub fn free() -> Result<u16> {
    listen(Protocol::Tcp, Ipv4Addr::LOCALHOST, 0)
        .map(|held| held.port)
        .map_err(|e| Error::io("looking for a free port", e))
}

/// Whether QEMU could listen on this port now.
pub fn is_free(protocol: Protocol, address: Ipv4Addr, port: u16) -> bool {
    listen(protocol, address, port).is_ok()
}

/// Gives every forward with host port 0 a free one and checks the others.
///
/// # Errors
/// [`Error::PortInUse`] for a port that somebody listens on; [`Error::Invalid`]
/// if two forwards want the same one.
pub fn settle(forwards: &mut [Forward]) -> Result<()> {
    // Held until all are settled, so that no port is given out twice.
    let mut held = Vec::new();
    let mut seen = HashSet::new();
    for forward in forwards.iter().filter(|f| f.host != 0) {
        if !seen.insert((forward.protocol, forward.host)) {
            return Err(Error::Invalid(format!(
                "host port {} is forwarded twice",
                forward.host
            )));
        }
    }
    for forward in forwards {
        match listen(forward.protocol, forward.address, forward.host) {
            Ok(one) => {
                forward.host = one.port;
                held.push(one);
            }
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                return Err(Error::PortInUse {
                    address: forward.address,
                    port: forward.host,
                });
            }
            Err(e) => {
                return Err(Error::io(
                    format_args!("listening on {}:{}", forward.address, forward.host),
                    e,
                ));
            }
        }
    }
    Ok(())
}

/// A port that is ours until dropped.
struct Held {
    port: u16,
    _socket: Socket,
}

enum Socket {
    Tcp { _listener: TcpListener },
    Udp { _socket: UdpSocket },
}

fn listen(protocol: Protocol, address: Ipv4Addr, port: u16) -> io::Result<Held> {
    let wanted = SocketAddrV4::new(address, port);
    Ok(match protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(wanted)?;
            Held {
                port: listener.local_addr()?.port(),
                _socket: Socket::Tcp {
                    _listener: listener,
                },
            }
        }
        Protocol::Udp => {
            let socket = UdpSocket::bind(wanted)?;
            Held {
                port: socket.local_addr()?.port(),
                _socket: Socket::Udp { _socket: socket },
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let forward: Forward = format!("{port}:80").parse().unwrap();
        match settle(&mut [forward]) {
            Err(Error::PortInUse { port: named, .. }) => assert_eq!(named, port),
            other => panic!("{other:?}"),
        }
        drop(taken);
        settle(&mut [forward]).unwrap();
    }

    #[test]
    fn any_port_becomes_a_different_one_each() {
        let mut forwards: Vec<Forward> = ["0:80", "0:81", "0:82/udp"]
            .iter()
            .map(|f| f.parse().unwrap())
            .collect();
        settle(&mut forwards).unwrap();
        assert!(forwards.iter().all(|f| f.host != 0));
        assert_ne!(forwards[0].host, forwards[1].host);
    }

    #[test]
    fn one_host_port_leads_to_one_guest_port() {
        let port = free().unwrap();
        let mut forwards = [
            format!("{port}:80").parse().unwrap(),
            format!("{port}:81").parse().unwrap(),
        ];
        assert!(matches!(settle(&mut forwards), Err(Error::Invalid(_))));
    }
}
