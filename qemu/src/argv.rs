//! QEMU's command line: a pure function of a [`Machine`], so that a golden file
//! shows every change of it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use crate::accel::Accelerator;
use crate::machine::{
    Arch, Boot, Cache, Disk, DiskFormat, Forward, Lan, LanPort, Machine, OnReboot, Protocol,
};
use crate::raspi;
use crate::tpm;

/// The control socket, relative to QEMU's working directory.
pub const QMP_SOCKET: &str = "qmp.sock";
/// The serial console's socket, likewise.
pub const CONSOLE_SOCKET: &str = "console.sock";
/// What the serial console has printed, across boots.
pub const CONSOLE_LOG: &str = "console.log";

/// The arguments, without the program's name.
pub fn argv(machine: &Machine) -> Vec<OsString> {
    let mut argv = Argv(Vec::new());
    argv.option("-name", format!("guest={}", machine.name));
    // Nothing but what is listed here: no default disk, display or network, and
    // nothing from the user's configuration.
    argv.flag("-nodefaults");
    argv.flag("-no-user-config");
    argv.option("-display", "none");
    board(&mut argv, machine);
    argv.option("-smp", machine.cpus.to_string());
    argv.option("-m", format!("{}M", machine.memory.0));
    argv.option("-rtc", "base=utc,clock=host");
    boot(&mut argv, &machine.boot);
    for (index, disk) in machine.disks.iter().enumerate() {
        attach(&mut argv, machine, index, disk);
    }
    if let Some(forwards) = &machine.network {
        network(&mut argv, machine, forwards);
    }
    if let Some(at) = &machine.lan {
        lan(&mut argv, machine, at);
    }
    if machine.is_raspi() {
        // Its key `power` is the only button that it can have.
        argv.option("-device", "usb-kbd");
    } else {
        argv.option("-device", "virtio-rng-pci");
    }
    for file in &machine.fw_cfg {
        argv.option(
            "-fw_cfg",
            Options::new(format!("name={}", file.name)).value("file", &file.path),
        );
    }
    if let Some(serial) = &machine.serial {
        argv.option("-smbios", Options::new("type=1").value("serial", serial));
    }
    if machine.watchdog {
        argv.option("-device", "i6300esb");
        argv.option("-action", "watchdog=reset");
    }
    if machine.tpm {
        argv.option("-chardev", format!("socket,id=tpm,path={}", tpm::SOCKET));
        argv.option("-tpmdev", "emulator,id=tpm0,chardev=tpm");
        let device = match machine.arch {
            Arch::X86_64 => "tpm-crb",
            // Its place is in the device tree and in ACPI's tables.
            Arch::Aarch64 | Arch::Armv7 => "tpm-tis-device",
        };
        argv.option("-device", format!("{device},tpmdev=tpm0"));
    }
    if machine.on_reboot == OnReboot::Exit {
        argv.flag("-no-reboot");
    }
    if machine.debug_exit {
        argv.option("-device", "isa-debug-exit,iobase=0xf4,iosize=1");
    }
    // A client may come and go; the log gets everything either way.
    argv.option(
        "-chardev",
        format!(
            "socket,id=console,path={CONSOLE_SOCKET},server=on,wait=off,logfile={CONSOLE_LOG},logappend=on"
        ),
    );
    argv.option("-serial", "chardev:console");
    argv.option(
        "-chardev",
        format!("socket,id=qmp,path={QMP_SOCKET},server=on,wait=off"),
    );
    argv.option("-mon", "chardev=qmp,mode=control");
    if machine.incoming {
        argv.option("-incoming", "defer");
    }
    argv.0
}

/// Machine type, accelerator and processor.
fn board(argv: &mut Argv, machine: &Machine) {
    argv.option(
        "-machine",
        match machine.arch {
            _ if machine.is_raspi() => raspi::MACHINE,
            Arch::X86_64 if is_secure(machine) => "q35,smm=on",
            Arch::X86_64 => "q35",
            Arch::Aarch64 => "virt",
            // Without this the PCI host's window lies above 4 GiB, where a
            // kernel without LPAE can't reach it.
            Arch::Armv7 => "virt,highmem=off",
        },
    );
    argv.option(
        "-accel",
        match machine.accelerator {
            Accelerator::Kvm => "kvm",
            // Translated code of a whole node takes more than 512 MiB, and when there
            // is no room left QEMU translates everything anew.
            Accelerator::Tcg => "tcg,thread=multi,tb-size=1024",
        },
    );
    if machine.is_raspi() {
        return;
    }
    argv.option(
        "-cpu",
        match (machine.accelerator, machine.arch) {
            (Accelerator::Kvm, _) => "host",
            // Where the processor says that it copies fast by bytes (ERMS, FSRM), kernel
            // and Go do so, and QEMU emulates each byte by itself: copying files took
            // four times as long, forking one and a half.
            (Accelerator::Tcg, Arch::X86_64) => "max,erms=off,fsrm=off",
            // QEMU's own hash instead of the architected pointer
            // authentication, which takes half of the time under TCG.
            (Accelerator::Tcg, Arch::Aarch64) => "max,pauth-impdef=on",
            (Accelerator::Tcg, Arch::Armv7) => "cortex-a15",
        },
    );
}

fn is_secure(machine: &Machine) -> bool {
    matches!(machine.boot, Boot::Firmware { secure: true, .. })
}

fn boot(argv: &mut Argv, boot: &Boot) {
    match boot {
        Boot::Firmware { code, vars, secure } => {
            if *secure {
                argv.option("-global", "driver=cfi.pflash01,property=secure,value=on");
            }
            argv.option(
                "-drive",
                Options::new("if=pflash,unit=0,format=raw,readonly=on").value("file", code),
            );
            argv.option(
                "-drive",
                Options::new("if=pflash,unit=1,format=raw").value("file", vars),
            );
        }
        Boot::Kernel {
            kernel,
            initrd,
            cmdline,
        } => {
            argv.option("-kernel", kernel.as_os_str());
            if let Some(initrd) = initrd {
                argv.option("-initrd", initrd.as_os_str());
            }
            argv.option("-append", cmdline);
        }
        Boot::UBoot { code } => argv.option("-bios", code.as_os_str()),
        Boot::RaspberryPi4 {
            u_boot,
            device_tree,
        } => {
            argv.option("-kernel", u_boot.as_os_str());
            argv.option("-dtb", device_tree.as_os_str());
        }
        Boot::Builtin => {}
    }
}

fn attach(argv: &mut Argv, machine: &Machine, index: usize, disk: &Disk) {
    let format = match disk.format {
        DiskFormat::Raw => "raw",
        DiskFormat::Qcow2 => "qcow2",
    };
    let is_card = machine.is_raspi() && index == 0;
    let cache = match disk.cache {
        // Nobody tells a card to flush: what it has taken, it keeps. With the default QEMU would
        // forget at a power cut where in the overlay that is. It is for the host to write it out.
        _ if is_card => "writethrough,cache.no-flush=on",
        Cache::Writeback => "writeback",
        Cache::Unsafe => "unsafe",
    };
    let place = match is_card {
        true => "if=sd".to_owned(),
        false => format!("if=none,id=disk{index}"),
    };
    let mut drive = Options::new(format!(
        "{place},format={format},cache={cache},discard=unmap,detect-zeroes=unmap"
    ))
    .value("file", &disk.path);
    if disk.read_only {
        drive = drive.and("readonly=on");
    }
    argv.option("-drive", drive);
    match (machine.is_raspi(), index) {
        (true, 0) => {}
        (true, _) => argv.option("-device", format!("usb-storage,drive=disk{index}")),
        (false, _) => argv.option(
            "-device",
            format!("virtio-blk-pci,drive=disk{index},bootindex={}", index + 1),
        ),
    }
}

fn network(argv: &mut Argv, machine: &Machine, forwards: &[Forward]) {
    let mut netdev = "user,id=net0".to_owned();
    for forward in forwards {
        let protocol = match forward.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        netdev.push_str(&format!(
            ",hostfwd={protocol}:{}:{}-:{}",
            forward.address, forward.host, forward.guest
        ));
    }
    argv.option("-netdev", netdev);
    card(argv, machine, "net0", &machine.name.mac());
}

/// The second card, and on a hub a socket for each machine that may join.
fn lan(argv: &mut Argv, machine: &Machine, lan: &Lan) {
    match lan {
        Lan::Hub => {
            for port in LanPort::all() {
                let id = format!("lan{port}");
                argv.option("-netdev", link(&id, Path::new(""), port, ["hub", "member"]));
                argv.option(
                    "-netdev",
                    format!("hubport,id=hub{port},hubid=0,netdev={id}"),
                );
            }
            argv.option("-netdev", "hubport,id=lan,hubid=0");
        }
        Lan::Member { hub, port } => {
            argv.option("-netdev", link("lan", hub, *port, ["member", "hub"]));
        }
    }
    card(argv, machine, "lan", &machine.name.lan_mac());
}

/// One side's end of the sockets between a hub and a member.
fn link(id: &str, hub: &Path, port: LanPort, [own, other]: [&str; 2]) -> Options {
    Options::new(format!("dgram,id={id},local.type=unix,remote.type=unix"))
        .value("local.path", hub.join(format!("lan-{port}.{own}")))
        .value("remote.path", hub.join(format!("lan-{port}.{other}")))
}

fn card(argv: &mut Argv, machine: &Machine, netdev: &str, mac: &str) {
    let device = match machine.is_raspi() {
        true => format!("usb-net,netdev={netdev},mac={mac}"),
        // Without romfile= the firmware would try to boot from the network.
        false => format!("virtio-net-pci,netdev={netdev},mac={mac},romfile="),
    };
    argv.option("-device", device);
}

struct Argv(Vec<OsString>);

impl Argv {
    fn flag(&mut self, flag: &str) {
        self.0.push(flag.into());
    }

    fn option(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }
}

/// A comma-separated option list; a comma within a value is doubled.
struct Options(Vec<u8>);

impl Options {
    fn new(first: impl Into<String>) -> Self {
        Self(first.into().into_bytes())
    }

    fn and(mut self, more: &str) -> Self {
        self.0.push(b',');
        self.0.extend(more.bytes());
        self
    }

    fn value(self, key: &str, value: impl AsRef<OsStr>) -> Self {
        let mut options = self.and(key);
        options.0.push(b'=');
        for &byte in value.as_ref().as_bytes() {
            options.0.push(byte);
            if byte == b',' {
                options.0.push(b',');
            }
        }
        options
    }
}

impl From<Options> for OsString {
    fn from(options: Options) -> Self {
        Self::from_vec(options.0)
    }
}
