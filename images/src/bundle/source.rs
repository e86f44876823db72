//! Where a bundle's bytes come from.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

/// A file, a web server that knows ranges, or whoever pushes a bundle ([`super::wire`]).
pub trait Source {
    /// Bytes of the whole bundle.
    ///
    /// # Errors
    /// Those of the transport.
    fn size(&mut self) -> io::Result<u64>;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// Those of the transport; also when there is less.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Says that these bytes are going to be read next, in order and all of them unless
    /// something fails: one request can serve many reads.
    fn expect(&mut self, range: Range<u64>) {
        let _ = range;
    }
}

impl Source for File {
    fn size(&mut self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

/// Where a part begins and how many bytes there are in all, by a web server's `Content-Range`
/// (RFC 9110, section 14.4): `bytes FIRST-LAST/SIZE`.
#[must_use]
pub fn content_range(text: &str) -> Option<(u64, u64)> {
    let (part, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = part.split_once('-')?;
    Some((first.parse().ok()?, size.parse().ok()?))
}
