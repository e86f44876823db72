//! `slipway seed iso`: a seed as a CIDATA image.

use std::fmt;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Files;
use crate::atomic;
use crate::error::{Error, Kind, Result};
use crate::formats::iso9660;
use crate::progress::Progress;

/// By which a node, and cloud-init, know a seed's volume.
pub const LABEL: &str = "CIDATA";

/// Make a CIDATA image of a seed.
#[derive(Debug, Clone, Args)]
pub struct IsoArgs {
    /// The seed: a directory with user-data, and maybe meta-data and network-config.
    pub dir: PathBuf,
    /// The image [default: DIR.iso].
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// What was made.
#[derive(Debug, Serialize)]
pub struct Made {
    /// The image.
    pub image: PathBuf,
    /// The files in it.
    pub files: Vec<String>,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.image.display().fmt(f)
    }
}

/// Makes the image, which only its owner can read.
///
/// # Errors
/// [`Kind::Input`] if the seed is wrong; [`Kind::Io`]; [`Kind::Interrupted`].
pub fn iso(args: &IsoArgs, progress: &Progress) -> Result<Made> {
    let files = Files::read(&args.dir, progress)?;
    let out = match &args.out {
        Some(out) => out.clone(),
        None if args.dir.file_name().is_some() => args.dir.with_added_extension("iso"),
        None => {
            return Err(
                Error::new(Kind::Usage, "that directory gives no name to the image")
                    .hint("name it: --out FILE"),
            );
        }
    };
    for (name, _) in files.overlays() {
        progress.warn(&format!(
            "{name} is left out: U-Boot takes overlays from the card (slipway flash, seed embed)"
        ));
    }
    let image = iso9660::image(LABEL, files.iter())?;
    progress.check()?;
    atomic::write(&out, &image, 0o600)?;
    Ok(Made {
        image: out,
        files: files.iter().map(|(name, _)| name.to_owned()).collect(),
    })
}
