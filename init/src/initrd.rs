//! The initrd: from the kernel's first process to the root's. Which root that is, is
//! [`find`]'s; that it is the one that was built, [`verity`]'s.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use serde::{Deserialize, Serialize};
use slipway_images::info::{IMAGE_INFO_PATH, ImageInfo};
use slipway_images::layout;

use crate::find::{self, Found, RootWish, partition_device};
use crate::modules::Modules;
use crate::phase::{self, Context, Deadline, End, Failure, Outcome, Phase};
use crate::uevent::{Plugged, UeventSocket, modaliases};
use crate::{clock, files, firmware, grow, mounts, say, sys, verity};

/// What the initrd hands to the root.
pub const BOOT_FILE: &str = "/run/slipway/boot.json";
const NEW_ROOT: &str = "/sysroot";
/// How long to wait for the disk that holds the root.
const ROOT_WAIT: Duration = Duration::from_secs(90);

/// What the initrd knows and the root needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// The disk's device, such as `/dev/vda`.
    pub disk: PathBuf,
    /// The mounted root's partition: the slot's, below verity.
    pub root: PathBuf,
    /// The boot partition, whose files may hold a seed; none on a disk that was left alone.
    pub boot: Option<PathBuf>,
    /// The data partition; none on a disk that was left alone.
    pub data: Option<PathBuf>,
    /// Whether its filesystem has still to be made.
    pub data_unfinished: bool,
    /// Why the disk was left alone.
    pub disk_problem: Option<String>,
}

struct Initrd {
    modules: Option<Modules>,
    events: Option<UeventSocket>,
    found: Option<Found>,
    boot: Boot,
    wish: Option<RootWish>,
    filesystem: Option<JoinHandle<Result<usize, Failure>>>,
}

/// What mounting the root takes and nothing in /sys asks for. SHA-256 is in the kernel, but
/// only the slow one; this is an alias of those that use what the processor has.
const ROOT_MODULES: [&str; 3] = ["ext4", "dm_verity", "crypto-sha256"];

const PHASES: &[Phase<Initrd>] = &[
    Phase::new("mounts", early_mounts).essential(),
    Phase::new("clock", early_clock),
    Phase::new("drivers", drivers).essential(),
    Phase::new("disk", find_disk)
        .retry(2, Duration::from_secs(1))
        .deadline(ROOT_WAIT.saturating_add(Duration::from_secs(30)))
        .essential(),
    Phase::new("partitions", partitions).deadline(Duration::from_secs(60)),
    Phase::new("root", mount_root)
        .retry(5, Duration::from_secs(1))
        .deadline(Duration::from_secs(60))
        .essential(),
];

/// Runs the initrd; on success this process becomes the root's PID 1.
pub fn main(deadline: &Deadline) -> End {
    let mut context = Initrd {
        modules: None,
        events: None,
        found: None,
        boot: Boot::default(),
        wish: None,
        filesystem: None,
    };
    let end = phase::run(PHASES, &mut context, deadline, |_| {});
    if let End::Reboot { .. } = end {
        return end;
    }
    match switch_root(&context.boot) {
        Ok(never) => never,
        Err(failure) => {
            say!("switching to the root failed: {failure}");
            End::Reboot {
                phase: "switch to root",
            }
        }
    }
}

fn early_mounts(_: &mut Initrd) -> Outcome {
    mounts::mount_all(mounts::EARLY)?;
    mounts::quiet_kernel_console();
    fs::create_dir_all("/run/slipway").context("/run/slipway")?;
    // The kernel asks for modules by itself, too: a filesystem for its checksum, say.
    fs::create_dir_all("/sbin").context("/sbin")?;
    match std::os::unix::fs::symlink("/init", "/sbin/modprobe") {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Failure(format!("/sbin/modprobe: {e}")));
        }
        _ => {}
    }
    Ok(firmware::note(Path::new("/")))
}

fn early_clock(_: &mut Initrd) -> Outcome {
    let info = ImageInfo::read(Path::new(IMAGE_INFO_PATH))?;
    clock::not_earlier_than(info.built)
}

/// Loads drivers, those of the likely disks first: each costs a signature's check, and what
/// the root does not need can wait until the root is there.
fn drivers(context: &mut Initrd) -> Outcome {
    // Before the walk, so that what appears meanwhile is not missed.
    context.events = Some(UeventSocket::open().context("listening for devices")?);
    let filesystem = std::thread::Builder::new().name("ext4".into()).spawn(|| {
        let mut modules = Modules::of_running_kernel()?;
        ROOT_MODULES.iter().try_fold(0, |count, name| {
            // Without hardware of its kind the kernel's own does.
            match modules.load(name) {
                Err(error) if error.is_no_hardware() => Ok(count),
                loaded => Ok(count + loaded?),
            }
        })
    });
    context.filesystem = Some(filesystem.context("starting a thread")?);
    context.wish = Some(find::root_wish_of_boot(Path::new("/"))?);

    let mut modules = Modules::of_running_kernel()?;
    let mut plugged = Plugged::default();
    let mut groups: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    for alias in modaliases(Path::new("/sys")) {
        groups.entry(rank(&alias)).or_default().push(alias);
    }
    for group in groups.values() {
        plugged.load(&mut modules, group.iter().map(String::as_str));
        if let Some(RootWish::Verified(hash)) = &context.wish
            && let Ok(found) = find::search(hash)
        {
            context.found = Some(found);
            break;
        }
    }
    context.modules = Some(modules);
    for failure in plugged.failures {
        say!("{failure}");
    }
    Ok(format!("{} modules", plugged.loaded))
}

/// In which order devices get their drivers.
fn rank(alias: &str) -> u8 {
    let (bus, rest) = alias.split_once(':').unwrap_or((alias, ""));
    match bus {
        "virtio" => 0,
        // Base class 01, storage; of these 08 is NVMe.
        "pci" if rest.contains("bc01sc08") => 1,
        "vmbus" | "xen" | "mmc" => 1,
        "pci" if rest.contains("bc01") => 2,
        "of" => 2,
        _ => 3,
    }
}

/// Waits for the disk that holds the root, loading drivers for what the kernel announces.
fn find_disk(context: &mut Initrd) -> Outcome {
    let Some(wish) = context.wish.clone() else {
        return Err(Failure("the drivers phase has not run".into()));
    };
    let until = Instant::now() + ROOT_WAIT;
    let mut shown = false;
    loop {
        let missing = match &wish {
            RootWish::Verified(hash) => {
                let found = context.found.take().map_or_else(|| find::search(hash), Ok);
                match found {
                    Ok(found) => {
                        context.boot.disk = Path::new("/dev").join(&found.disk);
                        let note = format!("{}, root is partition {}", found.disk, found.number);
                        context.found = Some(found);
                        return Ok(note);
                    }
                    Err(missing) => missing,
                }
            }
            RootWish::Device(path) if path.exists() => {
                context.boot.root = path.clone();
                return Ok(format!("{}, not verified", path.display()));
            }
            RootWish::Device(path) => Failure(format!("there is no {}", path.display())),
        };
        if Instant::now() >= until {
            return Err(Failure(format!(
                "{missing}, after {} s. Is the disk connected, and a driver for it in the image?",
                ROOT_WAIT.as_secs(),
            )));
        }
        let waited = wait_for_device(context, Duration::from_secs(1))?;
        if !waited && !shown {
            say!("waiting for the disk that holds the root");
            shown = true;
        }
    }
}

/// Takes events until a block device appears or the time is up.
fn wait_for_device(context: &mut Initrd, limit: Duration) -> Result<bool, Failure> {
    let until = Instant::now() + limit;
    let (Some(events), Some(modules)) = (&context.events, &mut context.modules) else {
        return Err(Failure("the drivers phase has not run".into()));
    };
    let mut plugged = Plugged::default();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match events.next(left) {
            Ok(None) => return Ok(false),
            Ok(Some(event)) => {
                if let (Some(alias), "add") = (event.get("MODALIAS"), event.action.as_str()) {
                    plugged.load(modules, [alias]);
                }
                if event.get("SUBSYSTEM") == Some("block") {
                    return Ok(true);
                }
            }
            Err(_) => {
                // Events were lost: look at everything again.
                let aliases = modaliases(Path::new("/sys"));
                plugged.load(modules, aliases.iter().map(String::as_str));
                return Ok(true);
            }
        }
    }
}

fn partitions(context: &mut Initrd) -> Outcome {
    let Some(disk) = context.found.as_ref().map(|found| found.disk.clone()) else {
        return Ok("left alone".into());
    };
    let path = context.boot.disk.clone();
    let result = bring_to_layout(&disk, &path);
    match result {
        Ok((grown, note)) => {
            let first = [layout::ESP, layout::FIRMWARE];
            let number = first.iter().find_map(|name| grown.table.number(name));
            context.boot.boot = number.and_then(|number| partition_device(&disk, number));
            if let Some(number) = grown.table.number(layout::DATA) {
                context.boot.data = partition_device(&disk, number);
                if context.boot.data.is_none() {
                    let shown = files::names(&Path::new("/sys/class/block").join(&disk));
                    return Err(Failure(format!(
                        "the kernel shows no partition {number}: {shown:?}"
                    )));
                }
            }
            context.boot.data_unfinished = grown.data_unfinished;
            Ok(note)
        }
        Err(failure) => {
            context.boot.disk_problem = Some(failure.0.clone());
            Err(failure)
        }
    }
}

fn bring_to_layout(disk: &str, path: &Path) -> Result<(grow::Grown, String), Failure> {
    let sectors = format!("/sys/class/block/{disk}/queue/logical_block_size");
    let size = files::read_trimmed(sectors).unwrap_or_default();
    if size != "512" {
        return Err(Failure(format!(
            "{disk} has sectors of {size} bytes, images are made for 512"
        )));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .context(format_args!("opening {}", path.display()))?;
    let grown = grow::grow(&mut file, &guid_seed()?)?;
    let count = grown.table.partitions.len();
    let known = (1..=count).all(|n| partition_device(disk, n).is_some());
    if grown.changed || !known {
        let mut tries = 0;
        // The kernel may still be reading the table after the disk has appeared.
        while let Err(error) = sys::reread_partition_table(&file) {
            tries += 1;
            if tries == 20 {
                return Err(Failure(format!(
                    "reading the table of {disk} again: {error}"
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let note = grown.note.clone();
    Ok((grown, note))
}

/// What the new partitions' GUIDs are made from: different between machines, and to be had
/// before the kernel's random pool is seeded.
fn guid_seed() -> Result<Vec<u8>, Failure> {
    let mut seed = vec![0; 32];
    sys::random_early(&mut seed).context("random bytes")?;
    let dmi = Path::new("/sys/class/dmi/id");
    for name in ["product_uuid", "product_serial", "board_serial"] {
        seed.extend(fs::read(dmi.join(name)).unwrap_or_default());
    }
    Ok(seed)
}

fn mount_root(context: &mut Initrd) -> Outcome {
    if let Some(loading) = context.filesystem.take() {
        match loading.join() {
            Ok(loaded) => drop(loaded?),
            Err(_) => return Err(Failure("loading ext4 failed".into())),
        }
    }
    fs::create_dir_all(NEW_ROOT).context(NEW_ROOT)?;
    match (&context.wish, &context.found) {
        (Some(RootWish::Verified(hash)), Some(found)) => {
            let device = found.device()?;
            let mapped = verity::open(&device, &found.tree, hash)?;
            mount_read_only(mapped.path())?;
            mapped.keep();
            context.boot.root.clone_from(&device);
            Ok(format!("{}, verified as it is read", device.display()))
        }
        _ => {
            let root = &context.boot.root;
            mount_read_only(root)?;
            Ok(format!("{}, NOT VERIFIED", root.display()))
        }
    }
}

fn mount_read_only(device: &Path) -> Result<(), Failure> {
    let (kind, flags) = (Some("ext4"), MsFlags::MS_RDONLY);
    mount(Some(device), NEW_ROOT, kind, flags, None::<&str>)
        .context(format_args!("mounting {}", device.display()))
}

/// Moves the mounts over and becomes the root's init.
fn switch_root(boot: &Boot) -> Result<End, Failure> {
    let text = serde_json::to_vec(boot)?;
    fs::write(BOOT_FILE, text).context(BOOT_FILE)?;
    crate::log::flush(Duration::from_millis(200));
    for m in mounts::EARLY {
        let target = format!("{NEW_ROOT}{}", m.target);
        mount(
            Some(m.target),
            target.as_str(),
            None::<&str>,
            MsFlags::MS_MOVE,
            None::<&str>,
        )
        .context(format_args!("moving {}", m.target))?;
    }
    // The initrd's files are memory that nobody could free later.
    empty_initramfs(Path::new("/"));
    nix::unistd::chdir(NEW_ROOT).context(NEW_ROOT)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .context("moving the root")?;
    nix::unistd::chroot(".").context("chroot")?;
    nix::unistd::chdir("/").context("chdir")?;
    let error = Command::new("/sbin/init").exec();
    Err(Failure(format!("/sbin/init: {error}")))
}

/// Deletes what lies on the initramfs itself, without following mounts.
fn empty_initramfs(directory: &Path) {
    use std::os::unix::fs::MetadataExt;
    let Ok(own) = fs::symlink_metadata(directory) else {
        return;
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(found) = fs::symlink_metadata(&path) else {
            continue;
        };
        if found.dev() != own.dev() || path.as_os_str().as_bytes() == NEW_ROOT.as_bytes() {
            continue;
        }
        if found.is_dir() {
            empty_initramfs(&path);
            // Not empty when something is mounted in it.
            drop(fs::remove_dir(&path));
        } else {
            drop(fs::remove_file(&path));
        }
    }
}
