//! A node with two slots in files: a boot partition that `mkfs.vfat` has made, and two
//! root partitions.

use std::fs::File;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::OnceLock;

use slipway_images::bundle::keys::PublicKey;
use slipway_images::bundle::{
    Allow, Bundle, BundleError, NodeFacts, Places, Progress, RootPlace, Source,
};
use slipway_images::slot::fat::Volume;
use slipway_images::slot::{
    DIRECTORY, Disk, RECORD_FILE, Slot, Slots, SlotsStatus, Staged, State, SystemdBoot,
    shipped_name,
};

use super::maker::{BOARD, Version};

/// Bytes of a root partition.
pub const SLOT: u64 = 2 << 20;

/// An empty boot partition with the directory of kernel images.
fn empty() -> Vec<u8> {
    static EMPTY: OnceLock<Vec<u8>> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("esp");
        File::create(&path).unwrap().set_len(34 << 20).unwrap();
        let run = |tool: &str, arguments: &[&str]| {
            let mut command = Command::new(tool);
            command.args(arguments).env("MTOOLS_SKIP_CHECK", "1");
            let out = command.output().expect("ci/setup installs it");
            assert!(out.status.success(), "{tool} {out:?}");
        };
        let esp = path.to_str().unwrap();
        run("mkfs.vfat", &["-F", "32", "-s", "1", esp]);
        run("mmd", &["-i", esp, "::/EFI", "::/EFI/Linux"]);
        std::fs::read(&path).unwrap()
    };
    EMPTY.get_or_init(make).clone()
}

/// A partition in a file.
pub struct Partition(pub File);

impl Partition {
    pub fn new(content: &[u8], size: u64) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        for (n, bytes) in content.chunks(ZEROS.len()).enumerate() {
            // Compared as a whole: byte by byte takes a second in a debug build.
            if bytes != &ZEROS[..bytes.len()] {
                file.write_all_at(bytes, (n * ZEROS.len()) as u64).unwrap();
            }
        }
        Self(file)
    }

    pub fn again(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }

    pub fn bytes(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = vec![0; range.len()];
        self.0
            .read_exact_at(&mut bytes, range.start as u64)
            .unwrap();
        bytes
    }
}

impl Disk for Partition {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len() as u64;
        assert!(end <= self.0.metadata()?.len(), "beyond the partition");
        self.0.write_all_at(bytes, offset)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl RootPlace for Partition {
    fn forget(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A bundle in memory that counts what is read of it, and may break off.
pub struct Served {
    pub bytes: Vec<u8>,
    pub read: Vec<Range<u64>>,
    pub expected: Vec<Range<u64>>,
    /// Bytes until the connection breaks.
    pub left: u64,
}

impl Served {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            read: Vec::new(),
            expected: Vec::new(),
            left: u64::MAX,
        }
    }

    pub fn count(&self) -> u64 {
        self.read.iter().map(|r| r.end - r.start).sum()
    }
}

impl Source for Served {
    fn size(&mut self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        self.left =
            (self.left.checked_sub(buffer.len() as u64)).ok_or(io::ErrorKind::ConnectionReset)?;
        let part = self.bytes.get(offset as usize..end as usize);
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        self.read.push(offset..end);
        Ok(())
    }

    fn expect(&mut self, range: Range<u64>) {
        self.expected.push(range);
    }
}

/// The node.
pub struct Node {
    pub esp: Partition,
    pub roots: [Partition; 2],
    pub running: Version,
    pub booted: Slot,
    pub keys: Vec<PublicKey>,
    pub slot_size: u64,
    pub supports: Vec<&'static str>,
}

impl Node {
    /// One that runs a version in slot a, as it was flashed.
    pub fn new(running: Version, keys: &[PublicKey]) -> Self {
        let mut esp = Partition::new(&empty(), 34 << 20);
        let mut volume = Volume::open(&mut esp).unwrap();
        let path = format!("{DIRECTORY}/{}", shipped_name());
        let file = volume.create(&path, running.kernel.len() as u32).unwrap();
        volume.write(&file, 0, &running.kernel).unwrap();
        let record = volume.create(RECORD_FILE, 8192).unwrap();
        volume.write(&record, 0, &[0; 8192]).unwrap();
        let roots = [
            Partition::new(&[&running.root[..], &running.tree().bytes].concat(), SLOT),
            Partition::new(&super::maker::noise(SLOT as usize, 99), SLOT),
        ];
        let mut node = Self {
            esp,
            roots,
            running,
            booted: Slot::A,
            keys: keys.to_vec(),
            slot_size: SLOT,
            supports: Vec::new(),
        };
        node.arrive();
        node
    }

    pub fn slots(&mut self) -> Slots<SystemdBoot<Partition>> {
        let boot = SystemdBoot::open(self.esp.again()).unwrap();
        Slots::load(boot, self.booted).unwrap()
    }

    fn arrive(&mut self) {
        let (name, hash) = (self.running.name(), self.running.root_hash().to_string());
        self.slots().arrive("boot", &name, &hash).unwrap();
    }

    pub fn status(&mut self) -> SlotsStatus {
        self.slots().status()
    }

    /// What is in the slot that doesn't run.
    pub fn other(&self) -> &Partition {
        match self.booted {
            Slot::A => &self.roots[1],
            Slot::B => &self.roots[0],
        }
    }

    pub fn update(&mut self, source: &mut dyn Source) -> Result<Staged, BundleError> {
        self.update_with(source, Allow::default(), &mut |_| ControlFlow::Continue(()))
    }

    /// The walk, as a node does it.
    pub fn update_with(
        &mut self,
        source: &mut dyn Source,
        allow: Allow,
        watch: &mut (dyn FnMut(&Progress) -> ControlFlow<()> + Send),
    ) -> Result<Staged, BundleError> {
        let bundle = Bundle::open(source, &self.keys)?;
        let mut slots = self.slots();
        let bad_versions = slots.status().bad_versions;
        let version = self.running.name();
        let facts = NodeFacts {
            board: BOARD,
            version: &version,
            release: self.running.number,
            root_hash: Some(self.running.root_hash()),
            slot_size: self.slot_size,
            boot_room: slots.boot_room()?,
            supports: &self.supports,
            bad_versions: &bad_versions,
            firmware: None,
        };
        let admitted = bundle.admit(&facts, allow)?;
        let mut writing = slots.inactive()?.begin(&admitted.plan())?;
        let [a, b] = &self.roots;
        let (mut new, mut old) = match self.booted {
            Slot::A => (b.again(), a.again()),
            Slot::B => (a.again(), b.again()),
        };
        let mut places = Places {
            root: &mut new,
            running_root: Some(&mut old),
            kernel: &mut writing,
        };
        let prepared = admitted.prepare(&mut places, watch)?;
        let verified = prepared.run(source, &mut places, watch)?;
        Ok(writing.finish(verified)?)
    }

    /// Boots what was staged, and commits it.
    pub fn boot(&mut self, version: &Version) {
        assert_eq!(self.status().of(!self.booted).state, State::Trial);
        self.booted = !self.booted;
        self.running = version.clone();
        self.arrive();
        let mut slots = self.slots();
        slots.commit().unwrap();
    }

    /// The slot that doesn't run can't be booted.
    pub fn assert_safe(&mut self) {
        let status = self.status();
        assert_eq!(status.next, Some(self.booted));
        assert!(
            matches!(status.of(!self.booted).state, State::Empty | State::Writing),
            "{status:?}"
        );
    }

    /// Nothing of an update was begun.
    pub fn assert_untouched(&mut self) {
        assert_eq!(self.status().of(!self.booted).state, State::Empty);
        let noise = super::maker::noise(SLOT as usize, 99);
        assert_eq!(self.other().bytes(0..SLOT as usize), noise);
    }

    /// The slot that doesn't run holds just this version, and is what boots next.
    pub fn assert_has(&mut self, version: &Version) {
        let status = self.status();
        let slot = status.of(!self.booted);
        assert_eq!(slot.state, State::Trial);
        assert_eq!(slot.version, Some(version.name()));
        assert_eq!(status.next, Some(!self.booted));
        let root = [&version.root[..], &version.tree().bytes].concat();
        assert!(self.other().bytes(0..root.len()) == root);
        let mut volume = Volume::open(self.esp.again()).unwrap();
        let ours = format!("-{}+3.efi", (!self.booted).letter());
        let files = volume.list(DIRECTORY).unwrap();
        let file = files.iter().find(|f| f.name.ends_with(&ours)).unwrap();
        let mut kernel = vec![0; file.size as usize];
        volume.read(file, 0, &mut kernel).unwrap();
        assert!(kernel == version.kernel);
    }
}
