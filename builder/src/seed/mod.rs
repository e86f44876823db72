//! `slipway seed`: what makes a machine of an image its owner's machine.

pub mod embed;
pub mod files;
pub mod iso;
pub mod volume;

use clap::Subcommand;

use crate::error::Result;
use crate::progress::Progress;

pub use files::Files;

/// What is done with a seed.
#[derive(Debug, Clone, Subcommand)]
pub enum SeedCommand {
    /// Put a seed into an image's boot partition.
    Embed(embed::EmbedArgs),
    /// Make a CIDATA image of a seed, for a second disk or CD drive.
    Iso(iso::IsoArgs),
}

/// Runs a command.
///
/// # Errors
/// Those of the command.
pub fn run(command: &SeedCommand, progress: &Progress) -> Result<()> {
    match command {
        SeedCommand::Embed(args) => progress.result(&embed::embed(args, progress)?),
        SeedCommand::Iso(args) => progress.result(&iso::iso(args, progress)?),
    }
}
