//! Which mirror to read: the one that the host's apt is set up with, or the one
//! that was named.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::deb822;
use crate::error::{At as _, Error, Kind, Result};

/// Which of Debian's archives a suite is in; they live at different URLs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArchiveKind {
    /// Releases and their updates.
    Main,
    /// Security updates.
    Security,
}

/// Where Debian's archives can be read. There may be several places for one; the
/// first that serves a suite is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    main: Vec<String>,
    security: Vec<String>,
}

/// Releases of Debian that an apt entry may name. An entry for another suite is
/// a third party's and is never asked.
const SUITES: [&str; 15] = [
    "stable",
    "oldstable",
    "oldoldstable",
    "testing",
    "unstable",
    "experimental",
    "sid",
    "rc-buggy",
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "stretch",
];

const HINT: &str =
    "name a Debian mirror with --mirror URL (the directory that holds dists/ and pool/)";

impl Mirror {
    /// The mirror at `explicit`, or the one of the host's apt.
    ///
    /// `explicit` is a base URL (`http:`, `https:` or `file:`), optionally with a
    /// comma and the base URL of the security archive. If that one isn't named, it
    /// is looked for beside the mirror (`debian-security`) and in it.
    ///
    /// # Errors
    /// [`Kind::Usage`] for what isn't a URL; [`Kind::Input`] if apt has no Debian.
    pub fn resolve(explicit: Option<&str>) -> Result<Self> {
        match explicit {
            Some(urls) => Self::named(urls),
            None => Self::of_apt(Path::new("/etc/apt")),
        }
    }

    fn named(urls: &str) -> Result<Self> {
        let (main, security) = match urls.split_once(',') {
            Some((main, security)) => (main, Some(security)),
            None => (urls, None),
        };
        let main = base(main).ok_or_else(|| {
            Error::new(Kind::Usage, format!("`{main}` is not a mirror's URL")).hint(HINT)
        })?;
        let security = match security {
            Some(url) => vec![base(url).ok_or_else(|| {
                Error::new(Kind::Usage, format!("`{url}` is not a mirror's URL")).hint(HINT)
            })?],
            None => beside(&main),
        };
        Ok(Self {
            main: vec![main],
            security,
        })
    }

    /// Reads `sources.list`, `sources.list.d/*.list` and `sources.list.d/*.sources`.
    ///
    /// # Errors
    /// As for [`Mirror::resolve`].
    pub fn of_apt(etc_apt: &Path) -> Result<Self> {
        let mut files = vec![etc_apt.join("sources.list")];
        let parts = etc_apt.join("sources.list.d");
        if parts.is_dir() {
            let mut found = Vec::new();
            for entry in fs::read_dir(&parts).at("reading", &parts)? {
                found.push(entry.at("reading", &parts)?.path());
            }
            found.sort();
            files.extend(found);
        }
        let mut mirror = Self {
            main: Vec::new(),
            security: Vec::new(),
        };
        for file in files {
            let extension = file.extension().and_then(|e| e.to_str());
            let read = match extension {
                Some("sources") => deb822_entries,
                Some("list") => one_line_entries,
                _ => continue,
            };
            match fs::read(&file) {
                Ok(bytes) => mirror.take(read(&String::from_utf8_lossy(&bytes))),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("reading", &file, &e)),
            }
        }
        if mirror.main.is_empty() {
            return Err(
                Error::new(Kind::Input, "this machine's apt has no Debian mirror").hint(HINT),
            );
        }
        if mirror.security.is_empty() {
            mirror.security = mirror.main.iter().flat_map(|m| beside(m)).collect();
        }
        Ok(mirror)
    }

    fn take(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let Some(url) = base(&entry.uri) else {
                continue;
            };
            for suite in &entry.suites {
                let name = suite.split(['-', '/']).next().unwrap_or_default();
                if !SUITES.contains(&name) || !entry.components.iter().any(|c| c == "main") {
                    continue;
                }
                let security = suite.contains("security") || suite.contains("/updates");
                let list = if security {
                    &mut self.security
                } else {
                    &mut self.main
                };
                if !list.contains(&url) {
                    list.push(url.clone());
                }
            }
        }
    }

    /// The places to try for an archive, in order, without a slash at the end.
    pub fn bases(&self, kind: ArchiveKind) -> &[String] {
        match kind {
            ArchiveKind::Main => &self.main,
            ArchiveKind::Security => &self.security,
        }
    }

    /// Puts the place that was found to work first.
    pub(crate) fn prefer(&mut self, kind: ArchiveKind, url: &str) {
        let list = match kind {
            ArchiveKind::Main => &mut self.main,
            ArchiveKind::Security => &mut self.security,
        };
        if let Some(at) = list.iter().position(|u| u == url) {
            list.swap(0, at);
        }
    }
}

/// An apt source that has binary packages.
struct Entry {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
}

/// A URL that we can read, without the slash at its end.
fn base(url: &str) -> Option<String> {
    let url = url.trim().trim_end_matches('/');
    let (scheme, rest) = url.split_once(':')?;
    match scheme {
        "http" | "https" if rest.len() > 2 && rest.starts_with("//") => Some(url.to_owned()),
        // apt also writes `file:/srv/mirror`.
        "file" | "copy" if rest.starts_with('/') => {
            Some(format!("file:///{}", rest.trim_start_matches('/')))
        }
        _ => None,
    }
}

/// Where the security archive of a mirror usually is.
fn beside(main: &str) -> Vec<String> {
    let mut places = vec![format!("{main}-security"), main.to_owned()];
    if !main.ends_with("/debian") {
        places.reverse();
    }
    places
}

/// `deb [options] uri suite component...` (sources.list(5)).
fn one_line_entries(text: &str) -> Vec<Entry> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next().unwrap_or_default().trim();
            let rest = line
                .strip_prefix("deb")?
                .strip_prefix([' ', '\t'])?
                .trim_start();
            let rest = match rest.strip_prefix('[') {
                Some(options) => options.split_once(']')?.1,
                None => rest,
            };
            let mut words = rest.split_whitespace().map(str::to_owned);
            Some(Entry {
                uri: words.next()?,
                suites: vec![words.next()?],
                components: words.collect(),
            })
        })
        .collect()
}

/// `Types:`, `URIs:`, `Suites:`, `Components:` (sources.list(5), deb822 style).
fn deb822_entries(text: &str) -> Vec<Entry> {
    let text = text.replace("\r\n", "\n");
    let mut entries = Vec::new();
    for paragraph in deb822::paragraphs(&text) {
        let words = |name: &str| -> Vec<String> {
            deb822::field(paragraph, name)
                .unwrap_or_default()
                .lines()
                .filter(|l| !l.starts_with('#'))
                .flat_map(str::split_whitespace)
                .map(str::to_owned)
                .collect()
        };
        let off = deb822::field(paragraph, "Enabled")
            .is_some_and(|v| ["no", "false", "0", "off"].contains(&v));
        if off || !words("Types").iter().any(|t| t == "deb") {
            continue;
        }
        for uri in words("URIs") {
            entries.push(Entry {
                uri,
                suites: words("Suites"),
                components: words("Components"),
            });
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apt(files: &[(&str, &str)]) -> Result<Mirror> {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        Mirror::of_apt(dir.path())
    }

    #[test]
    fn both_styles_and_no_third_party() {
        let mirror = apt(&[
            (
                "sources.list",
                "# deb http://old.example/debian trixie main\n\
                 deb-src http://src.example/debian trixie main\n\
                 deb [arch=amd64 signed-by=/x.gpg] http://one.example/debian/ trixie main contrib # c\n",
            ),
            (
                "sources.list.d/debian.sources",
                "Types: deb\n# a comment\nURIs: http://two.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
                 Types: deb\nURIs: http://two.example/debian-security\nSuites: bookworm-security\nComponents: main\n\n\
                 Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: trixie\nComponents: main\n",
            ),
            (
                "sources.list.d/other.list",
                "deb https://third.example/apt cloud-bookworm main\ndeb https://docker.example bookworm stable\n",
            ),
            ("sources.list.d/other.save", "deb http://saved.example trixie main\n"),
        ])
        .unwrap();
        assert_eq!(
            mirror.bases(ArchiveKind::Main),
            ["http://one.example/debian", "http://two.example/debian"]
        );
        assert_eq!(
            mirror.bases(ArchiveKind::Security),
            ["http://two.example/debian-security"]
        );
    }

    #[test]
    fn another_distribution_says_what_to_do() {
        let e = apt(&[(
            "sources.list",
            "deb http://archive.example/ubuntu noble main\n",
        )])
        .unwrap_err();
        assert!(e.to_string().contains("--mirror"), "{e}");
    }

    #[test]
    fn a_named_mirror_brings_its_security_archive() {
        let mirror = Mirror::resolve(Some("http://m.example/debian/")).unwrap();
        assert_eq!(mirror.bases(ArchiveKind::Main), ["http://m.example/debian"]);
        assert_eq!(
            mirror.bases(ArchiveKind::Security)[0],
            "http://m.example/debian-security"
        );
        let mirror = Mirror::resolve(Some("file:/srv/a,https://s.example/x")).unwrap();
        assert_eq!(mirror.bases(ArchiveKind::Main), ["file:///srv/a"]);
        assert_eq!(mirror.bases(ArchiveKind::Security), ["https://s.example/x"]);
        for bad in ["", "ftp://m.example", "m.example", "http://"] {
            assert_eq!(
                Mirror::resolve(Some(bad)).unwrap_err().kind,
                Kind::Usage,
                "{bad}"
            );
        }
    }
}
