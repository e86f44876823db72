//! A seed that was applied to a running node, and when it counts.
//!
//! | file in `/var/lib/slipway/seed/`, mode 0600 | holds |
//! |---|---|
//! | `applied.json` | [`Applied`]: the files' text, and which outside seed they replace |
//!
//! One file, so that a power cut leaves the old or the new, never a mixture. It counts as long
//! as the seed from outside (volume, fw_cfg, boot partition) is still the one that it was
//! applied over: whoever changes that one later means the change.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{Parsed, Secret, Seed, SeedError};

/// Where the file lies, below a node's root.
pub const APPLIED_FILE: &str = "var/lib/slipway/seed/applied.json";
/// Where `init` says which seed came from outside, below a node's root: its digest, or nothing.
pub const OUTSIDE_FILE: &str = "run/slipway/seed-outside";

/// The files of a seed as they come (cloud-init's NoCloud).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SeedFiles {
    /// `user-data`: `#cloud-config` YAML.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub user_data: Secret,
    /// `network-config`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub network_config: Option<Secret>,
    /// `meta-data`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub meta_data: Option<Secret>,
}

impl SeedFiles {
    /// Checks the files and gives the seed.
    ///
    /// # Errors
    /// [`SeedError::Invalid`] with the line.
    pub fn check(&self) -> Result<Parsed, SeedError> {
        Seed::parse(self.user_data.reveal())
    }
}

/// The digest that an outside seed is known by: SHA-256 of its user-data, in hex; of nothing
/// where there is none.
#[must_use]
pub fn digest(user_data: &str) -> String {
    let hash = Sha256::digest(user_data.as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An applied seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Applied {
    /// [`digest`] of the seed from outside when this one was applied.
    pub over: String,
    /// The files.
    pub files: SeedFiles,
}

impl Applied {
    /// Reads the file below `root`; `None` where no seed was applied, or over another outside
    /// seed than the one with the digest `outside`.
    ///
    /// # Errors
    /// A sentence when the file can't be read or makes no sense.
    pub fn over(root: &Path, outside: &str) -> Result<Option<Self>, String> {
        let path = root.join(APPLIED_FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let applied: Self = serde_json::from_slice(&text).map_err(|error| {
            // Its words may quote a value.
            format!("{} is damaged in line {}", path.display(), error.line())
        })?;
        Ok((applied.over == outside).then_some(applied))
    }
}

/// One difference between two seeds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Change {
    /// The key's path, such as `cluster.token`. Values are not told: they may be secret.
    pub key: String,
    /// Whether it takes effect only with a reboot.
    pub reboot: bool,
}

/// What differs between two seeds, and what of it needs a reboot. The node API's identity is
/// taken at once by `noded`; everything else is read while a node boots.
///
/// # Errors
/// [`SeedError::Json`]; not for any value of this type.
pub fn changes(old: &Seed, new: &Seed) -> Result<Vec<Change>, SeedError> {
    let tree = |seed: &Seed| {
        serde_json::to_value(seed).map_err(|error| SeedError::Json(error.to_string()))
    };
    let mut keys = Vec::new();
    compare(&tree(old)?, &tree(new)?, "", &mut keys);
    Ok(keys
        .into_iter()
        .map(|key| Change {
            reboot: key != "node-api" && !key.starts_with("node-api."),
            key,
        })
        .collect())
}

fn compare(old: &Value, new: &Value, path: &str, keys: &mut Vec<String>) {
    if old == new {
        return;
    }
    let (Value::Object(a), Value::Object(b)) = (old, new) else {
        keys.push(path.to_owned());
        return;
    };
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let below = match path {
            "" => name.clone(),
            path => format!("{path}.{name}"),
        };
        let nothing = Value::Null;
        compare(
            a.get(name).unwrap_or(&nothing),
            b.get(name).unwrap_or(&nothing),
            &below,
            keys,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(body: &str) -> SeedFiles {
        SeedFiles {
            user_data: Secret::new(format!("#cloud-config\n{body}")),
            network_config: None,
            meta_data: None,
        }
    }

    #[test]
    fn it_counts_over_the_seed_it_was_applied_over_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        let outside = digest("#cloud-config\nhostname: a\n");
        assert_eq!(Applied::over(root.path(), &outside), Ok(None));
        let path = root.path().join(APPLIED_FILE);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let applied = Applied {
            over: outside.clone(),
            files: files("hostname: b\n"),
        };
        std::fs::write(&path, serde_json::to_string(&applied).unwrap()).unwrap();
        let found = Applied::over(root.path(), &outside).unwrap().unwrap();
        let seed = found.files.check().unwrap().seed;
        assert_eq!(seed.hostname.as_deref(), Some("b"));
        assert_eq!(Applied::over(root.path(), &digest("other")), Ok(None));
        // Half written by something else than us, or tampered with.
        std::fs::write(&path, "{\"over\": \"s3cr3t").unwrap();
        let error = Applied::over(root.path(), &outside).unwrap_err();
        assert!(
            error.contains("damaged") && !error.contains("s3cr3t"),
            "{error}"
        );
    }

    #[test]
    fn changes_name_keys_and_no_values() {
        let seed = |body: &str| files(body).check().unwrap().seed;
        let old = seed("hostname: a\nslipway: {cluster: {token: s3cr3t}}\n");
        let new = seed("hostname: b\nslipway: {cluster: {token: other}}\n");
        let found = changes(&old, &new).unwrap();
        let keys: Vec<_> = found.iter().map(|c| (c.key.as_str(), c.reboot)).collect();
        assert_eq!(keys, [("cluster.token", true), ("hostname", true)]);
        assert_eq!(changes(&old, &old).unwrap(), []);
    }

    #[test]
    fn a_broken_seed_is_refused_with_its_line() {
        let error = files("hostname: [a]\n").check().unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
