//! The kernel's consoles, and to which of them lines go.
//!
//! `/dev/console` is the last one of the command line's if its device is there. If it isn't, it is
//! whichever came first, and that is the screen: then nothing would be said on the serial line
//! that a server's firmware names (ACPI's SPCR) or that another board of the same image has.

use std::path::{Path, PathBuf};

use crate::files;

/// Their names, below the root, /dev/console being the last (the kernel's
/// Documentation/ABI/testing/sysfs-tty).
const ACTIVE: &str = "sys/class/tty/console/active";

/// The consoles that have a device.
pub struct Consoles {
    names: Vec<String>,
}

impl Consoles {
    /// Those of the system below `root`; none if it doesn't say.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let active = files::read_trimmed(root.join(ACTIVE)).unwrap_or_default();
        Self {
            names: active.split_whitespace().map(str::to_owned).collect(),
        }
    }

    /// Whether there is a screen among them.
    #[must_use]
    pub fn have_screen(&self) -> bool {
        self.names.iter().any(|name| is_screen(name))
    }

    /// The device for lines, below the root: the console, or a serial line if that is the screen.
    #[must_use]
    pub fn device(&self) -> PathBuf {
        match self.serial() {
            Some(name) if self.names.last().is_some_and(|name| is_screen(name)) => {
                Path::new("dev").join(name)
            }
            _ => PathBuf::from("dev/console"),
        }
    }

    /// Whether lines go to the screen: there is nothing else.
    #[must_use]
    pub fn say_on_screen(&self) -> bool {
        self.have_screen() && self.serial().is_none()
    }

    fn serial(&self) -> Option<&String> {
        self.names.iter().rev().find(|name| !is_screen(name))
    }
}

/// `tty0`, but not `ttyS0`.
fn is_screen(name: &str) -> bool {
    let number = name.strip_prefix("tty");
    number.is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn consoles(active: &str) -> (bool, PathBuf, bool) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(ACTIVE);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, active).unwrap();
        let consoles = Consoles::read(root.path());
        (
            consoles.have_screen(),
            consoles.device(),
            consoles.say_on_screen(),
        )
    }

    #[test]
    fn lines_go_to_a_serial_line_if_there_is_one() {
        let console = || PathBuf::from("dev/console");
        assert_eq!(consoles("tty0 ttyS0\n"), (true, console(), false));
        assert_eq!(consoles("ttyAMA0\n"), (false, console(), false));
        assert_eq!(consoles("tty0\n"), (true, console(), true));
        assert_eq!(
            consoles("ttyS0 tty0\n"),
            (true, PathBuf::from("dev/ttyS0"), false)
        );
        assert_eq!(consoles(""), (false, console(), false));
    }

    #[test]
    fn a_system_that_does_not_say_has_its_console() {
        let consoles = Consoles::read(Path::new("/nonexistent"));
        assert_eq!(consoles.device(), Path::new("dev/console"));
        assert!(!consoles.have_screen());
    }
}
