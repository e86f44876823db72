//! What is read and written on a node, and how far it is.

use std::io;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use super::{Progress, Watch};
use crate::bundle::error::BundleError;
use crate::direct::Direct;
use crate::slot::{BootMethod, Disk, FatError, SlotError, Writing};

/// Bytes that are read or written at once.
pub const PIECE: usize = 1 << 20;

/// The root partition that is written.
pub trait RootPlace: Disk + Send {
    /// After a flush: what is read from here on comes from the medium, not from memory.
    ///
    /// # Errors
    /// Those of the system call.
    fn forget(&mut self) -> io::Result<()>;
}

impl RootPlace for Direct {
    fn forget(&mut self) -> io::Result<()> {
        Direct::forget(self)
    }
}

/// Where the kernel image is written, and where the one that runs is read.
pub trait KernelPlace {
    /// Writes a part.
    ///
    /// # Errors
    /// [`SlotError::Boot`].
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SlotError>;

    /// Reads a part of what is written.
    ///
    /// # Errors
    /// [`SlotError::Boot`].
    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SlotError>;

    /// Reads a part of the kernel image that runs.
    ///
    /// # Errors
    /// [`SlotError::Boot`], also beyond its end.
    fn read_running(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SlotError>;
}

impl<B: BootMethod> KernelPlace for Writing<'_, B> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SlotError> {
        Writing::write(self, offset, bytes)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SlotError> {
        Writing::read(self, offset, buffer)
    }

    fn read_running(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SlotError> {
        Writing::read_running(self, offset, buffer)
    }
}

/// A kernel image that is written where none runs.
#[derive(Debug)]
pub struct Apart<D>(pub D);

impl<D: Disk> KernelPlace for Apart<D> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SlotError> {
        Ok(self.0.write_at(offset, bytes).map_err(FatError::Io)?)
    }

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), SlotError> {
        Ok(self.0.read_at(offset, buffer).map_err(FatError::Io)?)
    }

    fn read_running(&mut self, _: u64, _: &mut [u8]) -> Result<(), SlotError> {
        Err(FatError::Io(io::ErrorKind::NotFound.into()).into())
    }
}

/// All that is read and written on the node.
pub struct Places<'a> {
    /// The root partition of the slot that doesn't run.
    pub root: &'a mut dyn RootPlace,
    /// The root that runs, if it can be read.
    pub running_root: Option<&'a mut (dyn Disk + Send)>,
    /// Both kernel images.
    pub kernel: &'a mut dyn KernelPlace,
}

pub struct Looking<'l, 'p, 'w, 'v> {
    pub places: &'l mut Places<'p>,
    pub watch: &'w mut Watch<'v>,
    pub progress: Progress,
}

impl Looking<'_, '_, '_, '_> {
    pub fn tell(&mut self) -> Result<(), BundleError> {
        told((self.watch)(&self.progress))
    }
}

pub fn told(answer: ControlFlow<()>) -> Result<(), BundleError> {
    match answer {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(BundleError::Cancelled),
    }
}

/// How many threads hash and unpack.
pub fn threads() -> usize {
    let cores = std::thread::available_parallelism();
    cores.map_or(1, NonZeroUsize::get).min(4)
}
