//! What an update takes in memory, in a process of its own.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::process::Command;

use slipway_images::bundle::manifest::{PREFIX_LIMIT, SEGMENT_LIMIT};
use slipway_images::bundle::{Allow, Apart, Bundle, NodeFacts, Places};
use slipway_images::verity::{self, RootHash};

use super::maker::{BOARD, Draft, Version, compress, key, noise, public, stored};
use super::node::Partition;

const DIR: &str = "SLIPWAY_TEST_MEMORY";
/// Bytes of the root.
const ROOT: usize = 48 << 20;

#[test]
fn an_update_of_the_largest_pieces_takes_less_than_64_mib() {
    let (old, new) = (noise(ROOT, 1), noise(ROOT, 1));
    let old = Version {
        number: 1,
        kernel: vec![1],
        root: old,
    };
    let mut new = Version {
        number: 2,
        kernel: vec![2],
        root: new,
    };
    // The first segment can't be compressed and is fetched alone; the others are deltas with
    // the longest of prefixes.
    for (n, byte) in new.root.iter_mut().enumerate() {
        match n / SEGMENT_LIMIT as usize {
            0 => *byte = byte.wrapping_mul(37).wrapping_add((n >> 3) as u8),
            _ if n % 100_000 == 0 => *byte ^= 0x80,
            _ => {}
        }
    }
    let mut draft = Draft::new(&new, &[&old]);
    draft.manifest.segment_size = SEGMENT_LIMIT;
    draft.pieces.clear();
    let deltas = &mut draft.manifest.bases[0].deltas;
    let template = deltas[deltas.len() - 1];
    deltas.clear();
    for name in slipway_images::bundle::PayloadName::BOTH {
        let of = new.payload(name);
        let segments = of.chunks(SEGMENT_LIMIT as usize).map(|bytes| {
            draft.pieces.push(compress(bytes, &[]));
            slipway_images::bundle::manifest::Segment {
                sha256: slipway_images::bundle::Digest::of(bytes),
                stored: Some(stored(&draft.pieces[draft.pieces.len() - 1])),
            }
        });
        let segments = segments.collect();
        match name {
            slipway_images::bundle::PayloadName::Kernel => {
                draft.manifest.kernel.segments = segments
            }
            slipway_images::bundle::PayloadName::Root => draft.manifest.root.segments = segments,
        }
    }
    for n in 1..ROOT / SEGMENT_LIMIT as usize {
        let from = (n * SEGMENT_LIMIT as usize).min(ROOT - PREFIX_LIMIT as usize);
        let bytes = &new.root[n * SEGMENT_LIMIT as usize..][..SEGMENT_LIMIT as usize];
        draft.pieces.push(compress(
            bytes,
            &old.root[from..from + PREFIX_LIMIT as usize],
        ));
        deltas.push(slipway_images::bundle::manifest::Delta {
            segment: n as u32,
            from: from as u64,
            len: PREFIX_LIMIT,
            stored: stored(&draft.pieces[draft.pieces.len() - 1]),
            ..template
        });
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("bundle"), draft.bundle(&key(1))).unwrap();
    fs::write(dir.path().join("old"), &old.root).unwrap();
    fs::write(dir.path().join("hash"), old.root_hash().to_string()).unwrap();

    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::takes_it", "--ignored", "--nocapture"])
        .env(DIR, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}");
    let peak = said
        .lines()
        .find_map(|line| line.strip_prefix("peak KiB: "));
    let peak: u64 = peak.unwrap().parse().unwrap();
    println!("an update took {peak} KiB");
    assert!(peak < 64 << 10, "{peak} KiB");
}

#[test]
#[ignore = "the other process of the test above"]
fn takes_it() {
    let Some(dir) = std::env::var_os(DIR).map(std::path::PathBuf::from) else {
        return;
    };
    let mut bundle = File::open(dir.join("bundle")).unwrap();
    let hash: RootHash = fs::read_to_string(dir.join("hash"))
        .unwrap()
        .parse()
        .unwrap();
    let opened = Bundle::open(&mut bundle, &[public(&key(1))]).unwrap();
    let size = verity::end(ROOT as u64).unwrap();
    let facts = NodeFacts {
        board: BOARD,
        version: "0.1.0",
        release: 1,
        root_hash: Some(hash),
        slot_size: size,
        boot_room: 1 << 20,
        supports: &[],
        bad_versions: &[],
        firmware: None,
    };
    let admitted = opened.admit(&facts, Allow::default()).unwrap();
    let mut places = Places {
        root: &mut Partition::new(&[], size),
        running_root: Some(&mut File::open(dir.join("old")).unwrap()),
        kernel: &mut Apart(Partition::new(&[], 1)),
    };
    let mut watch = |_: &_| ControlFlow::Continue(());
    let prepared = admitted.prepare(&mut places, &mut watch).unwrap();
    prepared.run(&mut bundle, &mut places, &mut watch).unwrap();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    println!("peak KiB: {peak}");
}
