//! Bytes and sectors, which are easily taken for each other.

use std::fmt;

use super::ALIGNMENT;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(u64);

impl Bytes {
    /// `n` bytes.
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// `n` MiB. `n` is a constant or checked by the caller; 2^44 and more saturate.
    pub const fn mib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 20))
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole sectors, or `None` if there is a rest.
    pub fn sectors(self) -> Option<Sectors> {
        self.0
            .is_multiple_of(Sectors::SIZE)
            .then(|| self.sectors_floor())
    }

    /// Whole sectors, the rest cut off.
    pub const fn sectors_floor(self) -> Sectors {
        Sectors(self.0 / Sectors::SIZE)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1 << 20 {
            return write!(f, "{} bytes", self.0);
        }
        write!(f, "{} MiB", self.0.div_ceil(1 << 20))
    }
}

/// A number of 512-byte sectors, or a sector's address (LBA).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sectors(pub(super) u64);

impl Sectors {
    /// Bytes in a sector. Disks with larger logical sectors are refused: an image
    /// made for one size is not valid for the other.
    pub const SIZE: u64 = 512;

    /// `n` sectors.
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// In bytes; `None` beyond 2^64.
    pub fn bytes(self) -> Option<Bytes> {
        self.0.checked_mul(Self::SIZE).map(Bytes)
    }

    pub(super) fn align_down(self) -> Self {
        let unit = ALIGNMENT.sectors_floor().0;
        Self(self.0 / unit * unit)
    }

    pub(super) fn align_up(self) -> Option<Self> {
        let unit = ALIGNMENT.sectors_floor().0;
        self.0.checked_next_multiple_of(unit).map(Self)
    }

    pub(super) fn plus(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    pub(super) fn for_people(self) -> Bytes {
        Bytes(self.0.saturating_mul(Self::SIZE))
    }
}
