//! A new version in slot b, from its first try to its commit, and one that never gets up.
//!
//! The disk is made on this host as an update would leave it: a copy of slot a in slot b with
//! another root, staged by the library that the node uses.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use slipway::formats::verity;
use slipway::progress::{Progress, Style};
use slipway_images::layout::{self, Partition, Sectors, Table};
use slipway_images::node::PORT;
use slipway_images::slot::{
    Area, BootMethod, Disk, Plan, Slot, Slots, SystemdBoot, UBoot, Verified,
};
use slipway_images::verity::{BLOCK, RootHash, Superblock};
use slipway_qemu::harness::Setup;
use slipway_qemu::machine::OnReboot;

use super::flashed::{NODE, Owned, encrypted, seeds, slipway};
use super::machine::{MINUTE, image, run};

const DISK: u64 = 16 << 30;
const NEW_ROOT: &str = "5c1b0b5e-7d0c-4b52-9a6e-3a3c27a0f0b1";

/// A partition of a disk's image.
struct Part(File, Partition);

/// A later version than that in slot a of a card, for its slot b.
pub struct Later {
    /// The card's partitions, with those that a first boot makes.
    pub table: Table,
    /// All of slot b.
    pub root: Vec<u8>,
    /// Its kernel image.
    pub kernel: Vec<u8>,
    pub plan: Plan,
}

impl Disk for Part {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, self.1.offset().get() + offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, self.1.offset().get() + offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A machine whose slot b is staged; `choose` does something to the seed on its card, `change` to
/// the root in that slot.
fn staged(choose: impl FnOnce(&Path), change: impl FnOnce(&Path)) -> Owned {
    let mut setup = Setup::new(image());
    setup.on_reboot = OnReboot::Restart;
    staged_on(setup, "x86_64", choose, change)
}

/// The same on another machine, whose setup has the image of a board.
pub fn staged_on(
    mut setup: Setup,
    board: &str,
    choose: impl FnOnce(&Path),
    change: impl FnOnce(&Path),
) -> Owned {
    let scratch = seeds();
    let at = |path: &str| scratch.path().join(path);
    let seed = at("home").join(NODE);
    let text = fs::read_to_string(seed.join("user-data")).unwrap();
    let text = text.replacen(
        "slipway:\n",
        "slipway:\n  update: {dwell: 5s, deadline: 15m}\n",
        1,
    );
    fs::write(seed.join("user-data"), text).unwrap();
    choose(&seed);
    let card = at("card");
    let mut flash = slipway();
    flash
        .arg("flash")
        .args([&setup.image, &card])
        .arg("--seed")
        .arg(&seed);
    run(flash.arg("--yes"));
    let later = later(&card, board, change);
    let part = |name: &str| later.table.partition(name).unwrap().clone();
    let open = || File::options().read(true).write(true).open(&card).unwrap();
    let mut root = Part(open(), part(Slot::B.root()));
    root.write_at(0, &later.root).unwrap();
    let mut slots = Slots::load(boot(&later.table, &open), Slot::A).unwrap();
    let mut writing = slots.inactive().unwrap().begin(&later.plan).unwrap();
    writing.write(0, &later.kernel).unwrap();
    writing
        .finish(Verified::digests_right_and_root_flushed())
        .unwrap();
    drop(slots);

    setup.image = card;
    setup.ports = vec![PORT];
    Owned::boot(setup, scratch)
}

/// The boot mechanism of a disk with this table, which `open` opens.
fn boot(table: &Table, open: &dyn Fn() -> File) -> Box<dyn BootMethod> {
    let part = |name: &str| table.partition(name).unwrap().clone();
    let area = |slot: Slot| {
        let partition = part(slot.boot());
        let size = partition.size().get();
        let disk = Part(open(), partition);
        Some(Area { disk, size })
    };
    match table.partition(layout::ESP) {
        Some(esp) => Box::new(SystemdBoot::open(Part(open(), esp.clone())).unwrap()),
        None => {
            let firmware = Part(open(), part(layout::FIRMWARE));
            Box::new(UBoot::open(firmware, area(Slot::A), area(Slot::B)).unwrap())
        }
    }
}

/// Makes one for a board, of which nothing is written but the table.
pub fn later(card: &Path, board: &str, change: impl FnOnce(&Path)) -> Later {
    let scratch = tempfile::tempdir().unwrap();
    let table = grown(card);
    let part = |name: &str| table.partition(name).unwrap().clone();
    let open = || File::open(card).unwrap();

    // What is started of it, which names its root by the root hash.
    let size = match table.partition(layout::ESP) {
        Some(esp) => payload_size(card, esp),
        None => part(Slot::A.boot()).size().get() as usize,
    };
    let mut uki = vec![0; size];
    boot(&table, &open).read(Slot::A, 0, &mut uki).unwrap();
    let key = b"roothash=";
    let found = uki.windows(key.len()).position(|w| w == key).unwrap() + key.len();
    let old: RootHash = std::str::from_utf8(&uki[found..found + 64])
        .unwrap()
        .parse()
        .unwrap();

    // Its root: the same with another UUID, and a tree for that.
    let root = scratch.path().join("root");
    let (a, b) = (part("root-a"), part("root-b"));
    let mut bytes = vec![0; a.size().get() as usize];
    Part(open(), a).read_at(0, &mut bytes).unwrap();
    let filesystem = tree_offset(&bytes, &old);
    bytes.truncate(filesystem as usize);
    fs::write(&root, &bytes).unwrap();
    run(Command::new("tune2fs").args(["-U", NEW_ROOT]).arg(&root));
    change(&root);
    let grown = File::options().read(true).write(true).open(&root).unwrap();
    grown.set_len(b.size().get()).unwrap();
    let place = verity::Slot {
        offset: 0,
        size: b.size().get(),
        filesystem,
        board,
    };
    let progress = Progress::with_style(Style::Quiet);
    let hash = verity::append(&grown, place, 1, &progress)
        .unwrap()
        .root_hash;
    let hash = hash.to_string();
    uki[found..found + hash.len()].copy_from_slice(hash.as_bytes());
    Later {
        root: fs::read(&root).unwrap(),
        plan: Plan {
            version: "the new one".into(),
            release: 2,
            root: hash,
            payload: uki.len() as u32,
        },
        kernel: uki,
        table,
    }
}

/// Where the tree of this root hash begins behind the filesystem.
fn tree_offset(slot: &[u8], hash: &RootHash) -> u64 {
    slot.chunks_exact(BLOCK as usize)
        .enumerate()
        .find_map(|(n, block)| {
            let superblock = Superblock::parse(block.first_chunk()?).ok()?;
            (superblock.uuid == hash.uuid()).then_some(n as u64 * BLOCK)
        })
        .unwrap()
}

/// The disk with slot b, as a first boot makes it.
fn grown(card: &Path) -> Table {
    let mut file = File::options().read(true).write(true).open(card).unwrap();
    file.set_len(DISK).unwrap();
    let found = layout::read(&mut file, Sectors::new(DISK / 512)).unwrap();
    let table = layout::grow(&found, b"test").unwrap().unwrap();
    layout::write(&mut file, &table, |_| Ok(())).unwrap();
    table
}

/// Bytes of slot a's kernel image, as mtools see it.
fn payload_size(card: &Path, esp: &Partition) -> usize {
    let image = format!("{}@@{}", card.display(), esp.offset().get());
    let name = format!("::/EFI/Linux/{}", slipway_images::slot::shipped_name());
    let out = Command::new("mtype")
        .args(["-i", &image, &name])
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    out.stdout.len()
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn a_new_version_is_tried_and_committed_when_it_is_healthy() {
    let mut owned = staged(|_| {}, |_| {});
    let trial = [("slots", "b trial, runs, 2 more tries")];
    owned.wait_phases(&trial);
    let status = owned.operator(&["status"]);
    // The version is the one that its root says, as soon as that runs.
    assert!(status.contains("slot        b trial, "), "{status}");
    // A reboot in order gives the try back...
    owned.operator(&["reboot"]);
    // ...and so does a power cut.
    let line = owned.node.wait_console("] slots ", 6 * MINUTE);
    assert!(line.contains(trial[0].1), "{line}");
    owned.node.cut_power();
    owned.node.power_on();
    let line = owned.node.wait_console("] slots ", 6 * MINUTE);
    assert!(line.contains(trial[0].1), "{line}");
    owned
        .node
        .wait_console("slot b is committed: healthy for 5s", 12 * MINUTE);
    let status = owned.operator(&["status"]);
    assert!(status.contains("slot        b good"), "{status}");
    owned.operator(&["reboot"]);
    owned.wait_phases(&[("slots", "a good; b good, runs"), ("trial", "not on trial")]);
    owned.node.power_down(2 * MINUTE);
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn a_version_that_never_gets_up_is_left_and_the_old_one_says_why() {
    let broken = |root: &Path| {
        let gone = "rm /usr/lib/slipway/init";
        run(Command::new("debugfs").args(["-w", "-R", gone]).arg(root));
    };
    // What it keeps is encrypted with a passphrase, since the node has no TPM.
    let with_passphrase = |seed: &Path| {
        encrypted(seed, "passphrase-file");
        fs::write(seed.join("passphrase"), "correct horse battery staple\n").unwrap();
    };
    let mut owned = staged(with_passphrase, broken);
    for _ in 0..slipway_images::slot::TRIES {
        owned
            .node
            .wait_console("switching to the root failed", 6 * MINUTE);
    }
    let line = owned.node.wait_console("] slots ", 6 * MINUTE);
    assert!(line.contains("a good, runs; b bad, the new one"), "{line}");
    owned.wait_phases(&[(
        "data",
        "encrypted, its key kept by the seed's passphrase, filesystem made",
    )]);
    let status = owned.operator(&["status"]);
    let why = "b bad, the new one: it didn't get far enough to say why";
    assert!(status.contains(why), "{status}");
    owned.operator(&["reboot"]);
    owned.wait_phases(&[
        ("slots", "a good, runs; b bad, the new one"),
        ("data", "encrypted, opened by the seed's passphrase"),
    ]);
    owned.node.power_down(2 * MINUTE);
}
