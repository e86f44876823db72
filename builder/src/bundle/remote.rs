//! A bundle on a web server, of which no more is fetched than is looked at.

use std::io::{self, Read as _};
use std::time::Duration;

use slipway_images::bundle::{Source, content_range};
use ureq::Agent;
use ureq::http::{StatusCode, header};

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that are asked for at once: most manifests are shorter, so one request does.
const PART: u64 = 64 << 10;

/// A bundle by its URL.
pub struct Remote {
    agent: Agent,
    url: String,
    size: Option<u64>,
    /// What was fetched last, and from where.
    part: (u64, Vec<u8>),
}

impl Remote {
    /// Nothing is asked for yet. Proxies are taken from the environment.
    pub fn new(url: &str) -> Self {
        let agent = Agent::config_builder()
            .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .new_agent();
        Self {
            agent,
            url: url.to_owned(),
            size: None,
            part: (0, Vec::new()),
        }
    }

    /// Fetches a part, of which the file may have less. Gives the size of the whole.
    fn fetch(&mut self, from: u64, len: u64) -> io::Result<u64> {
        let request = self.agent.get(&self.url);
        let last = from.saturating_add(len.saturating_sub(1));
        let request = request
            .header(header::RANGE, format!("bytes={from}-{last}"))
            // A proxy that packs it would make other ranges of it.
            .header(header::ACCEPT_ENCODING, "identity");
        let response = request.call().map_err(io::Error::other)?;
        let text = |name| response.headers().get(name)?.to_str().ok();
        let senseless = || io::Error::other("the server's answer to a range makes no sense");
        let (begins, size) = match response.status() {
            StatusCode::PARTIAL_CONTENT => text(header::CONTENT_RANGE)
                .and_then(content_range)
                .filter(|(begins, _)| *begins == from)
                .ok_or_else(senseless)?,
            // It knows no ranges, and sends all of it: as much is read as is needed.
            StatusCode::OK => {
                let size = text(header::CONTENT_LENGTH).and_then(|n| n.parse().ok());
                (0, size.ok_or_else(senseless)?)
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(io::Error::other("the file is empty or too short"));
            }
            status => return Err(io::Error::other(format!("the server answers {status}"))),
        };
        let mut body = response.into_body().into_reader();
        io::copy(&mut body.by_ref().take(from - begins), &mut io::sink())?;
        let mut bytes = Vec::new();
        body.take(len).read_to_end(&mut bytes)?;
        self.part = (from, bytes);
        self.size = Some(size);
        Ok(size)
    }
}

impl Source for Remote {
    fn size(&mut self) -> io::Result<u64> {
        match self.size {
            Some(size) => Ok(size),
            None => self.fetch(0, PART),
        }
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let within = |(start, bytes): &(u64, Vec<u8>)| {
            let at = usize::try_from(offset.checked_sub(*start)?).ok()?;
            Some(bytes.get(at..)?.get(..buffer.len())?.to_vec())
        };
        let found = match within(&self.part) {
            Some(found) => found,
            None => {
                self.fetch(offset, PART.max(buffer.len() as u64))?;
                within(&self.part).ok_or(io::ErrorKind::UnexpectedEof)?
            }
        };
        buffer.copy_from_slice(&found);
        Ok(())
    }
}
