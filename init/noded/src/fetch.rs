//! `noded fetch`: a seed from a URL, for PID 1, which has no TLS and must not wait for networks.
//!
//! All documents or none are left in a file. Whatever may pass by itself (no network yet, a
//! server that is starting, a connection that broke, a certificate that begins only after a
//! clock not yet set) is tried again, with pauses that double, until the time is over; what a
//! server has decided (404, a wrong certificate, too much) is not.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use slipway_access::durable;
use slipway_images::seed::url::{DOCUMENT_LIMIT, Fetched, SeedUrl};
use slipway_images::seed::{Document, Documents, Secret};
use slipway_init::seed::remote::URL_VARIABLE;
use ureq::Agent;
use ureq::http::header::CONTENT_LENGTH;

use crate::error::{Context as _, Error};
use crate::web::{self, Miss, miss};

/// The longest pause is this part of the time for one request, the first a sixteenth of that.
const PAUSES: u32 = 2;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Parent of `etc/`.
    pub root: PathBuf,
    /// The file to leave.
    pub out: PathBuf,
    /// For all of it.
    pub within: Duration,
    /// For one request.
    pub patience: Duration,
}

/// Fetches the seed whose URL is in the environment.
///
/// # Errors
/// [`Error::Fetch`], [`Error::Usage`] without a URL, [`Error::Io`] for what can't be written.
pub fn run(options: &Options) -> Result<(), Error> {
    let url = std::env::var(URL_VARIABLE)
        .map_err(|_| Error::Usage(format!("{URL_VARIABLE} is not set")))?;
    let url = SeedUrl::parse(&url).map_err(|error| Error::Usage(error.to_string()))?;
    let files = Client::new(options, &url)?.documents()?;
    let text = serde_json::to_vec(&Fetched::new(&url, files)).context(|| "write JSON".into())?;
    durable::write(&options.out, &text, 0o600)
        .context(|| format!("write {}", options.out.display()))
}

struct Client<'a> {
    url: &'a SeedUrl,
    agent: Agent,
    began: Instant,
    within: Duration,
    patience: Duration,
}

impl<'a> Client<'a> {
    fn new(options: &Options, url: &'a SeedUrl) -> Result<Self, Error> {
        let agent = web::agent(&options.root, url.is_https())?;
        Ok(Self {
            url,
            agent,
            began: Instant::now(),
            within: options.within,
            patience: options.patience,
        })
    }

    fn documents(&self) -> Result<Documents, Error> {
        let user_data = self.document(Document::UserData)?.ok_or_else(|| {
            let why = "the server has no such file, so there is no seed";
            self.failure(Document::UserData, why)
        })?;
        Ok(Documents {
            user_data,
            network_config: self.document(Document::NetworkConfig)?,
            meta_data: self.document(Document::MetaData)?,
        })
    }

    /// One document; `None` if the server says that it has none.
    fn document(&self, document: Document) -> Result<Option<Secret>, Error> {
        let longest = self.patience / PAUSES;
        let mut pause = longest / 16;
        let mut tries = 0;
        let mut last = String::from("there was no time to ask");
        loop {
            let left = self.within.saturating_sub(self.began.elapsed());
            if left.is_zero() {
                let seconds = self.within.as_secs_f64();
                let why = format!("{last}; given up after {tries} tries and {seconds:.0} s");
                return Err(self.failure(document, &why));
            }
            match self.request(document, left.min(self.patience)) {
                Ok(text) => return Ok(text),
                Err(Miss::Ever(why)) => return Err(self.failure(document, &why)),
                Err(Miss::Now(why)) => last = why,
            }
            tries += 1;
            let left = self.within.saturating_sub(self.began.elapsed());
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(longest);
        }
    }

    fn request(&self, document: Document, limit: Duration) -> Result<Option<Secret>, Miss> {
        let request = self
            .agent
            .get(self.url.of(document))
            .config()
            .timeout_global(Some(limit))
            .build();
        let response = request.call().map_err(miss)?;
        match response.status().as_u16() {
            200 => {}
            404 | 410 => return Ok(None),
            _ => return Err(web::answered(response.status())),
        }
        let announced = response.headers().get(CONTENT_LENGTH);
        let announced: Option<u64> = announced.and_then(|n| n.to_str().ok()?.parse().ok());
        let too_large = || Miss::Ever("it is larger than 1 MiB".into());
        if announced.is_some_and(|length| length > DOCUMENT_LIMIT) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        response
            .into_body()
            .into_reader()
            .take(DOCUMENT_LIMIT + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| miss(error.into()))?;
        let length = bytes.len() as u64;
        if length > DOCUMENT_LIMIT {
            return Err(too_large());
        }
        if announced.is_some_and(|announced| announced != length) {
            return Err(Miss::Now("it ends too early".into()));
        }
        String::from_utf8(bytes)
            .map(|text| Some(Secret::new(text)))
            .map_err(|_| Miss::Ever("it is not UTF-8".into()))
    }

    fn failure(&self, document: Document, why: &str) -> Error {
        Error::Fetch(format!("{document} from {}: {why}", self.url))
    }
}
