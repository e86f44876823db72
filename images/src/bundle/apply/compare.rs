//! Both slots are compared with a manifest: what of it is there already.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::places::{Looking, PIECE, threads, told};
use crate::buffer::{Buffer, is_zero};
use crate::bundle::error::BundleError;
use crate::bundle::manifest::{Digest, Manifest, PayloadName, Segment};
use crate::slot::Disk;

static ZEROS: [u8; PIECE] = [0; PIECE];

/// Where a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// In its place.
    Here,
    /// At the same place of the slot that runs, and not in its own.
    Running,
    Nowhere,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    New,
    Running,
}

/// Looks for a segment.
fn find(
    wanted: &Segment,
    place: &Range<u64>,
    mut read: impl FnMut(Side, u64, &mut [u8]) -> Result<(), BundleError>,
) -> Result<Found, BundleError> {
    let is_wanted = |found| match wanted.stored {
        Some(_) => found == Content::Digest(wanted.sha256),
        None => found == Content::Zeros,
    };
    let found = content(place, |offset, buffer| read(Side::New, offset, buffer))?;
    if is_wanted(found) {
        return Ok(Found::Here);
    }
    // Zeros are as well made anew.
    if wanted.stored.is_none() {
        return Ok(Found::Nowhere);
    }
    // What of the running slot can't be read isn't there: perhaps it is shorter.
    match content(place, |offset, buffer| read(Side::Running, offset, buffer)) {
        Ok(found) if is_wanted(found) => Ok(Found::Running),
        _ => Ok(Found::Nowhere),
    }
}

/// What lies somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Nothing but zeros, as all over an empty slot. To see that takes a tenth of the time that
    /// hashing it does.
    Zeros,
    Digest(Digest),
}

fn content(
    place: &Range<u64>,
    read: impl FnMut(u64, &mut [u8]) -> Result<(), BundleError>,
) -> Result<Content, BundleError> {
    let mut hash = Sha256::new();
    // Of zeros that aren't hashed yet: at the beginning, and as long as nothing else has come.
    let mut zeros = Some(0);
    read_all(place, read, |part| {
        match zeros {
            Some(n) if is_zero(part) => {
                zeros = Some(n + part.len());
                return;
            }
            Some(n) => (0..n)
                .step_by(PIECE)
                .for_each(|at| hash.update(&ZEROS[..(n - at).min(PIECE)])),
            None => {}
        }
        zeros = None;
        hash.update(part);
    })?;
    Ok(match zeros {
        Some(_) => Content::Zeros,
        None => Content::Digest(hash.into()),
    })
}

/// The SHA-256 of what lies there.
pub fn digest(
    place: &Range<u64>,
    read: impl FnMut(u64, &mut [u8]) -> Result<(), BundleError>,
) -> Result<Digest, BundleError> {
    let mut hash = Sha256::new();
    read_all(place, read, |part| hash.update(part))?;
    Ok(hash.into())
}

fn read_all(
    place: &Range<u64>,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), BundleError>,
    mut each: impl FnMut(&[u8]),
) -> Result<(), BundleError> {
    let mut buffer = Buffer::new(PIECE);
    let mut at = place.start;
    while at < place.end {
        let n = (place.end - at).min(PIECE as u64) as usize;
        read(at, &mut buffer[..n])?;
        each(&buffer[..n]);
        at += n as u64;
    }
    Ok(())
}

impl Looking<'_, '_, '_, '_> {
    /// Where the segments of a payload are, in their order.
    pub fn compare(
        &mut self,
        manifest: &Manifest,
        payload: PayloadName,
    ) -> Result<Vec<Found>, BundleError> {
        match payload {
            PayloadName::Kernel => self.compare_kernels(manifest),
            PayloadName::Root => self.compare_roots(manifest),
        }
    }

    fn compare_kernels(&mut self, manifest: &Manifest) -> Result<Vec<Found>, BundleError> {
        let mut all = Vec::new();
        for (n, wanted) in manifest.kernel.segments.iter().enumerate() {
            let place = manifest.place(PayloadName::Kernel, n);
            let kernel = &mut *self.places.kernel;
            all.push(find(wanted, &place, |side, offset, buffer| match side {
                Side::New => Ok(kernel.read(offset, buffer)?),
                Side::Running => Ok(kernel.read_running(offset, buffer)?),
            })?);
            self.progress.done += place.end - place.start;
            self.tell()?;
        }
        Ok(all)
    }

    /// By several threads, which read by turns.
    fn compare_roots(&mut self, manifest: &Manifest) -> Result<Vec<Found>, BundleError> {
        fn read<D: Disk + ?Sized>(
            disk: &Mutex<&mut D>,
            offset: u64,
            buffer: &mut [u8],
        ) -> Result<(), BundleError> {
            let mut disk = disk.lock().unwrap_or_else(PoisonError::into_inner);
            disk.read_at(offset, buffer).map_err(BundleError::Place)
        }
        let wanted = &manifest.root.segments;
        let mut all = vec![Found::Nowhere; wanted.len()];
        let root = Mutex::new(&mut *self.places.root);
        let running = self.places.running_root.as_deref_mut().map(Mutex::new);
        let said = Mutex::new((&mut self.progress, &mut *self.watch));
        let jobs = Mutex::new(wanted.iter().zip(&mut all).enumerate());
        let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || -> Result<(), BundleError> {
            while let Some((n, (wanted, found))) = next() {
                let place = manifest.place(PayloadName::Root, n);
                let done = find(wanted, &place, |side, offset, buffer| match side {
                    Side::New => read(&root, offset, buffer),
                    Side::Running => match &running {
                        Some(running) => read(running, offset, buffer),
                        None => Err(BundleError::Place(std::io::ErrorKind::NotFound.into())),
                    },
                });
                let done = done.and_then(|it| {
                    *found = it;
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    let (progress, watch) = &mut *said;
                    progress.done += place.end - place.start;
                    told(watch(progress))
                });
                if done.is_err() {
                    // The others find nothing more to do.
                    while next().is_some() {}
                    return done;
                }
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (1..threads()).map(|_| scope.spawn(work)).collect();
            let own = work();
            workers.into_iter().fold(own, |result, worker| {
                let other = worker.join();
                result.and(other.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            })
        })?;
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8]) -> Content {
        let read = |offset: u64, buffer: &mut [u8]| {
            buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
            Ok(())
        };
        content(&(0..bytes.len() as u64), read).unwrap()
    }

    #[test]
    fn zeros_are_told_from_what_begins_with_them() {
        for (zeros, rest) in [(0, 9), (5, PIECE), (PIECE, 1), (2 * PIECE + 5, PIECE)] {
            let mut bytes = vec![0; zeros];
            assert_eq!(of(&bytes), Content::Zeros);
            bytes.resize(zeros + rest, 7);
            assert_eq!(of(&bytes), Content::Digest(Digest::of(&bytes)));
            bytes.resize(zeros + rest + PIECE, 0);
            assert_eq!(of(&bytes), Content::Digest(Digest::of(&bytes)));
        }
    }
}
