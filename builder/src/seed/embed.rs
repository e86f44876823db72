//! `slipway seed embed`: a seed into an image's boot partition, in place.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{Files, volume};
use crate::atomic;
use crate::digest;
use crate::error::{At as _, Error, Kind, Result};
use crate::flash::source::{digest_path, is_packed};
use crate::progress::{Progress, Whole};

/// Put a seed into an image's boot partition, in place.
#[derive(Debug, Clone, Args)]
pub struct EmbedArgs {
    /// The image (.img).
    pub image: PathBuf,
    /// The seed: a directory with user-data, and maybe meta-data and network-config.
    pub dir: PathBuf,
}

/// What was embedded.
#[derive(Debug, Serialize)]
pub struct Embedded {
    /// The image.
    pub image: PathBuf,
    /// The files that it holds now.
    pub files: Vec<String>,
    /// SHA-256 of the image as it is now.
    pub sha256: String,
}

impl fmt::Display for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: holds {} now",
            self.image.display(),
            self.files.join(", ")
        )
    }
}

/// Embeds, keeps others from reading the image, and leaves its new digest beside it.
///
/// # Errors
/// [`Kind::Input`] if the seed or the image is wrong; [`Kind::Io`]; [`Kind::Interrupted`],
/// and the image is as it was.
pub fn embed(args: &EmbedArgs, progress: &Progress) -> Result<Embedded> {
    let image = fs::canonicalize(&args.image).at("opening", &args.image)?;
    if !image.is_file() {
        return Err(Error::new(
            Kind::Input,
            format!("{} is no image file", args.image.display()),
        )
        .hint("a disk gets its seed while it is written: slipway flash IMAGE DEVICE --seed DIR"));
    }
    let files = Files::read(&args.dir, progress)?;
    if is_packed(&image)? {
        return Err(Error::new(
            Kind::Input,
            format!("{} is compressed", args.image.display()),
        )
        .hint("embed into the .img, or while flashing: slipway flash IMAGE DEVICE --seed DIR"));
    }
    progress.check()?;
    // From here on to the end: there would be a seed that the digest doesn't know of.
    let _whole = Whole::begin();
    // The mode first: at no time does a secret lie there for others to read.
    restrict(&image, progress)?;
    volume::embed(&image, &files)?;
    volume::compare(&image, &files)?;
    let sha256 = digest::file(&image)?;
    let name = image.file_name().unwrap_or_default().to_string_lossy();
    let line = format!("{sha256}  {name}\n");
    atomic::write(&digest_path(&image), line.as_bytes(), 0o644)?;
    let bmap = image.with_added_extension("bmap");
    if bmap.exists() {
        progress.warn(&format!(
            "{} is of the image without a seed, and bmaptool will refuse the two together: use slipway flash or dd",
            bmap.display()
        ));
    }
    Ok(Embedded {
        image: args.image.clone(),
        files: files.names(),
        sha256,
    })
}

fn restrict(image: &Path, progress: &Progress) -> Result<()> {
    let meta = fs::metadata(image).at("looking at", image)?;
    let mode = meta.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    progress.warn(&format!(
        "{} could be read by others; with a seed's secrets in it, only by its owner",
        image.display()
    ));
    let own = fs::Permissions::from_mode(mode & 0o700);
    fs::set_permissions(image, own).at("setting the mode of", image)
}
