//! The data partition: made on first boot, checked when dirty, grown when there is room,
//! mounted on /var. Never formatted when it might hold anything.
//!
//! mke2fs gives the filesystem a label that says "unfinished"; the final label is set,
//! through the kernel and so in all superblocks, once it has been mounted. What is found:
//!
//! | primary superblock | backups | first MiB | partition marked unfinished | then |
//! |---|---|---|---|---|
//! | `slipway-data` | | | | use it, after e2fsck when dirty |
//! | `slipway-mkfs` | | | | make it again |
//! | `slipway-reset` | | | | discard what is in it, make it again |
//! | none or other | any | any | yes | make it |
//! | none | `slipway-data` | | no | damaged: e2fsck |
//! | none | `slipway-reset`, `slipway-mkfs` | | no | make it again: it was being made after a reset |
//! | none | none of ours | zeros | no | make it |
//! | none | none of ours | anything | no | refuse |
//! | other label | | | no | refuse |

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, ExitStatus};

use nix::mount::{MsFlags, mount};

use crate::ext4::{SUPERBLOCK_OFFSET, Superblock, backup_offsets};
use crate::phase::{Context, Failure};
use crate::reaper::Reaper;
use crate::{say, sys};

/// Label of a finished data filesystem.
pub const LABEL: &str = "slipway-data";
/// Label of one whose making may have been interrupted.
pub const LABEL_UNFINISHED: &str = "slipway-mkfs";
/// Label of one that is to be made again with nothing of it left: a factory reset. The kernel
/// sets it in one write of each superblock while the filesystem is mounted, so a power cut
/// leaves either what there was or a reset that is done at the next boot.
pub const LABEL_RESET: &str = "slipway-reset";
const MKE2FS: &str = "/usr/sbin/mke2fs";
const E2FSCK: &str = "/usr/sbin/e2fsck";

/// What the partition holds and what is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Our filesystem; to be checked first if not clean.
    Ours {
        /// Whether it can be mounted without a check.
        clean: bool,
    },
    /// Our filesystem without its primary superblock.
    Damaged {
        /// The block of a copy of the superblock.
        copy: u64,
    },
    /// Nothing, or a filesystem whose making was interrupted.
    Empty,
    /// Our filesystem, to be forgotten.
    Reset,
    /// Something that is not ours.
    Foreign(String),
}

/// Decides by what is on the device. `unfinished` is the partition's mark from the initrd.
///
/// # Errors
/// Those of reading.
pub fn inspect<D: Read + Seek>(device: &mut D, unfinished: bool) -> io::Result<Found> {
    match Superblock::read_at(device, SUPERBLOCK_OFFSET)? {
        Some(sb) if sb.label == LABEL => return Ok(Found::Ours { clean: sb.clean }),
        Some(sb) if sb.label == LABEL_RESET => return Ok(Found::Reset),
        Some(sb) if sb.label == LABEL_UNFINISHED => return Ok(Found::Empty),
        _ if unfinished => return Ok(Found::Empty),
        Some(sb) => return Ok(Found::Foreign(format!("an ext filesystem `{}`", sb.label))),
        None => {}
    }
    for offset in backup_offsets() {
        if let Some(sb) = Superblock::read_at(device, offset)?
            && sb.label == LABEL
        {
            return Ok(Found::Damaged {
                copy: offset / sb.block_size,
            });
        }
        if offset == FIRST_BACKUP
            && let Some(sb) = Superblock::read_at(device, offset)?
            && [LABEL_RESET, LABEL_UNFINISHED].contains(&sb.label.as_str())
        {
            return Ok(Found::Empty);
        }
    }
    device.seek(SeekFrom::Start(0))?;
    let mut start = Vec::new();
    device.by_ref().take(1 << 20).read_to_end(&mut start)?;
    Ok(match start.iter().all(|b| *b == 0) {
        true => Found::Empty,
        false => Found::Foreign("data of an unknown kind".into()),
    })
}

/// What e2fsck's exit status means (e2fsck(8)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// No errors, or all corrected.
    Good,
    /// Errors are left that need someone to look.
    Uncorrected,
    /// It did not run as it should.
    Failed,
}

/// Reads e2fsck's exit status: 1 corrected and 2 reboot wanted (of no matter for what is
/// not mounted) are good, 4 uncorrected, 8 and more its own failures.
pub fn fsck_verdict(code: Option<i32>) -> Checked {
    match code {
        Some(0..=3) => Checked::Good,
        Some(4..=7) => Checked::Uncorrected,
        _ => Checked::Failed,
    }
}

/// Makes, checks and mounts the data partition, and grows its filesystem. Gives a note for
/// the console.
///
/// # Errors
/// What is wrong and what to do; nothing was formatted then that held anything.
pub fn prepare(
    reaper: &Reaper,
    device: &Path,
    mount_point: &Path,
    unfinished: bool,
) -> Result<String, Failure> {
    let name = device.display();
    let mut file = File::open(device).context(format_args!("opening {name}"))?;
    let found = inspect(&mut file, unfinished).context(format_args!("reading {name}"))?;
    drop(file);
    let mut notes = Vec::new();
    match &found {
        Found::Ours { clean: true } => {}
        Found::Ours { clean: false } => notes.push(check(reaper, device, None)?),
        Found::Damaged { copy } => notes.push(check(reaper, device, Some(*copy))?),
        Found::Empty | Found::Reset => {
            if found == Found::Reset {
                notes.push(format!("reset: {}", wipe(device)?.note()));
            }
            run(
                reaper,
                Command::new(MKE2FS).args(mkfs_arguments()).arg(device),
            )?;
            notes.push("filesystem made".to_owned());
        }
        Found::Foreign(what) => {
            return Err(Failure(format!(
                "{name} holds {what}, it was not touched; erase the partition to have it used"
            )));
        }
    }
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    // A pod's device nodes and setuid programs live on overlay mounts with flags of their own.
    mount(
        Some(device),
        mount_point,
        Some("ext4"),
        flags,
        Some("errors=remount-ro"),
    )
    .context(format_args!("mounting {name}"))?;
    let directory = File::open(mount_point).context("opening /var")?;
    if matches!(found, Found::Empty | Found::Reset) {
        sys::set_filesystem_label(&directory, LABEL).context("finishing the filesystem")?;
        directory.sync_all().context("finishing the filesystem")?;
        nix::unistd::syncfs(&directory).context("finishing the filesystem")?;
    }
    match grow(device, &directory) {
        Ok(Some(mib)) => notes.push(format!("grown to {mib} MiB")),
        Ok(None) => {}
        // It works as it is.
        Err(error) => say!("data: not grown: {error}"),
    }
    Ok(notes.join(", "))
}

/// What became of the old content at a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wiped {
    /// It reads as zeros.
    Zeroed,
    /// The device was told that it isn't needed any more; what it does with it is its own.
    Discarded,
    /// The device can neither: it stays until it is written over.
    Left,
}

impl Wiped {
    fn note(self) -> &'static str {
        match self {
            Self::Zeroed => "old content wiped",
            Self::Discarded => "old content discarded",
            Self::Left => "old content not wiped, the device can't",
        }
    }
}

/// Where the first copy of the superblock lies.
const FIRST_BACKUP: u64 = 32768 * 4096;
/// What stays of a filesystem that is wiped, at its start and at its first backup.
const KEPT: u64 = 1 << 20;

/// Makes the device forget what it holds, all but the superblock and its first copy: they say
/// that it is to be reset until mke2fs has put its own in their place.
///
/// # Errors
/// When the device can't be opened; that it can't wipe is none.
pub fn wipe(device: &Path) -> Result<Wiped, Failure> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .context(format_args!("opening {}", device.display()))?;
    let size = file
        .seek(SeekFrom::End(0))
        .context(format_args!("measuring {}", device.display()))?;
    let ranges = [(KEPT, FIRST_BACKUP.min(size)), (FIRST_BACKUP + KEPT, size)];
    let ranges = ranges.into_iter().filter(|(from, to)| from < to);
    let mut wiped = Wiped::Zeroed;
    for (from, to) in ranges {
        let this = if sys::zero_quickly(&file, from, to - from).is_ok() {
            Wiped::Zeroed
        } else if sys::discard(&file, from, to - from).is_ok() {
            Wiped::Discarded
        } else {
            Wiped::Left
        };
        wiped = match (wiped, this) {
            (Wiped::Left, _) | (_, Wiped::Left) => Wiped::Left,
            (Wiped::Discarded, _) | (_, Wiped::Discarded) => Wiped::Discarded,
            _ => Wiped::Zeroed,
        };
    }
    file.sync_all().context("wiping the old content")?;
    Ok(wiped)
}

/// Arguments of mke2fs. Tables are zeroed later by the kernel, so that a large disk does not
/// hold up the first boot.
pub fn mkfs_arguments() -> [&'static str; 12] {
    [
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-m",
        "1",
        "-L",
        LABEL_UNFINISHED,
        "-E",
        "nodiscard,lazy_itable_init=1,lazy_journal_init=1",
    ]
}

fn run(reaper: &Reaper, command: &mut Command) -> Result<ExitStatus, Failure> {
    let (status, output) = reaper.output(command)?;
    if status.success() {
        return Ok(status);
    }
    Err(Failure(format!("{command:?}: {status}: {}", output.trim())))
}

/// Arguments of e2fsck: mend what is safe without asking, by a copy of the superblock if so.
fn fsck_arguments(copy: Option<u64>) -> Vec<String> {
    let mut arguments = vec!["-p".to_owned()];
    if let Some(block) = copy {
        // -p gives up on a bad primary; -y takes the copy's word and checks everything.
        arguments = ["-y", "-B", "4096", "-b"].map(str::to_owned).to_vec();
        arguments.push(block.to_string());
    }
    arguments
}

fn check(reaper: &Reaper, device: &Path, copy: Option<u64>) -> Result<String, Failure> {
    let mut command = Command::new(E2FSCK);
    let (status, output) = reaper.output(command.args(fsck_arguments(copy)).arg(device))?;
    for line in output.lines() {
        say!("data: {line}");
    }
    match fsck_verdict(status.code()) {
        Checked::Good => Ok("checked".to_owned()),
        Checked::Uncorrected => Err(Failure(format!(
            "{} has errors that e2fsck does not correct by itself; the cluster is not started. \
             Save the disk, then run e2fsck by hand",
            device.display()
        ))),
        Checked::Failed => Err(Failure(format!("{command:?}: {status}"))),
    }
}

/// Grows the mounted filesystem to its device when that is at least 16 MiB larger.
fn grow(device: &Path, mount_point: &File) -> io::Result<Option<u64>> {
    let mut file = OpenOptions::new().read(true).open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    let Some(sb) = Superblock::read_at(&mut file, SUPERBLOCK_OFFSET)? else {
        return Err(io::Error::other("no superblock"));
    };
    if size < sb.size().saturating_add(16 << 20) {
        return Ok(None);
    }
    sys::ext4_resize(mount_point, size / sb.block_size)?;
    Ok(Some(size >> 20))
}

#[cfg(test)]
#[path = "data_tests.rs"]
mod tests;
