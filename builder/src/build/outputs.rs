//! What a build leaves in its directory, who may write there, and how the next one knows that
//! nothing has changed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::pretty;
use crate::atomic;
use crate::board::Board;
use crate::error::{At as _, Error, Kind, Result};
use crate::lock::Lock;

/// What a build left in the output directory.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Outputs {
    /// The board.
    pub board: String,
    /// The image's version.
    pub version: String,
    /// Where everything is.
    #[serde(flatten)]
    pub files: Names,
    /// Bytes of the download.
    pub compressed_size: u64,
    /// Whether all this was there already, from the same inputs.
    pub up_to_date: bool,
}

impl fmt::Display for Outputs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} {}{}",
            self.board,
            self.version,
            if self.up_to_date {
                " (nothing has changed)"
            } else {
                ""
            }
        )?;
        writeln!(f, "  image     {}", self.files.image.display())?;
        let megabytes = self.compressed_size as f64 / 1e6;
        writeln!(
            f,
            "  download  {} ({megabytes:.1} MB)",
            self.files.compressed.display()
        )?;
        writeln!(f, "  bmap      {}", self.files.bmap.display())?;
        writeln!(f, "  imager    {}", self.files.imager.display())?;
        writeln!(f, "  manifest  {}", self.files.manifest.display())?;
        writeln!(f, "  lock      {}", self.files.lock.display())?;
        write!(f, "  sbom      {}", self.files.sbom.display())
    }
}

/// The output files of a board.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Names {
    /// The raw image, sparse.
    pub image: PathBuf,
    /// The download.
    pub compressed: PathBuf,
    /// Which blocks of the image matter, for bmaptool.
    pub bmap: PathBuf,
    /// What Raspberry Pi Imager reads to offer it.
    pub imager: PathBuf,
    /// What is in it.
    pub manifest: PathBuf,
    /// What it was made from.
    pub lock: PathBuf,
    /// The bill of materials.
    pub sbom: PathBuf,
}

impl Names {
    pub(super) fn new(out: &Path, board: &str) -> Self {
        let file = |suffix: &str| out.join(format!("{board}.{suffix}"));
        Self {
            image: file("img"),
            compressed: file("img.zst"),
            bmap: file("img.bmap"),
            imager: file("imager.json"),
            manifest: file("manifest.json"),
            lock: file("lock"),
            sbom: file("spdx.json"),
        }
    }

    /// The download's name without the directory.
    pub(super) fn download(&self) -> &str {
        let name = self.compressed.file_name().and_then(|n| n.to_str());
        name.unwrap_or_default()
    }

    fn all(&self) -> [&PathBuf; 7] {
        [
            &self.image,
            &self.compressed,
            &self.bmap,
            &self.imager,
            &self.manifest,
            &self.lock,
            &self.sbom,
        ]
    }
}

/// One build at a time in a directory, whoever runs it.
pub(super) fn lock_directory(out: &Path) -> Result<fs::File> {
    use rustix::fs::{FlockOperation, flock};
    fs::create_dir_all(out).at("creating", out)?;
    let path = out.join(".lock");
    let file = fs::File::create(&path).at("creating", &path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::new(
            Kind::Missing,
            format!("another build is writing to {}", out.display()),
        )
        .hint("wait for it, or choose another directory with --out")),
        Err(e) => Err(Error::io("locking", &path, &e.into())),
    }
}

/// A note beside the outputs of which inputs they came from, by which a second
/// build knows that there is nothing to do.
pub(super) struct Stamp {
    file: String,
    inputs: String,
}

#[derive(Serialize, Deserialize)]
struct Left {
    inputs: String,
    outputs: Outputs,
    /// File to (length, modification time in nanoseconds).
    files: BTreeMap<PathBuf, (u64, i128)>,
}

impl Stamp {
    pub(super) fn new(lock: &Lock, board: &Board) -> Result<Self> {
        Ok(Self {
            file: format!(".{}.stamp", board.name),
            inputs: lock.digest()?,
        })
    }

    pub(super) fn up_to_date(&self, out: &Path) -> Option<Outputs> {
        let text = fs::read(out.join(&self.file)).ok()?;
        let left: Left = serde_json::from_slice(&text).ok()?;
        let same = left.inputs == self.inputs
            && left
                .files
                .iter()
                .all(|(p, was)| identify(p).is_ok_and(|is| is == *was));
        same.then_some(Outputs {
            up_to_date: true,
            ..left.outputs
        })
    }

    pub(super) fn leave(&self, out: &Path, outputs: &Outputs) -> Result<()> {
        let files = outputs
            .files
            .all()
            .into_iter()
            .map(|p| Ok((p.clone(), identify(p).at("reading", p)?)))
            .collect::<Result<_>>()?;
        let left = Left {
            inputs: self.inputs.clone(),
            outputs: outputs.clone(),
            files,
        };
        atomic::write(&out.join(&self.file), &pretty(&left)?, 0o644)
    }
}

fn identify(path: &Path) -> std::io::Result<(u64, i128)> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(path)?;
    let time = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Ok((meta.len(), time))
}
