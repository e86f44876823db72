//! Image files with holes: what is zero takes no room on the host's disk and no
//! time to write.
//!
//! A region of an image is written into a file that was made by
//! [`set_len`](std::fs::File::set_len) and not written before, so that zeros need
//! no writing at all.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::SeekFrom;
use slipway_images::buffer::is_zero;

use crate::atomic::Pending;
use crate::error::{At as _, Result};
use crate::progress::Progress;

/// The unit in which zeros are looked for: a block of the usual filesystems.
pub const BLOCK: usize = 4096;

/// Writes those blocks of `bytes` that are not zero.
///
/// # Errors
/// Whatever the file system says.
pub fn write_at(file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let mut run = 0..0;
    let mut at = 0;
    for block in bytes.chunks(BLOCK) {
        let end = at + block.len();
        if is_zero(block) {
            file.write_all_at(&bytes[run.clone()], offset + run.start as u64)?;
            run = end..end;
        } else {
            run.end = end;
        }
        at = end;
    }
    file.write_all_at(&bytes[run.clone()], offset + run.start as u64)
}

/// The parts of a file that are not holes, as the file system tells them: ranges
/// of bytes in ascending order. A file system without holes gives the whole file.
///
/// # Errors
/// Whatever the file system says.
pub fn data_ranges(file: &File) -> io::Result<Vec<std::ops::Range<u64>>> {
    let len = file.metadata()?.len();
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < len {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(rustix::io::Errno::INVAL) => {
                ranges.push(at..len);
                break;
            }
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(len);
        ranges.push(start..end);
        at = end;
    }
    Ok(ranges)
}

/// Copies a file, holes and all, to `target`, which appears whole or not at all.
///
/// # Errors
/// [`Kind::Io`](crate::Kind::Io), [`Kind::Interrupted`](crate::Kind::Interrupted).
pub fn copy(source: &Path, target: &Path, mode: u32, progress: &Progress) -> Result<()> {
    let from = File::open(source).at("opening", source)?;
    let len = from.metadata().at("reading", source)?.len();
    let mut pending = Pending::create(target)?;
    pending.file().set_len(len).at("writing", target)?;
    let task = progress.task("copying the image", Some(len));
    let mut buffer = vec![0; 1 << 20];
    for range in data_ranges(&from).at("reading", source)? {
        let mut at = range.start;
        while at < range.end {
            progress.check()?;
            let n = usize::try_from(range.end - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            from.read_exact_at(&mut buffer[..n], at)
                .at("reading", source)?;
            write_at(pending.file(), at, &buffer[..n]).at("writing", target)?;
            task.add(n as u64);
            at += n as u64;
        }
    }
    pending.file().flush().at("writing", target)?;
    pending.commit(mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn zeros_are_seen_at_every_length_and_place() {
        for len in 0..70 {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in 0..len {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "{at} of {len}");
                bytes[at] = 0;
            }
        }
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_the_same_holes() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let file = File::create(&a).unwrap();
        file.set_len(64 << 20).unwrap();
        let mut bytes = vec![0; 3 * BLOCK + 100];
        bytes[BLOCK + 5] = 7;
        bytes[3 * BLOCK + 99] = 9;
        write_at(&file, 10 << 20, &bytes).unwrap();
        copy(
            &a,
            &b,
            0o644,
            &Progress::with_style(crate::progress::Style::Quiet),
        )
        .unwrap();
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        assert!(std::fs::metadata(&b).unwrap().blocks() * 512 < 1 << 20);
    }
}
