//! What runs before a slot is chosen, renewed through a real `noded`.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use slipway_images::firmware::{DIRECTORY, MANIFEST, Manifest, Piece, Place};
use slipway_images::slot::fat::Volume;
use slipway_images::slot::{Slot, State};

use super::common::{Node, Owner};
use super::maker::Version;
use super::{DISK, open, root, slots};

const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
const RAW: u64 = 128 << 10;

fn loader(version: &str) -> Vec<u8> {
    let mut loader = format!("MZ\0#### LoaderInfo: systemd-boot {version} ####\0").into_bytes();
    loader.resize(70_000, 7);
    loader
}

/// The image carries this loader, and the same for a place on the disk.
fn carry(root: &Path, loader: &[u8]) {
    let dir = root.join(DIRECTORY);
    fs::create_dir_all(&dir).unwrap();
    let places = [Place::File(LOADER.into()), Place::Raw(RAW)];
    let pieces = places.map(|place| Piece::new(place, loader)).to_vec();
    fs::write(dir.join(&pieces[0].sha256), loader).unwrap();
    let manifest = serde_json::to_vec(&Manifest { pieces }).unwrap();
    fs::write(dir.join(MANIFEST), manifest).unwrap();
}

/// A node that runs in slot a, with `old` as its loader, and says this of that slot.
fn node(owner: &Owner, old: &[u8], state: State) -> Node {
    let root = root(owner, &Version::first(), json!({}));
    let at = |path: &str| root.path().join(path);
    super::tool(
        "mmd",
        &["-i", at("dev/vda1").to_str().unwrap(), "::/EFI/BOOT"],
    );
    let mut volume = Volume::open(open(&at("dev/vda1"))).unwrap();
    let file = volume.create(LOADER, old.len() as u32).unwrap();
    volume.write(&file, 0, old).unwrap();
    volume.flush().unwrap();
    fs::write(at(DISK).join("uevent"), "DEVNAME=vda\n").unwrap();
    fs::write(at("dev/vda"), vec![0; 1 << 20]).unwrap();
    let mut status = slots(root.path()).status();
    status.a.state = state;
    let told = serde_json::to_vec(&status).unwrap();
    fs::write(at("run/slipway/slots.json"), told).unwrap();
    carry(root.path(), &loader("258"));
    Node::start_in(root, &[])
}

fn on_disk(node: &Node) -> Vec<u8> {
    let mut volume = Volume::open(open(&node.at("dev/vda1"))).unwrap();
    let file = volume.find(LOADER).unwrap().unwrap();
    let mut content = vec![0; file.size as usize];
    volume.read(&file, 0, &mut content).unwrap();
    content
}

fn states(firmware: &Value) -> Vec<&str> {
    let pieces = firmware["pieces"].as_array().unwrap().iter();
    pieces
        .map(|piece| piece["state"].as_str().unwrap())
        .collect()
}

#[test]
fn firmware_is_compared_and_renewed_by_operators() {
    let owner = Owner::new();
    let node = node(&owner, &loader("257"), State::Good);
    let shown = node.get(&owner.reader, "/v1/firmware").json();
    assert_eq!(states(&shown), ["differs", "missing"]);
    let first = &shown["pieces"][0];
    assert_eq!(first["place"], LOADER);
    assert_eq!(first["version"], "systemd-boot 257");
    assert_eq!(first["image"], "systemd-boot 258");
    assert_eq!(shown["pieces"][1]["place"], "the disk at 128 KiB");
    let status = node.get(&owner.reader, "/v1/status").json();
    assert_eq!(status["firmware"], shown);

    let refused = node.ask(&owner.reader, "POST", "/v1/firmware", None);
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(on_disk(&node) == loader("257"));

    let done = node.ask(&owner.operator, "POST", "/v1/firmware", None);
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(states(&done.json()), ["same", "same"]);
    assert!(on_disk(&node) == loader("258"));
    let disk = fs::read(node.at("dev/vda")).unwrap();
    assert!(disk[RAW as usize..].starts_with(&loader("258")));
    assert!(disk[..RAW as usize].iter().all(|byte| *byte == 0));
    let status = node.get(&owner.reader, "/v1/status").json();
    assert_eq!(states(&status["firmware"]), ["same", "same"]);
    // The slots are what they were.
    let after = slots(node.root.path()).status();
    assert_eq!((after.a.state, after.next), (State::Good, Some(Slot::A)));
    let events = node.get(&owner.reader, "/v1/events").text();
    assert!(
        events.contains("2 pieces of firmware were renewed"),
        "{events}"
    );
    assert!(events.contains("renews the firmware"), "{events}");
}

#[test]
fn firmware_waits_for_a_version_that_has_proved_itself() {
    let owner = Owner::new();
    let node = node(&owner, &loader("257"), State::Trial);
    let refused = node.ask(&owner.operator, "POST", "/v1/firmware", None);
    assert_eq!(refused.status, 409, "{}", refused.text());
    assert!(refused.text().contains("still to prove itself"));
    assert!(on_disk(&node) == loader("257"));
}

#[test]
fn a_damaged_image_renews_nothing() {
    let owner = Owner::new();
    let node = node(&owner, &loader("257"), State::Good);
    let piece = Piece::new(Place::Raw(RAW), &loader("258"));
    let mut damaged = loader("258");
    damaged[9000] ^= 1;
    fs::write(node.at(DIRECTORY).join(&piece.sha256), damaged).unwrap();
    let failed = node.ask(&owner.operator, "POST", "/v1/firmware", None);
    assert_eq!(failed.status, 500, "{}", failed.text());
    assert!(failed.text().contains("damaged"), "{}", failed.text());
    assert!(on_disk(&node) == loader("257"));
    assert!(
        fs::read(node.at("dev/vda"))
            .unwrap()
            .iter()
            .all(|b| *b == 0)
    );

    fs::remove_dir_all(node.at(DIRECTORY)).unwrap();
    let none = node.get(&owner.reader, "/v1/firmware");
    assert_eq!(none.status, 404, "{}", none.text());
}
