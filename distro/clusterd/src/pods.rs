//! Ending the pods when the machine goes down.
//!
//! clusterd's own end or restart leaves pods alone: they belong to containerd,
//! and a new kubelet takes them up again. When the machine goes down (`init`
//! leaves a mark) they are ended as Kubernetes would: SIGTERM to the main
//! process of each container, time to finish, then the kernel's `cgroup.kill`
//! for the rest.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Context, Error};
use crate::log::info;

/// The kubelet's cgroup of all pods (cgroup v2).
pub const KUBEPODS: &str = "/sys/fs/cgroup/kubepods";
/// How long pods may take to finish.
const GRACE: Duration = Duration::from_secs(25);

/// Ends all pods. The kubelet must have ended before, or it would start them again.
pub fn end(cgroup: &Path) -> Result<(), Error> {
    if !cgroup.join("cgroup.events").exists() {
        return Ok(());
    }
    let mut signalled = 0;
    for pid in processes(cgroup)? {
        if is_main(pid)
            && let Some(pid) = Pid::from_raw(pid)
            && kill_process(pid, Signal::TERM).is_ok()
        {
            signalled += 1;
        }
    }
    if signalled > 0 {
        info!("asked {signalled} containers to end");
    }
    if !wait_empty(cgroup, GRACE)? {
        info!("killing the containers that are left");
        let path = cgroup.join("cgroup.kill");
        std::fs::write(&path, "1").context(|| format!("write {}", path.display()))?;
        wait_empty(cgroup, Duration::from_secs(5))?;
    }
    Ok(())
}

/// Every process below a cgroup.
fn processes(cgroup: &Path) -> Result<Vec<i32>, Error> {
    let mut found = Vec::new();
    let mut queue: Vec<PathBuf> = vec![cgroup.to_owned()];
    while let Some(directory) = queue.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                queue.push(entry.path());
            }
        }
        let text = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    Ok(found)
}

/// Whether a process is the first of its PID namespace, or in the host's (proc(5), `NSpid`).
fn is_main(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))
        .unwrap_or_default();
    let inner = line.split_whitespace().skip(1);
    match inner.last() {
        Some(number) => number == "1",
        None => true,
    }
}

/// Waits until no process is left; the kernel wakes who polls `cgroup.events`.
fn wait_empty(cgroup: &Path, time: Duration) -> Result<bool, Error> {
    let path = cgroup.join("cgroup.events");
    let until = Instant::now() + time;
    loop {
        let file = File::open(&path).context(|| format!("open {}", path.display()))?;
        let text = std::io::read_to_string(&file).context(|| format!("read {}", path.display()))?;
        if text.lines().any(|line| line == "populated 0") {
            return Ok(true);
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&file, PollFlags::PRI)];
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context(|| format!("wait on {}", path.display())),
        }
    }
}
