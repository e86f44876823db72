//! The one place for `unsafe` in the command: ioctls of block devices that
//! neither `std` nor `rustix` wraps.
//!
//! | call | number | argument | defined in |
//! |---|---|---|---|
//! | BLKRRPART | 0x125f | none | linux/fs.h |
//! | BLKZEROOUT | 0x127f | two u64: offset and length in bytes | linux/fs.h |
#![expect(unsafe_code, reason = "ioctls without a safe wrapper")]

use std::fs::File;
use std::io;

use rustix::ioctl::{NoArg, Setter, ioctl, opcode};

const BLKRRPART: rustix::ioctl::Opcode = opcode::none(0x12, 95);
const BLKZEROOUT: rustix::ioctl::Opcode = opcode::none(0x12, 127);

/// Makes the kernel read the partition table again.
///
/// # Errors
/// `EBUSY` while a partition is in use; `EINVAL` or `ENOTTY` for what has none.
pub fn reread_partitions(device: &File) -> io::Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    unsafe { ioctl(device, NoArg::<BLKRRPART>::new()) }.map_err(Into::into)
}

/// Makes a range of a block device read as zeros, by the device itself where it can.
/// Both numbers are multiples of the logical block.
///
/// # Errors
/// `EINVAL` for a range that doesn't fit, `EOPNOTSUPP`, I/O errors.
pub fn zero_out(device: &File, offset: u64, len: u64) -> io::Result<()> {
    // SAFETY: BLKZEROOUT reads two u64 from its argument and keeps no pointer.
    unsafe { ioctl(device, Setter::<BLKZEROOUT, [u64; 2]>::new([offset, len])) }.map_err(Into::into)
}
