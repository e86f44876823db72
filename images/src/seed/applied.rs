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
use sha2::{Digest as _, Sha256};

use super::{Parsed, Secret, Seed, SeedError, SeedFiles};
use crate::hex;

/// Where the file lies, below a node's root.
pub const APPLIED_FILE: &str = "var/lib/slipway/seed/applied.json";
/// Where `init` says which seed came from outside, below a node's root: its digest, or
/// [`NOTHING`].
pub const OUTSIDE_FILE: &str = "run/slipway/seed-outside";
/// What stands for a digest where no seed came from outside.
pub const NOTHING: &str = "none";

/// The files of a seed as they come (cloud-init's NoCloud).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Documents {
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

impl Documents {
    /// Checks the files and gives the seed.
    ///
    /// # Errors
    /// [`SeedError::Invalid`] with the line.
    pub fn check(&self) -> Result<Parsed, SeedError> {
        Seed::read(SeedFiles {
            user_data: self.user_data.reveal(),
            network_config: self.network_config.as_ref().map(Secret::reveal),
            meta_data: self.meta_data.as_ref().map(Secret::reveal),
        })
    }

    /// What they are known by: SHA-256, in hex, over length and text of each document.
    #[must_use]
    pub fn digest(&self) -> String {
        let texts = [
            Some(&self.user_data),
            self.network_config.as_ref(),
            self.meta_data.as_ref(),
        ];
        let mut hash = Sha256::new();
        for text in texts {
            let text = text.map(Secret::reveal);
            // One more than its length, so that an empty document isn't a missing one.
            let length = text.map_or(0, |text| text.len() as u64 + 1);
            hash.update(length.to_le_bytes());
            hash.update(text.unwrap_or_default());
        }
        hex(&hash.finalize())
    }
}

/// An applied seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Applied {
    /// [`Documents::digest`] of the seed from outside when this one was applied.
    pub over: String,
    /// The files.
    pub files: Documents,
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

/// The digest of the seed from outside, as `init` left it below `root`.
///
/// # Errors
/// A sentence when it can't be read.
pub fn outside(root: &Path) -> Result<String, String> {
    let path = root.join(OUTSIDE_FILE);
    match std::fs::read_to_string(&path) {
        Ok(digest) => Ok(digest),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(NOTHING.to_owned()),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(body: &str) -> Documents {
        Documents {
            user_data: Secret::new(format!("#cloud-config\n{body}")),
            network_config: None,
            meta_data: None,
        }
    }

    #[test]
    fn it_counts_over_the_seed_it_was_applied_over_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        let outside = files("hostname: a\n").digest();
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
        assert_eq!(
            Applied::over(root.path(), &files("other").digest()),
            Ok(None)
        );
        // Half written by something else than us, or tampered with.
        std::fs::write(&path, "{\"over\": \"s3cr3t").unwrap();
        let error = Applied::over(root.path(), &outside).unwrap_err();
        assert!(
            error.contains("damaged") && !error.contains("s3cr3t"),
            "{error}"
        );
    }

    #[test]
    fn a_broken_seed_is_refused_with_its_line() {
        let error = files("hostname: [a]\n").check().unwrap_err();
        assert!(error.to_string().contains("user-data:2:11"), "{error}");
    }
}
