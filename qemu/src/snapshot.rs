//! A machine caught alive: its memory and device state in one compressed file,
//! beside the disk as it was. Restoring takes seconds where booting takes
//! minutes under emulation.
//!
//! | file | what it is |
//! |---|---|
//! | `machine.json` | the [`Machine`], whose devices a restored one has too, and the image under its disk as it was |
//! | `ram.zst` | QEMU's migration stream, zstd |
//! | `disk.qcow2` | the disk, never written to again: restored machines put an overlay on it |
//! | `vars.fd` | the firmware's variables, if it has firmware |
//!
//! The stream goes through a Unix socket and is compressed here, so neither a
//! shell nor a `zstd` program is needed. The guest's clock goes on from where it
//! stopped.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::disk::{self, Identity};
use crate::error::{At as _, Error, Result};
use crate::machine::{Boot, DiskFormat, DiskSize, Forward, Machine};
use crate::process::remaining;
use crate::qmp::connect_below;
use crate::state::write_private;
use crate::vm::Vm;

/// The socket that the stream goes through, in the machine's directory.
const STREAM_SOCKET: &str = "stream.sock";
/// Memory goes at disk speed; on a busy host that still is a minute at most.
const STREAM_DEADLINE: Duration = Duration::from_secs(300);
/// zstd's level: 817 MB of a Ready node become about 150 MB.
const LEVEL: i32 = 3;

/// A snapshot on disk.
#[derive(Debug, Clone)]
pub struct Snapshot {
    dir: PathBuf,
    caught: Caught,
}

/// What `machine.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Caught {
    machine: Machine,
    /// The image under the disk; a rebuilt one would be another disk.
    image: Option<(PathBuf, Identity)>,
}

impl Snapshot {
    /// Catches `vm`, which ends by that, and moves its disk into `dir`, which
    /// must not exist yet. `machine` is the description that it was started with.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a machine with other than one qcow2 disk, else as
    /// [`Vm::qmp`] and [`Error::Io`]. Nothing is left at `dir` then.
    pub fn take(vm: &mut Vm, machine: &Machine, dir: &Path) -> Result<Self> {
        let disk = only_disk(machine)?.to_owned();
        let aside = dir.with_extension("new");
        if aside.exists() {
            fs::remove_dir_all(&aside).at("removing", &aside)?;
        }
        fs::create_dir_all(&aside).at("creating", &aside)?;
        save_ram(vm, &aside.join("ram.zst"))?;
        vm.quit()?;
        let from = vm.dir().join(&disk);
        let to = aside.join("disk.qcow2");
        let image = match disk::backing_file(&from)? {
            Some(image) => {
                let identity = Identity::of(&image)?;
                Some((image, identity))
            }
            None => None,
        };
        match fs::rename(&from, &to) {
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => fs::copy(&from, &to)
                .and_then(|_| fs::remove_file(&from))
                .at("moving the disk to", &to)?,
            other => other.at("moving the disk to", &to)?,
        }
        let mut machine = machine.clone();
        if let Boot::Firmware { vars, .. } = &mut machine.boot {
            let to = aside.join("vars.fd");
            fs::copy(vm.dir().join(&*vars), &to).at("copying the variables to", &to)?;
        }
        for file in &machine.fw_cfg {
            // Read again when the machine is switched off and on; it may be a secret.
            let from = vm.dir().join(&file.path);
            let bytes = fs::read(&from).at("reading", &from)?;
            write_private(&aside.join(&file.path), &bytes)?;
        }
        let caught = Caught { machine, image };
        let text = serde_json::to_vec_pretty(&caught).map_err(|e| Error::Invalid(e.to_string()))?;
        write_private(&aside.join("machine.json"), &text)?;
        fs::rename(&aside, dir).at("renaming into", dir)?;
        Ok(Self {
            dir: dir.to_owned(),
            caught,
        })
    }

    /// Opens one that was taken earlier.
    ///
    /// # Errors
    /// [`Error::Io`] if there is none, [`Error::Corrupt`].
    pub fn open(dir: &Path) -> Result<Self> {
        let path = dir.join("machine.json");
        let text = fs::read(&path).at("reading", &path)?;
        let caught = serde_json::from_slice(&text).map_err(|e| Error::Corrupt {
            path,
            reason: e.to_string(),
        })?;
        Ok(Self {
            dir: dir.to_owned(),
            caught,
        })
    }

    /// The machine as it was caught.
    pub fn machine(&self) -> &Machine {
        &self.caught.machine
    }

    /// Brings it back to life in `dir`, an empty directory, on an overlay of its
    /// own; any number can live at once. `forwards` replace the ports of the
    /// host (the guest doesn't see them).
    ///
    /// # Errors
    /// As [`Vm::start`]; [`Error::Refused`] if QEMU can't read the stream (another
    /// version of it, or another machine); [`Error::Corrupt`] if the image under
    /// the disk has changed since.
    pub fn restore(&self, dir: &Path, forwards: Option<Vec<Forward>>) -> Result<(Vm, Machine)> {
        if let Some((image, identity)) = &self.caught.image
            && Identity::of(image)? != *identity
        {
            return Err(Error::Corrupt {
                path: self.dir.clone(),
                reason: format!(
                    "{} is another image than the one it was taken on",
                    image.display()
                ),
            });
        }
        let mut machine = self.caught.machine.clone();
        machine.incoming = true;
        if forwards.is_some() {
            machine.network = forwards;
        }
        let base = std::path::absolute(self.dir.join("disk.qcow2")).at("resolving", &self.dir)?;
        let overlay = dir.join("overlay.qcow2");
        disk::create_overlay(&base, DiskFormat::Qcow2, &overlay, DiskSize::gib(0))?;
        let [disk] = machine.disks.as_mut_slice() else {
            return Err(Error::Invalid("a snapshot has one disk".into()));
        };
        disk.path = "overlay.qcow2".into();
        if let Boot::Firmware { vars, .. } = &mut machine.boot {
            let own = dir.join("vars.fd");
            fs::copy(self.dir.join("vars.fd"), &own).at("copying the variables to", &own)?;
            *vars = "vars.fd".into();
        }
        for file in &machine.fw_cfg {
            let from = self.dir.join(&file.path);
            let bytes = fs::read(&from).at("reading", &from)?;
            write_private(&dir.join(&file.path), &bytes)?;
        }
        let mut vm = Vm::start(&machine, dir)?;
        match load_ram(&vm, &self.dir.join("ram.zst")) {
            Ok(()) => {
                machine.incoming = false;
                Ok((vm, machine))
            }
            Err(e) => {
                vm.kill()?;
                Err(e)
            }
        }
    }
}

fn only_disk(machine: &Machine) -> Result<&Path> {
    match machine.disks.as_slice() {
        [disk] if disk.format == DiskFormat::Qcow2 => Ok(&disk.path),
        _ => Err(Error::Invalid(
            "only a machine with exactly one qcow2 disk can be caught".into(),
        )),
    }
}

/// Stops the guest's processors and writes its memory and devices to `path`. The
/// guest stays stopped.
///
/// # Errors
/// As [`Vm::qmp`], and [`Error::Io`]; `path` is whole or not there.
pub fn save_ram(vm: &Vm, path: &Path) -> Result<()> {
    let socket = vm.dir().join(STREAM_SOCKET);
    remove_if_there(&socket)?;
    let listener = listen_below(vm.dir(), STREAM_SOCKET).at("listening on", &socket)?;
    let aside = path.with_extension("partial");
    let file = File::create(&aside).at("creating", &aside)?;
    let mut qmp = vm.qmp()?;
    qmp.execute("stop", json!({}))?;
    // The guest stands still: there is nothing to be gentle with.
    qmp.execute(
        "migrate-set-parameters",
        json!({ "max-bandwidth": 1_u64 << 40 }),
    )?;
    qmp.execute(
        "migrate-set-capabilities",
        json!({ "capabilities": [{ "capability": "events", "state": true }] }),
    )?;
    let receiver = thread::spawn(move || receive(&listener, file));
    let outcome = qmp
        .execute("migrate", json!({ "uri": format!("unix:{STREAM_SOCKET}") }))
        .and_then(|_| await_migration(&mut qmp));
    let received = receiver
        .join()
        .map_err(|_| Error::Protocol("the receiver of the memory failed".into()))?;
    remove_if_there(&socket)?;
    outcome?;
    received.at("writing", &aside)?;
    fs::rename(&aside, path).at("renaming into", path)
}

/// Fills a machine that waits for it (`incoming`) from `path` and lets it run.
///
/// # Errors
/// As [`save_ram`].
pub fn load_ram(vm: &Vm, path: &Path) -> Result<()> {
    let file = File::open(path).at("opening", path)?;
    let mut qmp = vm.qmp()?;
    qmp.execute(
        "migrate-set-capabilities",
        json!({ "capabilities": [{ "capability": "events", "state": true }] }),
    )?;
    // QEMU listens by the time it answers.
    qmp.execute(
        "migrate-incoming",
        json!({ "uri": format!("unix:{STREAM_SOCKET}") }),
    )?;
    let stream = connect_below(vm.dir(), STREAM_SOCKET)
        .map_err(|e| Error::io("sending memory to QEMU", e))?;
    let sender = thread::spawn(move || send(file, stream));
    let outcome = await_migration(&mut qmp);
    let sent = sender
        .join()
        .map_err(|_| Error::Protocol("the sender of the memory failed".into()))?;
    remove_if_there(&vm.dir().join(STREAM_SOCKET))?;
    // If sending failed, that is why QEMU failed.
    sent.at("reading", path)?;
    outcome?;
    qmp.execute("cont", json!({})).map(drop)
}

fn await_migration(qmp: &mut crate::qmp::Qmp) -> Result<()> {
    let state = |event: &crate::qmp::Event| {
        event
            .data
            .get("status")
            .and_then(|s| s.as_str())
            .unwrap_or_default()
            .to_owned()
    };
    let last = qmp.wait_event("moving the memory", STREAM_DEADLINE, |event| {
        event.event == "MIGRATION"
            && matches!(state(event).as_str(), "completed" | "failed" | "cancelled")
    })?;
    if state(&last) == "completed" {
        return Ok(());
    }
    let info = qmp.execute("query-migrate", json!({}))?;
    Err(Error::Refused {
        command: "migrate".into(),
        description: info
            .get("error-desc")
            .and_then(|d| d.as_str())
            .unwrap_or("the stream broke off")
            .to_owned(),
    })
}

/// Compresses what comes in. QEMU connects at once or never (if it refuses the
/// command), hence the deadline.
fn receive(listener: &UnixListener, file: File) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    if poll(&mut fds, Some(&remaining(deadline)))? == 0 {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "QEMU did not send its memory",
        ));
    }
    let (mut stream, _) = listener.accept()?;
    let mut encoder = zstd::Encoder::new(BufWriter::with_capacity(1 << 20, file), LEVEL)?;
    encoder.multithread(2)?;
    encoder.include_checksum(true)?;
    io::copy(&mut stream, &mut encoder)?;
    let file = encoder.finish()?.into_inner()?;
    file.sync_all()
}

fn send(file: File, mut stream: UnixStream) -> io::Result<()> {
    let mut decoder = zstd::Decoder::new(file)?;
    match io::copy(&mut decoder, &mut stream).and_then(|_| stream.flush()) {
        // QEMU stops reading at the end of the stream that it knows, and when it
        // refuses the stream; it tells which over the control socket.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        other => other,
    }
}

fn listen_below(dir: &Path, name: &str) -> io::Result<UnixListener> {
    use std::os::fd::AsRawFd as _;
    let dir = File::open(dir)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e).at("removing", path),
        _ => Ok(()),
    }
}
