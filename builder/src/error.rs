//! The one error type of the command: a kind, which is the exit code, a line
//! that says what is wrong, and, where there is one, a line that says what to do.

use std::fmt;
use std::path::Path;

pub use slipway_images::near::near_miss;

/// What went wrong, as far as a script that called us cares. The number is the
/// process's exit code and is documented in `docs/exit-codes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A fault of ours: something that should not be possible.
    Bug = 1,
    /// The command line makes no sense (clap uses the same code).
    Usage = 2,
    /// An input file is wrong: board TOML, lock, seed, image.
    Input = 3,
    /// A server can't be reached or broke off.
    Network = 4,
    /// A signature, digest or expiry date doesn't hold.
    Untrusted = 5,
    /// A tool that we started failed (cargo, go, QEMU).
    Tool = 6,
    /// Reading or writing failed: disk full, permission, missing file.
    Io = 7,
    /// Something has to be installed or freed first: QEMU, Go, a port, memory.
    Missing = 8,
    /// Waiting ended before what was waited for.
    Timeout = 9,
    /// Stopped by Ctrl-C or SIGTERM.
    Interrupted = 130,
}

/// An error on its way to the user.
#[derive(Debug)]
pub struct Error {
    /// The class of failure, and the exit code.
    pub kind: Kind,
    message: String,
    hint: Option<String>,
}

/// What fallible functions of the builder return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a one-line message that needs no context to be understood.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `context: ` before the message.
    #[must_use]
    pub fn within(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// An I/O error with the path it concerns and what was being done to it
    /// ("reading", "creating"). A full disk is named as such.
    pub fn io(doing: &str, path: &Path, source: &std::io::Error) -> Self {
        Self::io_of(doing, path.display(), source)
    }

    /// As [`io`](Self::io), of what is no file.
    pub fn io_of(doing: &str, what: impl fmt::Display, source: &std::io::Error) -> Self {
        let error = Self::new(Kind::Io, format!("{doing} {what}: {source}"));
        match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                error.hint("the disk is full: free some space, or choose another directory")
            }
            std::io::ErrorKind::PermissionDenied => {
                error.hint("check who owns it; building and running images needs no root")
            }
            _ => error,
        }
    }

    /// The message alone.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The advice, if there is one.
    pub fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Attaches a path to the result of a file operation:
/// `fs::read(p).at("reading", p)?`.
pub trait At<T> {
    /// Turns an I/O error into an [`Error`] that says what was done to which path.
    fn at(self, doing: &str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, doing: &str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::io(doing, path.as_ref(), &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_so() {
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let shown = Error::io("writing", Path::new("x.img"), &full).to_string();
        assert!(shown.contains("writing x.img") && shown.contains("free some space"));
    }
}
