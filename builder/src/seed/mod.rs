//! `slipway seed`: seeds made, checked, compared and put where a machine finds them, before
//! it ever boots with one.

mod check;
mod diff;
pub mod embed;
pub mod files;
pub mod iso;
pub mod load;
pub mod new;
mod schema;
pub mod volume;

use std::process::ExitCode;

use clap::Subcommand;

use crate::error::Result;
use crate::progress::Progress;

pub use files::Files;

/// What is done with seeds.
#[derive(Subcommand)]
pub enum SeedCommand {
    /// Check a seed as a node would: a directory, or one of its files.
    Check(check::CheckArgs),
    /// Print the JSON schema of a document, for editors to complete and check with.
    Schema(schema::SchemaArgs),
    /// Say what differs between two seeds, and what it takes for a node to follow.
    Diff(diff::DiffArgs),
    /// Write the seeds of a new cluster's machines, with credentials that work from
    /// the first boot on.
    New(new::NewArgs),
    /// Put a seed into an image's boot partition.
    Embed(embed::EmbedArgs),
    /// Make a CIDATA image of a seed, for a second disk or CD drive.
    Iso(iso::IsoArgs),
}

/// Does it.
///
/// # Errors
/// [`Kind::Input`](crate::Kind::Input) for a seed that a node would refuse, and those of
/// the command.
pub fn run(command: &SeedCommand, progress: &Progress) -> Result<ExitCode> {
    match command {
        SeedCommand::Check(args) => check::check(args, progress)?,
        SeedCommand::Schema(args) => schema::print(args, progress)?,
        SeedCommand::Diff(args) => diff::diff(args, progress)?,
        SeedCommand::New(args) => new::new(args, progress)?,
        SeedCommand::Embed(args) => progress.result(&embed::embed(args, progress)?)?,
        SeedCommand::Iso(args) => progress.result(&iso::iso(args, progress)?)?,
    }
    Ok(ExitCode::SUCCESS)
}
