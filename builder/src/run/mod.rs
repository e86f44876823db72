//! Running images in QEMU: `slipway run`, `ps`, `stop`, `rm`, `console` and
//! `kubectl`.
//!
//! [`start::run`] is the walk: the image is found ([`image`]), becomes the
//! ground of a disk of the machine's own, a seed with the cluster's CAs and a
//! kubeconfig are made ([`identity`]), QEMU starts, and the start is watched
//! ([`watch`]) until the node is Ready ([`ready`]).

pub mod args;
pub mod console;
pub mod identity;
pub mod image;
pub mod kubectl;
mod lan;
pub mod manage;
pub mod raspi;
pub mod ready;
pub mod start;
pub mod watch;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use slipway_images::info::Loader;
use slipway_qemu::machine::Arch;
use slipway_qemu::{StateDir, VmDir, VmName};

use crate::error::{Error, Kind, Result};

pub use args::RunArgs;
pub use console::{ConsoleArgs, console};
pub use kubectl::{KubectlArgs, kubectl};
pub use manage::{PsArgs, RmArgs, StopArgs, ps, rm, stop};
pub use start::run;

/// What the commands need to know of their surroundings.
pub struct Context<'a> {
    /// Where virtual machines are kept: [`StateDir::from_env`].
    pub state: StateDir,
    /// Where `slipway build` puts images, `BOARD.img` each.
    pub images: PathBuf,
    /// Called when the host has no UEFI firmware, or no U-Boot for QEMU: fetches it, and
    /// returns the directory that it was unpacked into.
    pub fetch_firmware: &'a dyn Fn(Arch, Loader) -> Result<PathBuf>,
}

/// Every failure of a machine with its exit code and advice.
impl From<slipway_qemu::Error> for Error {
    fn from(error: slipway_qemu::Error) -> Self {
        use slipway_qemu::Error as E;
        let kind = match &error {
            E::ProgramMissing { .. }
            | E::EmulatorTooOld { .. }
            | E::FirmwareMissing { .. }
            | E::PortInUse { .. }
            | E::Memory(_)
            | E::AlreadyRunning { .. }
            | E::Busy(_) => Kind::Missing,
            E::Invalid(_) | E::NoSuchVm { .. } | E::NotRunning(_) => Kind::Usage,
            E::Corrupt { .. } => Kind::Input,
            E::StartFailed(_) | E::Refused { .. } | E::Protocol(_) | E::Tool { .. } => Kind::Tool,
            E::Timeout { .. } => Kind::Timeout,
            E::Io { .. } => Kind::Io,
            _ => Kind::Bug,
        };
        let hint = error.hint();
        let error = Self::new(kind, error.to_string());
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// The machine that a command is about: the one named, else the only one that
/// runs, else the only one there is.
pub(crate) fn chosen(state: &StateDir, name: Option<&VmName>) -> Result<VmDir> {
    if let Some(name) = name {
        return Ok(state.existing(name)?);
    }
    let all = state.list()?;
    let mut running = Vec::new();
    for dir in &all {
        if let Some(record) = dir.record()?
            && let Some(process) = &record.process
            && process.is_alive()?
        {
            running.push(dir.clone());
        }
    }
    let candidates = if running.is_empty() { all } else { running };
    match candidates.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Error::new(Kind::Usage, "there is no virtual machine yet")
            .hint("`slipway run` makes one")),
        several => Err(Error::new(
            Kind::Usage,
            "there are several virtual machines: which one?",
        )
        .hint(format!(
            "name one of: {}",
            several
                .iter()
                .map(|d| d.name().as_str())
                .collect::<Vec<_>>()
                .join(", ")
        ))),
    }
}
