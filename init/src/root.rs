//! The phases of the root: from the mounted image to services that may start.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use slipway_images::info::{IMAGE_INFO_PATH, ImageInfo};
use slipway_images::seed::Seed;
use slipway_images::seed::url::SeedUrl;

use crate::crypt::{Keys, Wish};
use crate::initrd::{BOOT_FILE, Boot};
use crate::mailbox::{Event, Mailbox};
use crate::modules::{MODULES_D, Modules, preload_list};
use crate::net::resolv::Resolv;
use crate::net::{self, News, Shared, TimeServers};
use crate::phase::{Context, Failure, Outcome, Phase};
use crate::reaper::Reaper;
use crate::seed::remote::{self, Fetcher};
use crate::seed::{Data, Names, Source, Words};
use crate::slots::Keeper;
use crate::uevent::{Plugged, UeventSocket, modaliases};
use crate::{
    clock, data, firmware, gate, instance, mounts, node, registries, say, seed, sntp, ssh, sys,
    zram,
};

/// What the phases share.
pub struct Root {
    /// To the main loop.
    pub mailbox: Mailbox,
    /// For tools that phases run.
    pub reaper: Reaper,
    /// For the slots.
    pub slots: Keeper,
    boot: Boot,
    modules: Option<Modules>,
    /// What a seed can't change.
    names: Names,
    /// Where the seed is, if it isn't here.
    url: Option<SeedUrl>,
    /// Defaults where there is none, or none that is good.
    seed: Seed,
    /// How data is to be kept, and what opens it.
    keys: Keys,
    network: Option<net::Handle>,
    data_mounted: bool,
    data_encrypted: bool,
    online: Arc<AtomicBool>,
    time_servers: TimeServers,
    /// Whether the clock is being set from the network.
    sntp: bool,
}

/// The phases in their order.
pub const PHASES: &[Phase<Root>] = &[
    Phase::new("mounts", mount_table).essential(),
    Phase::new("cgroups", |_| mounts::cgroups()).essential(),
    Phase::new("etc", |_| {
        let note = mounts::etc();
        // Only now: a mount below a shared one cannot be moved.
        mounts::share_root()?;
        note
    }),
    // Early: from here on a power cut costs a slot on trial nothing.
    Phase::new("slots", |root| {
        root.slots.arrive(Path::new("/"), root.boot.boot.as_deref())
    }),
    Phase::new("drivers", drivers),
    Phase::new("modules", preload),
    Phase::new("swap", |root| {
        zram::swap(Path::new("/"), || {
            let modules = root.modules()?;
            modules.load("zram").context("zram").map(drop)
        })
    }),
    Phase::new("seed", find_seed).deadline(Duration::from_secs(60)),
    // Before the network: an applied seed may set it up otherwise. fsck takes its time on a
    // large disk.
    Phase::new("data", data_partition)
        .retry(2, Duration::from_secs(2))
        .deadline(Duration::from_secs(3600)),
    // Certificates want a clock that is about right, and a seed from afar a network.
    Phase::new("clock", plausible_clock),
    Phase::new("seed by URL", fetch_seed).deadline(Duration::from_secs(300)),
    Phase::new("applied seed", applied_seed),
    Phase::new("network", network).retry(3, Duration::from_secs(1)),
    Phase::new("identity", identity),
    Phase::new("instance", instance),
    Phase::new("registries", |root| {
        registries::write(Path::new("/"), &BTreeMap::new(), &root.seed.registries)?;
        Ok(match root.seed.registries.len() {
            0 => "none".into(),
            n => format!("{n} by the seed"),
        })
    }),
    Phase::new("entropy", entropy),
    Phase::new("ssh", ssh_keys),
    Phase::new("time", start_sntp),
    Phase::new("services", services),
    Phase::new("trial", |root| {
        let (slots, reaper) = (root.slots.clone(), root.reaper.clone());
        gate::watch(
            "/".into(),
            slots,
            &root.seed.update,
            root.mailbox.clone(),
            reaper,
        )
    }),
];

impl Root {
    /// For a boot that has just begun.
    pub fn new(mailbox: Mailbox, reaper: Reaper, slots: Keeper) -> Self {
        Self {
            mailbox,
            reaper,
            slots,
            boot: Boot::default(),
            modules: None,
            names: Names::default(),
            url: None,
            seed: Seed::default(),
            keys: Keys::default(),
            network: None,
            data_mounted: false,
            data_encrypted: false,
            online: Arc::default(),
            time_servers: TimeServers::default(),
            sntp: false,
        }
    }

    /// What the clock is set by, also when another seed comes.
    pub fn time_servers(&self) -> TimeServers {
        self.time_servers.clone()
    }

    /// How data is kept, for a seed that comes after it was looked at.
    fn data(&self) -> Data {
        match self.data_mounted && !self.data_encrypted {
            true => Data::InTheClear,
            false => Data::Safe,
        }
    }

    fn modules(&mut self) -> Result<&mut Modules, Failure> {
        if self.modules.is_none() {
            self.modules = Some(Modules::of_running_kernel()?);
        }
        self.modules
            .as_mut()
            .ok_or_else(|| Failure("no module indices".into()))
    }
}

fn mount_table(root: &mut Root) -> Outcome {
    mounts::mount_all(mounts::EARLY)?;
    mounts::quiet_kernel_console();
    mounts::mount_all(mounts::ROOT)?;
    mounts::device_links()?;
    fs::create_dir_all("/run/slipway").context("/run/slipway")?;
    fs::create_dir_all("/run/lock").context("/run/lock")?;
    if let Ok(text) = fs::read(BOOT_FILE) {
        root.boot = serde_json::from_slice(&text).context(BOOT_FILE)?;
    }
    Ok(firmware::note(Path::new("/")))
}

/// Loads drivers for what is there, then follows what appears later.
fn drivers(root: &mut Root) -> Outcome {
    let events = UeventSocket::open().context("listening for devices")?;
    let mut plugged = Plugged::default();
    let aliases = modaliases(Path::new("/sys"));
    let (urgent, later): (Vec<_>, Vec<_>) = aliases.into_iter().partition(|a| is_urgent(a));
    let modules = root.modules()?;
    plugged.load(modules, urgent.iter().map(String::as_str));
    for failure in &plugged.failures {
        say!("{failure}");
    }
    let mailbox = root.mailbox.clone();
    std::thread::Builder::new()
        .name("hotplug".into())
        .stack_size(256 << 10)
        .spawn(move || hotplug(&events, &later, &mailbox))?;
    Ok(format!("{} modules", plugged.loaded))
}

/// What the boot does not wait for must not slow down what it waits for.
fn give_way() {
    if let Err(error) = sys::go_last() {
        say!("setting a thread's priority: {error}");
    }
}

/// Loads drivers for devices that appear, for ever.
fn hotplug(events: &UeventSocket, later: &[String], mailbox: &Mailbox) {
    give_way();
    let mut modules = match Modules::of_running_kernel() {
        Ok(modules) => modules,
        Err(error) => {
            say!("hotplug: {error}");
            return;
        }
    };
    let mut plugged = Plugged::default();
    plugged.load(&mut modules, later.iter().map(String::as_str));
    mailbox.send(Event::Device("input".into()));
    mailbox.send(Event::Device("watchdog".into()));
    loop {
        for failure in std::mem::take(&mut plugged).failures {
            say!("{failure}");
        }
        match events.next(Duration::from_secs(3600)) {
            Ok(None) => {}
            Ok(Some(event)) if event.action == "add" => {
                if let Some(alias) = event.get("MODALIAS") {
                    plugged.load(&mut modules, [alias]);
                }
                if let Some(subsystem @ ("input" | "watchdog")) = event.get("SUBSYSTEM") {
                    mailbox.send(Event::Device(subsystem.to_owned()));
                }
            }
            Ok(Some(_)) => {}
            Err(_) => {
                let aliases = modaliases(Path::new("/sys"));
                plugged.load(&mut modules, aliases.iter().map(String::as_str));
            }
        }
    }
}

/// Whether the boot waits for a device's driver: networks and the buses they are on, entropy
/// and QEMU's configuration device. Loading a module costs a signature's check; screens, mice
/// and sensors come meanwhile.
fn is_urgent(alias: &str) -> bool {
    let (bus, rest) = alias.split_once(':').unwrap_or((alias, ""));
    match bus {
        // ...bc02sc00i00: base class 02 is networks, 0c03 USB hosts.
        "pci" => rest.contains("bc02") || rest.contains("bc0Csc03"),
        // Network, entropy.
        "virtio" => rest.starts_with("d00000001v") || rest.starts_with("d00000004v"),
        "acpi" => rest.contains("QEMU0002") || rest.contains("VMBUS"),
        "usb" | "vmbus" | "xen" | "of" | "sdio" => true,
        _ => false,
    }
}

/// Whether an alias is a disk's or a disk controller's: a seed may lie behind it.
fn is_storage(alias: &str) -> bool {
    let (bus, rest) = alias.split_once(':').unwrap_or((alias, ""));
    match bus {
        "pci" => rest.contains("bc01"),
        "virtio" => rest.starts_with("d00000002v") || rest.starts_with("d00000008v"),
        "scsi" | "mmc" | "nvme" => true,
        _ => false,
    }
}

/// Loads what no device asks for: filters, overlays, the power button's events.
fn preload(root: &mut Root) -> Outcome {
    let mailbox = root.mailbox.clone();
    std::thread::Builder::new()
        .name("modules".into())
        .stack_size(256 << 10)
        .spawn(move || match preload_all() {
            Ok(note) => {
                say!("modules and sysctls: {note}");
                mailbox.send(Event::Condition("modules"));
            }
            Err(failure) => {
                say!("modules and sysctls FAILED: {failure}");
                mailbox.send(Event::Condition("modules"));
            }
        })?;
    Ok("in the background".into())
}

/// Loads the list, then sets the sysctls, some of which come with a module.
fn preload_all() -> Outcome {
    give_way();
    let mut modules = Modules::of_running_kernel()?;
    let (mut loaded, mut failed) = (0, Vec::new());
    for (name, _) in preload_list(Path::new(MODULES_D)) {
        match modules.load(&name) {
            Ok(n) => loaded += n,
            Err(error) => failed.push(error.to_string()),
        }
    }
    for failure in &failed {
        say!("{failure}");
    }
    let set = node::sysctls(
        Path::new("/usr/lib/slipway/sysctl.d"),
        Path::new("/proc/sys"),
    )?;
    Ok(format!("{loaded} modules, {} failed; {set}", failed.len()))
}

fn find_seed(root: &mut Root) -> Outcome {
    let boot = root.boot.boot.clone();
    let found = root.modules().and_then(|modules| {
        let words = Words::of_machine()?;
        let modules = RefCell::new(modules);
        let firmware = || seed::from_firmware(*modules.borrow_mut());
        let source = seed::choose(&words, firmware, || {
            // Perhaps a volume has it: then the disks' drivers are needed now.
            let modules = &mut **modules.borrow_mut();
            let aliases = modaliases(Path::new("/sys"));
            let storage = aliases.iter().map(String::as_str).filter(|a| is_storage(a));
            Plugged::default().load(modules, storage);
            seed::from_volumes(modules, boot.as_deref())
        })?;
        Ok((source, words.names))
    });
    let accepted = found.and_then(|(source, names)| {
        root.names = names;
        match source {
            Source::Nowhere => Ok((Seed::default(), "none, defaults".to_owned())),
            Source::Here(files, from) => {
                // Of a seed that is refused, too: what is there is opened all the same.
                root.keys.passphrase = files.passphrase;
                let base = Path::new("/");
                let seed = seed::accept(base, &files.documents, &from, &root.names, Data::NotYet)?;
                Ok((seed, format!("from {from}")))
            }
            Source::Url(url, by) => {
                let note = format!("at {url}, says {by}");
                root.url = Some(url);
                Ok((Seed::default(), note))
            }
        }
    });
    root.keys.wish = match &accepted {
        Ok((seed, _)) => seed.data.encrypt.map_or(Wish::Clear, Wish::Encrypted),
        Err(_) => Wish::Unknown,
    };
    let (seed, note) = accepted.map_err(without_seed)?;
    root.seed = seed;
    if root.url.is_none() {
        root.mailbox.send(Event::Condition("seed"));
    }
    Ok(note)
}

fn without_seed(failure: Failure) -> Failure {
    Failure(format!(
        "{failure}. The node runs with defaults and without a cluster; correct the seed and reboot"
    ))
}

/// Fetches the seed over the network that an unseeded node has: one that a seed sets up wrongly
/// must not keep the corrected seed away.
fn fetch_seed(root: &mut Root) -> Outcome {
    let Some(url) = root.url.clone() else {
        return Ok("none".into());
    };
    let base = Path::new("/");
    let kept = root.data_mounted.then(|| remote::kept(base, &url));
    let kept = kept.flatten();
    // What it said of names and time holds for the asking, too.
    root.seed = kept
        .as_ref()
        .and_then(|kept| Some(kept.files.check().ok()?.seed))
        .unwrap_or_default();
    root.seed.network = None;
    root.seed.hostname = root.names.hostname.clone().or(root.seed.hostname.take());
    // Without them the fetching fails in its time, and what was kept is used.
    if let Err(failure) = network(root) {
        say!("network: {failure}");
    }
    if url.is_https()
        && let Err(failure) = start_sntp(root)
    {
        say!("clock: {failure}");
    }
    let fetcher = Fetcher {
        root: base,
        reaper: &root.reaper,
        program: Path::new("/usr/bin/noded"),
        first: Duration::from_secs(120),
        again: Duration::from_secs(15),
        patience: Duration::from_secs(10),
        data: root.data(),
    };
    let (seed, outcome) = fetcher.settle(&url, &root.names, kept, root.data_mounted);
    let known = seed.is_some();
    root.seed = seed.unwrap_or_default();
    if known {
        root.mailbox.send(Event::Condition("seed"));
        return outcome;
    }
    outcome.map_err(without_seed)
}

/// Brings the network up as the seed says, or changes one that is up for fetching it.
fn network(root: &mut Root) -> Outcome {
    let network = root.seed.network.clone().unwrap_or_default();
    let hostname = root.seed.hostname.clone();
    if let Some(handle) = &root.network {
        return handle.change(network, hostname);
    }
    // A disk that can't be written is no reason to be out of reach.
    let id = machine_id(root).inspect_err(|failure| say!("no DHCPv6: {failure}"));
    let shared = Shared {
        hostname,
        duid: id.ok().map(|id| net::dhcp6::duid(&id)),
        resolv: Resolv::new("/etc/resolv.conf".into()),
        time_servers: root.time_servers.clone(),
    };
    let (mailbox, online) = (root.mailbox.clone(), Arc::clone(&root.online));
    let (handle, note) = net::start(network, shared, move |news| {
        if matches!(news, News::Address { .. }) {
            online.store(true, Ordering::Release);
        }
        mailbox.send(Event::Net(news));
    })?;
    root.network = Some(handle);
    Ok(note)
}

fn data_partition(root: &mut Root) -> Outcome {
    if let Some(problem) = &root.boot.disk_problem {
        return Err(Failure(format!("there is no data partition: {problem}")));
    }
    let device = root
        .boot
        .data
        .clone()
        .ok_or_else(|| Failure("there is no data partition on the root's disk".into()))?;
    let prepared = data::prepare(
        &root.reaper,
        &device,
        Path::new("/var"),
        root.boot.data_unfinished,
        &root.keys,
    )?;
    // A second try, or a reload, must not make it anew.
    root.boot.data_unfinished = false;
    root.data_mounted = true;
    root.data_encrypted = prepared.encrypted;
    root.keys.passphrase = None;
    Ok(prepared.note)
}

/// A seed that was applied through the node API takes the place of the one from outside.
fn applied_seed(root: &mut Root) -> Outcome {
    if !root.data_mounted {
        return Ok("none, without a data partition".into());
    }
    match seed::applied(Path::new("/"), root.data())? {
        Some(seed) => {
            root.seed = seed;
            root.mailbox.send(Event::Condition("seed"));
            Ok("in place of the one from outside".into())
        }
        None => Ok("none".into()),
    }
}

/// Kept on the data partition, else for this boot only.
fn machine_id(root: &Root) -> Result<String, Failure> {
    node::machine_id(Path::new(match root.data_mounted {
        true => node::MACHINE_ID_FILE,
        false => "/run/slipway/machine-id",
    }))
}

fn identity(root: &mut Root) -> Outcome {
    // From here on it is known for good: an applied seed has been read.
    (root.mailbox).send(Event::StatusPage(root.seed.console.status));
    let id = machine_id(root)?;
    fs::write("/etc/machine-id", format!("{id}\n")).context("/etc/machine-id")?;
    let name = root
        .seed
        .hostname
        .clone()
        .unwrap_or_else(|| node::default_hostname(&id));
    node::set_hostname(&name, root.seed.fqdn.as_deref())?;
    Ok(name)
}

/// Users, files, CAs and zone, as the seed says.
fn instance(root: &mut Root) -> Outcome {
    let data = match root.data_mounted {
        true => instance::Data::There,
        false => instance::Data::Missing,
    };
    instance::apply(Path::new("/"), &root.seed, data)
}

/// Who may log in; without a data partition nobody, since the host would have another key.
fn ssh_keys(root: &mut Root) -> Outcome {
    if !root.data_mounted {
        return Ok("off, no data partition".into());
    }
    // One user's trouble is no reason to keep the others out.
    let written = ssh::write_keys(Path::new("/"), &root.seed);
    let note = ssh::open(&root.seed, &root.reaper, &root.mailbox)?;
    written.map(|()| note)
}

fn entropy(root: &mut Root) -> Outcome {
    if !root.data_mounted {
        return Ok("no data partition".into());
    }
    node::restore_entropy(Path::new(node::ENTROPY_FILE))
}

fn plausible_clock(root: &mut Root) -> Outcome {
    let info = ImageInfo::read(Path::new(IMAGE_INFO_PATH))?;
    let note = clock::not_earlier_than(info.built)?;
    if !root.data_mounted {
        return Ok(note);
    }
    let restored = clock::restore(Path::new(clock::CLOCK_FILE))?;
    Ok(if restored.is_empty() { note } else { restored })
}

/// Has the clock set from the network, as the seed says.
fn start_sntp(root: &mut Root) -> Outcome {
    root.time_servers.choose(&root.seed.ntp);
    let note = match root.seed.ntp.enabled {
        true if root.sntp => "being set already",
        true => "",
        false => "not set from the network",
    };
    // Also where it isn't wanted: a seed that is applied may want it.
    if root.sntp {
        return Ok(note.into());
    }
    let built = ImageInfo::read(Path::new(IMAGE_INFO_PATH))?.built;
    let (servers, online) = (root.time_servers.clone(), Arc::clone(&root.online));
    let mailbox = root.mailbox.clone();
    std::thread::Builder::new()
        .name("sntp".into())
        .stack_size(256 << 10)
        .spawn(move || {
            sntp::run(&servers, built, &online, || mailbox.send(Event::TimeSet));
        })?;
    root.sntp = true;
    Ok(note.into())
}

fn services(root: &mut Root) -> Outcome {
    let data = root.data_mounted;
    root.mailbox.send(Event::StartServices { data });
    if data {
        Ok(String::new())
    } else {
        Err(Failure(
            "without the data partition only those that need none of it".into(),
        ))
    }
}
