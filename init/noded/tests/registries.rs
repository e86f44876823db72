//! `slipway.registries` of an applied seed, followed by containerd's own client (`ctr`, whose
//! parser and resolver are containerd's) against a registry on loopback with TLS.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests may panic"
)]

mod common;

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use common::{Node, Owner};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};
use slipway_access::pki::{CertificateAuthority, Leaf};

const MANIFEST: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
/// `node` and `pa:ss`.
const BASIC: &str = "Basic bm9kZTpwYTpzcw==";
const BEARER: &str = "Bearer from-the-realm";

/// How a registry wants to be convinced.
#[derive(Clone, Copy)]
enum Wants {
    Nothing,
    Basic,
    /// A token, which it gives for a name and a password.
    Token,
}

/// Serves one manifest, under any name.
struct Registry {
    host: String,
    ca: CertificateAuthority,
    /// Targets of the requests that were answered with the manifest.
    served: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    fn start(wants: Wants) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let now = SystemTime::now();
        let ca = CertificateAuthority::generate("registry", now).unwrap();
        let leaf = Leaf::server("registry", Vec::new(), vec!["127.0.0.1".parse().unwrap()]);
        let pair = ca.issue(&leaf, now).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![CertificateDer::from_pem_slice(pair.certificate_pem.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap(),
            )
            .unwrap();
        let (config, served) = (Arc::new(config), Arc::<Mutex<Vec<String>>>::default());
        let (told, own) = (Arc::clone(&served), host.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let tls = ServerConnection::new(Arc::clone(&config)).unwrap();
                // Who doesn't trust the certificate hangs up.
                drop(answer(StreamOwned::new(tls, stream), wants, &own, &told));
            }
        });
        Self { host, ca, served }
    }

    fn served(&self) -> Vec<String> {
        std::mem::take(&mut self.served.lock().unwrap())
    }
}

fn answer<S: Read + Write>(
    stream: S,
    wants: Wants,
    host: &str,
    served: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let line = head.lines().next().unwrap_or_default();
    let target = line.split(' ').nth(1).unwrap_or_default();
    let given = head.lines().find_map(|l| l.strip_prefix("Authorization: "));
    let (wanted, challenge) = match wants {
        Wants::Nothing => (None, String::new()),
        Wants::Basic => (Some(BASIC), "Basic realm=\"registry\"".to_owned()),
        Wants::Token => (
            Some(BEARER),
            format!("Bearer realm=\"https://{host}/token\",service=\"registry\""),
        ),
    };
    let (status, extra, body) = if target.starts_with("/token") {
        match given == Some(BASIC) {
            true => ("200 OK", String::new(), r#"{"token":"from-the-realm"}"#),
            false => ("403 Forbidden", String::new(), "{}"),
        }
    } else if wanted.is_none() || given == wanted {
        served.lock().unwrap().push(target.to_owned());
        let kind = "Content-Type: application/vnd.oci.image.index.v1+json\r\n";
        ("200 OK", kind.to_owned(), MANIFEST)
    } else {
        let header = format!("WWW-Authenticate: {challenge}\r\n");
        ("401 Unauthorized", header, "{}")
    };
    let length = body.len();
    let body = if line.starts_with("HEAD ") { "" } else { body };
    let stream = stream.get_mut();
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{extra}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )?;
    stream.flush()
}

/// A node whose seed is changed, and containerd's client on it.
struct Bench {
    owner: Owner,
    node: Node,
    ctr: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let components = std::env::var_os("SLIPWAY_COMPONENTS")
            .expect("SLIPWAY_COMPONENTS must name what `slipway components` made");
        let owner = Owner::new();
        let node = Node::start(Some(&owner.checked_seed()));
        let ctr = Path::new(&components).join("ctr");
        Self { owner, node, ctr }
    }

    fn apply(&self, registries: &Value) {
        let seed = json!({
            "hostname": "node1",
            "slipway": { "node-api": self.owner.node_api(), "registries": registries },
        });
        let files = json!({ "user-data": format!("#cloud-config\n{seed:#}\n") });
        let reply = self
            .node
            .ask(&self.owner.operator, "PUT", "/v1/seed", Some(&files));
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    fn fetch(&self, image: &str) -> Output {
        Command::new(&self.ctr)
            .args(["content", "fetch-object", "--hosts-dir"])
            .arg(self.node.at("etc/containerd/certs.d"))
            .arg(image)
            .output()
            .unwrap()
    }

    fn gets(&self, image: &str) {
        let out = self.fetch(image);
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(String::from_utf8_lossy(&out.stdout), MANIFEST, "{said}");
    }

    fn is_refused(&self, image: &str, why: &str) {
        let out = self.fetch(image);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && said.contains(why), "{said}");
    }
}

#[test]
#[ignore = "needs SLIPWAY_COMPONENTS"]
fn credentials_and_cas_open_registries_at_once() {
    let bench = Bench::new();
    for wants in [Wants::Basic, Wants::Token] {
        let registry = Registry::start(wants);
        let image = format!("{}/a/b:c", registry.host);
        let other = CertificateAuthority::generate("other", SystemTime::now()).unwrap();
        let entry = |ca: &CertificateAuthority, password: &str| {
            json!({ (registry.host.clone()): {
                "ca": ca.certificate_pem(), "username": "node", "password": password,
            } })
        };
        bench.apply(&entry(&other, "pa:ss"));
        bench.is_refused(&image, "certificate signed by unknown authority");
        bench.apply(&entry(&registry.ca, "wrong"));
        bench.is_refused(&image, "");
        assert_eq!(registry.served(), [""; 0]);
        bench.apply(&entry(&registry.ca, "pa:ss"));
        bench.gets(&image);
        assert!(!registry.served().is_empty());
        // Taken back.
        bench.apply(&json!({}));
        bench.is_refused(&image, "");
    }
}

#[test]
#[ignore = "needs SLIPWAY_COMPONENTS"]
fn mirrors_are_asked_in_their_order_with_what_is_theirs() {
    let bench = Bench::new();
    let (first, second) = (
        Registry::start(Wants::Token),
        Registry::start(Wants::Nothing),
    );
    let mirrors = json!([
        format!("https://{}/v2/proxy", first.host),
        format!("https://{}", second.host),
    ]);
    let seed = |password: &str| {
        json!({
            "docker.io": { "mirrors": mirrors, "ca": second.ca.certificate_pem() },
            "*": { "mirrors": [mirrors[1]], "ca": second.ca.certificate_pem() },
            (first.host.clone()): {
                "ca": first.ca.certificate_pem(), "username": "node", "password": password,
            },
        })
    };
    bench.apply(&seed("pa:ss"));
    bench.gets("docker.io/library/a:b");
    let asked = first.served();
    assert!(
        asked
            .iter()
            .all(|target| target.starts_with("/v2/proxy/library/a/manifests/")),
        "{asked:?}"
    );
    assert!(!asked.is_empty() && second.served().is_empty());
    // The first lets nobody in: the next one is asked.
    bench.apply(&seed("wrong"));
    bench.gets("docker.io/library/a:b");
    let asked = second.served();
    assert!(
        asked
            .iter()
            .all(|t| t.starts_with("/v2/library/a/manifests/")),
        "{asked:?}"
    );
    assert!(!asked.is_empty() && first.served().is_empty());
    // One without an entry of its own, which is nowhere.
    bench.gets("nowhere.invalid/a/b:c");
    assert!(!second.served().is_empty());
}
