//! A running virtual machine: starting it, finding it again, controlling it,
//! and making sure that it is gone.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::argv::{CONSOLE_LOG, CONSOLE_SOCKET, QMP_SOCKET, argv};
use crate::error::{At as _, Error, Result};
use crate::host;
use crate::machine::Machine;
use crate::process::{Handle, ProcessId};
use crate::qmp::Qmp;
use crate::raspi;
use crate::state::VmName;
use crate::tpm::Tpm;

/// What QEMU itself said, for diagnosis.
pub const QEMU_LOG: &str = "qemu.log";
/// How long QEMU may take to open its control socket; it has mapped the guest's
/// memory and opened the disks by then, on a host that may be busy.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// When to press the power button of a guest again that didn't hear it.
pub const PRESS_AGAIN: Duration = Duration::from_secs(10);
/// How long QEMU may take to answer a command.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// A machine whose QEMU was alive when this was made. Dropping it changes
/// nothing: the machine runs on.
#[derive(Debug)]
pub struct Vm {
    name: VmName,
    dir: PathBuf,
    process: ProcessId,
    handle: Handle,
    /// Ours to reap, if we started it.
    child: Option<Child>,
}

impl Vm {
    /// Starts QEMU with `dir` as its working directory and returns once its
    /// control socket answers. QEMU is in a process group of its own, so a
    /// Ctrl-C in our terminal doesn't reach it, and it outlives us.
    ///
    /// # Errors
    /// [`Error::ProgramMissing`]; [`Error::PortInUse`] and [`Error::Memory`] as
    /// QEMU found them; [`Error::StartFailed`] with QEMU's words for the rest.
    pub fn start(machine: &Machine, dir: &Path) -> Result<Self> {
        let emulator = host::emulator(machine.arch)?;
        for socket in [QMP_SOCKET, CONSOLE_SOCKET] {
            let path = dir.join(socket);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(e).at("removing", path);
                }
                _ => {}
            }
        }
        // Made here for its mode; QEMU appends.
        open_private(&dir.join(CONSOLE_LOG), false)?;
        let log = open_private(&dir.join(QEMU_LOG), true)?;
        let tpm = match machine.tpm {
            true => Some(Tpm::start(dir)?),
            false => None,
        };
        let started = Self::start_emulator(machine, dir, &emulator, log);
        if started.is_err()
            && let Some(tpm) = tpm
        {
            tpm.end();
        }
        started
    }

    fn start_emulator(
        machine: &Machine,
        dir: &Path,
        emulator: &Path,
        log: fs::File,
    ) -> Result<Self> {
        let mut command = Command::new(emulator);
        command
            .args(argv(machine))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        let mut child = command.spawn().at("starting", emulator)?;
        // Until it is waited for, the id of a child can't become another's.
        let pid = i32::try_from(child.id()).map_err(|e| Error::Invalid(e.to_string()))?;
        let process = ProcessId::of(pid)?;
        let handle = match &process {
            Some(process) => process.open()?,
            None => None,
        };
        let (Some(process), Some(handle)) = (process, handle) else {
            let status = child.wait().at("waiting for", emulator)?;
            return Err(start_failure(machine, dir, &status.to_string()));
        };
        let mut vm = Self {
            name: machine.name.clone(),
            dir: dir.to_owned(),
            process,
            handle,
            child: Some(child),
        };
        match vm.await_control(machine) {
            Ok(()) => Ok(vm),
            Err(e) => {
                vm.kill()?;
                Err(e)
            }
        }
    }

    /// Tries the control socket until it answers, in turn with looking whether
    /// QEMU still lives: there is no event for "listens now" to wait for.
    fn await_control(&mut self, machine: &Machine) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if self.wait(Duration::from_millis(5))? {
                let status = match &mut self.child {
                    Some(child) => child
                        .wait()
                        .map_err(|e| Error::io("waiting for QEMU", e))?
                        .to_string(),
                    None => "ended".to_owned(),
                };
                return Err(start_failure(machine, &self.dir, &status));
            }
            match self.qmp() {
                Ok(_) => return Ok(()),
                Err(Error::Io { .. }) if Instant::now() < deadline => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Finds a machine again that was started earlier, perhaps by another
    /// process; `None` if its QEMU has ended.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn find(name: &VmName, dir: &Path, process: &ProcessId) -> Result<Option<Self>> {
        Ok(process.open()?.map(|handle| Self {
            name: name.clone(),
            dir: dir.to_owned(),
            process: process.clone(),
            handle,
            child: None,
        }))
    }

    /// Its name.
    pub fn name(&self) -> &VmName {
        &self.name
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// QEMU's process.
    pub fn process(&self) -> &ProcessId {
        &self.process
    }

    /// A descriptor that is readable once QEMU has ended.
    pub fn ended_fd(&self) -> BorrowedFd<'_> {
        self.handle.fd().as_fd()
    }

    /// A control connection. QEMU serves one at a time.
    ///
    /// # Errors
    /// As [`Qmp::connect`].
    pub fn qmp(&self) -> Result<Qmp> {
        Qmp::connect(&self.dir, QMP_SOCKET, ANSWER_DEADLINE)
    }

    /// QEMU's run state: `running`, `paused`, `shutdown`, `internal-error`, ...
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn status(&self) -> Result<String> {
        let answer = self.qmp()?.execute("query-status", json!({}))?;
        answer
            .get("status")
            .and_then(|s| s.as_str())
            .map(str::to_owned)
            .ok_or_else(|| Error::Protocol(format!("no status in {answer}")))
    }

    /// Presses the power button (ACPI, a GPIO line, or the key of a keyboard). The guest decides.
    ///
    /// # Errors
    /// As [`Qmp::execute`].
    pub fn press_power_button(&self) -> Result<()> {
        let mut qmp = self.qmp()?;
        let kind = json!({ "path": "/machine", "property": "type" });
        let pressed = match qmp.execute("qom-get", kind)?.as_str() {
            Some(raspi::QOM_TYPE) => {
                let keys = json!({ "keys": [{ "type": "qcode", "data": "power" }] });
                qmp.execute("send-key", keys)
            }
            _ => qmp.execute("system_powerdown", json!({})),
        };
        pressed.map(drop)
    }

    /// Waits until QEMU has ended; `false` if it lives after `timeout`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn wait(&mut self, timeout: Duration) -> Result<bool> {
        let ended = self.handle.wait(timeout)?;
        if ended && let Some(child) = &mut self.child {
            child.wait().map_err(|e| Error::io("waiting for QEMU", e))?;
        }
        Ok(ended)
    }

    /// Presses the power button and waits; `false` if the guest is still on after
    /// `timeout`. It is pressed again every few seconds: a guest that is still
    /// booting doesn't hear it.
    ///
    /// # Errors
    /// As [`Qmp::execute`], unless QEMU has just ended.
    pub fn power_down(&mut self, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Err(e) = self.press_power_button() {
                return if self.wait(Duration::ZERO)? {
                    Ok(true)
                } else {
                    Err(e)
                };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.wait(left.min(PRESS_AGAIN))? {
                return Ok(true);
            }
            if left <= PRESS_AGAIN {
                return Ok(false);
            }
        }
    }

    /// Cuts the power: QEMU ends at once and writes nothing more, which is what
    /// a disk sees when the plug is pulled.
    ///
    /// # Errors
    /// [`Error::Timeout`] if even that doesn't end it.
    pub fn kill(&mut self) -> Result<()> {
        self.handle.signal(Signal::KILL)?;
        let deadline = Duration::from_secs(30);
        if self.wait(deadline)? {
            Ok(())
        } else {
            Err(Error::Timeout {
                what: "ending QEMU".into(),
                after: deadline,
            })
        }
    }

    /// Ends QEMU in an orderly way with the guest still on: disks are consistent
    /// with what QEMU had, the guest had no warning.
    ///
    /// # Errors
    /// As [`Qmp::execute`]; [`Error::Timeout`].
    pub fn quit(&mut self) -> Result<()> {
        self.qmp()?.execute("quit", json!({}))?;
        if self.wait(Duration::from_secs(30))? {
            Ok(())
        } else {
            self.kill()
        }
    }

    /// The last lines of what QEMU itself said.
    pub fn qemu_log(&self) -> String {
        said(&self.dir)
    }
}

fn open_private(path: &Path, truncate: bool) -> Result<fs::File> {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    if truncate {
        options.write(true).truncate(true);
    } else {
        options.append(true);
    }
    options.open(path).at("opening", path)
}

/// QEMU's own words, a few lines of them, without its name in front.
fn said(dir: &Path) -> String {
    let log = fs::read(dir.join(QEMU_LOG)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    lines[lines.len().saturating_sub(3)..]
        .iter()
        .map(|l| match l.split_once(": ") {
            Some((name, rest)) if name.starts_with("qemu-system-") => rest,
            _ => l,
        })
        .collect::<Vec<_>>()
        .join("; ")
}

/// Puts a kind to QEMU's last words.
fn start_failure(machine: &Machine, dir: &Path, status: &str) -> Error {
    classify(machine, &said(dir), status)
}

fn classify(machine: &Machine, said: &str, status: &str) -> Error {
    if said.contains("Could not set up host forwarding rule") {
        // "... rule 'tcp:127.0.0.1:8080-:80'"
        let taken = machine
            .network
            .iter()
            .flatten()
            .find(|f| said.contains(&format!(":{}:{}-:{}'", f.address, f.host, f.guest)));
        if let Some(forward) = taken {
            return Error::PortInUse {
                address: forward.address,
                port: forward.host,
            };
        }
    }
    if said.contains("Cannot allocate memory") || said.contains("cannot set up guest memory") {
        return Error::Memory(format!(
            "QEMU can't get {} of memory for the machine",
            machine.memory
        ));
    }
    if said.contains("Failed to get \"write\" lock") || said.contains("Failed to get shared") {
        return Error::StartFailed(format!(
            "another program has the machine's disk open ({said})"
        ));
    }
    Error::StartFailed(if said.is_empty() {
        status.to_owned()
    } else {
        said.to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accel::Accelerator;
    use crate::machine::{Arch, Boot};

    #[test]
    fn qemus_words_get_a_kind() {
        let mut machine = Machine::new(
            "x".parse().unwrap(),
            Arch::X86_64,
            Accelerator::Tcg,
            Boot::Builtin,
        );
        machine.network = Some(vec!["8080:80".parse().unwrap()]);
        let rule =
            "-netdev user,id=net0: Could not set up host forwarding rule 'tcp:127.0.0.1:8080-:80'";
        assert!(matches!(
            classify(&machine, rule, ""),
            Error::PortInUse { port: 8080, .. }
        ));
        assert!(matches!(
            classify(
                &machine,
                "cannot set up guest memory 'pc.ram': Cannot allocate memory",
                ""
            ),
            Error::Memory(_)
        ));
        assert!(matches!(
            classify(&machine, "", "signal: 6 (SIGABRT)"),
            Error::StartFailed(words) if words.contains("SIGABRT")
        ));
    }
}
