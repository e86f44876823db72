//! Where a seed is fetched from, and the one that was fetched last.
//!
//! cloud-init's rule (`util.read_seeded`): `%s` in the URL stands for a document's name; without
//! one the name is appended, behind a slash unless the URL has a query.
//!
//! | file in `/var/lib/slipway/seed/`, mode 0600 | holds |
//! |---|---|
//! | `fetched.json` | [`Fetched`]: URL, digest and text of the documents, so that the node boots the same while the server is away |

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Document, Documents, Secret};
use crate::hex;

/// Where the fetched seed lies, below a node's root.
pub const FETCHED_FILE: &str = "var/lib/slipway/seed/fetched.json";
/// Largest document, in bytes, from wherever it comes: a seed is text of some kilobytes.
pub const DOCUMENT_LIMIT: u64 = 1 << 20;
/// Longest URL, in bytes.
const LONGEST: usize = 2048;

/// The address of a seed, `http://` or `https://`.
#[derive(Clone, PartialEq, Eq)]
pub struct SeedUrl(String);

/// Why a text is no [`SeedUrl`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(String);

impl SeedUrl {
    /// Checks a URL and makes it a base for the documents' names.
    ///
    /// # Errors
    /// A sentence that quotes it, without what may be secret in it.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let mut url = Self(text.to_owned());
        let wrong = |why: &str| Err(UrlError(format!("{url} {why}")));
        let Some((scheme, rest)) = text.split_once("://") else {
            return wrong("is no http:// or https:// address");
        };
        if !["http", "https"].contains(&scheme) {
            return wrong("is no http:// or https:// address");
        }
        if url.host().is_empty() || rest.starts_with('?') {
            return wrong("names no host");
        }
        if text.len() > LONGEST {
            return wrong("is too long");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return wrong("has characters that must be %-encoded");
        }
        if text.contains('#') {
            return wrong("has a fragment, which is never sent to a server");
        }
        if !text.contains("%s") && !text.contains('?') && !text.ends_with('/') {
            url.0.push('/');
        }
        Ok(url)
    }

    /// Whether a certificate says that it is the right server.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// The URL itself, with what may be secret in it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The address of one document.
    #[must_use]
    pub fn of(&self, document: Document) -> String {
        match self.0.contains("%s") {
            true => self.0.replace("%s", document.name()),
            false => format!("{}{document}", self.0),
        }
    }

    /// What must not be shown to others: name and password before the host, and the query.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let authority = self.authority();
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        let query = self.0.split_once('?').map(|(_, query)| query);
        user.into_iter().chain(query).map(str::to_owned).collect()
    }

    fn authority(&self) -> &str {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        rest.split(['/', '?', '#']).next().unwrap_or_default()
    }

    /// The authority without name and password: host, and perhaps port.
    fn place(&self) -> &str {
        let authority = self.authority();
        authority
            .rsplit_once('@')
            .map_or(authority, |(_, place)| place)
    }

    fn host(&self) -> &str {
        self.place().split(':').next().unwrap_or_default()
    }
}

/// Without [`SeedUrl::secrets`].
impl fmt::Display for SeedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.split(['?', '#']).next().unwrap_or_default();
        match shown.split_once("://") {
            Some((scheme, rest)) => {
                let path = rest.find('/').and_then(|at| rest.get(at..));
                let path = path.unwrap_or_default();
                write!(f, "{scheme}://{}{path}", self.place())
            }
            None => f.write_str(shown),
        }
    }
}

impl fmt::Debug for SeedUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A seed that was fetched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Fetched {
    /// From where; what was fetched from another URL is no answer.
    url: Secret,
    /// [`Documents::digest`].
    digest: String,
    /// The documents.
    pub files: Documents,
}

impl Fetched {
    /// What came from `url`.
    #[must_use]
    pub fn new(url: &SeedUrl, files: Documents) -> Self {
        Self {
            url: Secret::new(url.reveal()),
            digest: files.digest(),
            files,
        }
    }

    /// Reads a file that holds what came from `url`; `None` where there is none, or one that
    /// came from elsewhere.
    ///
    /// # Errors
    /// A sentence when the file can't be read, or isn't what was written.
    pub fn read(path: &Path, url: &SeedUrl) -> Result<Option<Self>, String> {
        let damaged = |why: String| format!("{} is damaged{why}", path.display());
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let fetched: Self = serde_json::from_slice(&text)
            // Its words may quote a value.
            .map_err(|error| damaged(format!(" in line {}", error.line())))?;
        if fetched.files.digest() != fetched.digest {
            return Err(damaged(String::new()));
        }
        Ok((fetched.url.reveal() == url.reveal()).then_some(fetched))
    }

    /// Stands for the digest of a seed that can't be had from `url`: what is applied meanwhile
    /// is applied over that.
    #[must_use]
    pub fn digest_of_missing(url: &SeedUrl) -> String {
        hex(&Sha256::digest(format!("missing\0{}", url.reveal())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_where_cloud_init_looks_for_them() {
        let at = |url: &str| SeedUrl::parse(url).unwrap().of(Document::MetaData);
        for (url, expected) in [
            ("http://h", "http://h/meta-data"),
            ("https://h/a", "https://h/a/meta-data"),
            (
                "http://10.0.2.2:8000/a/",
                "http://10.0.2.2:8000/a/meta-data",
            ),
            ("http://h/get?f=", "http://h/get?f=meta-data"),
            ("http://h/%s?t=1", "http://h/meta-data?t=1"),
        ] {
            assert_eq!(at(url), expected);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_without_its_secrets() {
        for text in [
            "",
            "h",
            "ftp://h/",
            "http://",
            "http:///x",
            "https://?x",
            "http://u:hunter2@",
            "http://h/\u{e4}",
            "http://h/a b",
            "http://h/#x",
            "HTTP//h",
        ] {
            let error = SeedUrl::parse(text).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
        let long = format!("http://h/{}", "a".repeat(LONGEST));
        assert!(SeedUrl::parse(&long).is_err());
    }

    #[test]
    fn secrets_in_a_url_are_not_shown() {
        let url = SeedUrl::parse("https://ann:pa@ss@h:1/x/%s?token=abc").unwrap();
        assert_eq!(url.to_string(), "https://h:1/x/%s");
        assert_eq!(format!("{url:?}"), "https://h:1/x/%s");
        assert_eq!(url.secrets(), ["ann:pa@ss", "token=abc"]);
        assert!(SeedUrl::parse("http://h/").unwrap().secrets().is_empty());
    }

    #[test]
    fn what_was_fetched_answers_for_its_own_url_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fetched.json");
        let url = SeedUrl::parse("http://h/a").unwrap();
        assert_eq!(Fetched::read(&path, &url), Ok(None));
        let fetched = Fetched::new(
            &url,
            Documents {
                user_data: Secret::new("#cloud-config\nhostname: s3cr3t\n"),
                network_config: None,
                meta_data: None,
            },
        );
        let text = serde_json::to_string(&fetched).unwrap();
        std::fs::write(&path, &text).unwrap();
        assert_eq!(Fetched::read(&path, &url), Ok(Some(fetched)));
        let other = SeedUrl::parse("http://h/b").unwrap();
        assert_eq!(Fetched::read(&path, &other), Ok(None));
        for broken in [text.replace("s3cr3t", "s3cr4t"), text[..60].to_owned()] {
            std::fs::write(&path, broken).unwrap();
            let error = Fetched::read(&path, &url).unwrap_err();
            assert!(
                error.contains("damaged") && !error.contains("s3cr"),
                "{error}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}", tail in "[a-z:/@?#%]{0,20}") {
            for text in [text, format!("http://{tail}")] {
                if let Ok(url) = SeedUrl::parse(&text) {
                    drop((url.of(Document::UserData), url.secrets()));
                }
            }
        }
    }
}
