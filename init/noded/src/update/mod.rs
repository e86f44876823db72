//! Updates of the node: one at a time, from a web server, from who pushes one, or from a channel.
//!
//! | who begins it | its bundle | after a restart of noded, a reboot, a power cut |
//! |---|---|---|
//! | `POST /v1/update` | fetched by [`remote`] | goes on by itself: the [`order`] is kept |
//! | `POST /v1/update/push` | asked for over the connection | goes on when it is pushed again, also while the node still waits for the connection before |
//! | the seed's [`channel`] | fetched by [`remote`] | goes on by itself |
//!
//! All are believed by the keys of [`trust`]. [`work`] is the walk from a bundle to a slot that the next boot takes. What was written
//! before is found again by comparing the slot with the bundle.

pub mod api;
pub mod channel;
mod firmware;
pub mod order;
pub mod places;
mod push;
pub mod remote;
mod stop;
mod trust;
pub mod work;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use slipway_images::bundle::{Digest, Source};
use slipway_images::node::Event;
use slipway_images::node::update::{How, Reboot, Update, UpdateState};
use slipway_images::seed::TimeOfDay;
use slipway_images::slot::SlotsStatus;
use slipway_init::files::read_json;
use slipway_init::shutdown::Kind;

use crate::answer::Refusal;
use crate::local_time::Moment;
use crate::options::Tuning;
use crate::paths::Paths;
use crate::{notice, power};
use order::Order;
pub use push::Pusher;
use remote::Remote;
pub use stop::{Stop, Word};
use work::{Failed, Report};

/// Between two looks at the clock, the channel and what waits for a reboot.
const TICK: Duration = Duration::from_secs(5);

/// The node's updates. Cheap to clone.
#[derive(Clone)]
pub struct Updates(Arc<Shared>);

struct Shared {
    paths: Paths,
    tuning: Tuning,
    book: Mutex<Book>,
    /// An update has ended.
    ended: Condvar,
}

#[derive(Default)]
struct Book {
    status: Update,
    /// Of the one under way.
    stop: Option<Arc<Stop>>,
    /// Who pushes it, if it is pushed.
    pusher: Option<Pusher>,
    /// The version that the node reboots into by itself. It is staged for as long as no update
    /// has begun to write over it.
    staged: Option<Order>,
}

/// The one update under way; its place is free again when this is gone.
struct Run {
    updates: Updates,
    stop: Arc<Stop>,
    how: How,
}

impl Updates {
    /// Those of a node, with none under way.
    #[must_use]
    pub fn new(paths: Paths, tuning: Tuning) -> Self {
        Self(Arc::new(Shared {
            paths,
            tuning,
            book: Mutex::default(),
            ended: Condvar::new(),
        }))
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one under way, or the last one.
    #[must_use]
    pub fn status(&self) -> Update {
        let book = self.book();
        let mut status = book.status.clone();
        if status.state != UpdateState::Staged {
            status.waiting = book.staged.as_ref().and_then(Order::waiting);
        }
        status
    }

    /// Whether one is under way.
    #[must_use]
    pub fn under_way(&self) -> bool {
        self.book().stop.is_some()
    }

    /// Changes what is said.
    fn say(&self, change: impl FnOnce(&mut Update)) {
        change(&mut self.book().status);
    }

    /// Tells the one under way to end, and reboots into nothing by itself any more. Gives
    /// whether one was under way.
    pub fn stop(&self) -> bool {
        let mut book = self.book();
        let stop = book.stop.clone();
        book.staged = None;
        if book.status.state == UpdateState::Staged {
            book.status.reboot = Some(Reboot::Never);
        }
        drop(book);
        // Whoever is stopped doesn't want it back with the next start, either.
        Order::forget(&self.0.paths);
        Order::forget_staged(&self.0.paths);
        if let Some(stop) = &stop {
            stop.tell(Word::Stop);
        }
        stop.is_some()
    }

    /// Takes the place of the one update.
    fn begin(&self, from: String, how: How, pusher: Option<Pusher>) -> Result<Run, Refusal> {
        let mut book = self.book();
        if book.stop.is_some() {
            let from = book.status.from.as_deref().unwrap_or_default();
            return Err(Refusal::new(
                StatusCode::CONFLICT,
                format!("an update is under way (from {from}): wait for it, or stop it"),
            ));
        }
        let stop = Arc::new(Stop::default());
        book.stop = Some(Arc::clone(&stop));
        book.pusher = pusher;
        book.status = Update {
            state: UpdateState::Running,
            from: Some(from),
            reboot: Some(how.reboot),
            channel: book.status.channel.take(),
            ..Update::default()
        };
        drop(book);
        Ok(Run {
            updates: self.clone(),
            stop,
            how,
        })
    }

    /// Begins to fetch and stage what an order names, and keeps the order.
    ///
    /// # Errors
    /// 409 while another is under way, 500 for what the system refuses.
    pub fn fetch(&self, order: Order) -> Result<(), Refusal> {
        let run = self.begin(api::shown(&order.url), order.how, None)?;
        order.keep(&self.0.paths);
        spawn(move || {
            let trouble = run.updates.clone();
            let trouble = move |why: Option<&str>| {
                trouble.say(|status| status.note = why.map(str::to_owned));
            };
            let root = run.updates.0.paths.root().to_owned();
            let stop = Arc::clone(&run.stop);
            let patience = run.updates.0.tuning.patience * 2;
            let remote = Remote::new(&root, &order.url, patience, stop, Box::new(trouble));
            let done = remote
                .map_err(Failed::from)
                .and_then(|mut remote| run.work(order.head, &mut remote, &|| {}));
            run.end(done, Some(order));
        })
    }

    /// Begins the thread that looks after what isn't asked for: an update that was broken off,
    /// a reboot that is due, the channel.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn look_after(&self) -> Result<(), Refusal> {
        let updates = self.clone();
        spawn(move || {
            updates.resume();
            let mut channel = channel::Watch::new(&updates.0.paths);
            let mut committed = false;
            loop {
                committed = committed || trust::settle(&updates.0.paths);
                updates.reboot_if_due(Moment::now().of_day);
                channel.look_if_due(&updates);
                let book = updates.book();
                let waited = updates.0.ended.wait_timeout(book, TICK);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
        })
    }

    /// Goes on with what a restart, a reboot or a power cut has broken off.
    pub fn resume(&self) {
        if let Some(order) = Order::load_staged(&self.0.paths) {
            match self.slots() {
                // It still waits for its first boot.
                Some(slots) if slots.next.is_some_and(|next| next != slots.booted) => {
                    let mut book = self.book();
                    book.status = Update {
                        state: UpdateState::Staged,
                        from: Some(api::shown(&order.url)),
                        version: order.staged.clone(),
                        reboot: Some(order.how.reboot),
                        ..Update::default()
                    };
                    book.staged = Some(order);
                }
                // `init` hasn't looked yet: at the next start.
                None => {}
                Some(_) => Order::forget_staged(&self.0.paths),
            }
        }
        if let Some(order) = Order::load(&self.0.paths) {
            notice!("the update from {} goes on", api::shown(&order.url));
            if let Err(refusal) = self.fetch(order) {
                notice!("the update can't go on: {}", refusal.error);
            }
        }
    }

    fn slots(&self) -> Option<SlotsStatus> {
        read_json(&self.0.paths.slots())
    }

    /// Reboots into what is staged, if it is time. Gives whether it is.
    pub fn reboot_if_due(&self, now: TimeOfDay) -> bool {
        let mut book = self.book();
        let under_way = book.stop.is_some();
        let Some(order) = &mut book.staged else {
            return false;
        };
        let due = match order.how.reboot {
            Reboot::Never => false,
            Reboot::At(time) => time == now,
            Reboot::Now => order.window.is_none_or(|window| window.contains(now)),
        };
        if !due {
            return false;
        }
        if under_way {
            // A minute comes once a day: it reboots when that one has ended, if it was refused.
            if matches!(order.how.reboot, Reboot::At(_)) {
                order.how.reboot = Reboot::Now;
            }
            return false;
        }
        // Once: what comes of it is PID 1's.
        let version = order.staged.take().unwrap_or_default();
        book.staged = None;
        book.status.reboot = None;
        drop(book);
        notice!("rebooting into {version}");
        Order::forget_staged(&self.0.paths);
        if let Err(refusal) = power::ask(self.0.tuning.init, Kind::Reboot) {
            notice!("{}", refusal.error);
        }
        true
    }
}

impl Run {
    /// Does the work; `told` is called after each change of what is said of it.
    fn work(
        &self,
        head: Option<Digest>,
        source: &mut dyn Source,
        told: &(dyn Fn() + Sync),
    ) -> Result<String, Failed> {
        let paths = &self.updates.0.paths;
        let report = |report: Report| {
            let mut book = self.updates.book();
            let status = &mut book.status;
            match report {
                Report::Step(step) => status.step = Some(step),
                Report::Version(version) => status.version = Some(version),
                Report::Progress(progress) => {
                    (status.done, status.total) = (progress.done, progress.total);
                    (status.fetched, status.to_fetch) = (progress.fetched, progress.to_fetch);
                }
                Report::Begins => {
                    book.staged = None;
                    Order::forget_staged(paths);
                }
            }
            drop(book);
            told();
        };
        work::run(paths, self.how, head, source, &self.stop, &report).map_err(|why| {
            match self.stop.told() {
                Some(Word::Stop) => Failed::Stopped,
                Some(Word::MakeWay) => Failed::TakenOver,
                None => why,
            }
        })
    }

    /// Says how it ended, and sees to the reboot.
    fn end(&self, done: Result<String, Failed>, order: Option<Order>) -> Update {
        let paths = &self.updates.0.paths;
        let (state, note) = match &done {
            Ok(_) => (UpdateState::Staged, None),
            Err(Failed::Stopped) => (UpdateState::Stopped, None),
            Err(Failed::TakenOver) => (
                UpdateState::Stopped,
                Some("it is pushed over another connection now".to_owned()),
            ),
            Err(Failed::Runs) => (UpdateState::Failed, Some("it runs already".to_owned())),
            Err(Failed::Why(why)) => (UpdateState::Failed, Some(why.clone())),
        };
        let staged = done.ok().filter(|_| self.how.reboot != Reboot::Never);
        let staged = staged.map(|version| Order {
            staged: Some(version),
            ..order.unwrap_or_else(|| Order::pushed(self.how))
        });
        if let Some(order) = &staged {
            // What it waits for outlives a restart of noded.
            order.keep(paths);
        }
        Order::forget(paths);
        let mut book = self.updates.book();
        // What was refused leaves alone what waits.
        book.staged = staged.or(book.staged.take());
        let status = &mut book.status;
        (status.state, status.note) = (state, note);
        status.step = None;
        drop(book);
        let status = self.updates.status();
        let version = status.version.as_deref().unwrap_or("an update");
        let what = match (state, &status.note) {
            (UpdateState::Staged, _) => format!("{version} is staged: the next boot takes it"),
            (UpdateState::Stopped, _) => format!("{version} was stopped"),
            (_, note) => format!("{version} failed: {}", note.as_deref().unwrap_or_default()),
        };
        notice!("update: {what}");
        let event = Event::now("update", status.from.as_deref().unwrap_or_default(), what);
        if let Err(error) = event.append(&paths.events()) {
            notice!("the event can't be kept: {error}");
        }
        status
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut book = self.updates.book();
        (book.stop, book.pusher) = (None, None);
        drop(book);
        // A reboot may be due at once.
        self.updates.0.ended.notify_all();
    }
}

/// Starts a thread for what may wait for disks and networks.
fn spawn(work: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
    std::thread::Builder::new()
        .name("update".into())
        .spawn(work)
        .map(drop)
        .map_err(|error| Refusal::failed(format!("starting a thread: {error}")))
}
