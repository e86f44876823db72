//! A machine that boots by the loader's model and keeps its slots by the library.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use slipway_images::slot::{
    BootMethod, Disk, Leaving, Plan, Slot, SlotError, Slots, SlotsStatus, State, SystemdBoot,
    Verified, shipped_name,
};

use super::disk::{Part, ROOT, Recorder, Shown, esp, mtools, root, root_at};
use super::loader::{self, formatted, uki};

/// A version that can be in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub u64);

impl Version {
    /// What the builder would make: without a version of its own in `.osrel`.
    pub fn uki(&self) -> Vec<u8> {
        let release = format!(
            "ID=slipway\nIMAGE_ID=slipway-test\nPRETTY_NAME=\"Slipway {}\"\n",
            self.name()
        );
        uki(&release, self.root().get(..9000).unwrap())
    }

    pub fn root(&self) -> Vec<u8> {
        let mut state = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let word = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        (0..ROOT / 8).flat_map(word).collect()
    }

    /// Later releases have lower names: nothing may depend on them.
    pub fn name(&self) -> String {
        format!("{}.0", 100 - self.0)
    }

    pub fn plan(&self) -> Plan {
        Plan {
            version: self.name(),
            release: self.0,
            root: format!("root-{}", self.0),
            payload: self.uki().len() as u32,
        }
    }
}

/// The medium of a machine that has been flashed with version 1.
pub fn flashed() -> Vec<u8> {
    let shown = Shown::new(&formatted());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("uki");
    std::fs::write(&file, Version(1).uki()).unwrap();
    let name = format!("::/EFI/Linux/{}", shipped_name());
    mtools("mcopy", &shown.path, &[file.to_str().unwrap(), &name]).unwrap();
    let mut medium = shown.medium();
    let at = root_at(Slot::A) as usize;
    medium[at..at + ROOT as usize].copy_from_slice(&Version(1).root());
    medium
}

/// Runs `work` on the slots of a disk with this content.
pub fn on<T>(
    disk: &Rc<RefCell<Recorder>>,
    booted: Slot,
    work: impl FnOnce(&mut Slots<SystemdBoot<Part>>) -> T,
) -> T {
    let boot = SystemdBoot::open(esp(disk)).unwrap();
    work(&mut Slots::load(boot, booted).unwrap())
}

/// Writes a version into the slot that doesn't run, as an update does. `until` cuts it short
/// after so many parts of the root.
pub fn update(
    disk: &Rc<RefCell<Recorder>>,
    booted: Slot,
    version: &Version,
    until: Option<usize>,
) -> Result<(), SlotError> {
    on(disk, booted, |slots| {
        let inactive = slots.inactive()?;
        let mut partition = root(disk, inactive.slot());
        let mut writing = inactive.begin(&version.plan())?;
        for (n, part) in version.root().chunks(16 << 10).enumerate() {
            if until == Some(n) {
                return Ok(());
            }
            partition.write_at((n << 14) as u64, part).unwrap();
        }
        for (n, part) in version.uki().chunks(4096).enumerate() {
            writing.write((n * 4096) as u64, part)?;
        }
        partition.flush().unwrap();
        writing.finish(Verified::digests_right_and_root_flushed())?;
        Ok(())
    })
}

/// A machine for tests of what happens from boot to boot.
pub struct Machine {
    shown: Shown,
    pub boots: u32,
    pub booted: Slot,
    version: Version,
}

impl Machine {
    pub fn flashed() -> Self {
        let mut machine = Self {
            shown: Shown::new(&flashed()),
            boots: 0,
            booted: Slot::A,
            version: Version(1),
        };
        machine.boot();
        machine
    }

    /// The loader chooses and counts; the kernel and a root that is found come up.
    pub fn power_on(&mut self) {
        self.boots += 1;
        let chosen = loader::boot(&self.shown.path).expect("something to boot");
        let (slot, version) = runs(&self.shown, &chosen).expect("a whole slot");
        (self.booted, self.version) = (slot, version);
    }

    /// As [`power_on`](Self::power_on), and the node gets as far as settling its slots.
    pub fn boot(&mut self) {
        self.power_on();
        self.arrive();
    }

    pub fn arrive(&mut self) {
        let (id, version) = (format!("boot-{}", self.boots), self.version.clone());
        self.slots(|slots| slots.arrive(&id, &version.name(), &version.plan().root))
            .unwrap();
    }

    pub fn slots<T>(&mut self, work: impl FnOnce(&mut Slots<SystemdBoot<Part>>) -> T) -> T {
        let disk = Recorder::over(&self.shown);
        let result = on(&disk, self.booted, work);
        self.take(&disk);
        result
    }

    fn take(&mut self, disk: &Rc<RefCell<Recorder>>) {
        self.shown.put(&disk.borrow().changes());
        self.shown.keep();
        assert_eq!(self.shown.fsck(), [""; 0]);
    }

    pub fn update(&mut self, version: u64) -> Result<(), SlotError> {
        let disk = Recorder::over(&self.shown);
        let result = update(&disk, self.booted, &Version(version), None);
        self.take(&disk);
        result
    }

    pub fn reboot(&mut self) {
        self.slots(|slots| slots.leave(Leaving::InOrder)).unwrap();
        self.boot();
    }

    pub fn status(&mut self) -> SlotsStatus {
        self.slots(|slots| slots.status())
    }

    pub fn states(&mut self) -> (Slot, State, State) {
        let status = self.status();
        (status.booted, status.a.state, status.b.state)
    }

    pub fn path(&self) -> &Path {
        &self.shown.path
    }
}

/// The slot and version that an entry starts, if all of it is whole.
pub fn runs(shown: &Shown, entry: &loader::Entry) -> Option<(Slot, Version)> {
    let version = (0..100).map(Version).find(|v| v.uki() == entry.content)?;
    let letter = entry.file.split('-').nth(2)?.chars().next()?;
    let slot = [Slot::A, Slot::B]
        .into_iter()
        .find(|s| s.letter() == letter)?;
    (shown.bytes(root_at(slot), ROOT) == version.root()).then_some((slot, version))
}

/// Reads what is in a slot through the library, as an update that reuses blocks does.
pub fn payload<B: BootMethod>(boot: &mut B, slot: Slot, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    boot.read(slot, 0, &mut bytes).unwrap();
    bytes
}
