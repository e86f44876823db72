//! Reading back: every part that was written, from the device and not from memory.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest as _, Sha256};
use slipway_images::buffer::Buffer;

use super::target::Device;
use super::write::{PIECE, Written};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// Buffers in turn: one is read into while another is hashed.
const BUFFERS: usize = 3;

/// Compares the device with what was written to it.
///
/// # Errors
/// [`Kind::Untrusted`] with the place where it differs; [`Kind::Io`];
/// [`Kind::Interrupted`].
pub fn verify(device: &mut Device, written: &[Written], progress: &Progress) -> Result<()> {
    device.settle()?;
    let total = written.iter().map(|w| span(w).1 as u64).sum();
    let task = progress.task("reading it back", Some(total));
    let path = device.path().to_owned();
    std::thread::scope(|scope| {
        let (spare, spares) = sync_channel::<Buffer>(BUFFERS);
        let (read, to_check) = sync_channel(BUFFERS);
        for _ in 0..BUFFERS {
            spare.send(Buffer::new(PIECE)).map_err(|_| died())?;
        }
        let checking = scope.spawn(move || check(&to_check, &spare));
        let reading = read_all(device, written, spares, read, |n| {
            task.add(n);
            progress.check()
        });
        let wrong = checking.join().map_err(|_| died())?;
        reading?;
        match wrong {
            None => Ok(()),
            Some(offset) => Err(Error::new(
                Kind::Untrusted,
                format!(
                    "{} doesn't hold what was written to it, in the {} MiB from byte {offset}",
                    path.display(),
                    PIECE >> 20
                ),
            )
            .hint("the device is worn out, or not as large as it claims: use another")),
        }
    })
}

fn died() -> Error {
    Error::new(Kind::Bug, "a thread that reads the image back died")
}

/// Where a piece's written parts begin, and the length up to the end of the last.
fn span(written: &Written) -> (usize, usize) {
    let start = written.parts.first().map_or(0, |p| p.start);
    let end = written.parts.last().map_or(0, |p| p.end);
    (start, end - start)
}

fn read_all<'w>(
    device: &mut Device,
    written: &'w [Written],
    spares: Receiver<Buffer>,
    to: SyncSender<(&'w Written, Buffer)>,
    mut count: impl FnMut(u64) -> Result<()>,
) -> Result<()> {
    for piece in written {
        // The other side ends at the first difference.
        let Ok(mut buffer) = spares.recv() else {
            return Ok(());
        };
        let (start, len) = span(piece);
        device.read(&mut buffer[..len], piece.offset + start as u64)?;
        count(len as u64)?;
        if to.send((piece, buffer)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// The offset of the first piece that differs.
fn check(from: &Receiver<(&Written, Buffer)>, spare: &SyncSender<Buffer>) -> Option<u64> {
    while let Ok((piece, buffer)) = from.recv() {
        let (start, _) = span(piece);
        let mut hash = Sha256::new();
        for part in &piece.parts {
            hash.update(&buffer[part.start - start..part.end - start]);
        }
        if <[u8; 32]>::from(hash.finalize()) != piece.digest {
            return Some(piece.offset + start as u64);
        }
        // At the end nobody waits for buffers any more.
        if spare.send(buffer).is_err() {
            continue;
        }
    }
    None
}
