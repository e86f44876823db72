//! HTTPS to a node, by an address and under the name that its certificate must have.

use std::io::{BufRead as _, BufReader, Read as _, Write};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use slipway_access::node_api::Credential;
use slipway_access::pki;
use slipway_images::node::api::Problem;
use ureq::http::{Request, Response, StatusCode, Uri};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Body};

use crate::error::{Error, Kind, Result};

/// How long a call may take that doesn't flow.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most of an answer that is read into memory.
const ANSWER_LIMIT: u64 = 16 << 20;

/// A client of one node.
pub struct Client {
    agent: Agent,
    /// Where the node is, for people.
    pub at: String,
    /// Its addresses.
    pub addresses: Vec<SocketAddr>,
    /// The name that its certificate must have.
    pub name: String,
    /// The port of its URL.
    port: u16,
    /// Who asks.
    pub credential: Credential,
}

/// Leads every name to the node.
#[derive(Debug)]
struct Fixed(Vec<SocketAddr>);

impl Resolver for Fixed {
    fn resolve(
        &self,
        _: &Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let mut all = self.empty();
        // As many as there is room for.
        self.0.iter().take(8).for_each(|address| all.push(*address));
        Ok(all)
    }
}

impl Client {
    /// A client of the node at `host`, whose certificate must be of the credential's CA and
    /// have the name `name`.
    ///
    /// # Errors
    /// [`Kind::Network`] for a host that isn't found, [`Kind::Input`] for a credential that
    /// can't be used.
    pub fn new(host: &str, port: u16, name: &str, credential: &Credential) -> Result<Self> {
        let unusable = |e: &dyn std::fmt::Display| {
            Error::new(Kind::Input, format!("the credential can't be used: {e}"))
        };
        let addresses: Vec<SocketAddr> = (host, port)
            .to_socket_addrs()
            .map_err(|e| Error::new(Kind::Network, format!("looking up {host}: {e}")))?
            .collect();
        let ca = pki::certificate_der(&credential.ca_pem).map_err(|e| unusable(&e))?;
        let own =
            pki::certificate_der(&credential.client.certificate_pem).map_err(|e| unusable(&e))?;
        let key =
            PrivateKey::from_pem(credential.client.key_pem.as_bytes()).map_err(|e| unusable(&e))?;
        let client = ClientCert::new_with_certs(&[Certificate::from_der(&own).to_owned()], key);
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[
                Certificate::from_der(&ca).to_owned()
            ]))
            .client_cert(Some(client))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: Agent::with_parts(
                config,
                DefaultConnector::default(),
                Fixed(addresses.clone()),
            ),
            at: authority(host, port),
            addresses,
            name: name.to_owned(),
            port,
            credential: credential.clone(),
        })
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        timeout: Option<Duration>,
    ) -> Result<Response<Body>> {
        let bug = |e: ureq::http::Error| Error::new(Kind::Bug, format!("{method} {path}: {e}"));
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}:{}{path}", self.name, self.port));
        let answer = match body {
            Some(body) => {
                let request = request
                    .header("content-type", "application/json")
                    .body(body.to_string())
                    .map_err(bug)?;
                let request = self.agent.configure_request(request);
                self.agent.run(request.timeout_global(timeout).build())
            }
            None => {
                let request = request.body(()).map_err(bug)?;
                let request = self.agent.configure_request(request);
                self.agent.run(request.timeout_global(timeout).build())
            }
        };
        let mut answer = answer.map_err(|e| self.unreached(&e))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let text = answer
            .body_mut()
            .with_config()
            .limit(ANSWER_LIMIT)
            .read_to_string()
            .unwrap_or_default();
        Err(refused(answer.status(), &text))
    }

    /// Why there was no answer.
    fn unreached(&self, error: &ureq::Error) -> Error {
        let text = error.to_string();
        let tls = match error {
            ureq::Error::Rustls(_) => true,
            // An alert that comes in place of an answer is an I/O error to the transport.
            ureq::Error::Io(e) => e.get_ref().is_some_and(|e| e.is::<rustls::Error>()),
            _ => false,
        };
        if !tls {
            return Error::new(
                Kind::Network,
                format!("{} can't be reached: {text}", self.at),
            )
            .hint("is it on, and is this its address?");
        }
        self.distrusted(&text)
    }

    /// One side doesn't trust the other.
    pub fn distrusted(&self, why: &str) -> Error {
        Error::new(
            Kind::Untrusted,
            format!(
                "{} and this credential don't trust each other: {why}",
                self.at
            ),
        )
        .hint("use the credential of this node's owner; --node NAME must be the node's own name")
    }

    /// An object.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.send("GET", path, None)
    }

    /// An order whose answer says nothing.
    pub fn post(&self, path: &str, body: Option<&Value>) -> Result<()> {
        let _: Value = self.send("POST", path, body)?;
        Ok(())
    }

    /// A call with an object as its answer.
    pub fn send<T: DeserializeOwned>(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T> {
        self.send_within(CALL_TIMEOUT, method, path, body)
    }

    /// The same for a call that takes its time.
    pub fn send_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<T> {
        let text = read(self.call(method, path, body, Some(limit))?)?;
        serde_json::from_str(&text).map_err(|e| {
            Error::new(
                Kind::Tool,
                format!("{method} {path}: the answer makes no sense: {e}"),
            )
        })
    }

    /// A text.
    pub fn text(&self, path: &str) -> Result<String> {
        read(self.call("GET", path, None, Some(CALL_TIMEOUT))?)
    }

    /// Copies an answer as it comes.
    pub fn copy(&self, path: &str, to: &mut impl Write) -> Result<()> {
        let mut body = self
            .call("GET", path, None, None)?
            .into_body()
            .into_reader();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let n = body.read(&mut buffer).map_err(|e| self.broken_off(&e))?;
            let part = buffer.get(..n).unwrap_or_default();
            if part.is_empty() {
                return Ok(());
            }
            to.write_all(part)
                .and_then(|()| to.flush())
                .map_err(|e| Error::new(Kind::Io, format!("writing: {e}")))?;
        }
    }

    /// Gives an answer's lines as they come.
    pub fn lines(&self, path: &str, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
        let body = self
            .call("GET", path, None, None)?
            .into_body()
            .into_reader();
        for line in BufReader::new(body).lines() {
            each(&line.map_err(|e| self.broken_off(&e))?)?;
        }
        Ok(())
    }

    fn broken_off(&self, error: &std::io::Error) -> Error {
        Error::new(Kind::Network, format!("{} broke off: {error}", self.at))
    }
}

/// `HOST:PORT`, as in a URL.
pub fn authority(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

fn read(mut answer: Response<Body>) -> Result<String> {
    answer
        .body_mut()
        .with_config()
        .limit(ANSWER_LIMIT)
        .read_to_string()
        .map_err(|e| Error::new(Kind::Network, format!("reading the answer: {e}")))
}

/// A refusal of the node's, in its own words.
pub fn refused(status: StatusCode, text: &str) -> Error {
    let why = serde_json::from_str::<Problem>(text)
        .map_or_else(|_| text.trim().chars().take(400).collect(), |p| p.error);
    let kind = match status.as_u16() {
        401 | 403 => Kind::Untrusted,
        400 | 422 => Kind::Input,
        408 | 503 => Kind::Network,
        _ => Kind::Tool,
    };
    Error::new(
        kind,
        format!("the node refuses ({}): {why}", status.as_u16()),
    )
}
