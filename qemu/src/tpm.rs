//! A TPM 2.0 for a machine: swtpm, a process beside QEMU that ends with it. Its state is in the
//! machine's directory, so that what it has sealed outlives the power.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::error::{At as _, Error, Result};
use crate::host;
use crate::process::ProcessId;

/// Its control socket, relative to QEMU's working directory.
pub const SOCKET: &str = "tpm.sock";
/// The directory of its state, likewise.
const STATE: &str = "tpm";
const PID: &str = "tpm.pid";
const PROGRAM: &str = "swtpm";
const FORMER_DEADLINE: Duration = Duration::from_secs(10);

/// A TPM that waits for its QEMU.
#[derive(Debug)]
pub struct Tpm {
    process: Option<ProcessId>,
}

impl Tpm {
    /// Starts it in a machine's directory; it listens when this returns.
    ///
    /// # Errors
    /// [`Error::ProgramMissing`]; [`Error::Tool`] with its words.
    pub fn start(dir: &Path) -> Result<Self> {
        let program = host::program(PROGRAM, PROGRAM)?;
        let state = dir.join(STATE);
        fs::create_dir_all(&state).at("making", &state)?;
        // It leaves the working directory, for which its state's path must be whole; sockets'
        // paths must be short.
        let state = fs::canonicalize(&state).at("resolving", &state)?;
        await_former(&dir.join(PID))?;
        let socket = dir.join(SOCKET);
        match fs::remove_file(&socket) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).at("removing", socket);
            }
            _ => {}
        }
        let mut command = Command::new(program);
        command
            .args(["socket", "--tpm2", "--terminate", "--daemon"])
            .arg("--tpmstate")
            .arg(format!("dir={},mode=0600", state.display()))
            .args(["--ctrl", &format!("type=unixio,path={SOCKET},mode=0600")])
            .args(["--pid", &format!("file={}", dir_file(dir, PID)?)])
            .current_dir(dir)
            .stdin(Stdio::null())
            .process_group(0);
        let out = command.output();
        let out = out.map_err(|e| Error::io("starting swtpm", e))?;
        if !out.status.success() {
            return Err(Error::Tool {
                command: format!("{command:?}"),
                status: out.status.to_string(),
                output: String::from_utf8_lossy(&out.stderr).trim().to_owned(),
            });
        }
        let pid = fs::read_to_string(dir.join(PID)).at("reading", dir.join(PID))?;
        let process = match pid.trim().parse() {
            Ok(pid) => ProcessId::of(pid)?,
            Err(_) => None,
        };
        Ok(Self { process })
    }

    /// Ends it where QEMU didn't come so far as to do so itself.
    pub fn end(&self) {
        let handle = self.process.as_ref().map(ProcessId::open);
        if let Some(Ok(Some(handle))) = handle {
            // It may have ended by itself meanwhile.
            drop(handle.signal(Signal::TERM));
        }
    }
}

/// One whose QEMU has just lost its power may still be writing its state, which is locked.
fn await_former(pid: &Path) -> Result<()> {
    let former = fs::read_to_string(pid).ok();
    let Some(former) = former.and_then(|text| text.trim().parse().ok()) else {
        return Ok(());
    };
    let name = fs::read_to_string(format!("/proc/{former}/comm")).unwrap_or_default();
    if name.trim() != PROGRAM {
        return Ok(());
    }
    let Some(handle) = ProcessId::of(former)?.map(|id| id.open()).transpose()? else {
        return Ok(());
    };
    match handle {
        Some(handle) if !handle.wait(FORMER_DEADLINE)? => Err(Error::Timeout {
            what: "the end of the machine's former TPM".into(),
            after: FORMER_DEADLINE,
        }),
        _ => Ok(()),
    }
}

fn dir_file(dir: &Path, name: &str) -> Result<String> {
    let dir = std::path::absolute(dir).at("resolving", dir)?;
    Ok(dir.join(name).display().to_string())
}
