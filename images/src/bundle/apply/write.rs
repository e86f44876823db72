//! Segments are fetched, unpacked and written.
//!
//! The kernel image's one after the other. The root's by three kinds of threads: this one
//! fetches and reads what runs, others unpack and hash, and one writes, so that the medium is
//! busy while the next segments are unpacked. What was fetched is written even if nothing more
//! can be: begun again, it is there.

use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};

use super::pieces::Pieces;
use super::places::{KernelPlace, PIECE, RootPlace, threads, told};
use super::{Action, Job, Prepared, Progress, Watch};
use crate::buffer::Buffer;
use crate::bundle::error::BundleError;
use crate::bundle::manifest::{Digest, PayloadName, Stored};
use crate::bundle::segment::{SegmentError, unpack};
use crate::bundle::source::Source;
use crate::secure_boot::authenticode::Program;
use crate::slot::Disk;

/// Bytes that are fetched between two looks at whether to stop.
const FETCH: usize = 256 << 10;
/// Bytes of segments, pieces and prefixes in memory at once: four usual segments with their
/// pieces, or one with the longest prefix and a piece that is no smaller than it.
const MEMORY: u64 = 40 << 20;
/// Buffers of segments that wait for their next use.
const SPARE: usize = 2;
/// Bytes that are written between two flushes.
const FLUSH: usize = 32 << 20;

pub struct AtWork<'l, 'w, 'v> {
    pub prepared: &'l Prepared,
    pub source: &'l mut dyn Source,
    pub pieces: Pieces,
    /// What the source was told last.
    pub expected: Range<u64>,
    pub running: Option<&'l mut (dyn Disk + Send)>,
    pub kernel: &'l mut dyn KernelPlace,
    pub watch: &'w mut Watch<'v>,
    pub progress: Progress,
}

/// What a segment is made from.
enum Material {
    Zeros,
    /// The same place of the slot that runs.
    Copy(Buffer),
    Piece {
        piece: Vec<u8>,
        stored: Stored,
        /// Of a delta.
        prefix: Option<Buffer>,
    },
}

/// A segment of the root that is to be unpacked.
struct Work {
    job: Job,
    place: Range<u64>,
    sha256: Digest,
    material: Material,
    /// Bytes in memory until it is written.
    memory: u64,
}

/// One that is to be written.
struct Unpacked {
    job: Job,
    offset: u64,
    bytes: Buffer,
    memory: u64,
}

/// What has become of one.
struct Done {
    job: Job,
    memory: u64,
    /// Else what runs isn't what it was taken for, and it has to be fetched alone.
    written: bool,
}

/// Buffers that were written: each thread's heap would keep some of its own.
#[derive(Default)]
struct Spare(Mutex<Vec<Buffer>>);

impl Spare {
    /// One with any bytes in it.
    fn take(&self, size: usize) -> Buffer {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let fits = spare.and_then(|spare| spare.with_len(size));
        fits.unwrap_or_else(|| Buffer::new(size))
    }

    fn give(&self, bytes: Buffer) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < SPARE {
            all.push(bytes);
        }
    }
}

/// What is under way.
#[derive(Default)]
struct Flight {
    jobs: usize,
    memory: u64,
    unfit: Vec<Job>,
}

impl AtWork<'_, '_, '_> {
    /// The kernel image first: what firmware wouldn't start needs no root.
    pub fn write(&mut self, root: &mut dyn RootPlace) -> Result<(), BundleError> {
        self.write_kernel()?;
        let prepared = self.prepared;
        if let Some(firmware) = &prepared.admitted.firmware {
            let program = Program::read(prepared.manifest().kernel.size, |offset, buffer| {
                told((self.watch)(&self.progress))?;
                Ok::<(), BundleError>(self.kernel.read(offset, buffer)?)
            })?;
            firmware.check(&program)?;
        }
        self.write_root(root)
    }

    fn tell(&mut self) -> Result<(), BundleError> {
        told((self.watch)(&self.progress))
    }

    fn write_kernel(&mut self) -> Result<(), BundleError> {
        let prepared = self.prepared;
        let spare = Spare::default();
        for (n, job) in prepared.jobs_of(PayloadName::Kernel) {
            let mut work = self.work(Some(n), job)?;
            let bytes = loop {
                let made = made(work.material, &work.place, work.sha256, &spare);
                match made.map_err(|error| wrong(job, error))? {
                    Some(bytes) => break bytes,
                    None => work = self.work(None, self.alone(job))?,
                }
            };
            for (n, part) in bytes.chunks(PIECE).enumerate() {
                let offset = work.place.start + (n * PIECE) as u64;
                self.kernel.write(offset, part)?;
            }
            self.progress.done += bytes.len() as u64;
            spare.give(bytes);
            self.tell()?;
        }
        Ok(())
    }

    fn write_root(&mut self, root: &mut dyn RootPlace) -> Result<(), BundleError> {
        let (to_unpack, work) = channel();
        let (to_write, unpacked) = channel();
        let (report, reports) = channel();
        let (work, spare) = (Mutex::new(work), Spare::default());
        std::thread::scope(|scope| {
            for _ in 0..threads() {
                let (work, spare) = (&work, &spare);
                let (to_write, report) = (to_write.clone(), report.clone());
                scope.spawn(move || unpack_all(work, spare, &to_write, &report));
            }
            drop(to_write);
            let spare = &spare;
            scope.spawn(move || write_all(root, unpacked, spare, &report));
            self.feed(to_unpack, &reports)
        })
    }

    /// Keeps the other threads busy. When this ends, they do with what they have left.
    fn feed(
        &mut self,
        to_unpack: Sender<Work>,
        reports: &Receiver<Result<Done, BundleError>>,
    ) -> Result<(), BundleError> {
        let prepared = self.prepared;
        let mut flight = Flight::default();
        let mut jobs = prepared.jobs_of(PayloadName::Root);
        loop {
            let next = match jobs.next() {
                Some((n, job)) => Some((Some(n), job)),
                None => flight.unfit.pop().map(|job| (None, self.alone(job))),
            };
            let Some((n, job)) = next else {
                if flight.jobs == 0 {
                    return Ok(());
                }
                self.settle(reports.recv().ok(), &mut flight)?;
                continue;
            };
            let needed = self.memory(&job);
            while flight.jobs > 0 && flight.memory + needed > MEMORY {
                self.settle(reports.recv().ok(), &mut flight)?;
            }
            let work = self.work(n, job)?;
            (flight.jobs, flight.memory) = (flight.jobs + 1, flight.memory + work.memory);
            to_unpack.send(work).map_err(|_| died())?;
            while let Ok(report) = reports.try_recv() {
                self.settle(Some(report), &mut flight)?;
            }
        }
    }

    /// Takes note of what has become of a segment. There is none if the threads are gone.
    fn settle(
        &mut self,
        report: Option<Result<Done, BundleError>>,
        flight: &mut Flight,
    ) -> Result<(), BundleError> {
        let done = report.ok_or_else(died)??;
        (flight.jobs, flight.memory) = (flight.jobs - 1, flight.memory - done.memory);
        match done.written {
            true => self.progress.done += self.prepared.size(&done.job),
            false => flight.unfit.push(done.job),
        }
        self.tell()
    }

    /// Bytes in memory that a segment takes.
    fn memory(&self, job: &Job) -> u64 {
        let piece = self.prepared.piece(job).map_or(0, |piece| piece.size);
        let prefix = match job.action {
            Action::Patch(number) => self.prepared.delta(number).map_or(0, |delta| delta.len),
            _ => 0,
        };
        self.prepared.size(job) + u64::from(piece) + u64::from(prefix)
    }

    /// The same segment without what runs.
    fn alone(&self, job: Job) -> Job {
        Job {
            action: Action::Fetch,
            at: self.pieces.full(job.payload, job.segment),
            ..job
        }
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

    /// Fetches and reads what a segment is made from. `n` is the number of its job, unless it is
    /// fetched out of turn.
    fn work(&mut self, n: Option<usize>, mut job: Job) -> Result<Work, BundleError> {
        let manifest = self.prepared.manifest();
        if let Some(n) = n
            && self.prepared.piece(&job).is_some()
            && !self.expected.contains(&job.at)
        {
            self.expected = job.at..self.run_of(n);
            self.source.expect(self.expected.clone());
        }
        let material = match self.material(&job)? {
            Some(material) => Some(material),
            None => {
                job = self.alone(job);
                self.material(&job)?
            }
        };
        let segments = &manifest.payload(job.payload).segments;
        let wanted = segments.get(job.segment);
        Ok(Work {
            place: manifest.place(job.payload, job.segment),
            sha256: wanted.map_or(Digest::of(&[]), |wanted| wanted.sha256),
            material: material.unwrap_or(Material::Zeros),
            memory: self.memory(&job),
            job,
        })
    }

    /// None if what runs can't be read.
    fn material(&mut self, job: &Job) -> Result<Option<Material>, BundleError> {
        let prepared = self.prepared;
        let start = prepared.manifest().place(job.payload, job.segment).start;
        let Some(stored) = prepared.piece(job) else {
            return Ok(match job.action {
                Action::Copy => self
                    .read_running(job.payload, start, prepared.size(job))
                    .map(Material::Copy),
                _ => Some(Material::Zeros),
            });
        };
        let piece = self.fetch(job.at, stored)?;
        let delta = match job.action {
            Action::Patch(number) => prepared.delta(number),
            _ => None,
        };
        let prefix = match delta {
            None => None,
            Some(delta) => {
                let prefix = self.read_running(job.payload, delta.from, delta.len.into());
                match prefix {
                    None => return Ok(None),
                    prefix => prefix,
                }
            }
        };
        Ok(Some(Material::Piece {
            piece,
            stored: *stored,
            prefix,
        }))
    }

    /// A stretch of what runs, of a length that `Manifest::check` has limited.
    fn read_running(&mut self, payload: PayloadName, offset: u64, len: u64) -> Option<Buffer> {
        let mut bytes = Buffer::new(len as usize);
        match payload {
            PayloadName::Kernel => self.kernel.read_running(offset, &mut bytes).ok()?,
            PayloadName::Root => {
                let running = self.running.as_mut()?;
                running.read_at(offset, &mut bytes).ok()?;
            }
        }
        Some(bytes)
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
            self.progress.fetched += part.len() as u64;
            self.tell()?;
        }
        Ok(piece)
    }
}

/// A segment; none if its material is unfit.
fn made(
    material: Material,
    place: &Range<u64>,
    sha256: Digest,
    spare: &Spare,
) -> Result<Option<Buffer>, SegmentError> {
    // Limited to 8 MiB by `Manifest::check`.
    let size = (place.end - place.start) as usize;
    match material {
        Material::Zeros => {
            let mut segment = spare.take(size);
            segment.fill(0);
            Ok(Some(segment))
        }
        Material::Copy(bytes) => Ok((Digest::of(&bytes) == sha256).then_some(bytes)),
        Material::Piece {
            piece,
            stored,
            prefix,
        } => {
            let mut segment = spare.take(size);
            let with = prefix.as_deref().unwrap_or_default();
            match (unpack(&piece, &stored, with, &mut segment, sha256), prefix) {
                (Ok(()), _) => Ok(Some(segment)),
                (Err(SegmentError::Content { .. } | SegmentError::Unpack(_)), Some(_)) => Ok(None),
                (Err(error), _) => Err(error),
            }
        }
    }
}

fn unpack_all(
    work: &Mutex<Receiver<Work>>,
    spare: &Spare,
    to_write: &Sender<Unpacked>,
    report: &Sender<Result<Done, BundleError>>,
) {
    loop {
        // Who waits for work holds the lock, and the others wait for it.
        let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(work) = next else {
            return;
        };
        let Work { job, memory, .. } = work;
        let sent = match made(work.material, &work.place, work.sha256, spare) {
            Ok(Some(bytes)) => {
                let offset = work.place.start;
                let unpacked = Unpacked {
                    job,
                    offset,
                    bytes,
                    memory,
                };
                to_write.send(unpacked).is_ok()
            }
            Ok(None) => {
                let written = false;
                report
                    .send(Ok(Done {
                        job,
                        memory,
                        written,
                    }))
                    .is_ok()
            }
            Err(error) => report.send(Err(wrong(job, error))).is_ok(),
        };
        if !sent {
            return;
        }
    }
}

fn write_all(
    root: &mut dyn RootPlace,
    unpacked: Receiver<Unpacked>,
    spare: &Spare,
    report: &Sender<Result<Done, BundleError>>,
) {
    let mut unflushed = 0;
    for Unpacked {
        job,
        offset,
        bytes,
        memory,
    } in unpacked
    {
        let mut done = root.write_at(offset, &bytes);
        unflushed += bytes.len();
        spare.give(bytes);
        if unflushed >= FLUSH {
            unflushed = 0;
            done = done.and_then(|()| root.flush());
        }
        let done = done.map(|()| Done {
            job,
            memory,
            written: true,
        });
        if report.send(done.map_err(BundleError::Place)).is_err() {
            return;
        }
    }
}

fn wrong(job: Job, error: SegmentError) -> BundleError {
    BundleError::Segment {
        payload: job.payload,
        segment: job.segment,
        error,
    }
}

/// Only if a thread has panicked, which the scope then passes on.
fn died() -> BundleError {
    BundleError::Place(io::Error::other("a thread has ended too early"))
}
