//! The download: an image as a sequence of zstd frames, compressed side by side and
//! remembered one by one.
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | | one frame for each segment of the image, with its size and checksum |
//! | then | 4 | 0x184D2A5E, a skippable frame |
//! | +4 | 4 | size of what follows |
//! | +8 | 12 each | seek table: compressed size, size, low half of XXH64 |
//! | -9 | 4 | number of frames |
//! | -5 | 1 | 0x80: with checksums |
//! | -4 | 4 | 0x8F92EAB1 |
//!
//! Sources: RFC 8878; zstd's contrib/seekable_format. Any zstd decoder takes the whole;
//! who knows the seek table can start at any segment.
//!
//! Segments are cut at blocks of 4096 bytes by their content, so that what an insertion
//! has moved is still found in the cache; long runs of zeros are segments of their own.
//! Where the cuts fall depends on the image's bytes alone.
//!
//! Measured on an image with 368 MB of content (kube, shim, CNI, CoreDNS, 98 MB of kernel
//! modules, kernel, Debian) in MB of download and seconds of CPU:
//!
//! | level | 2 + 4, at most 16 MiB | 8 + 8, 32 | 16 + 16, 64 | 64 + 64, 128 |
//! |---|---|---|---|---|
//! | 3 | 115.7, 6 s | 115.5, 5 s | 115.4, 5 s | 115.3, 5 s |
//! | 9 | 106.3, 13 s | 105.3, 16 s | 103.3, 16 s | 102.8, 19 s |
//! | 12 | 105.4, 33 s | 104.2, 33 s | 101.9, 33 s | 101.2, 35 s |
//! | 15 | 104.9, 107 s | | | |
//! | 17 | | | 95.9, 235 s | |
//! | 19 | | | 91.8, 341 s | |
//!
//! Hence segments of 16 to 64 MiB: a small change costs the compression of two or three
//! segments. A frame refers back no further than 32 MiB, so that a decoder needs no more,
//! and `slipway flash` gets by with 64 MiB in all.

mod cut;
pub(crate) mod pool;

pub use cut::{Cuts, Segment};

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use zstd::zstd_safe::CParameter;

use super::store::Store;
use crate::atomic::Pending;
use crate::error::{At as _, Error, Kind, Result};
use crate::progress::{Progress, Task};

const SKIPPABLE: u32 = 0x184D_2A5E;
const SEEKABLE: u32 = 0x8F92_EAB1;

/// Changes when the same segment and level shall give other bytes: old cache entries
/// are then no longer found.
const CACHE_VERSION: u32 = 2;

/// Binary logarithm of how far back a frame refers at most: what a decoder holds in
/// memory.
const WINDOW_LOG: u32 = 25;

/// What was compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of the image, holes included.
    pub image: u64,
    /// Bytes of the download.
    pub compressed: u64,
    /// Segments, zeros included.
    pub segments: usize,
    /// How many of them came from the cache.
    pub cached: usize,
    /// SHA-256 of the image.
    pub image_sha256: [u8; 32],
    /// SHA-256 of the download.
    pub compressed_sha256: [u8; 32],
}

/// Compresses `input` to `output` at a zstd level of 1 to 22 with `threads` threads.
/// Frames are kept in `cache`, a directory that may be cleared at any time.
///
/// # Errors
/// [`Kind::Io`], [`Kind::Interrupted`], [`Kind::Usage`] for a level there isn't.
pub fn compress(
    input: &Path,
    output: &Path,
    level: i32,
    cache: &Path,
    threads: usize,
    progress: &Progress,
) -> Result<Stats> {
    compress_with(
        input,
        output,
        level,
        cache,
        threads,
        Cuts::DEFAULT,
        progress,
    )
}

/// [`compress`] with other segment sizes than the default, for measuring.
///
/// # Errors
/// As [`compress`].
pub fn compress_with(
    input: &Path,
    output: &Path,
    level: i32,
    cache: &Path,
    threads: usize,
    cuts: Cuts,
    progress: &Progress,
) -> Result<Stats> {
    if !(1..=22).contains(&level) {
        return Err(Error::new(
            Kind::Usage,
            format!("there is no zstd level {level}; levels are 1 to 22"),
        ));
    }
    let file = File::open(input).at("opening", input)?;
    let len = file.metadata().at("reading", input)?.len();
    let segments = cut::cut(&file, cuts).at("reading", input)?;
    let task = progress.task(format!("compressing the image, level {level}"), Some(len));
    let job = Job {
        file: &file,
        input,
        level,
        store: Store::new(cache, "zst"),
        task: &task,
    };
    let mut pending = Pending::create(output)?;
    let mut out = Output::new(BufWriter::with_capacity(1 << 20, pending.file()));
    let mut cached = 0;
    let image_sha256 = std::thread::scope(|scope| {
        let digest = scope.spawn(|| digest(&file, len, progress));
        pool::in_order(
            threads,
            &segments,
            |segment| job.frame(segment),
            |segment, frame| {
                cached += usize::from(frame.cached);
                out.frame(&frame.bytes, segment).at("writing", output)
            },
        )?;
        digest
            .join()
            .map_err(|_| Error::new(Kind::Bug, "the thread that hashes the image died"))?
            .at("reading", input)
    })?;
    let (compressed, compressed_sha256) = out.finish().at("writing", output)?;
    pending.commit(0o644)?;
    Ok(Stats {
        image: len,
        compressed,
        segments: segments.len(),
        cached,
        image_sha256,
        compressed_sha256,
    })
}

/// A compressed segment.
struct Frame {
    bytes: Vec<u8>,
    cached: bool,
}

struct Job<'a> {
    file: &'a File,
    input: &'a Path,
    level: i32,
    store: Store,
    task: &'a Task,
}

impl Job<'_> {
    fn frame(&self, segment: &Segment) -> Result<Frame> {
        self.task.progress().check()?;
        let frame = if segment.zero {
            // Quick, and the same for every level.
            Frame {
                bytes: self.encode(&vec![0; segment.size()], 1)?,
                cached: true,
            }
        } else {
            let mut bytes = vec![0; segment.size()];
            self.file
                .read_exact_at(&mut bytes, segment.start)
                .at("reading", self.input)?;
            let key = self.key(&bytes);
            match self.store.get(&key) {
                Some(bytes) => Frame {
                    bytes,
                    cached: true,
                },
                None => {
                    let bytes = self.encode(&bytes, self.level)?;
                    self.store.put(&key, &bytes)?;
                    Frame {
                        bytes,
                        cached: false,
                    }
                }
            }
        };
        self.task.add(segment.len());
        Ok(frame)
    }

    fn key(&self, bytes: &[u8]) -> [u8; 32] {
        let mut key = Sha256::new();
        key.update(CACHE_VERSION.to_le_bytes());
        key.update(zstd::zstd_safe::version_number().to_le_bytes());
        key.update(self.level.to_le_bytes());
        key.update(bytes);
        key.finalize().into()
    }

    /// One frame. Fed in pieces so that Ctrl-C is heard.
    fn encode(&self, bytes: &[u8], level: i32) -> Result<Vec<u8>> {
        let failed = |e: io::Error| Error::new(Kind::Io, format!("compressing the image: {e}"));
        let mut encoder = zstd::Encoder::new(Vec::new(), level).map_err(failed)?;
        encoder.include_checksum(true).map_err(failed)?;
        encoder
            .set_pledged_src_size(Some(bytes.len() as u64))
            .map_err(failed)?;
        for parameter in window(bytes.len(), level) {
            encoder.set_parameter(parameter).map_err(failed)?;
        }
        for piece in bytes.chunks(1 << 18) {
            self.task.progress().check()?;
            encoder.write_all(piece).map_err(failed)?;
        }
        encoder.finish().map_err(failed)
    }
}

/// Parameters that let a frame refer to as much of its segment as a decoder may hold.
fn window(len: usize, level: i32) -> Vec<CParameter> {
    let log = len.max(1 << 10).next_power_of_two().trailing_zeros();
    let mut parameters = vec![CParameter::WindowLog(log.clamp(10, WINDOW_LOG))];
    if level >= 9 && len > 8 << 20 {
        parameters.push(CParameter::EnableLongDistanceMatching(true));
    }
    parameters
}

/// SHA-256 of the whole image; zeros at the end of a sparse file are quick to read.
fn digest(file: &File, len: u64, progress: &Progress) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < len && progress.check().is_ok() {
        let n = usize::try_from(len - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        file.read_exact_at(&mut buffer[..n], at)?;
        hash.update(&buffer[..n]);
        at += n as u64;
    }
    Ok(hash.finalize().into())
}

/// The file in the making, with its seek table.
struct Output<W: Write> {
    to: W,
    hash: Sha256,
    len: u64,
    table: Vec<u8>,
    frames: u32,
}

impl<W: Write> Output<W> {
    fn new(to: W) -> Self {
        Self {
            to,
            hash: Sha256::new(),
            len: 0,
            table: Vec::new(),
            frames: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
        self.to.write_all(bytes)
    }

    fn frame(&mut self, frame: &[u8], segment: &Segment) -> io::Result<()> {
        let size = |n: u64| u32::try_from(n).map_err(|_| io::Error::other("segment too large"));
        // A frame ends with the checksum that the table wants.
        let checksum = frame
            .last_chunk::<4>()
            .ok_or_else(|| io::Error::other("a frame without a checksum"))?;
        self.table
            .extend_from_slice(&size(frame.len() as u64)?.to_le_bytes());
        self.table
            .extend_from_slice(&size(segment.len())?.to_le_bytes());
        self.table.extend_from_slice(checksum);
        self.frames += 1;
        self.put(frame)
    }

    fn finish(mut self) -> io::Result<(u64, [u8; 32])> {
        let mut table = std::mem::take(&mut self.table);
        table.extend_from_slice(&self.frames.to_le_bytes());
        table.push(0x80);
        table.extend_from_slice(&SEEKABLE.to_le_bytes());
        let size = u32::try_from(table.len()).map_err(|_| io::Error::other("too many frames"))?;
        self.put(&SKIPPABLE.to_le_bytes())?;
        self.put(&size.to_le_bytes())?;
        self.put(&table)?;
        self.to.flush()?;
        Ok((self.len, self.hash.finalize().into()))
    }
}

/// One row of a seek table, for those who read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Where the frame begins in the download.
    pub compressed_at: u64,
    /// Its length there.
    pub compressed: u32,
    /// Where the segment begins in the image.
    pub at: u64,
    /// Its length there.
    pub size: u32,
}

/// Reads a seek table from the end of a download.
///
/// # Errors
/// [`Kind::Input`] if there is none or it contradicts itself; [`Kind::Io`].
pub fn seek_table(path: &Path) -> Result<Vec<Row>> {
    let wrong = |why: &str| Error::new(Kind::Input, format!("{}: {why}", path.display()));
    let file = File::open(path).at("opening", path)?;
    let len = file.metadata().at("reading", path)?.len();
    let mut footer = [0; 9];
    let footer_at = len
        .checked_sub(9)
        .ok_or_else(|| wrong("it has no seek table"))?;
    file.read_exact_at(&mut footer, footer_at)
        .at("reading", path)?;
    let [a, b, c, d, descriptor, magic @ ..] = footer;
    if u32::from_le_bytes(magic) != SEEKABLE || descriptor & 0x7f != 0 {
        return Err(wrong("it has no seek table"));
    }
    let frames = u64::from(u32::from_le_bytes([a, b, c, d]));
    let row = if descriptor & 0x80 != 0 { 12 } else { 8 };
    let table_at = footer_at
        .checked_sub(frames * row)
        .and_then(|at| at.checked_sub(8))
        .ok_or_else(|| wrong("its seek table is cut off"))?;
    let size = usize::try_from(frames * row).map_err(|_| wrong("its seek table is too long"))?;
    let mut table = vec![0; size + 8];
    file.read_exact_at(&mut table, table_at)
        .at("reading", path)?;
    let word = |at: usize| {
        table
            .get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map_or(0, u32::from_le_bytes)
    };
    if word(0) != SKIPPABLE || u64::from(word(4)) != frames * row + 9 {
        return Err(wrong("its seek table has a wrong header"));
    }
    let (mut compressed_at, mut at) = (0, 0);
    let mut rows = Vec::new();
    for i in 0..frames {
        let offset = 8 + usize::try_from(i * row).unwrap_or(usize::MAX);
        let (compressed, size) = (word(offset), word(offset + 4));
        rows.push(Row {
            compressed_at,
            compressed,
            at,
            size,
        });
        compressed_at += u64::from(compressed);
        at += u64::from(size);
    }
    if compressed_at != table_at {
        return Err(wrong("its seek table doesn't fit its frames"));
    }
    Ok(rows)
}
