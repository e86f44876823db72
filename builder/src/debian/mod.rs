//! A reader of Debian archives of our own: no apt, no dpkg, no root, and no
//! maintainer script ever runs.
//!
//! ```text
//! Mirror ── open ──> Archive ── closure ──> [Package] ── fetch ──> [Fetched] ── unpack ──> nodes
//!  http/mirror      release      closure                  fetch                  unpack/deb
//!                   openpgp      relation                 http
//!                   index        version
//! ```
//!
//! Trust runs in one direction: the keys that a board names sign the release
//! file, which has the digests of the indices, which have the digests of the
//! packages. Nothing is used before the digest above it holds.
//!
//! The cache directory holds:
//!
//! | path | what |
//! |---|---|
//! | `debian/<digest of URL>.release` | the last good InRelease of a URL |
//! | `debian/<sha256>.index` | wanted fields of the index with this digest |
//! | `deb/<sha256>` | a package file |
//! | `unpacked/<sha256>-<rules>.{data,json}` | its wanted contents, decompressed |

mod closure;
mod deb;
mod deb822;
mod fetch;
mod http;
mod index;
mod mirror;
mod openpgp;
mod relation;
mod release;
mod unpack;
mod version;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use fetch::{Fetched, fetch};
pub use mirror::{ArchiveKind, Mirror};
pub use unpack::{Filter, take, unpack, unpack_all};
pub use version::compare as compare_versions;

use crate::atomic;
use crate::board::{Board, Suite as BoardSuite};
use crate::digest;
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use closure::Suite;
use fetch::{PATIENCE, in_parallel};
use http::{Client, Failure, Got, Validators};
use index::Index;
use openpgp::Keyring;
use release::{FileEntry, Release};

/// No InRelease of Debian's is larger (140 KB).
const MAX_RELEASE: u64 = 1 << 20;

/// A binary package: what locks, manifests and SBOMs say of it, and what is
/// needed to fetch it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Package {
    /// Name of the binary package.
    pub name: String,
    /// Its version.
    pub version: String,
    /// `amd64`, …, or `all`.
    pub architecture: String,
    /// Name of the source package.
    pub source: String,
    /// Version of the source package.
    pub source_version: String,
    /// Archive section (`libs`, `non-free-firmware/kernel`).
    pub section: String,
    /// Upstream's page.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub homepage: Option<String>,
    /// Archive it is in.
    pub archive: ArchiveKind,
    /// Suite it was chosen from.
    pub suite: String,
    /// Path below the archive's base URL.
    pub path: String,
    /// Size of the `.deb` in bytes.
    pub size: u64,
    /// Digest of the `.deb`, lower-case hex.
    pub sha256: String,
    /// Whether the board lists it (else something listed needs it).
    pub listed: bool,
    /// Names of the chosen packages that it needs, sorted.
    pub depends: Vec<String>,
}

/// Which release of a suite packages were chosen from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseId {
    /// Name of the suite.
    pub suite: String,
    /// When the archive made it, in seconds since 1970 UTC.
    pub date: i64,
    /// Digest of its InRelease file, lower-case hex.
    pub sha256: String,
}

/// The suites of a board as one mirror serves them, verified.
pub struct Archive {
    mirror: Mirror,
    architecture: String,
    releases: Vec<ReleaseId>,
    indices: Vec<IndexFile>,
    warnings: Vec<String>,
    loaded: Mutex<Option<std::sync::Arc<Vec<Suite>>>>,
    cache: PathBuf,
}

struct IndexFile {
    suite: String,
    archive: ArchiveKind,
    sha256: String,
    path: PathBuf,
}

/// Fetches and verifies the release files and indices of the board's suites.
///
/// With `skip_stale`, a suite whose release file has expired, or whose index is another than
/// that names, is left out with a warning (see [`Archive::warnings`]) unless it is the board's
/// first.
///
/// # Errors
/// [`Kind::Network`], [`Kind::Untrusted`], [`Kind::Io`]; [`Kind::Input`] for a
/// suite without one of the components.
pub fn open(
    mirror: &Mirror,
    board: &Board,
    cache: &Path,
    skip_stale: bool,
    progress: &Progress,
) -> Result<Archive> {
    Opening {
        client: Client::new(PATIENCE),
        mirror,
        board,
        keyring: Keyring::parse(
            board
                .debian
                .keyring
                .iter()
                .map(|k| (k.name.as_str(), &k.armored[..])),
        )?,
        cache,
        skip_stale,
        now: SystemTime::now(),
        progress,
    }
    .run()
}

struct Opening<'a> {
    client: Client,
    mirror: &'a Mirror,
    board: &'a Board,
    keyring: Keyring,
    cache: &'a Path,
    skip_stale: bool,
    now: SystemTime,
    progress: &'a Progress,
}

fn left_out(why: &str) -> String {
    format!("{why}; its packages, which may be security fixes, are left out")
}

/// A suite's verified release file and where it came from.
struct Opened {
    base: String,
    release: Release,
    id: ReleaseId,
    warning: Option<String>,
}

impl Opening<'_> {
    fn run(&self) -> Result<Archive> {
        let suites = &self.board.debian.suites;
        let opened: Mutex<Vec<Option<Opened>>> = Mutex::new(suites.iter().map(|_| None).collect());
        {
            let _task = self.progress.task("reading the mirror's releases", None);
            let numbers: Vec<usize> = (0..suites.len()).collect();
            in_parallel(&numbers, 4, |&n| {
                let Some(suite) = suites.get(n) else {
                    return Ok(());
                };
                let release = self.release(suite)?;
                if let Ok(mut all) = opened.lock()
                    && let Some(slot) = all.get_mut(n)
                {
                    *slot = Some(release);
                }
                Ok(())
            })?;
        }
        let opened = opened.into_inner().unwrap_or_default();
        let mut archive = Archive {
            mirror: self.mirror.clone(),
            architecture: self.board.architecture.debian().to_owned(),
            releases: Vec::new(),
            indices: Vec::new(),
            warnings: Vec::new(),
            loaded: Mutex::new(None),
            cache: self.cache.to_owned(),
        };
        for (n, (suite, opened)) in suites.iter().zip(opened.into_iter().flatten()).enumerate() {
            if let Some(warning) = &opened.warning {
                self.progress.warn(warning);
                archive.warnings.push(warning.clone());
            }
            if let Some(until) = opened.release.stale {
                let warning = self.stale(n, suite, until)?;
                self.progress.warn(&warning);
                archive.warnings.push(warning);
                continue;
            }
            archive.mirror.prefer(suite.archive, &opened.base);
            let components = suite.components.iter();
            let indices: Result<Vec<_>> = components
                .map(|component| self.index(suite, component, &opened))
                .collect();
            match indices {
                Ok(indices) => archive.indices.extend(indices),
                // As a mirror leaves it that stopped in the middle of an update.
                Err(e) if e.kind == Kind::Untrusted && self.skip_stale && n > 0 => {
                    let warning = left_out(e.message());
                    self.progress.warn(&warning);
                    archive.warnings.push(warning);
                    continue;
                }
                Err(e) => return Err(e),
            }
            archive.releases.push(opened.id);
        }
        Ok(archive)
    }

    /// The warning for a suite that has expired, if going on was allowed.
    fn stale(&self, n: usize, suite: &BoardSuite, until: SystemTime) -> Result<String> {
        let message = format!(
            "the mirror's release of {} has expired (valid until {})",
            suite.name,
            httpdate::fmt_http_date(until)
        );
        if self.skip_stale && n > 0 {
            return Ok(left_out(&message));
        }
        let hint = if n > 0 {
            "use a mirror that is kept up to date (--mirror URL), or --skip-stale to build without it"
        } else {
            "use a mirror that is kept up to date (--mirror URL); is this machine's clock right?"
        };
        Err(Error::new(Kind::Untrusted, message).hint(hint))
    }

    /// Tries the places that may have the suite in order.
    fn release(&self, suite: &BoardSuite) -> Result<Opened> {
        let mut first = None;
        for base in self.mirror.bases(suite.archive) {
            match self.release_at(suite, base) {
                Ok(opened) => return Ok(opened),
                Err(Failure::Final(e)) => return Err(e),
                Err(failure) => first = first.or(Some(failure.into_error())),
            }
        }
        Err(first.unwrap_or_else(|| {
            Error::new(
                Kind::Usage,
                format!("no mirror is known for {}", suite.name),
            )
        }))
    }

    fn release_at(&self, suite: &BoardSuite, base: &str) -> Result<Opened, Failure> {
        let url = format!("{base}/dists/{}/InRelease", suite.name);
        let kept = Kept::at(self.cache, &url);
        let known = kept.validators();
        let (bytes, validators) = match self.client.get(&url, MAX_RELEASE, &known)? {
            Got::Bytes(bytes, validators) => (bytes, validators),
            Got::NotModified => match std::fs::read(&kept.path) {
                Ok(bytes) => (bytes, known),
                Err(_) => match self.client.get(&url, MAX_RELEASE, &Validators::default())? {
                    Got::Bytes(bytes, validators) => (bytes, validators),
                    Got::NotModified => {
                        return Err(Failure::Final(Error::new(
                            Kind::Network,
                            format!("{url}: the server says `not modified` without being asked"),
                        )));
                    }
                },
            },
        };
        let release = self
            .verify(&bytes, suite)
            .map_err(|e| Failure::Final(e.within(&url)))?;
        let id = ReleaseId {
            suite: suite.name.clone(),
            date: release.date,
            sha256: digest::hex(&bytes),
        };
        let warning = self.older_than_before(&kept, suite, &release);
        if warning.is_none() {
            kept.keep(&bytes, &validators).map_err(Failure::Final)?;
        }
        Ok(Opened {
            base: base.to_owned(),
            release,
            id,
            warning,
        })
    }

    fn verify(&self, bytes: &[u8], suite: &BoardSuite) -> Result<Release> {
        let text = self.keyring.verify(bytes, self.now)?;
        Release::parse(&text, &suite.name, self.now)
    }

    /// A mirror that goes back in time may lag, or replay an old release to
    /// withhold fixes. Both deserve to be known.
    fn older_than_before(&self, kept: &Kept, suite: &BoardSuite, new: &Release) -> Option<String> {
        let before = std::fs::read(&kept.path).ok()?;
        let before = self.verify(&before, suite).ok()?;
        (before.date > new.date).then(|| {
            format!(
                "the mirror now serves an older release of {} ({}) than before ({})",
                suite.name,
                crate::time::rfc3339(new.date),
                crate::time::rfc3339(before.date)
            )
        })
    }

    /// Brings one index into the cache.
    fn index(&self, suite: &BoardSuite, component: &str, opened: &Opened) -> Result<IndexFile> {
        let architecture = self.board.architecture.debian();
        let path = format!("{component}/binary-{architecture}/Packages.xz");
        let Some(entry) = opened.release.file(&path) else {
            let known = opened.release.components(architecture);
            let message = format!(
                "suite {} has no component `{component}` for {architecture}; it has: {}",
                suite.name,
                known.join(", ")
            );
            return Err(Error::new(Kind::Input, message));
        };
        let target = self
            .cache
            .join("debian")
            .join(format!("{}.index", entry.sha256));
        if !target.exists() {
            let dists = format!("{}/dists/{}", opened.base, suite.name);
            let packed = self.cache.join("debian").join(&entry.sha256);
            self.fetch_index(&dists, &path, entry, opened.release.by_hash, &packed)?;
            index::compact(&packed, &target)?;
            std::fs::remove_file(&packed).map_err(|e| Error::io("removing", &packed, &e))?;
        }
        Ok(IndexFile {
            suite: suite.name.clone(),
            archive: suite.archive,
            sha256: entry.sha256.clone(),
            path: target,
        })
    }

    fn fetch_index(
        &self,
        dists: &str,
        path: &str,
        entry: &FileEntry,
        by_hash: bool,
        target: &Path,
    ) -> Result<()> {
        let name = format!(
            "fetching index {}",
            dists.rsplit('/').next().unwrap_or_default()
        );
        let task = self.progress.task(name, Some(entry.size));
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        let mut urls = vec![format!("{dists}/{path}")];
        if by_hash {
            urls.insert(0, format!("{dists}/{dir}/by-hash/SHA256/{}", entry.sha256));
        }
        let mut last = None;
        for url in urls {
            match self.client.download(&url, entry, target, &task) {
                Ok(()) => return Ok(()),
                Err(Failure::NotFound(e)) => last = Some(e),
                Err(failure) => return Err(failure.into_error()),
            }
        }
        Err(last.unwrap_or_else(|| Error::new(Kind::Bug, "no URL for an index")))
    }
}

/// The last good InRelease of a URL.
struct Kept {
    path: PathBuf,
}

impl Kept {
    fn at(cache: &Path, url: &str) -> Self {
        let name = digest::hex(url.as_bytes());
        Self {
            path: cache.join("debian").join(format!("{name}.release")),
        }
    }

    fn validators_path(&self) -> PathBuf {
        self.path.with_extension("validators")
    }

    /// What to ask with; nothing if the file is gone or can't be understood, which
    /// costs one full answer.
    fn validators(&self) -> Validators {
        if !self.path.exists() {
            return Validators::default();
        }
        std::fs::read(self.validators_path())
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    fn keep(&self, bytes: &[u8], validators: &Validators) -> Result<()> {
        if std::fs::read(&self.path).is_ok_and(|before| before == bytes) {
            return Ok(());
        }
        // In this order a crash between the two can't pair old bytes with new validators.
        let json = serde_json::to_vec(validators)
            .map_err(|e| Error::new(Kind::Bug, format!("writing validators: {e}")))?;
        match std::fs::remove_file(self.validators_path()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("removing", &self.validators_path(), &e));
            }
            _ => {}
        }
        atomic::write(&self.path, bytes, 0o644)?;
        if validators.is_empty() {
            return Ok(());
        }
        atomic::write(&self.validators_path(), &json, 0o644)
    }
}

impl Archive {
    /// The mirror, with the places first that were found to serve the suites.
    pub fn mirror(&self) -> &Mirror {
        &self.mirror
    }

    /// The releases that packages are chosen from, in the board's order.
    pub fn snapshot(&self) -> Vec<ReleaseId> {
        self.releases.clone()
    }

    /// What the user should know, and the manifest should say.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Everything that `wanted` needs but what is in `exclude`, sorted by name.
    /// The answer is cached by the indices' digests and the two lists.
    ///
    /// # Errors
    /// [`Kind::Input`] with one line for each package that can't be had.
    pub fn closure(&self, wanted: &[String], exclude: &[String]) -> Result<Vec<Package>> {
        let key = self.closure_key(wanted, exclude);
        let kept = self.cache.join("debian").join(format!("{key}.closure"));
        if let Some(packages) = std::fs::read(&kept)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        {
            return Ok(packages);
        }
        let suites = self.load()?;
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        let exclude: Vec<&str> = exclude.iter().map(String::as_str).collect();
        let packages = closure::resolve(&suites, &self.architecture, &wanted, &exclude)?;
        let json = serde_json::to_vec(&packages)
            .map_err(|e| Error::new(Kind::Bug, format!("writing a package list: {e}")))?;
        atomic::write(&kept, &json, 0o644)?;
        Ok(packages)
    }

    fn closure_key(&self, wanted: &[String], exclude: &[String]) -> String {
        let mut text = format!("1 {}\n", self.architecture);
        for index in &self.indices {
            text.push_str(&format!("{} {}\n", index.suite, index.sha256));
        }
        for list in [wanted, exclude] {
            text.push_str(&list.join(" "));
            text.push('\n');
        }
        digest::hex(text.as_bytes())
    }

    fn load(&self) -> Result<std::sync::Arc<Vec<Suite>>> {
        let mut loaded = self
            .loaded
            .lock()
            .map_err(|_| Error::new(Kind::Bug, "a thread broke down while reading an index"))?;
        if let Some(suites) = &*loaded {
            return Ok(std::sync::Arc::clone(suites));
        }
        let suites = self
            .indices
            .iter()
            .map(|file| {
                Ok(Suite {
                    name: file.suite.clone(),
                    archive: file.archive,
                    index: Index::load(&file.path)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let suites = std::sync::Arc::new(suites);
        *loaded = Some(std::sync::Arc::clone(&suites));
        Ok(suites)
    }
}
