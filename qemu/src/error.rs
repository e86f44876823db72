//! What can go wrong with a virtual machine, each kind told apart so that a
//! caller can give it its own exit code, and each with what to do about it.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What fallible functions of this crate return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of, or around, a virtual machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program that has to be installed is not on the `PATH`.
    #[error("`{program}` is not installed")]
    ProgramMissing {
        /// The program's name.
        program: &'static str,
        /// The Debian packages that bring it.
        packages: &'static str,
    },
    /// The emulator lacks a machine that newer ones have.
    #[error(
        "QEMU {}.{} can't emulate `{machine}`: that takes {}.{} or newer",
        .version.0, .version.1, .needed.0, .needed.1
    )]
    EmulatorTooOld {
        /// The machine type.
        machine: &'static str,
        /// What is installed.
        version: (u32, u32),
        /// What has it.
        needed: (u32, u32),
    },
    /// No firmware among the places that were looked at.
    #[error("no firmware for {arch} machines found")]
    FirmwareMissing {
        /// QEMU's name of the architecture.
        arch: &'static str,
        /// Where was looked.
        searched: Vec<PathBuf>,
    },
    /// A host port that is to be forwarded belongs to somebody else.
    #[error("port {port} of {address} is already in use on this host")]
    PortInUse {
        /// The host's address.
        address: std::net::Ipv4Addr,
        /// The host's port.
        port: u16,
    },
    /// The host can't spare the memory, or the guest would get less than it needs.
    #[error("{0}")]
    Memory(String),
    /// A virtual machine of this name runs already.
    #[error("virtual machine `{name}` is already running (process {pid})")]
    AlreadyRunning {
        /// Its name.
        name: String,
        /// QEMU's process.
        pid: i32,
    },
    /// The virtual machine exists but doesn't run.
    #[error("virtual machine `{0}` is not running")]
    NotRunning(String),
    /// Somebody else is starting, stopping or removing this virtual machine.
    #[error("virtual machine `{0}` is being started or stopped by another process")]
    Busy(String),
    /// There is no virtual machine of this name.
    #[error("there is no virtual machine `{name}`")]
    NoSuchVm {
        /// The name as given.
        name: String,
        /// Those that exist.
        known: Vec<String>,
    },
    /// QEMU ended before the machine was up.
    #[error("QEMU did not start: {0}")]
    StartFailed(String),
    /// QEMU answered a command with an error.
    #[error("QEMU refused `{command}`: {description}")]
    Refused {
        /// The QMP command.
        command: String,
        /// QEMU's words.
        description: String,
    },
    /// What came over the control socket is not QMP.
    #[error("QEMU's control socket: {0}")]
    Protocol(String),
    /// A deadline passed.
    #[error("{what} took longer than {} s", .after.as_secs())]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// A file of ours makes no sense.
    #[error("{} is corrupt: {reason}", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A name, size or port that can't be.
    #[error("{0}")]
    Invalid(String),
    /// A program that we started failed.
    #[error("`{command}` failed ({status}): {output}")]
    Tool {
        /// Its command line.
        command: String,
        /// Exit status.
        status: String,
        /// What it said.
        output: String,
    },
    /// Reading, writing or talking failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

impl Error {
    /// What the user can do about it, where we know.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::ProgramMissing { packages, .. } => {
                format!("install it: sudo apt-get install {packages}")
            }
            Self::EmulatorTooOld { .. } => {
                "install a newer one (Debian 12: from bookworm-backports), or emulate another machine: --machine virt".to_owned()
            }
            Self::FirmwareMissing { searched, .. } => format!(
                "install it: sudo apt-get install ovmf (looked in {})",
                searched
                    .iter()
                    .map(|p| p.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            Self::PortInUse { port, .. } => format!(
                "stop what listens there (`ss -ltnp 'sport = :{port}'` names it), or forward another host port"
            ),
            Self::Memory(_) => "close something, or give the machine less with --memory".to_owned(),
            Self::AlreadyRunning { name, .. } => format!(
                "`slipway console {name}` attaches to it, `slipway stop {name}` stops it; --name gives a second one another name"
            ),
            Self::NotRunning(name) => format!("start it: slipway run --name {name}"),
            Self::Busy(_) => "wait a moment and try again".to_owned(),
            Self::NoSuchVm { known, .. } if known.is_empty() => {
                "none exists yet; `slipway run` makes one".to_owned()
            }
            Self::NoSuchVm { known, .. } => format!("there are: {}", known.join(", ")),
            Self::Corrupt { .. } => "`--fresh` starts the machine over, losing its disk".to_owned(),
            _ => return None,
        })
    }

    /// An I/O error and what it befell.
    pub fn io(doing: impl Display, source: impl Into<std::io::Error>) -> Self {
        Self::Io {
            doing: doing.to_string(),
            source: source.into(),
        }
    }
}

/// Attaches a path to the result of a file operation.
pub(crate) trait At<T> {
    /// `fs::read(p).at("reading", p)?`
    fn at(self, doing: &str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> At<T> for std::result::Result<T, E> {
    fn at(self, doing: &str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::io(format_args!("{doing} {}", path.as_ref().display()), e))
    }
}
