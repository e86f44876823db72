//! The last steps: kill, save, unmount, reboot(2).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::reaper::Reaper;
use crate::watchdog::Watchdog;
use crate::{clock, crypt, files, log, node, say};

/// How the machine is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Start again.
    Reboot,
    /// Power off.
    PowerOff,
    /// Stop the processors, power stays on.
    Halt,
}

impl Kind {
    fn mode(self) -> RebootMode {
        match self {
            Self::Reboot => RebootMode::RB_AUTOBOOT,
            Self::PowerOff => RebootMode::RB_POWER_OFF,
            Self::Halt => RebootMode::RB_HALT_SYSTEM,
        }
    }

    /// For the console.
    pub fn verb(self) -> &'static str {
        match self {
            Self::Reboot => "rebooting",
            Self::PowerOff => "powering off",
            Self::Halt => "halting",
        }
    }
}

/// From SIGTERM to SIGKILL for what is left after the services.
const PATIENCE: Duration = Duration::from_secs(5);
/// The machine ends after this, whatever hangs.
const LIMIT: Duration = Duration::from_secs(45);

/// Ends the machine now, with what is in memory lost but for a sync.
pub fn at_once(kind: Kind) -> ! {
    log::flush(Duration::from_millis(500));
    nix::unistd::sync();
    loop {
        // It does not return as root; as PID 1 we are.
        let Err(error) = reboot(kind.mode());
        say!("reboot(2): {error}");
        std::thread::sleep(Duration::from_secs(5));
    }
}

/// Ends the machine in order. The services have been stopped; `leave` is done when nobody is
/// left who could write to the boot partition.
pub fn finish(kind: Kind, reaper: &Reaper, watchdog: Option<Watchdog>, leave: impl FnOnce()) -> ! {
    let guard = std::thread::Builder::new()
        .name("shutdown guard".into())
        .spawn(move || {
            std::thread::sleep(LIMIT);
            say!("shutdown: not done after {} s, ending it", LIMIT.as_secs());
            log::flush(Duration::from_millis(500));
            crate::ignore(reboot(kind.mode()));
        });
    if let Err(error) = guard {
        say!("shutdown: no guard: {error}");
    }
    kill_everything(reaper);
    leave();
    if is_mounted(Path::new("/var")) {
        for saved in [
            clock::save(Path::new(clock::CLOCK_FILE)),
            node::save_entropy(Path::new(node::ENTROPY_FILE)),
        ] {
            if let Err(failure) = saved {
                say!("shutdown: {failure}");
            }
        }
    }
    nix::unistd::sync();
    unmount_all();
    crypt::close();
    match (watchdog, kind) {
        (Some(watchdog), Kind::Reboot) => watchdog.leave_armed(),
        (Some(watchdog), _) => watchdog.disarm(),
        (None, _) => {}
    }
    say!("{}", kind.verb());
    at_once(kind)
}

/// Whether a process besides PID 1 and the kernel's threads lives. (kill(2) with -1 and no
/// signal counts the kernel's threads.)
fn others_are_left() -> bool {
    files::names(Path::new("/proc"))
        .iter()
        .filter(|name| name.parse::<u32>().is_ok_and(|pid| pid > 1))
        .filter_map(|name| fs::read_to_string(format!("/proc/{name}/stat")).ok())
        .any(|stat| is_living_user_process(&stat))
}

/// By /proc/PID/stat (proc(5)): the name in parentheses may hold anything, then come the
/// state, parent, group, session, terminal, its group and the flags.
fn is_living_user_process(stat: &str) -> bool {
    const PF_KTHREAD: u32 = 0x0020_0000;
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return false;
    };
    let mut fields = rest.split_ascii_whitespace();
    let is_dead = matches!(fields.next(), Some("Z" | "X") | None);
    let flags: u32 = fields.nth(5).and_then(|f| f.parse().ok()).unwrap_or(0);
    !is_dead && flags & PF_KTHREAD == 0
}

fn kill_everything(reaper: &Reaper) {
    for (signal, patience) in [
        (Signal::SIGTERM, PATIENCE),
        (Signal::SIGKILL, Duration::from_secs(2)),
    ] {
        if !others_are_left() {
            return;
        }
        if let Err(error) = kill(Pid::from_raw(-1), signal) {
            say!("shutdown: {signal} to all: {error}");
        }
        let until = Instant::now() + patience;
        while Instant::now() < until {
            reaper.reap();
            if !others_are_left() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    say!("shutdown: some processes do not die");
}

/// Mount points from /proc/self/mountinfo (field 5, octal escapes undone), as mounted.
fn mount_points(mountinfo: &str) -> Vec<String> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .collect()
}

fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

fn is_mounted(point: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mount_points(&text).iter().any(|p| Path::new(p) == point)
}

/// What must go before the disk is still: everything of pods, and /var last.
fn to_unmount(mountinfo: &str) -> Vec<String> {
    let kept = ["/", "/proc", "/sys", "/dev", "/run"];
    let mut points = mount_points(mountinfo);
    points.reverse();
    points.retain(|p| !kept.contains(&p.as_str()));
    points.retain(|p| {
        !["/proc/", "/sys/", "/dev/"]
            .iter()
            .any(|k| p.starts_with(k))
    });
    points
}

fn unmount_all() {
    // Log threads close their files when their pipes end, which they now do.
    let until = Instant::now() + Duration::from_secs(3);
    let mut stuck = BTreeSet::new();
    loop {
        stuck.clear();
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for point in to_unmount(&text) {
            if let Err(error) = umount2(point.as_str(), MntFlags::UMOUNT_NOFOLLOW) {
                stuck.insert(format!("{point} ({error})"));
            }
        }
        if stuck.is_empty() || Instant::now() >= until {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for point in ["/var", "/"] {
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        let stays = point == "/" || is_mounted(Path::new(point));
        if stays && let Err(error) = mount(None::<&str>, point, None::<&str>, flags, None::<&str>) {
            say!("shutdown: remounting {point} read-only: {error}");
        }
    }
    if !stuck.is_empty() {
        let list: Vec<_> = stuck.into_iter().collect();
        say!("shutdown: still mounted: {}", list.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_the_kernel_and_zombies_do_not_count() {
        let stat = |state: &str, flags: u32| format!("7 (a) b) {state} 1 7 7 0 -1 {flags} 0 0");
        assert!(is_living_user_process(&stat("S", 4_194_560)));
        assert!(!is_living_user_process(&stat("Z", 4_194_560)));
        assert!(!is_living_user_process(&stat(
            "I",
            69_238_880 | 0x0020_0000
        )));
        assert!(!is_living_user_process(""));
        assert!(others_are_left());
    }

    #[test]
    fn pods_first_var_last_and_the_kernels_own_not() {
        let mountinfo = "\
1 0 254:2 / / ro shared:1 - ext4 /dev/vda2 ro
2 1 0:1 / /proc rw - proc proc rw
3 1 0:2 / /sys rw - sysfs sysfs rw
4 3 0:3 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
5 1 0:4 / /run rw - tmpfs tmpfs rw
6 1 254:4 / /var rw - ext4 /dev/vda4 rw
7 6 0:9 / /var/lib/kubelet/pods/a\\040b rw - tmpfs tmpfs rw
8 5 0:8 / /run/containerd/x/rootfs rw - overlay overlay rw
";
        assert_eq!(
            to_unmount(mountinfo),
            [
                "/run/containerd/x/rootfs",
                "/var/lib/kubelet/pods/a b",
                "/var"
            ]
        );
    }
}
