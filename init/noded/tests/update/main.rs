//! Updates through a real `noded`: a boot partition that `mkfs.vfat` has made, two root
//! partitions in files, and bundles of another hand than the builder's.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests may panic"
)]

mod channels;
#[path = "../common/mod.rs"]
mod common;
mod firmware;
mod keys;
#[path = "../../../../images/tests/bundle/maker.rs"]
#[allow(dead_code, reason = "made for other tests, too")]
mod maker;
mod pushes;
#[path = "../common/ranges.rs"]
mod ranges;
mod reboots;
mod renewal;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use slipway_images::bundle::{Source, wire};
use slipway_images::slot::fat::Volume;
use slipway_images::slot::{DIRECTORY, RECORD_FILE, Slot, Slots, State, SystemdBoot, shipped_name};

use common::{Node, Owner, until, upgraded};
use maker::{BOARD, Draft, Version, key, public};
use ranges::{Mood, Server};

/// Bytes of a root partition.
const SLOT: u64 = 2 << 20;
const DISK: &str = "sys/devices/pci/vda";

/// A node that runs a version in slot a, with this `slipway.update` in its seed.
fn root(owner: &Owner, running: &Version, update: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    let write = |path: &str, content: &[u8]| {
        fs::create_dir_all(at(path).parent().unwrap()).unwrap();
        fs::write(at(path), content).unwrap();
    };
    for path in ["run/slipway", "var/lib/slipway", "var/log/slipway", "dev"] {
        fs::create_dir_all(at(path)).unwrap();
    }
    let mut seed: Value = serde_json::from_str(&owner.checked_seed()).unwrap();
    seed["update"] = update;
    write("run/slipway/seed.json", seed.to_string().as_bytes());
    write("etc/machine-id", b"0123456789abcdef0123456789abcdef\n");
    runs(dir.path(), running, &[1]);
    write(
        "proc/self/mountinfo",
        b"1 0 254:0 / / ro - ext4 /dev/dm-0 ro\n",
    );

    // The disk as the kernel shows it, with the root on slot a below dm-verity.
    write("sys/dev/block/254:0/uevent", b"DEVNAME=dm-0\n");
    fs::create_dir_all(at("sys/dev/block/254:0/slaves")).unwrap();
    for (device, name) in [("vda1", "esp"), ("vda2", "root-a"), ("vda3", "root-b")] {
        let event = format!("DEVNAME={device}\nPARTNAME={name}\n");
        write(&format!("{DISK}/{device}/uevent"), event.as_bytes());
    }
    symlink(at(DISK).join("vda2"), at("sys/dev/block/254:0/slaves/vda2")).unwrap();

    let esp = at("dev/vda1");
    let mkfs = ["-F", "32", "-s", "1", "-C", esp.to_str().unwrap(), "34816"];
    tool("mkfs.vfat", &mkfs);
    tool(
        "mmd",
        &["-i", esp.to_str().unwrap(), "::/EFI", "::/EFI/Linux"],
    );
    let mut volume = Volume::open(open(&esp)).unwrap();
    let path = format!("{DIRECTORY}/{}", shipped_name());
    let file = volume.create(&path, running.kernel.len() as u32).unwrap();
    volume.write(&file, 0, &running.kernel).unwrap();
    volume.create(RECORD_FILE, 8192).unwrap();
    volume.flush().unwrap();
    let mut runs = [&running.root[..], &running.tree().bytes].concat();
    runs.resize(SLOT as usize, 0);
    write("dev/vda2", &runs);
    write("dev/vda3", &maker::noise(SLOT as usize, 99));
    dir
}

/// What runs is this version, whose image trusts these keys.
fn runs(root: &Path, version: &Version, trusted: &[u8]) {
    let info = json!({
        "board": BOARD, "version": version.name(), "built": version.number, "kubernetes": "v1.36.3",
        "arch": "x86_64", "root_uuid": "00000000-0000-0000-0000-000000000007",
    });
    for dir in ["usr/lib/slipway", "proc"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::write(root.join("usr/lib/slipway/image.json"), info.to_string()).unwrap();
    let keys = root.join("usr/lib/slipway/update-keys");
    if keys.exists() {
        fs::remove_dir_all(&keys).unwrap();
    }
    fs::create_dir(&keys).unwrap();
    for seed in trusted {
        fs::write(keys.join(format!("{seed}.pem")), public(&key(*seed)).pem()).unwrap();
    }
    let line = format!("quiet roothash={}\n", version.root_hash());
    fs::write(root.join("proc/cmdline"), line).unwrap();
}

fn tool(program: &str, arguments: &[&str]) {
    let out = Command::new(program).args(arguments).output();
    let out = out.unwrap_or_else(|e| panic!("{program}: {e}; ci/setup installs it"));
    assert!(out.status.success(), "{program} {arguments:?}: {out:?}");
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn slots(root: &Path) -> Slots<SystemdBoot<File>> {
    slots_from(root, Slot::A)
}

/// Those of a node that runs what is in this slot.
fn slots_from(root: &Path, booted: Slot) -> Slots<SystemdBoot<File>> {
    let boot = SystemdBoot::open(open(&root.join("dev/vda1"))).unwrap();
    Slots::load(boot, booted).unwrap()
}

/// Slot b holds just this version and is what boots next, and the node says so.
fn has(node: &Node, version: &Version) {
    let status = slots(node.root.path()).status();
    assert_eq!((status.b.state, status.next), (State::Trial, Some(Slot::B)));
    assert_eq!(status.b.version, Some(version.name()));
    let told = fs::read(node.at("run/slipway/slots.json")).unwrap();
    assert_eq!(
        serde_json::from_slice::<Value>(&told).unwrap(),
        json!(status)
    );
    let wanted = [&version.root[..], &version.tree().bytes].concat();
    let written = fs::read(node.at("dev/vda3")).unwrap();
    assert!(written[..wanted.len()] == wanted);
}

/// Nothing of an update was begun.
fn is_untouched(node: &Node) {
    assert_eq!(slots(node.root.path()).status().b.state, State::Empty);
    let noise = maker::noise(SLOT as usize, 99);
    assert!(fs::read(node.at("dev/vda3")).unwrap() == noise);
}

fn update(node: &Node, owner: &Owner) -> Value {
    node.get(&owner.reader, "/v1/update").json()
}

/// Waits until the update has ended, and gives what is said of it.
fn ended(node: &Node, owner: &Owner) -> Value {
    let mut last = Value::Null;
    until("the update's end", || {
        last = update(node, owner);
        last["state"] != "running" && last["state"] != "none"
    });
    last
}

fn order(node: &Node, owner: &Owner, url: &str, more: Value) -> common::Reply {
    let mut order = json!({"url": url, "reboot": "never"});
    order
        .as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    node.ask(&owner.operator, "POST", "/v1/update", Some(&order))
}

fn bundle(new: &Version, olds: &[&Version]) -> Vec<u8> {
    Draft::new(new, olds).bundle(&key(1))
}

/// A bundle in memory, of which it is counted what is read.
struct Counted {
    bytes: Vec<u8>,
    read: u64,
}

impl Source for Counted {
    fn size(&mut self) -> std::io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let at = offset as usize;
        buffer.copy_from_slice(&self.bytes[at..at + buffer.len()]);
        self.read += buffer.len() as u64;
        Ok(())
    }
}

/// Pushes it: what the node says last, and how many bytes it wanted.
fn push(node: &Node, owner: &Owner, bytes: Vec<u8>, query: &str) -> (Value, u64) {
    let path = format!("/v1/update/push?{query}");
    let tls = upgraded(node, owner, &path, "slipway-bundle");
    let mut source = Counted { bytes, read: 0 };
    let told = |text: &str| drop(serde_json::from_str::<Value>(text).unwrap());
    let last = wire::serve(tls, &mut source, told).unwrap();
    (serde_json::from_str(&last).unwrap(), source.read)
}

#[test]
fn a_bundle_is_pushed_and_staged_and_only_what_is_missing_is_wanted() {
    let owner = Owner::new();
    let old = Version::first();
    let new = old.next();
    let node = Node::start_in(root(&owner, &old, json!({})), &[]);
    assert_eq!(update(&node, &owner)["state"], "none");
    let bytes = bundle(&new, &[&old]);
    let size = bytes.len() as u64;
    let (last, read) = push(&node, &owner, bytes, "reboot=never");
    assert_eq!(last["state"], "staged", "{last}");
    assert_eq!(last["version"], new.name());
    assert_eq!(last["from"], "pushed by ann");
    has(&node, &new);
    assert!(read < size / 2, "{read} of {size}");
    assert_eq!(update(&node, &owner)["state"], "staged");
    let events = node.get(&owner.reader, "/v1/events").text();
    assert!(
        events.contains("is staged: the next boot takes it"),
        "{events}"
    );
    // No debug build of it took more, either.
    let peak = node.kib("VmHWM");
    assert!(peak < 64 << 10, "{peak} KiB");
}

#[test]
fn a_fetch_goes_on_after_noded_was_killed() {
    let owner = Owner::new();
    let old = Version::first();
    // Nothing of it is there already.
    let new = Version {
        number: 2,
        kernel: maker::noise(300_000, 12),
        root: maker::noise(1 << 20, 11),
    };
    let bytes = bundle(&new, &[]);
    let size = bytes.len() as u64;
    let content = bytes.clone();
    // The head comes whole; the pieces stop in their middle, as often as they are asked for.
    let stuck = Arc::new(AtomicUsize::new(1));
    let asked = Arc::clone(&stuck);
    let server = Server::new(
        move |_| Some(content.clone()),
        move |_| match asked.load(Ordering::Relaxed) {
            0 => Mood::Fine,
            _ => Mood::Falters(700_000),
        },
    );
    let node = Node::start_in(root(&owner, &old, json!({})), &[]);
    let url = server.url("/x.slip?key=secret");
    assert_eq!(order(&node, &owner, &url, json!({})).status, 200);
    until("most is there", || {
        update(&node, &owner)["fetched"].as_u64().unwrap() > 500_000
    });
    assert_eq!(update(&node, &owner)["from"], server.url("/x.slip"));
    let again = order(&node, &owner, &url, json!({}));
    assert_eq!(again.status, 409, "{}", again.text());
    assert!(!again.text().contains("secret"), "{}", again.text());
    // As a power cut does: no time for anything.
    let root = node.stop();
    stuck.store(0, Ordering::Relaxed);
    let before = server.asked().len();
    let node = Node::start_in(root, &[]);
    let last = ended(&node, &owner);
    assert_eq!(last["state"], "staged", "{last}");
    has(&node, &new);
    let asked = server.asked().split_off(before);
    let read: u64 = asked.iter().map(|range| range.end - range.start).sum();
    assert!(read < size - 400_000, "{read} of {size}");
    // What is done is not done again.
    let node = Node::start_in(node.stop(), &[]);
    assert_eq!(update(&node, &owner)["state"], "none");
}

#[test]
fn a_stopped_update_is_not_gone_on_with() {
    let owner = Owner::new();
    let old = Version::first();
    let bytes = bundle(&old.next(), &[]);
    let server = Server::new(move |_| Some(bytes.clone()), |_| Mood::Falters(20_000));
    // An answer that falters is waited for no longer than this.
    let node = Node::start_in(root(&owner, &old, json!({})), &["--patience", "1000"]);
    order(&node, &owner, &server.url("/x.slip"), json!({}));
    until("it writes", || update(&node, &owner)["step"] == "write");
    let refused = node.ask(&owner.reader, "DELETE", "/v1/update", None);
    assert_eq!(refused.status, 403);
    assert_eq!(
        node.ask(&owner.operator, "DELETE", "/v1/update", None)
            .status,
        200
    );
    let last = ended(&node, &owner);
    assert_eq!(last["state"], "stopped", "{last}");
    assert_eq!(slots(node.root.path()).status().b.state, State::Empty);
    let node = Node::start_in(node.stop(), &[]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(update(&node, &owner)["state"], "none");
}

#[test]
fn what_is_refused_leaves_the_slot_alone() {
    let owner = Owner::new();
    let old = Version::first().next();
    let new = old.next();
    let mut board = Draft::new(&new, &[]);
    board.manifest.board = "other".into();
    let mut needs = Draft::new(&new, &[]);
    needs.manifest.requires = vec!["wings".into()];
    let cut = bundle(&new, &[])[..500_000].to_vec();
    let cases = [
        ("/signed", Draft::new(&new, &[]).bundle(&key(2)), "sign"),
        ("/board", board.bundle(&key(1)), "is for board other"),
        ("/needs", needs.bundle(&key(1)), "needs wings"),
        (
            "/older",
            bundle(&Version::first(), &[]),
            "--allow-downgrade",
        ),
        ("/cut", cut, "cut off"),
        ("/same", bundle(&old, &[]), "runs already"),
    ];
    let files = cases.clone();
    let server = Server::new(
        move |path| {
            files
                .iter()
                .find(|(p, ..)| *p == path)
                .map(|(_, b, _)| b.clone())
        },
        |_| Mood::Fine,
    );
    let node = Node::start_in(root(&owner, &old, json!({})), &[]);
    for (path, _, words) in &cases {
        order(&node, &owner, &server.url(path), json!({}));
        let last = ended(&node, &owner);
        assert_eq!(last["state"], "failed", "{path}: {last}");
        assert!(
            last["note"].as_str().unwrap().contains(words),
            "{path}: {last}"
        );
        is_untouched(&node);
    }
    order(&node, &owner, &server.url("/none"), json!({}));
    let note = ended(&node, &owner)["note"].to_string();
    assert!(note.contains("404"), "{note}");
    let wrong = order(&node, &owner, "http://u:hunter2@h/x", json!({}));
    assert_eq!(wrong.status, 422);
    assert!(!wrong.text().contains("hunter2"), "{}", wrong.text());
    // The datastore can't be kept: the update isn't begun, either.
    let clusterd = node.at("usr/bin/clusterd");
    fs::create_dir_all(clusterd.parent().unwrap()).unwrap();
    let script = "#!/bin/sh\necho 'clusterd: it needs 90 MiB, and 3 MiB are free' >&2\nexit 4\n";
    fs::write(&clusterd, script).unwrap();
    fs::set_permissions(&clusterd, fs::Permissions::from_mode(0o755)).unwrap();
    let older = json!({"allow-downgrade": true});
    order(&node, &owner, &server.url("/older"), older.clone());
    let note = ended(&node, &owner)["note"].to_string();
    assert!(note.contains("can't be kept: it needs 90 MiB"), "{note}");
    is_untouched(&node);
    // With leave, and room, the older one is taken.
    fs::write(&clusterd, "#!/bin/sh\n[ \"$1\" = snapshot ]\n").unwrap();
    order(&node, &owner, &server.url("/older"), older);
    assert_eq!(ended(&node, &owner)["state"], "staged");
    has(&node, &Version::first());
}
