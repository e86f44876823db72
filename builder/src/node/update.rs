//! `slipway node update`: a bundle into the slot that doesn't run.
//!
//! By a URL the node fetches it and goes on by itself, whatever happens to this command. A file
//! is pushed: the node asks for the parts that it lacks, and what breaks off is pushed again.

use std::fmt;
use std::fs::File;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;
use slipway_images::bundle::{Digest, read_head, wire};
use slipway_images::node::update::{
    How, PUSH_PROTOCOL, Reboot, Update, UpdateOrder, UpdateState, UpdateStep, Waiting,
};

use super::client::Client;
use super::upgrade::Upgraded;
use crate::bundle::refused;
use crate::error::{At as _, Error, Kind, Result};
use crate::progress::{Progress, Task};

/// Between two looks at the node.
const LOOK: Duration = Duration::from_millis(500);
/// Between two attempts to reach it again, and for how long.
const AGAIN: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(600));

/// Where an update comes from, and how it is done.
#[derive(Debug, Clone, Args)]
pub struct UpdateArgs {
    /// A bundle that the node is pushed, or an http:// or https:// URL that it fetches itself.
    #[arg(value_name = "FILE|URL")]
    pub bundle: Option<String>,
    /// When to reboot into it: now, never, or HH:MM by the node's clock.
    #[arg(long, value_name = "WHEN", default_value_t = Reboot::Now, requires = "bundle")]
    pub reboot: Reboot,
    /// Take a release that is older than what runs.
    #[arg(long, requires = "bundle")]
    pub allow_downgrade: bool,
    /// Take a version that has failed there before.
    #[arg(long, requires = "bundle")]
    pub force: bool,
    /// Stop the update that is being done.
    #[arg(long, conflicts_with = "bundle")]
    pub cancel: bool,
}

/// An update for people.
#[derive(Serialize)]
#[serde(transparent)]
struct Shown(Update);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let update = &self.0;
        let version = update.version.as_deref().unwrap_or("an update");
        match update.state {
            UpdateState::None => write!(f, "no update since the boot")?,
            UpdateState::Running => {
                let step = update.step.map_or("", UpdateStep::words);
                write!(f, "{version}: {step}")?;
                if let Some(percent) = (update.done * 100).checked_div(update.total) {
                    write!(f, ", {percent} %")?;
                }
            }
            UpdateState::Staged => write!(f, "{version} is staged; {}", reboots(update.reboot))?,
            UpdateState::Failed => write!(f, "{version} failed")?,
            UpdateState::Stopped => write!(f, "{version} was stopped")?,
        }
        if let Some(from) = &update.from {
            write!(f, "\nfrom        {from}")?;
        }
        if let Some(note) = &update.note {
            write!(f, "\nnote        {note}")?;
        }
        if let Some(Waiting { version, reboot }) = &update.waiting {
            let reboots = reboots(Some(*reboot));
            write!(f, "\nwaiting     {version} is staged; {reboots}")?;
        }
        if let Some(channel) = &update.channel {
            let offers = channel.offers.as_deref().unwrap_or("nothing");
            write!(
                f,
                "\nchannel     {}\noffers      {offers}: {}",
                channel.url, channel.note
            )?;
        }
        Ok(())
    }
}

fn reboots(reboot: Option<Reboot>) -> String {
    match reboot {
        Some(Reboot::Now) | None => "the node reboots into it".into(),
        Some(Reboot::At(time)) => format!("the node reboots into it at {time}"),
        Some(Reboot::Never) => "the next reboot takes it".into(),
    }
}

/// Runs `slipway node update`.
///
/// # Errors
/// Those of [`super::run`]; [`Kind::Tool`] for an update that failed.
pub fn run(client: &Client, args: &UpdateArgs, progress: &Progress) -> Result<()> {
    let how = How {
        reboot: args.reboot,
        allow_downgrade: args.allow_downgrade,
        force: args.force,
    };
    let Some(bundle) = &args.bundle else {
        let method = if args.cancel { "DELETE" } else { "GET" };
        let update: Update = client.send(method, "/v1/update", None)?;
        return progress.result(&Shown(update));
    };
    let update = if bundle.contains("://") {
        fetch(client, bundle, how, progress)?
    } else {
        push(client, bundle, how, progress)?
    };
    match update.state {
        UpdateState::Staged => progress.result(&Shown(update)),
        UpdateState::Stopped => {
            let note = update.note.map(|note| format!(": {note}"));
            let why = format!("the update was stopped{}", note.unwrap_or_default());
            Err(Error::new(Kind::Interrupted, why))
        }
        _ => {
            let why = update.note.unwrap_or_else(|| "it didn't say why".into());
            Err(Error::new(Kind::Tool, format!("the update failed: {why}")))
        }
    }
}

/// Has the node fetch it, and watches.
fn fetch(client: &Client, url: &str, how: How, progress: &Progress) -> Result<Update> {
    let order = UpdateOrder {
        url: url.to_owned(),
        how,
    };
    let body = serde_json::to_value(&order)
        .map_err(|e| Error::new(Kind::Bug, format!("writing the order: {e}")))?;
    let mut update: Update = client.send("POST", "/v1/update", Some(&body))?;
    progress.say("the node goes on by itself; `slipway node update --cancel` stops it");
    let mut steps = Steps::new(progress);
    let mut patience = Patience::default();
    while update.state == UpdateState::Running {
        steps.show(&update);
        std::thread::sleep(LOOK);
        match client.get("/v1/update") {
            Ok(found) => {
                update = found;
                patience = Patience::default();
            }
            // noded may be starting again, and goes on then.
            Err(error) => patience.with(error, progress)?,
        }
    }
    Ok(update)
}

/// Pushes it, again when the connection breaks.
fn push(client: &Client, file: &str, how: How, progress: &Progress) -> Result<Update> {
    let path = std::path::Path::new(file);
    let mut bundle = File::open(path).at("opening", path)?;
    // With it the node knows that a push before, which it may still wait for, was of the same.
    let (head, _) = read_head(&mut bundle).map_err(|e| refused(path, &e))?;
    let query = format!(
        "/v1/update/push?reboot={}&allow-downgrade={}&force={}&bundle={}",
        how.reboot,
        how.allow_downgrade,
        how.force,
        Digest::of(&head)
    );
    let mut patience = Patience::default();
    loop {
        let mut steps = Steps::new(progress);
        let mut came = false;
        let last = Upgraded::open(client, &query, PUSH_PROTOCOL).and_then(|stream| {
            let told = |text: &str| {
                if let Ok(update) = serde_json::from_str(text) {
                    came = true;
                    steps.show(&update);
                }
            };
            // The node reads both slots before it asks for more.
            stream
                .stream
                .set_read_timeout(Some(AGAIN.1))
                .at("setting a time-out for", path)?;
            wire::serve(stream, &mut bundle, told)
                .map_err(|e| Error::new(Kind::Network, format!("{} broke off: {e}", client.at)))
        });
        drop(steps);
        if came {
            patience = Patience::default();
        }
        match last {
            Ok(text) => {
                return serde_json::from_str(&text).map_err(|e| {
                    Error::new(Kind::Tool, format!("the node's answer makes no sense: {e}"))
                });
            }
            Err(error) => patience.with(error, progress)?,
        }
    }
}

/// How long a node that isn't reached is tried again.
#[derive(Default)]
struct Patience {
    since: Option<Instant>,
}

impl Patience {
    /// Waits a while after an error that may pass; gives it back when it has been too long.
    fn with(&mut self, error: Error, progress: &Progress) -> Result<()> {
        let first = self.since.is_none();
        let since = *self.since.get_or_insert_with(Instant::now);
        if error.kind != Kind::Network || since.elapsed() >= AGAIN.1 {
            return Err(error);
        }
        if first {
            progress.warn(&format!("{}; trying again", error.message()));
        }
        std::thread::sleep(AGAIN.0);
        Ok(())
    }
}

/// The update's steps as pieces of work.
struct Steps<'a> {
    progress: &'a Progress,
    now: Option<(UpdateStep, Task, u64)>,
    note: Option<String>,
}

impl<'a> Steps<'a> {
    fn new(progress: &'a Progress) -> Self {
        Self {
            progress,
            now: None,
            note: None,
        }
    }

    fn show(&mut self, update: &Update) {
        if update.note != self.note {
            self.note.clone_from(&update.note);
            if let Some(note) = &self.note {
                self.progress.warn(note);
            }
        }
        let Some(step) = update.step else {
            return;
        };
        if self.now.as_ref().is_none_or(|(shown, ..)| *shown != step) {
            // The one before ends first.
            drop(self.now.take());
            let total = Some(update.total).filter(|total| *total > 0);
            self.now = Some((step, self.progress.task(step.words(), total), 0));
        }
        if let Some((_, task, shown)) = &mut self.now {
            task.add(update.done.saturating_sub(*shown));
            *shown = update.done.max(*shown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_for_people() {
        let text = |update: &Update| Shown(update.clone()).to_string();
        let mut update = Update::default();
        assert_eq!(text(&update), "no update since the boot");
        update = Update {
            state: UpdateState::Running,
            version: Some("2".into()),
            step: Some(UpdateStep::Write),
            done: 1,
            total: 3,
            from: Some("http://h/x".into()),
            ..update
        };
        assert_eq!(
            text(&update),
            "2: fetching and writing, 33 %\nfrom        http://h/x"
        );
        update.state = UpdateState::Staged;
        update.reboot = Some("02:30".parse().unwrap());
        assert!(text(&update).starts_with("2 is staged; the node reboots into it at 02:30\n"));
        update.state = UpdateState::Failed;
        update.note = Some("why".into());
        assert!(text(&update).contains("2 failed\n") && text(&update).ends_with("why"));
        update.waiting = Some(Waiting {
            version: "1".into(),
            reboot: "02:30".parse().unwrap(),
        });
        let waits = "waiting     1 is staged; the node reboots into it at 02:30";
        assert!(text(&update).ends_with(waits));
    }
}
