//! Reading and writing past the page cache (`O_DIRECT`, open(2)): what is read
//! back was on the device, progress is the device's own, and a large write
//! doesn't push everything else out of memory.
//!
//! Where a filesystem refuses that (tmpfs, some network and FUSE ones), or for a
//! last piece that is no multiple of the device's block, it is left off and the
//! page cache is emptied of the range before it is read back.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Advice, OFlags, fadvise, fcntl_getfl, fcntl_setfl};

/// What buffers are aligned to in memory: at least the logical block of any disk.
const ALIGNMENT: usize = 4096;

/// A buffer that direct I/O takes.
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// `len` zero bytes.
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len + ALIGNMENT];
        let start = bytes.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { bytes, start, len }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Whether an open takes the device for itself alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Fail if it is mounted or otherwise in use (`O_EXCL` of a block device).
    Exclusive,
    /// Don't ask.
    Shared,
}

/// An open file or device.
pub struct Direct {
    file: File,
    buffered: bool,
}

impl Direct {
    /// Opens what is there for reading and writing.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(path: &Path, share: Share) -> io::Result<Self> {
        let exclusive = match share {
            Share::Exclusive => OFlags::EXCL,
            Share::Shared => OFlags::empty(),
        };
        let open = |flags: OFlags| {
            File::options()
                .read(true)
                .write(true)
                .custom_flags(flags.bits().cast_signed())
                .open(path)
        };
        match open(OFlags::DIRECT | exclusive) {
            Err(e) if is_refusal(&e) => Ok(Self {
                file: open(exclusive)?,
                buffered: true,
            }),
            result => Ok(Self {
                file: result?,
                buffered: false,
            }),
        }
    }

    /// The open file, for what is no reading or writing.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// Those of pwrite(2).
    pub fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.file.write_all_at(bytes, offset) {
            Err(e) if is_refusal(&e) && !self.buffered => {
                self.leave_direct()?;
                self.file.write_all_at(bytes, offset)
            }
            result => result,
        }
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// Those of pread(2).
    pub fn read_exact_at(&mut self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        match self.file.read_exact_at(bytes, offset) {
            Err(e) if is_refusal(&e) && !self.buffered => {
                self.leave_direct()?;
                self.file.read_exact_at(bytes, offset)
            }
            result => result,
        }
    }

    /// Makes all that was written durable and forgets what memory holds of it, so
    /// that the next read comes from the device.
    ///
    /// # Errors
    /// Those of fsync(2).
    pub fn settle(&self) -> io::Result<()> {
        self.file.sync_all()?;
        fadvise(&self.file, 0, None, Advice::DontNeed).map_err(io::Error::from)
    }

    fn leave_direct(&mut self) -> io::Result<()> {
        let flags = fcntl_getfl(&self.file)?;
        fcntl_setfl(&self.file, flags - OFlags::DIRECT)?;
        self.buffered = true;
        Ok(())
    }
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_and_have_their_length() {
        for len in [0, 1, 512, 4096, 1 << 20] {
            let buffer = Buffer::new(len);
            assert_eq!(buffer.len(), len);
            assert!((buffer.as_ptr() as usize).is_multiple_of(ALIGNMENT));
        }
    }

    #[test]
    fn an_odd_tail_is_written_without_direct_io() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        File::create(&path).unwrap();
        let mut file = Direct::open(&path, Share::Shared).unwrap();
        let mut buffer = Buffer::new(8192);
        buffer.fill(7);
        file.write_all_at(&buffer, 0).unwrap();
        file.write_all_at(&buffer[..100], 8192).unwrap();
        file.settle().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; 8292]);
        let mut back = Buffer::new(8192);
        file.read_exact_at(&mut back, 0).unwrap();
        assert!(*back == *buffer);
    }
}
