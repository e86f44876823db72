//! `slipway bundle`: images as update bundles, and a look into bundles.
//!
//! The format is [`slipway_images::bundle`]'s, which nodes read; what only its maker does is
//! here.

mod deltas;
pub mod image;
mod inspect;
pub mod make;
mod remote;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use slipway_images::bundle::BundleError;
use slipway_images::bundle::signed::SignedError;

pub use inspect::inspect;
pub use verify::verify;

/// Make an update bundle of an image, or look into one.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BundleArgs {
    #[command(subcommand)]
    command: Option<BundleCommand>,
    #[command(flatten)]
    make: Option<MakeArgs>,
}

/// What is bundled.
#[derive(Debug, Clone, Args)]
pub struct MakeArgs {
    /// The image: .img, or .img.zst.
    pub image: PathBuf,
    /// An image that nodes may run now: what the new one has in common with it need not be
    /// fetched by them. Can be given more than once.
    #[arg(long, value_name = "OLD_IMAGE")]
    pub from: Vec<PathBuf>,
    /// The private key to sign with: an Ed25519 key in PEM.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The public key that will sign later updates, if it is another one. Can be given more
    /// than once.
    #[arg(long, value_name = "PUB")]
    pub next_key: Vec<PathBuf>,
    /// Something that a node must be able to do to take it, by name.
    #[arg(long, value_name = "NAME")]
    pub requires: Vec<String>,
    /// zstd level of segments that are stored alone.
    #[arg(long, default_value_t = make::LEVEL, value_parser = clap::value_parser!(i32).range(1..=22))]
    pub level: i32,
    /// The bundle [default: BOARD-VERSION.slip beside the image].
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum BundleCommand {
    /// Show what a bundle says of itself.
    Inspect {
        /// The bundle: a file, or an http:// or https:// URL of which only the head is fetched.
        #[arg(value_name = "FILE|URL")]
        bundle: PathBuf,
        /// The public key that it must be signed with. Without it nothing is verified.
        #[arg(long, value_name = "PUB")]
        key: Option<PathBuf>,
    },
    /// Take a bundle as a node would, into nothing, and say whether all of it is as signed.
    Verify {
        /// The bundle.
        bundle: PathBuf,
        /// The public key that it must be signed with.
        #[arg(long, value_name = "PUB")]
        key: PathBuf,
    },
}

/// Does it.
///
/// # Errors
/// Those of the command.
pub fn run(args: BundleArgs, cache: &std::path::Path, progress: &Progress) -> Result<ExitCode> {
    match (args.command, args.make) {
        (Some(BundleCommand::Inspect { bundle, key }), _) => {
            progress.result(&inspect(&bundle, key.as_deref())?)?;
        }
        (Some(BundleCommand::Verify { bundle, key }), _) => {
            progress.result(&verify(&bundle, &key, progress)?)?;
        }
        (None, Some(make)) => progress.result(&make::make(&make, cache, progress)?)?,
        (None, None) => {
            return Err(Error::new(Kind::Usage, "no image was named")
                .hint("slipway bundle IMAGE --key FILE; see slipway bundle --help"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A refusal as the command says it.
pub fn refused(of: &std::path::Path, error: &BundleError) -> Error {
    let kind = match error {
        BundleError::Source(_) | BundleError::Place(_) => Kind::Io,
        BundleError::Cancelled => Kind::Interrupted,
        BundleError::Manifest(_)
        | BundleError::Signed(SignedError::Foreign(_) | SignedError::Newer { .. }) => Kind::Input,
        _ => Kind::Untrusted,
    };
    Error::new(kind, error.to_string()).within(of.display())
}
