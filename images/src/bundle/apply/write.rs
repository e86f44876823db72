//! Segments are fetched, unpacked and written.

use std::ops::Range;

use super::pieces::Pieces;
use super::places::{Looking, PIECE, Side};
use super::{Action, Job, Prepared};
use crate::bundle::error::BundleError;
use crate::bundle::manifest::{Delta, Digest, PayloadName, Stored};
use crate::bundle::segment::{SegmentError, unpack};
use crate::bundle::source::Source;
use crate::secure_boot::authenticode::Program;

/// Bytes that are fetched between two looks at whether to stop.
const FETCH: usize = 256 << 10;

pub struct AtWork<'l, 'p, 'w, 'v> {
    pub prepared: &'l Prepared,
    pub source: &'l mut dyn Source,
    pub pieces: Pieces,
    /// What the source was told last.
    pub expected: Range<u64>,
    pub looking: Looking<'l, 'p, 'w, 'v>,
}

impl AtWork<'_, '_, '_, '_> {
    /// The kernel image first: what firmware wouldn't start needs no root.
    pub fn write(&mut self) -> Result<(), BundleError> {
        self.write_payload(PayloadName::Kernel)?;
        if let Some(firmware) = &self.prepared.admitted.firmware {
            let size = self.prepared.manifest().kernel.size;
            let looking = &mut self.looking;
            let program = Program::read(size, |offset, buffer| {
                looking.tell()?;
                looking.read(Side::New, PayloadName::Kernel, offset, buffer)
            })?;
            firmware.check(&program)?;
        }
        self.write_payload(PayloadName::Root)
    }

    fn write_payload(&mut self, payload: PayloadName) -> Result<(), BundleError> {
        let manifest = self.prepared.manifest();
        let mut segment = Vec::new();
        let jobs = self.prepared.jobs.iter().enumerate();
        for (n, job) in jobs.filter(|(_, job)| job.payload == payload) {
            let place = manifest.place(job.payload, job.segment);
            // Limited to 8 MiB by `Manifest::check`.
            segment.resize((place.end - place.start) as usize, 0);
            if self.prepared.piece(job).is_some() && !self.expected.contains(&job.at) {
                self.expected = job.at..self.run_of(n);
                self.source.expect(self.expected.clone());
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
