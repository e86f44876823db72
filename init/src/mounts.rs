//! Mounts as a table, and what goes with them: device links, the cgroup tree, /etc.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::files;
use crate::phase::{Context, Failure};

/// One line of the table.
pub struct Mount {
    /// Type of filesystem.
    pub kind: &'static str,
    /// Where.
    pub target: &'static str,
    /// Flags of mount(2).
    pub flags: MsFlags,
    /// Options of the filesystem.
    pub data: &'static str,
    /// Whether the boot can go on without it.
    pub optional: bool,
}

const fn entry(
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: &'static str,
) -> Mount {
    Mount {
        kind,
        target,
        flags,
        data,
        optional: false,
    }
}

const fn optional(
    kind: &'static str,
    target: &'static str,
    flags: MsFlags,
    data: &'static str,
) -> Mount {
    Mount {
        kind,
        target,
        flags,
        data,
        optional: true,
    }
}

const NOSUID: MsFlags = MsFlags::MS_NOSUID;
const NODEV: MsFlags = MsFlags::MS_NODEV.union(NOSUID);
const NOEXEC: MsFlags = MsFlags::MS_NOEXEC.union(NODEV);

/// What the initrd mounts; they move to the root.
pub const EARLY: &[Mount] = &[
    entry("proc", "/proc", NOEXEC, ""),
    entry("sysfs", "/sys", NOEXEC, ""),
    entry("devtmpfs", "/dev", NOSUID, "mode=0755"),
    entry("tmpfs", "/run", NODEV, "mode=0755,size=20%"),
];

/// What the root mounts besides. The kubelet finds cgroup2 at /sys/fs/cgroup.
pub const ROOT: &[Mount] = &[
    entry("tmpfs", "/tmp", NODEV, "mode=1777,size=50%"),
    entry("tmpfs", "/dev/shm", NODEV, "mode=1777"),
    // Root's home: keys of ssh, the kubeconfig.
    entry("tmpfs", "/root", NODEV, "mode=0700,size=32M"),
    entry(
        "devpts",
        "/dev/pts",
        NOSUID.union(MsFlags::MS_NOEXEC),
        "gid=5,mode=0620,ptmxmode=0666",
    ),
    entry(
        "cgroup2",
        "/sys/fs/cgroup",
        NOEXEC,
        "nsdelegate,memory_recursiveprot",
    ),
    optional("mqueue", "/dev/mqueue", NOEXEC, ""),
    optional("securityfs", "/sys/kernel/security", NOEXEC, ""),
    optional("tracefs", "/sys/kernel/tracing", NOEXEC, ""),
    optional("bpf", "/sys/fs/bpf", NOEXEC, "mode=0700"),
    optional("pstore", "/sys/fs/pstore", NOEXEC, ""),
];

/// Links in /dev that programs expect and devtmpfs does not make.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
];

/// Mounts a table. What is mounted already stays.
///
/// # Errors
/// The first mount that failed and is not optional.
pub fn mount_all(table: &[Mount]) -> Result<(), Failure> {
    // A second tmpfs would hide the first and what is in it.
    let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_mounted = |target: &str| {
        let mut points = mounted.lines().filter_map(|line| line.split(' ').nth(4));
        points.any(|point| point == target)
    };
    for m in table {
        if is_mounted(m.target) {
            continue;
        }
        // Below a read-only root or /sys this fails where the directory exists.
        if !Path::new(m.target).is_dir() && fs::create_dir_all(m.target).is_err() && m.optional {
            continue;
        }
        let data = (!m.data.is_empty()).then_some(m.data);
        match mount(Some(m.kind), m.target, Some(m.kind), m.flags, data) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(_) if m.optional => {}
            Err(error) => {
                return Err(Failure(format!(
                    "mounting {} on {}: {error}",
                    m.kind, m.target
                )));
            }
        }
    }
    Ok(())
}

/// Makes the links in /dev.
///
/// # Errors
/// Those of symlink(2) but EEXIST.
pub fn device_links() -> Result<(), Failure> {
    for (target, link) in DEVICE_LINKS {
        match symlink(target, link) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Failure(format!("{link}: {e}")));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes mounts in one namespace appear in those below: the kubelet's volumes need it.
///
/// # Errors
/// Those of mount(2).
pub fn share_root() -> Result<(), Failure> {
    let flags = MsFlags::MS_SHARED | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).context("sharing the root mount")
}

/// Where cgroup2 is.
pub const CGROUP: &str = "/sys/fs/cgroup";
/// The group that services live in, one below it each.
pub const SYSTEM_GROUP: &str = "/sys/fs/cgroup/system";
const OWN_GROUP: &str = "/sys/fs/cgroup/init";

/// Moves PID 1 into a leaf (a group with controllers for its children may hold no processes)
/// and hands every controller down to the groups below the root and below `system`.
///
/// # Errors
/// When the groups cannot be made.
pub fn cgroups() -> Result<String, Failure> {
    for group in [OWN_GROUP, SYSTEM_GROUP] {
        fs::create_dir_all(group).context(group)?;
    }
    files::write_existing(format!("{OWN_GROUP}/cgroup.procs"), "1").context("moving PID 1")?;
    let mut given = Vec::new();
    let text = files::read_trimmed(format!("{CGROUP}/cgroup.controllers")).context(CGROUP)?;
    for controller in text.split_ascii_whitespace() {
        // One by one: a controller that cannot be delegated does not take the others along.
        let enable = format!("+{controller}");
        let root = files::write_existing(format!("{CGROUP}/cgroup.subtree_control"), &enable);
        let system =
            files::write_existing(format!("{SYSTEM_GROUP}/cgroup.subtree_control"), &enable);
        if root.and(system).is_ok() {
            given.push(controller);
        }
    }
    for needed in ["cpu", "memory", "pids"] {
        if !given.contains(&needed) {
            return Err(Failure(format!(
                "the kernel has no cgroup controller `{needed}`"
            )));
        }
    }
    Ok(given.join(" "))
}

/// Puts a tmpfs with a copy of the image's /etc over /etc.
///
/// # Errors
/// Those of mounting and copying.
pub fn etc() -> Result<String, Failure> {
    let staging = Path::new("/run/slipway/etc");
    fs::create_dir_all(staging).context("making the staging directory")?;
    mount(
        Some("tmpfs"),
        staging,
        Some("tmpfs"),
        NODEV,
        Some("mode=0755,size=16M"),
    )
    .context("mounting a tmpfs")?;
    let count = copy_tree(Path::new("/etc"), staging).context("copying /etc")?;
    mount(
        Some(staging),
        "/etc",
        None::<&str>,
        MsFlags::MS_MOVE,
        None::<&str>,
    )
    .context("moving it to /etc")?;
    Ok(format!("{count} files"))
}

/// Copies directories, files with their modes and symbolic links. Gives the number of files.
///
/// # Errors
/// The first failure, with the path.
pub fn copy_tree(from: &Path, to: &Path) -> io::Result<usize> {
    let named = |path: &Path| {
        let text = path.display().to_string();
        move |e: io::Error| io::Error::new(e.kind(), format!("{text}: {e}"))
    };
    let mut count = 0;
    for entry in fs::read_dir(from).map_err(named(from))? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            match fs::create_dir(&target) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            let mode = entry.metadata()?.permissions().mode();
            fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
            count += copy_tree(&source, &target)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(&source)?, &target).map_err(named(&target))?;
            count += 1;
        } else if kind.is_file() {
            fs::copy(&source, &target).map_err(named(&source))?;
            count += 1;
        }
    }
    Ok(count)
}

/// Turns the kernel's own console output down to errors, so that its lines and ours do not
/// come twice.
pub fn quiet_kernel_console() {
    // A kernel without printk has no such file, and nothing to turn down.
    drop(files::write_existing("/proc/sys/kernel/printk", "4 4 1 7"));
    drop(files::write_existing(
        "/proc/sys/kernel/printk_devkmsg",
        "on",
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_copied_with_modes_and_links() {
        let from = tempfile::tempdir().unwrap();
        let to = tempfile::tempdir().unwrap();
        fs::create_dir(from.path().join("ssl")).unwrap();
        fs::write(from.path().join("ssl/key"), "k").unwrap();
        fs::set_permissions(
            from.path().join("ssl/key"),
            fs::Permissions::from_mode(0o600),
        )
        .unwrap();
        symlink("../proc/mounts", from.path().join("mtab")).unwrap();
        assert_eq!(copy_tree(from.path(), to.path()).unwrap(), 2);
        let key = fs::metadata(to.path().join("ssl/key")).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_link(to.path().join("mtab")).unwrap(),
            Path::new("../proc/mounts")
        );
    }

    #[test]
    fn tables_name_each_target_once_parents_first() {
        let all: Vec<_> = EARLY.iter().chain(ROOT).map(|m| m.target).collect();
        for (i, target) in all.iter().enumerate() {
            assert!(!all[..i].contains(target), "{target} twice");
            assert!(
                !all[..i].iter().any(|t| Path::new(t).starts_with(target)),
                "{target} hides one"
            );
        }
    }
}
