//! `slipway flash`: an image onto a disk or into a file.
//!
//! [`flash`] is the walk: the image's beginning is read and checked ([`source`]), the
//! target chosen ([`ask`], [`devices`]) and checked ([`target`]), the image written
//! ([`mod@write`]) past the page cache ([`slipway_images::direct`]), read back ([`verify`]), and a seed
//! put into its boot partition ([`crate::seed`]).

pub mod ask;
pub mod devices;
mod ioctl;
pub mod source;
pub mod target;
pub mod verify;
pub mod write;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;
use crate::run::image;
use crate::seed::{Files, volume};

use devices::System;
use source::Source;
use target::{Device, Target};

/// Write an image to a disk, read it back, and put a seed into it.
///
/// Without a device the disks of this machine are listed to choose from. The disk that
/// this system runs from and whatever is mounted are refused, unless the device is
/// named twice.
#[derive(Debug, Clone, Args)]
pub struct FlashArgs {
    /// A board whose image was built, or an image's path (.img or .img.zst).
    pub image: String,
    /// The disk, as /dev/sdb, or a file; named twice, though it is in use.
    #[arg(num_args = 0..=2, value_name = "DEVICE")]
    pub device: Vec<PathBuf>,
    /// Put the seed of this directory (user-data, meta-data, network-config) into the
    /// image's boot partition.
    #[arg(long, value_name = "DIR")]
    pub seed: Option<PathBuf>,
    /// Don't ask before overwriting.
    #[arg(long)]
    pub yes: bool,
}

/// What was written.
#[derive(Debug, Clone, Serialize)]
pub struct Flashed {
    /// The image.
    pub image: PathBuf,
    /// Where it is now.
    pub device: PathBuf,
    /// Bytes of the image.
    pub size: u64,
    /// Bytes that were written and read back; the rest was zero already.
    pub written: u64,
    /// SHA-256 of the image, without the seed.
    pub sha256: String,
    /// Whether that was compared with what was published beside the image.
    pub compared: bool,
    /// The files of the seed that were put into it.
    pub seed: Vec<String>,
    /// Seconds from the first byte to the last sync.
    pub seconds: f64,
}

impl fmt::Display for Flashed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let speed = self.size as f64 / 1e6 / self.seconds.max(0.001);
        write!(
            f,
            "{}: {:.0} MB written and read back in {:.1} s ({speed:.0} MB/s)",
            self.device.display(),
            self.size as f64 / 1e6,
            self.seconds
        )?;
        if !self.seed.is_empty() {
            write!(f, "; seed: {}", self.seed.join(", "))?;
        }
        Ok(())
    }
}

/// Writes an image as asked. `images` is where `slipway build` puts them.
///
/// # Errors
/// Those of each step. What was overwritten by then is said with them.
pub fn flash(args: &FlashArgs, images: &Path, progress: &Progress) -> Result<Flashed> {
    flash_on(&System::here(), args, images, progress)
}

/// [`flash`] on a machine whose devices are told of elsewhere.
///
/// # Errors
/// As [`flash`].
pub fn flash_on(
    system: &System,
    args: &FlashArgs,
    images: &Path,
    progress: &Progress,
) -> Result<Flashed> {
    let seed = match &args.seed {
        Some(dir) => Some(Files::read(dir, progress)?),
        None => None,
    };
    let mut source = Source::open(&image::find(&args.image, images)?)?;
    let (path, insisted) = match args.device.as_slice() {
        [] => (ask::device(system, progress)?.path, false),
        [one] => (one.clone(), false),
        [one, two] if one == two => (one.clone(), true),
        _ => {
            return Err(Error::new(
                Kind::Usage,
                "a device is named twice to insist on it, and these are two devices",
            ));
        }
    };
    let target = Target::check(&path, insisted, system, &source)?;
    if let Some(loses) = target.loses().filter(|_| !args.yes) {
        ask::consent(&loses, progress)?;
    }
    if !source.has_digest() {
        progress.warn(&format!(
            "nothing beside {} says what its digest should be: it can't be compared",
            source.path().display()
        ));
    }
    let started = Instant::now();
    let mut device = target.open(&source)?;
    let summary =
        onto(&mut device, &mut source, seed.as_ref(), progress).map_err(|e| device.explain(e))?;
    device.finish(seed.is_some(), progress)?;
    Ok(Flashed {
        image: source.path().to_owned(),
        device: path,
        size: summary.len,
        written: summary.bytes(),
        sha256: summary.sha256,
        compared: source.has_digest(),
        seed: seed.map(|s| s.names()).unwrap_or_default(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Writes, reads back, and embeds.
fn onto(
    device: &mut Device,
    source: &mut Source,
    seed: Option<&Files>,
    progress: &Progress,
) -> Result<write::Summary> {
    let summary = write::write(source, device, progress)?;
    device.extend(summary.len)?;
    verify::verify(device, &summary.written, progress)?;
    if let Some(files) = seed {
        device.restrict()?;
        volume::embed(device.place(), files)?;
        volume::compare(device.place(), files)?;
    }
    Ok(summary)
}
