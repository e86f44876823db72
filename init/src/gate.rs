//! The health gate: a slot on trial is committed once it has been healthy for long enough.
//!
//! | what must hold without a break for `slipway.update.dwell` | from |
//! |---|---|
//! | the boot is through | PID 1 |
//! | every service that was started is ready, the node API among them | PID 1 |
//! | the cluster is ready, and this node in it | `clusterd`'s status |
//!
//! Then `slipway.update.health-script`, if there is one, has a minute to end with 0; if it
//! doesn't, the dwell time begins again. What is not committed `slipway.update.deadline` after
//! the boot has failed, and the machine reboots.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use slipway_images::node::api::Cluster;
use slipway_images::node::{self, Boot, ServiceState};
use slipway_images::seed::Update;

use crate::files::read_json;
use crate::mailbox::{Event, Mailbox};
use crate::phase::Failure;
use crate::reaper::Reaper;
use crate::say;
use crate::slots::{Keeper, uptime};

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// For the script.
const SCRIPT_LIMIT: Duration = Duration::from_secs(60);

/// What to do after a look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Look again.
    Wait,
    /// It has been healthy for long enough.
    Ripe,
    /// It is too late; why it wasn't healthy.
    Late(String),
}

/// How long it has been healthy.
#[derive(Debug, Clone)]
pub struct Gate {
    dwell: Duration,
    deadline: Duration,
    since: Option<Duration>,
    why: String,
}

impl Gate {
    /// One that has seen nothing yet.
    #[must_use]
    pub fn new(wanted: &Update) -> Self {
        Self {
            dwell: Duration::from_secs(wanted.dwell),
            deadline: Duration::from_secs(wanted.deadline),
            since: None,
            why: "nothing was heard of the node".into(),
        }
    }

    /// Takes what was seen at `now`, since the boot.
    pub fn look(&mut self, now: Duration, health: Result<(), String>) -> Verdict {
        match health {
            Ok(()) => {
                let since = *self.since.get_or_insert(now);
                if now.saturating_sub(since) >= self.dwell && now < self.deadline {
                    return Verdict::Ripe;
                }
            }
            Err(why) => self.veto(why),
        }
        if now < self.deadline {
            return Verdict::Wait;
        }
        let limit = self.deadline.as_secs();
        Verdict::Late(match self.since {
            None => format!("not healthy {limit} s after the boot: {}", self.why),
            Some(since) => format!(
                "healthy only from {} s after the boot, and not for {} s before {limit} s",
                since.as_secs(),
                self.dwell.as_secs()
            ),
        })
    }

    /// It isn't healthy after all.
    pub fn veto(&mut self, why: String) {
        self.since = None;
        self.why = why;
    }
}

/// Whether the node below `root` is healthy; else what isn't.
///
/// # Errors
/// A sentence.
pub fn health(root: &Path) -> Result<(), String> {
    let boot: Boot = read_json(&root.join(node::STATUS_FILE)).unwrap_or_default();
    if !boot.booted {
        return Err("the boot is not through".into());
    }
    for service in &boot.services {
        match service.state {
            // What waits has no reason to run, such as ssh without keys.
            ServiceState::Ready | ServiceState::Waiting => {}
            state => return Err(format!("service {} is {}", service.name, state.word())),
        }
    }
    let Some(cluster) = read_json::<Cluster>(&root.join(node::CLUSTER_STATUS_FILE)) else {
        return Err("there is no cluster".into());
    };
    match cluster.phase.as_str() {
        "ready" if cluster.node_ready => Ok(()),
        _ => Err(format!("the cluster is {}", cluster.message)),
    }
}

/// Watches over the slot that runs, if it is on trial, on a thread of its own.
///
/// # Errors
/// When there is no thread to be had.
pub fn watch(
    root: PathBuf,
    keeper: Keeper,
    wanted: &Update,
    mailbox: Mailbox,
    reaper: Reaper,
) -> Result<String, Failure> {
    let Some(slot) = keeper.on_trial() else {
        return Ok("not on trial".into());
    };
    let mut gate = Gate::new(wanted);
    let script = wanted.health_script.clone();
    keeper.guard(gate.deadline);
    let note = format!(
        "slot {slot} is on trial until it was healthy for {} s, at most until {} s after the boot",
        wanted.dwell, wanted.deadline
    );
    std::thread::Builder::new()
        .name("gate".into())
        .stack_size(512 << 10)
        .spawn(move || {
            loop {
                std::thread::sleep(INTERVAL);
                match gate.look(uptime(), health(&root)) {
                    Verdict::Wait => {}
                    Verdict::Ripe => {
                        match ask(script.as_deref(), &reaper).and_then(|()| keeper.commit()) {
                            Ok(()) => {
                                say!("slot {slot} is committed: healthy for {:?}", gate.dwell);
                                return;
                            }
                            Err(failure) => {
                                say!("slot {slot} is not committed: {failure}");
                                gate.veto(failure.0);
                            }
                        }
                    }
                    Verdict::Late(why) => {
                        // Now, as what comes may hang.
                        if let Err(failure) = keeper.fail(&why) {
                            say!("slots: {failure}");
                        }
                        mailbox.send(Event::TrialFailed(why));
                        return;
                    }
                }
            }
        })?;
    Ok(note)
}

/// Asks the user's script, if there is one.
///
/// # Errors
/// Its last line when it vetoes, and when it can't be started or takes too long.
pub fn ask(script: Option<&str>, reaper: &Reaper) -> Result<(), Failure> {
    let Some(script) = script else {
        return Ok(());
    };
    let (status, output) = reaper.output_within(&mut Command::new(script), SCRIPT_LIMIT)?;
    if status.success() {
        return Ok(());
    }
    let last = output.lines().last().unwrap_or_default();
    Err(Failure(format!("{script}: {status}: {last}")))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn gate() -> Gate {
        Gate::new(&Update {
            dwell: 60,
            deadline: 600,
            ..Update::default()
        })
    }

    #[test]
    fn it_dwells_without_a_break() {
        let mut gate = gate();
        assert_eq!(gate.look(S * 100, Ok(())), Verdict::Wait);
        assert_eq!(gate.look(S * 159, Ok(())), Verdict::Wait);
        assert_eq!(gate.look(S * 159, Err("a pod".into())), Verdict::Wait);
        assert_eq!(gate.look(S * 161, Ok(())), Verdict::Wait);
        assert_eq!(gate.look(S * 220, Ok(())), Verdict::Wait);
        assert_eq!(gate.look(S * 221, Ok(())), Verdict::Ripe);
        gate.veto("the script".into());
        assert_eq!(gate.look(S * 222, Ok(())), Verdict::Wait);
        assert_eq!(gate.look(S * 282, Ok(())), Verdict::Ripe);
    }

    #[test]
    fn too_late_is_too_late_and_says_why() {
        let mut late = gate();
        assert_eq!(late.look(S * 599, Err("no node".into())), Verdict::Wait);
        let Verdict::Late(why) = late.look(S * 600, Err("no node".into())) else {
            panic!();
        };
        assert_eq!(why, "not healthy 600 s after the boot: no node");
        let mut close = gate();
        assert_eq!(close.look(S * 550, Ok(())), Verdict::Wait);
        let Verdict::Late(why) = close.look(S * 610, Ok(())) else {
            panic!();
        };
        assert!(why.contains("healthy only from 550 s"), "{why}");
    }

    #[test]
    fn what_is_healthy() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let why = || health(dir.path()).unwrap_err();
        assert_eq!(why(), "the boot is not through");
        let boot = |state: &str| {
            let service = format!(
                r#"{{"name": "noded", "description": "", "state": "{state}", "restarts": 0, "status": "", "pid": 1, "since": 2}}"#
            );
            format!(r#"{{"booted": true, "services": [{service}]}}"#)
        };
        put(node::STATUS_FILE, &boot("backoff"));
        assert_eq!(why(), "service noded is backoff");
        put(node::STATUS_FILE, &boot("ready"));
        assert_eq!(why(), "there is no cluster");
        for (phase, ready, healthy) in [
            ("starting", false, false),
            ("ready", false, false),
            ("degraded", true, false),
            ("ready", true, true),
        ] {
            put(
                node::CLUSTER_STATUS_FILE,
                &format!(r#"{{"phase": "{phase}", "message": "m", "node_ready": {ready}}}"#),
            );
            assert_eq!(health(dir.path()).is_ok(), healthy, "{phase} {ready}");
        }
    }
}
