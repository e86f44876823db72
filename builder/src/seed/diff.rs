//! `slipway seed diff`: what changes between two seeds, and what it takes to follow.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use slipway_images::seed::{self, Change, Effect};

use super::load;
use crate::error::Result;
use crate::progress::Progress;

/// Which two.
#[derive(clap::Args)]
pub struct DiffArgs {
    /// The seed that the node has: a directory or user-data.
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The seed that it shall have.
    #[arg(value_name = "NEW")]
    new: PathBuf,
}

#[derive(Serialize)]
struct Report {
    changes: Vec<Change>,
    /// What all of them together take.
    effect: Option<Effect>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(f, "{change}")?;
        }
        f.write_str(match self.effect {
            None => "no difference",
            Some(effect) => effect.advice(),
        })
    }
}

/// Compares and tells.
pub fn diff(args: &DiffArgs, progress: &Progress) -> Result<()> {
    let (old, new) = (
        load::load(&args.old)?.seed()?,
        load::load(&args.new)?.seed()?,
    );
    let changes = seed::diff(&old, &new);
    progress.result(&Report {
        effect: seed::effect_of(&changes),
        changes,
    })
}
