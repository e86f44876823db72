//! What PID 1 tells the node's API: `status.json` and events, see [`slipway_images::node`].
//!
//! The main loop hands over a picture of everything; a thread of its own compares it with the
//! one before, appends what has happened and replaces the file. A picture that the thread has
//! no room for is handed over again with the next turn of the loop, so nothing is lost and
//! nobody waits.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use nix::time::{ClockId, clock_gettime};
use slipway_images::node::{Boot, EVENTS_FILE, STATUS_FILE, Service, ServiceState};

use crate::say;
use crate::supervisor::{State, Unit};

/// The way to the thread.
pub struct Reporter {
    sender: Option<SyncSender<Box<Boot>>>,
    told: Boot,
    /// Some moment, on both clocks: an `Instant` doesn't tell its number.
    moment: (Instant, u64),
}

impl Reporter {
    /// Starts the thread, which writes below `root`. Without one (no memory for it) the
    /// machine runs and nothing is told.
    pub fn start(root: PathBuf) -> Self {
        let (sender, receiver) = sync_channel(4);
        let thread = std::thread::Builder::new()
            .name("report".into())
            .stack_size(128 << 10)
            .spawn(move || write_all(&root, &receiver));
        if let Err(error) = &thread {
            say!("the node API will know nothing of services: {error}");
        }
        let since_boot = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| {
            let millis = t.tv_sec() * 1000 + t.tv_nsec() / 1_000_000;
            u64::try_from(millis).unwrap_or(0)
        });
        Self {
            sender: thread.is_ok().then_some(sender),
            told: Boot::default(),
            moment: (Instant::now(), since_boot),
        }
    }

    /// Tells how things are, if that is new. Never waits.
    pub fn tell(&mut self, boot: Boot) {
        if boot == self.told {
            return;
        }
        if let Some(sender) = &self.sender
            && sender.try_send(Box::new(boot.clone())).is_ok()
        {
            self.told = boot;
        }
    }

    /// A service as the node API shows it.
    pub fn service(&self, unit: &Unit) -> Service {
        let (state, since) = match unit.state {
            State::Waiting => (ServiceState::Waiting, None),
            State::Starting { since, .. } => (ServiceState::Starting, Some(since)),
            State::Ready { since, .. } => (ServiceState::Ready, Some(since)),
            State::Backoff { .. } => (ServiceState::Backoff, None),
            State::Stopping { .. } => (ServiceState::Stopping, None),
            State::Stopped => (ServiceState::Stopped, None),
        };
        Service {
            name: unit.service.name.clone(),
            description: unit.service.description.clone(),
            state,
            pid: unit.pid(),
            since: since.map(|at| self.millis(at)),
            restarts: unit.restarts,
            status: unit.status.clone(),
        }
    }

    /// Milliseconds from the boot to `at`, which is after this was made.
    fn millis(&self, at: Instant) -> u64 {
        let (moment, millis) = self.moment;
        let later = at.saturating_duration_since(moment).as_millis();
        millis.saturating_add(u64::try_from(later).unwrap_or(u64::MAX))
    }
}

fn write_all(root: &std::path::Path, receiver: &Receiver<Box<Boot>>) {
    let (status, events) = (root.join(STATUS_FILE), root.join(EVENTS_FILE));
    let aside = status.with_extension("json.new");
    let mut before = Boot::default();
    // One complaint, not one for each change: the console is for other things.
    let mut complained = false;
    while let Ok(boot) = receiver.recv() {
        // In memory (/run is a tmpfs): the rename is all the safety there is to have.
        let written = boot
            .events_since(&before)
            .iter()
            .try_for_each(|event| event.append(&events))
            .and_then(|()| fs::write(&aside, serde_json::to_vec(&boot)?))
            .and_then(|()| fs::rename(&aside, &status));
        match written {
            Err(error) if !complained => {
                say!("telling the node API: {error}");
                complained = true;
            }
            _ => {}
        }
        before = *boot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slipway_images::node::Event;
    use std::path::Path;
    use std::time::Duration;

    fn wait_for(path: &Path, holds: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = fs::read_to_string(path).unwrap_or_default();
            if holds(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "{text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn status_and_events_are_there_for_the_api() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("run/slipway")).unwrap();
        let mut reporter = Reporter::start(root.path().to_owned());
        let boot = Boot {
            booted: true,
            degraded: vec!["seed".into()],
            ..Boot::default()
        };
        reporter.tell(boot.clone());
        reporter.tell(boot.clone());
        let text = wait_for(&root.path().join(STATUS_FILE), |t| t.contains("booted"));
        assert_eq!(serde_json::from_str::<Boot>(&text).unwrap(), boot);
        let lines = wait_for(&root.path().join(EVENTS_FILE), |t| t.ends_with('\n'));
        assert_eq!(lines.lines().count(), 1, "{lines}");
        let event: Event = serde_json::from_str(lines.trim()).unwrap();
        assert_eq!(event.message, "booted, degraded: seed failed");
    }

    #[test]
    fn nobody_waits_for_a_disk_that_cannot_be_written() {
        let mut reporter = Reporter::start("/nonexistent".into());
        for n in 0..10_000 {
            let boot = Boot {
                conditions: vec![n.to_string()],
                ..Boot::default()
            };
            reporter.tell(boot);
        }
    }
}
