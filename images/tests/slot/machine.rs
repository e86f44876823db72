//! A machine that boots by the loader's model and keeps its slots by the library.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use slipway_images::slot::{
    Area, BootMethod, CHOICE_FILES, Choice, Disk, Leaving, Plan, Slot, SlotError, Slots,
    SlotsStatus, State, SystemdBoot, UBoot, Verified, shipped_name,
};

use super::disk::{AREA, ROOT, Recorder, Shown, area, area_at, esp, mtools, root, root_at};
use super::loader::{self, formatted, uki};
use super::script;

/// What starts the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    SystemdBoot,
    UBoot,
}

pub type Boot = Box<dyn BootMethod>;

/// What a loader starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    pub slot: Slot,
    pub payload: Vec<u8>,
}

impl Kind {
    pub const BOTH: [Self; 2] = [Self::SystemdBoot, Self::UBoot];

    /// The library's end of it.
    pub fn method(self, disk: &Rc<RefCell<Recorder>>) -> Boot {
        let area = |slot| {
            let disk = area(disk, slot);
            Some(Area { disk, size: AREA })
        };
        match self {
            Self::SystemdBoot => Box::new(SystemdBoot::open(esp(disk)).unwrap()),
            Self::UBoot => Box::new(UBoot::open(esp(disk), area(Slot::A), area(Slot::B)).unwrap()),
        }
    }

    /// Where the record lies.
    pub fn record(self) -> &'static str {
        match self {
            Self::SystemdBoot => slipway_images::slot::RECORD_FILE,
            Self::UBoot => slipway_images::slot::UBOOT_RECORD_FILE,
        }
    }

    /// The loader's model chooses and counts.
    pub fn boot(self, shown: &Shown) -> Option<Chosen> {
        match self {
            Self::SystemdBoot => chosen(loader::boot(&shown.path)?),
            Self::UBoot => Some(in_area(shown, script::boot(&shown.path)?)),
        }
    }

    /// All that it would start, in its order.
    pub fn listed(self, shown: &Shown) -> Vec<Chosen> {
        match self {
            Self::SystemdBoot => {
                let entries = loader::entries(&shown.path).into_iter();
                entries.map(|entry| chosen(entry).unwrap()).collect()
            }
            Self::UBoot => {
                let slots = script::listed(&shown.path).into_iter();
                slots.map(|slot| in_area(shown, slot)).collect()
            }
        }
    }

    /// The medium of a machine that has been flashed with version 1.
    pub fn flashed(self) -> Vec<u8> {
        let shown = Shown::new(&formatted());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        let put = |content: &[u8], name: &str| {
            std::fs::write(&file, content).unwrap();
            mtools("mcopy", &shown.path, &[file.to_str().unwrap(), name]).unwrap();
        };
        let payload = Version(1).payload(self);
        match self {
            Self::SystemdBoot => put(&payload, &format!("::/EFI/Linux/{}", shipped_name())),
            Self::UBoot => {
                for copy in CHOICE_FILES {
                    put(&Choice::SHIPPED.encode(), &format!("::/{copy}"));
                }
            }
        }
        let mut medium = shown.medium();
        let mut fill = |at: u64, content: &[u8]| {
            medium[at as usize..at as usize + content.len()].copy_from_slice(content);
        };
        fill(root_at(Slot::A), &Version(1).root());
        if self == Self::UBoot {
            fill(area_at(Slot::A), &payload);
        }
        medium
    }
}

fn chosen(entry: loader::Entry) -> Option<Chosen> {
    let letter = entry.file.split('-').nth(2)?.chars().next()?;
    let slot = Slot::BOTH.into_iter().find(|s| s.letter() == letter)?;
    let payload = entry.content;
    Some(Chosen { slot, payload })
}

fn in_area(shown: &Shown, slot: Slot) -> Chosen {
    let payload = shown.bytes(area_at(slot), AREA);
    Chosen { slot, payload }
}

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

    /// What is in a boot area.
    fn area(&self) -> Vec<u8> {
        self.root().split_off((ROOT - AREA) as usize)
    }

    pub fn payload(&self, kind: Kind) -> Vec<u8> {
        match kind {
            Kind::SystemdBoot => self.uki(),
            Kind::UBoot => self.area(),
        }
    }

    /// Later releases have lower names: nothing may depend on them.
    pub fn name(&self) -> String {
        format!("{}.0", 100 - self.0)
    }

    pub fn plan(&self, kind: Kind) -> Plan {
        Plan {
            version: self.name(),
            release: self.0,
            root: format!("root-{}", self.0),
            payload: self.payload(kind).len() as u32,
        }
    }
}

/// Runs `work` on the slots of a disk with this content.
pub fn on<T>(
    kind: Kind,
    disk: &Rc<RefCell<Recorder>>,
    booted: Slot,
    work: impl FnOnce(&mut Slots<Boot>) -> T,
) -> T {
    work(&mut Slots::load(kind.method(disk), booted).unwrap())
}

/// Writes a version into the slot that doesn't run, as an update does. `until` cuts it short
/// after so many parts of the root.
pub fn update(
    kind: Kind,
    disk: &Rc<RefCell<Recorder>>,
    booted: Slot,
    version: &Version,
    until: Option<usize>,
) -> Result<(), SlotError> {
    on(kind, disk, booted, |slots| {
        let inactive = slots.inactive()?;
        let mut partition = root(disk, inactive.slot());
        let mut writing = inactive.begin(&version.plan(kind))?;
        for (n, part) in version.root().chunks(16 << 10).enumerate() {
            if until == Some(n) {
                return Ok(());
            }
            partition.write_at((n << 14) as u64, part).unwrap();
        }
        for (n, part) in version.payload(kind).chunks(4096).enumerate() {
            writing.write((n * 4096) as u64, part)?;
        }
        partition.flush().unwrap();
        writing.finish(Verified::digests_right_and_root_flushed())?;
        Ok(())
    })
}

/// A machine for tests of what happens from boot to boot.
pub struct Machine {
    pub kind: Kind,
    shown: Shown,
    pub boots: u32,
    pub booted: Slot,
    version: Version,
}

impl Machine {
    pub fn flashed(kind: Kind) -> Self {
        let mut machine = Self {
            kind,
            shown: Shown::new(&kind.flashed()),
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
        let chosen = self.kind.boot(&self.shown).expect("something to boot");
        let (slot, version) = runs(self.kind, &self.shown, &chosen).expect("a whole slot");
        (self.booted, self.version) = (slot, version);
    }

    /// As [`power_on`](Self::power_on), and the node gets as far as settling its slots.
    pub fn boot(&mut self) {
        self.power_on();
        self.arrive();
    }

    pub fn arrive(&mut self) {
        let (id, version) = (format!("boot-{}", self.boots), self.version.clone());
        let root = version.plan(self.kind).root;
        self.slots(|slots| slots.arrive(&id, &version.name(), &root))
            .unwrap();
    }

    pub fn slots<T>(&mut self, work: impl FnOnce(&mut Slots<Boot>) -> T) -> T {
        let disk = Recorder::over(&self.shown);
        let result = on(self.kind, &disk, self.booted, work);
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
        let result = update(self.kind, &disk, self.booted, &Version(version), None);
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

/// The slot and version that a loader's choice starts, if all of it is whole.
pub fn runs(kind: Kind, shown: &Shown, chosen: &Chosen) -> Option<(Slot, Version)> {
    let mut versions = (0..100).map(Version);
    let version = versions.find(|v| v.payload(kind) == chosen.payload)?;
    (shown.bytes(root_at(chosen.slot), ROOT) == version.root()).then_some((chosen.slot, version))
}

/// Reads what is in a slot through the library, as an update that reuses blocks does.
pub fn payload<B: BootMethod>(boot: &mut B, slot: Slot, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    boot.read(slot, 0, &mut bytes).unwrap();
    bytes
}
