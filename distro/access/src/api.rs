//! A small blocking client of the Kubernetes API, authenticated by a client certificate, or by
//! a token where there is no certificate yet.
//!
//! What a supervisor, a command line and tests need: read, server-side apply,
//! delete, and wait for a condition by watching. Objects stay JSON values;
//! the typed world of the API is large, and these callers touch little of it.

mod apply;
mod error;
mod pinned;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use ureq::http::{Method, Request, Response};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use ureq::{Agent, Body};

pub use apply::{Applied, is_from_manifest, parse_documents};
pub use error::ApiError;
pub use pinned::{CaError, ca_of};

use crate::kubeconfig::Kubeconfig;
use crate::pki::{self, KeyCertificate};

/// How long one call may take, watches apart.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest answer read into memory, in bytes.
const ANSWER_LIMIT: u64 = 64 << 20;

/// A client of one API server.
pub struct Client {
    agent: Agent,
    /// `https://host:port`, without a slash at the end.
    server: String,
    /// `Bearer ...`, of who has no certificate.
    authorization: Option<String>,
    /// What discovery said, by group and version.
    resources: Mutex<HashMap<String, Arc<Vec<apply::Resource>>>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of `server` (`https://host:port`) that trusts `ca_pem`, and
    /// says who it is with `identity` (`None`: anonymous).
    ///
    /// # Errors
    /// [`ApiError::Setup`] when a certificate or key can't be used.
    pub fn new(
        server: &str,
        ca_pem: &str,
        identity: Option<&KeyCertificate>,
    ) -> Result<Self, ApiError> {
        let setup = |what: &str, error: &dyn std::fmt::Display| ApiError::Setup {
            reason: format!("{what}: {error}"),
        };
        let ca = pki::certificate_der(ca_pem).map_err(|error| setup("CA", &error))?;
        let identity = match identity {
            None => None,
            Some(pair) => {
                pair.matching()
                    .map_err(|error| setup("client certificate", &error))?;
                let certificate = pki::certificate_der(&pair.certificate_pem)
                    .map_err(|error| setup("client certificate", &error))?;
                let key = PrivateKey::from_pem(pair.key_pem.as_bytes())
                    .map_err(|error| setup("client key", &error))?;
                Some(ClientCert::new_with_certs(
                    &[Certificate::from_der(&certificate).to_owned()],
                    key,
                ))
            }
        };
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::new_with_certs(&[
                Certificate::from_der(&ca).to_owned()
            ]))
            .client_cert(identity)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .https_only(true)
            .http_status_as_error(false)
            .max_redirects(0)
            // Never through a proxy of the environment: this is the node's own API.
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(10)))
            .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            server: server.trim_end_matches('/').to_owned(),
            authorization: None,
            resources: Mutex::default(),
        })
    }

    /// A client that says who it is with a bearer token.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_token(server: &str, ca_pem: &str, token: &str) -> Result<Self, ApiError> {
        Ok(Self {
            authorization: Some(format!("Bearer {token}")),
            ..Self::new(server, ca_pem, None)?
        })
    }

    /// A client as a kubeconfig says.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn from_kubeconfig(config: &Kubeconfig) -> Result<Self, ApiError> {
        Self::new(&config.server, &config.ca_pem, Some(&config.client))
    }

    /// The server this client talks to (`https://host:port`).
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// `GET`s a path that answers in plain text, such as `/readyz` or `/version`.
    ///
    /// # Errors
    /// [`ApiError::Status`] with the text as message when the answer is not 2xx.
    pub fn get_text(&self, path: &str, timeout: Duration) -> Result<String, ApiError> {
        let (response, call) = self.send(&Method::GET, path, None, timeout)?;
        read_text(response, &call)
    }

    /// `GET`s an object or a list.
    ///
    /// # Errors
    /// [`ApiError`]; see [`ApiError::is_not_found`].
    pub fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.call(&Method::GET, path, None)
    }

    /// `GET`s an object, `None` where there is none.
    ///
    /// # Errors
    /// [`ApiError`] except for "not found".
    pub fn find(&self, path: &str) -> Result<Option<Value>, ApiError> {
        match self.get(path) {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The items of a collection.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn list(&self, path: &str) -> Result<Vec<Value>, ApiError> {
        let mut list = self.get(path)?;
        match list.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => Ok(items),
            _ => Err(ApiError::Corrupt {
                call: format!("GET {path}"),
                reason: "the answer is no list".to_owned(),
            }),
        }
    }

    /// Creates an object in a collection (`POST`).
    ///
    /// # Errors
    /// [`ApiError`]; see [`ApiError::is_conflict`] for one that exists.
    pub fn create(&self, collection: &str, object: &Value) -> Result<Value, ApiError> {
        self.call(
            &Method::POST,
            collection,
            Some(("application/json", object)),
        )
    }

    /// Changes parts of an object (JSON merge patch, RFC 7396).
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn merge_patch(&self, path: &str, patch: &Value) -> Result<Value, ApiError> {
        self.call(
            &Method::PATCH,
            path,
            Some(("application/merge-patch+json", patch)),
        )
    }

    /// Replaces an object, or a part of it such as `.../status`.
    ///
    /// # Errors
    /// [`ApiError`]; see [`ApiError::is_conflict`].
    pub fn replace(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.call(&Method::PUT, path, Some(("application/json", object)))
    }

    /// Deletes an object; what is gone already is fine. Returns whether there was one.
    ///
    /// # Errors
    /// [`ApiError`].
    pub fn delete(&self, path: &str) -> Result<bool, ApiError> {
        match self.call(&Method::DELETE, path, None) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// One call with a JSON answer.
    fn call(
        &self,
        method: &Method,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Value, ApiError> {
        let body = body.map(|(kind, value)| (kind, value.to_string().into_bytes()));
        let (response, call) = self.send(method, path, body, CALL_TIMEOUT)?;
        let text = read_text(response, &call)?;
        serde_json::from_str(&text).map_err(|error| ApiError::Corrupt {
            call,
            reason: error.to_string(),
        })
    }

    /// Sends a request and hands back the answer, its body unread, with "METHOD path" for errors.
    fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
        timeout: Duration,
    ) -> Result<(Response<Body>, String), ApiError> {
        let call = format!("{method} {path}");
        let build = |error: ureq::http::Error| ApiError::Setup {
            reason: format!("{call}: {error}"),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header("accept", "application/json");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let answer = match body {
            Some((kind, bytes)) => {
                let request = request
                    .header("content-type", kind)
                    .body(bytes)
                    .map_err(build)?;
                let request = self.agent.configure_request(request);
                self.agent
                    .run(request.timeout_global(Some(timeout)).build())
            }
            None => {
                let request = request.body(()).map_err(build)?;
                let request = self.agent.configure_request(request);
                self.agent
                    .run(request.timeout_global(Some(timeout)).build())
            }
        };
        match answer {
            Ok(response) => Ok((response, call)),
            Err(source) => Err(ApiError::Unreachable {
                call,
                server: self.server.clone(),
                source: Box::new(source),
            }),
        }
    }
}

/// Reads an answer's text; one that is not 2xx becomes the error it describes.
fn read_text(mut response: Response<Body>, call: &str) -> Result<String, ApiError> {
    let status = response.status();
    let text = response
        .body_mut()
        .with_config()
        .limit(ANSWER_LIMIT)
        .read_to_string()
        .map_err(|error| ApiError::Corrupt {
            call: call.to_owned(),
            reason: error.to_string(),
        })?;
    if status.is_success() {
        Ok(text)
    } else {
        Err(error::from_answer(call, status, &text))
    }
}

#[cfg(test)]
mod tests;
