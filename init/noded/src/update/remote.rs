//! A bundle on a web server, read by ranges (RFC 9110, section 14).
//!
//! One request serves reads that follow each other, as far as was said that they would. What
//! breaks off is asked for again from where it was, with pauses that double, until nothing has
//! come for [`GIVE_UP`]; what a server has decided is not. A server without ranges sends the
//! whole each time, and what isn't wanted is passed over.

use std::io::{self, Read as _};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slipway_images::bundle::{Source, content_range};
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, RANGE};
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body, BodyReader};

use super::Stop;
use crate::error::Error;
use crate::web::{self, Miss, miss};

/// The first pause and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// So long without a byte, and it is given up.
const GIVE_UP: Duration = Duration::from_secs(3600);
/// Most that is passed over or read at once, in bytes.
const PART: usize = 64 << 10;

/// Told why nothing comes, and with none that it comes again.
pub type Trouble = Box<dyn FnMut(Option<&str>) + Send>;

/// A bundle somewhere else.
pub struct Remote {
    agent: Agent,
    url: String,
    /// For one request: what has come until then is kept.
    patience: Duration,
    stop: Arc<Stop>,
    trouble: Trouble,
    /// What was seen first: the file must not become another one.
    seen: Option<Seen>,
    /// What is going to be read.
    wanted: Range<u64>,
    /// A body that is being read, and where in the bundle it is.
    open: Option<(BodyReader<'static>, u64)>,
}

/// What the server says of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    size: u64,
    tag: Option<String>,
}

impl Remote {
    /// Prepares asking; an answer that hasn't come whole within `patience` is asked for again
    /// from where it is.
    ///
    /// # Errors
    /// When there are no CAs for an https:// URL.
    pub fn new(
        root: &Path,
        url: &str,
        patience: Duration,
        stop: Arc<Stop>,
        trouble: Trouble,
    ) -> Result<Self, Error> {
        Ok(Self {
            agent: web::agent(root, url.starts_with("https://"))?,
            url: url.to_owned(),
            patience,
            stop,
            trouble,
            seen: None,
            wanted: 0..0,
            open: None,
        })
    }

    /// Does `work` until it works, or never will.
    fn insist<T>(&mut self, mut work: impl FnMut(&mut Self) -> Result<T, Miss>) -> io::Result<T> {
        let (mut pause, mut since) = (PAUSE.0, Instant::now());
        let mut at = self.position();
        let mut told = false;
        loop {
            self.stop.check()?;
            let why = match work(self) {
                Ok(done) => {
                    if told {
                        (self.trouble)(None);
                    }
                    return Ok(done);
                }
                Err(Miss::Ever(why)) => return Err(io::Error::other(why)),
                Err(Miss::Now(why)) => why,
            };
            let now = self.position();
            self.open = None;
            if now != at {
                // It came on; the next attempt is a new one.
                (pause, since, at) = (PAUSE.0, Instant::now(), now);
                continue;
            }
            if since.elapsed() >= GIVE_UP {
                let minutes = GIVE_UP.as_secs() / 60;
                return Err(io::Error::other(format!(
                    "{why}; given up after {minutes} minutes without a byte"
                )));
            }
            (self.trouble)(Some(&why));
            told = true;
            self.stop.wait(pause);
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Where the open body is.
    fn position(&self) -> Option<u64> {
        self.open.as_ref().map(|(_, at)| *at)
    }

    /// Asks for a range, and leaves its body open.
    fn ask(&mut self, range: &Range<u64>) -> Result<(), Miss> {
        let last = range.end.saturating_sub(1).max(range.start);
        let request = self
            .agent
            .get(&self.url)
            .header(RANGE, format!("bytes={}-{last}", range.start))
            // A proxy that packs it would make other ranges of it.
            .header("accept-encoding", "identity")
            .config()
            .timeout_global(Some(self.patience))
            .build();
        let response = request.call().map_err(miss)?;
        let (seen, from) = read_head(&response, range.start)?;
        match &self.seen {
            Some(before) if *before != seen => {
                return Err(Miss::Ever(
                    "the file on the server is another one now: begin the update again".into(),
                ));
            }
            _ => self.seen = Some(seen),
        }
        self.open = Some((response.into_body().into_reader(), from));
        Ok(())
    }

    /// Fills a part of `buffer`, which begins at `offset` in the bundle.
    fn read_some(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, Miss> {
        if self.position() != Some(offset) {
            let needed = offset + buffer.len() as u64;
            let end = match self.wanted.contains(&offset) {
                true => self.wanted.end.max(needed),
                false => needed,
            };
            // One that has to be passed over is behind us: it is never gone back.
            self.ask(&(offset..end))?;
        }
        let Some((body, at)) = &mut self.open else {
            return Ok(0);
        };
        let mut surplus = vec![0; PART];
        let ends = || Miss::Now("the server's answer ends too early".into());
        while *at < offset {
            let most = usize::try_from(offset - *at).unwrap_or(PART).min(PART);
            match body.read(&mut surplus[..most]) {
                Ok(0) => return Err(ends()),
                Ok(n) => *at += n as u64,
                Err(error) => return Err(miss(error.into())),
            }
        }
        let most = buffer.len().min(PART);
        match body.read(&mut buffer[..most]) {
            Ok(0) => Err(ends()),
            Ok(n) => {
                *at += n as u64;
                Ok(n)
            }
            Err(error) => Err(miss(error.into())),
        }
    }
}

impl Source for Remote {
    fn size(&mut self) -> io::Result<u64> {
        if self.seen.is_none() {
            self.insist(|remote| remote.ask(&(0..1)))?;
            self.open = None;
        }
        Ok(self.seen.as_ref().map_or(0, |seen| seen.size))
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            let rest = &mut buffer[done..];
            done += self.insist(|remote| remote.read_some(at, rest))?;
        }
        Ok(())
    }

    fn expect(&mut self, range: Range<u64>) {
        self.wanted = range;
    }
}

/// What an answer says of the file, and where its body begins.
fn read_head(response: &Response<Body>, from: u64) -> Result<(Seen, u64), Miss> {
    let headers = response.headers();
    let tag = text(headers, ETAG.as_str()).map(str::to_owned);
    let senseless = || Miss::Ever("the server's answer to a range makes no sense".into());
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = text(headers, CONTENT_RANGE.as_str()).ok_or_else(senseless)?;
            match content_range(range) {
                Some((first, size)) if first == from => Ok((Seen { size, tag }, from)),
                _ => Err(senseless()),
            }
        }
        StatusCode::OK => {
            let size = text(headers, CONTENT_LENGTH.as_str()).and_then(|n| n.parse().ok());
            let size = size.ok_or_else(|| {
                Miss::Ever("the server neither knows ranges nor says how long the file is".into())
            })?;
            Ok((Seen { size, tag }, 0))
        }
        StatusCode::RANGE_NOT_SATISFIABLE => Err(Miss::Ever(
            "the file on the server is empty or shorter than it was".into(),
        )),
        status => Err(web::answered(status)),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
