//! Devices as a made-up sysfs tells of them.

use std::os::unix::fs::symlink;

use super::*;

/// A `sys` and `proc` to find disks in.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new(mountinfo: &str, swaps: &str) -> Self {
        let machine = Self {
            root: tempfile::tempdir().unwrap(),
        };
        machine.write("proc/self/mountinfo", mountinfo);
        machine.write("proc/swaps", &format!("Filename Type Size Used\n{swaps}"));
        fs::create_dir_all(machine.root.path().join("sys/block")).unwrap();
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A disk below a bus, as sysfs links to it.
    fn disk(&self, name: &str, bus: &str, number: &str, sectors: u64, partitions: &[&str]) {
        let place = format!("sys/devices/{bus}/block/{name}");
        let (major, minor) = number.split_once(':').unwrap();
        let minor: u32 = minor.parse().unwrap();
        for (file, text) in [
            ("dev", number.to_owned()),
            ("size", sectors.to_string()),
            ("ro", "0".into()),
            ("removable", u8::from(bus.contains("usb")).to_string()),
            ("device/model", format!("Model of {name}  ")),
            ("queue/write_zeroes_max_bytes", "0".into()),
        ] {
            self.write(&format!("{place}/{file}"), &format!("{text}\n"));
        }
        for (n, partition) in (1..).zip(partitions) {
            self.write(&format!("{place}/{partition}/partition"), &n.to_string());
            let number = format!("{major}:{}", minor + n);
            self.write(&format!("{place}/{partition}/dev"), &number);
        }
        let link = self.root.path().join("sys/block").join(name);
        symlink(format!("../devices/{bus}/block/{name}"), link).unwrap();
    }

    fn holds(&self, place: &str, holder: &str) {
        self.write(&format!("sys/block/{place}/holders/{holder}"), "");
    }

    fn system(&self) -> System {
        System::at(self.root.path())
    }

    fn named(&self, name: &str) -> Disk {
        let disks = self.system().disks().unwrap();
        disks.into_iter().find(|d| d.name == name).unwrap()
    }
}

const PCI: &str = "pci0000:00/0000:00:1f.2/ata1/host0";
const USB: &str = "pci0000:00/0000:00:14.0/usb2/2-1/host6";

#[test]
fn a_disk_says_what_it_is() {
    let machine = Machine::new("", "");
    machine.disk("sdb", USB, "8:16", 62_333_952, &["sdb1"]);
    machine.disk("nvme0n1", "pci0000:00/nvme/nvme0", "259:0", 1 << 30, &[]);
    let stick = machine.named("sdb");
    assert_eq!(
        stick.to_string(),
        "/dev/sdb (31.9 GB, Model of sdb, USB, removable)"
    );
    assert!(stick.is_candidate());
    assert_eq!(machine.named("nvme0n1").transport, Transport::Nvme);
}

#[test]
fn what_is_mounted_by_number_or_by_name_is_in_use() {
    let machine = Machine::new(
        "25 1 8:17 / /media/my\\040card rw - vfat /dev/sdb1 rw\n\
         26 1 0:44 / /srv rw shared:5 - btrfs /dev/sdc1 rw\n",
        "",
    );
    machine.disk("sdb", USB, "8:16", 1 << 20, &["sdb1"]);
    machine.disk("sdc", USB, "8:32", 1 << 20, &["sdc1"]);
    machine.disk("sdd", USB, "8:48", 1 << 20, &["sdd1"]);
    let stick = machine.named("sdb");
    assert_eq!(stick.uses_text(), "sdb1 is mounted on /media/my card");
    assert!(!stick.is_system() && !stick.is_candidate());
    assert_eq!(machine.named("sdc").uses_text(), "sdc1 is mounted on /srv");
    assert!(machine.named("sdd").uses.is_empty());
}

#[test]
fn the_system_is_seen_through_encryption_and_volumes() {
    let machine = Machine::new("25 1 253:1 / / rw - ext4 /dev/mapper/root rw\n", "");
    machine.disk("sda", PCI, "8:0", 1 << 20, &["sda1", "sda2"]);
    machine.disk("dm-0", "virtual", "253:0", 1 << 20, &[]);
    machine.disk("dm-1", "virtual", "253:1", 1 << 20, &[]);
    machine.holds("sda/sda2", "dm-0");
    machine.holds("dm-0", "dm-1");
    // A loop must not hang.
    machine.holds("dm-1", "dm-0");
    let disk = machine.named("sda");
    assert!(disk.is_system(), "{}", disk.uses_text());
    assert!(disk.uses_text().starts_with("sda2 is part of dm-0"));
}

#[test]
fn swap_and_boot_belong_to_the_system_and_a_data_disk_does_not() {
    let machine = Machine::new(
        "25 1 8:17 / /boot/efi rw - vfat /dev/sdb1 rw\n26 1 8:33 / /mnt rw - ext4 /dev/sdc1 rw\n",
        "/dev/sda2 partition 1 0 -2\n",
    );
    machine.disk("sda", PCI, "8:0", 1 << 20, &["sda1", "sda2"]);
    machine.disk("sdb", PCI, "8:16", 1 << 20, &["sdb1"]);
    machine.disk("sdc", PCI, "8:32", 1 << 20, &["sdc1"]);
    assert!(machine.named("sda").is_system());
    assert!(machine.named("sdb").is_system());
    assert!(!machine.named("sdc").is_system());
}

#[test]
fn a_number_is_a_disk_a_partition_or_nothing() {
    let machine = Machine::new("", "");
    machine.disk("sdb", USB, "8:16", 1 << 20, &["sdb1"]);
    let find = |major, minor| {
        let number = rustix::fs::makedev(major, minor);
        machine.system().find(number).unwrap()
    };
    assert!(matches!(find(8, 16), Some(Node::Disk(d)) if d.name == "sdb"));
    assert!(matches!(find(8, 17), Some(Node::Partition(d)) if d.name == "sdb"));
    assert!(find(8, 18).is_none());
}

#[test]
fn what_nobody_flashes_is_not_offered() {
    let machine = Machine::new("", "");
    for (n, name) in ["loop0", "ram0", "zram0", "sr0", "mmcblk0boot0", "md0"]
        .iter()
        .enumerate()
    {
        machine.disk(name, "virtual", &format!("7:{n}"), 1 << 20, &[]);
    }
    machine.disk("mmcblk0", "mmc_host/mmc0", "179:0", 1 << 20, &[]);
    machine.disk("sdb", USB, "8:16", 0, &[]);
    machine.disk("sdc", USB, "8:32", 1 << 20, &[]);
    machine.write(&format!("sys/devices/{USB}/block/sdc/ro"), "1");
    let offered: Vec<String> = machine
        .system()
        .disks()
        .unwrap()
        .into_iter()
        .filter(Disk::is_candidate)
        .map(|d| d.name)
        .collect();
    assert_eq!(offered, ["mmcblk0"]);
}
