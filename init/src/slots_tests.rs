//! Which slot runs, and what the keeper does to a boot partition.

use std::fs;
use std::process::Command;

use super::*;

/// A root on slot b or whatever the partition is called, below dm-verity.
fn root_on(partition: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &str| dir.path().join(path);
    for path in [
        "proc/self",
        "proc/sys/kernel/random",
        "run/slipway",
        "usr/lib/slipway",
        "sys/dev/block/254:0/slaves/vda2",
    ] {
        fs::create_dir_all(at(path)).unwrap();
    }
    let mount = "1 0 254:0 / / ro,relatime - ext4 /dev/dm-0 ro\n";
    fs::write(at("proc/self/mountinfo"), mount).unwrap();
    fs::write(at("sys/dev/block/254:0/uevent"), "DEVNAME=dm-0\n").unwrap();
    let event = format!("PARTN=2\nPARTNAME={partition}\n");
    fs::write(at("sys/dev/block/254:0/slaves/vda2/uevent"), event).unwrap();
    fs::write(at("proc/sys/kernel/random/boot_id"), "boot-1\n").unwrap();
    let hash = "5".repeat(64);
    fs::write(at("proc/cmdline"), format!("quiet roothash={hash}\n")).unwrap();
    let info = ImageInfo {
        board: "test".into(),
        version: "2.0".into(),
        built: 0,
        release_number: None,
        kubernetes: "v1".into(),
        arch: "x86_64".into(),
        root_uuid: uuid::Uuid::from_u128(1),
        loader: Loader::SystemdBoot,
    };
    let text = serde_json::to_vec(&info).unwrap();
    fs::write(at("usr/lib/slipway/image.json"), text).unwrap();
    dir
}

fn tool(program: &str, arguments: &[&str]) {
    let out = Command::new(program).args(arguments).output();
    let out = out.expect("ci/setup installs what tests need");
    assert!(out.status.success(), "{program} {arguments:?}: {out:?}");
}

/// A boot partition with these files in `EFI/Linux`.
fn esp(names: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("esp").display().to_string();
    tool("mkfs.vfat", &["-F", "32", "-s", "1", "-C", &image, "34816"]);
    tool("mmd", &["-i", &image, "::/EFI", "::/EFI/Linux"]);
    for name in names {
        let uki = dir.path().join("uki");
        fs::write(&uki, name).unwrap();
        let (from, to) = (uki.display().to_string(), format!("::/EFI/Linux/{name}"));
        tool("mcopy", &["-i", &image, &from, &to]);
    }
    dir
}

fn told(root: &Path) -> SlotsStatus {
    serde_json::from_slice(&fs::read(root.join(STATUS_FILE)).unwrap()).unwrap()
}

#[test]
fn the_slot_is_found_below_dm_verity() {
    assert_eq!(booted(root_on("root-b").path()), Some(Slot::B));
    assert_eq!(booted(root_on("other").path()), None);
    assert_eq!(booted(tempfile::tempdir().unwrap().path()), None);
}

#[test]
fn partitions_of_the_roots_disk_are_found_by_name() {
    let dir = root_on("root-b");
    let disk = dir.path().join("sys/devices/pci/vda");
    for (node, name) in [("vda1", "esp"), ("vda2", "root-b"), ("vda3", "root-a")] {
        fs::create_dir_all(disk.join(node)).unwrap();
        let event = format!("DEVNAME={node}\nDEVTYPE=partition\nPARTNAME={name}\n");
        fs::write(disk.join(node).join("uevent"), event).unwrap();
    }
    // The kernel has links there.
    let slave = dir.path().join("sys/dev/block/254:0/slaves/vda2");
    fs::remove_dir_all(&slave).unwrap();
    std::os::unix::fs::symlink(disk.join("vda2"), &slave).unwrap();
    assert_eq!(booted(dir.path()), Some(Slot::B));
    let device = |node: &str| Some(dir.path().join("dev").join(node));
    assert_eq!(partition(dir.path(), "esp"), device("vda1"));
    assert_eq!(partition(dir.path(), "root-a"), device("vda3"));
    assert_eq!(partition(dir.path(), "data"), None);
}

#[test]
fn a_machine_without_slots_is_no_failure() {
    let keeper = Keeper::default();
    let root = root_on("other");
    assert_eq!(
        keeper.arrive(root.path(), None).unwrap(),
        "none on this disk"
    );
    assert_eq!(keeper.on_trial(), None);
    keeper.leave(None);
    assert!(keeper.commit().is_ok());
    assert!(!root.path().join(STATUS_FILE).exists());
}

#[test]
fn a_trial_is_settled_told_and_committed() {
    let (root, esp) = (
        root_on("root-b"),
        esp(&["slipway-1-a.efi", "slipway-2-b+2-1.efi"]),
    );
    let (keeper, device) = (Keeper::default(), esp.path().join("esp"));
    let note = keeper.arrive(root.path(), Some(&device)).unwrap();
    assert_eq!(note, "a good; b trial, runs, 2 more tries");
    assert_eq!(keeper.on_trial(), Some(Slot::B));
    keeper.leave(None);
    assert_eq!(told(root.path()).b.tries_left, Some(3), "given back");
    keeper.arrive(root.path(), Some(&device)).unwrap();
    keeper.commit().unwrap();
    assert_eq!(keeper.on_trial(), None);
    let told = told(root.path());
    assert_eq!(
        (told.b.state, told.b.version.as_deref()),
        (State::Good, Some("2.0"))
    );
}

#[test]
fn a_failure_takes_the_try_and_is_told() {
    let (root, esp) = (
        root_on("root-b"),
        esp(&["slipway-1-a.efi", "slipway-2-b+0-3.efi"]),
    );
    let (keeper, device) = (Keeper::default(), esp.path().join("esp"));
    keeper.arrive(root.path(), Some(&device)).unwrap();
    keeper.leave_within("data has hung".into(), Duration::from_secs(60));
    assert_eq!(told(root.path()).b.why.as_deref(), Some("data has hung"));
    assert!(keeper.commit().unwrap_err().0.contains("data has hung"));
    let fallen = root_on("root-a");
    let note = Keeper::default()
        .arrive(fallen.path(), Some(&device))
        .unwrap();
    assert_eq!(note, "a good, runs; b bad, 2.0 (data has hung)");
    assert_eq!(told(fallen.path()).bad_versions[0].version, "2.0");
}

#[test]
fn a_broken_boot_partition_is_said_and_stops_nothing() {
    let root = root_on("root-a");
    let junk = tempfile::NamedTempFile::new().unwrap();
    junk.as_file().set_len(1 << 20).unwrap();
    let keeper = Keeper::default();
    let failure = keeper.arrive(root.path(), Some(junk.path())).unwrap_err();
    assert!(
        failure.0.contains("boot partition is unusable"),
        "{failure}"
    );
    assert_eq!(keeper.on_trial(), None);
}

#[test]
fn a_trial_that_nobody_settles_is_seen_from_outside() {
    let keeper = Keeper::default();
    assert!(!keeper.is_overdue());
    keeper.guard(Duration::from_secs(1 << 40));
    assert!(!keeper.is_overdue());
    keeper.overdue.store(1, Ordering::Release);
    assert!(keeper.is_overdue());
}
