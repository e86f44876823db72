//! The seed's channel: looked at now and then, and followed.
//!
//! | a look ends with | then |
//! |---|---|
//! | no index, or one that isn't to be believed | said, and looked again |
//! | the version that runs, or is staged, or an older one | nothing |
//! | one that has failed here | nothing: an operator may take it by hand with `--force` |
//! | one that is not for this node yet | the percentage may be raised |
//! | another, outside of the window | waits for the window |
//! | another | fetched, staged, and booted in the window |
//!
//! The first look is at random within a quarter of `slipway.update.poll` after the start, at
//! most ten minutes; the others follow after three to five quarters of it, and one in each
//! window. So a thousand nodes that were switched on together don't ask together.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::Read as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use slipway_access::durable;
use slipway_images::bundle::channel::{INDEX_LIMIT, Index, index_name};
use slipway_images::info::ImageInfo;
use slipway_images::node::update::{Channel, How, UpdateState};
use slipway_images::seed::{TimeOfDay, Update as Wish};
use slipway_init::files;

use super::order::Order;
use super::trust::Trust;
use super::{Updates, api};
use crate::identity::read_seed;
use crate::local_time::Moment;
use crate::notice;
use crate::paths::{Paths, make_private};
use crate::web::{self, Miss, miss};

/// The longest pause before the first look.
const FIRST: Duration = Duration::from_secs(600);
/// For one request.
const REQUEST: Duration = Duration::from_secs(60);

/// What the node remembers of its channel: `channel.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// Which one: another one has numbers of its own.
    url: String,
    /// The highest sequence number that was believed.
    sequence: u64,
}

/// When the channel is looked at next.
pub struct Watch {
    wish: Option<Wish>,
    due: Instant,
}

impl Watch {
    /// By the seed in force.
    #[must_use]
    pub fn new(paths: &Paths) -> Self {
        let wish = wish(paths);
        let longest = wish.as_ref().map_or(FIRST, |wish| poll(wish) / 4);
        Self {
            wish,
            due: Instant::now() + longest.min(FIRST).mul_f64(chance()),
        }
    }

    /// Looks at it, if it is time.
    pub fn look_if_due(&mut self, updates: &Updates) {
        if Instant::now() < self.due {
            return;
        }
        // An applied seed counts from the next boot on, but init may read it after noded.
        if let Some(wish) = wish(&updates.0.paths) {
            self.wish = Some(wish);
        }
        let Some(wish) = &self.wish else {
            self.due = Instant::now() + Duration::from_secs(60);
            return;
        };
        let pause = poll(wish).mul_f64(0.75 + chance() / 2.0);
        let now = Moment::now();
        self.due = Instant::now() + pause.min(until_window(wish, now.of_day));
        let url = wish.channel.clone().unwrap_or_default();
        let found = look(updates, wish, now);
        let (offers, note) = match found {
            Ok((offers, note)) => (Some(offers), note),
            Err(why) => (None, why),
        };
        let shown = Channel {
            url: api::shown(&url),
            looked: Some(now.seconds),
            offers,
            note,
        };
        let before = updates.status().channel.unwrap_or_default();
        if before.note != shown.note || before.offers != shown.offers {
            notice!(
                "channel: {}{}",
                shown
                    .offers
                    .as_deref()
                    .map(|v| format!("{v}: "))
                    .unwrap_or_default(),
                shown.note
            );
        }
        updates.say(|status| status.channel = Some(shown));
    }
}

/// What the seed says, if it names a channel.
fn wish(paths: &Paths) -> Option<Wish> {
    let update = read_seed(paths)?.update;
    update.channel.is_some().then_some(update)
}

/// How long until a moment at random in the first half of the window; without end while it is
/// in it, or if there is none.
fn until_window(wish: &Wish, now: TimeOfDay) -> Duration {
    let Some(window) = wish.window.filter(|window| !window.contains(now)) else {
        return Duration::MAX;
    };
    let minutes = |count: u16| Duration::from_secs(60 * u64::from(count));
    // The minute that runs has begun already.
    minutes(window.begins_in(now)) + (minutes(window.minutes()) / 2).mul_f64(chance())
}

fn poll(wish: &Wish) -> Duration {
    Duration::from_secs(wish.poll)
}

/// At random, from 0 to 1: the standard library's hasher has random keys.
fn chance() -> f64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(Moment::now().seconds);
    f64::from((hasher.finish() >> 32) as u32) / f64::from(u32::MAX)
}

/// Looks once: the version that is offered, and what came of it.
///
/// # Errors
/// A sentence that says why nothing is offered.
pub fn look(updates: &Updates, wish: &Wish, now: Moment) -> Result<(String, String), String> {
    let paths = &updates.0.paths;
    let url = wish.channel.as_deref().unwrap_or_default();
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let info = ImageInfo::read(&paths.image_info()).map_err(|e| text(&e))?;
    let trust = Trust::load(paths)?;
    let base = url.trim_end_matches('/');
    let bytes = get(paths, &format!("{base}/{}", index_name(&info.board))).map_err(Miss::why)?;
    let index = Index::open(&bytes, &trust.keys).map_err(|error| trust.explain(&error))?;
    let seen = seen(paths, url);
    // A clock that isn't set yet shows no time before the image was made.
    let clock = i64::try_from(now.seconds)
        .unwrap_or(i64::MAX)
        .max(info.built);
    index
        .believe(&info.board, seen, clock)
        .map_err(|e| text(&e))?;
    if index.sequence > seen {
        remember(paths, url, index.sequence);
    }
    let note = match reason_to_wait(updates, wish, &index, &info, now.of_day) {
        Some(reason) => reason,
        None => {
            let order = Order {
                url: format!("{base}/{}", index.file),
                head: Some(index.head),
                window: wish.window,
                ..Order::pushed(How::default())
            };
            match updates.fetch(order) {
                Ok(()) => "is being fetched".into(),
                Err(refusal) => refusal.error,
            }
        }
    };
    Ok((index.version, note))
}

/// Why the node doesn't take what is offered, now or at all.
fn reason_to_wait(
    updates: &Updates,
    wish: &Wish,
    index: &Index,
    info: &ImageInfo,
    now: TimeOfDay,
) -> Option<String> {
    if index.version == info.version {
        return Some("runs here".into());
    }
    if index.release < info.release() {
        return Some("is older than what runs".into());
    }
    let status = updates.status();
    if status.state == UpdateState::Staged && status.version.as_ref() == Some(&index.version) {
        return Some("is staged".into());
    }
    // Without slots there is nothing to write; work says so.
    if let Some(slots) = updates.slots() {
        if let Some(bad) = slots
            .bad_versions
            .iter()
            .find(|b| b.version == index.version)
        {
            return Some(format!("has failed here before: {}", bad.why));
        }
        if slots.on_trial() {
            return Some("waits until what runs is committed".into());
        }
        let other = slots.of(!slots.booted);
        let staged = slots.next != Some(slots.booted);
        if staged && other.version.as_ref() == Some(&index.version) {
            return Some("is staged".into());
        }
    }
    let id = files::read_trimmed(updates.0.paths.at("etc/machine-id")).unwrap_or_default();
    if !index.includes(&id) {
        return Some(format!("is for {} % of the nodes so far", index.percent));
    }
    match wish.window {
        Some(window) if !window.contains(now) => Some(format!("waits for {window}")),
        _ => None,
    }
}

/// The index as it lies there.
fn get(paths: &Paths, url: &str) -> Result<Vec<u8>, Miss> {
    let agent = web::agent(paths.root(), url.starts_with("https://"))
        .map_err(|error| Miss::Ever(error.to_string()))?;
    let request = agent
        .get(url)
        .config()
        .timeout_global(Some(REQUEST))
        .build();
    let response = request.call().map_err(miss)?;
    if response.status() != 200 {
        return Err(web::answered(response.status()));
    }
    let mut bytes = Vec::new();
    response
        .into_body()
        .into_reader()
        .take(INDEX_LIMIT as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| miss(error.into()))?;
    match bytes.len() > INDEX_LIMIT {
        true => Err(Miss::Ever("the channel's index is too large".into())),
        false => Ok(bytes),
    }
}

fn file(paths: &Paths) -> PathBuf {
    paths.updates().join("channel.json")
}

/// The highest sequence number that was believed of this channel.
fn seen(paths: &Paths, url: &str) -> u64 {
    let seen: Option<Seen> = files::read_json(&file(paths));
    seen.filter(|seen| seen.url == url)
        .map_or(0, |s| s.sequence)
}

fn remember(paths: &Paths, url: &str, sequence: u64) {
    let seen = Seen {
        url: url.to_owned(),
        sequence,
    };
    let kept = make_private(&paths.updates())
        .and_then(|()| Ok(serde_json::to_vec(&seen)?))
        .and_then(|text| durable::write(&file(paths), &text, 0o600));
    if let Err(error) = kept {
        notice!("the channel's number can't be kept: {error}");
    }
}
