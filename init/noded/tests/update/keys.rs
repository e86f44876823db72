//! Keys that an update brings: whom the node believes, and from when on.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use serde_json::json;
use slipway_images::bundle::KIND;
use slipway_images::slot::{Slot, State};

use super::common::{Node, Owner, until};
use super::maker::{Draft, Version, key, public, sign};
use super::{DISK, bundle, push, root, runs, slots_from};

const STORE: &str = "var/lib/slipway/update/keys/committed";

/// The head of a bundle that brings keys.
pub fn bringing(version: &Version, keys: &[u8], by: u8) -> Vec<u8> {
    let json = serde_json::to_vec(&draft(version, keys).manifest).unwrap();
    sign(&KIND, &json, &key(by))
}

fn draft(version: &Version, keys: &[u8]) -> Draft {
    let mut draft = Draft::new(version, &[]);
    draft.manifest.next_keys = keys.iter().map(|seed| public(&key(*seed))).collect();
    draft
}

/// The node has these heads of bundles that were committed.
pub fn store(root: &Path, heads: &[u8]) {
    fs::create_dir_all(root.join(STORE).parent().unwrap()).unwrap();
    fs::write(root.join(STORE), heads).unwrap();
}

/// A boot of the version in this slot, whose image trusts these keys.
fn boot(node: Node, slot: Slot, version: &Version, trusted: &[u8]) -> Node {
    let dir = node.stop();
    let root = dir.path();
    runs(root, version, trusted);
    let slaves = root.join("sys/dev/block/254:0/slaves");
    fs::remove_dir_all(&slaves).unwrap();
    fs::create_dir(&slaves).unwrap();
    let device = match slot {
        Slot::A => "vda2",
        Slot::B => "vda3",
    };
    symlink(root.join(DISK).join(device), slaves.join(device)).unwrap();
    let mut slots = slots_from(root, slot);
    let id = format!("a boot of {}", version.name());
    let hash = version.root_hash().to_string();
    slots.arrive(&id, &version.name(), &hash).unwrap();
    fs::write(
        root.join("run/slipway/slots.json"),
        json!(slots.status()).to_string(),
    )
    .unwrap();
    Node::start_in(dir, &[])
}

/// As init does, while noded runs.
fn commit(node: &Node, slot: Slot) {
    let mut slots = slots_from(node.root.path(), slot);
    slots.commit().unwrap();
    assert_eq!(slots.status().of(slot).state, State::Good);
    node.write("run/slipway/slots.json", &json!(slots.status()).to_string());
}

/// What the node says of a bundle.
fn says(node: &Node, owner: &Owner, bytes: &[u8]) -> String {
    let (last, _) = push(node, owner, bytes.to_vec(), "reboot=never");
    match last["note"].as_str() {
        Some(note) => note.to_owned(),
        None => last["state"].as_str().unwrap().to_owned(),
    }
}

#[test]
fn the_next_key_counts_from_the_commit_on() {
    let owner = Owner::new();
    let old = Version::first();
    let (new, third) = (old.next(), old.next().next());
    let by_next = Draft::new(&third, &[]).bundle(&key(2));
    let stranger = "signed with the key";
    let refuses = |node: &Node, bytes: &[u8]| {
        let note = says(node, &owner, bytes);
        assert!(note.contains(stranger), "{note}");
        assert!(!note.contains("isn't as it was written"), "{note}");
    };
    let node = Node::start_in(root(&owner, &old, json!({})), &[]);
    let rotates = draft(&new, &[2]).bundle(&key(1));
    assert_eq!(says(&node, &owner, &rotates), "staged");
    refuses(&node, &by_next);
    // On trial, after a fallback, and on trial again.
    let node = boot(node, Slot::B, &new, &[1]);
    refuses(&node, &by_next);
    let node = boot(node, Slot::A, &old, &[1]);
    refuses(&node, &by_next);
    let node = boot(node, Slot::B, &new, &[1]);
    refuses(&node, &by_next);
    assert!(!node.at(STORE).exists());
    commit(&node, Slot::B);
    until("the key counts", || node.at(STORE).exists());
    let kept = fs::read_dir(node.at(STORE).parent().unwrap()).unwrap();
    assert_eq!(kept.count(), 1);
    assert_eq!(says(&node, &owner, &by_next), "staged");

    // What it brings runs, and its image knows the old key alone: both count.
    let node = boot(node, Slot::A, &third, &[1]);
    commit(&node, Slot::A);
    let fourth = third.next();
    assert_eq!(says(&node, &owner, &bundle(&fourth, &[])), "staged");
    let by_next = Draft::new(&fourth, &[]).bundle(&key(2));
    assert_eq!(says(&node, &owner, &by_next), "staged");
    // One that knows the new key alone: the old one is withdrawn.
    let node = boot(node, Slot::B, &fourth, &[2]);
    commit(&node, Slot::B);
    let fifth = fourth.next();
    refuses(&node, &bundle(&fifth, &[]));
    let by_next = Draft::new(&fifth, &[]).bundle(&key(2));
    assert_eq!(says(&node, &owner, &by_next), "staged");
}

#[test]
fn a_store_of_keys_that_was_changed_is_not_believed() {
    let owner = Owner::new();
    let old = Version::first();
    let new = old.next();
    let by_next = Draft::new(&new, &[]).bundle(&key(2));
    let node = Node::start_in(root(&owner, &old, json!({})), &[]);
    let head = bringing(&old, &[2], 1);
    let flipped = |at: usize| {
        let mut head = head.clone();
        head[at] ^= 1;
        head
    };
    let spoilt = [
        ("magic", flipped(0)),
        ("format", flipped(8)),
        ("length", flipped(12)),
        ("key", flipped(40)),
        ("signature", flipped(head.len() - 1)),
        ("cut", head[..head.len() - 1].to_vec()),
        ("more", [&head[..], b"x"].concat()),
    ];
    for (what, spoilt) in spoilt {
        store(node.root.path(), &spoilt);
        let note = says(&node, &owner, &by_next);
        assert!(note.contains("signed with the key"), "{what}: {note}");
        assert!(note.contains("isn't as it was written"), "{what}: {note}");
    }
    // Of somebody who has keys of his own.
    store(node.root.path(), &bringing(&old, &[2], 3));
    let note = says(&node, &owner, &by_next);
    assert!(note.contains("signed with the key"), "{note}");
    // The image's key still counts; and the right one does.
    store(node.root.path(), &flipped(40));
    assert_eq!(says(&node, &owner, &bundle(&new, &[])), "staged");
    store(node.root.path(), &head);
    assert_eq!(says(&node, &owner, &by_next), "staged");
}

#[test]
fn keys_that_cannot_be_kept_are_said_before_anything_is_written() {
    let owner = Owner::new();
    let old = Version::first();
    let dir = root(&owner, &old, json!({}));
    let updates = dir.path().join("var/lib/slipway/update");
    fs::create_dir_all(&updates).unwrap();
    fs::write(updates.join("keys"), "no directory").unwrap();
    let node = Node::start_in(dir, &[]);
    let rotates = draft(&old.next(), &[2]).bundle(&key(1));
    let note = says(&node, &owner, &rotates);
    assert!(note.contains("brings can't be kept"), "{note}");
    super::is_untouched(&node);
}
