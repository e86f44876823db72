//! Ten power cuts in an update, each really booted: as far as PID 1 says which slot it is in.
//!
//! The update is done on this host by the library that the node uses, on a disk that records its
//! writes and flushes; the states between are those of `images/tests/slot/power.rs`, which judges
//! more of them by a model of the loader. `make test-power` runs both.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use slipway_images::layout::{ESP, Table};
use slipway_images::slot::{Disk as _, Slot, Slots, SystemdBoot, Verified};
use slipway_qemu::harness::{Node, Setup};

use super::disk::{Part, Recorder, Shown, part};
use super::machine::{MINUTE, image};
use super::recorded::{Dice, intervals};
use super::slots::{Later, later};

/// States that are booted.
const CUTS: usize = 10;
/// Bytes that are written at once.
const CHUNK: usize = 1 << 20;

fn place(disk: &std::rc::Rc<std::cell::RefCell<Recorder>>, table: &Table, name: &str) -> Part {
    let found = table.partition(name).unwrap();
    part(disk, found.offset().get(), found.size().get())
}

/// The slot that boots next, by the library, and whether the other could be booted.
fn next(state: &Shown, table: &Table) -> (Slot, bool) {
    let disk = Recorder::on(File::open(&state.path).unwrap());
    let boot = SystemdBoot::open(place(&disk, table, ESP)).unwrap();
    let status = Slots::load(boot, Slot::A).unwrap().status();
    let next = status.next.expect("something to boot");
    (next, status.b.tries_left.is_some())
}

#[test]
#[ignore = "boots a machine ten times: run with --ignored"]
fn each_of_ten_power_cuts_leaves_one_slot_to_boot() {
    let scratch = tempfile::tempdir().unwrap();
    let card = scratch.path().join("card");
    fs::copy(image(), &card).unwrap();
    let Later {
        table,
        root,
        kernel,
        plan,
    } = later(&card, "x86_64", |_| {});

    // What an update finds in the slot already, as after one that broke off, it doesn't write: here
    // all but the beginning, without which there is no root.
    let slot_b = table.partition(Slot::B.root()).unwrap().offset().get();
    let file = File::options().write(true).open(&card).unwrap();
    file.write_all_at(&root[8 * CHUNK..], slot_b + 8 * CHUNK as u64)
        .unwrap();
    drop(file);

    let disk = Recorder::on(File::open(&card).unwrap());
    let boot = SystemdBoot::open(place(&disk, &table, ESP)).unwrap();
    let mut slots = Slots::load(boot, Slot::A).unwrap();
    let mut partition = place(&disk, &table, Slot::B.root());
    let mut writing = slots.inactive().unwrap().begin(&plan).unwrap();
    for (n, bytes) in kernel.chunks(CHUNK).enumerate() {
        writing.write((n * CHUNK) as u64, bytes).unwrap();
    }
    for (n, bytes) in root[..8 * CHUNK].chunks(CHUNK).enumerate() {
        partition.write_at((n * CHUNK) as u64, bytes).unwrap();
    }
    partition.flush().unwrap();
    writing
        .finish(Verified::digests_right_and_root_flushed())
        .unwrap();
    drop(slots);
    let log = std::mem::take(&mut disk.borrow_mut().log);
    drop(disk);

    // Before each flush and at it: ten of them, from the first to the last.
    let intervals = intervals(&log);
    let states = 2 * intervals.len();
    assert!(states >= CUTS, "{states} states");
    let chosen: Vec<usize> = (0..CUTS).map(|n| n * (states - 1) / (CUTS - 1)).collect();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut shown = Shown::at(card);
    let mut booted = Vec::new();
    for (n, interval) in intervals.iter().enumerate() {
        for at_flush in [false, true] {
            shown.put(&match at_flush {
                false => interval.some(&mut dice),
                true => interval.flushed.clone(),
            });
            if chosen.contains(&(2 * n + usize::from(at_flush))) {
                booted.push(boots(&shown, &table, n, at_flush));
            }
            match at_flush {
                false => shown.restore(),
                true => shown.keep(),
            }
        }
    }
    assert_eq!(booted.len(), CUTS);
    // The old one until the new one is whole, and then that.
    assert!(booted.is_sorted(), "{booted:?}");
    assert_eq!((booted[0], booted[CUTS - 1]), ('a', 'b'));
}

/// Boots a state; gives the slot that PID 1 says it is in.
fn boots(state: &Shown, table: &Table, n: usize, at_flush: bool) -> char {
    let at = match at_flush {
        false => format!("before flush {}", n + 1),
        true => format!("at flush {}", n + 1),
    };
    let (next, second) = next(state, table);
    assert_eq!(second, next == Slot::B, "{at}: slot b is half a choice");
    // QEMU ends where the machine would start again: the first choice is the one that counts.
    let mut node = Node::boot(Setup::new(&state.path));
    let line = node.wait_console("] slots ", 6 * MINUTE);
    let runs = format!(
        "{next} {}, runs",
        if next == Slot::A { "good" } else { "trial" }
    );
    assert!(line.contains(&runs), "{at}: {line}");
    node.cut_power();
    next.letter()
}
