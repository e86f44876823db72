//! The lock: the exact inputs of an image. A build from a lock either gives the
//! same bytes or refuses; it never quietly takes something else.
//!
//! The file is TOML:
//!
//! | key | meaning |
//! |---|---|
//! | `format` | 1 |
//! | `board`, `version` | name of the board, version of the image |
//! | `epoch` | seconds since 1970-01-01 UTC; every time in the image is this one |
//! | `image-release` | the image's release number, if the build was given one |
//! | `[sources]` | digests of what this repository contributes |
//! | `[tools]` | versions of the compilers |
//! | `[[release]]` | the signed Debian releases that packages were chosen from |
//! | `[[package]]` | every Debian package, with digest and place on a mirror |

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::debian::{Package, ReleaseId};
use crate::digest;
use crate::error::{At as _, Error, Kind, Result};

/// The format written and the only one read.
const FORMAT: u32 = 1;

/// The exact inputs of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Always [`FORMAT`].
    pub format: u32,
    /// Name of the board's TOML.
    pub board: String,
    /// Seconds since 1970-01-01 UTC: when the newest Debian release was signed.
    pub epoch: i64,
    /// The image's release number; none for [`epoch`](Self::epoch).
    #[serde(
        rename = "image-release",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub image_release: Option<u64>,
    /// Name of a group of sources to the digest of its files.
    pub sources: BTreeMap<String, String>,
    /// Name of a compiler to its version.
    pub tools: BTreeMap<String, String>,
    /// The Debian releases.
    #[serde(rename = "release", default)]
    pub releases: Vec<ReleaseId>,
    /// The Debian packages, sorted by name.
    #[serde(rename = "package", default)]
    pub packages: Vec<Package>,
}

impl Lock {
    /// A lock in today's format.
    pub fn new(
        board: &str,
        releases: Vec<ReleaseId>,
        packages: Vec<Package>,
        sources: BTreeMap<String, String>,
        tools: BTreeMap<String, String>,
    ) -> Self {
        let epoch = releases.iter().map(|r| r.date).max().unwrap_or(0);
        Self {
            format: FORMAT,
            board: board.to_owned(),
            epoch,
            image_release: None,
            sources,
            tools,
            releases,
            packages,
        }
    }

    /// Reads a lock.
    ///
    /// # Errors
    /// [`Kind::Input`] with file and line for what isn't a lock of this format.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).at("reading", path)?;
        Self::parse(&text).map_err(|e| {
            e.within(path.display())
                .hint("a lock is written by `slipway build` and isn't edited by hand")
        })
    }

    fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Peek {
            format: u32,
        }
        let bad = |e: toml::de::Error| {
            let line = e.span().map_or(1, |s| {
                text.get(..s.start).unwrap_or("").matches('\n').count() + 1
            });
            Error::new(Kind::Input, format!("line {line}: {}", e.message().trim()))
        };
        let peek: Peek = toml::from_str(text).map_err(bad)?;
        if peek.format != FORMAT {
            return Err(Error::new(
                Kind::Input,
                format!(
                    "lock format {} is not known; this slipway reads {FORMAT}",
                    peek.format
                ),
            ));
        }
        toml::from_str(text).map_err(bad)
    }

    /// The file's text.
    ///
    /// # Errors
    /// [`Kind::Bug`] only.
    pub fn text(&self) -> Result<String> {
        let body = toml::to_string(self)
            .map_err(|e| Error::new(Kind::Bug, format!("writing the lock: {e}")))?;
        Ok(format!(
            "# The exact inputs of an image. Written by `slipway build`; read by `slipway build --locked`.\n{body}"
        ))
    }

    /// Hex SHA-256 over everything that decides the image's bytes: what the
    /// image's UUIDs and version are made from.
    ///
    /// # Errors
    /// [`Kind::Bug`] only.
    pub fn digest(&self) -> Result<String> {
        Ok(digest::hex(self.text()?.as_bytes()))
    }

    /// The image's version: ours, the day its inputs were signed, and a few
    /// digits of their digest, so that no two images share one.
    ///
    /// # Errors
    /// [`Kind::Bug`] only.
    pub fn version(&self) -> Result<String> {
        let day = crate::time::date(self.epoch).replace('-', "");
        Ok(format!(
            "{}-{day}-{}",
            env!("CARGO_PKG_VERSION"),
            &self.digest()?[..8]
        ))
    }

    /// Refuses a lock that this checkout and these compilers can't honour.
    ///
    /// # Errors
    /// [`Kind::Input`] naming each difference.
    pub fn check(
        &self,
        board: &str,
        sources: &BTreeMap<String, String>,
        tools: &BTreeMap<String, String>,
    ) -> Result<()> {
        let mut differ = Vec::new();
        if self.board != board {
            differ.push(format!("it is for board {}, not {board}", self.board));
        }
        for (name, here) in sources {
            if self.sources.get(name) != Some(here) {
                differ.push(format!("the sources of `{name}` have changed"));
            }
        }
        for name in self.sources.keys().filter(|n| !sources.contains_key(*n)) {
            differ.push(format!("it was made with `{name}`, which isn't given here"));
        }
        for (name, here) in tools {
            match self.tools.get(name) {
                Some(then) if then == here => {}
                Some(then) => {
                    differ.push(format!("it was made with {name} {then}, here is {here}"))
                }
                None => differ.push(format!("it doesn't say which {name} it was made with")),
            }
        }
        if differ.is_empty() {
            return Ok(());
        }
        Err(
            Error::new(Kind::Input, format!("the lock doesn't fit: {}", differ.join("; ")))
                .hint("check out the commit and install the compilers it was made with, or build without --locked"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lock() -> Lock {
        Lock::new(
            "x86_64",
            Vec::new(),
            Vec::new(),
            BTreeMap::from([("board".into(), "aa".into())]),
            BTreeMap::from([("go".into(), "1.26.8".into())]),
        )
    }

    #[test]
    fn a_lock_survives_writing_and_reading() {
        let text = lock().text().unwrap();
        assert_eq!(Lock::parse(&text).unwrap(), lock());
    }

    #[test]
    fn a_release_number_is_an_input_as_others_are() {
        let numbered = |number| Lock {
            image_release: Some(number),
            ..lock()
        };
        let text = numbered(7).text().unwrap();
        assert!(text.contains("\nimage-release = 7\n"), "{text}");
        assert_eq!(Lock::parse(&text).unwrap(), numbered(7));
        let version = |lock: Lock| lock.version().unwrap();
        assert_eq!(version(numbered(7)), version(numbered(7)));
        assert_ne!(version(numbered(7)), version(numbered(8)));
        assert_ne!(version(numbered(7)), version(lock()));
    }

    #[test]
    fn what_differs_is_named() {
        let l = lock();
        assert!(l.check("x86_64", &l.sources, &l.tools).is_ok());
        let tools = BTreeMap::from([("go".into(), "1.27.0".into())]);
        let e = l.check("pi4", &l.sources, &tools).unwrap_err();
        assert_eq!(e.kind, Kind::Input);
        assert!(e.message().contains("board x86_64, not pi4"), "{e}");
        assert!(e.message().contains("go 1.26.8, here is 1.27.0"), "{e}");
        let without = l.check("x86_64", &BTreeMap::new(), &l.tools).unwrap_err();
        assert!(without.message().contains("with `board`"), "{without}");
    }

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let e = Lock::parse("format = 2\nnew = true\n").unwrap_err();
        assert!(e.message().contains("format 2"), "{e}");
    }

    #[test]
    fn an_error_has_its_line() {
        let e = Lock::parse("format = 1\nboard = 3\n").unwrap_err();
        assert!(e.message().starts_with("line 2"), "{e}");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read(text in "\\PC*") {
            Lock::parse(&text).map(|_| ()).unwrap_or(());
        }

        #[test]
        fn a_damaged_lock_is_refused_or_read(at in 0usize..400, with in "\\PC{0,4}") {
            let mut text = lock().text().unwrap();
            let at = at.min(text.len());
            if text.is_char_boundary(at) {
                text.insert_str(at, &with);
            }
            Lock::parse(&text).map(|_| ()).unwrap_or(());
        }
    }
}
