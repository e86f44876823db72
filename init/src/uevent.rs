//! The kernel's device events over netlink, and cold-plug by modalias.
//!
//! A message is NUL-separated text: `ACTION@DEVPATH`, then `KEY=value` each
//! (lib/kobject_uevent.c). Those of group 1 from port 0 are the kernel's own.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use netlink_sys::{Socket, SocketAddr};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::modules::Modules;

const NETLINK_KOBJECT_UEVENT: isize = 15;
const KERNEL_GROUP: u32 = 1;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `remove`, `change`, `bind`, ...
    pub action: String,
    /// Path below /sys.
    pub devpath: String,
    /// All `KEY=value`.
    pub values: HashMap<String, String>,
}

impl Uevent {
    /// Parses one message; `None` for what is not the kernel's format.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut fields = bytes.split(|b| *b == 0).map(String::from_utf8_lossy);
        let header = fields.next()?;
        let (action, devpath) = header.split_once('@')?;
        let values = fields
            .filter_map(|f| f.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
            .collect();
        Some(Self {
            action: action.to_owned(),
            devpath: devpath.to_owned(),
            values,
        })
    }

    /// One of the values, such as `MODALIAS`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }
}

/// The socket on which the kernel announces devices.
pub struct UeventSocket(Socket);

impl UeventSocket {
    /// Opens it; events from now on are kept in its buffer.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_KOBJECT_UEVENT)?;
        // Cold-plug makes hundreds of events before anyone reads.
        drop(socket.set_rx_buf_sz(4 << 20));
        socket.bind(&SocketAddr::new(0, KERNEL_GROUP))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// The next event, waiting at most `wait`; `None` when none came.
    ///
    /// # Errors
    /// ENOBUFS: events were lost, walk /sys again.
    pub fn next(&self, wait: Duration) -> io::Result<Option<Uevent>> {
        let deadline = Instant::now() + wait;
        loop {
            match self.0.recv_from_full() {
                Ok((bytes, from)) if from.port_number() == 0 => {
                    if let Some(event) = Uevent::parse(&bytes) {
                        return Ok(Some(event));
                    }
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(None);
                    }
                    self.wait(left)?;
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn wait(&self, limit: Duration) -> io::Result<()> {
        let fd = crate::sys::borrow(self.0.as_raw_fd());
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
        // A millisecond more, so that a rest below one does not spin.
        let limit = limit + Duration::from_millis(1);
        match poll(
            &mut fds,
            PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX),
        ) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// The modaliases of all devices present, from /sys.
pub fn modaliases(sys: &Path) -> BTreeSet<String> {
    let mut aliases = BTreeSet::new();
    let mut groups = vec![sys.join("class/input"), sys.join("class/dmi")];
    for bus in crate::files::names(&sys.join("bus")) {
        groups.push(sys.join("bus").join(bus).join("devices"));
    }
    for group in groups {
        for device in crate::files::names(&group) {
            if let Ok(alias) = crate::files::read_trimmed(group.join(device).join("modalias"))
                && !alias.is_empty()
            {
                aliases.insert(alias);
            }
        }
    }
    aliases
}

/// What a cold-plug did.
#[derive(Debug, Default)]
pub struct Plugged {
    /// Modules loaded.
    pub loaded: usize,
    /// Failures that are not "no such hardware", one line each.
    pub failures: Vec<String>,
}

impl Plugged {
    /// Loads what the aliases ask for; aliases nobody claims are no failure.
    pub fn load<'a>(&mut self, modules: &mut Modules, aliases: impl IntoIterator<Item = &'a str>) {
        use crate::modules::ModuleError;
        for alias in aliases {
            match modules.load(alias) {
                Ok(n) => self.loaded += n,
                Err(ModuleError::NotFound(..)) => {}
                Err(error) if error.is_no_hardware() => {}
                Err(error) => self.failures.push(error.to_string()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_real_message() {
        let bytes = b"add@/devices/pci0000:00/0000:00:03.0/virtio0\0ACTION=add\0DEVPATH=/devices/pci0000:00/0000:00:03.0/virtio0\0SUBSYSTEM=virtio\0MODALIAS=virtio:d00000002v00001AF4\0SEQNUM=812\0";
        let event = Uevent::parse(bytes).unwrap();
        assert_eq!(event.action, "add");
        assert_eq!(event.get("MODALIAS"), Some("virtio:d00000002v00001AF4"));
        assert_eq!(event.get("SUBSYSTEM"), Some("virtio"));
        assert_eq!(Uevent::parse(b"libudev\0\xfe\xed"), None);
    }

    #[test]
    fn walks_a_tree_like_sys() {
        let dir = tempfile::tempdir().unwrap();
        for (device, alias) in [
            ("bus/pci/devices/0000:00:01.0", "pci:v1\n"),
            ("bus/virtio/devices/virtio0", "virtio:d2\n"),
            ("bus/acpi/devices/x", ""),
            ("class/input/input0", "input:b0\n"),
        ] {
            let path = dir.path().join(device);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("modalias"), alias).unwrap();
        }
        std::fs::create_dir_all(dir.path().join("bus/cpu/devices/cpu0")).unwrap();
        let found: Vec<_> = modaliases(dir.path()).into_iter().collect();
        assert_eq!(found, ["input:b0", "pci:v1", "virtio:d2"]);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            drop(Uevent::parse(&bytes));
        }
    }
}
