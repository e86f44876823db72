//! A connection to a node that stops to be HTTP: over a TLS session of its own.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use ureq::http::StatusCode;

use super::client::{Client, refused};
use crate::error::{Error, Kind, Result};

const TIMEOUT: Duration = Duration::from_secs(15);
/// Longest head of an answer.
const HEAD_LIMIT: usize = 16 << 10;

/// A connection that was upgraded; reading and writing blocks, unless its stream doesn't.
pub struct Upgraded {
    /// Its TLS session.
    pub tls: ClientConnection,
    /// What is below.
    pub stream: TcpStream,
}

impl Upgraded {
    /// Asks the node to go on in another protocol.
    ///
    /// # Errors
    /// [`Kind::Network`] if the node isn't reached, [`Kind::Untrusted`] if either doesn't trust
    /// the other, and what the node refuses.
    pub fn open(client: &Client, path: &str, protocol: &str) -> Result<Self> {
        let unreached = |e: io::Error| {
            if e.get_ref().is_some_and(|e| e.is::<rustls::Error>()) {
                return client.distrusted(&e.to_string());
            }
            Error::new(
                Kind::Network,
                format!("{} can't be reached: {e}", client.at),
            )
        };
        let tls = ClientConnection::new(config(client)?, server_name(client)?)
            .map_err(|e| client.distrusted(&e.to_string()))?;
        let stream = client
            .addresses
            .iter()
            .map(|address| TcpStream::connect_timeout(address, TIMEOUT))
            .reduce(|first, next| first.or(next))
            .unwrap_or_else(|| Err(ErrorKind::AddrNotAvailable.into()))
            .map_err(unreached)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(unreached)?;
        let mut session = Self { tls, stream };
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\n\
             upgrade: {protocol}\r\ncontent-length: 0\r\n\r\n",
            client.name
        );
        let mut tls = rustls::Stream::new(&mut session.tls, &mut session.stream);
        tls.write_all(request.as_bytes()).map_err(unreached)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_LIMIT {
            let mut byte = [0];
            tls.read_exact(&mut byte).map_err(unreached)?;
            head.extend(byte);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        match status {
            Some(101) => Ok(session),
            Some(code) => {
                // Its body is short and whole; the connection may stay open behind it.
                let length = head
                    .lines()
                    .filter_map(|line| line.split_once(':'))
                    .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                    .and_then(|(_, value)| value.trim().parse::<usize>().ok());
                let mut body = vec![0; length.unwrap_or(0).min(HEAD_LIMIT)];
                // What can't be read says nothing; the status does.
                drop(tls.read_exact(&mut body));
                let status = StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY);
                Err(refused(status, &String::from_utf8_lossy(&body)))
            }
            None => Err(Error::new(
                Kind::Tool,
                format!("{} doesn't speak HTTP", client.at),
            )),
        }
    }

    fn plain(&mut self) -> rustls::Stream<'_, ClientConnection, TcpStream> {
        rustls::Stream::new(&mut self.tls, &mut self.stream)
    }
}

impl Read for Upgraded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.plain().read(buffer)
    }
}

impl Write for Upgraded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.plain().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.plain().flush()
    }
}

fn server_name(client: &Client) -> Result<ServerName<'static>> {
    ServerName::try_from(client.name.clone())
        .map_err(|_| Error::new(Kind::Usage, format!("`{}` is no node's name", client.name)))
}

fn config(client: &Client) -> Result<Arc<ClientConfig>> {
    let unusable = |e: &dyn std::fmt::Display| {
        Error::new(Kind::Input, format!("the credential can't be used: {e}"))
    };
    let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes());
    let credential = &client.credential;
    let mut roots = RootCertStore::empty();
    let ca = certificate(&credential.ca_pem).map_err(|e| unusable(&e))?;
    roots.add(ca).map_err(|e| unusable(&e))?;
    let own = certificate(&credential.client.certificate_pem).map_err(|e| unusable(&e))?;
    let key = PrivateKeyDer::from_pem_slice(credential.client.key_pem.as_bytes())
        .map_err(|e| unusable(&e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&e))?
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![own], key)
        .map_err(|e| unusable(&e))?;
    Ok(Arc::new(config))
}
