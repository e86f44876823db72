//! An admitted bundle into the slot that doesn't run.
//!
//! | a segment is | when |
//! |---|---|
//! | left as it is | the slot has the same bytes at the same place: of an update that broke off, or of the version before |
//! | zeros | nothing is fetched |
//! | copied | the slot that runs has the same bytes at the same place |
//! | patched | the bundle has a delta against what runs |
//! | fetched | else; also if the base isn't what the delta was made with |
//!
//! Memory: a segment (8 MiB), its piece (as much) and a prefix (24 MiB) while it is
//! written; afterwards the tree over the root, 1/64 of it while it is made (32 MiB for the largest).

use std::io;
use std::num::NonZeroU64;
use std::ops::{ControlFlow, Range};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::admit::Admitted;
use super::error::BundleError;
use super::manifest::{Delta, Digest, Manifest, PayloadName, Stored};
use super::segment::{SegmentError, unpack};
use super::source::Source;
use crate::slot::{BootMethod, Disk, SlotError, Verified, Writing};
use crate::verity::{self, BLOCK};

/// Bytes that are read or written at once.
const PIECE: usize = 1 << 20;
/// Bytes that are fetched between two looks at whether to stop.
const FETCH: usize = 256 << 10;

/// The root partition that is written.
pub trait RootPlace: Disk + Send {
    /// After a flush: what is read from here on comes from the medium, not from memory.
    ///
    /// # Errors
    /// Those of the system call.
    fn forget(&mut self) -> io::Result<()>;
}

/// Where the kernel image is written, and where the one that runs is read.
pub trait KernelPlace {
    /// Writes a part.
    ///
    /// # Errors
    /// [`SlotError::Boot`].
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SlotError>;

    /// Reads a part of what is written.
    ///
    /// # Errors
    /// [`SlotError::Boot`].
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SlotError>;

    /// Reads a part of the kernel image that runs.
    ///
    /// # Errors
    /// [`SlotError::Boot`], also beyond its end.
    fn read_running(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SlotError>;
}

impl<B: BootMethod> KernelPlace for Writing<'_, B> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SlotError> {
        Writing::write(self, offset, bytes)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SlotError> {
        Writing::read(self, offset, buffer)
    }

    fn read_running(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SlotError> {
        Writing::read_running(self, offset, buffer)
    }
}

/// All that is read and written on the node.
pub struct Places<'a> {
    /// The root partition of the slot that doesn't run.
    pub root: &'a mut dyn RootPlace,
    /// The root that runs, if it can be read.
    pub running_root: Option<&'a mut dyn Disk>,
    /// Both kernel images.
    pub kernel: &'a mut dyn KernelPlace,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Both slots are compared with the manifest.
    Compare,
    /// Segments are fetched and written.
    Write,
    /// What was written is read back.
    Verify,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Doing what.
    pub step: Step,
    /// Bytes of the slot that are through.
    pub done: u64,
    /// Of so many in this step.
    pub total: u64,
    /// Bytes of the bundle that were fetched, its head not counted.
    pub fetched: u64,
    /// Of so many, as far as it is known.
    pub to_fetch: u64,
}

/// Is told of the progress; with `Break` it stops.
pub type Watch<'a> = dyn FnMut(&Progress) -> ControlFlow<()> + Send + 'a;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Keep,
    Zero,
    Copy,
    /// By the number of the delta in its base.
    Patch(usize),
    Fetch,
}

/// A segment that has to be written.
#[derive(Debug, Clone, Copy)]
struct Job {
    payload: PayloadName,
    segment: usize,
    action: Action,
    /// Where in the bundle its piece lies.
    at: u64,
}

/// What is left to do.
#[derive(Debug)]
pub struct Prepared {
    admitted: Admitted,
    jobs: Vec<Job>,
    to_fetch: u64,
    kept: u64,
}

impl Admitted {
    /// Compares both slots with the manifest. The slot must have been begun.
    ///
    /// # Errors
    /// [`BundleError::Place`], [`BundleError::Slot`], [`BundleError::Cancelled`].
    pub fn prepare(
        self,
        places: &mut Places<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Prepared, BundleError> {
        let manifest = self.manifest();
        let mut looking = Looking {
            places,
            watch,
            progress: Progress {
                step: Step::Compare,
                done: 0,
                total: manifest.kernel.size + manifest.root.size,
                fetched: 0,
                to_fetch: 0,
            },
        };
        let pieces = Pieces::new(&self);
        let mut jobs = Vec::new();
        let mut kept = 0;
        for payload in PayloadName::BOTH {
            for (segment, wanted) in manifest.payload(payload).segments.iter().enumerate() {
                let place = manifest.place(payload, segment);
                let size = place.end - place.start;
                let delta = pieces.delta(payload, segment);
                let action = match () {
                    () if looking.has(Side::New, payload, &place, wanted.sha256)? => Action::Keep,
                    () if wanted.stored.is_none() => Action::Zero,
                    () if looking.has(Side::Running, payload, &place, wanted.sha256)? => {
                        Action::Copy
                    }
                    () => delta.map_or(Action::Fetch, Action::Patch),
                };
                looking.progress.done += size;
                looking.tell()?;
                if action == Action::Keep {
                    kept += size;
                    continue;
                }
                let at = match action {
                    Action::Patch(delta) => pieces.deltas[delta],
                    Action::Fetch => pieces.full(payload, segment),
                    _ => 0,
                };
                jobs.push(Job {
                    payload,
                    segment,
                    action,
                    at,
                });
            }
        }
        // What is fetched, in the order of the bundle.
        jobs.sort_by_key(|job| job.at);
        let mut prepared = Prepared {
            admitted: self,
            jobs,
            to_fetch: 0,
            kept,
        };
        let sizes = prepared.jobs.iter().filter_map(|job| prepared.piece(job));
        prepared.to_fetch = sizes.map(|piece| u64::from(piece.size)).sum();
        Ok(prepared)
    }
}

/// Where pieces lie in the bundle.
struct Pieces {
    full: Vec<((PayloadName, usize), u64)>,
    deltas: Vec<u64>,
    /// Payload and segment of each.
    of: Vec<(PayloadName, usize)>,
}

impl Pieces {
    fn new(admitted: &Admitted) -> Self {
        let manifest = admitted.manifest();
        let mut at = admitted.bundle.pieces;
        let mut step = |piece: &Stored| {
            let start = at;
            at += u64::from(piece.size);
            start
        };
        let full = manifest.full();
        let full = full.map(|(name, n, piece)| ((name, n), step(piece)));
        let full = full.collect();
        let mut pieces = Self {
            full,
            deltas: Vec::new(),
            of: Vec::new(),
        };
        for (n, base) in manifest.bases.iter().enumerate() {
            for delta in &base.deltas {
                let start = step(&delta.stored);
                if admitted.base == Some(n) {
                    pieces.deltas.push(start);
                    pieces.of.push((delta.payload, delta.segment as usize));
                }
            }
        }
        pieces
    }

    /// Both lists are in the order of payloads and segments.
    fn delta(&self, payload: PayloadName, segment: usize) -> Option<usize> {
        self.of.binary_search(&(payload, segment)).ok()
    }

    fn full(&self, payload: PayloadName, segment: usize) -> u64 {
        let found = (self.full).binary_search_by_key(&(payload, segment), |(of, _)| *of);
        found.map_or(0, |n| self.full[n].1)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    New,
    Running,
}

struct Looking<'l, 'p, 'w, 'v> {
    places: &'l mut Places<'p>,
    watch: &'w mut Watch<'v>,
    progress: Progress,
}

fn told(answer: ControlFlow<()>) -> Result<(), BundleError> {
    match answer {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(BundleError::Cancelled),
    }
}

impl Looking<'_, '_, '_, '_> {
    fn tell(&mut self) -> Result<(), BundleError> {
        told((self.watch)(&self.progress))
    }

    fn read(
        &mut self,
        side: Side,
        payload: PayloadName,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), BundleError> {
        let places = &mut *self.places;
        match (side, payload) {
            (Side::New, PayloadName::Root) => places
                .root
                .read_at(offset, buffer)
                .map_err(BundleError::Place),
            (Side::New, PayloadName::Kernel) => Ok(places.kernel.read(offset, buffer)?),
            (Side::Running, PayloadName::Kernel) => {
                Ok(places.kernel.read_running(offset, buffer)?)
            }
            (Side::Running, PayloadName::Root) => match &mut places.running_root {
                Some(root) => root.read_at(offset, buffer).map_err(BundleError::Place),
                None => Err(BundleError::Place(io::ErrorKind::NotFound.into())),
            },
        }
    }

    fn write(
        &mut self,
        payload: PayloadName,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), BundleError> {
        match payload {
            PayloadName::Root => {
                let root = &mut self.places.root;
                root.write_at(offset, bytes).map_err(BundleError::Place)
            }
            PayloadName::Kernel => Ok(self.places.kernel.write(offset, bytes)?),
        }
    }

    /// The SHA-256 of what lies there.
    fn digest(
        &mut self,
        side: Side,
        payload: PayloadName,
        place: &Range<u64>,
    ) -> Result<Digest, BundleError> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; PIECE];
        let mut at = place.start;
        while at < place.end {
            let n = (place.end - at).min(PIECE as u64) as usize;
            self.read(side, payload, at, &mut buffer[..n])?;
            hash.update(&buffer[..n]);
            at += n as u64;
        }
        Ok(hash.into())
    }

    /// Whether these bytes lie there. What of the running slot can't be read isn't there:
    /// perhaps it is shorter.
    fn has(
        &mut self,
        side: Side,
        payload: PayloadName,
        place: &Range<u64>,
        sha256: Digest,
    ) -> Result<bool, BundleError> {
        match (self.digest(side, payload, place), side) {
            (Err(_), Side::Running) => Ok(false),
            (found, _) => Ok(found? == sha256),
        }
    }
}

impl Prepared {
    /// Bytes of the bundle that have to be fetched, its head not counted.
    #[must_use]
    pub fn to_fetch(&self) -> u64 {
        self.to_fetch
    }

    /// Bytes of the new version that the slot has already.
    #[must_use]
    pub fn kept(&self) -> u64 {
        self.kept
    }

    fn manifest(&self) -> &Manifest {
        self.admitted.manifest()
    }

    fn delta(&self, number: usize) -> Option<&Delta> {
        let base = self.manifest().bases.get(self.admitted.base?)?;
        base.deltas.get(number)
    }

    /// What is fetched for a segment.
    fn piece(&self, job: &Job) -> Option<&Stored> {
        match job.action {
            Action::Patch(number) => Some(&self.delta(number)?.stored),
            Action::Fetch => {
                let segments = &self.manifest().payload(job.payload).segments;
                segments.get(job.segment)?.stored.as_ref()
            }
            _ => None,
        }
    }

    /// Fetches, verifies and writes what is missing, makes the root's hash tree, and reads all
    /// of it back.
    ///
    /// # Errors
    /// [`BundleError`]; the slot then can't be booted. Begun anew, it goes on where it was.
    pub fn run(
        &self,
        source: &mut dyn Source,
        places: &mut Places<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<Verified, BundleError> {
        let size = |job: &Job| {
            let place = self.manifest().place(job.payload, job.segment);
            place.end - place.start
        };
        let mut at_work = AtWork {
            prepared: self,
            source,
            pieces: Pieces::new(&self.admitted),
            looking: Looking {
                places,
                watch,
                progress: Progress {
                    step: Step::Write,
                    done: 0,
                    total: self.jobs.iter().map(size).sum(),
                    fetched: 0,
                    to_fetch: self.to_fetch,
                },
            },
        };
        at_work.write()?;
        at_work.looking.verify(self.manifest())
    }
}

struct AtWork<'l, 'p, 'w, 'v> {
    prepared: &'l Prepared,
    source: &'l mut dyn Source,
    pieces: Pieces,
    looking: Looking<'l, 'p, 'w, 'v>,
}

impl AtWork<'_, '_, '_, '_> {
    fn write(&mut self) -> Result<(), BundleError> {
        let manifest = self.prepared.manifest();
        let mut segment = Vec::new();
        let mut expected = 0;
        for (n, job) in self.prepared.jobs.iter().enumerate() {
            let place = manifest.place(job.payload, job.segment);
            // Limited to 8 MiB by `Manifest::check`.
            segment.resize((place.end - place.start) as usize, 0);
            if self.prepared.piece(job).is_some() && job.at >= expected {
                expected = self.run_of(n);
                self.source.expect(job.at..expected);
            }
            self.get(job, &place, &mut segment)?;
            for (n, bytes) in segment.chunks(PIECE).enumerate() {
                let offset = place.start + (n * PIECE) as u64;
                self.looking.write(job.payload, offset, bytes)?;
            }
            self.looking.progress.done += place.end - place.start;
            self.looking.tell()?;
        }
        Ok(())
    }

    /// Where the pieces end that lie one behind the other from this job's on.
    fn run_of(&self, first: usize) -> u64 {
        let jobs = &self.prepared.jobs[first..];
        let mut end = jobs.first().map_or(0, |job| job.at);
        for job in jobs {
            match self.prepared.piece(job) {
                Some(piece) if job.at == end => end += u64::from(piece.size),
                _ => break,
            }
        }
        end
    }

    /// The bytes of a segment.
    fn get(
        &mut self,
        job: &Job,
        place: &Range<u64>,
        segment: &mut [u8],
    ) -> Result<(), BundleError> {
        let Some(wanted) = (self.prepared.manifest().payload(job.payload).segments)
            .get(job.segment)
            .copied()
        else {
            return Ok(());
        };
        match job.action {
            Action::Keep => return Ok(()),
            Action::Zero => {
                segment.fill(0);
                return Ok(());
            }
            Action::Copy => {
                let read = (self.looking).read(Side::Running, job.payload, place.start, segment);
                if read.is_ok() && Digest::of(segment) == wanted.sha256 {
                    return Ok(());
                }
            }
            Action::Patch(number) => {
                if let Some(delta) = self.prepared.delta(number).copied()
                    && self.patch(job, &delta, segment, wanted.sha256)?
                {
                    return Ok(());
                }
            }
            Action::Fetch => {}
        }
        let Some(stored) = wanted.stored else {
            segment.fill(0);
            return Ok(());
        };
        let at = self.pieces.full(job.payload, job.segment);
        let piece = self.fetch(at, &stored)?;
        unpack(&piece, &stored, &[], segment, wanted.sha256).map_err(|e| wrong(job, e))
    }

    /// Whether a delta has given the segment: not if its base is another one.
    fn patch(
        &mut self,
        job: &Job,
        delta: &Delta,
        segment: &mut [u8],
        sha256: Digest,
    ) -> Result<bool, BundleError> {
        let piece = self.fetch(job.at, &delta.stored)?;
        let mut prefix = vec![0; delta.len as usize];
        let read = (self.looking).read(Side::Running, job.payload, delta.from, &mut prefix);
        if read.is_err() {
            return Ok(false);
        }
        match unpack(&piece, &delta.stored, &prefix, segment, sha256) {
            Ok(()) => Ok(true),
            Err(SegmentError::Content { .. } | SegmentError::Unpack(_)) => Ok(false),
            Err(error) => Err(wrong(job, error)),
        }
    }

    fn fetch(&mut self, at: u64, stored: &Stored) -> Result<Vec<u8>, BundleError> {
        // Limited by `Manifest::check`.
        let mut piece = vec![0; stored.size as usize];
        let mut offset = at;
        for part in piece.chunks_mut(FETCH) {
            self.source
                .read_at(offset, part)
                .map_err(BundleError::Source)?;
            offset += part.len() as u64;
            self.looking.progress.fetched += part.len() as u64;
            self.looking.tell()?;
        }
        Ok(piece)
    }
}

fn wrong(job: &Job, error: SegmentError) -> BundleError {
    BundleError::Segment {
        payload: job.payload,
        segment: job.segment,
        error,
    }
}

impl Looking<'_, '_, '_, '_> {
    /// Makes the tree over the root as the medium has it, writes it, and looks at it and the
    /// kernel image once more.
    fn verify(&mut self, manifest: &Manifest) -> Result<Verified, BundleError> {
        let size = manifest.root.size;
        self.progress = Progress {
            step: Step::Verify,
            done: 0,
            total: size + manifest.kernel.size,
            ..self.progress
        };
        self.settle()?;
        let tree = self.tree(manifest)?;
        if tree.root != manifest.root_hash {
            return Err(BundleError::Root {
                expected: manifest.root_hash,
                found: tree.root,
            });
        }
        self.write(PayloadName::Root, size, &tree.bytes)?;
        self.settle()?;
        let mut buffer = vec![0; PIECE];
        for (n, part) in tree.bytes.chunks(PIECE).enumerate() {
            let read = &mut buffer[..part.len()];
            let offset = size + (n * PIECE) as u64;
            self.read(Side::New, PayloadName::Root, offset, read)?;
            if read != part {
                return Err(BundleError::Tree);
            }
        }
        self.progress.done = size;
        self.tell()?;
        let whole = 0..manifest.kernel.size;
        let found = self.digest(Side::New, PayloadName::Kernel, &whole)?;
        if found != manifest.kernel_sha256 {
            return Err(BundleError::Kernel {
                expected: manifest.kernel_sha256,
                found,
            });
        }
        self.progress.done = self.progress.total;
        self.tell()?;
        Ok(Verified::digests_right_and_root_flushed())
    }

    /// What was written to the root partition is on the medium and nowhere else.
    fn settle(&mut self) -> Result<(), BundleError> {
        let root = &mut self.places.root;
        root.flush()
            .and_then(|()| root.forget())
            .map_err(BundleError::Place)
    }

    fn tree(&mut self, manifest: &Manifest) -> Result<verity::Tree, BundleError> {
        let size = manifest.root.size;
        let blocks = NonZeroU64::new(size / BLOCK)
            .ok_or_else(|| BundleError::Manifest("an empty root".into()))?;
        let threads = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(4);
        // All of it is read, also what is free in the filesystem: there the tree has zeros.
        let all = [0..size / BLOCK];
        let salt = verity::salt(&manifest.board);
        let shared = Mutex::new((&mut *self.places.root, &mut self.progress, &mut *self.watch));
        verity::tree(blocks, &all, &salt, threads, |block, buffer: &mut [u8]| {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let (root, progress, watch) = &mut *shared;
            root.read_at(block * BLOCK, buffer)
                .map_err(BundleError::Place)?;
            progress.done += buffer.len() as u64;
            told(watch(progress))
        })
    }
}
