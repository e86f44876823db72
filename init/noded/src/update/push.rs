//! A bundle that a client has: it answers over the connection that its request came by.
//!
//! A connection that breaks without a word (a cable, a sleeping laptop) is noticed after
//! [`PATIENCE`], and one that breaks while the node asks for nothing when it asks again. Whoever
//! pushes the same bundle again need not wait for that: the push before makes way.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use slipway_images::bundle::wire::Pushed;
use slipway_images::bundle::{Digest, Source};
use slipway_images::node::update::How;
use tokio::io::copy_bidirectional;

use super::stop::Word;
use super::work::Failed;
use super::{Run, Stop, Updates, spawn};
use crate::answer::Refusal;

/// Between two texts to the client.
const TELL: Duration = Duration::from_millis(250);
/// So long without a byte that was asked for, and the connection is given up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether to stop.
const LOOK: Duration = Duration::from_millis(200);
/// How long a push waits until the one before has made way: it may be keeping the datastore.
const WAY: Duration = Duration::from_secs(30);
/// How long a client that sends has to hear how it ended.
const LINGER: Duration = Duration::from_secs(5);

const BROKE_OFF: &str = "the client broke off; push it again to go on";

/// Who pushes what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pusher {
    /// The name in the client's certificate.
    pub who: String,
    /// SHA-256 of the bundle's head, manifest and signature, if the client says it.
    pub bundle: Option<Digest>,
}

/// The connection's end that the update has.
struct Line {
    stream: UnixStream,
    stop: Arc<Stop>,
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let since = Instant::now();
        loop {
            self.stop.check()?;
            match self.stream.read(buffer) {
                Err(error)
                    if error.kind() == ErrorKind::WouldBlock && since.elapsed() < PATIENCE => {}
                done => return done,
            }
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// The client, to be asked and told by turns.
struct Client(Mutex<Pushed<Line>>);

impl Client {
    fn lock(&self) -> MutexGuard<'_, Pushed<Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for &Client {
    fn size(&mut self) -> io::Result<u64> {
        self.lock().size()
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let read = self.lock().read_at(offset, buffer);
        read.map_err(|error| io::Error::other(format!("{BROKE_OFF} ({error})")))
    }
}

impl Updates {
    /// Has a push by the same client and of the same bundle make way, and waits until it has.
    /// Nothing happens to any other update.
    pub fn make_way(&self, pusher: &Pusher) {
        let book = self.book();
        let same = pusher.bundle.is_some() && book.pusher.as_ref() == Some(pusher);
        let Some(stop) = book.stop.clone().filter(|_| same) else {
            return;
        };
        stop.tell(Word::MakeWay);
        let is_there = |book: &mut super::Book| {
            let now = book.stop.as_ref();
            now.is_some_and(|now| Arc::ptr_eq(now, &stop))
        };
        let waited = self.0.ended.wait_timeout_while(book, WAY, is_there);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Begins an update from the client behind an upgrade. To be called in the runtime.
    ///
    /// # Errors
    /// 409 while another is under way, 500 for what the system refuses.
    pub fn push(&self, pusher: Pusher, how: How, upgrade: OnUpgrade) -> Result<(), Refusal> {
        let failed = |error: io::Error| Refusal::failed(format!("a pair of sockets: {error}"));
        // The update waits for what it reads; the connection is served by the runtime.
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_read_timeout(Some(LOOK)).map_err(failed)?;
        ours.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        theirs.set_nonblocking(true).map_err(failed)?;
        let mut theirs = tokio::net::UnixStream::from_std(theirs).map_err(failed)?;
        let from = format!("pushed by {}", pusher.who);
        let run = self.begin(from, how, Some(pusher))?;
        tokio::spawn(async move {
            // Whichever end it is that goes, the update sees it as the end of its stream.
            if let Ok(connection) = upgrade.await {
                drop(copy_bidirectional(&mut TokioIo::new(connection), &mut theirs).await);
            }
        });
        spawn(move || carry(run, ours))
    }
}

fn carry(run: Run, stream: UnixStream) {
    let stop = Arc::clone(&run.stop);
    // The same socket, for its end.
    let rest = stream.try_clone();
    let client = match Pushed::begin(Line { stream, stop }) {
        Ok(pushed) => Client(Mutex::new(pushed)),
        Err(error) => {
            let why = match run.stop.told() {
                Some(_) => Failed::Stopped,
                None => Failed::Why(format!("{BROKE_OFF} ({error})")),
            };
            run.end(Err(why), None);
            return;
        }
    };
    let last = Mutex::new(Instant::now());
    let updates = run.updates.clone();
    let told = || {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() < TELL {
            return;
        }
        *last = Instant::now();
        if let Ok(text) = serde_json::to_string(&updates.status()) {
            // A client that is gone is noticed by what is asked of it.
            drop(client.lock().tell(&text));
        }
    };
    let done = run.work(None, &mut &client, &told);
    let status = run.end(done, None);
    let pushed = client
        .0
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    if let Ok(text) = serde_json::to_string(&status) {
        drop(pushed.end(&text));
    }
    drop(run);
    if let Ok(rest) = rest {
        linger(rest);
    }
}

/// Lets a client that is still sending read what was said last: a socket that is closed with
/// something unread takes that along.
fn linger(mut stream: UnixStream) {
    let until = Instant::now() + LINGER;
    let mut buffer = [0; 4096];
    drop(stream.shutdown(Shutdown::Write));
    while Instant::now() < until {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Err(error) if error.kind() != ErrorKind::WouldBlock => return,
            _ => {}
        }
    }
}
