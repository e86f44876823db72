//! Who writes the datastore: versions of Kubernetes and of Slipway.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};
use slipway_images::info::ImageInfo;

use crate::component::Name;
use crate::error::{Context, Error};
use crate::paths::Paths;

/// A minor version of Kubernetes. What one wrote, an older one may be unable to read; within
/// one it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minor(pub u32, pub u32);

impl fmt::Display for Minor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// A version of Kubernetes, such as `v1.36.3`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Kubernetes {
    text: String,
    minor: Minor,
}

impl Kubernetes {
    /// Its minor version.
    pub fn minor(&self) -> Minor {
        self.minor
    }
}

impl fmt::Display for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Kubernetes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let mut numbers = text.trim_start_matches('v').split('.').map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self {
                minor: Minor(major, minor),
                text,
            }),
            _ => Err(format!("{text:?} is no version of Kubernetes")),
        }
    }
}

impl From<Kubernetes> for String {
    fn from(version: Kubernetes) -> Self {
        version.text
    }
}

/// The versions that write a datastore, or wrote it last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Of Kubernetes.
    pub kubernetes: Kubernetes,
    /// Of the image, or of clusterd where there is none.
    pub slipway: String,
}

impl Writer {
    /// What runs here: as the image says, and outside of one as the API server does.
    ///
    /// `bin` is where programs are, if not in PATH.
    pub fn running(paths: &Paths, bin: Option<&Path>) -> Result<Self, Error> {
        let path = paths.image_info();
        if path.exists() {
            let info = ImageInfo::read(&path).map_err(|error| Error::State {
                what: path.display().to_string(),
                reason: error.to_string(),
                remedy: "boot the other slot, or build the image again",
            })?;
            return Self::of(info.kubernetes, info.version);
        }
        let name = Name::ApiServer.program();
        let program = bin.map_or_else(|| PathBuf::from(name), |bin| bin.join(name));
        let output = Command::new(&program)
            .arg("--version")
            .output()
            .context(|| format!("start {}", program.display()))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let version = said.split_whitespace().last().unwrap_or_default();
        Self::of(version.to_owned(), env!("CARGO_PKG_VERSION").to_owned())
    }

    fn of(kubernetes: String, slipway: String) -> Result<Self, Error> {
        let kubernetes = Kubernetes::try_from(kubernetes)
            .map_err(|why| std::io::Error::new(std::io::ErrorKind::InvalidData, why))
            .context(|| "tell which Kubernetes this is".to_owned())?;
        Ok(Self {
            kubernetes,
            slipway,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_have_a_minor() {
        let minor = |text: &str| Kubernetes::try_from(text.to_owned()).map(|v| v.minor());
        assert_eq!(minor("v1.36.3"), Ok(Minor(1, 36)));
        assert_eq!(minor("1.9"), Ok(Minor(1, 9)));
        assert_eq!(minor("v1.37.0-rc.1+x"), Ok(Minor(1, 37)));
        assert!(minor("v1.9.0") < minor("v1.10.0") && minor("v1.36.0") < minor("v2.0.0"));
        for wrong in ["", "v", "v1", "v1.x", "unknown"] {
            assert!(minor(wrong).is_err(), "{wrong}");
        }
    }
}
