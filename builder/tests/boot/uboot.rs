//! The script that chooses a slot, run by U-Boot itself, from every kind of state that it can be
//! left in. What it starts are scripts that say so and restart the machine.

use std::path::{Path, PathBuf};

use slipway::formats::{fat, gpt, uimage};
use slipway::tree::Tree;
use slipway_images::layout::{Bytes, FIRMWARE, Partition, Sizes, Slot, TYPE_ROOT_ARM};
use slipway_images::slot::{CHOICE_FILES, CHOICE_SIZE, Choice, Standing};
use slipway_qemu::harness::{Node, Setup};
use slipway_qemu::machine::{Arch, DiskSize, Mebibytes, OnReboot};

use super::machine::MINUTE;

const SCRIPT: &str = include_str!("../../../distro/u-boot/boot.cmd");
const STARTS: &str = "echo this is slot ${area}; reset\n";
const BROKEN: [u8; CHOICE_SIZE] = [0xff; CHOICE_SIZE];

/// A disk with these copies, and slots with these scripts.
fn disk(dir: &Path, copies: [&[u8]; 2], slots: [&str; 2]) -> PathBuf {
    let sizes = Sizes {
        esp: Bytes::mib(64),
        boot: Some(Bytes::mib(40)),
        root: Bytes::mib(1),
        root_type: TYPE_ROOT_ARM,
        ..Sizes::X86_64
    };
    let mut table = sizes.shipped(b"seed").unwrap();
    let [_, boot_a, root_a] = &table.partitions[..] else {
        panic!("{table:?}")
    };
    let boot_b = Partition {
        name: Slot::B.boot().into(),
        guid: uuid::Uuid::from_u128(1),
        first: root_a.end(),
        ..boot_a.clone()
    };
    table.disk = Bytes::mib(256).sectors().unwrap();
    table.partitions.push(boot_b);
    let mut firmware = Tree::new();
    let script = uimage::script("choose", SCRIPT, 0);
    firmware.file("boot.scr", 0o644, script).unwrap();
    for (path, copy) in CHOICE_FILES.iter().zip(copies) {
        firmware.file(path, 0o644, copy.to_vec()).unwrap();
    }
    let path = dir.join("disk");
    gpt::assemble(&path, &table, |file, table| {
        let put = |tree: &Tree, name: &str| {
            let partition = gpt::partition(table, name)?;
            let options = fat::Options {
                size: partition.size().get(),
                label: "TEST".into(),
                serial: 1,
                epoch: 1_700_000_000,
            };
            fat::write(tree, file, partition.offset().get(), &options)
        };
        put(&firmware, FIRMWARE)?;
        for (slot, text) in Slot::BOTH.into_iter().zip(slots) {
            let mut area = Tree::new();
            if !text.is_empty() {
                area.file("slot.scr", 0o644, uimage::script("start", text, 0))?;
            }
            put(&area, slot.boot())?;
        }
        Ok(())
    })
    .unwrap();
    path
}

/// Boots, and reads these lines one after the other.
fn says(copies: [&[u8]; 2], slots: [&str; 2], lines: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(disk(dir.path(), copies, slots));
    setup.arch = Arch::Armv7;
    setup.u_boot = true;
    setup.memory = Mebibytes(512);
    setup.disk_size = DiskSize::gib(1);
    setup.watchdog = false;
    setup.on_reboot = OnReboot::Restart;
    let mut node = Node::boot(setup);
    for line in lines {
        node.wait_console(line, MINUTE);
    }
}

const A: &str = "this is slot 2";
const B: &str = "this is slot 4";

fn choice(first: Slot, a: Standing, b: Standing) -> [u8; CHOICE_SIZE] {
    Choice { first, a, b }.encode()
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn u_boot_takes_tries_away_and_falls_back() {
    let (good, tries) = (Standing::Good, Standing::Tries);
    let both = [STARTS; 2];
    let fresh = choice(Slot::B, good, tries(3));
    says(
        [&fresh, &fresh],
        both,
        &[
            "slot b, 3",
            B,
            "slot b, 2",
            B,
            "slot b, 1",
            B,
            "slot a, good",
            A,
        ],
    );
    let last = choice(Slot::B, good, tries(1));
    // One copy is enough, and is what is counted in.
    says([&BROKEN, &last], both, &["slot b, 1", B, "slot a, good", A]);
    says([&last, &BROKEN], both, &["slot b, 1", B, "slot a, good", A]);
    says(
        [&last, b"short"],
        both,
        &["slot b, 1", B, "slot a, good", A],
    );
    // Of two the first counts.
    says([&last, &fresh], both, &["slot b, 1", B, "slot a, good", A]);
    says(
        [&BROKEN, &BROKEN],
        both,
        &["both are tried", "slot a, good", A],
    );
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn u_boot_starts_what_there_is() {
    let (good, gone, none) = (Standing::Good, Standing::Tries(0), Standing::Nothing);
    let both = [STARTS; 2];
    let begun = choice(Slot::B, good, Standing::Writing(4 << 20));
    says([&begun, &begun], both, &["slot a, good", A]);
    let used_up = choice(Slot::B, gone, gone);
    says([&used_up, &used_up], both, &["slot b, 0", B]);
    let alone = choice(Slot::B, gone, none);
    says([&alone, &alone], both, &["slot a, 0", A]);
    // A good one that can't be loaded leaves it to the other; one on trial costs a try.
    let sound = choice(Slot::B, good, good);
    says(
        [&sound, &sound],
        [STARTS, ""],
        &["slot b, good", "slot b cannot be started", A],
    );
    let trial = choice(Slot::B, good, Standing::Tries(1));
    says(
        [&trial, &trial],
        [STARTS, "false"],
        &[
            "slot b, 1",
            "slot b cannot be started",
            "once more",
            "slot a, good",
            A,
        ],
    );
}
