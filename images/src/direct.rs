//! Reading and writing past the page cache (`O_DIRECT`, open(2)): what is read
//! back was on the device, progress is the device's own, and a large write
//! doesn't push everything else out of memory.
//!
//! Where a filesystem refuses that (tmpfs, some network and FUSE ones), or for a
//! last piece that is no multiple of the device's block, it is left off and the
//! page cache is emptied of the range before it is read back.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{Advice, OFlags, fadvise, fcntl_getfl, fcntl_setfl};

use crate::slot::Disk;

/// Whether an open takes the device for itself alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Fail if it is mounted or otherwise in use (`O_EXCL` of a block device).
    Exclusive,
    /// Don't ask.
    Shared,
}

/// An open file or device.
#[derive(Debug)]
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
        let mut options = File::options();
        options.read(true).write(true);
        options.custom_flags(exclusive.bits().cast_signed());
        Self::new(options.open(path)?)
    }

    /// Past the page cache from here on, if that can be had.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn new(file: File) -> io::Result<Self> {
        let flags = fcntl_getfl(&file)?;
        let buffered = match fcntl_setfl(&file, flags | OFlags::DIRECT) {
            Err(e) if is_refusal(&e.into()) => true,
            result => {
                result?;
                false
            }
        };
        Ok(Self { file, buffered })
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
        self.forget()
    }

    /// Forgets what memory holds of what is durable.
    ///
    /// # Errors
    /// Those of posix_fadvise(2).
    pub fn forget(&self) -> io::Result<()> {
        fadvise(&self.file, 0, None, Advice::DontNeed).map_err(io::Error::from)
    }

    fn leave_direct(&mut self) -> io::Result<()> {
        let flags = fcntl_getfl(&self.file)?;
        fcntl_setfl(&self.file, flags - OFlags::DIRECT)?;
        self.buffered = true;
        Ok(())
    }
}

impl Disk for Direct {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Buffer;

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
