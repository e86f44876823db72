//! Images of the other boards, as far as they can be emulated: each is a cluster, too. They take
//! a build for a processor of their own, so they are `make test-boards`' and not CI's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use slipway::run::raspi::files;
use slipway_images::node::PORT;
use slipway_qemu::harness::Setup;
use slipway_qemu::machine::{Arch, Mebibytes, OnReboot};
use slipway_qemu::raspi;

use super::flashed::{NODE, Owned, seeds, slipway};
use super::joined::Pair;
use super::machine::{Cluster, MINUTE, image_of, run};
use super::slots::staged_on;

/// It gets Ready, has its DNS, and leaves its disk as it should.
fn is_a_cluster(mut cluster: Cluster, architecture: &str) {
    cluster.wait_ready();
    let path = "jsonpath={.items[0].status.nodeInfo.architecture}";
    assert_eq!(cluster.kubectl(&["get", "nodes", "-o", path]), architecture);
    cluster.wait_dns();
    cluster.node.power_down(2 * MINUTE);
    let console = cluster.node.console();
    assert!(!console.contains("FAILED"), "{console}");
    cluster.data_is_clean();
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn board_arm64_uefi_is_a_cluster() {
    let image = image_of("SLIPWAY_ARM64_IMAGE", "arm64-uefi");
    is_a_cluster(
        Cluster::of_board(Arch::Aarch64, image, false, 2048),
        "arm64",
    );
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn board_armv7_is_a_cluster() {
    is_a_cluster(
        Cluster::of_board(Arch::Armv7, armv7(), true, ARMV7_MEMORY),
        "arm",
    );
}

/// What the boards of this kind mostly have.
const ARMV7_MEMORY: u32 = 1024;

fn armv7() -> PathBuf {
    image_of("SLIPWAY_ARMV7_IMAGE", "armv7")
}

fn armv7_setup() -> Setup {
    let mut setup = Setup::new(armv7());
    setup.arch = Arch::Armv7;
    setup.u_boot = true;
    setup.memory = Mebibytes(ARMV7_MEMORY);
    setup.on_reboot = OnReboot::Restart;
    setup
}

/// Through a power cut in its first try.
fn commits_a_healthy_version(setup: Setup, board: &str) {
    let u_boot = setup.u_boot;
    let mut owned = staged_on(setup, board, |_| {}, |_| {});
    if u_boot {
        owned.node.wait_console("Slipway: slot b, 3", 2 * MINUTE);
    }
    owned.wait_phases(&[("slots", "b trial, runs, 2 more tries")]);
    owned.node.cut_power();
    owned.node.power_on();
    let line = owned.node.wait_console("] slots ", 6 * MINUTE);
    assert!(line.contains("b trial, runs, 2 more tries"), "{line}");
    owned
        .node
        .wait_console("slot b is committed: healthy for 5s", 15 * MINUTE);
    owned.operator(&["reboot"]);
    if u_boot {
        owned.node.wait_console("Slipway: slot b, good", 2 * MINUTE);
    }
    owned.wait_phases(&[("slots", "a good; b good, runs"), ("trial", "not on trial")]);
    owned.node.power_down(2 * MINUTE);
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn board_armv7_commits_a_version_that_is_healthy() {
    commits_a_healthy_version(armv7_setup(), "armv7");
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn board_arm64_uefi_commits_a_version_that_is_healthy() {
    let mut setup = Setup::new(image_of("SLIPWAY_ARM64_IMAGE", "arm64-uefi"));
    setup.arch = Arch::Aarch64;
    setup.on_reboot = OnReboot::Restart;
    commits_a_healthy_version(setup, "arm64-uefi");
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn board_armv7_falls_back_from_a_version_that_never_gets_up() {
    let broken = |root: &Path| {
        let gone = "rm /usr/lib/slipway/init";
        run(Command::new("debugfs").args(["-w", "-R", gone]).arg(root));
    };
    let mut owned = staged_on(armv7_setup(), "armv7", |_| {}, broken);
    for left in ["3", "2", "1"] {
        owned
            .node
            .wait_console(&format!("Slipway: slot b, {left}"), 6 * MINUTE);
    }
    owned.node.wait_console("Slipway: slot a, good", 6 * MINUTE);
    let line = owned.node.wait_console("] slots ", 6 * MINUTE);
    assert!(line.contains("a good, runs; b bad, the new one"), "{line}");
    owned.node.power_down(2 * MINUTE);
}

/// An agent of a server with another processor: what runs on it comes from its own image.
#[test]
#[ignore = "boots two machines: run with --ignored"]
fn board_armv7_is_an_agent_of_an_x86_64_server() {
    let pair = Pair::start(&armv7(), "512M");
    let path = "jsonpath={.items[*].status.nodeInfo.architecture}";
    assert_eq!(pair.kubectl(&["get", "nodes", "-o", path]), "amd64 arm");
    pair.pods_reach_each_other();
}

/// On QEMU's model of the board: its card, its serial port, the U-Boot that is built for it, and
/// network on USB. A cluster takes it longer than is bearable; that it begins is enough.
#[test]
#[ignore = "boots a machine: run with --ignored"]
fn board_pi4_starts_on_a_raspberry_pi() {
    let scratch = seeds();
    let at = |path: &str| scratch.path().join(path);
    // One of the image's.
    let user_txt = at("home").join(NODE).join("user.txt");
    fs::write(user_txt, "overlays=pi4-spidev\n").unwrap();
    run(slipway()
        .arg("flash")
        .args([&image_of("SLIPWAY_PI4_IMAGE", "pi4"), &at("card")])
        .arg("--seed")
        .arg(at("home").join(NODE))
        .arg("--yes"));
    let (u_boot, tree) = files(&at("card")).unwrap().expect("a Pi's image");
    fs::write(at("u-boot.bin"), u_boot).unwrap();
    fs::write(at("tree.dtb"), raspi::adapt(&tree).unwrap()).unwrap();
    let mut setup = Setup::new(at("card"));
    setup.arch = Arch::Aarch64;
    setup.raspi = Some((at("u-boot.bin"), at("tree.dtb")));
    setup.cpus = raspi::CPUS;
    setup.memory = raspi::MEMORY;
    setup.watchdog = false;
    setup.ports = vec![PORT];
    setup.on_reboot = OnReboot::Restart;
    let mut owned = Owned::boot(setup, scratch);
    for start in 1..=3 {
        owned.node.wait_console("Slipway: slot a, good", 4 * MINUTE);
        let line = owned.node.wait_console("] disk ", 6 * MINUTE);
        assert!(line.contains("mmcblk0, root is partition 3"), "{line}");
        owned.wait_phases(&[("seed", "from the boot partition"), ("network", "eth0")]);
        owned.node.wait_for("clusterd starts", 5 * MINUTE, |node| {
            let started = node.console().matches("clusterd: started").count();
            (started >= start).then_some(()).ok_or("it hasn't")
        });
        match start {
            1 => {
                let spi = "cd /proc/device-tree/soc/spi@7e204000; cat status spidev@0/compatible";
                let tree = owned.shell(spi);
                assert!(tree.contains("okay") && tree.contains("lwn,bk4"), "{tree}");
                owned.operator(&["reboot"]);
            }
            2 => {
                owned.node.cut_power();
                owned.node.power_on();
            }
            _ => {}
        }
    }
    owned.node.power_down(3 * MINUTE);
    let console = owned.node.console();
    assert!(!console.contains("FAILED"), "{console}");
}
