//! `slipway seed check`: everything a node would find wrong or odd, before it boots.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use slipway_images::seed::{Document, Severity};

use super::load::{self, Found};
use crate::error::{At as _, Error, Kind, Result};
use crate::progress::Progress;

/// What is checked.
#[derive(clap::Args)]
pub struct CheckArgs {
    /// A seed's directory (user-data, network-config, meta-data), what `seed new` wrote,
    /// or one document, told by its name.
    #[arg(value_name = "DIR|FILE")]
    path: PathBuf,
}

/// What was found, of all seeds.
#[derive(Serialize)]
struct Report {
    seeds: Vec<Checked>,
}

/// What was found of one.
#[derive(Serialize)]
struct Checked {
    path: PathBuf,
    good: bool,
    findings: Vec<Found>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for seed in &self.seeds {
            let count = |severity| {
                let same = |found: &&Found| found.finding.severity == severity;
                seed.findings.iter().filter(same).count()
            };
            writeln!(
                f,
                "{}: {}, {} errors, {} warnings",
                seed.path.display(),
                if seed.good { "good" } else { "refused" },
                count(Severity::Error),
                count(Severity::Warning)
            )?;
        }
        Ok(())
    }
}

/// Checks and tells.
pub fn check(args: &CheckArgs, progress: &Progress) -> Result<()> {
    let seeds: Vec<Checked> = seeds(&args.path)?
        .iter()
        .map(|path| {
            let (seed, findings) = load::load(path)?.check();
            Ok(Checked {
                path: path.clone(),
                good: seed.is_some(),
                findings,
            })
        })
        .collect::<Result<_>>()?;
    if !progress.is_json() {
        for found in seeds.iter().flat_map(|seed| &seed.findings) {
            progress.say(&found.to_string());
        }
    }
    let bad: Vec<String> = seeds
        .iter()
        .filter(|s| !s.good)
        .map(|s| s.path.display().to_string())
        .collect();
    progress.result(&Report { seeds })?;
    match bad.as_slice() {
        [] => Ok(()),
        bad => Err(Error::new(
            Kind::Input,
            format!("a node would refuse {}", bad.join(", ")),
        )
        .hint("docs/seed.md says what each key takes; `slipway seed schema` lets an editor know")),
    }
}

/// The seed at `path`, or those in the directories below, as `seed new` writes them.
fn seeds(path: &Path) -> Result<Vec<PathBuf>> {
    let is_seed = |dir: &Path| dir.join(Document::UserData.name()).exists();
    if path.is_dir() && !is_seed(path) {
        let entries = fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
        let mut below: Vec<PathBuf> = entries
            .at("reading", path)?
            .iter()
            .map(fs::DirEntry::path)
            .collect();
        below.retain(|dir| is_seed(dir));
        below.sort();
        if !below.is_empty() {
            return Ok(below);
        }
    }
    Ok(vec![path.to_owned()])
}
