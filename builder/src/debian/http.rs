//! Getting bytes from a mirror, over HTTP(S) or from a `file:` URL: whole small
//! files, and large ones of known digest that are resumed where a connection broke.
//!
//! Size and digest are checked in the stream, so that no caller can forget to.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use ureq::Agent;
use ureq::http::{Response, StatusCode, header};

use super::release::FileEntry;
use crate::digest::to_hex;
use crate::error::{At as _, Error, Kind, Result};
use crate::progress::Task;

/// How often a transfer may break off without a byte gained before we give up.
const TRIES: u32 = 4;

/// What a server said about a file's version, to ask for it only when changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Validators {
    etag: Option<String>,
    last_modified: Option<String>,
}

impl Validators {
    /// Whether there is anything to ask with.
    pub fn is_empty(&self) -> bool {
        self.etag.is_none() && self.last_modified.is_none()
    }
}

/// An answer to [`Client::get`].
#[derive(Debug)]
pub(crate) enum Got {
    /// The file that the validators were of is still the newest.
    NotModified,
    /// The file.
    Bytes(Vec<u8>, Validators),
}

/// Why there is no file.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server has no such file: another place may.
    NotFound(Error),
    /// The transfer broke; trying again may help.
    Broken(Error),
    /// Trying again will not help.
    Final(Error),
}

impl Failure {
    /// The error, when it is of no interest any more what kind it was.
    pub fn into_error(self) -> Error {
        match self {
            Self::NotFound(e) | Self::Broken(e) | Self::Final(e) => e,
        }
    }
}

/// A client with its own pool of connections. Proxies are taken from the
/// environment (`http_proxy`, `https_proxy`, `no_proxy`).
#[derive(Debug, Clone)]
pub(crate) struct Client {
    agent: Agent,
    /// Waits between tries; short in tests.
    pause: Duration,
}

impl Client {
    /// A client that gives up on a silent server after `patience`.
    pub fn new(patience: Duration) -> Self {
        let agent = Agent::config_builder()
            .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            .timeout_connect(Some(patience))
            .timeout_recv_response(Some(patience))
            .timeout_per_read(Some(patience))
            .max_idle_connections_per_host(8)
            .build()
            .new_agent();
        Self {
            agent,
            pause: (patience / 60).min(Duration::from_millis(500)),
        }
    }

    /// A file of at most `limit` bytes, unless it still is what `known` says.
    pub fn get(&self, url: &str, limit: u64, known: &Validators) -> Result<Got, Failure> {
        let mut tries = 0;
        loop {
            match self.get_once(url, limit, known) {
                Err(Failure::Broken(_)) if tries + 1 < TRIES => self.wait(&mut tries),
                done => return done,
            }
        }
    }

    fn get_once(&self, url: &str, limit: u64, known: &Validators) -> Result<Got, Failure> {
        let too_long = || {
            Failure::Final(Error::new(
                Kind::Network,
                format!("{url} is longer than {limit} bytes"),
            ))
        };
        if let Some(path) = local(url) {
            let mut file = open_local(url, &path)?;
            let mut bytes = Vec::new();
            Read::by_ref(&mut file)
                .take(limit + 1)
                .read_to_end(&mut bytes)
                .map_err(|e| Failure::Final(Error::io("reading", &path, &e)))?;
            if bytes.len() as u64 > limit {
                return Err(too_long());
            }
            return Ok(Got::Bytes(bytes, Validators::default()));
        }
        let mut request = self.agent.get(url);
        if let Some(etag) = &known.etag {
            request = request.header(header::IF_NONE_MATCH, etag);
        }
        if let Some(date) = &known.last_modified {
            request = request.header(header::IF_MODIFIED_SINCE, date);
        }
        let response = request.call().map_err(|e| broken(url, &e))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED if !known.is_empty() => return Ok(Got::NotModified),
            status => return Err(refused(url, status)),
        }
        let text = |name| text_header(&response, name);
        let validators = Validators {
            etag: text(header::ETAG),
            last_modified: text(header::LAST_MODIFIED),
        };
        let announced = length(&response);
        let mut bytes = Vec::new();
        response
            .into_body()
            .into_reader()
            .take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| broken_body(url, &e))?;
        if bytes.len() as u64 > limit {
            return Err(too_long());
        }
        if announced.is_some_and(|n| n != bytes.len() as u64) {
            return Err(Failure::Broken(cut_short(url)));
        }
        Ok(Got::Bytes(bytes, validators))
    }

    /// Fetches a file of known size and digest to `target`, which then holds
    /// exactly these bytes. What an earlier, interrupted run left is continued.
    pub fn download(
        &self,
        url: &str,
        expected: &FileEntry,
        target: &Path,
        task: &Task,
    ) -> Result<(), Failure> {
        let mut partial = Partial::open(target, expected).map_err(Failure::Final)?;
        let mut tries = 0;
        loop {
            if target.exists() {
                // Another build that shares this cache was faster.
                return partial.abandon().map_err(Failure::Final);
            }
            let before = partial.len;
            match self.transfer(url, &mut partial, task) {
                // What an earlier run left may have been damaged since.
                Ok(()) if partial.continued && !partial.is_right() => {
                    partial.restart().map_err(Failure::Final)?;
                }
                Ok(()) => return partial.finish(url, target),
                Err(Failure::Broken(_)) if partial.len > before => tries = 0,
                Err(Failure::Broken(_)) if tries + 1 < TRIES => self.wait(&mut tries),
                Err(failure) => return Err(failure),
            }
            task.progress().check().map_err(Failure::Final)?;
        }
    }

    /// Appends what is missing, as far as the connection carries.
    fn transfer(&self, url: &str, partial: &mut Partial, task: &Task) -> Result<(), Failure> {
        if partial.len == partial.expected.size {
            return Ok(());
        }
        if let Some(path) = local(url) {
            let mut file = open_local(url, &path)?;
            file.seek(SeekFrom::Start(partial.len))
                .map_err(|e| Failure::Final(Error::io("reading", &path, &e)))?;
            let size = file.metadata().map_or(0, |m| m.len());
            if size < partial.expected.size {
                return Err(Failure::Final(cut_short(url)));
            }
            return partial.append(url, &mut file, task);
        }
        let mut request = self.agent.get(url);
        if partial.len > 0 {
            request = request.header(header::RANGE, format!("bytes={}-", partial.len));
        }
        let response = request.call().map_err(|e| broken(url, &e))?;
        let wanted_range = format!("bytes {}-", partial.len);
        match response.status() {
            StatusCode::PARTIAL_CONTENT
                if text_header(&response, header::CONTENT_RANGE)
                    .is_some_and(|r| r.starts_with(&wanted_range)) => {}
            StatusCode::OK => {
                // No ranges here: from the beginning.
                partial.restart().map_err(Failure::Final)?;
                if let Some(n) = length(&response).filter(|&n| n != partial.expected.size) {
                    return Err(Failure::Final(wrong_size(url, n, partial.expected.size)));
                }
            }
            StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                partial.restart().map_err(Failure::Final)?;
                return Err(Failure::Broken(Error::new(
                    Kind::Network,
                    format!("{url}: the server answers with another part than asked for"),
                )));
            }
            status => return Err(refused(url, status)),
        }
        partial.append(url, &mut response.into_body().into_reader(), task)
    }

    /// Twice as long each time.
    fn wait(&self, tries: &mut u32) {
        std::thread::sleep(self.pause * 2_u32.pow(*tries));
        *tries += 1;
    }
}

/// A file on its way into the cache: what has arrived, and its running digest.
struct Partial {
    file: File,
    path: PathBuf,
    hash: Sha256,
    len: u64,
    expected: FileEntry,
    /// Whether it holds bytes of an earlier run.
    continued: bool,
    /// Removes the file if it isn't one that a later run shall continue.
    temporary: Option<tempfile::TempPath>,
}

impl Partial {
    /// Takes up `<target>.part` unless another process is at it; then begins a
    /// file of our own.
    fn open(target: &Path, expected: &FileEntry) -> Result<Self> {
        let dir = target.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(dir).at("creating", dir)?;
        let path = target.with_added_extension("part");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .at("creating", &path)?;
        let (mut file, path, temporary) = match file.try_lock() {
            Ok(()) => (file, path, None),
            Err(fs::TryLockError::WouldBlock) => {
                let (file, path) = tempfile::NamedTempFile::new_in(dir)
                    .at("creating a file in", dir)?
                    .into_parts();
                (file, path.to_path_buf(), Some(path))
            }
            Err(fs::TryLockError::Error(e)) => return Err(Error::io("locking", &path, &e)),
        };
        let mut hash = Sha256::new();
        let mut len = 0;
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer).at("reading", &path)? {
                0 => break,
                n => {
                    hash.update(buffer.get(..n).unwrap_or_default());
                    len += n as u64;
                }
            }
        }
        if len > expected.size {
            file.set_len(0).at("truncating", &path)?;
            file.rewind().at("truncating", &path)?;
            (hash, len) = (Sha256::new(), 0);
        }
        Ok(Self {
            file,
            path,
            hash,
            len,
            expected: expected.clone(),
            continued: len > 0,
            temporary,
        })
    }

    fn restart(&mut self) -> Result<()> {
        self.file.set_len(0).at("truncating", &self.path)?;
        self.file.rewind().at("truncating", &self.path)?;
        (self.hash, self.len, self.continued) = (Sha256::new(), 0, false);
        Ok(())
    }

    fn is_right(&self) -> bool {
        to_hex(&self.hash.clone().finalize()) == self.expected.sha256
    }

    fn append(&mut self, url: &str, from: &mut dyn Read, task: &Task) -> Result<(), Failure> {
        let mut buffer = vec![0; 128 << 10];
        while self.len < self.expected.size {
            let n = match from.read(&mut buffer) {
                Ok(0) => return Err(Failure::Broken(cut_short(url))),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(broken_body(url, &e)),
            };
            let room = self.expected.size - self.len;
            let n = n.min(usize::try_from(room).unwrap_or(n));
            let bytes = buffer.get(..n).unwrap_or_default();
            self.file
                .write_all(bytes)
                .map_err(|e| Failure::Final(Error::io("writing", &self.path, &e)))?;
            self.hash.update(bytes);
            self.len += n as u64;
            task.add(n as u64);
            task.progress().check().map_err(Failure::Final)?;
        }
        Ok(())
    }

    /// Gives the file its name, if it is the one that was asked for.
    fn finish(self, url: &str, target: &Path) -> Result<(), Failure> {
        let found = to_hex(&self.hash.clone().finalize());
        if found != self.expected.sha256 {
            let wanted = self.expected.sha256.clone();
            self.abandon().map_err(Failure::Final)?;
            return Err(Failure::Final(
                Error::new(
                    Kind::Untrusted,
                    format!("{url} is not the file that was signed for: its SHA-256 is {found}, not {wanted}"),
                )
                .hint("the mirror may be in the middle of an update, or tampered with; try again later or use another --mirror"),
            ));
        }
        let done = self
            .file
            .sync_all()
            .and_then(|()| fs::rename(&self.path, target))
            .at("writing", target)
            .map_err(Failure::Final);
        if let Some(mut temporary) = self.temporary {
            temporary.disable_cleanup(true);
        }
        done
    }

    fn abandon(self) -> Result<()> {
        if self.temporary.is_none() {
            match fs::remove_file(&self.path) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(Error::io("removing", &self.path, &e));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn local(url: &str) -> Option<PathBuf> {
    url.strip_prefix("file://").map(PathBuf::from)
}

fn open_local(url: &str, path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => {
            Failure::NotFound(Error::new(Kind::Network, format!("{url} does not exist")))
        }
        _ => Failure::Final(Error::io("opening", path, &e)),
    })
}

fn text_header<B>(response: &Response<B>, name: header::HeaderName) -> Option<String> {
    Some(response.headers().get(name)?.to_str().ok()?.to_owned())
}

fn length<B>(response: &Response<B>) -> Option<u64> {
    text_header(response, header::CONTENT_LENGTH)?.parse().ok()
}

fn cut_short(url: &str) -> Error {
    Error::new(Kind::Network, format!("{url} ends too early"))
}

fn wrong_size(url: &str, found: u64, wanted: u64) -> Error {
    Error::new(
        Kind::Untrusted,
        format!("{url} is not the file that was signed for: it has {found} bytes, not {wanted}"),
    )
    .hint("the mirror may be in the middle of an update; try again later or use another --mirror")
}

fn refused(url: &str, status: StatusCode) -> Failure {
    let error = Error::new(Kind::Network, format!("{url}: the server answers {status}"));
    match status.as_u16() {
        404 | 410 => Failure::NotFound(error),
        408 | 429 | 500.. => Failure::Broken(error),
        _ => Failure::Final(error),
    }
}

fn broken(url: &str, error: &ureq::Error) -> Failure {
    let message = format!("{url} can't be reached: {error}");
    let error_ = Error::new(Kind::Network, message)
        .hint("check the network and http_proxy, or name another mirror with --mirror URL");
    match error {
        ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl | ureq::Error::TooManyRedirects => {
            Failure::Final(error_)
        }
        _ => Failure::Broken(error_),
    }
}

fn broken_body(url: &str, error: &std::io::Error) -> Failure {
    Failure::Broken(Error::new(
        Kind::Network,
        format!("{url}: the connection broke off: {error}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_server_is_given_up_on() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let client = Client::new(Duration::from_millis(60));
        // Connections are accepted by the kernel; nobody ever answers.
        match client.get(&url, 10, &Validators::default()) {
            Err(Failure::Broken(e)) => {
                assert_eq!(e.kind, Kind::Network);
                assert!(e.message().contains("timeout"), "{e}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, [0; 11]).unwrap();
        let url = format!("file://{}", path.display());
        let client = Client::new(Duration::from_secs(1));
        assert!(client.get(&url, 11, &Validators::default()).is_ok());
        let e = client.get(&url, 10, &Validators::default()).unwrap_err();
        assert!(e.into_error().message().contains("longer than 10"));
    }
}
