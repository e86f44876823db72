//! The ext4 superblock, as far as finding, checking and growing need it.
//!
//! The primary lies at byte 1024 of the filesystem, copies at the start of groups 1, 3, 5, 7
//! and so on (Documentation/filesystems/ext4/super.rst):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0x04 | 4 | s_blocks_count_lo |
//! | 0x18 | 4 | s_log_block_size (block size is 2 ^ (10 + this)) |
//! | 0x20 | 4 | s_blocks_per_group |
//! | 0x38 | 2 | s_magic, 0xEF53 |
//! | 0x3A | 2 | s_state: 1 unmounted cleanly, 2 errors seen |
//! | 0x60 | 4 | s_feature_incompat: 4 needs recovery, 0x80 64 bit |
//! | 0x68 | 16 | s_uuid |
//! | 0x78 | 16 | s_volume_name |
//! | 0x150 | 4 | s_blocks_count_hi |

use std::io::{self, Read, Seek, SeekFrom};

use uuid::Uuid;

/// Where the primary superblock lies, in bytes.
pub const SUPERBLOCK_OFFSET: u64 = 1024;
const MAGIC: u16 = 0xEF53;
const STATE_CLEAN: u16 = 1;
const STATE_ERRORS: u16 = 2;
const INCOMPAT_RECOVER: u32 = 4;
const INCOMPAT_64BIT: u32 = 0x80;

/// What a superblock says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Bytes of a block.
    pub block_size: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// The filesystem's UUID.
    pub uuid: Uuid,
    /// Its label.
    pub label: String,
    /// Unmounted cleanly, no errors seen, no journal to replay.
    pub clean: bool,
    /// The kernel has seen errors in it.
    pub errors: bool,
}

fn le32(bytes: &[u8; 1024], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn le16(bytes: &[u8; 1024], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

impl Superblock {
    /// Parses the 1024 bytes of a superblock; `None` if they are not one.
    pub fn parse(bytes: &[u8; 1024]) -> Option<Self> {
        let log = le32(bytes, 0x18);
        if le16(bytes, 0x38) != MAGIC || log > 6 {
            return None;
        }
        let incompat = le32(bytes, 0x60);
        let high = if incompat & INCOMPAT_64BIT != 0 {
            le32(bytes, 0x150)
        } else {
            0
        };
        let state = le16(bytes, 0x3A);
        let errors = state & STATE_ERRORS != 0;
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&bytes[0x68..0x78]);
        let label = bytes[0x78..0x88]
            .split(|b| *b == 0)
            .next()
            .unwrap_or_default();
        Some(Self {
            block_size: 1024 << log,
            blocks: (u64::from(high) << 32) | u64::from(le32(bytes, 0x04)),
            uuid: Uuid::from_bytes(uuid),
            label: String::from_utf8_lossy(label).into_owned(),
            clean: state & STATE_CLEAN != 0 && !errors && incompat & INCOMPAT_RECOVER == 0,
            errors,
        })
    }

    /// Reads the superblock at a byte offset; `None` if there is none.
    ///
    /// # Errors
    /// I/O errors other than the end of the device.
    pub fn read_at<D: Read + Seek>(device: &mut D, offset: u64) -> io::Result<Option<Self>> {
        let mut bytes = [0; 1024];
        match device.seek(SeekFrom::Start(offset)) {
            // lseek(2) refuses to go behind the end of a block device.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            other => other?,
        };
        match device.read_exact(&mut bytes) {
            Ok(()) => Ok(Self::parse(&bytes)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The bytes of a superblock of no filesystem, that says a label and no more.
    pub fn mark(label: &str) -> [u8; 1024] {
        let mut bytes = [0; 1024];
        bytes[0x18..0x1C].copy_from_slice(&2u32.to_le_bytes());
        bytes[0x38..0x3A].copy_from_slice(&MAGIC.to_le_bytes());
        let length = label.len().min(16);
        bytes[0x78..0x78 + length].copy_from_slice(&label.as_bytes()[..length]);
        bytes
    }

    /// The size of the filesystem in bytes.
    pub fn size(&self) -> u64 {
        self.blocks.saturating_mul(self.block_size)
    }
}

/// Where copies lie in a filesystem with 4096-byte blocks made by mke2fs, in bytes:
/// groups of 32768 blocks; 1 and the powers of 3, 5 and 7.
pub fn backup_offsets() -> impl Iterator<Item = u64> {
    [1u64, 3, 5, 7, 9, 25, 27, 49]
        .into_iter()
        .map(|group| group * 32768 * 4096)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    #[test]
    fn reads_what_mke2fs_makes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(200 << 20).unwrap();
        let uuid = "0d3ff44e-23ad-4cd1-8c6a-33f2f3e6d2b4";
        let out = Command::new("/usr/sbin/mke2fs")
            .args([
                "-q",
                "-F",
                "-t",
                "ext4",
                "-b",
                "4096",
                "-L",
                "slipway-data",
                "-U",
                uuid,
            ])
            .arg(file.path())
            .output()
            .expect("e2fsprogs is needed (ci/setup installs it)");
        assert!(
            out.status.success(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
        let mut device = std::fs::File::open(file.path()).unwrap();
        let sb = Superblock::read_at(&mut device, SUPERBLOCK_OFFSET)
            .unwrap()
            .unwrap();
        assert_eq!(sb.uuid.to_string(), uuid);
        assert_eq!(
            (sb.label.as_str(), sb.clean, sb.errors),
            ("slipway-data", true, false)
        );
        assert_eq!(sb.size(), 200 << 20);
        let first_backup = backup_offsets().next().unwrap();
        let copy = Superblock::read_at(&mut device, first_backup)
            .unwrap()
            .unwrap();
        assert_eq!(copy.uuid, sb.uuid);
        assert_eq!(Superblock::read_at(&mut device, 1 << 40).unwrap(), None);
    }

    /// A block device, whose end can't be passed.
    struct Short;

    impl Read for Short {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Ok(0)
        }
    }

    impl Seek for Short {
        fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }

    #[test]
    fn behind_the_end_of_a_block_device_there_is_none() {
        assert_eq!(Superblock::read_at(&mut Short, 1 << 40).unwrap(), None);
    }

    #[test]
    fn a_mark_is_read_as_one() {
        let sb = Superblock::parse(&Superblock::mark("slipway-reset")).unwrap();
        assert_eq!((sb.label.as_str(), sb.blocks), ("slipway-reset", 0));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 1024)) {
            let mut block: [u8; 1024] = bytes.try_into().unwrap();
            drop(Superblock::parse(&block));
            block[0x38..0x3A].copy_from_slice(&MAGIC.to_le_bytes());
            block[0x18..0x1C].copy_from_slice(&2u32.to_le_bytes());
            prop_assert!(Superblock::parse(&block).is_some());
        }
    }
}
