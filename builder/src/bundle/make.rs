//! Making a bundle: an image cut into segments, each stored alone and, for each old image,
//! as what differs.
//!
//! Where deltas lie was measured (docs/bundle.md): in the same file. A node that
//! has no use for them doesn't fetch them, and whoever carries a file carries one.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use slipway_images::buffer::is_zero;
use slipway_images::bundle::manifest::{
    self, Base, Delta, Digest, Manifest, Payload, PayloadName, Segment, Stored,
};
use slipway_images::bundle::{KIND, segment};
use zstd::zstd_safe::{CCtx, CParameter, compress_bound, get_error_name, version_number};

use super::MakeArgs;
use super::deltas::Marks;
use super::image::Image;
use crate::atomic::Pending;
use crate::error::{At as _, Error, Kind, Result};
use crate::formats::store::Store;
use crate::formats::zst::pool;
use crate::keys::update::{self, PrivateKey};
use crate::progress::Progress;

/// zstd level of segments that are stored alone: that of images.
pub const LEVEL: i32 = 12;
/// That of deltas, of which there are few.
const DELTA_LEVEL: i32 = 19;
/// Bytes of a segment; see docs/bundle.md for what others cost.
const SEGMENT: u32 = manifest::SEGMENT_LIMIT;
/// Changes when the same segment shall give another piece.
const CACHE_VERSION: u32 = 1;

/// What was made.
#[derive(Debug, Serialize)]
pub struct Made {
    /// The bundle.
    pub bundle: PathBuf,
    /// The board that it is for.
    pub board: String,
    /// Its version.
    pub version: String,
    /// Its release number.
    pub release: u64,
    /// Bytes of the file.
    pub size: u64,
    /// Bytes that a node fetches that has nothing of it.
    pub full: u64,
    /// Bytes that a node fetches that runs an old version, for each.
    pub deltas: Vec<(String, u64)>,
    /// Old versions, with their release numbers, that nodes don't take for older ones.
    pub not_older: Vec<(String, u64)>,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |n: u64| n as f64 / 1e6;
        writeln!(f, "{} {}", self.board, self.version)?;
        write!(
            f,
            "  bundle    {} ({:.1} MB)",
            self.bundle.display(),
            megabytes(self.size)
        )?;
        write!(f, "\n  full      {:.1} MB to fetch", megabytes(self.full))?;
        for (version, size) in &self.deltas {
            let percent = *size as f64 / self.full as f64 * 100.0;
            write!(
                f,
                "\n  from      {version}: {:.2} MB to fetch ({percent:.1} %)",
                megabytes(*size)
            )?;
        }
        for (version, release) in &self.not_older {
            write!(
                f,
                "\n  warning   {version} has the release number {release}, and this image {}: nodes can't know that it is later; build it with a higher --release",
                self.release
            )?;
        }
        Ok(())
    }
}

/// Makes a bundle.
///
/// # Errors
/// [`Kind::Input`] for images or keys that can't be used, [`Kind::Io`], [`Kind::Interrupted`].
pub fn make(args: &MakeArgs, cache: &Path, progress: &Progress) -> Result<Made> {
    let key = PrivateKey::load(&args.key)?;
    let next_keys = args.next_key.iter().map(|path| update::load_public(path));
    let next_keys = next_keys.collect::<Result<_>>()?;
    let image = Image::open(&args.image, progress)?;
    let info = &image.info;
    let output = args.output.clone().unwrap_or_else(|| {
        let name = format!("{}-{}.slip", info.board, info.version);
        args.image.with_file_name(name)
    });
    let maker = Maker {
        image: &image,
        level: args.level,
        store: Store::new(cache, "slip"),
        progress,
    };

    let mut spool = Spool::new(&output)?;
    let [kernel, root] = maker.full(&mut spool)?;
    let mut manifest = Manifest {
        board: info.board.clone(),
        version: info.version.clone(),
        release: info.release(),
        kubernetes: info.kubernetes.clone(),
        requires: args.requires.clone(),
        next_keys,
        root_hash: image.root_hash,
        kernel_sha256: Digest::of(&image.kernel),
        segment_size: SEGMENT,
        kernel,
        root,
        bases: Vec::new(),
    };
    let (mut deltas, mut not_older) = (Vec::new(), Vec::new());
    for old in &args.from {
        let (base, release, fetched) = maker.base(&manifest, old, &mut spool)?;
        if release >= manifest.release {
            not_older.push((base.version.clone(), release));
        }
        deltas.push((base.version.clone(), fetched));
        manifest.bases.push(base);
    }
    let head = sign(&manifest, &key)?;
    let size = head.len() as u64 + manifest.stored();
    spool.finish(&head)?;
    let head = head.len() as u64;
    Ok(Made {
        bundle: output,
        board: manifest.board.clone(),
        version: manifest.version.clone(),
        release: manifest.release,
        size,
        full: head + manifest.stored_full(),
        deltas: (deltas.into_iter())
            .map(|(version, pieces)| (version, head + pieces))
            .collect(),
        not_older,
    })
}

/// Head, manifest and signature.
///
/// # Errors
/// [`Kind::Input`] if nodes would refuse the manifest.
pub fn sign(manifest: &Manifest, key: &PrivateKey) -> Result<Vec<u8>> {
    manifest
        .check()
        .map_err(|e| Error::new(Kind::Input, format!("no node would take the bundle: {e}")))?;
    let json = serde_json::to_vec(manifest)
        .map_err(|e| Error::new(Kind::Bug, format!("writing the manifest: {e}")))?;
    if json.len() > KIND.limit as usize {
        return Err(Error::new(Kind::Input, "the manifest is too long")
            .hint("make the bundle against fewer old images"));
    }
    Ok(key.document(&KIND, &json))
}

struct Maker<'a> {
    image: &'a Image,
    level: i32,
    store: Store,
    progress: &'a Progress,
}

/// How a node with some base gets a segment.
enum From {
    /// It has it.
    Same,
    /// By a delta against this stretch.
    Delta { from: u64, len: u32, piece: Vec<u8> },
    /// Alone.
    Alone,
}

impl Maker<'_> {
    fn threads(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// Both payloads, each segment stored alone.
    fn full(&self, spool: &mut Spool) -> Result<[Payload; 2]> {
        let mut payloads = PayloadName::BOTH.map(|name| Payload {
            size: self.image.size(name),
            segments: Vec::new(),
        });
        let total = payloads.iter().map(|payload| payload.size).sum();
        let name = format!("compressing segments, level {}", self.level);
        let task = self.progress.task(name, Some(total));
        for (name, payload) in PayloadName::BOTH.into_iter().zip(&mut payloads) {
            let starts: Vec<u64> = (0..payload.size).step_by(SEGMENT as usize).collect();
            let segments = &mut payload.segments;
            pool::in_order(
                self.threads(),
                &starts,
                |start| {
                    let bytes = self.image.read(name, *start, SEGMENT)?;
                    task.add(bytes.len() as u64);
                    let piece = match is_zero(&bytes) {
                        true => None,
                        false => Some(self.encode(&bytes, &[], self.level)?),
                    };
                    Ok((Digest::of(&bytes), piece))
                },
                |_, (sha256, piece)| {
                    let stored = piece.map(|piece| spool.add(&piece)).transpose()?;
                    segments.push(Segment { sha256, stored });
                    Ok(())
                },
            )?;
        }
        Ok(payloads)
    }

    /// What differs from an old image, its release number, and how many bytes a node that runs
    /// it fetches.
    fn base(&self, new: &Manifest, old: &Path, spool: &mut Spool) -> Result<(Base, u64, u64)> {
        let old = Image::open(old, self.progress)?;
        let refuse = |what: String| {
            let message = format!("{}: {what}", old.path().display());
            Error::new(Kind::Input, message)
        };
        if old.info.board != new.board {
            let board = &old.info.board;
            return Err(refuse(format!(
                "it is for board {board}, not {}",
                new.board
            )));
        }
        if old.root_hash == new.root_hash {
            return Err(refuse("it is the same image as the new one".to_owned()));
        }
        let mut marks = PayloadName::BOTH.map(|_| Marks::default());
        for (name, marks) in PayloadName::BOTH.into_iter().zip(&mut marks) {
            for start in (0..old.size(name)).step_by(SEGMENT as usize) {
                self.progress.check()?;
                marks.add(&old.read(name, start, SEGMENT)?);
            }
        }
        let segments: Vec<(PayloadName, usize, Stored)> = new
            .full()
            .map(|(name, n, stored)| (name, n, *stored))
            .collect();
        let total = segments.len() as u64 * u64::from(SEGMENT);
        let name = format!("comparing with {}", old.info.version);
        let task = self.progress.task(name, Some(total));
        let mut deltas = Vec::new();
        let mut fetched = 0;
        pool::in_order(
            self.threads(),
            &segments,
            |(name, n, alone)| {
                let start = new.place(*name, *n).start;
                let [kernel, root] = &marks;
                let marks = match name {
                    PayloadName::Kernel => kernel,
                    PayloadName::Root => root,
                };
                let found = self.from(&old, marks, (*name, start), alone)?;
                task.add(SEGMENT.into());
                Ok(found)
            },
            |(name, n, alone), found| {
                match found {
                    From::Same => {}
                    From::Alone => fetched += u64::from(alone.size),
                    From::Delta { from, len, piece } => {
                        fetched += piece.len() as u64;
                        deltas.push(Delta {
                            payload: *name,
                            segment: u32::try_from(*n).unwrap_or(u32::MAX),
                            from,
                            len,
                            stored: spool.add(&piece)?,
                        });
                    }
                }
                Ok(())
            },
        )?;
        let release = old.info.release();
        let base = Base {
            version: old.info.version,
            root_hash: old.root_hash,
            deltas,
        };
        Ok((base, release, fetched))
    }

    fn from(
        &self,
        old: &Image,
        marks: &Marks,
        (name, start): (PayloadName, u64),
        alone: &Stored,
    ) -> Result<From> {
        let bytes = self.image.read(name, start, SEGMENT)?;
        if old.read(name, start, SEGMENT)? == bytes {
            return Ok(From::Same);
        }
        let Some(stretch) = marks.stretch(&bytes, start) else {
            return Ok(From::Alone);
        };
        // At most `PREFIX_LIMIT`.
        let len = u32::try_from(stretch.end - stretch.start).unwrap_or(0);
        let prefix = old.read(name, stretch.start, len)?;
        let piece = self.encode(&bytes, &prefix, DELTA_LEVEL)?;
        if piece.len() >= alone.size as usize {
            return Ok(From::Alone);
        }
        Ok(From::Delta {
            from: stretch.start,
            len,
            piece,
        })
    }

    /// A segment as one frame.
    fn encode(&self, bytes: &[u8], prefix: &[u8], level: i32) -> Result<Vec<u8>> {
        self.progress.check()?;
        let mut key = Sha256::new();
        for number in [CACHE_VERSION, version_number(), segment::WINDOW_LOG] {
            key.update(number.to_le_bytes());
        }
        key.update(level.to_le_bytes());
        key.update(Sha256::digest(prefix));
        key.update(bytes);
        let key = key.finalize().into();
        if let Some(piece) = self.store.get(&key) {
            return Ok(piece);
        }
        let piece = compress(bytes, prefix, level).map_err(|code| {
            let why = get_error_name(code);
            Error::new(Kind::Bug, format!("compressing a segment: {why}"))
        })?;
        self.store.put(&key, &piece)?;
        Ok(piece)
    }
}

/// One frame with its content's size and without a checksum: the manifest has better ones.
fn compress(bytes: &[u8], prefix: &[u8], level: i32) -> Result<Vec<u8>, usize> {
    let mut encoder = CCtx::create();
    encoder.set_parameter(CParameter::CompressionLevel(level))?;
    // All of a segment, and of a prefix with it.
    let window = match prefix.is_empty() {
        true => SEGMENT.ilog2(),
        false => segment::WINDOW_LOG,
    };
    encoder.set_parameter(CParameter::WindowLog(window))?;
    if !prefix.is_empty() {
        encoder.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
        encoder.ref_prefix(prefix)?;
    }
    let mut piece = Vec::with_capacity(compress_bound(bytes.len()));
    encoder.compress2(&mut piece, bytes)?;
    Ok(piece)
}

/// Pieces on their way into the bundle: they come after the manifest, which has their sizes.
struct Spool {
    output: PathBuf,
    pieces: File,
}

impl Spool {
    fn new(output: &Path) -> Result<Self> {
        let dir = match output.parent() {
            Some(dir) if !dir.as_os_str().is_empty() => dir,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(dir).at("creating", dir)?;
        Ok(Self {
            output: output.to_owned(),
            pieces: tempfile::tempfile_in(dir).at("creating a file in", dir)?,
        })
    }

    fn add(&mut self, piece: &[u8]) -> Result<Stored> {
        self.pieces.write_all(piece).at("writing", &self.output)?;
        Ok(Stored {
            // Of a segment of 8 MiB.
            size: u32::try_from(piece.len()).unwrap_or(u32::MAX),
            sha256: Digest::of(piece),
        })
    }

    fn finish(mut self, head: &[u8]) -> Result<()> {
        let mut pending = Pending::create(&self.output)?;
        self.pieces
            .rewind()
            .and_then(|()| {
                let mut out = BufWriter::with_capacity(1 << 20, pending.file());
                out.write_all(head)?;
                io::copy(&mut self.pieces, &mut out)?;
                out.flush()
            })
            .at("writing", &self.output)?;
        pending.commit(0o644)
    }
}
