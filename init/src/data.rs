//! The data partition: made on first boot, checked when dirty, grown when there is room,
//! mounted on /var. Never formatted when it might hold anything.
//!
//! mke2fs gives the filesystem a label that says "unfinished"; the final label is set,
//! through the kernel and so in all superblocks, once it has been mounted. Encrypted
//! ([`crypt`]), the volume's header has such a label, too, and stands before its filesystem.
//! What is found:
//!
//! | primary superblock | LUKS header | backups | first MiB | partition marked unfinished | then |
//! |---|---|---|---|---|---|
//! | `slipway-data` | | | | | use it, after e2fsck when dirty |
//! | `slipway-mkfs` | | | | | make it again |
//! | `slipway-reset` | | | | | discard what is in it, make it again |
//! | not these | `slipway-data` | | | | open it, and use what is in it as above |
//! | not these | `slipway-mkfs` | | | | make it again |
//! | not these | `slipway-reset` | | | | destroy its keys, make it again |
//! | none or other | none or other | any | any | yes | make it |
//! | none | none | `slipway-data` | | no | damaged: e2fsck |
//! | none | none or damaged | `slipway-reset`, `slipway-mkfs` | | no | make it again: it was being made after a reset |
//! | none | damaged | none of ours | | no | refuse |
//! | none | none | none of ours | zeros | no | make it |
//! | none | none | none of ours | anything | no | refuse |
//! | other label | | | | no | refuse |
//! | none | other label | | | no | refuse |
//!
//! How it is made, the seed says once. What is in use is never changed from one to the other:
//! plain data where the seed asks for encryption is an error.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Command, ExitStatus};

use nix::mount::{MsFlags, mount, umount};
use slipway_images::luks::{DATA_OFFSET, LuksError, Volume};

use crate::crypt::{self, Keys, Open, Wish};
use crate::ext4::{SUPERBLOCK_OFFSET, Superblock, backup_offsets};
use crate::phase::{Context, Failure};
use crate::reaper::Reaper;
use crate::{reset, say, sys};

/// Label of a finished data filesystem.
pub const LABEL: &str = "slipway-data";
/// Label of one whose making may have been interrupted.
pub const LABEL_UNFINISHED: &str = "slipway-mkfs";
/// Label of one that is to be made again with nothing of it left: a factory reset. The kernel
/// sets it in one write of each superblock while the filesystem is mounted, so a power cut
/// leaves either what there was or a reset that is done at the next boot.
pub const LABEL_RESET: &str = "slipway-reset";
/// Where the first copy of the superblock lies.
pub const FIRST_BACKUP: u64 = 32768 * 4096;
/// What is in it from the start.
const DIRECTORIES: [&str; 5] = ["lib/slipway", "log/slipway", "log/pods", "tmp", "cache"];
const MKE2FS: &str = "/usr/sbin/mke2fs";
const E2FSCK: &str = "/usr/sbin/e2fsck";

/// What the partition holds and what is to be done.
#[derive(Debug, Clone, PartialEq)]
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
    /// Our encrypted volume.
    Encrypted(Box<Volume>),
    /// Nothing, or a filesystem or volume whose making was interrupted.
    Empty,
    /// Our filesystem, to be forgotten.
    Reset,
    /// Our encrypted volume, to be forgotten.
    ResetEncrypted(Box<Volume>),
    /// Something that is not ours.
    Foreign(String),
}

/// Decides by what is on the device. `unfinished` is the partition's mark from the initrd.
///
/// # Errors
/// Those of reading.
pub fn inspect<D: Read + Seek>(device: &mut D, unfinished: bool) -> Result<Found, LuksError> {
    let io = |source| LuksError::Io {
        doing: "reading",
        source,
    };
    let primary = Superblock::read_at(device, SUPERBLOCK_OFFSET).map_err(io)?;
    match &primary {
        Some(sb) if sb.label == LABEL => return Ok(Found::Ours { clean: sb.clean }),
        Some(sb) if sb.label == LABEL_RESET => return Ok(Found::Reset),
        Some(sb) if sb.label == LABEL_UNFINISHED => return Ok(Found::Empty),
        _ => {}
    }
    let volume = match Volume::find(device, 0) {
        Err(error @ LuksError::Io { .. }) => return Err(error),
        found => found.map(|found| found.map(Box::new)),
    };
    let volume = match volume {
        Ok(Some(volume)) if volume.label() == LABEL => return Ok(Found::Encrypted(volume)),
        Ok(Some(volume)) if volume.label() == LABEL_RESET => {
            return Ok(Found::ResetEncrypted(volume));
        }
        Ok(Some(volume)) if volume.label() == LABEL_UNFINISHED => return Ok(Found::Empty),
        volume => volume,
    };
    match (primary, &volume) {
        _ if unfinished => return Ok(Found::Empty),
        (Some(sb), _) => return Ok(Found::Foreign(format!("an ext filesystem `{}`", sb.label))),
        (None, Ok(Some(volume))) => {
            let label = volume.label();
            return Ok(Found::Foreign(format!("an encrypted volume `{label}`")));
        }
        (None, _) => {}
    }
    for offset in backup_offsets() {
        let Some(sb) = Superblock::read_at(device, offset).map_err(io)? else {
            continue;
        };
        if sb.label == LABEL && volume.is_ok() {
            return Ok(Found::Damaged {
                copy: offset / sb.block_size,
            });
        }
        let again = [LABEL_RESET, LABEL_UNFINISHED].contains(&sb.label.as_str());
        if offset == FIRST_BACKUP && again {
            return Ok(Found::Empty);
        }
    }
    if let Err(error) = volume {
        return Ok(Found::Foreign(format!("an encrypted volume ({error})")));
    }
    // Where a volume's header was, and where its data began.
    for start in [0, DATA_OFFSET] {
        device.seek(SeekFrom::Start(start)).map_err(io)?;
        let mut first = Vec::new();
        let read = device.by_ref().take(1 << 20).read_to_end(&mut first);
        read.map_err(io)?;
        if first.iter().any(|b| *b != 0) {
            return Ok(Found::Foreign("data of an unknown kind".into()));
        }
    }
    Ok(Found::Empty)
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

/// The data partition as it is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// For the console.
    pub note: String,
    /// Whether it is encrypted.
    pub encrypted: bool,
}

/// Makes, checks and mounts the data partition, and grows its filesystem.
///
/// # Errors
/// What is wrong and what to do; nothing was formatted then that held anything.
pub fn prepare(
    reaper: &Reaper,
    device: &Path,
    mount_point: &Path,
    unfinished: bool,
    keys: &Keys,
) -> Result<Prepared, Failure> {
    let name = device.display();
    let mut notes = Vec::new();
    let found = look(device, unfinished)?;
    let (volume, inside) = match found {
        Found::Ours { .. } | Found::Damaged { .. } => match keys.wish {
            Wish::Encrypted(_) => return Err(in_the_clear(device)),
            Wish::Clear | Wish::Unknown => (None, Some(found)),
        },
        Found::Encrypted(volume) => {
            let (open, note) = crypt::open(device, *volume, keys)?;
            notes.push(note);
            let inside = look(open.path(), false)?;
            (Some(open), Some(inside))
        }
        Found::Empty | Found::Reset | Found::ResetEncrypted(_) => {
            if let Some(note) = reset::forget(device, &found)? {
                notes.push(note);
            }
            (make(device, keys, &mut notes)?, None)
        }
        Found::Foreign(what) => {
            return Err(Failure(format!(
                "{name} holds {what}, it was not touched; erase the partition to have it used"
            )));
        }
    };
    let filesystem = volume.as_ref().map_or(device, Open::path);
    match &inside {
        Some(Found::Ours { clean: true }) => {}
        Some(Found::Ours { clean: false }) => notes.push(check(reaper, filesystem, None)?),
        Some(Found::Damaged { copy }) => notes.push(check(reaper, filesystem, Some(*copy))?),
        Some(_) => {
            return Err(Failure(format!(
                "the encrypted volume on {name} holds no filesystem of ours; it was not touched. \
                 Save the disk, or reset the node to begin anew without its data"
            )));
        }
        None => {
            let mut mke2fs = Command::new(MKE2FS);
            run(reaper, mke2fs.args(mkfs_arguments()).arg(filesystem))?;
            notes.push("filesystem made".to_owned());
        }
    }
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    // A pod's device nodes and setuid programs live on overlay mounts with flags of their own.
    mount(
        Some(filesystem),
        mount_point,
        Some("ext4"),
        flags,
        Some("errors=remount-ro"),
    )
    .context(format_args!("mounting {name}"))?;
    match settle(filesystem, mount_point, inside.is_none()) {
        Ok(grown) => notes.extend(grown),
        Err(failure) => {
            // Else the next try couldn't check it, which mends what the kernel has just found.
            if let Err(error) = umount(mount_point) {
                say!("data: {} stays mounted: {error}", mount_point.display());
            }
            return Err(failure);
        }
    }
    let encrypted = volume.is_some();
    if let Some(mut volume) = volume {
        let finished = inside.map_or_else(|| volume.finish(), |_| Ok(()));
        // It is mounted: it can't be closed, whatever happened.
        volume.keep();
        finished?;
    }
    let note = notes.join(", ");
    Ok(Prepared { note, encrypted })
}

/// Finishes a new filesystem, has it take the room there is, and makes the directories that
/// others rely on.
fn settle(filesystem: &Path, mount_point: &Path, new: bool) -> Result<Option<String>, Failure> {
    let directory = File::open(mount_point).context(mount_point.display())?;
    if new {
        sys::set_filesystem_label(&directory, LABEL).context("finishing the filesystem")?;
        directory.sync_all().context("finishing the filesystem")?;
        nix::unistd::syncfs(&directory).context("finishing the filesystem")?;
    }
    for name in DIRECTORIES {
        let path = mount_point.join(name);
        fs::create_dir_all(&path).context(path.display())?;
    }
    match grow(filesystem, &directory) {
        Ok(Some(mib)) => Ok(Some(format!("grown to {mib} MiB"))),
        Ok(None) => Ok(None),
        // It works as it is.
        Err(error) => {
            say!("data: not grown: {error}");
            Ok(None)
        }
    }
}

fn look(device: &Path, unfinished: bool) -> Result<Found, Failure> {
    let name = device.display();
    let mut file = File::open(device).context(format_args!("opening {name}"))?;
    inspect(&mut file, unfinished).context(name)
}

/// What to do where the seed asks for what the disk isn't.
fn in_the_clear(device: &Path) -> Failure {
    Failure(format!(
        "{} holds data in the clear, and the seed asks for encryption (slipway.data.encrypt); it \
         was not touched, and no cluster is started. Reset the node to have it made anew and \
         encrypted, or take the wish out of the seed",
        device.display()
    ))
}

/// Makes what the seed wants, but for the filesystem; gives the volume, if there is one.
fn make(device: &Path, keys: &Keys, notes: &mut Vec<String>) -> Result<Option<Open>, Failure> {
    match keys.wish {
        Wish::Clear => {
            crypt::forget_volume(device)?;
            Ok(None)
        }
        Wish::Encrypted(encrypt) => {
            let (open, note) = crypt::make(device, encrypt, keys)?;
            notes.push(note);
            Ok(Some(open))
        }
        Wish::Unknown => Err(Failure(
            "the data partition is not made as long as the seed, which may want it encrypted, \
             is refused; correct it and reboot"
                .into(),
        )),
    }
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
