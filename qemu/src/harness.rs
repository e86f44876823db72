//! Boot tests: a machine that boots an image, is waited for by its console or by
//! a closure of the caller's, loses its power, comes back on the same disk, and
//! can be caught and restored alive.
//!
//! Everything here panics with what was waited for and the console's tail, since
//! that is how a test fails; it is not for use outside tests.
#![expect(clippy::panic, reason = "a test harness fails by panicking")]

use std::fmt::Display;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::accel;
use crate::argv::CONSOLE_LOG;
use crate::console::{self, Follow, Lines};
use crate::disk;
use crate::error::{Error, Result};
use crate::firmware::{Firmware, find_u_boot};
use crate::host;
use crate::machine::{
    Arch, Boot, Cache, Disk, DiskFormat, DiskSize, Forward, FwCfg, Machine, Mebibytes, OnReboot,
};
use crate::ports;
use crate::raspi;
use crate::snapshot::Snapshot;
use crate::vm::Vm;

/// The firmware's variables in a machine's directory.
pub const VARS: &str = "vars.fd";
/// Lines of the console shown when a test fails: two boots or so.
const TAIL: usize = 120;

/// What to boot, and how.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The machine's and the host's name.
    pub name: String,
    /// The processor.
    pub arch: Arch,
    /// A raw image; never written to.
    pub image: PathBuf,
    /// The disk's size.
    pub disk_size: DiskSize,
    /// Processors.
    pub cpus: u16,
    /// RAM.
    pub memory: Mebibytes,
    /// Ports of the guest to reach; free ones of loopback lead there.
    pub ports: Vec<u16>,
    /// Files for the guest: name (`opt/...`) and content.
    pub fw_cfg: Vec<(String, Vec<u8>)>,
    /// The machine's serial number in SMBIOS.
    pub serial: Option<String>,
    /// Raw images that are further disks; never written to.
    pub volumes: Vec<PathBuf>,
    /// Directories to look for firmware in, beside the host's.
    pub firmware_dirs: Vec<PathBuf>,
    /// Firmware that enforces Secure Boot.
    pub secure_boot: bool,
    /// The firmware's variables to begin with, instead of those that it ships with.
    pub vars: Option<PathBuf>,
    /// Boots a boot sector with the built-in BIOS instead of UEFI.
    pub bios: bool,
    /// Boots by U-Boot instead of UEFI.
    pub u_boot: bool,
    /// Boots a Raspberry Pi 4's U-Boot with this device tree, on QEMU's machine for it.
    pub raspi: Option<(PathBuf, PathBuf)>,
    /// Boots this kernel directly instead of the image's loader.
    pub kernel: Option<(PathBuf, Option<PathBuf>, String)>,
    /// A hardware watchdog.
    pub watchdog: bool,
    /// A TPM 2.0.
    pub tpm: bool,
    /// What a guest's reset does; by default QEMU ends, so that a panic is seen.
    pub on_reboot: OnReboot,
    /// What a flush does; see [`Cache`]. Writeback, as for a power cut's sake.
    pub cache: Cache,
}

impl Setup {
    /// x86-64, UEFI, two processors, 2 GiB, 16 GiB of disk, nothing forwarded.
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            name: "boot-test".into(),
            arch: Arch::X86_64,
            image: image.into(),
            disk_size: DiskSize::gib(16),
            cpus: 2,
            memory: Mebibytes(2048),
            ports: Vec::new(),
            fw_cfg: Vec::new(),
            serial: None,
            volumes: Vec::new(),
            firmware_dirs: Vec::new(),
            secure_boot: false,
            vars: None,
            bios: false,
            u_boot: false,
            raspi: None,
            kernel: None,
            watchdog: true,
            tpm: false,
            on_reboot: OnReboot::Exit,
            cache: Cache::Writeback,
        }
    }
}

/// A machine under test; its power is cut when dropped.
#[derive(Debug)]
pub struct Node {
    dir: TempDir,
    machine: Machine,
    vm: Option<Vm>,
    follow: Follow,
    lines: Lines,
    started: Instant,
}

impl Node {
    /// Boots.
    ///
    /// # Panics
    /// If QEMU doesn't start.
    pub fn boot(setup: Setup) -> Self {
        or_panic("preparing the machine", Self::try_boot(setup))
    }

    fn try_boot(setup: Setup) -> Result<Self> {
        let dir = temporary()?;
        let arch = setup.arch;
        let choice = accel::choose(arch, Some(&accelerator_cache()))?;
        let boot = if let Some((kernel, initrd, cmdline)) = setup.kernel {
            Boot::Kernel {
                kernel,
                initrd,
                cmdline,
            }
        } else if let Some((u_boot, device_tree)) = setup.raspi {
            raspi::check(&host::emulator(arch)?)?;
            Boot::RaspberryPi4 {
                u_boot,
                device_tree,
            }
        } else if setup.bios {
            Boot::Builtin
        } else if setup.u_boot {
            Boot::UBoot {
                code: find_u_boot(arch, &setup.firmware_dirs)?,
            }
        } else {
            let mut firmware = Firmware::find(arch, setup.secure_boot, &setup.firmware_dirs)?;
            if let Some(vars) = setup.vars {
                firmware.vars = vars;
            }
            firmware.provide_vars(&dir.path().join(VARS))?;
            firmware.boot(VARS.into())
        };
        let mut machine = Machine::new(setup.name.parse()?, arch, choice.accelerator, boot);
        machine.cpus = NonZeroU16::new(setup.cpus).unwrap_or(NonZeroU16::MIN);
        machine.memory = setup.memory;
        machine.watchdog = setup.watchdog;
        machine.tpm = setup.tpm;
        machine.serial = setup.serial;
        machine.on_reboot = setup.on_reboot;
        let image =
            std::path::absolute(&setup.image).map_err(|e| Error::io("resolving the image", e))?;
        disk::create_overlay(
            &image,
            DiskFormat::Raw,
            &dir.path().join("overlay.qcow2"),
            setup.disk_size,
        )?;
        machine.disks = vec![Disk {
            path: "overlay.qcow2".into(),
            format: DiskFormat::Qcow2,
            cache: setup.cache,
            read_only: false,
        }];
        for volume in &setup.volumes {
            let path =
                std::path::absolute(volume).map_err(|e| Error::io("resolving a volume", e))?;
            machine.disks.push(Disk {
                path,
                format: DiskFormat::Raw,
                cache: setup.cache,
                read_only: true,
            });
        }
        for (index, (name, content)) in setup.fw_cfg.into_iter().enumerate() {
            let path = PathBuf::from(format!("fw_cfg-{index}"));
            crate::state::write_private(&dir.path().join(&path), &content)?;
            machine.fw_cfg.push(FwCfg { name, path });
        }
        machine.network = Some(forwards(&setup.ports)?);
        Self::start(dir, machine)
    }

    fn start(dir: TempDir, machine: Machine) -> Result<Self> {
        let follow = Follow::console(dir.path(), true)?;
        let started = Instant::now();
        let vm = Vm::start(&machine, dir.path())?;
        Ok(Self {
            dir,
            machine,
            vm: Some(vm),
            follow,
            lines: Lines::default(),
            started,
        })
    }

    /// Brings a caught machine back to life, with new ports of the host.
    ///
    /// # Panics
    /// If QEMU doesn't take it.
    pub fn restore(snapshot: &Snapshot) -> Self {
        or_panic("restoring the machine", Self::try_restore(snapshot))
    }

    fn try_restore(snapshot: &Snapshot) -> Result<Self> {
        let dir = temporary()?;
        let mut network = snapshot.machine().network.clone();
        if let Some(forwards) = &mut network {
            for forward in forwards.iter_mut() {
                forward.host = 0;
            }
            ports::settle(forwards)?;
        }
        let follow = Follow::console(dir.path(), true)?;
        let started = Instant::now();
        let (vm, machine) = snapshot.restore(dir.path(), network)?;
        Ok(Self {
            dir,
            machine,
            vm: Some(vm),
            follow,
            lines: Lines::default(),
            started,
        })
    }

    /// Catches the machine alive into `dir`, and ends it.
    ///
    /// # Panics
    /// If that fails.
    pub fn snapshot(mut self, dir: &Path) -> Snapshot {
        let machine = self.machine.clone();
        let taken = Snapshot::take(self.vm(), &machine, dir);
        self.or_fail("catching the machine", taken)
    }

    /// The running machine.
    ///
    /// # Panics
    /// If it is off.
    pub fn vm(&mut self) -> &mut Vm {
        match &mut self.vm {
            Some(vm) => vm,
            None => panic!("the machine is off"),
        }
    }

    /// Its description.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Its directory, with disk, sockets and logs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The port of loopback that leads to a port of the guest.
    ///
    /// # Panics
    /// If [`Setup::ports`] didn't list it.
    pub fn port(&self, guest: u16) -> u16 {
        match self.machine.host_port(guest) {
            Some(port) => port,
            None => panic!("port {guest} of the guest is not forwarded"),
        }
    }

    /// Time since it was started last.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Everything that the console has said, over all boots.
    pub fn console(&self) -> String {
        let bytes = std::fs::read(self.dir.path().join(CONSOLE_LOG)).unwrap_or_default();
        bytes
            .split(|&b| b == b'\n')
            .map(console::plain)
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Waits for a line with `text` after the one that was waited for last, and
    /// returns it.
    ///
    /// # Panics
    /// If it doesn't come in time or the machine goes off.
    pub fn wait_console(&mut self, text: &str, timeout: Duration) -> String {
        let Some(vm) = &self.vm else {
            panic!("waiting for `{text}` of a machine that is off");
        };
        let line = console::wait_for_line(
            &mut self.follow,
            &mut self.lines,
            text,
            vm.ended_fd(),
            timeout,
        );
        self.or_fail("waiting for the console", line)
    }

    /// Calls `poll` until it returns `Ok`, once a second or whenever the console
    /// says something, and returns what it returned.
    ///
    /// # Panics
    /// If it doesn't in time, with its last error, or if the machine goes off.
    pub fn wait_for<T, E: Display>(
        &mut self,
        what: &str,
        timeout: Duration,
        mut poll: impl FnMut(&Self) -> Result<T, E>,
    ) -> T {
        let deadline = Instant::now() + timeout;
        loop {
            let error = match poll(self) {
                Ok(value) => return value,
                Err(e) => e,
            };
            if Instant::now() >= deadline {
                self.fail(&format!(
                    "{what} took longer than {} s; last: {error}",
                    timeout.as_secs()
                ));
            }
            let Some(vm) = &self.vm else {
                self.fail(&format!("{what}: the machine is off"));
            };
            let next = deadline.min(Instant::now() + Duration::from_secs(1));
            let woken = self.follow.wait(&[vm.ended_fd()], next);
            if self.or_fail(what, woken).first() == Some(&true) {
                self.fail(&format!("{what}: the machine went off; last: {error}"));
            }
        }
    }

    /// Cuts the power.
    ///
    /// # Panics
    /// If QEMU can't be ended.
    pub fn cut_power(&mut self) {
        if let Some(mut vm) = self.vm.take() {
            let ended = vm.kill();
            self.or_fail("cutting the power", ended);
        }
    }

    /// Presses the power button and waits for the machine to go off.
    ///
    /// # Panics
    /// If it doesn't in time.
    pub fn power_down(&mut self, timeout: Duration) {
        let ended = self.vm().power_down(timeout);
        if self.or_fail("pressing the power button", ended) {
            self.vm = None;
        } else {
            self.fail(&format!(
                "the machine did not go off within {} s of its power button",
                timeout.as_secs()
            ));
        }
    }

    /// Waits for the machine to go off by itself.
    ///
    /// # Panics
    /// If it doesn't in time.
    pub fn wait_off(&mut self, timeout: Duration) {
        let ended = self.vm().wait(timeout);
        if self.or_fail("waiting for the end", ended) {
            self.vm = None;
        } else {
            self.fail(&format!(
                "the machine is still on after {} s",
                timeout.as_secs()
            ));
        }
    }

    /// Switches a machine on that is off: same disk, same ports.
    ///
    /// # Panics
    /// If it is on, or QEMU doesn't start.
    pub fn power_on(&mut self) {
        if self.vm.is_some() {
            panic!("the machine is on");
        }
        self.started = Instant::now();
        self.lines = Lines::default();
        let follow = Follow::console(self.dir.path(), true);
        self.follow = self.or_fail("following the console", follow);
        let vm = Vm::start(&self.machine, self.dir.path());
        self.vm = Some(self.or_fail("switching the machine on", vm));
    }

    fn or_fail<T>(&self, what: &str, result: Result<T>) -> T {
        match result {
            Ok(value) => value,
            Err(e) => self.fail(&format!("{what}: {e}")),
        }
    }

    /// Fails the test.
    ///
    /// # Panics
    /// Always.
    pub fn fail(&self, why: &str) -> ! {
        panic!(
            "{why}\n  {:.1} s after the start",
            self.started.elapsed().as_secs_f32()
        );
    }

    /// What a failed test leaves to be read, on standard error: every assertion of a test may
    /// have failed, so it isn't for their messages to have it.
    pub fn evidence(&self) -> String {
        let tail = console::tail(self.dir.path(), TAIL).unwrap_or_else(|e| e.to_string());
        let qemu = self.vm.as_ref().map(Vm::qemu_log).unwrap_or_default();
        format!(
            "--- {:.1} s after the start; QEMU said: {qemu}\n--- console ---\n{tail}\n---",
            self.started.elapsed().as_secs_f32()
        )
    }
}

impl Drop for Node {
    #[expect(clippy::print_stderr, reason = "where a test's evidence belongs")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.evidence());
        }
        if let Some(vm) = &mut self.vm
            && let Err(e) = vm.kill()
            && !std::thread::panicking()
        {
            panic!("a machine could not be ended: {e}");
        }
    }
}

fn or_panic<T>(what: &str, result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(e) => match e.hint() {
            Some(hint) => panic!("{what}: {e}\n  {hint}"),
            None => panic!("{what}: {e}"),
        },
    }
}

fn temporary() -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("slipway-boot-test-")
        .tempdir()
        .map_err(|e| Error::io("making a temporary directory", e))
}

/// One trial for all tests of a boot of the host.
fn accelerator_cache() -> PathBuf {
    std::env::temp_dir().join(format!(
        "slipway-accelerator-{}.json",
        rustix::process::getuid().as_raw()
    ))
}

fn forwards(guest_ports: &[u16]) -> Result<Vec<Forward>> {
    let mut forwards = Vec::new();
    for &port in guest_ports {
        let guest = NonZeroU16::new(port)
            .ok_or_else(|| Error::Invalid("a guest's port can't be 0".into()))?;
        forwards.push(Forward::tcp(0, guest));
    }
    ports::settle(&mut forwards)?;
    Ok(forwards)
}
