//! `slipway run`: from an image to a running machine.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use slipway_images::info::Loader;
use slipway_images::node;
use slipway_images::seed::url::SeedUrl;
use slipway_qemu::argv::CONSOLE_LOG;
use slipway_qemu::console::{Follow, Lines};
use slipway_qemu::disk::{self, Identity};
use slipway_qemu::firmware::find_u_boot;
use slipway_qemu::machine::{
    Arch, Boot, Cache, Disk, DiskFormat, DiskSize, Forward, Machine, Mebibytes, Protocol,
};
use slipway_qemu::state::{Lock, RECORD_VERSION, Record};
use slipway_qemu::{Firmware, Vm, VmDir, VmName, accel, host, ports};

use super::args::{Fresh, RunArgs, Started, Until};
use super::image::Target;
use super::lan::{self, Place};
use super::{Context, identity, image, raspi, watch};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// The port of the API server, in the guest and, where free, on the host.
pub const API_PORT: u16 = 6443;
/// Below this a server doesn't come up: Kubernetes alone takes half of it. An agent does with less.
const MEMORY_MIN: Mebibytes = Mebibytes(1024);
const MEMORY_MIN_AGENT: Mebibytes = Mebibytes(512);
const MEMORY_DEFAULT: Mebibytes = Mebibytes(2048);
const CPUS_DEFAULT: NonZeroU16 = NonZeroU16::MIN.saturating_add(1);
const DISK_DEFAULT: DiskSize = DiskSize::gib(16);

/// Runs `slipway run`. Handles Ctrl-C and SIGTERM itself.
///
/// # Errors
/// Those of its steps; [`Kind::Missing`] for QEMU, a port, memory or a machine
/// that runs already; [`Kind::Timeout`] if the node isn't Ready in time.
pub fn run(args: &RunArgs, context: &Context<'_>, progress: &Progress) -> Result<ExitCode> {
    // From the first moment: a machine must not be left half-started.
    let signals = watch::Signals::catch()?;
    let wanted = Wanted::from(args, context)?;
    let dir = context.state.vm(&wanted.name);
    let lock = dir.lock()?;
    refuse_if_running(&dir, args.fresh)?;
    let target = target_of(&wanted, &dir)?;
    host::emulator(target.arch)?;
    let by_volume = target.loader == Loader::UBoot;
    let mut record = provide_disk(args, &wanted, target.arch, &dir, &lock, progress)?;
    let place = lan::place(args, context, &dir, &record.machine)?;
    let before = &record.machine;
    raspi::refuse_other(args, before, &dir)?;
    let mut machine = describe(args, context, &dir, before, &target, progress)?;
    machine.lan = place.as_ref().map(Place::lan);
    if let Some(url) = &wanted.seed {
        if by_volume {
            return Err(Error::new(
                Kind::Usage,
                "--seed is told by the machine's serial number, which U-Boot doesn't have",
            )
            .hint("put it into the image instead: slipway seed embed IMAGE DIR"));
        }
        machine.serial = Some(format!("ds=nocloud;s={}", url.reveal()));
    }
    let api = match &place {
        Some(Place::Member { api, .. }) => *api,
        _ => machine
            .host_port(API_PORT)
            .ok_or_else(|| Error::new(Kind::Bug, "the API's port was not forwarded"))?,
    };
    if machine.serial.is_none() {
        match &place {
            Some(Place::Member { hub, .. }) => identity::provide_member(&dir, hub, api)?,
            _ => identity::provide(&dir, api, machine.tpm, place.is_some())?,
        }
        if let Some(lan) = &machine.lan {
            identity::provide_network(&dir, lan)?;
        }
        if machine.is_raspi() {
            // Once: from then on what lies over it is the machine's.
            if dir.record()?.is_none() {
                raspi::embed_seed(&dir)?;
            }
        } else if by_volume {
            identity::provide_volume(&dir)?;
            machine.disks.push(Disk {
                path: identity::SEED_VOLUME.into(),
                format: DiskFormat::Raw,
                cache: Cache::Unsafe,
                read_only: true,
            });
        } else {
            machine.fw_cfg = identity::fw_cfg(&dir);
        }
    }

    let console = Follow::console(dir.path(), true)?;
    let since = SystemTime::now();
    let vm = Vm::start(&machine, dir.path())?;
    record.machine = machine;
    record.process = Some(vm.process().clone());
    record.started = seconds(since);
    dir.write_record(&record)?;
    drop(lock);

    let started = report(&dir, &record, &vm, api);
    announce(&started, args, progress);
    let mut session = watch::Session {
        dir: &dir,
        vm,
        started,
        since,
        console,
        lines: Lines::default(),
        signals,
        progress,
    };
    session.watch(args)
}

/// The arguments, as far as they can be checked without touching anything.
struct Wanted {
    name: VmName,
    /// `None`: whatever the machine was made from.
    image: Option<PathBuf>,
    /// Where the node fetches its seed.
    seed: Option<SeedUrl>,
}

impl Wanted {
    fn from(args: &RunArgs, context: &Context<'_>) -> Result<Self> {
        let least = match args.join {
            Some(_) => MEMORY_MIN_AGENT,
            None => MEMORY_MIN,
        };
        if let Some(memory) = args.memory
            && memory < least
        {
            return Err(Error::new(
                Kind::Missing,
                format!("{memory} of memory is too little: a node needs at least {least}"),
            )
            .hint("give it more: --memory 2G"));
        }
        let seed = args.seed.as_deref().map(SeedUrl::parse).transpose();
        let seed = seed.map_err(|e| Error::new(Kind::Usage, format!("--seed: {e}")))?;
        if let Some(url) = &seed
            && args.until == Some(Until::Ready)
        {
            return Err(Error::new(
                Kind::Usage,
                format!("`--until ready` needs credentials, which are those of the seed at {url}"),
            )
            .hint("leave it out, and ask the node: slipway node --addr 127.0.0.1 --credential FILE status"));
        }
        let existing = match &args.name {
            Some(name) => context.state.vm(name).record()?.is_some(),
            None => false,
        };
        let image = match &args.image {
            Some(given) => Some(image::find(given, &context.images)?),
            None if existing && args.fresh.is_none() => None,
            None => Some(image::find(image::DEFAULT_BOARD, &context.images)?),
        };
        let name = match (&args.name, &image) {
            (Some(name), _) => name.clone(),
            (None, Some(image)) => name_of(image)?,
            (None, None) => return Err(Error::new(Kind::Bug, "a machine without a name")),
        };
        Ok(Self { name, image, seed })
    }
}

/// What machine is wanted: the image's, or what it was before.
fn target_of(wanted: &Wanted, dir: &VmDir) -> Result<Target> {
    if let Some(image) = &wanted.image {
        return image::target(image);
    }
    let record = dir.record()?;
    let machine = record.as_ref().map(|record| &record.machine);
    Ok(Target {
        arch: machine.map_or(Arch::X86_64, |machine| machine.arch),
        loader: match machine.map(|machine| &machine.boot) {
            Some(Boot::UBoot { .. } | Boot::RaspberryPi4 { .. }) => Loader::UBoot,
            _ => Loader::SystemdBoot,
        },
    })
}

/// `x86_64.img.zst` makes a machine `x86-64`.
fn name_of(image: &Path) -> Result<VmName> {
    let file = image
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let stem = file.trim_end_matches(".zst").trim_end_matches(".img");
    let name: String = stem
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    name.trim_matches('-')
        .parse()
        .map_err(|e| Error::from(e).hint("give the machine a name: --name NAME"))
}

fn refuse_if_running(dir: &VmDir, fresh: Option<Fresh>) -> Result<()> {
    let record = match dir.record() {
        Ok(record) => record,
        // It can't be known to run, and is to be removed.
        Err(_) if fresh == Some(Fresh::Always) => None,
        Err(e) => return Err(e.into()),
    };
    let Some(process) = record.and_then(|r| r.process) else {
        return Ok(());
    };
    if process.is_alive()? {
        return Err(slipway_qemu::Error::AlreadyRunning {
            name: dir.name().to_string(),
            pid: process.pid,
        }
        .into());
    }
    Ok(())
}

/// The machine's disk as it was left, or a new one.
fn provide_disk(
    args: &RunArgs,
    wanted: &Wanted,
    arch: Arch,
    dir: &VmDir,
    lock: &Lock,
    progress: &Progress,
) -> Result<Record> {
    if args.fresh == Some(Fresh::Always) {
        dir.remove(lock)?;
    }
    if let Some(record) = dir.record()? {
        match usable(&record, wanted.image.as_deref(), dir) {
            Ok(()) => {
                refuse_other_size(args, dir)?;
                return Ok(record);
            }
            Err(error) if args.fresh == Some(Fresh::IfChanged) => {
                progress.say(&format!("{}: a new disk", error.message()));
            }
            Err(error) => return Err(error),
        }
    }
    // Also what a start that was broken off left behind.
    dir.remove(lock)?;
    let image = wanted
        .image
        .as_deref()
        .ok_or_else(|| Error::new(Kind::Bug, "a new machine without an image"))?;
    dir.create()?;
    let identity = Identity::of(image)?;
    let now = seconds(SystemTime::now());
    let mut machine = Machine::new(
        dir.name().clone(),
        arch,
        accel::Accelerator::Tcg,
        Boot::Builtin,
    );
    machine.cpus = CPUS_DEFAULT;
    machine.memory = MEMORY_DEFAULT;
    let base = image::provide_base(image, dir, progress)?;
    let base = raspi::settle(args, base, dir, &mut machine, progress)?;
    disk::create_overlay(
        &base,
        DiskFormat::Raw,
        &dir.overlay(),
        args.disk_size.unwrap_or(DISK_DEFAULT),
    )?;
    Ok(Record {
        version: RECORD_VERSION,
        machine,
        image: image.to_owned(),
        image_identity: identity,
        process: None,
        created: now,
        started: now,
    })
}

/// Whether the disk that is there may be booted when `image` is asked for.
fn usable(record: &Record, image: Option<&Path>, dir: &VmDir) -> Result<()> {
    let name = dir.name();
    let over = |why: String| {
        Err(Error::new(Kind::Input, why).hint(format!(
            "`--fresh` starts over with the new image, losing the disk; `slipway run --name {name}` boots the old disk; another --name keeps both"
        )))
    };
    match image {
        Some(image) if Identity::of(image)? != record.image_identity => over(format!(
            "the disk of `{name}` was made from an earlier or other image than {}",
            image.display()
        )),
        // Its own link or copy: nobody replaces that.
        None if image::has_base(dir) => Ok(()),
        None if Identity::of(&record.image).ok().as_ref() != Some(&record.image_identity) => {
            Err(Error::new(
                Kind::Input,
                format!(
                    "the image under the disk of `{name}`, {}, has changed or gone",
                    record.image.display()
                ),
            )
            .hint("put the same image back, or start over: --fresh"))
        }
        _ => Ok(()),
    }
}

fn refuse_other_size(args: &RunArgs, dir: &VmDir) -> Result<()> {
    let Some(wanted) = args.disk_size else {
        return Ok(());
    };
    let there = disk::virtual_size(&dir.overlay())?;
    if there == wanted.bytes() {
        return Ok(());
    }
    Err(Error::new(
        Kind::Usage,
        format!(
            "the disk of `{}` exists and has {} MiB",
            dir.name(),
            there >> 20
        ),
    )
    .hint("leave --disk-size out, or start over: --fresh"))
}

/// The machine as it shall run now: as it ran before where nothing else is said.
fn describe(
    args: &RunArgs,
    context: &Context<'_>,
    dir: &VmDir,
    before: &Machine,
    target: &Target,
    progress: &Progress,
) -> Result<Machine> {
    let arch = before.arch;
    let mut machine = before.clone();
    machine.cpus = args.cpus.unwrap_or(before.cpus);
    machine.memory = args.memory.unwrap_or(before.memory);
    host::check_memory(machine.memory, host::memory_available()?)?;

    let choice = {
        let _task = progress.task("looking whether KVM works", None);
        accel::choose(arch, Some(&context.state.path().join("accelerator.json")))?
    };
    if choice.accelerator == accel::Accelerator::Tcg {
        progress.say(&format!("emulating the processor: {}", choice.reason));
    }
    machine.network = Some(settle_forwards(args, context, before)?);
    machine.accelerator = choice.accelerator;
    machine.boot = boot(args, context, before, target.loader, dir)?;
    machine.disks = vec![Disk {
        path: "overlay.qcow2".into(),
        format: DiskFormat::Qcow2,
        cache: Cache::Writeback,
        read_only: false,
    }];
    machine.fw_cfg = Vec::new();
    machine.watchdog = !machine.is_raspi();
    machine.tpm = before.tpm || args.tpm;
    Ok(machine)
}

fn boot(
    args: &RunArgs,
    context: &Context<'_>,
    before: &Machine,
    loader: Loader,
    dir: &VmDir,
) -> Result<Boot> {
    if let Some(kernel) = &args.kernel {
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(|e| Error::io("resolving", path, &e));
        return Ok(Boot::Kernel {
            kernel: absolute(kernel)?,
            initrd: args.initrd.as_deref().map(absolute).transpose()?,
            cmdline: args.append.clone().unwrap_or_default(),
        });
    }
    if args.bios {
        return Ok(Boot::Builtin);
    }
    if before.is_raspi() {
        return Ok(before.boot.clone());
    }
    let arch = before.arch;
    if loader == Loader::UBoot {
        let code = match find_u_boot(arch, &[]) {
            Ok(code) => code,
            Err(slipway_qemu::Error::FirmwareMissing { .. }) => {
                let fetched = (context.fetch_firmware)(arch, Loader::UBoot)?;
                find_u_boot(arch, &[fetched])?
            }
            Err(e) => return Err(e.into()),
        };
        return Ok(Boot::UBoot { code });
    }
    // Its variables may hold keys by now.
    let was_secure = matches!(before.boot, Boot::Firmware { secure: true, .. });
    let secure = args.secure_boot || was_secure;
    let firmware = match Firmware::find(arch, secure, &[]) {
        Ok(firmware) => firmware,
        Err(slipway_qemu::Error::FirmwareMissing { .. }) => {
            let fetched = (context.fetch_firmware)(arch, Loader::SystemdBoot)?;
            Firmware::find(arch, secure, &[fetched])?
        }
        Err(e) => return Err(e.into()),
    };
    firmware.provide_vars(&dir.file("vars.fd"))?;
    Ok(firmware.boot("vars.fd".into()))
}

/// The forwards asked for, else those of the last run, and one each for the API server and
/// the node's own API: the port it had last, else the same as in the guest, else any.
fn settle_forwards(
    args: &RunArgs,
    context: &Context<'_>,
    before: &Machine,
) -> Result<Vec<Forward>> {
    let leads_to = |f: &Forward, guest: u16| f.protocol == Protocol::Tcp && f.guest.get() == guest;
    let own = [API_PORT, node::PORT];
    let is_own = |f: &Forward| own.iter().any(|guest| leads_to(f, *guest));
    let remembered = before.network.as_deref().unwrap_or_default();
    let mut forwards: Vec<Forward> = if args.forward.is_empty() {
        remembered.iter().filter(|f| !is_own(f)).copied().collect()
    } else {
        args.forward.clone()
    };
    for guest in own {
        if forwards.iter().any(|f| leads_to(f, guest)) {
            continue;
        }
        let taken: Vec<u16> = forwards.iter().map(|f| f.host).collect();
        let usable = |port: &u16| {
            !taken.contains(port)
                && ports::is_free(Protocol::Tcp, std::net::Ipv4Addr::LOCALHOST, *port)
        };
        let port = remembered
            .iter()
            .find(|f| leads_to(f, guest))
            .map(|f| f.host)
            .filter(usable)
            .or_else(|| Some(guest).filter(usable))
            .unwrap_or(0);
        let guest = NonZeroU16::new(guest).unwrap_or(NonZeroU16::MIN);
        forwards.push(Forward::tcp(port, guest));
    }
    ports::settle(&mut forwards).map_err(|e| name_the_holder(e, context))?;
    Ok(forwards)
}

/// If another machine of ours has the port, says which.
fn name_the_holder(error: slipway_qemu::Error, context: &Context<'_>) -> Error {
    let slipway_qemu::Error::PortInUse { port, .. } = error else {
        return error.into();
    };
    let holder = context
        .state
        .list()
        .unwrap_or_default()
        .into_iter()
        .find(|dir| {
            dir.record().ok().flatten().is_some_and(|record| {
                record
                    .machine
                    .network
                    .iter()
                    .flatten()
                    .any(|f| f.host == port)
                    && record
                        .process
                        .is_some_and(|p| p.is_alive().unwrap_or(false))
            })
        });
    let error = Error::from(error);
    match holder {
        Some(dir) => error.hint(format!(
            "virtual machine `{0}` forwards it: `slipway stop {0}`, or forward another host port",
            dir.name()
        )),
        None => error,
    }
}

fn report(dir: &VmDir, record: &Record, vm: &Vm, api: u16) -> Started {
    Started {
        name: dir.name().to_string(),
        state: "running",
        pid: vm.process().pid,
        accelerator: record.machine.accelerator,
        kubeconfig: record.machine.serial.is_none().then(|| dir.kubeconfig()),
        api: format!("https://127.0.0.1:{api}"),
        forwards: record.machine.network.clone().unwrap_or_default(),
        console_log: dir.file(CONSOLE_LOG),
        ready_after: None,
    }
}

fn announce(started: &Started, args: &RunArgs, progress: &Progress) {
    let forwards: Vec<String> = started.forwards.iter().map(Forward::to_string).collect();
    progress.say(&format!(
        "`{}` is starting (process {}, {})",
        started.name,
        started.pid,
        forwards.join(", ")
    ));
    if let Some(kubeconfig) = &started.kubeconfig {
        progress.say(&format!("kubeconfig: {}", kubeconfig.display()));
    }
    if !args.detach {
        progress.say("Ctrl-C powers it off; a second Ctrl-C pulls the plug");
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_named_after_its_image() {
        let name = |path: &str| name_of(Path::new(path)).map(|n| n.to_string());
        assert_eq!(name("/x/x86_64.img").unwrap(), "x86-64");
        assert_eq!(name("My Image.img.zst").unwrap(), "my-image");
        let error = name("/x/___.img").unwrap_err();
        assert!(error.advice().unwrap().contains("--name"), "{error}");
    }
}
