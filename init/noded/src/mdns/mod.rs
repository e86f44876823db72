//! How a node is found: multicast DNS (RFC 6762) and DNS-SD (RFC 6763), announcing
//! `_slipway._tcp` and `NAME.local`.
//!
//! Own code, since what was measured (`docs/dependencies.md`) grows with what strangers send
//! and answers those who aren't on the network. [`packet`] is the form on the wire, [`records`]
//! what the node owns, [`responder`] the protocol without sockets and clocks, [`spot`] what
//! it says at one [`place`], [`links`] where the node is on networks, [`socket`] a place's
//! socket. Here is the task that joins them.

pub mod links;
pub mod packet;
pub mod place;
pub mod records;
pub mod responder;
pub mod socket;
pub mod spot;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slipway_access::durable;
use slipway_images::node::ApiInfo;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until};

use crate::notice;
use crate::paths::Paths;
use place::{Interface, Place};
use records::Facts;
use responder::Responder;
use spot::Output;

/// How often interfaces are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Messages that are read at a place in a second; others wait in the kernel's buffer, which
/// drops what it has no room for.
const MESSAGES: u32 = 200;

/// A message that has come.
type Heard = (Place, SocketAddr, Vec<u8>);

/// The socket of a place, and the task that reads it.
struct Open {
    socket: Arc<UdpSocket>,
    reader: AbortHandle,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

struct Sockets {
    heard: mpsc::Sender<Heard>,
    open: BTreeMap<Place, Open>,
    /// Places without a socket; it is said once.
    failed: Vec<Place>,
}

impl Sockets {
    /// Opens and closes sockets, so that each place has one.
    fn follow(&mut self, interfaces: &[Interface]) {
        let places: BTreeMap<Place, &str> = interfaces
            .iter()
            .flat_map(|i| i.places().into_iter().map(|place| (place, i.name.as_str())))
            .collect();
        self.open.retain(|place, _| places.contains_key(place));
        self.failed.retain(|place| places.contains_key(place));
        for (place, name) in places {
            if self.open.contains_key(&place) {
                continue;
            }
            match socket::open(place, name).and_then(UdpSocket::from_std) {
                Ok(socket) => {
                    let socket = Arc::new(socket);
                    let read = read(place, Arc::clone(&socket), self.heard.clone());
                    let reader = tokio::spawn(read).abort_handle();
                    self.open.insert(place, Open { socket, reader });
                    self.failed.retain(|failed| *failed != place);
                }
                Err(error) if !self.failed.contains(&place) => {
                    let family = if place.v6 { "IPv6" } else { "IPv4" };
                    notice!("multicast DNS on {name} ({family}): {error}");
                    self.failed.push(place);
                }
                Err(_) => {}
            }
        }
    }

    /// Sends without waiting. What is lost is asked for again.
    fn send(&self, outputs: Vec<Output>) {
        for Output { place, to, bytes } in outputs {
            if let Some(open) = self.open.get(&place) {
                let to = to.unwrap_or_else(|| socket::group(place));
                drop(open.socket.try_send_to(&bytes, to));
            }
        }
    }
}

/// Reads a place's messages, not too many at a time.
async fn read(place: Place, socket: Arc<UdpSocket>, heard: mpsc::Sender<Heard>) {
    let mut buffer = vec![0; packet::LARGEST + 1];
    let (mut since, mut count) = (Instant::now(), 0);
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((n, from)) => {
                let message = buffer.get(..n).unwrap_or_default().to_vec();
                if heard.send((place, from, message)).await.is_err() {
                    return;
                }
            }
            // An interface that went away, for one; the socket will be closed.
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
        count += 1;
        let second = Duration::from_secs(1);
        if since.elapsed() >= second {
            (since, count) = (Instant::now(), 0);
        } else if count >= MESSAGES {
            sleep(second.saturating_sub(since.elapsed())).await;
            (since, count) = (Instant::now(), 0);
        }
    }
}

/// Announces the node until it is told to end, if others can reach it at all. What it is
/// found by is kept in a file for PID 1's status page.
pub async fn run(
    paths: Paths,
    machine: String,
    mut facts: watch::Receiver<Facts>,
    mut leaving: watch::Receiver<bool>,
    reachable: bool,
) {
    let first = facts.borrow_and_update().clone();
    let mut responder = Responder::new(&machine, first);
    tell_pid_1(&paths, &responder, &facts.borrow());
    let (heard, mut hear) = mpsc::channel(16);
    let mut sockets = Sockets {
        heard,
        open: BTreeMap::new(),
        failed: Vec::new(),
    };
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = responder.next();
        let until = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        let outputs = tokio::select! {
            Some((place, from, message)) = hear.recv() => {
                responder.receive(place, from, &message, Instant::now())
            }
            () = sleep_until(until.into()), if due.is_some() => responder.tick(Instant::now()),
            _ = look.tick(), if reachable => {
                let interfaces = links::interfaces(&paths);
                let outputs = responder.set_interfaces(&interfaces, Instant::now());
                sockets.follow(&interfaces);
                outputs
            }
            Ok(()) = facts.changed() => {
                let now = facts.borrow_and_update().clone();
                tell_pid_1(&paths, &responder, &now);
                responder.set_facts(now, Instant::now());
                Vec::new()
            }
            _ = leaving.wait_for(|leaving| *leaving) => {
                sockets.send(responder.goodbye());
                return;
            }
        };
        sockets.send(outputs);
        let news = responder.take_news();
        if !news.is_empty() {
            tell_pid_1(&paths, &responder, &facts.borrow());
        }
        for line in news {
            notice!("{line}");
        }
    }
}

/// Says for the status page who the API is. Without it the page lacks a line.
fn tell_pid_1(paths: &Paths, responder: &Responder, facts: &Facts) {
    let info = ApiInfo {
        port: facts.port,
        fingerprint: facts.advert.fingerprint.clone(),
        mdns_name: format!("{}.local", responder.label()),
    };
    let path = paths.api_info();
    let written = serde_json::to_vec(&info)
        .map_err(std::io::Error::from)
        .and_then(|json| durable::write(&path, &json, 0o644));
    if let Err(error) = written {
        notice!("{}: {error}", path.display());
    }
}
