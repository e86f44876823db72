//! Package files into the cache, several at a time.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::http::{Client, Failure};
use super::index::is_pool_path;
use super::release::{FileEntry, is_sha256};
use super::{Mirror, Package};
use crate::error::{Error, Kind, Result};
use crate::progress::{Progress, Task};

/// Connections at once: enough to hide latency, few enough to be a good guest.
const THREADS: usize = 6;

/// How long a server may be silent.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A package whose file is in the cache.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Which package.
    pub package: Package,
    /// Its `.deb`, of the size and digest that the package says.
    pub path: PathBuf,
}

/// Fetches what the cache lacks. The packages may come from an archive or from a
/// lock: their digests are all that is trusted.
///
/// # Errors
/// The first failure: [`Kind::Network`], [`Kind::Untrusted`], [`Kind::Io`],
/// [`Kind::Interrupted`]; [`Kind::Input`] for a package that a lock spoilt.
pub fn fetch(
    mirror: &Mirror,
    packages: &[Package],
    cache: &Path,
    progress: &Progress,
) -> Result<Vec<Fetched>> {
    fetch_with(&Client::new(PATIENCE), mirror, packages, cache, progress)
}

pub(crate) fn fetch_with(
    client: &Client,
    mirror: &Mirror,
    packages: &[Package],
    cache: &Path,
    progress: &Progress,
) -> Result<Vec<Fetched>> {
    let mut fetched = Vec::with_capacity(packages.len());
    for package in packages {
        if !is_sha256(&package.sha256) || !is_pool_path(&package.path) {
            return Err(Error::new(
                Kind::Input,
                format!("package {} has no usable digest or path", package.name),
            ));
        }
        fetched.push(Fetched {
            path: cache.join("deb").join(package.sha256.to_ascii_lowercase()),
            package: package.clone(),
        });
    }
    // The largest first, so that the last to finish is a small one.
    let mut missing: Vec<&Fetched> = fetched
        .iter()
        .filter(|f| {
            // Files got their names only after their digest was checked; a size
            // that differs means that someone has been at the cache since.
            std::fs::metadata(&f.path).map_or(true, |m| m.len() != f.package.size)
        })
        .collect();
    missing.sort_by_key(|f| std::cmp::Reverse(f.package.size));
    if !missing.is_empty() {
        let total = missing.iter().map(|f| f.package.size).sum();
        let task = progress.task(format!("fetching {} packages", missing.len()), Some(total));
        in_parallel(&missing, THREADS, |f| one(client, mirror, f, &task))?;
    }
    Ok(fetched)
}

fn one(client: &Client, mirror: &Mirror, fetched: &Fetched, task: &Task) -> Result<()> {
    let package = &fetched.package;
    if fetched.path.exists() {
        std::fs::remove_file(&fetched.path)
            .map_err(|e| Error::io("removing", &fetched.path, &e))?;
    }
    let expected = FileEntry {
        sha256: package.sha256.to_ascii_lowercase(),
        size: package.size,
    };
    let mut last = None;
    for base in mirror.bases(package.archive) {
        let url = format!("{base}/{}", package.path);
        match client.download(&url, &expected, &fetched.path, task) {
            Ok(()) => return Ok(()),
            Err(Failure::Final(e)) => return Err(e),
            Err(failure @ (Failure::NotFound(_) | Failure::Broken(_))) => {
                last = last.or(Some(failure.into_error()));
            }
        }
    }
    Err(last.unwrap_or_else(|| {
        Error::new(
            Kind::Usage,
            format!("no mirror is known for {}", package.name),
        )
    }))
}

/// Does `work` for every item on a few threads; the first error stops the rest.
pub(crate) fn in_parallel<T: Sync>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let error = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else {
                        break;
                    };
                    if let Err(e) = work(item) {
                        stop.store(true, Ordering::Relaxed);
                        if let Ok(mut error) = error.lock() {
                            error.get_or_insert(e);
                        }
                    }
                }
            });
        }
    });
    match error.into_inner() {
        Ok(None) => Ok(()),
        Ok(Some(e)) => Err(e),
        Err(_) => Err(Error::new(Kind::Bug, "a thread broke down")),
    }
}
