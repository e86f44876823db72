//! A real `noded` with a root of its own, and clients with real certificates.

#![allow(dead_code, reason = "each test uses a part")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use slipway_access::node_api::{self, Credential, Role};
use slipway_access::pki::CertificateAuthority;
use slipway_images::node::ANY_NODE;

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// The CA of a node's owner and what it has signed.
pub struct Owner {
    pub ca: CertificateAuthority,
    pub operator: Credential,
    pub reader: Credential,
}

impl Owner {
    pub fn new() -> Self {
        Self::valid_from(SystemTime::now() - Duration::from_secs(3600))
    }

    pub fn valid_from(begin: SystemTime) -> Self {
        let ca = CertificateAuthority::generate("nodes", begin).unwrap();
        let now = SystemTime::now().max(begin);
        let issue = |name: &str, role| Credential::issue(&ca, name, role, now).unwrap();
        Self {
            operator: issue("ann", Role::Operator),
            reader: issue("bob", Role::Reader),
            ca,
        }
    }

    /// `slipway.node-api` of a seed.
    pub fn node_api(&self) -> Value {
        let begin = self.ca.info().unwrap().not_before;
        let now = SystemTime::now().max(begin);
        let pair = node_api::serving(&self.ca, "node1", Vec::new(), now).unwrap();
        json!({
            "ca": self.ca.certificate_pem(),
            "certificate": pair.certificate_pem,
            "key": pair.key_pem,
        })
    }

    /// A seed as `init` leaves it.
    pub fn checked_seed(&self) -> String {
        json!({
            "hostname": "node1",
            "node-api": self.node_api(),
            "cluster": { "token": "hunter22secret" },
        })
        .to_string()
    }
}

/// A running `noded`.
pub struct Node {
    pub root: tempfile::TempDir,
    pub address: SocketAddr,
    pub child: Child,
    /// What stands in for `init`, where that isn't `noded` itself.
    pub init: Option<Child>,
    pub log: Arc<Mutex<String>>,
}

impl Node {
    /// With this checked seed, and in a root where the real /proc, /sys and /bin are.
    pub fn start(seed: Option<&str>) -> Self {
        Self::start_in(prepared(seed), &[])
    }

    pub fn start_in(root: tempfile::TempDir, more: &[&str]) -> Self {
        // Takes signals in place of the test machine's own init.
        let init = Command::new("sleep").arg("3600").spawn().unwrap();
        let pid = init.id().to_string();
        let more = [&["--init", &pid], more].concat();
        let command = Command::new(env!("CARGO_BIN_EXE_noded"));
        let mut node = Self::start_by(command, root, &more);
        node.init = Some(init);
        node
    }

    /// One that is ended by its own orders, before they are answered, as by an `init` that
    /// could not be faster.
    pub fn start_as_init(root: tempfile::TempDir) -> Self {
        let mut shell = Command::new("sh");
        let exec = r#"exec "$0" --init $$ "$@""#;
        shell.args(["-c", exec, env!("CARGO_BIN_EXE_noded")]);
        Self::start_by(shell, root, &[])
    }

    fn start_by(mut command: Command, root: tempfile::TempDir, more: &[&str]) -> Self {
        let mut child = command
            .arg("--root")
            .arg(root.path())
            .args(["--listen", "127.0.0.1:0"])
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let address = loop {
            let mut line = String::new();
            assert!(
                lines.read_line(&mut line).unwrap() > 0,
                "{}",
                log.lock().unwrap()
            );
            log.lock().unwrap().push_str(&line);
            if let Some((_, address)) = line.trim().split_once("listening on ") {
                break address.parse().unwrap();
            }
        };
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                kept.lock().unwrap().push_str(&format!("{line}\n"));
            }
        });
        Self {
            root,
            address,
            child,
            init: None,
            log,
        }
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Waits for it to end by itself.
    pub fn ended(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    /// Ends it and gives its root to another.
    pub fn stop(mut self) -> tempfile::TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.root, tempfile::tempdir().unwrap())
    }

    pub fn connect(&self, who: &Credential) -> std::io::Result<Tls> {
        connect(self.address, &who.ca_pem, Some(who))
    }

    /// One request and its answer.
    pub fn ask(&self, who: &Credential, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let mut tls = self.connect(who).unwrap();
        let body = body.map(Value::to_string).unwrap_or_default();
        send(&mut tls, method, path, &body, "connection: close\r\n").unwrap();
        Reply::read(&mut tls).unwrap()
    }

    pub fn get(&self, who: &Credential, path: &str) -> Reply {
        self.ask(who, "GET", path, None)
    }

    /// A line of the process's status in /proc, in KiB.
    pub fn kib(&self, key: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub fn is_well(&self, who: &Credential) {
        let reply = self.get(who, "/v1/status");
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for child in [Some(&mut self.child), self.init.as_mut()] {
            let Some(child) = child else { continue };
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A root with this checked seed.
pub fn prepared(seed: Option<&str>) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for directory in [
        "run/slipway",
        "var/lib/slipway",
        "var/log/slipway",
        "dev",
        "root",
    ] {
        fs::create_dir_all(root.path().join(directory)).unwrap();
    }
    for directory in ["proc", "sys", "bin"] {
        symlink(format!("/{directory}"), root.path().join(directory)).unwrap();
    }
    if let Some(seed) = seed {
        fs::write(root.path().join("run/slipway/seed.json"), seed).unwrap();
    }
    root
}

/// TLS to `address`, as somebody or nobody.
pub fn connect(
    address: SocketAddr,
    ca_pem: &str,
    who: Option<&Credential>,
) -> std::io::Result<Tls> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match who {
        None => builder.with_no_client_auth(),
        Some(who) => {
            let certificate = who.client.certificate_pem.as_bytes();
            let key = PrivateKeyDer::from_pem_slice(who.client.key_pem.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate).unwrap()],
                    key,
                )
                .unwrap()
        }
    };
    let name = ServerName::try_from(ANY_NODE).unwrap();
    let mut session = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(session, stream))
}

pub fn send(
    to: &mut impl Write,
    method: &str,
    path: &str,
    body: &str,
    headers: &str,
) -> std::io::Result<()> {
    let length = body.len();
    write!(
        to,
        "{method} {path} HTTP/1.1\r\nhost: node\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )?;
    to.flush()
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn read(from: &mut impl Read) -> std::io::Result<Self> {
        let mut all = Vec::new();
        match from.read_to_end(&mut all) {
            // rustls calls the end of TCP without close_notify so.
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {}
            Err(e) => return Err(e),
            Ok(_) => {}
        }
        let end = all
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .ok_or_else(|| std::io::Error::other(format!("{} bytes and no head", all.len())))?;
        let body = all.split_off(end + 4);
        let head = String::from_utf8(all).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let chunked = head.contains("transfer-encoding: chunked");
        Ok(Self {
            status,
            body: if chunked { unchunk(&body) } else { body },
            head,
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = body.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&body[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        body = &body[end + 2..];
        out.extend_from_slice(&body[..size.min(body.len())]);
        body = body.get(size + 2..).unwrap_or_default();
        if size == 0 {
            break;
        }
    }
    out
}

/// Looks until it holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A connection of the operator's that goes on in another protocol.
pub fn upgraded(node: &Node, owner: &Owner, path: &str, protocol: &str) -> Tls {
    let mut tls = node.connect(&owner.operator).unwrap();
    let headers = format!("connection: upgrade\r\nupgrade: {protocol}\r\n");
    send(&mut tls, "POST", path, "", &headers).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tls.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    tls
}
