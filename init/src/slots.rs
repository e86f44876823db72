//! The node's slots: settled at boot, committed by the [gate](crate::gate), left at the end.
//!
//! The states, the order of writes and what each cut leads to are [`slipway_images::slot`]'s
//! and `docs/updates.md`'s. Here the boot partition is opened for as long as a change takes,
//! and alone (`O_EXCL`): while it is mounted or `noded` stages a slot, nothing else may write.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use slipway_images::info::{IMAGE_INFO_PATH, ImageInfo, Loader};
use slipway_images::layout::{ESP, FIRMWARE};
use slipway_images::slot::{
    Area, BootMethod, FatError, Leaving, STATUS_FILE, Slot, SlotStatus, Slots, SlotsStatus, State,
    SystemdBoot, UBoot,
};

use crate::find::{self, RootWish};
use crate::phase::{Context, Failure, Outcome};
use crate::{files, say};

/// How long to wait for who else has the boot partition open.
const PATIENCE: Duration = Duration::from_secs(5);
/// A trial whose gate has not settled it so long after its deadline is ended by PID 1.
const GRACE: u64 = 120;

/// The slot that the root is on: the end of its partition's name, or of the one below
/// dm-verity. None on a machine without slots.
#[must_use]
pub fn booted(root: &Path) -> Option<Slot> {
    let (_, name) = below_root(root)?;
    Slot::of_root(&name)
}

/// The device of the partition of this name on the disk that the root is on, such as `esp`.
#[must_use]
pub fn partition(root: &Path, name: &str) -> Option<PathBuf> {
    let (own, _) = below_root(root)?;
    // The kernel shows a disk's partitions as directories in the disk's.
    let own = own.canonicalize().ok()?;
    let disk = own.parent()?;
    files::names(disk).iter().find_map(|entry| {
        let event = fs::read_to_string(disk.join(entry).join("uevent")).ok()?;
        let value = |key: &str| event.lines().find_map(|line| line.strip_prefix(key));
        let device = value("DEVNAME=")?;
        (value("PARTNAME=")? == name).then(|| root.join("dev").join(device))
    })
}

/// The device of the disk that the root is on.
#[must_use]
pub fn disk(root: &Path) -> Option<PathBuf> {
    let (own, _) = below_root(root)?;
    let disk = own.canonicalize().ok()?;
    let event = fs::read_to_string(disk.parent()?.join("uevent")).ok()?;
    let device = event
        .lines()
        .find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(root.join("dev").join(device))
}

/// The partition that the root is on: its directory in sysfs, and its name.
fn below_root(root: &Path) -> Option<(PathBuf, String)> {
    let mounts = fs::read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let device = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(2);
        let (device, _, point) = (words.next()?, words.next()?, words.next()?);
        (point == "/").then(|| device.to_owned())
    })?;
    named(&root.join("sys/dev/block").join(device), 3)
}

/// A block device that is a partition, or one that it is built upon.
fn named(device: &Path, depth: u32) -> Option<(PathBuf, String)> {
    let event = fs::read_to_string(device.join("uevent")).ok()?;
    if let Some(name) = event.lines().find_map(|l| l.strip_prefix("PARTNAME=")) {
        return Some((device.to_owned(), name.trim().to_owned()));
    }
    let below = device.join("slaves");
    (files::names(&below).iter().filter(|_| depth > 0))
        .find_map(|slave| named(&below.join(slave), depth - 1))
}

/// Name of the partition that says which slot is booted.
#[must_use]
pub fn boot_partition(loader: Loader) -> &'static str {
    match loader {
        Loader::SystemdBoot => ESP,
        Loader::UBoot => FIRMWARE,
    }
}

/// How this machine is told which slot to boot, whichever loader it has.
pub type Boot = Box<dyn BootMethod + Send>;

/// Takes the boot partition of a loader. `areas` are the slots' boot areas, where the loader has
/// such and a slot is to be written.
///
/// # Errors
/// [`FatError`] if it is no FAT32.
pub fn boot(
    loader: Loader,
    partition: File,
    areas: [Option<Area<File>>; 2],
) -> Result<Boot, FatError> {
    let [a, b] = areas;
    Ok(match loader {
        Loader::SystemdBoot => Box::new(SystemdBoot::open(partition)?),
        Loader::UBoot => Box::new(UBoot::open(partition, a, b)?),
    })
}

/// Since the kernel started.
#[must_use]
pub fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// Who changes the slots in PID 1: its threads share it.
#[derive(Clone, Default)]
pub struct Keeper {
    node: Arc<Mutex<Option<Node>>>,
    /// Seconds since the boot after which PID 1 itself ends the trial; 0 for never. Apart, so
    /// that the main loop never waits for a disk.
    overdue: Arc<AtomicU64>,
}

struct Node {
    /// Where the status goes.
    root: PathBuf,
    loader: Loader,
    /// The boot partition's device.
    partition: PathBuf,
    booted: Slot,
    /// Whether the slot that runs has still to prove itself.
    on_trial: bool,
}

impl Keeper {
    fn lock(&self) -> MutexGuard<'_, Option<Node>> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Settles what the last boot has left. `partition` is the boot partition's device.
    ///
    /// # Errors
    /// When the boot partition can't be read or changed.
    pub fn arrive(&self, root: &Path, partition: Option<&Path>) -> Outcome {
        let (Some(partition), Some(booted)) = (partition, booted(root)) else {
            return Ok("none on this disk".into());
        };
        let info = ImageInfo::read(&root.join(IMAGE_INFO_PATH.trim_start_matches('/')))?;
        let boot = files::read_trimmed(root.join("proc/sys/kernel/random/boot_id"))
            .context("this boot's id")?;
        let RootWish::Verified(hash) = find::root_wish_of_boot(root)? else {
            return Ok("none: this root isn't verified".into());
        };
        *self.lock() = Some(Node {
            root: root.to_owned(),
            loader: info.loader,
            partition: partition.to_owned(),
            booted,
            on_trial: false,
        });
        let status = self.change(|slots| {
            slots.arrive(&boot, &info.version, &hash.to_string())?;
            Ok(())
        })?;
        Ok(status.map_or_else(String::new, |status| note(&status)))
    }

    /// Opens the boot partition, does `work`, and tells how the slots are then; nothing on a
    /// machine without slots.
    fn change(
        &self,
        work: impl FnOnce(&mut Slots<Boot>) -> Result<(), Failure>,
    ) -> Result<Option<SlotsStatus>, Failure> {
        let mut guard = self.lock();
        let Some(node) = guard.as_mut() else {
            return Ok(None);
        };
        let disk = open(&node.partition).context(node.partition.display())?;
        let boot = boot(node.loader, disk, [None, None])?;
        let mut slots = Slots::load(boot, node.booted)?;
        let done = work(&mut slots);
        let status = slots.status();
        node.on_trial = status.on_trial();
        let text = serde_json::to_vec_pretty(&status)?;
        files::write_atomically(&node.root.join(STATUS_FILE), &text, 0o644).context(STATUS_FILE)?;
        done.map(|()| Some(status))
    }

    /// The slot that runs, if it has still to prove itself.
    #[must_use]
    pub fn on_trial(&self) -> Option<Slot> {
        let guard = self.lock();
        guard.as_ref().filter(|n| n.on_trial).map(|n| n.booted)
    }

    /// PID 1 is to end the trial if nobody has by some time after `deadline`, since the boot.
    pub fn guard(&self, deadline: Duration) {
        let at = deadline.as_secs().saturating_add(GRACE);
        self.overdue.store(at, Ordering::Release);
    }

    /// Whether nobody has. Never waits.
    #[must_use]
    pub fn is_overdue(&self) -> bool {
        let at = self.overdue.load(Ordering::Acquire);
        at != 0 && uptime().as_secs() >= at
    }

    /// The slot that runs is good from now on.
    ///
    /// # Errors
    /// When its try has failed, or the boot partition can't be changed.
    pub fn commit(&self) -> Result<(), Failure> {
        self.change(|slots| Ok(slots.commit()?))?;
        self.overdue.store(0, Ordering::Release);
        Ok(())
    }

    /// The try of the slot that runs has failed.
    ///
    /// # Errors
    /// When the boot partition can't be changed.
    pub fn fail(&self, why: &str) -> Result<(), Failure> {
        self.change(|slots| Ok(slots.fail(why)?)).map(drop)
    }

    /// The machine ends; on trial its try is given back, or has failed.
    pub fn leave(&self, failure: Option<&str>) {
        self.overdue.store(0, Ordering::Release);
        if self.on_trial().is_none() {
            return;
        }
        let how = failure.map_or(Leaving::InOrder, Leaving::Failed);
        if let Err(failure) = self.change(|slots| Ok(slots.leave(how)?)) {
            say!("slots: {failure}");
        }
    }

    /// As [`leave`](Self::leave) with a failure, for who can't wait long for a disk.
    pub fn leave_within(&self, why: String, limit: Duration) {
        let (keeper, (sender, receiver)) = (self.clone(), std::sync::mpsc::sync_channel(1));
        let thread = std::thread::Builder::new()
            .name("slots".into())
            .spawn(move || {
                keeper.leave(Some(&why));
                crate::ignore(sender.send(()));
            });
        if thread.is_ok() {
            crate::ignore(receiver.recv_timeout(limit));
        }
    }
}

/// Opens the boot partition's device for writing, alone; waits a while for who else has it.
///
/// # Errors
/// Those of open(2): EBUSY while it is mounted or another has it.
pub fn open(device: &Path) -> io::Result<File> {
    let until = Instant::now() + PATIENCE;
    loop {
        let opened = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_EXCL)
            .open(device);
        match opened {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            opened => return opened,
        }
    }
}

/// For the console.
fn note(status: &SlotsStatus) -> String {
    let one = |slot: Slot, of: &SlotStatus| {
        let mut text = format!("{slot} {}", of.state.word());
        if slot == status.booted {
            text.push_str(", runs");
        }
        if let (Some(version), State::Bad) = (&of.version, of.state) {
            text.push_str(&format!(", {version}"));
        }
        if let Some(left) = of.tries_left {
            text.push_str(&format!(", {left} more tries"));
        }
        if let Some(why) = &of.why {
            text.push_str(&format!(" ({why})"));
        }
        text
    };
    let (a, b) = (one(Slot::A, &status.a), one(Slot::B, &status.b));
    format!("{a}; {b}")
}

#[cfg(test)]
#[path = "slots_tests.rs"]
mod tests;
