//! The device mapper without libdevmapper or udev: devices made, looked at and removed by
//! ioctls on `/dev/mapper/control`.
//!
//! Every command's argument and answer is a buffer that begins with `struct dm_ioctl`
//! (linux/dm-ioctl.h, all in the machine's byte order):
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 3 * 4 | version of the interface: 4, 0, 0 works with every kernel since 2.6 |
//! | 12 | 4 | data_size: bytes of the whole buffer |
//! | 16 | 4 | data_start: where what follows the struct begins |
//! | 20 | 4 | target_count |
//! | 24 | 4 | open_count |
//! | 28 | 4 | flags |
//! | 40 | 8 | dev: major and minor number as makedev has them below 2^32 |
//! | 48 | 128 | name, ended by a zero |
//! | 176 | 129 | uuid, ended by a zero |
//! | 312 | | end of the struct |
//!
//! A table is one `struct dm_target_spec` for each target, its parameters behind it:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | sector_start, in sectors of 512 bytes |
//! | 8 | 8 | length, in sectors |
//! | 16 | 4 | status |
//! | 20 | 4 | next: to the next one, from this one in a command, from data_start in an answer |
//! | 24 | 16 | target_type, ended by a zero |
//! | 40 | | parameters, ended by a zero; the next one begins at a multiple of 8 |
//!
//! What the parameters of a target mean is in the kernel's
//! Documentation/admin-guide/device-mapper.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use zeroize::Zeroizing;

use crate::phase::{Context, Failure};
use crate::{files, say, sys};

/// Where commands go. It is there once the kernel has `dm_mod`.
const CONTROL: &str = "/dev/mapper/control";

const VERSION: [u32; 3] = [4, 0, 0];
const HEADER: usize = 312;
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const FLAGS: usize = 28;
const DEVICE: usize = 40;
const NAME: usize = 48;
const NAME_BYTES: usize = 128;
const UUID: usize = 176;
const UUID_BYTES: usize = 129;

const SPEC: usize = 40;
const SPEC_LENGTH: usize = 8;
const SPEC_NEXT: usize = 20;
const SPEC_TYPE: usize = 24;
const SPEC_TYPE_BYTES: usize = 16;

const READ_ONLY: u32 = 1;
const STATUS_TABLE: u32 = 1 << 4;
const BUFFER_FULL: u32 = 1 << 8;
/// The kernel wipes its copy of the buffer: a table may hold a key.
const SECURE_DATA: u32 = 1 << 15;

/// Room for an answer with a table, at first and at most.
const ANSWER: usize = 16 << 10;
const ANSWER_MAX: usize = 1 << 20;

/// A command's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Create = 3,
    Remove = 4,
    /// Resumes unless the suspend flag is set, and makes the loaded table the live one.
    Suspend = 6,
    Load = 9,
    Status = 12,
}

/// One line of a table.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// First sector of the mapped device that it is for.
    pub start: u64,
    /// For how many sectors of 512 bytes.
    pub sectors: u64,
    /// `verity`, `crypt` and so on.
    pub kind: String,
    /// Its parameters, as the target has them. They may hold a key, and are wiped when they go.
    pub parameters: Zeroizing<String>,
}

/// Without the parameters: they may hold a key.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.start, self.sectors, self.kind)
    }
}

/// Whether a mapped device can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It can't; for `verity` it must not.
    ReadOnly,
    /// It can.
    ReadWrite,
}

/// What is asked of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query {
    /// The table it was loaded with, with keys if the kernel holds them in it.
    Table,
    /// What its targets say of themselves: for `verity` `V` (good) or `C` (corruption seen).
    Status,
}

/// The device mapper.
#[derive(Debug)]
pub struct Mapper(File);

impl Mapper {
    /// Opens it.
    ///
    /// # Errors
    /// When there is none: `dm_mod`, which every target's module brings along, isn't loaded.
    pub fn open() -> Result<Self, Failure> {
        let control = OpenOptions::new().read(true).write(true).open(CONTROL);
        control.map(Self).context(format_args!(
            "{CONTROL} (is the module dm_mod in the image?)"
        ))
    }

    /// Makes a device of this name and table and gives its path, which devtmpfs makes before
    /// this returns. `uuid` is any text below 129 bytes, by convention `KIND-...`; empty for
    /// none. Nothing is left of a device whose table is refused.
    ///
    /// # Errors
    /// When the name is taken, a target refuses its parameters (the kernel's log says why) or
    /// a device below it can't be opened.
    pub fn create(
        &self,
        name: &str,
        uuid: &str,
        access: Access,
        table: &[Target],
    ) -> Result<PathBuf, Failure> {
        let mut buffer = Buffer::new(name, HEADER)?;
        buffer.text(UUID, UUID_BYTES, uuid)?;
        self.run(Command::Create, &mut buffer).map_err(|error| {
            let taken = error.raw_os_error() == Some(Errno::EBUSY as i32);
            let why = if taken { " (it is there already)" } else { "" };
            Failure(format!("making the mapped device {name}: {error}{why}"))
        })?;
        let path = Path::new("/dev").join(format!("dm-{}", minor(buffer.u64(DEVICE))));
        let mapped = self.load(name, access, table).and_then(|()| {
            let mut buffer = Buffer::new(name, HEADER)?;
            buffer.set_flags(access);
            self.run(Command::Suspend, &mut buffer)
                .context(format_args!("starting the mapped device {name}"))
        });
        match mapped {
            Ok(()) => Ok(path),
            Err(Failure(why)) => Err(match self.remove(name) {
                Ok(()) => Failure(why),
                Err(Failure(left)) => Failure(format!("{why}; {left}")),
            }),
        }
    }

    fn load(&self, name: &str, access: Access, table: &[Target]) -> Result<(), Failure> {
        let mut buffer = Buffer::with_table(name, table)?;
        buffer.set_flags(access);
        self.run(Command::Load, &mut buffer).context(format_args!(
            "loading the table {table:?} of the mapped device {name} (the kernel's log says more)"
        ))
    }

    /// Removes a device.
    ///
    /// # Errors
    /// When it isn't there or is in use.
    pub fn remove(&self, name: &str) -> Result<(), Failure> {
        let mut buffer = Buffer::new(name, HEADER)?;
        self.run(Command::Remove, &mut buffer)
            .context(format_args!("removing the mapped device {name}"))
    }

    /// What a device says of its targets.
    ///
    /// # Errors
    /// When it isn't there, or its answer makes no sense.
    pub fn query(&self, name: &str, query: Query) -> Result<Vec<Target>, Failure> {
        let mut size = ANSWER;
        loop {
            let mut buffer = Buffer::new(name, size)?;
            if query == Query::Table {
                buffer.set_u32(FLAGS, STATUS_TABLE | SECURE_DATA);
            }
            self.run(Command::Status, &mut buffer)
                .context(format_args!("looking at the mapped device {name}"))?;
            let full = buffer.u32(FLAGS) & BUFFER_FULL != 0;
            if !full || size >= ANSWER_MAX {
                return (!full).then(|| buffer.table()).flatten().ok_or_else(|| {
                    Failure(format!(
                        "the mapped device {name} answers what makes no sense"
                    ))
                });
            }
            size *= 4;
        }
    }

    /// Makes a device as [`Self::create`] does, and removes it again unless it is kept.
    ///
    /// # Errors
    /// As there.
    pub fn map(
        self,
        name: &'static str,
        uuid: &str,
        access: Access,
        table: &[Target],
    ) -> Result<Mapped, Failure> {
        let path = self.create(name, uuid, access, table)?;
        Ok(Mapped {
            mapper: self,
            name,
            path,
            kept: false,
        })
    }

    fn run(&self, command: Command, buffer: &mut Buffer) -> io::Result<()> {
        sys::device_mapper(&self.0, command as u8, &mut buffer.0)
    }
}

/// A mapped device that goes when it isn't kept.
#[derive(Debug)]
pub struct Mapped {
    mapper: Mapper,
    name: &'static str,
    path: PathBuf,
    kept: bool,
}

impl Mapped {
    /// Its device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// It is mounted and stays.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if !self.kept
            && let Err(failure) = self.mapper.remove(self.name)
        {
            say!("{failure}");
        }
    }
}

/// Whether there is a mapped device of this name.
pub fn is_mapped(name: &str) -> bool {
    let devices = Path::new("/sys/class/block");
    let named = |device: &String| {
        let file = devices.join(device).join("dm/name");
        files::read_trimmed(file).is_ok_and(|found| found == name)
    };
    files::names(devices).iter().any(named)
}

/// A device's minor number, of its number as the kernel gives it.
fn minor(device: u64) -> u64 {
    device & 0xff | device >> 12 & 0xf_ff00
}

/// A command or an answer.
struct Buffer(Vec<u8>);

impl Buffer {
    /// A command to a device, with room for so many bytes in all.
    fn new(name: &str, size: usize) -> Result<Self, Failure> {
        let mut buffer = Self(vec![0; size.max(HEADER)]);
        for (n, part) in VERSION.into_iter().enumerate() {
            buffer.set_u32(4 * n, part);
        }
        let size = u32::try_from(buffer.0.len())
            .map_err(|_| Failure("a table of 4 GiB and more can't be loaded".into()))?;
        buffer.set_u32(DATA_SIZE, size);
        buffer.set_u32(DATA_START, HEADER as u32);
        // The kernel would take an empty name for "by UUID".
        if name.is_empty() || name.contains('/') {
            return Err(Failure(format!("`{name}` can't name a mapped device")));
        }
        buffer.text(NAME, NAME_BYTES, name)?;
        Ok(buffer)
    }

    fn with_table(name: &str, table: &[Target]) -> Result<Self, Failure> {
        let room = |target: &Target| (SPEC + target.parameters.len() + 1).next_multiple_of(8);
        let mut buffer = Self::new(name, HEADER + table.iter().map(room).sum::<usize>())?;
        let count = u32::try_from(table.len()).context("too many targets")?;
        buffer.set_u32(TARGET_COUNT, count);
        let mut at = HEADER;
        for target in table {
            let room = room(target);
            buffer.0[at..at + 8].copy_from_slice(&target.start.to_ne_bytes());
            let length = at + SPEC_LENGTH;
            buffer.0[length..length + 8].copy_from_slice(&target.sectors.to_ne_bytes());
            let next = u32::try_from(room).context("parameters too long")?;
            buffer.set_u32(at + SPEC_NEXT, next);
            buffer.text(at + SPEC_TYPE, SPEC_TYPE_BYTES, &target.kind)?;
            buffer.text(at + SPEC, room - SPEC, &target.parameters)?;
            at += room;
        }
        Ok(buffer)
    }

    /// The table of an answer; `None` if it points outside of itself.
    fn table(&self) -> Option<Vec<Target>> {
        let start = self.u32(DATA_START) as usize;
        let mut at = start;
        let mut table = Vec::new();
        for _ in 0..self.u32(TARGET_COUNT) {
            let spec = self.0.get(at..)?;
            if spec.len() < SPEC {
                return None;
            }
            table.push(Target {
                start: u64::from_ne_bytes(spec[..8].try_into().ok()?),
                sectors: u64::from_ne_bytes(spec[SPEC_LENGTH..][..8].try_into().ok()?),
                kind: ended(&spec[SPEC_TYPE..SPEC])?,
                parameters: ended(&spec[SPEC..])?.into(),
            });
            let next = start.checked_add(self.u32(at + SPEC_NEXT) as usize)?;
            // Forward only, or an answer of nonsense would never end.
            if next < at + SPEC {
                return None;
            }
            at = next;
        }
        Some(table)
    }

    /// Puts a text with a zero behind it into a field of this size.
    fn text(&mut self, at: usize, size: usize, text: &str) -> Result<(), Failure> {
        if text.len() >= size || text.contains('\0') {
            return Err(Failure(format!(
                "a text of {} bytes with no zero in it doesn't fit the device mapper's field of {size}",
                text.len()
            )));
        }
        self.0[at..at + text.len()].copy_from_slice(text.as_bytes());
        Ok(())
    }

    fn set_flags(&mut self, access: Access) {
        let read_only = match access {
            Access::ReadOnly => READ_ONLY,
            Access::ReadWrite => 0,
        };
        self.set_u32(FLAGS, read_only | SECURE_DATA);
    }

    fn set_u32(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }

    fn u32(&self, at: usize) -> u32 {
        let mut field = [0; 4];
        field.copy_from_slice(&self.0[at..at + 4]);
        u32::from_ne_bytes(field)
    }

    fn u64(&self, at: usize) -> u64 {
        let mut field = [0; 8];
        field.copy_from_slice(&self.0[at..at + 8]);
        u64::from_ne_bytes(field)
    }
}

/// What has held a key doesn't go back to the allocator with it.
impl Drop for Buffer {
    fn drop(&mut self) {
        self.0.fill(0);
        // Or the compiler would see that nobody reads the zeros.
        std::hint::black_box(&self.0);
    }
}

/// The text before the first zero; `None` if there is no zero.
fn ended(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

#[cfg(test)]
#[path = "dm_tests.rs"]
mod tests;
