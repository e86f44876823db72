//! A seed at a URL: fetched at each boot, kept for the boots when its server is away.
//!
//! TLS stays out of PID 1: `noded fetch` gets the documents and leaves them in a file, and is
//! killed when it takes too long. What it leaves is checked as any other seed.
//!
//! | the server | nothing kept of this URL | kept |
//! |---|---|---|
//! | gives a good seed | that, and it is kept | that, and it is kept |
//! | gives a seed that is refused | defaults, no cluster | the kept one; the phase fails |
//! | gives none in time | defaults, no cluster | the kept one; the phase says so |

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use slipway_images::seed::Seed;
use slipway_images::seed::url::{FETCHED_FILE, Fetched, SeedUrl};

use super::{Data, Names, accept, came_from_outside};
use crate::phase::{Context, Failure, Outcome};
use crate::reaper::Reaper;
use crate::{files, say};

/// The variable by which the program gets the URL: a command line is everybody's to read.
pub const URL_VARIABLE: &str = "SLIPWAY_SEED_URL";
/// Where the program leaves what it has fetched, below the root; in memory.
const ARRIVED: &str = "run/slipway/seed-fetched.json";
/// For the program to end by itself when its time is over, before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// How a seed is fetched.
pub struct Fetcher<'a> {
    /// Parent of `run/` and `var/`.
    pub root: &'a Path,
    /// For the program.
    pub reaper: &'a Reaper,
    /// `noded`.
    pub program: &'a Path,
    /// For all of it, where nothing is kept.
    pub first: Duration,
    /// For all of it, where something is.
    pub again: Duration,
    /// For one request, after which it is sent again.
    pub patience: Duration,
    /// How the data partition is kept.
    pub data: Data,
}

/// What was kept of this URL, below `root`. Damage is said, and as good as nothing.
pub fn kept(root: &Path, url: &SeedUrl) -> Option<Fetched> {
    match Fetched::read(&root.join(FETCHED_FILE), url) {
        Ok(kept) => kept,
        Err(error) => {
            say!("the kept seed: {error}");
            None
        }
    }
}

impl Fetcher<'_> {
    /// Fetches, keeps if `keep`, or else goes back to what was kept: the seed that is in force
    /// now, and what there is to say.
    pub fn settle(
        &self,
        url: &SeedUrl,
        names: &Names,
        kept: Option<Fetched>,
        keep: bool,
    ) -> (Option<Seed>, Outcome) {
        let limit = match kept {
            Some(_) => self.again,
            None => self.first,
        };
        let fetched = match self.fetch(url, limit) {
            Ok(fetched) => fetched,
            Err(failure) => {
                let Some(kept) = kept else {
                    let outside = Fetched::digest_of_missing(url);
                    let noted = came_from_outside(self.root, &outside);
                    return (None, Err(noted.err().unwrap_or(failure)));
                };
                return match self.go_back(url, names, &kept) {
                    Ok(seed) => (
                        Some(seed),
                        Ok(format!("the one kept from before is used: {failure}")),
                    ),
                    Err(refused) => (None, Err(Failure(format!("{failure}; {refused}")))),
                };
            }
        };
        match accept(
            self.root,
            &fetched.files,
            &url.to_string(),
            names,
            self.data,
        ) {
            Ok(seed) => (Some(seed), self.keep(url, &fetched, kept.as_ref(), keep)),
            Err(failure) => {
                let Some(kept) = kept else {
                    return (None, Err(failure));
                };
                let (seed, what) = match self.go_back(url, names, &kept) {
                    Ok(seed) => (Some(seed), "the one kept from before is used".to_owned()),
                    Err(refused) => (None, refused.0),
                };
                (seed, Err(Failure(format!("{failure}; {what}"))))
            }
        }
    }

    fn go_back(&self, url: &SeedUrl, names: &Names, kept: &Fetched) -> Result<Seed, Failure> {
        let source = format!("what was kept of {url}");
        accept(self.root, &kept.files, &source, names, self.data)
    }

    /// Has the program fetch the documents.
    fn fetch(&self, url: &SeedUrl, limit: Duration) -> Result<Fetched, Failure> {
        let arrived = self.root.join(ARRIVED);
        files::remove(&arrived)?;
        let millis = |time: Duration| time.as_millis().to_string();
        let mut command = Command::new(self.program);
        command
            .arg("fetch")
            .arg("--root")
            .arg(self.root)
            .arg("--out")
            .arg(&arrived)
            .args(["--within", &millis(limit)])
            .args(["--patience", &millis(self.patience)])
            .env(URL_VARIABLE, url.reveal());
        let (status, said) = self
            .reaper
            .output_within(&mut command, limit + GRACE)
            .map_err(|failure| Failure(format!("from {url}: {failure}")))?;
        if !status.success() {
            let why = said.lines().last().unwrap_or_default();
            let why = why.strip_prefix("noded: ").unwrap_or(why);
            return Err(Failure(match why {
                "" => format!("from {url}: the program that fetches it ended with {status}"),
                why => why.to_owned(),
            }));
        }
        let fetched = Fetched::read(&arrived, url).map_err(Failure)?;
        files::remove(&arrived)?;
        fetched.ok_or_else(|| Failure(format!("from {url}: nothing was left where it should be")))
    }

    /// Keeps what is good and new. It is in force even if it can't be kept.
    fn keep(
        &self,
        url: &SeedUrl,
        fetched: &Fetched,
        kept: Option<&Fetched>,
        keep: bool,
    ) -> Outcome {
        if kept == Some(fetched) {
            return Ok(format!("from {url}, as before"));
        }
        if !keep {
            return Ok(format!(
                "from {url}; without a data partition it isn't kept"
            ));
        }
        let path = self.root.join(FETCHED_FILE);
        store(&path, fetched).map_err(|failure| {
            Failure(format!(
                "from {url}; it is used and can't be kept for a boot without its server: {failure}"
            ))
        })?;
        Ok(format!("from {url}"))
    }
}

fn store(path: &Path, fetched: &Fetched) -> Result<(), Failure> {
    if let Some(directory) = path.parent() {
        let mut builder = fs::DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(directory);
        made.context(directory.display())?;
    }
    let text = serde_json::to_vec(fetched)?;
    files::write_atomically(path, &text, 0o600).context(path.display())
}
