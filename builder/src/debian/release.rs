//! The signed table of contents of a suite: `dists/<suite>/InRelease`
//! (wiki.debian.org/DebianRepository/Format).
//!
//! | field | use |
//! |---|---|
//! | `Suite`, `Codename` | one of them must be the suite that was asked for |
//! | `Date` | identifies the release; must not lie in the future |
//! | `Valid-Until` | must not have passed (absent in stable's main suite) |
//! | `Acquire-By-Hash` | whether indices can be fetched by digest |
//! | `SHA256` | digest, size and name of each index |

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::deb822;
use crate::error::{Error, Kind, Result};

/// How far a mirror's clock may be ahead of ours.
const CLOCK_SLACK: Duration = Duration::from_secs(600);

/// A checked release file.
#[derive(Debug)]
pub(crate) struct Release {
    /// When the archive made it, in seconds since 1970 UTC.
    pub date: i64,
    /// Whether indices are found by digest.
    pub by_hash: bool,
    /// Whether its `Valid-Until` has passed, and when that was.
    pub stale: Option<SystemTime>,
    files: HashMap<String, FileEntry>,
}

/// Size and digest of an index, as signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileEntry {
    /// SHA-256 in lower-case hex.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
}

impl Release {
    /// Reads the signed text. Staleness is noted, not refused: that is for the
    /// caller, who may have been told to go on.
    ///
    /// # Errors
    /// [`Kind::Untrusted`] if it is for another suite or of the future;
    /// [`Kind::Network`] if it makes no sense.
    pub fn parse(text: &str, suite: &str, now: SystemTime) -> Result<Self> {
        let corrupt = |why: String| Error::new(Kind::Network, why);
        let paragraph = deb822::paragraphs(text)
            .next()
            .ok_or_else(|| corrupt("is empty".into()))?;
        let mut single: HashMap<String, &str> = HashMap::new();
        for field in deb822::fields(paragraph) {
            let (name, value) = field.map_err(corrupt)?;
            if single.insert(name.to_ascii_lowercase(), value).is_some() {
                return Err(corrupt(format!("has the field {name} twice")));
            }
        }
        let get = |name: &str| single.get(name).copied();
        let names = [get("suite"), get("codename")];
        if !names.contains(&Some(suite)) {
            return Err(Error::new(
                Kind::Untrusted,
                format!(
                    "is for the suite {}, not {suite}",
                    names.into_iter().flatten().collect::<Vec<_>>().join("/")
                ),
            ));
        }
        let date = get("date")
            .and_then(parse_date)
            .ok_or_else(|| corrupt("has no readable Date".into()))?;
        if date > now + CLOCK_SLACK {
            return Err(Error::new(
                Kind::Untrusted,
                format!(
                    "was made in the future ({})",
                    get("date").unwrap_or_default()
                ),
            )
            .hint("check this machine's clock"));
        }
        let stale = match get("valid-until") {
            None => None,
            Some(until) => {
                let until = parse_date(until)
                    .ok_or_else(|| corrupt("has an unreadable Valid-Until".into()))?;
                (until < now).then_some(until)
            }
        };
        let files = get("sha256")
            .ok_or_else(|| corrupt("lists no SHA-256 digests".into()))?
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty())
            .map(|line| {
                file_line(line).ok_or_else(|| {
                    corrupt(format!("has a bad digest line: {}", deb822::shorten(line)))
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            date: date
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX)),
            by_hash: get("acquire-by-hash") == Some("yes"),
            stale,
            files,
        })
    }

    /// What the release says of one of its indices.
    pub fn file(&self, path: &str) -> Option<&FileEntry> {
        self.files.get(path)
    }

    /// The components that have packages for this architecture.
    pub fn components(&self, architecture: &str) -> Vec<&str> {
        let suffix = format!("/binary-{architecture}/Packages.xz");
        let mut all: Vec<&str> = self
            .files
            .keys()
            .filter_map(|path| path.strip_suffix(&suffix))
            .filter(|component| !component.contains('/'))
            .collect();
        all.sort_unstable();
        all
    }
}

fn file_line(line: &str) -> Option<(String, FileEntry)> {
    let mut words = line.split_ascii_whitespace();
    let (sha256, size, path) = (words.next()?, words.next()?, words.next()?);
    (words.next().is_none() && is_sha256(sha256)).then_some(())?;
    Some((
        path.to_owned(),
        FileEntry {
            sha256: sha256.to_ascii_lowercase(),
            size: size.parse().ok()?,
        },
    ))
}

/// 64 hex digits: what may become a file's name in the cache.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// `Sat, 21 Nov 2026 09:15:44 UTC`: RFC 5322 with the zone always UTC.
fn parse_date(text: &str) -> Option<SystemTime> {
    let zone = text.rfind(' ')?;
    let (moment, zone) = text.split_at(zone);
    if !matches!(zone.trim(), "UTC" | "GMT" | "+0000" | "Z") {
        return None;
    }
    // The archive's tools don't pad the day, HTTP's format does.
    let (weekday, rest) = moment.split_once(", ")?;
    let rest = rest.trim_start();
    let pad = if rest.find(' ') == Some(1) { "0" } else { "" };
    httpdate::parse_http_date(&format!("{weekday}, {pad}{rest} GMT")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DIGEST: &str = "94055c54983a56c019ec1e8147080917f8cd543df0bb7b12c01aabc234d0a19b";

    fn text(extra: &str) -> String {
        format!(
            "Suite: stable\nCodename: trixie\nDate: Sat, 21 Nov 2026 09:15:44 UTC\nAcquire-By-Hash: yes\n{extra}SHA256:\n {DIGEST} 136 main/binary-amd64/Packages.xz\n {DIGEST} 136 main/debian-installer/binary-amd64/Packages.xz\n"
        )
    }

    fn day(n: u64) -> SystemTime {
        // 2026-11-21T00:00:00Z and n days.
        UNIX_EPOCH + Duration::from_secs(1_795_219_200 + n * 86_400)
    }

    #[test]
    fn what_it_says_is_understood() {
        let release = Release::parse(&text(""), "trixie", day(1)).unwrap();
        assert_eq!(release.date, 1_795_252_544);
        assert!(release.by_hash && release.stale.is_none());
        assert_eq!(release.components("amd64"), ["main"]);
        assert_eq!(
            release.file("main/binary-amd64/Packages.xz").unwrap().size,
            136
        );
        assert!(Release::parse(&text(""), "stable", day(1)).is_ok());
    }

    #[test]
    fn days_need_no_leading_zero() {
        assert_eq!(
            parse_date("Sun, 1 Nov 2026 09:15:44 UTC"),
            parse_date("Sun, 01 Nov 2026 09:15:44 GMT")
        );
        assert!(parse_date("Sun, 1 Nov 2026 09:15:44 +0200").is_none());
    }

    #[test]
    fn another_suite_is_refused() {
        let e = Release::parse(&text(""), "bookworm", day(1)).unwrap_err();
        assert_eq!(e.kind, Kind::Untrusted);
        assert!(e.message().contains("stable/trixie, not bookworm"), "{e}");
    }

    #[test]
    fn the_future_is_refused_and_the_clock_suspected() {
        let e = Release::parse(&text(""), "trixie", day(0)).unwrap_err();
        assert_eq!(e.kind, Kind::Untrusted);
        assert!(e.to_string().contains("clock"), "{e}");
    }

    #[test]
    fn an_expired_release_is_stale() {
        let text = text("Valid-Until: Sun, 22 Nov 2026 00:00:00 UTC\n");
        assert!(
            Release::parse(&text, "trixie", day(1))
                .unwrap()
                .stale
                .is_none()
        );
        assert!(
            Release::parse(&text, "trixie", day(2))
                .unwrap()
                .stale
                .is_some()
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for (from, to) in [
            ("Date:", "Dat:"),
            ("SHA256:", "MD5Sum:"),
            ("136 main", "many main"),
            ("94055c", "../../"),
            ("Acquire-By-Hash: yes", "Suite: stable"),
            ("Acquire-By-Hash: yes", "Valid-Until: never"),
        ] {
            let text = text("").replace(from, to);
            assert!(Release::parse(&text, "trixie", day(1)).is_err(), "{to}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(?s).*") {
            Release::parse(&text, "trixie", day(1)).map(|_| ()).unwrap_or(());
        }

        #[test]
        fn a_damaged_release_is_read_or_refused(at in 0usize..400, with in "\\PC{0,3}", cut in 0usize..9) {
            let mut text = text("Valid-Until: Sun, 22 Nov 2026 00:00:00 UTC\n");
            let at = at.min(text.len());
            text.replace_range(at..(at + cut).min(text.len()), &with);
            Release::parse(&text, "trixie", day(1)).map(|_| ()).unwrap_or(());
        }
    }
}
