//! Service definitions: `/usr/lib/slipway/services/<name>.toml`, what `init` supervises.
//!
//! | key | default | meaning |
//! |---|---|---|
//! | `description` | required | one line for the console and logs |
//! | `command` | required | argv; the first is an absolute path |
//! | `after` | `[]` | services, or conditions of `init` ([`CONDITIONS`]), that must be ready first |
//! | `uses` | `[]` | services it talks to: started before it and stopped after it, but not waited for |
//! | `ready` | `"started"` | `"notify"`, `"started"` or `{ socket = "/path" }` |
//! | `optional` | `false` | an image without its program is built without the service; otherwise it isn't built |
//! | `needs-data` | `true` | whether it can't do without `/var`: with `false` it also runs on a node whose data partition can't be used |
//! | `environment` | `{}` | added to a minimal environment (PATH, HOME) |
//! | `restart-delay` | `"1s"` | doubles with each failure, back to this after a healthy minute |
//! | `restart-delay-max` | `"1m"` | where the doubling ends |
//! | `start-timeout` | `"5m"` | from start to ready; then it is restarted |
//! | `stop-timeout` | `"20s"` | from SIGTERM to SIGKILL |
//! | `kill-mode` | `"group"` | `"process"`: children outlive a restart (pods' shims) |
//! | `watchdog` | none | longest time between two `WATCHDOG=1`, once ready |
//! | `oom-score-adj` | `0` | -1000 to 1000 |
//! | `memory-high`, `memory-max` | none | cgroup v2 limits, such as `"512M"` |
//!
//! Durations are a whole number and a unit: `ms`, `s`, `m` or `h`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// Names that `after` may hold besides services: `network` (an address is configured),
/// `seed` (the seed is usable), `modules` (the lists of modules and sysctls are through),
/// `time` (the clock was set from a server), [`SSH_KEYS`] and [`WIFI`]. The last two may cease to
/// hold: then services that name them are stopped until they hold again.
/// That `/var` is mounted is a condition of every service with `needs-data`.
pub const CONDITIONS: [&str; 6] = ["network", "seed", "modules", "time", SSH_KEYS, WIFI];

/// The condition that the seed gives somebody a key for ssh, and the host has one.
pub const SSH_KEYS: &str = "ssh-keys";

/// The condition that the seed has wireless interfaces, one of which is there.
pub const WIFI: &str = "wireless";

/// One service, as its TOML file gives it and checked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Service {
    /// The file's name without `.toml`.
    #[serde(skip)]
    pub name: String,
    /// One line for people.
    pub description: String,
    /// argv; the first is an absolute path.
    pub command: Vec<String>,
    /// Services and conditions that must be ready before this is started.
    #[serde(default)]
    pub after: Vec<String>,
    /// Services that are started before this, without a wait until they are ready.
    #[serde(default)]
    pub uses: Vec<String>,
    /// What makes it ready.
    #[serde(default)]
    pub ready: Ready,
    /// Whether an image may lack its program, and then it.
    #[serde(default)]
    pub optional: bool,
    /// Whether it can't do without `/var`.
    #[serde(default = "Service::default_needs_data")]
    pub needs_data: bool,
    /// Added to the environment.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Pause before the first restart.
    #[serde(
        default = "Service::default_restart_delay",
        deserialize_with = "duration"
    )]
    pub restart_delay: Duration,
    /// Longest pause before a restart.
    #[serde(
        default = "Service::default_restart_delay_max",
        deserialize_with = "duration"
    )]
    pub restart_delay_max: Duration,
    /// Longest time from start to ready.
    #[serde(
        default = "Service::default_start_timeout",
        deserialize_with = "duration"
    )]
    pub start_timeout: Duration,
    /// Longest time from SIGTERM to SIGKILL.
    #[serde(
        default = "Service::default_stop_timeout",
        deserialize_with = "duration"
    )]
    pub stop_timeout: Duration,
    /// What is killed when it has ended.
    #[serde(default)]
    pub kill_mode: KillMode,
    /// Longest time between two `WATCHDOG=1`.
    #[serde(default, deserialize_with = "some_duration")]
    pub watchdog: Option<Duration>,
    /// `/proc/<pid>/oom_score_adj`.
    #[serde(default)]
    pub oom_score_adj: i32,
    /// cgroup v2 `memory.high`.
    #[serde(default)]
    pub memory_high: Option<String>,
    /// cgroup v2 `memory.max`.
    #[serde(default)]
    pub memory_max: Option<String>,
}

/// What makes a service ready.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// It says `READY=1` on its NOTIFY_SOCKET (sd_notify(3)).
    Notify,
    /// It was started.
    #[default]
    Started,
    /// A unix socket at this path accepts connections.
    Socket(PathBuf),
}

/// What is killed before a service is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KillMode {
    /// Everything left in its cgroup.
    #[default]
    Group,
    /// Nothing: its children live on.
    Process,
}

/// What is wrong with a service's file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("service {name}: {reason}")]
pub struct ServiceError {
    /// The service.
    pub name: String,
    /// Line, column and reason.
    pub reason: String,
}

impl Service {
    fn default_needs_data() -> bool {
        true
    }
    fn default_restart_delay() -> Duration {
        Duration::from_secs(1)
    }
    fn default_restart_delay_max() -> Duration {
        Duration::from_secs(60)
    }
    fn default_start_timeout() -> Duration {
        Duration::from_secs(300)
    }
    fn default_stop_timeout() -> Duration {
        Duration::from_secs(20)
    }

    /// Parses and checks one file. `name` is the file's name without `.toml`.
    ///
    /// # Errors
    /// [`ServiceError`] for broken TOML, unknown keys and values that make no sense.
    pub fn parse(name: &str, text: &str) -> Result<Self, ServiceError> {
        let error = |reason: String| ServiceError {
            name: name.to_owned(),
            reason,
        };
        let mut service: Self =
            toml::from_str(text).map_err(|e| error(e.to_string().trim_end().to_owned()))?;
        service.name = name.to_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(error(
                "its name may hold letters, digits, - and _ only".into(),
            ));
        }
        if CONDITIONS.contains(&name) {
            return Err(error("this name is a condition of init".into()));
        }
        match service.command.first() {
            Some(program) if program.starts_with('/') => {}
            _ => return Err(error("`command` needs an absolute path first".into())),
        }
        let has_nul = service.command.iter().any(|s| s.contains('\0'))
            || service
                .environment
                .iter()
                .any(|(k, v)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0'));
        if has_nul {
            return Err(error(
                "`command` or `environment` holds a name or value the kernel refuses".into(),
            ));
        }
        for (key, others) in [("after", &service.after), ("uses", &service.uses)] {
            if others.iter().any(|other| other == name) {
                return Err(error(format!("`{key}` names the service itself")));
            }
        }
        if !(-1000..=1000).contains(&service.oom_score_adj) {
            return Err(error(
                "`oom-score-adj` must be between -1000 and 1000".into(),
            ));
        }
        if service.restart_delay > service.restart_delay_max {
            service.restart_delay_max = service.restart_delay;
        }
        Ok(service)
    }
}

/// Checks that every `after` names a service or condition and every `uses` a service, and
/// that no services wait for each other. Gives the services in an order in which each comes
/// after what it needs.
///
/// # Errors
/// [`ServiceError`] of the first service found with a wrong `after` or `uses`.
pub fn start_order(services: Vec<Service>) -> Result<Vec<Service>, ServiceError> {
    let names: BTreeSet<String> = services.iter().map(|s| s.name.clone()).collect();
    for service in &services {
        for needed in &service.after {
            if !names.contains(needed) && !CONDITIONS.contains(&needed.as_str()) {
                return Err(ServiceError {
                    name: service.name.clone(),
                    reason: format!("`after` names `{needed}`, which is no service here"),
                });
            }
        }
        if let Some(used) = service.uses.iter().find(|used| !names.contains(*used)) {
            return Err(ServiceError {
                name: service.name.clone(),
                reason: format!("`uses` names `{used}`, which is no service here"),
            });
        }
    }
    let mut rest = services;
    rest.sort_by(|a, b| a.name.cmp(&b.name));
    let mut ordered: Vec<Service> = Vec::new();
    while !rest.is_empty() {
        let waiting = |s: &Service| {
            s.after
                .iter()
                .chain(&s.uses)
                .any(|a| names.contains(a) && !ordered.iter().any(|o| o.name == *a))
        };
        let (blocked, mut free): (Vec<_>, Vec<_>) = rest.into_iter().partition(waiting);
        if let (true, Some(first)) = (free.is_empty(), blocked.first()) {
            return Err(ServiceError {
                name: first.name.clone(),
                reason: "`after` and `uses` go round in a circle".into(),
            });
        }
        ordered.append(&mut free);
        rest = blocked;
    }
    Ok(ordered)
}

/// Parses `250ms`, `20s`, `5m` or `1h`.
///
/// # Errors
/// A sentence saying what is expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = || format!("`{text}` is no duration; write a whole number and ms, s, m or h");
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(expected)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| expected())?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    number
        .checked_mul(millis)
        .map(Duration::from_millis)
        .ok_or_else(expected)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.description)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn service(name: &str, after: &[&str]) -> Service {
        let after = after
            .iter()
            .map(|a| format!("{a:?}"))
            .collect::<Vec<_>>()
            .join(",");
        Service::parse(
            name,
            &format!("description = \"d\"\ncommand = [\"/bin/true\"]\nafter = [{after}]"),
        )
        .unwrap()
    }

    #[test]
    fn a_full_file() {
        let s = Service::parse(
            "containerd",
            r#"
            description = "container runtime"
            command = ["/usr/bin/containerd", "--config", "/c.toml"]
            after = []
            ready = { socket = "/run/containerd/containerd.sock" }
            environment = { KEY = "v" }
            restart-delay = "250ms"
            stop-timeout = "2m"
            watchdog = "30s"
            oom-score-adj = -999
            memory-high = "1G"
            "#,
        )
        .unwrap();
        assert_eq!(
            s.ready,
            Ready::Socket("/run/containerd/containerd.sock".into())
        );
        assert_eq!(s.restart_delay, Duration::from_millis(250));
        assert_eq!(s.restart_delay_max, Duration::from_secs(60));
        assert_eq!(s.stop_timeout, Duration::from_secs(120));
        assert_eq!(s.watchdog, Some(Duration::from_secs(30)));
        assert_eq!(s.memory_high.as_deref(), Some("1G"));
    }

    #[test]
    fn the_services_of_the_image_are_sound() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../distro/services");
        let mut services = Vec::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if path.extension().is_some_and(|e| e == "toml") {
                let text = std::fs::read_to_string(&path).unwrap();
                services.push(Service::parse(&name, &text).unwrap());
            }
        }
        let order = start_order(services).unwrap();
        let at = |name: &str| order.iter().position(|s| s.name == name).unwrap();
        assert!(at("containerd") < at("clusterd"));
    }

    #[test]
    fn refusals_name_the_service_and_the_reason() {
        let ok = "description = \"d\"\ncommand = [\"/bin/true\"]\n";
        for (extra, part) in [
            ("restart-dely = \"1s\"", "restart-dely"),
            ("restart-delay = \"1 s\"", "no duration"),
            ("ready = \"soon\"", "soon"),
            ("oom-score-adj = 1001", "oom-score-adj"),
            ("after = [\"x\"]", "itself"),
            ("uses = [\"x\"]", "itself"),
            ("environment = { \"a=b\" = \"c\" }", "refuses"),
        ] {
            let error = Service::parse("x", &format!("{ok}{extra}"))
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with("service x: ") && error.contains(part),
                "{error}"
            );
        }
        for text in [
            "description = \"d\"\ncommand = []",
            "description = \"d\"\ncommand = [\"true\"]",
        ] {
            assert!(Service::parse("x", text).is_err());
        }
        assert!(Service::parse("../x", ok).is_err());
        assert!(Service::parse("network", ok).is_err());
    }

    #[test]
    fn order_unknown_and_circle() {
        let order = start_order(vec![service("a", &["b", "network"]), service("b", &[])]).unwrap();
        assert_eq!(
            order.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
            ["b", "a"]
        );
        assert!(
            start_order(vec![service("a", &["z"])])
                .unwrap_err()
                .reason
                .contains("`z`")
        );
        let circle = start_order(vec![service("a", &["b"]), service("b", &["a"])]);
        assert!(circle.unwrap_err().reason.contains("circle"));
        let using = |name: &str, used: &str| Service {
            uses: vec![used.to_owned()],
            ..service(name, &[])
        };
        let order = start_order(vec![using("a", "b"), service("b", &[])]).unwrap();
        assert_eq!(order[1].name, "a");
        for wrong in ["z", "network"] {
            let refused = start_order(vec![using("a", wrong)]).unwrap_err();
            assert!(refused.reason.contains(wrong), "{refused}");
        }
        let circle = start_order(vec![using("a", "b"), service("b", &["a"])]);
        assert!(circle.unwrap_err().reason.contains("circle"));
    }

    proptest! {
        #[test]
        fn parsers_never_panic(text in "\\PC*", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse_duration(&text));
            drop(Service::parse("x", &text));
            drop(Service::parse("x", &String::from_utf8_lossy(&bytes)));
        }

        #[test]
        fn durations_round_trip(n in 0u64..1_000_000) {
            prop_assert_eq!(parse_duration(&format!("{n}ms")), Ok(Duration::from_millis(n)));
            prop_assert_eq!(parse_duration(&format!("{n}h")), Ok(Duration::from_secs(n * 3600)));
        }
    }
}
