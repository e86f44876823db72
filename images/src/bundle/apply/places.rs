//! What is read and written on a node, and how far it is.

use std::io;
use std::ops::{ControlFlow, Range};

use sha2::{Digest as _, Sha256};

use super::{Progress, Watch};
use crate::bundle::error::BundleError;
use crate::bundle::manifest::{Digest, PayloadName};
use crate::slot::{BootMethod, Disk, SlotError, Writing};

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

/// All that is read and written on the node.
pub struct Places<'a> {
    /// The root partition of the slot that doesn't run.
    pub root: &'a mut dyn RootPlace,
    /// The root that runs, if it can be read.
    pub running_root: Option<&'a mut dyn Disk>,
    /// Both kernel images.
    pub kernel: &'a mut dyn KernelPlace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    New,
    Running,
}

pub struct Looking<'l, 'p, 'w, 'v> {
    pub places: &'l mut Places<'p>,
    pub watch: &'w mut Watch<'v>,
    pub progress: Progress,
}

pub fn told(answer: ControlFlow<()>) -> Result<(), BundleError> {
    match answer {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(BundleError::Cancelled),
    }
}

impl Looking<'_, '_, '_, '_> {
    pub fn tell(&mut self) -> Result<(), BundleError> {
        told((self.watch)(&self.progress))
    }

    pub fn read(
        &mut self,
        side: Side,
        payload: PayloadName,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), BundleError> {
        let places = &mut *self.places;
        match (side, payload) {
            (Side::New, PayloadName::Root) => places
                .root
                .read_at(offset, buffer)
                .map_err(BundleError::Place),
            (Side::New, PayloadName::Kernel) => Ok(places.kernel.read(offset, buffer)?),
            (Side::Running, PayloadName::Kernel) => {
                Ok(places.kernel.read_running(offset, buffer)?)
            }
            (Side::Running, PayloadName::Root) => match &mut places.running_root {
                Some(root) => root.read_at(offset, buffer).map_err(BundleError::Place),
                None => Err(BundleError::Place(io::ErrorKind::NotFound.into())),
            },
        }
    }

    pub fn write(
        &mut self,
        payload: PayloadName,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), BundleError> {
        match payload {
            PayloadName::Root => {
                let root = &mut self.places.root;
                root.write_at(offset, bytes).map_err(BundleError::Place)
            }
            PayloadName::Kernel => Ok(self.places.kernel.write(offset, bytes)?),
        }
    }

    /// The SHA-256 of what lies there.
    pub fn digest(
        &mut self,
        side: Side,
        payload: PayloadName,
        place: &Range<u64>,
    ) -> Result<Digest, BundleError> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; PIECE];
        let mut at = place.start;
        while at < place.end {
            let n = (place.end - at).min(PIECE as u64) as usize;
            self.read(side, payload, at, &mut buffer[..n])?;
            hash.update(&buffer[..n]);
            at += n as u64;
        }
        Ok(hash.into())
    }

    /// Whether these bytes lie there. What of the running slot can't be read isn't there:
    /// perhaps it is shorter.
    pub fn has(
        &mut self,
        side: Side,
        payload: PayloadName,
        place: &Range<u64>,
        sha256: Digest,
    ) -> Result<bool, BundleError> {
        match (self.digest(side, payload, place), side) {
            (Err(_), Side::Running) => Ok(false),
            (found, _) => Ok(found? == sha256),
        }
    }
}
