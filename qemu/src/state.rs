//! Where virtual machines live: a directory for each, private to its owner.
//!
//! | path below the state directory | what it is |
//! |---|---|
//! | `vms/NAME/vm.json` | [`Record`]: the machine, the image under its disk, QEMU's process |
//! | `vms/NAME/overlay.qcow2` | the disk |
//! | `vms/NAME/base.img` | a hard link to the image, so that a rebuilt image doesn't pull the disk's ground away |
//! | `vms/NAME/vars.fd` | the firmware's variables |
//! | `vms/NAME/user-data` | the seed handed to the node (holds keys) |
//! | `vms/NAME/kubeconfig` | the cluster's administrator |
//! | `vms/NAME/{qmp,console}.sock` | control and serial console, while it runs |
//! | `vms/NAME/{console,qemu}.log` | what the console and QEMU said |
//! | `locks/NAME` | held while a machine is started, stopped or removed |

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::disk::Identity;
use crate::error::{At as _, Error, Result};
use crate::machine::Machine;
use crate::process::ProcessId;

/// A virtual machine's name, which is also its host name: a DNS label, 1 to 63
/// of `a-z`, `0-9` and `-`, the last not at either end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmName(String);

impl VmName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A network address of its own, always the same one, in QEMU's prefix.
    pub fn mac(&self) -> String {
        self.address(0)
    }

    /// The same for a second card.
    pub fn lan_mac(&self) -> String {
        self.address(1)
    }

    fn address(&self, card: u8) -> String {
        // FNV-1a
        let hash = self.0.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let [_, a, b, c] = hash.to_be_bytes();
        format!("52:54:{card:02x}:{a:02x}:{b:02x}:{c:02x}")
    }
}

impl FromStr for VmName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let good = !name.is_empty()
            && name.len() <= 63
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.starts_with('-')
            && !name.ends_with('-');
        if good {
            Ok(Self(name.to_owned()))
        } else {
            Err(Error::Invalid(format!(
                "`{name}` can't be a machine's name; it becomes a host name: 1 to 63 of a-z, 0-9 and -, with a letter or digit at both ends"
            )))
        }
    }
}

impl TryFrom<String> for VmName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<VmName> for String {
    fn from(name: VmName) -> Self {
        name.0
    }
}

impl std::fmt::Display for VmName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// The directory that all of a user's virtual machines are kept in.
#[derive(Debug, Clone)]
pub struct StateDir {
    path: PathBuf,
}

impl StateDir {
    /// At a given path; made when first written to.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// `$SLIPWAY_STATE`, else `$XDG_STATE_HOME/slipway`, else
    /// `~/.local/state/slipway`.
    ///
    /// # Errors
    /// [`Error::Invalid`] if not even `HOME` is set.
    pub fn from_env() -> Result<Self> {
        let set = |name| {
            std::env::var_os(name)
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        };
        let path = set("SLIPWAY_STATE")
            .or_else(|| set("XDG_STATE_HOME").map(|p| p.join("slipway")))
            .or_else(|| set("HOME").map(|p| p.join(".local/state/slipway")))
            .ok_or_else(|| Error::Invalid("neither HOME nor SLIPWAY_STATE is set".into()))?;
        // QEMU runs in another working directory.
        let path = std::path::absolute(&path).at("resolving", &path)?;
        Ok(Self { path })
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The place of a machine, whether it exists or not.
    pub fn vm(&self, name: &VmName) -> VmDir {
        VmDir {
            name: name.clone(),
            path: self.path.join("vms").join(name.as_str()),
            locks: self.path.join("locks"),
        }
    }

    /// The place of a machine that exists.
    ///
    /// # Errors
    /// [`Error::NoSuchVm`] with those that do.
    pub fn existing(&self, name: &VmName) -> Result<VmDir> {
        let dir = self.vm(name);
        if dir.record_path().exists() {
            return Ok(dir);
        }
        Err(Error::NoSuchVm {
            name: name.to_string(),
            known: self.list()?.iter().map(|d| d.name.to_string()).collect(),
        })
    }

    /// All machines that exist, by name.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory is there and can't be read.
    pub fn list(&self) -> Result<Vec<VmDir>> {
        let vms = self.path.join("vms");
        let entries = match fs::read_dir(&vms) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).at("reading", &vms),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.at("reading", &vms)?;
            let name = entry.file_name();
            let Some(Ok(name)) = name.to_str().map(str::parse) else {
                continue;
            };
            let dir = self.vm(&name);
            if dir.record_path().exists() {
                found.push(dir);
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }
}

/// What is written down about a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Of this format; a higher one is from a newer Slipway.
    pub version: u32,
    /// As it was started last.
    pub machine: Machine,
    /// The image that its disk was made from, as the user named it.
    pub image: PathBuf,
    /// That image as it was when the disk was made.
    pub image_identity: Identity,
    /// QEMU's process, if it was started and not seen to end.
    pub process: Option<ProcessId>,
    /// When the disk was made, in seconds since 1970.
    pub created: u64,
    /// When it was started last, likewise.
    pub started: u64,
}

/// The only version of [`Record`] so far.
pub const RECORD_VERSION: u32 = 1;

/// A machine's directory.
#[derive(Debug, Clone)]
pub struct VmDir {
    name: VmName,
    path: PathBuf,
    locks: PathBuf,
}

/// Held while a machine is started, stopped or removed.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl VmDir {
    /// The machine's name.
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The disk.
    pub fn overlay(&self) -> PathBuf {
        self.file("overlay.qcow2")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.file("kubeconfig")
    }

    fn record_path(&self) -> PathBuf {
        self.file("vm.json")
    }

    /// Makes the directory, `0700`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(&self) -> Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .at("creating", &self.path)?;
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700))
            .at("setting the mode of", &self.path)
    }

    /// Takes the machine for oneself, without waiting.
    ///
    /// # Errors
    /// [`Error::Busy`] if another process has it.
    pub fn lock(&self) -> Result<Lock> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.locks)
            .at("creating", &self.locks)?;
        let path = self.locks.join(self.name.as_str());
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .at("opening", &path)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(Error::Busy(self.name.to_string())),
            Err(TryLockError::Error(e)) => Err(e).at("locking", &path),
        }
    }

    /// What was written down, `None` if the machine doesn't exist.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it makes no sense.
    pub fn record(&self) -> Result<Option<Record>> {
        let path = self.record_path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).at("reading", &path),
        };
        let corrupt = |reason: String| Error::Corrupt {
            path: path.clone(),
            reason,
        };
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let version: Version =
            serde_json::from_slice(&bytes).map_err(|e| corrupt(e.to_string()))?;
        if version.version != RECORD_VERSION {
            return Err(corrupt(format!(
                "it is of version {}, this Slipway knows {RECORD_VERSION}",
                version.version
            )));
        }
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| corrupt(e.to_string()))
    }

    /// Writes it down, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_record(&self, record: &Record) -> Result<()> {
        let path = self.record_path();
        let mut text = serde_json::to_vec_pretty(record).map_err(|e| Error::Corrupt {
            path: path.clone(),
            reason: e.to_string(),
        })?;
        text.push(b'\n');
        write_private(&path, &text)
    }

    /// Removes the machine: disk, keys, logs. The caller holds its lock and has
    /// made sure that it doesn't run.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(&self, _lock: &Lock) -> Result<()> {
        // The record first: without it the rest is rubbish, not a machine.
        match fs::remove_file(self.record_path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(e).at("removing", self.record_path());
            }
            _ => {}
        }
        match fs::remove_dir_all(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("removing", &self.path),
            _ => Ok(()),
        }
    }
}

/// Writes a file that only its owner may read, whole or not at all.
///
/// # Errors
/// [`Error::Io`].
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    // One left over by a crash may have another mode.
    match fs::remove_file(&aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e).at("removing", &aside),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)
        .at("creating", &aside)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .at("writing", &aside)?;
    fs::rename(&aside, path).at("renaming into", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accel::Accelerator;
    use crate::machine::{Arch, Boot};

    #[test]
    fn names_are_host_names() {
        for good in ["a", "x86-64", "node1", &"a".repeat(63)] {
            good.parse::<VmName>().unwrap();
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "../x",
            "a/b",
            "ä",
            &"a".repeat(64),
        ] {
            bad.parse::<VmName>().unwrap_err();
        }
        let mac = "node1".parse::<VmName>().unwrap().mac();
        assert!(mac.starts_with("52:54:00:") && mac.len() == 17, "{mac}");
        assert_ne!(mac, "node2".parse::<VmName>().unwrap().mac());
    }

    fn record(dir: &VmDir) -> Record {
        Record {
            version: RECORD_VERSION,
            machine: Machine::new(
                dir.name().clone(),
                Arch::X86_64,
                Accelerator::Tcg,
                Boot::Builtin,
            ),
            image: "x86_64.img".into(),
            image_identity: Identity::of(Path::new("/proc/self/exe")).unwrap(),
            process: None,
            created: 1,
            started: 2,
        }
    }

    #[test]
    fn a_machine_is_private_listed_and_removed() {
        let tmp = tempfile::tempdir().unwrap();
        let state = StateDir::new(tmp.path().join("state"));
        assert!(state.list().unwrap().is_empty());
        let name: VmName = "node1".parse().unwrap();
        assert!(matches!(
            state.existing(&name),
            Err(Error::NoSuchVm { known, .. }) if known.is_empty()
        ));
        let dir = state.vm(&name);
        assert_eq!(dir.record().unwrap(), None);
        let lock = dir.lock().unwrap();
        assert!(matches!(dir.lock(), Err(Error::Busy(_))));
        dir.create().unwrap();
        let written = record(&dir);
        dir.write_record(&written).unwrap();
        assert_eq!(dir.record().unwrap(), Some(written));
        let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(dir.path()), 0o700);
        assert_eq!(mode(&dir.file("vm.json")), 0o600);
        assert_eq!(state.list().unwrap().len(), 1);

        let other: VmName = "node2".parse().unwrap();
        let hint = state.existing(&other).unwrap_err().hint().unwrap();
        assert!(hint.contains("node1"), "{hint}");

        dir.remove(&lock).unwrap();
        assert!(state.list().unwrap().is_empty());
        dir.remove(&lock).unwrap();
        drop(lock);
        dir.lock().unwrap();
    }

    #[test]
    fn a_corrupt_or_newer_record_is_named() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = StateDir::new(tmp.path()).vm(&"x".parse().unwrap());
        dir.create().unwrap();
        for (bytes, why) in [
            ("", "EOF"),
            ("{}", "missing field `version`"),
            ("{\"version\": 1}", "missing field `machine`"),
            ("{\"version\": 7}", "version 7"),
        ] {
            fs::write(dir.file("vm.json"), bytes).unwrap();
            let said = dir.record().unwrap_err();
            assert!(said.to_string().contains("vm.json is corrupt"), "{said}");
            assert!(said.to_string().contains(why), "{said}");
            assert!(said.hint().unwrap().contains("--fresh"));
        }
    }
}
