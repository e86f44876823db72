//! What differs between two seeds, and what it takes for a running node to follow.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Seed;

/// What it takes for a change to have effect on a node that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// It is followed at once.
    Live,
    /// The node is rebooted.
    Reboot,
    /// It was settled when the node or its cluster was made: a factory reset and a new
    /// first boot follow it.
    Reset,
}

impl Effect {
    /// What has to be done, in words, for the node to follow.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Live => "a node follows at once",
            Self::Reboot => "a node has to be rebooted",
            Self::Reset => "a node has to be reset: it starts over with an empty data partition",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Live => "live",
            Self::Reboot => "reboot",
            Self::Reset => "reset",
        })
    }
}

/// One difference. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Change {
    /// The key's path in the checked seed, such as `cluster.labels.disk`.
    pub key: String,
    /// What happened to it.
    pub what: What,
    /// What it takes.
    pub effect: Effect,
}

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// From one value to another; both as JSON.
    Changed(String, String),
    /// It has another value, which is not shown: secret, or long.
    ChangedUnseen,
    /// It wasn't there.
    Added,
    /// It is there no more.
    Removed,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7} {}", self.effect, self.key)?;
        match &self.what {
            What::Changed(old, new) => write!(f, ": {old} -> {new}"),
            What::ChangedUnseen => f.write_str(": changed"),
            What::Added => f.write_str(": added"),
            What::Removed => f.write_str(": removed"),
        }
    }
}

/// Effects by path; the longest that fits counts. Everything else is read while a node boots.
const EFFECTS: &[(&str, Effect)] = &[
    // The node would be another one to its cluster.
    ("hostname", Effect::Reset),
    ("data", Effect::Reset),
    // The node API takes another identity at once.
    ("node-api", Effect::Live),
    // ssh reads them with each login, containerd with each pull.
    ("ssh-authorized-keys", Effect::Live),
    ("users", Effect::Live),
    ("timezone", Effect::Live),
    ("ntp", Effect::Live),
    ("registries", Effect::Live),
    ("cluster.name", Effect::Reset),
    ("cluster.role", Effect::Reset),
    ("cluster.datastore", Effect::Reset),
    ("cluster.node-address", Effect::Reboot),
    ("cluster.pod-cidr", Effect::Reset),
    ("cluster.service-cidr", Effect::Reset),
    ("cluster.cluster-domain", Effect::Reset),
    ("cluster.ca", Effect::Reset),
];

/// Keys whose values are not shown.
const UNSEEN: &[&str] = &[
    "cluster.token",
    "cluster.agent-token",
    "cluster.datastore",
    "cluster.ca",
    "cluster.extra-args",
    "node-api",
    "registries",
    "write-files",
    "ca-certs.trusted",
    "network",
    "users",
    "ssh-authorized-keys",
];

/// Longest value that is shown, in bytes.
const SHOWN: usize = 60;

/// What all of them together take.
#[must_use]
pub fn effect_of(changes: &[Change]) -> Option<Effect> {
    changes.iter().map(|change| change.effect).max()
}

/// All differences, in the order of their keys; what takes most is not put first.
#[must_use]
pub fn diff(old: &Seed, new: &Seed) -> Vec<Change> {
    let json = |seed: &Seed| serde_json::to_value(seed).unwrap_or_default();
    let mut changes = Vec::new();
    compare("", &json(old), &json(new), &mut changes);
    changes
}

fn compare(path: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    if old == new {
        return;
    }
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            let below = match path {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            let get =
                |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
            compare(&below, &get(old), &get(new), changes);
        }
        return;
    }
    if let Some((key, old, new)) = lists(path, old, new) {
        for (index, (old, new)) in old.into_iter().zip(new).enumerate() {
            compare(&format!("{key}[{index}]"), &old, &new, changes);
        }
        return;
    }
    let what = match (old, new) {
        (Value::Null, _) => What::Added,
        (_, Value::Null) => What::Removed,
        _ => {
            let (old, new) = (old.to_string(), new.to_string());
            if is_below_any(path, UNSEEN) || old.len() > SHOWN || new.len() > SHOWN {
                What::ChangedUnseen
            } else {
                What::Changed(old, new)
            }
        }
    };
    changes.push(Change {
        key: path.to_owned(),
        what,
        effect: effect(path),
    });
}

/// Two lists of mappings, made as long as each other.
fn lists<'p>(path: &'p str, old: &Value, new: &Value) -> Option<(&'p str, Vec<Value>, Vec<Value>)> {
    let (Value::Array(old), Value::Array(new)) = (old, new) else {
        return None;
    };
    if !old.iter().chain(new).all(Value::is_object) {
        return None;
    }
    let (mut old, mut new) = (old.clone(), new.clone());
    let length = old.len().max(new.len());
    old.resize(length, Value::Null);
    new.resize(length, Value::Null);
    Some((path, old, new))
}

impl Seed {
    /// Takes over from `new` what a running node follows at once ([`Effect::Live`]).
    pub fn take_live(&mut self, new: &Self) {
        self.node_api.clone_from(&new.node_api);
        self.ssh_authorized_keys
            .clone_from(&new.ssh_authorized_keys);
        self.registries.clone_from(&new.registries);
        self.users.clone_from(&new.users);
        self.timezone.clone_from(&new.timezone);
        self.ntp.clone_from(&new.ntp);
    }
}

/// What it takes to follow a change of this key.
#[must_use]
pub fn effect(path: &str) -> Effect {
    let path = &without_indices(path);
    let fits = EFFECTS.iter().filter(|(prefix, _)| is_below(path, prefix));
    let longest = fits.max_by_key(|(prefix, _)| prefix.len());
    longest.map_or(Effect::Reboot, |(_, effect)| *effect)
}

/// `users[3].name` as `users[].name`.
fn without_indices(path: &str) -> String {
    let mut inside = false;
    let keep = |c: &char| {
        inside = match c {
            '[' => true,
            ']' => false,
            _ => inside,
        };
        !inside || *c == '['
    };
    path.chars().filter(keep).collect()
}

fn is_below_any(path: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| is_below(path, prefix))
}

fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(body: &str) -> Seed {
        Seed::parse(&format!("#cloud-config\n{body}")).unwrap().seed
    }

    #[test]
    fn each_change_is_named_with_what_it_takes() {
        let old = seed(
            "hostname: a\nntp: {servers: [a.example]}\nslipway: {cluster: {labels: {disk: ssd}, token: one-secret, pod-cidr: 10.1.0.0/16}}\n",
        );
        let new = seed(
            "hostname: b\nntp: {servers: [b.example]}\nslipway: {cluster: {labels: {disk: hdd, rack: r1}, token: two-secret, pod-cidr: 10.2.0.0/16}}\n",
        );
        let lines: Vec<String> = diff(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "reboot  cluster.labels.disk: \"ssd\" -> \"hdd\"",
                "reboot  cluster.labels.rack: added",
                "reset   cluster.pod-cidr: \"10.1.0.0/16\" -> \"10.2.0.0/16\"",
                "reboot  cluster.token: changed",
                "reset   hostname: \"a\" -> \"b\"",
                "live    ntp.servers: [\"a.example\"] -> [\"b.example\"]",
            ]
        );
        assert_eq!(diff(&new, &new), []);
    }

    #[test]
    fn lists_are_compared_entry_by_entry_and_their_secrets_stay_unseen() {
        let old = seed("write_files:\n- {path: /etc/a, content: s3cr3t}\n");
        let new = seed("write_files:\n- {path: /etc/a, content: s3cr3t2}\n- {path: /etc/b}\n");
        let changes = diff(&old, &new);
        let keys: Vec<_> = changes.iter().map(|c| c.key.as_str()).collect();
        assert_eq!(keys, ["write-files[0].content", "write-files[1]"]);
        assert!(!format!("{changes:?}").contains("czNjc"));
    }

    #[test]
    fn what_is_live_is_taken_over_and_nothing_else() {
        let key = |who: &str| format!("ssh-ed25519 AAAA{who}");
        let old = seed(&format!(
            "hostname: a\nssh_authorized_keys: [{}]\nusers:\n- {{name: ann, ssh_authorized_keys: [{}]}}\n- {{name: bob, ssh_authorized_keys: [{}]}}\n",
            key("r"),
            key("a"),
            key("b")
        ));
        let new = seed(&format!(
            "timezone: Europe/Lisbon\nntp: {{enabled: false}}\nfqdn: a.example\nhostname: a\nusers:\n- {{name: ann, ssh_authorized_keys: [{}]}}\nslipway: {{registries: {{r.example: {{username: u, password: p}}}}}}\n",
            key("n")
        ));
        let changes = diff(&old, &new);
        let of = |key: &str| changes.iter().find(|c| c.key == key).map(|c| c.effect);
        assert_eq!(of("ssh-authorized-keys"), Some(Effect::Live));
        assert_eq!(of("users[0].ssh-authorized-keys"), Some(Effect::Live));
        assert_eq!(of("users[1]"), Some(Effect::Live));
        assert_eq!(of("registries.r.example"), Some(Effect::Live));
        let mut taken = old.clone();
        taken.take_live(&new);
        let left: Vec<_> = diff(&taken, &new)
            .into_iter()
            .filter(|change| change.effect == Effect::Live)
            .collect();
        assert_eq!(left, []);
        assert_eq!(taken.users[0].ssh_authorized_keys, [key("n")]);
        assert_eq!((taken.users.len(), taken.ntp.enabled), (1, false));
        assert_eq!(taken.timezone.as_deref(), Some("Europe/Lisbon"));
        assert_eq!(taken.fqdn, None);
    }

    /// The tables name keys that there are, so that a renamed one doesn't fall out of them.
    #[test]
    fn the_tables_name_keys_of_a_seed() {
        let all = serde_json::to_value(seed("users: [{name: a}]\n")).unwrap();
        for prefix in EFFECTS
            .iter()
            .map(|(prefix, _)| *prefix)
            .chain(UNSEEN.iter().copied())
        {
            let mut at = &all;
            for part in prefix.split('.') {
                let (key, list) = match part.strip_suffix("[]") {
                    Some(key) => (key, true),
                    None => (part, false),
                };
                at = at
                    .get(key)
                    .and_then(|value| if list { value.get(0) } else { Some(value) })
                    .unwrap_or_else(|| panic!("{prefix} is no key of a seed"));
            }
        }
    }
}
