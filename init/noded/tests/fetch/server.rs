//! A web server that does as it is told, over HTTP or HTTPS.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use slipway_access::pki::KeyCertificate;

/// What is sent for a path.
pub enum Reply {
    Text(String),
    Status(u16),
    Redirect(String),
    /// As it stands, and the connection is closed.
    Raw(Vec<u8>),
    /// Nothing; the connection stays open.
    Silence,
}

type Answer = dyn Fn(&str, usize) -> Reply + Send + Sync;

pub struct Server {
    pub address: SocketAddr,
    tls: bool,
    /// Paths that were asked for.
    asked: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    answer: Box<Answer>,
    tls: Option<Arc<ServerConfig>>,
    asked: Arc<Mutex<Vec<String>>>,
    over: Arc<AtomicBool>,
}

impl Server {
    /// One that answers by path, and how often that was asked for before.
    pub fn http(answer: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Box::new(answer), None)
    }

    pub fn https(
        pair: &KeyCertificate,
        answer: impl Fn(&str, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let certificate = CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Self::start(Box::new(answer), Some(Arc::new(config)))
    }

    fn start(answer: Box<Answer>, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let shared = Arc::new(Shared {
            answer,
            tls: tls.clone(),
            asked: Arc::clone(&asked),
            over: Arc::clone(&over),
        });
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                if shared.over.load(Ordering::Acquire) {
                    return;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.serve(connection));
            }
        });
        Self {
            address,
            tls: tls.is_some(),
            asked,
            over,
            thread: Some(thread),
        }
    }

    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}/", self.address)
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// Nobody listens there any more.
impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        drop(TcpStream::connect(self.address));
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Shared {
    fn serve(&self, connection: TcpStream) {
        match &self.tls {
            None => self.talk(connection),
            Some(config) => {
                let tls = ServerConnection::new(Arc::clone(config)).unwrap();
                self.talk(StreamOwned::new(tls, connection));
            }
        }
    }

    fn talk(&self, connection: impl Read + Write) {
        let mut connection = BufReader::new(connection);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            // A client that has hung up, or refuses the certificate.
            match connection.read_line(&mut head) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let before = {
            let mut asked = self.asked.lock().unwrap();
            let before = asked.iter().filter(|p| **p == path).count();
            asked.push(path.clone());
            before
        };
        let bytes = match (self.answer)(&path, before) {
            Reply::Text(text) => format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            )
            .into_bytes(),
            Reply::Status(status) => format!(
                "HTTP/1.1 {status} Told\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            .into_bytes(),
            Reply::Redirect(to) => format!(
                "HTTP/1.1 302 Told\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            .into_bytes(),
            Reply::Raw(bytes) => bytes,
            Reply::Silence => {
                // Until the client gives up.
                drop(connection.read(&mut [0]));
                return;
            }
        };
        // The client may have had enough.
        drop(connection.get_mut().write_all(&bytes));
        drop(connection.get_mut().flush());
    }
}
