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
//! Memory: 40 MiB of segments (8 MiB each), their pieces (as much at most) and prefixes (24 MiB)
//! while they are written, and 16 MiB of buffers between two uses; afterwards the tree over the
//! root, 1/64 of it while it is made (32 MiB for the largest).

mod compare;
mod pieces;
mod places;
mod verify;
mod write;

use std::ops::ControlFlow;

use super::admit::Admitted;
use super::error::BundleError;
use super::manifest::{Delta, Manifest, PayloadName, Stored};
use super::source::Source;
use crate::slot::Verified;
use compare::Found;
use pieces::Pieces;
use places::Looking;
use write::AtWork;

pub use places::{Apart, KernelPlace, Places, RootPlace};

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
            let found = looking.compare(manifest, payload)?;
            let segments = &manifest.payload(payload).segments;
            for (segment, (wanted, found)) in segments.iter().zip(found).enumerate() {
                let delta = pieces.delta(payload, segment);
                let action = match found {
                    Found::Here => {
                        let place = manifest.place(payload, segment);
                        kept += place.end - place.start;
                        continue;
                    }
                    Found::Running => Action::Copy,
                    Found::Nowhere if wanted.stored.is_none() => Action::Zero,
                    Found::Nowhere => delta.map_or(Action::Fetch, Action::Patch),
                };
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
        // What is fetched, in the order of the bundle: for each payload its segments, then deltas.
        jobs.sort_by_key(|job| (job.payload, job.at));
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

    /// Those of a payload, with their numbers.
    fn jobs_of(&self, payload: PayloadName) -> impl Iterator<Item = (usize, Job)> {
        let jobs = self.jobs.iter().copied().enumerate();
        jobs.filter(move |(_, job)| job.payload == payload)
    }

    /// Bytes of a segment.
    fn size(&self, job: &Job) -> u64 {
        let place = self.manifest().place(job.payload, job.segment);
        place.end - place.start
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
        let mut at_work = AtWork {
            prepared: self,
            source,
            pieces: Pieces::new(&self.admitted),
            expected: 0..0,
            running: match &mut places.running_root {
                Some(running) => Some(&mut **running),
                None => None,
            },
            kernel: &mut *places.kernel,
            watch: &mut *watch,
            progress: Progress {
                step: Step::Write,
                done: 0,
                total: self.jobs.iter().map(|job| self.size(job)).sum(),
                fetched: 0,
                to_fetch: self.to_fetch,
            },
        };
        at_work.write(&mut *places.root)?;
        let progress = at_work.progress;
        let mut looking = Looking {
            places,
            watch,
            progress,
        };
        looking.verify(self.manifest())
    }
}
