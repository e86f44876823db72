//! KVM or emulation. That `/dev/kvm` exists proves nothing: inside containers
//! and nested virtual machines it often dies as soon as a guest computes. So a
//! trial guest is started with the very options that a real one would get, and
//! KVM is chosen only if that guest comes to the right results in time.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::argv::argv;
use crate::disk::Identity;
use crate::error::{At as _, Error, Result};
use crate::guest;
use crate::host;
use crate::machine::{Arch, Boot, Cache, Disk, DiskFormat, Machine, Mebibytes, OnReboot};
use crate::process::ProcessId;
use crate::state::write_private;

/// How long the trial guest may take; it needs a few hundredths of a second.
const TRIAL_DEADLINE: Duration = Duration::from_secs(10);

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The host's processor.
    Kvm,
    /// QEMU's translator: runs everywhere, about ten times slower.
    Tcg,
}

/// A choice and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// What to use.
    pub accelerator: Accelerator,
    /// One line for the user.
    pub reason: String,
}

/// Before this version a processor may run a stale translation of code that another one has
/// just changed, as a kernel does while it starts: "Oops: int3" in one of some 70 boots with two
/// processors (none with QEMU 10.0). Mended in QEMU by "accel/tcg: Always lock pages before
/// translation".
const SOUND: (u32, u32) = (8, 1);

impl Choice {
    fn tcg(emulator: &Path, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if let Some(version @ (major, minor)) = host::version(emulator)
            && version < SOUND
        {
            reason.push_str(&format!(
                "; with QEMU {major}.{minor} some emulated boots crash, {}.{} or newer is sound",
                SOUND.0, SOUND.1
            ));
        }
        Self {
            accelerator: Accelerator::Tcg,
            reason,
        }
    }
}

/// What a cached choice was made on.
#[derive(Serialize, Deserialize, PartialEq)]
struct Cached {
    boot: String,
    emulator: Identity,
    /// Whether the device could be opened: joining the `kvm` group changes it.
    device: bool,
    choice: Choice,
}

/// Chooses for guests of `arch`. The trial's result is kept in the file `cache`
/// until the host boots again or gets another QEMU.
///
/// # Errors
/// [`Error::ProgramMissing`] without QEMU, [`Error::Io`]. That KVM doesn't work
/// is no error.
pub fn choose(arch: Arch, cache: Option<&Path>) -> Result<Choice> {
    let emulator = host::emulator(arch)?;
    if !arch.is_hosts() {
        let reason = format!(
            "the host is {}, the guest {}",
            std::env::consts::ARCH,
            arch.name()
        );
        return Ok(Choice::tcg(&emulator, reason));
    }
    if arch != Arch::X86_64 {
        let reason = "there is no trial guest for this processor yet";
        return Ok(Choice::tcg(&emulator, reason));
    }
    let device = rustix::fs::open("/dev/kvm", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let boot = host::boot_id()?;
    let identity = Identity::of(&emulator)?;
    if let Some(known) = cache.and_then(read_cache)
        && known.boot == boot
        && known.emulator == identity
        && known.device == device.is_ok()
    {
        return Ok(known.choice);
    }
    let opened = device.is_ok();
    let choice = match device {
        Err(rustix::io::Errno::NOENT) => Choice::tcg(&emulator, "the host has no /dev/kvm"),
        Err(rustix::io::Errno::ACCESS) => Choice::tcg(
            &emulator,
            "/dev/kvm may not be opened; `sudo adduser $USER kvm` and a new login would make it faster",
        ),
        Err(e) => Choice::tcg(&emulator, format!("/dev/kvm can't be opened: {e}")),
        Ok(fd) => {
            drop(fd);
            match trial(&emulator, Accelerator::Kvm)? {
                Ok(()) => Choice {
                    accelerator: Accelerator::Kvm,
                    reason: "a trial guest ran under KVM".into(),
                },
                Err(why) => Choice::tcg(&emulator, format!("KVM is there and doesn't work: {why}")),
            }
        }
    };
    if let Some(path) = cache {
        let cached = Cached {
            boot,
            emulator: identity,
            device: opened,
            choice: choice.clone(),
        };
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).at("creating", dir)?;
        }
        let text = serde_json::to_vec(&cached).map_err(|e| Error::Invalid(e.to_string()))?;
        write_private(path, &text)?;
    }
    Ok(choice)
}

/// An unreadable cache is no cache: the trial is cheap.
fn read_cache(path: &Path) -> Option<Cached> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Runs the trial guest; the inner error says how it failed.
fn trial(emulator: &Path, accelerator: Accelerator) -> Result<Result<(), String>> {
    let dir = tempfile::Builder::new()
        .prefix("slipway-trial-")
        .tempdir()
        .map_err(|e| Error::io("making a temporary directory", e))?;
    let disk = dir.path().join("trial.img");
    fs::write(&disk, guest::probe_disk()).at("writing", &disk)?;
    let mut machine = Machine::new("trial".parse()?, Arch::X86_64, accelerator, Boot::Builtin);
    machine.memory = Mebibytes(64);
    machine.disks = vec![Disk {
        path: disk,
        format: DiskFormat::Raw,
        cache: Cache::Unsafe,
        read_only: true,
    }];
    machine.on_reboot = OnReboot::Exit;
    machine.debug_exit = true;
    let log = dir.path().join("qemu.log");
    let output = fs::File::create(&log).at("creating", &log)?;
    let mut child = Command::new(emulator)
        .args(argv(&machine))
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .at("starting", emulator)?;
    // The id is our own child's, and stays so until it is waited for.
    let ended = match i32::try_from(child.id()).ok().map(ProcessId::of) {
        Some(Ok(Some(process))) => match process.open()? {
            Some(handle) => handle.wait(TRIAL_DEADLINE)?,
            None => true,
        },
        Some(Err(e)) => return Err(e),
        _ => true,
    };
    if !ended {
        child.kill().at("ending", emulator)?;
    }
    let status = child.wait().at("waiting for", emulator)?;
    let said = fs::read_to_string(&log).unwrap_or_default();
    let said = said
        .lines()
        .find(|l| l.contains("error") || l.contains("KVM") || l.contains("kvm"))
        .unwrap_or("")
        .trim()
        .trim_start_matches("qemu-system-x86_64: ");
    Ok(match status.code() {
        Some(guest::PROBE_PASSED) => Ok(()),
        _ if !said.is_empty() => Err(said.to_owned()),
        _ if !ended => Err(format!(
            "the trial guest hung for {} s",
            TRIAL_DEADLINE.as_secs()
        )),
        Some(code) => Err(format!("the trial guest ended with {code}")),
        None => Err(format!("QEMU died: {status}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The guest itself is right: under emulation it passes.
    #[test]
    fn the_trial_guest_passes_under_emulation() {
        let emulator = host::emulator(Arch::X86_64).unwrap();
        trial(&emulator, Accelerator::Tcg).unwrap().unwrap();
    }

    #[test]
    fn a_choice_is_kept_until_something_changes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("deep/kvm.json");
        let first = choose(Arch::X86_64, Some(&cache)).unwrap();
        let mut cached = read_cache(&cache).unwrap();
        assert!(cached.choice == first);
        // What is written there is believed ...
        cached.choice.reason = "because".into();
        fs::write(&cache, serde_json::to_vec(&cached).unwrap()).unwrap();
        assert_eq!(
            choose(Arch::X86_64, Some(&cache)).unwrap().reason,
            "because"
        );
        // ... for this boot of the host, and if it can be read.
        cached.boot = "another".into();
        fs::write(&cache, serde_json::to_vec(&cached).unwrap()).unwrap();
        assert_eq!(choose(Arch::X86_64, Some(&cache)).unwrap(), first);
        fs::write(&cache, "{").unwrap();
        assert_eq!(choose(Arch::X86_64, Some(&cache)).unwrap(), first);
    }

    #[test]
    fn a_foreign_processor_is_emulated() {
        if let Ok(choice) = choose(Arch::Aarch64, None)
            && !Arch::Aarch64.is_hosts()
        {
            assert_eq!(choice.accelerator, Accelerator::Tcg);
        }
    }
}
