//! What a boot partition lies on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Where a volume lies: a partition's device, an image, or what a test records.
pub trait Disk {
    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// Those of pread(2); also when there is less.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes `bytes` at `offset`; on the medium only after [`flush`](Self::flush).
    ///
    /// # Errors
    /// Those of pwrite(2).
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Waits until all that was written is on the medium.
    ///
    /// # Errors
    /// Those of fsync(2).
    fn flush(&mut self) -> io::Result<()>;
}

impl Disk for File {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

impl<D: Disk + ?Sized> Disk for &mut D {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        (**self).read_at(offset, buffer)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        (**self).write_at(offset, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }
}
