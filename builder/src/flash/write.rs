//! Writing: an image is unpacked, hashed and written by three threads, a few
//! pieces apart.
//!
//! ```text
//! unpack -> hash -> write
//!    ^                |
//!    +---- buffers ---+
//! ```
//!
//! The first piece, which holds the partition table, is written last, once the
//! image's digest holds: what was broken off is nothing that starts.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest as _, Sha256};
use slipway_images::buffer::{Buffer, is_zero};

use super::source::{Piece, Source};
use super::target::Device;
use crate::digest::to_hex;
use crate::error::{Error, Kind, Result};
use crate::progress::{Progress, Task};

/// Bytes in a piece: a multiple of the erase blocks of most cards.
pub const PIECE: usize = 2 << 20;
/// Pieces in memory. With the unpacker's 32 MiB it stays well below 64 MiB.
const PIECES: usize = 6;
/// Zeros shorter than this are written like anything else: one long write is faster
/// than several short ones.
const GRAIN: usize = 64 << 10;

static ZEROS: [u8; GRAIN] = [0; GRAIN];

/// A part of the device that was written, and what it must hold.
#[derive(Debug, Clone)]
pub struct Written {
    /// Where its piece begins on the device.
    pub offset: u64,
    /// The parts of the piece that were written, ascending and never none; what lies
    /// between them was zero before.
    pub parts: Vec<Range<usize>>,
    /// SHA-256 of those parts, one after the other.
    pub digest: [u8; 32],
}

/// What went onto the device.
#[derive(Debug)]
pub struct Summary {
    /// In the order of the device.
    pub written: Vec<Written>,
    /// Bytes of the image.
    pub len: u64,
    /// Its SHA-256 in hex.
    pub sha256: String,
}

impl Summary {
    /// Bytes that were written and can be read back.
    pub fn bytes(&self) -> u64 {
        let parts = self.written.iter().flat_map(|w| &w.parts);
        parts.map(|p| p.len() as u64).sum()
    }
}

/// A piece on its way.
struct Load {
    offset: u64,
    len: usize,
    buffer: Buffer,
    /// The buffer holds something else, and zeros are meant.
    hole: bool,
    /// Nothing but zeros.
    zero: bool,
    parts: Vec<Range<usize>>,
    digest: [u8; 32],
}

impl Load {
    fn put(&self, device: &mut Device) -> Result<()> {
        if self.zero && !self.parts.is_empty() {
            return device.zero(self.offset, self.len as u64);
        }
        for part in &self.parts {
            device.write(&self.buffer[part.clone()], self.offset + part.start as u64)?;
        }
        Ok(())
    }

    fn record(&self) -> Option<Written> {
        (!self.parts.is_empty()).then(|| Written {
            offset: self.offset,
            parts: self.parts.clone(),
            digest: self.digest,
        })
    }
}

/// Writes the image. Nothing is sure to be durable when this returns.
///
/// # Errors
/// Those of [`Source::next`] and [`Source::check`]; [`Kind::Usage`] if the device
/// ends first; [`Kind::Io`]; [`Kind::Interrupted`].
pub fn write(source: &mut Source, device: &mut Device, progress: &Progress) -> Result<Summary> {
    let task = progress.task("writing the image", source.size);
    let known_zero = device.is_zero();
    let reader = &mut *source;
    let (mut summary, first) = std::thread::scope(|scope| {
        let (spare, spares) = sync_channel(PIECES);
        let (unpacked, to_hash) = sync_channel(PIECES);
        let (hashed, to_write) = sync_channel(PIECES);
        for _ in 0..PIECES {
            spare.send(Buffer::new(PIECE)).map_err(|_| died())?;
        }
        let unpacking = scope.spawn(move || unpack(reader, &spares, &unpacked, progress));
        let hashing = scope.spawn(move || hash(&to_hash, &hashed, known_zero));
        // Takes its ends of the channels with it, so that the others end when it fails.
        let put = put_all(device, to_write, spare, &task);
        let unpacking = unpacking.join().map_err(|_| died())?;
        let (len, sha256) = hashing.join().map_err(|_| died())?;
        let (written, first) = put?;
        unpacking?;
        let summary = Summary {
            written,
            len,
            sha256,
        };
        Ok::<_, Error>((summary, first))
    })?;
    source.check(summary.len, &summary.sha256)?;
    if let Some(first) = first {
        first.put(device)?;
        task.add(first.len as u64);
        if let Some(written) = first.record() {
            summary.written.insert(0, written);
        }
    }
    Ok(summary)
}

fn died() -> Error {
    Error::new(Kind::Bug, "a thread that writes the image died")
}

fn unpack(
    source: &mut Source,
    spares: &Receiver<Buffer>,
    to: &SyncSender<Load>,
    progress: &Progress,
) -> Result<()> {
    let mut offset = 0;
    // No buffer comes when the writer failed, which says why.
    while let Ok(mut buffer) = spares.recv() {
        progress.check()?;
        let (len, hole) = match source.next(&mut buffer)? {
            Piece::Data(len) => (len, false),
            Piece::Hole(len) => (len, true),
            Piece::End => break,
        };
        let load = Load {
            offset,
            len,
            buffer,
            hole,
            zero: false,
            parts: Vec::new(),
            digest: [0; 32],
        };
        offset += len as u64;
        if to.send(load).is_err() {
            break;
        }
    }
    Ok(())
}

/// Hashes the image and each piece of it, and finds what has to be written. Gives the
/// image's length and digest.
fn hash(from: &Receiver<Load>, to: &SyncSender<Load>, known_zero: bool) -> (u64, String) {
    let mut image = Sha256::new();
    let mut len = 0;
    while let Ok(mut load) = from.recv() {
        len += load.len as u64;
        if load.hole && !known_zero {
            load.buffer[..load.len].fill(0);
        }
        if load.hole {
            for start in (0..load.len).step_by(GRAIN) {
                image.update(&ZEROS[..GRAIN.min(load.len - start)]);
            }
        } else {
            image.update(&load.buffer[..load.len]);
        }
        load.zero = load.hole || is_zero(&load.buffer[..load.len]);
        load.parts = match (load.zero, known_zero) {
            (true, true) => Vec::new(),
            (false, true) => data_parts(&load.buffer[..load.len]),
            (_, false) => vec![Range {
                start: 0,
                end: load.len,
            }],
        };
        let mut piece = Sha256::new();
        for part in &load.parts {
            piece.update(&load.buffer[part.clone()]);
        }
        load.digest = piece.finalize().into();
        if to.send(load).is_err() {
            break;
        }
    }
    (len, to_hex(&image.finalize()))
}

/// The parts of a piece that aren't zero, in whole grains.
fn data_parts(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    for grain in bytes.chunks(GRAIN) {
        let end = at + grain.len();
        if !is_zero(grain) {
            match parts.last_mut().filter(|p| p.end == at) {
                Some(last) => last.end = end,
                None => parts.push(at..end),
            }
        }
        at = end;
    }
    parts
}

/// Writes what comes, but for the first piece, which is given back.
fn put_all(
    device: &mut Device,
    from: Receiver<Load>,
    spare: SyncSender<Buffer>,
    task: &Task,
) -> Result<(Vec<Written>, Option<Load>)> {
    let mut written = Vec::new();
    let mut first = None;
    while let Ok(load) = from.recv() {
        device.reserve(load.offset + load.len as u64)?;
        if load.offset == 0 {
            // An old partition table must not stand above half a new image.
            device.zero(0, load.len as u64)?;
            first = Some(load);
            continue;
        }
        load.put(device)?;
        task.add(load.len as u64);
        written.extend(load.record());
        // At the end nobody waits for buffers any more.
        if spare.send(load.buffer).is_err() {
            continue;
        }
    }
    Ok((written, first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_what_is_not_zero() {
        assert!(data_parts(&[0; 3 * GRAIN]).is_empty());
        let mut bytes = vec![0; 4 * GRAIN + 10];
        bytes[GRAIN] = 1;
        bytes[3 * GRAIN - 1] = 1;
        let one = GRAIN..3 * GRAIN;
        assert_eq!(data_parts(&bytes), std::slice::from_ref(&one));
        bytes[4 * GRAIN + 9] = 1;
        assert_eq!(
            data_parts(&bytes),
            [GRAIN..3 * GRAIN, 4 * GRAIN..4 * GRAIN + 10]
        );
    }
}
