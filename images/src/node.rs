//! What a running node says about itself, shared by who writes it (`init`), who serves it
//! (`noded`) and who shows it (the command).
//!
//! | file | written by | holds |
//! |---|---|---|
//! | `/run/slipway/status.json` | `init`, replaced whole with each change | [`Boot`] |
//! | `/run/slipway/slots.json` | `init`, and `noded` when it has staged a slot, replaced whole | [`crate::slot::SlotsStatus`] |
//! | `/run/slipway/node-api.json` | `noded`, replaced whole | [`ApiInfo`] |
//! | `/run/slipway/events.jsonl`, `.1` | `init`, `noded` for what it is asked to do, `clusterd` for the datastore | one [`Event`] a line, at most 512 KiB a file |
//!
//! Unknown keys are ignored when read: with two slots, an older reader meets newer files.

pub mod api;
pub mod discovery;
pub mod shell;
pub mod update;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// TCP port of the node API. Kubernetes uses neither it nor its neighbours.
pub const PORT: u16 = 7443;
/// The DNS name that the certificate of every node's API is valid for, whatever else it names:
/// what a client verifies that knows a node by its address alone.
pub const ANY_NODE: &str = "node.slipway.internal";
/// Organisation of a client certificate that may do everything.
pub const OPERATOR: &str = "slipway:operator";
/// Organisation of a client certificate that may look and not touch.
pub const READER: &str = "slipway:reader";

/// What `init` knows, below a node's root.
pub const STATUS_FILE: &str = "run/slipway/status.json";

/// What `clusterd` says of the cluster, below the node's root.
pub const CLUSTER_STATUS_FILE: &str = "run/clusterd/status.json";
/// What `noded` says of itself to `init`'s status page, below a node's root.
pub const API_FILE: &str = "run/slipway/node-api.json";
/// What has happened since the boot, below a node's root.
pub const EVENTS_FILE: &str = "run/slipway/events.jsonl";
/// A file of events longer than this is put aside as `.1`; with that it stays below 1 MiB.
pub const EVENTS_LIMIT: u64 = 512 << 10;

/// How the boot went and what runs: `status.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", default)]
pub struct Boot {
    /// Whether all phases are through.
    pub booted: bool,
    /// The phases that were begun, in order.
    pub phases: Vec<Phase>,
    /// Names of phases whose failure the boot went on from.
    pub degraded: Vec<String>,
    /// The services.
    pub services: Vec<Service>,
    /// Conditions that hold, such as `network`, `seed` or `time`.
    pub conditions: Vec<String>,
    /// Addresses of the node.
    pub addresses: Vec<Address>,
    /// What the machine is on its way to: `rebooting`, `powering off`, `halting`.
    pub ending: Option<String>,
}

/// A phase of the boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub result: PhaseResult,
    /// How long its last try took, in milliseconds.
    pub milliseconds: u64,
    /// Its note, or why it failed.
    pub note: String,
}

/// How a phase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PhaseResult {
    /// Well.
    Done,
    /// Not; it is tried again.
    Retrying,
    /// Not.
    Failed,
}

/// A service that `init` supervises.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Service {
    /// Its name.
    pub name: String,
    /// What it is, in a few words.
    pub description: String,
    /// Where it stands.
    pub state: ServiceState,
    /// Its process, while there is one.
    pub pid: Option<i32>,
    /// Since when it is starting or ready, in milliseconds since the boot (CLOCK_MONOTONIC).
    pub since: Option<u64>,
    /// How often it was started again.
    pub restarts: u32,
    /// The last it said of itself.
    pub status: String,
}

/// Where a service stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ServiceState {
    /// Needs others first.
    Waiting,
    /// Runs, and is not ready yet.
    Starting,
    /// Runs and is ready.
    Ready,
    /// Has ended and will be started again.
    Backoff,
    /// Was told to end.
    Stopping,
    /// Has ended for good.
    Stopped,
}

impl ServiceState {
    /// In one word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Backoff => "backoff",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// An address of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Address {
    /// The interface that has it.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
}

/// How the node API is found and recognised: `node-api.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ApiInfo {
    /// Its TCP port.
    pub port: u16,
    /// SHA-256 of the DER of its certificate, hexadecimal.
    pub fingerprint: Option<String>,
    /// The machine's name on its networks, such as `node1.local`.
    pub mdns_name: String,
}

/// Something that has happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// When, in milliseconds since 1970-01-01 UTC by the node's clock, which may be wrong early
    /// in a boot.
    pub time: u64,
    /// `phase`, `service`, `address`, `condition`, `power`, `datastore`, `update`, or `audit` for
    /// what somebody asked the node API to do.
    pub kind: String,
    /// Which phase, service, interface; for `audit` and `datastore` who; for `update` from where.
    pub subject: String,
    /// What, in one line.
    pub message: String,
}

impl Event {
    /// One that happens now.
    #[must_use]
    pub fn now(kind: &str, subject: impl Into<String>, message: impl Into<String>) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            time: since.map_or(0, |passed| {
                u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
            }),
            kind: kind.to_owned(),
            subject: subject.into(),
            message: message.into(),
        }
    }

    /// Appends it to the file at `path` in one write, so that lines of several writers don't
    /// mix. A file over [`EVENTS_LIMIT`] becomes `.1` first.
    ///
    /// # Errors
    /// Those of the filesystem.
    pub fn append(&self, path: &Path) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        match std::fs::metadata(path) {
            Ok(found) if found.len() + line.len() as u64 > EVENTS_LIMIT => {
                std::fs::rename(path, events_aside(path))?;
            }
            _ => {}
        }
        let mut options = std::fs::OpenOptions::new();
        options.create(true).append(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o640);
        options.open(path)?.write_all(&line)
    }
}

/// Where events go that were pushed out of the file at `path`.
#[must_use]
pub fn events_aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

impl Boot {
    /// What has happened since `before`, as events.
    #[must_use]
    pub fn events_since(&self, before: &Self) -> Vec<Event> {
        let mut events = Vec::new();
        for phase in self.phases.iter().filter(|p| !before.phases.contains(p)) {
            let after = format!("after {} ms", phase.milliseconds);
            let note = match phase.note.as_str() {
                "" => String::new(),
                note => format!(": {note}"),
            };
            let message = match phase.result {
                PhaseResult::Done => format!("done {after}{note}"),
                PhaseResult::Retrying => format!("failed {after}, once more{note}"),
                PhaseResult::Failed => format!("failed {after}{note}"),
            };
            events.push(Event::now("phase", &phase.name, message));
        }
        for service in &self.services {
            let old = before.services.iter().find(|s| s.name == service.name);
            if old.map(|o| (o.state, o.pid)) != Some((service.state, service.pid)) {
                let mut message = service.state.word().to_owned();
                if let Some(pid) = service.pid {
                    message.push_str(&format!(", pid {pid}"));
                }
                if service.restarts > 0 {
                    message.push_str(&format!(", restarted {} times", service.restarts));
                }
                events.push(Event::now("service", &service.name, message));
            }
            if old.map_or("", |o| &o.status) != service.status {
                events.push(Event::now("service", &service.name, &service.status));
            }
        }
        for (all, other, verb) in [
            (&self.addresses, &before.addresses, "configured"),
            (&before.addresses, &self.addresses, "gone"),
        ] {
            for address in all.iter().filter(|a| !other.contains(a)) {
                let message = format!("{} {verb}", address.address);
                events.push(Event::now("address", &address.interface, message));
            }
        }
        for condition in &self.conditions {
            if !before.conditions.contains(condition) {
                events.push(Event::now("condition", condition, "holds"));
            }
        }
        if self.booted && !before.booted {
            let message = match self.degraded.as_slice() {
                [] => "booted".to_owned(),
                failed => format!("booted, degraded: {} failed", failed.join(", ")),
            };
            events.push(Event::now("phase", "boot", message));
        }
        if let Some(ending) = &self.ending
            && before.ending.is_none()
        {
            events.push(Event::now("power", "machine", ending));
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(state: ServiceState, pid: Option<i32>) -> Service {
        Service {
            name: "containerd".into(),
            description: "container runtime".into(),
            state,
            pid,
            since: None,
            restarts: 0,
            status: String::new(),
        }
    }

    #[test]
    fn a_change_is_told_once() {
        let before = Boot::default();
        let mut now = Boot {
            phases: vec![Phase {
                name: "seed".into(),
                result: PhaseResult::Failed,
                milliseconds: 12,
                note: "line 2".into(),
            }],
            services: vec![service(ServiceState::Starting, Some(7))],
            addresses: vec![Address {
                interface: "eth0".into(),
                address: "10.0.0.2".parse().unwrap(),
            }],
            ..Boot::default()
        };
        let said = |events: Vec<Event>| -> Vec<String> {
            events
                .into_iter()
                .map(|e| format!("{} {} {}", e.kind, e.subject, e.message))
                .collect()
        };
        assert_eq!(
            said(now.events_since(&before)),
            [
                "phase seed failed after 12 ms: line 2",
                "service containerd starting, pid 7",
                "address eth0 10.0.0.2 configured"
            ]
        );
        assert_eq!(said(now.events_since(&now.clone())), [""; 0]);
        let before = now.clone();
        now.services[0].state = ServiceState::Ready;
        now.addresses.clear();
        now.ending = Some("rebooting".into());
        assert_eq!(
            said(now.events_since(&before)),
            [
                "service containerd ready, pid 7",
                "address eth0 10.0.0.2 gone",
                "power machine rebooting"
            ]
        );
    }

    #[test]
    fn events_stay_below_their_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let event = Event::now("service", "x", "m".repeat(1000));
        for _ in 0..1200 {
            event.append(&path).unwrap();
        }
        let aside = events_aside(&path);
        let size = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert!(size(&path) <= EVENTS_LIMIT && size(&aside) <= EVENTS_LIMIT);
        let line = std::fs::read_to_string(&path).unwrap();
        let read: Event = serde_json::from_str(line.lines().next().unwrap()).unwrap();
        assert_eq!(read, event);
        assert!(
            event.append(Path::new("/nonexistent/events")).is_err(),
            "and who can't write is told"
        );
    }
}
