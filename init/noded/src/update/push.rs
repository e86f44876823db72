//! A bundle that a client has: it answers over the connection that its request came by.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use slipway_images::bundle::Source;
use slipway_images::bundle::wire::Pushed;
use slipway_images::node::update::How;
use tokio::io::copy_bidirectional;

use super::work::Failed;
use super::{Run, Stop, Updates, spawn};
use crate::answer::Refusal;

/// Between two texts to the client.
const TELL: Duration = Duration::from_millis(250);
/// So long without a byte that was asked for, and the connection is given up.
const PATIENCE: Duration = Duration::from_secs(60);

const BROKE_OFF: &str = "the client broke off; push it again to go on";

/// The client, to be asked and told by turns.
struct Client(Mutex<Pushed<UnixStream>>);

impl Client {
    fn lock(&self) -> MutexGuard<'_, Pushed<UnixStream>> {
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
    /// Begins an update from the client behind an upgrade. To be called in the runtime.
    ///
    /// # Errors
    /// 409 while another is under way, 500 for what the system refuses.
    pub fn push(&self, who: &str, how: How, upgrade: OnUpgrade) -> Result<(), Refusal> {
        let failed = |error: io::Error| Refusal::failed(format!("a pair of sockets: {error}"));
        // The update waits for what it reads; the connection is served by the runtime.
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        ours.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        ours.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        theirs.set_nonblocking(true).map_err(failed)?;
        let mut theirs = tokio::net::UnixStream::from_std(theirs).map_err(failed)?;
        let stop = Stop::closing(ours.try_clone().map_err(failed)?);
        let run = self.begin(format!("pushed by {who}"), how, stop)?;
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
    let client = match Pushed::begin(stream) {
        Ok(pushed) => Client(Mutex::new(pushed)),
        Err(error) => {
            let why = format!("{BROKE_OFF} ({error})");
            run.end(Err(Failed::Why(why)), None);
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
}
