//! Factory reset: asked for while the node runs, done when it boots.
//!
//! | the data partition is | the mark |
//! |---|---|
//! | plain | the label of its filesystem, [`LABEL_RESET`], in each superblock |
//! | encrypted, open or not | the label of the LUKS header, in both copies |
//! | encrypted once, its header damaged | a copy of a superblock that says the same |
//!
//! All are set at once, so a power cut leaves either what there was or a reset that is done at
//! the next boot. Done, the old content is gone as far as the disk can forget it; of an
//! encrypted one the keyslots are overwritten first, without which the rest is noise.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use nix::mount::{MsFlags, mount, umount};
use slipway_images::luks::{LuksError, Volume};

use crate::data::{FIRST_BACKUP, Found, LABEL, LABEL_RESET, LABEL_UNFINISHED};
use crate::ext4::Superblock;
use crate::initrd::{BOOT_FILE, Boot};
use crate::phase::{Context, Failure};
use crate::sys;

/// Where a data partition is mounted for its label to be changed, below the root.
const MOUNT_POINT: &str = "run/slipway/reset";

/// Marks the data partition of the node whose root is `root`, so that the next boot makes it
/// anew.
///
/// # Errors
/// There is none of ours, or it can't be written; then nothing was changed.
pub fn mark(root: &Path) -> Result<(), Failure> {
    let device = fs::read(root.join(BOOT_FILE.trim_start_matches('/'))).ok();
    let boot: Option<Boot> = device.and_then(|text| serde_json::from_slice(&text).ok());
    let device = boot.and_then(|boot| boot.data);
    if let Some(device) = &device
        && mark_volume(device)?
    {
        return Ok(());
    }
    let at = root.join("var");
    let var = File::open(&at).context(at.display())?;
    let on = |file: &File| file.metadata().map(|m| m.dev());
    let apart = on(&var)? != on(&File::open(root)?)?;
    match device {
        // What was not mounted at boot, for its errors or against the seed's wish.
        Some(device) if !apart => {
            let at = root.join(MOUNT_POINT);
            fs::create_dir_all(&at).context(at.display())?;
            let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
            mount(Some(&device), &at, Some("ext4"), flags, None::<&str>)
                .context(format_args!("mounting {}", device.display()))?;
            let marked = File::open(&at)
                .map_err(Failure::from)
                .and_then(mark_filesystem);
            umount(&at).context(format_args!("unmounting {}", device.display()))?;
            marked
        }
        _ if !apart => Err(Failure(format!("{} is not on one", at.display()))),
        _ => mark_filesystem(var),
    }
}

fn mark_filesystem(mounted: File) -> Result<(), Failure> {
    // Whatever else is mounted there, its label is not ours to change.
    let label = sys::filesystem_label(&mounted)?;
    if label != LABEL {
        return Err(Failure(format!("its filesystem is `{label}`, not ours")));
    }
    sys::set_filesystem_label(&mounted, LABEL_RESET)?;
    nix::unistd::syncfs(&mounted)?;
    Ok(())
}

/// Marks an encrypted volume on this device; whether there is one.
fn mark_volume(device: &Path) -> Result<bool, Failure> {
    let opened = OpenOptions::new().read(true).write(true).open(device);
    let mut file = opened.context(device.display())?;
    match Volume::find(&mut file, 0) {
        Ok(Some(mut volume)) => {
            let label = volume.label();
            if ![LABEL, LABEL_RESET, LABEL_UNFINISHED].contains(&label) {
                return Err(Failure(format!(
                    "it holds an encrypted volume `{label}`, not ours"
                )));
            }
            volume.write(&mut file, LABEL_RESET, |file| file.sync_all())?;
            Ok(true)
        }
        Ok(None) => Ok(false),
        Err(error @ LuksError::Io { .. }) => Err(error.into()),
        // Nothing opens it any more, and who resets the node knows that.
        Err(_) => {
            file.write_all_at(&Superblock::mark(LABEL_RESET), FIRST_BACKUP)?;
            file.sync_all()?;
            Ok(true)
        }
    }
}

/// Makes the partition forget what a reset is to erase. Gives a note if there is something.
///
/// # Errors
/// Those of writing; it is still to be reset then.
pub fn forget(device: &Path, found: &Found) -> Result<Option<String>, Failure> {
    let kept = match found {
        Found::Reset => KEPT,
        Found::ResetEncrypted(volume) => {
            let opened = OpenOptions::new().write(true).open(device);
            let mut file = opened.context(device.display())?;
            // First: without them the rest is noise.
            volume.destroy_keys(&mut file, |file| file.sync_all())?;
            let wiped = wipe(device, std::iter::once(volume.areas().start..u64::MAX))?;
            return Ok(Some(format!("reset: keys destroyed, {}", wiped.note())));
        }
        _ => return Ok(None),
    };
    let ranges = [kept..FIRST_BACKUP, FIRST_BACKUP + kept..u64::MAX];
    Ok(Some(format!("reset: {}", wipe(device, ranges)?.note())))
}

/// What became of the old content at a reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wiped {
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

/// What stays of a plain filesystem that is wiped, at its start and at its first backup: they
/// say that it is to be reset until mke2fs has put its own in their place.
const KEPT: u64 = 1 << 20;

/// Makes the device forget what it holds in these ranges, as far as it reaches.
///
/// # Errors
/// When the device can't be opened; that it can't wipe is none.
fn wipe(device: &Path, ranges: impl IntoIterator<Item = Range<u64>>) -> Result<Wiped, Failure> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(device)
        .context(format_args!("opening {}", device.display()))?;
    let size = file
        .seek(SeekFrom::End(0))
        .context(format_args!("measuring {}", device.display()))?;
    let ranges = ranges
        .into_iter()
        .map(|range| range.start..range.end.min(size));
    let mut wiped = Wiped::Zeroed;
    for range in ranges.filter(|range| !range.is_empty()) {
        let (from, length) = (range.start, range.end - range.start);
        let this = if sys::zero_quickly(&file, from, length).is_ok() {
            Wiped::Zeroed
        } else if sys::discard(&file, from, length).is_ok() {
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

#[cfg(test)]
#[path = "reset_tests.rs"]
mod tests;
