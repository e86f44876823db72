//! Looking whether a component works.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use slipway_access::api::Client;
use slipway_access::pki::KeyCertificate;

use crate::component::Probe;

/// How long one look may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whom to trust and whom to be when asking components.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// PEM of the cluster's CA.
    pub ca_pem: String,
    /// clusterd's own certificate.
    pub own: KeyCertificate,
}

/// Asks one component again and again; an HTTPS connection is kept between.
#[derive(Debug)]
pub struct Prober {
    probe: Probe,
    client: Option<Client>,
}

impl Prober {
    /// Prepares asking. What is wrong with the credentials comes out at the first question.
    pub fn new(probe: &Probe, credentials: &Credentials) -> Self {
        let client = match probe {
            Probe::Https { host, port, .. } => Client::new(
                &format!("https://{}", SocketAddr::new(*host, *port)),
                &credentials.ca_pem,
                Some(&credentials.own),
            )
            .ok(),
            _ => None,
        };
        Self {
            probe: probe.clone(),
            client,
        }
    }

    /// Whether it has come up.
    pub fn ready(&self) -> Result<(), String> {
        self.ask(|probe| match probe {
            Probe::Https { ready, .. } => ready,
            _ => "",
        })
    }

    /// Whether it still works.
    pub fn live(&self) -> Result<(), String> {
        self.ask(|probe| match probe {
            Probe::Https { live, .. } => live,
            _ => "",
        })
    }

    fn ask(&self, path: impl Fn(&Probe) -> &'static str) -> Result<(), String> {
        match (&self.probe, &self.client) {
            (Probe::Socket(path), _) => UnixStream::connect(path)
                .map(drop)
                .map_err(|error| error.to_string()),
            (Probe::Https { .. }, Some(client)) => client
                .get_text(path(&self.probe), TIMEOUT)
                .map(drop)
                .map_err(|error| error.to_string()),
            (Probe::Https { .. }, None) => Err("clusterd's own certificate is unusable".to_owned()),
            (Probe::Http { port, path }, _) => http_get(*port, path),
        }
    }
}

/// `GET`s a path on loopback in plain HTTP; anything but status 200 is an error.
fn http_get(port: u16, path: &str) -> Result<(), String> {
    let ask = || -> std::io::Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut line = String::new();
        BufReader::new(stream.take(256)).read_line(&mut line)?;
        Ok(line)
    };
    let line = ask().map_err(|error| error.to_string())?;
    if line.split(' ').nth(1) == Some("200") {
        Ok(())
    } else {
        Err(line.trim_end().to_owned())
    }
}
