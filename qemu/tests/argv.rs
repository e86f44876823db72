//! QEMU's command line against golden files: every change of it shows in review.
//! `UPDATE_GOLDEN=1 cargo test -p slipway-qemu --test argv` rewrites them.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::num::NonZeroU16;
use std::path::Path;

use slipway_qemu::Accelerator;
use slipway_qemu::argv::argv;
use slipway_qemu::machine::{
    Arch, Boot, Cache, Disk, DiskFormat, FwCfg, Lan, LanPort, Machine, Mebibytes, OnReboot,
};
use slipway_qemu::raspi;

fn check(name: &str, machine: &Machine) {
    let mut shown = format!("{}\n", machine.arch.program());
    for argument in argv(machine) {
        let argument = argument.to_str().unwrap();
        // An option and its value on one line.
        if argument.starts_with('-') {
            shown.push_str(argument);
            shown.push('\n');
        } else {
            shown.pop();
            shown.push(' ');
            shown.push_str(argument);
            shown.push('\n');
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &shown).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(shown, golden, "{name} differs; see the top of this file");
}

/// What `slipway run` starts.
fn node() -> Machine {
    let mut machine = Machine::new(
        "node1".parse().unwrap(),
        Arch::X86_64,
        Accelerator::Tcg,
        Boot::Firmware {
            code: "/usr/share/OVMF/OVMF_CODE_4M.fd".into(),
            vars: "vars.fd".into(),
            secure: false,
        },
    );
    machine.cpus = NonZeroU16::new(2).unwrap();
    machine.memory = Mebibytes(2048);
    machine.disks = vec![Disk {
        path: "overlay.qcow2".into(),
        format: DiskFormat::Qcow2,
        cache: Cache::Writeback,
        read_only: false,
    }];
    machine.network = Some(vec![
        "6443:6443".parse().unwrap(),
        "0.0.0.0:5353:53/udp".parse().unwrap(),
    ]);
    machine.fw_cfg = vec![FwCfg {
        name: "opt/slipway/user-data".into(),
        path: "user-data".into(),
    }];
    machine.watchdog = true;
    machine
}

#[test]
fn a_node_under_uefi() {
    check("x86_64-uefi-tcg", &node());
}

#[test]
fn a_node_under_kvm() {
    let mut machine = node();
    machine.accelerator = Accelerator::Kvm;
    check("x86_64-uefi-kvm", &machine);
}

#[test]
fn a_node_under_secure_boot() {
    let mut machine = node();
    machine.boot = Boot::Firmware {
        code: "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd".into(),
        vars: "vars.fd".into(),
        secure: true,
    };
    check("x86_64-secure-boot", &machine);
}

/// A server and an agent, as `slipway run --lan` and `--join` make them.
#[test]
fn two_nodes_on_a_network() {
    let mut hub = node();
    hub.lan = Some(Lan::Hub);
    let port = LanPort::all().next().unwrap();
    check("x86_64-lan-hub", &hub);
    let mut member = node();
    member.lan = Some(Lan::Member {
        hub: "../one".into(),
        port,
    });
    check("x86_64-lan-member", &member);
}

#[test]
fn direct_kernel_boot_that_ends_on_panic() {
    let mut machine = node();
    machine.boot = Boot::Kernel {
        kernel: "/boot/vmlinuz".into(),
        initrd: Some("/boot/initrd.img".into()),
        cmdline: "console=ttyS0 panic=-1 root=UUID=1,2".into(),
    };
    machine.on_reboot = OnReboot::Exit;
    machine.incoming = true;
    machine.tpm = true;
    check("x86_64-kernel", &machine);
}

/// What `slipway run pi4` starts.
#[test]
fn a_raspberry_pi() {
    let mut machine = node();
    machine.arch = Arch::Aarch64;
    machine.boot = Boot::RaspberryPi4 {
        u_boot: "u-boot.bin".into(),
        device_tree: "raspi4b.dtb".into(),
    };
    machine.cpus = NonZeroU16::new(raspi::CPUS).unwrap();
    machine.memory = raspi::MEMORY;
    machine.fw_cfg.clear();
    machine.watchdog = false;
    machine.disks.push(Disk {
        path: "stick.img".into(),
        format: DiskFormat::Raw,
        cache: Cache::Unsafe,
        read_only: true,
    });
    check("aarch64-raspi4b", &machine);
}

/// A comma in a path must not begin another option.
#[test]
fn paths_with_commas_stay_paths() {
    let mut machine = Machine::new(
        "commas".parse().unwrap(),
        Arch::X86_64,
        Accelerator::Tcg,
        Boot::Builtin,
    );
    machine.disks = vec![Disk {
        path: "/a,readonly=on/disk,1.img".into(),
        format: DiskFormat::Raw,
        cache: Cache::Unsafe,
        read_only: true,
    }];
    machine.fw_cfg = vec![FwCfg {
        name: "opt/x".into(),
        path: "/seeds/a,b".into(),
    }];
    machine.serial = Some("ds=nocloud;s=http://10.0.2.2/a,b/".into());
    machine.debug_exit = true;
    check("x86_64-commas", &machine);
}

#[test]
fn arm_boards() {
    for (arch, golden) in [
        (Arch::Aarch64, "aarch64-uefi-tcg"),
        (Arch::Armv7, "armv7-uefi-tcg"),
    ] {
        let mut machine = node();
        machine.arch = arch;
        machine.boot = Boot::Firmware {
            code: "/usr/share/AAVMF/AAVMF_CODE.fd".into(),
            vars: "vars.fd".into(),
            secure: false,
        };
        check(golden, &machine);
    }
}
