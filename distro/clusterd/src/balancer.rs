//! The API's load balancer on an agent: listens on loopback where a server has its API, and
//! passes connections on to a server that takes them. Which servers there are, it learns from
//! the cluster, and remembers for the next start.
//!
//! It passes bytes on and sees none of them in clear: who talks through it does TLS with the server.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use slipway_access::durable;

use crate::access::Access;
use crate::board::{Board, Facts};
use crate::error::{Context, Error, read_if_there};
use crate::log::info;
use crate::options::Config;

/// For a server's answer to a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Connections at once. A node has some ten.
const MOST: usize = 256;
/// For two ends of a connection; each only copies.
const STACK: usize = 64 << 10;
/// Longest life of a watch.
const WATCH: Duration = Duration::from_secs(300);
/// A server's port, where the seed gives none.
const PORT: u16 = 6443;
/// The service `kubernetes`: where API servers are.
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// Who is asked, best first.
#[derive(Debug)]
pub struct Balancer {
    /// The seed's, `HOST` or `HOST:PORT`.
    seeded: Vec<String>,
    /// The cluster's.
    learned: Mutex<BTreeSet<SocketAddr>>,
    /// Who took the last connection.
    good: Mutex<Option<SocketAddr>>,
    connections: AtomicUsize,
}

impl Balancer {
    /// Begins to listen.
    pub fn start(config: &Config) -> Result<Arc<Self>, Error> {
        let port = config.tuning.ports.api;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .context(|| format!("listen on port {port}"))?;
        let balancer = Arc::new(Self {
            seeded: config.seed.cluster.servers.clone(),
            learned: Mutex::new(remembered(config)?),
            good: Mutex::new(None),
            connections: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&balancer);
        std::thread::Builder::new()
            .name("balancer".to_owned())
            .spawn(move || accepting.accept(&listener))
            .context(|| "start the thread balancer".to_owned())?;
        Ok(balancer)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            let client = match listener.accept() {
                Ok((client, _)) => client,
                Err(error) => {
                    // Of the process or the system, as too many open files.
                    info!("balancer: {error}");
                    std::thread::sleep(CONNECT);
                    continue;
                }
            };
            if self.connections.load(Ordering::Relaxed) >= MOST {
                info!("balancer: {MOST} connections; another is refused");
                continue;
            }
            self.connections.fetch_add(1, Ordering::Relaxed);
            let own = Arc::clone(self);
            let started = std::thread::Builder::new()
                .name("balanced".to_owned())
                .stack_size(STACK)
                .spawn(move || {
                    if let Err(error) = own.pass(client) {
                        info!("balancer: {error}");
                    }
                    own.connections.fetch_sub(1, Ordering::Relaxed);
                });
            if let Err(error) = started {
                info!("balancer: {error}");
                self.connections.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Passes a connection on until one side has ended it.
    fn pass(&self, client: TcpStream) -> Result<(), Error> {
        let server = self.connect()?;
        let action = || "pass on a connection".to_owned();
        // A server that vanishes without a word is noticed by its clients' own pings.
        for stream in [&client, &server] {
            stream.set_nodelay(true).context(action)?;
        }
        let (mut from, mut to) = (
            client.try_clone().context(action)?,
            server.try_clone().context(action)?,
        );
        let up = std::thread::Builder::new()
            .name("balanced".to_owned())
            .stack_size(STACK)
            .spawn(move || copy(&mut from, &mut to))
            .context(action)?;
        let (mut from, mut to) = (server, client);
        copy(&mut from, &mut to);
        if up.join().is_err() {
            info!("balancer: a thread panicked");
        }
        Ok(())
    }

    fn connect(&self) -> Result<TcpStream, Error> {
        let good = *self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = None;
        let mut tried = BTreeSet::new();
        for address in good.into_iter().chain(self.candidates()) {
            if !tried.insert(address) {
                continue;
            }
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => {
                    *self.good.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
                    return Ok(stream);
                }
                Err(error) => last = Some((address, error)),
            }
        }
        *self.good.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Err(match last {
            Some((address, source)) => Error::Io {
                action: format!("reach any of {} servers, last {address}", tried.len()),
                source,
            },
            None => Error::Io {
                action: format!("find a server: {}", self.seeded.join(", ")),
                source: io::Error::other("none of these names has an address now"),
            },
        })
    }

    /// Where servers may be: as the seed says, then as the cluster does.
    pub fn candidates(&self) -> Vec<SocketAddr> {
        let seeded = self.seeded.iter().flat_map(|server| addresses(server));
        let learned = self.learned.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<SocketAddr> = seeded.collect();
        all.extend(
            learned
                .iter()
                .filter(|address| !all.contains(address))
                .copied()
                .collect::<Vec<_>>(),
        );
        all
    }

    /// Follows where API servers are, until everything ends.
    pub fn learn(&self, config: &Config, access: &Access, board: &Board) {
        let selector = "labelSelector=kubernetes.io%2Fservice-name%3Dkubernetes";
        while board.wait(Facts::api_serves) {
            let result = access.client().and_then(|client| {
                client.follow(SLICES, selector, WATCH, |slices| {
                    let found: BTreeSet<_> = slices.values().flat_map(endpoints).collect();
                    if let Err(error) = self.remember(config, found) {
                        info!("balancer: {error}");
                    }
                    !board.facts().stopping
                })
            });
            if let Err(error) = result
                && !error.is_transient()
            {
                info!("balancer: {error}");
            }
            if !board.pause(Duration::from_secs(1)) {
                return;
            }
        }
    }

    fn remember(&self, config: &Config, found: BTreeSet<SocketAddr>) -> Result<(), Error> {
        // A cluster without any answered just now: what is known is better.
        if found.is_empty() {
            return Ok(());
        }
        let path = config.paths.config("servers.json");
        let text = serde_json::to_vec(&found)
            .map_err(io::Error::from)
            .context(|| format!("write {}", path.display()))?;
        durable::write_if_changed(&path, &text, 0o600)
            .context(|| format!("write {}", path.display()))?;
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(())
    }
}

/// What an earlier start has learned. A damaged file is as good as none.
fn remembered(config: &Config) -> Result<BTreeSet<SocketAddr>, Error> {
    let bytes = read_if_there(&config.paths.config("servers.json"))?.unwrap_or_default();
    Ok(serde_json::from_slice(&bytes).unwrap_or_default())
}

/// The addresses behind `HOST` or `HOST:PORT`.
fn addresses(server: &str) -> Vec<SocketAddr> {
    if let Ok(address) = server.parse() {
        return vec![SocketAddr::new(address, PORT)];
    }
    let found = match server.rsplit_once(':') {
        Some(_) => server.to_socket_addrs(),
        None => (server, PORT).to_socket_addrs(),
    };
    found.map(Iterator::collect).unwrap_or_default()
}

fn endpoints(slice: &Value) -> Vec<SocketAddr> {
    let ports = slice["ports"].as_array().into_iter().flatten();
    let port = ports
        .filter(|port| port["name"] == "https")
        .find_map(|port| port["port"].as_u64()?.try_into().ok())
        .unwrap_or(PORT);
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter(|endpoint| endpoint["conditions"]["ready"] != false)
        .flat_map(|endpoint| endpoint["addresses"].as_array().into_iter().flatten())
        .filter_map(|address| Some(SocketAddr::new(address.as_str()?.parse().ok()?, port)))
        .collect()
}

/// Copies until the end, and passes the end on. Errors are ends: the other side learns of them
/// the same way.
fn copy(from: &mut TcpStream, to: &mut TcpStream) {
    let copied = io::copy(from, to);
    let end = if copied.is_ok() {
        Shutdown::Write
    } else {
        Shutdown::Both
    };
    // Whichever is gone already has been told.
    drop(to.shutdown(end));
    if copied.is_err() {
        drop(from.shutdown(Shutdown::Both));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use serde_json::json;

    use super::*;

    /// A server that answers with its letter and ends.
    fn server(letter: u8) -> (SocketAddr, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            stream.read_to_end(&mut asked).unwrap();
            stream.write_all(&[letter, asked[0]]).unwrap();
        });
        (address, thread)
    }

    fn ask(port: u16) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.write_all(b"?").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        // Where nobody is behind it the connection is reset.
        drop(stream.read_to_end(&mut answer));
        answer
    }

    #[test]
    fn a_server_that_is_gone_is_passed_over() {
        let directory = tempfile::tempdir().unwrap();
        let mut config = crate::component::tests::config(true);
        config.paths = crate::paths::Paths::new(directory.path());
        config.paths.create().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        config.tuning.ports.api = port;
        let gone = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let (first, first_ends) = server(b'a');
        config.seed.cluster.servers = vec![gone.to_string(), first.to_string()];
        let balancer = Balancer::start(&config).unwrap();
        assert_eq!(ask(port), b"a?");
        first_ends.join().unwrap();
        // Nobody is there: the connection ends, and the next is tried anew.
        assert_eq!(ask(port), b"");
        let (second, second_ends) = server(b'b');
        balancer
            .remember(&config, BTreeSet::from([second]))
            .unwrap();
        assert_eq!(ask(port), b"b?");
        second_ends.join().unwrap();
        assert_eq!(remembered(&config).unwrap(), BTreeSet::from([second]));
        balancer.remember(&config, BTreeSet::new()).unwrap();
        assert_eq!(remembered(&config).unwrap(), BTreeSet::from([second]));
    }

    #[test]
    fn servers_are_hosts_with_or_without_ports_and_what_the_cluster_says() {
        let text = |server: &str| {
            let all = addresses(server);
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(text("192.0.2.1"), ["192.0.2.1:6443"]);
        assert_eq!(text("192.0.2.1:7"), ["192.0.2.1:7"]);
        assert_eq!(text("2001:db8::1"), ["[2001:db8::1]:6443"]);
        assert_eq!(text("[2001:db8::1]:7"), ["[2001:db8::1]:7"]);
        assert!(text("localhost").contains(&"127.0.0.1:6443".to_owned()));
        assert!(text("nowhere.invalid").is_empty());
        let slice = json!({
            "ports": [{"name": "https", "port": 6444}],
            "endpoints": [
                {"addresses": ["192.0.2.1"]},
                {"addresses": ["192.0.2.2"], "conditions": {"ready": false}},
            ],
        });
        assert_eq!(endpoints(&slice), ["192.0.2.1:6444".parse().unwrap()]);
        assert!(endpoints(&json!({})).is_empty());
    }
}
