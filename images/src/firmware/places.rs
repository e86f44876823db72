//! Looking at the pieces where they belong, and writing them there.
//!
//! | a power cut leaves, of a file | of what lies before the first partition |
//! |---|---|
//! | the old one or the new one, whole | nothing that a ROM takes for a program: its first sector is zeros until all the rest is right |
//!
//! A file's content is written beside the old one, read back, and put in its place by one write
//! of one sector ([`Volume::replace`]).

use std::io;

use sha2::{Digest as _, Sha256};

use super::{Piece, Place, version};
use crate::hex;
use crate::slot::Disk;
use crate::slot::fat::{Entry, FatError, SECTOR, Volume};

/// What a file is called until it is whole, in the directory that it belongs in.
const ASIDE: &str = "slipway.new";
/// Room for directories, which may have to grow by a cluster.
const GROWTH: u64 = 64 << 10;
/// No piece is as large; what is there may be anything.
const LIMIT: u32 = 32 << 20;

/// Why it can't be looked at or renewed.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// The boot partition is unusable, full or can't be read.
    #[error("{place}: {source}")]
    Fat {
        /// Of which piece.
        place: Place,
        /// Why.
        source: FatError,
    },
    /// The disk can't be read or written.
    #[error("{place}: {source}")]
    Io {
        /// Of which piece.
        place: Place,
        /// Why.
        source: io::Error,
    },
    /// The file in the root isn't the one that the manifest names.
    #[error("{0}: the image's file for it is damaged: update the node first")]
    Damaged(Place),
    /// Something else was read back.
    #[error("{0}: the disk doesn't keep what is written: replace it")]
    NotKept(Place),
    /// There is no room for a file beside the old one.
    #[error(
        "the boot partition has room for {room} bytes, and {needed} are needed: delete files of your own"
    )]
    Full {
        /// Bytes.
        needed: u64,
        /// Bytes.
        room: u64,
    },
    /// The disk itself isn't to be had, and a piece belongs there.
    #[error("{0}: the disk can't be opened")]
    NoDisk(Place),
}

/// What is at a piece's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The piece itself.
    Same,
    /// Something else, and of which version it says that it is.
    Other(Option<String>),
    /// Nothing.
    Nothing,
}

/// Where the pieces belong.
#[derive(Debug)]
pub struct Places<D> {
    volume: Volume<D>,
    disk: Option<D>,
}

impl<D: Disk> Places<D> {
    /// Takes the boot partition, and the whole disk where that could be opened. What is read
    /// after a flush must come from the medium.
    ///
    /// # Errors
    /// [`FatError`] if the partition is no FAT32.
    pub fn open(partition: D, disk: Option<D>) -> Result<Self, FatError> {
        Ok(Self {
            volume: Volume::open(partition)?,
            disk,
        })
    }

    /// Looks what is there.
    ///
    /// # Errors
    /// [`FirmwareError`].
    pub fn look(&mut self, piece: &Piece) -> Result<Found, FirmwareError> {
        let content = match &piece.place {
            Place::File(path) => {
                let fat = |source| fat(piece, source);
                let Some(file) = self.volume.find(path).map_err(fat)? else {
                    return Ok(Found::Nothing);
                };
                let mut content = vec![0; file.size.min(LIMIT) as usize];
                self.volume.read(&file, 0, &mut content).map_err(fat)?;
                content
            }
            Place::Raw(at) => self.raw(piece, *at)?,
        };
        Ok(match piece.is(&content) {
            true => Found::Same,
            false if content.iter().all(|byte| *byte == 0) => Found::Nothing,
            false => Found::Other(version(&content)),
        })
    }

    fn raw(&mut self, piece: &Piece, at: u64) -> Result<Vec<u8>, FirmwareError> {
        let disk = self.disk.as_mut();
        let disk = disk.ok_or_else(|| FirmwareError::NoDisk(piece.place.clone()))?;
        let mut content = vec![0; piece.size as usize];
        disk.read_at(at, &mut content)
            .map_err(|e| failed(piece, e))?;
        Ok(content)
    }

    /// Puts every piece in its place that isn't there, in their order, and takes away what a cut
    /// has left of an earlier time. All that is written is on the medium, and was read back from
    /// it. Gives the number of pieces that were written.
    ///
    /// # Errors
    /// [`FirmwareError::Damaged`], [`FirmwareError::Full`]: nothing of what is there was
    /// changed. After others the pieces before are new, and a file that was being written is as
    /// it was.
    pub fn renew(
        &mut self,
        pieces: &[Piece],
        content: &mut dyn FnMut(&Piece) -> io::Result<Vec<u8>>,
    ) -> Result<usize, FirmwareError> {
        let mut wanted = Vec::new();
        for piece in pieces {
            if self.look(piece)? == Found::Same {
                continue;
            }
            let content = content(piece).map_err(|e| failed(piece, e))?;
            if !piece.is(&content) {
                return Err(FirmwareError::Damaged(piece.place.clone()));
            }
            wanted.push((piece, content));
        }
        let is_file = |piece: &&Piece| matches!(piece.place, Place::File(_));
        for piece in pieces {
            self.clear_aside(piece).map_err(|e| fat(piece, e))?;
        }
        if let Some(piece) = pieces.iter().find(is_file) {
            self.volume.tidy().map_err(|e| fat(piece, e))?;
        }
        let files = wanted.iter().map(|(piece, _)| *piece).filter(is_file);
        if let Some(piece) = files.max_by_key(|piece| piece.size) {
            let room = self.volume.room(&[]).map_err(|e| fat(piece, e))?;
            let needed = u64::from(piece.size) + GROWTH;
            if room < needed {
                return Err(FirmwareError::Full { needed, room });
            }
        }
        for (piece, content) in &wanted {
            match &piece.place {
                Place::File(path) => self.put_file(piece, path, content)?,
                Place::Raw(at) => self.put_raw(piece, *at, content)?,
            }
        }
        Ok(wanted.len())
    }

    fn put_file(&mut self, piece: &Piece, path: &str, content: &[u8]) -> Result<(), FirmwareError> {
        let error = |source| fat(piece, source);
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let created = self.volume.create(&aside(parent), piece.size);
        let new = created.map_err(error)?;
        let written = self.volume.write(&new, 0, content);
        written.and_then(|()| self.volume.flush()).map_err(error)?;
        if self.digest_of(&new).map_err(error)? != piece.sha256 {
            self.volume.remove(parent, &new).map_err(error)?;
            return Err(FirmwareError::NotKept(piece.place.clone()));
        }
        match self.volume.find(path).map_err(error)? {
            Some(old) => self.volume.replace(parent, &old, &new),
            None => self.volume.rename(parent, &new, name).map(drop),
        }
        .map_err(error)
    }

    fn put_raw(&mut self, piece: &Piece, at: u64, content: &[u8]) -> Result<(), FirmwareError> {
        let disk = self.disk.as_mut();
        let disk = disk.ok_or_else(|| FirmwareError::NoDisk(piece.place.clone()))?;
        let head = content.len().min(SECTOR as usize);
        let mut write = |at: u64, bytes: &[u8]| -> io::Result<bool> {
            disk.write_at(at, bytes)?;
            disk.flush()?;
            let mut back = vec![0; bytes.len()];
            disk.read_at(at, &mut back)?;
            Ok(back == bytes)
        };
        let behind = at + head as u64;
        let steps: [(u64, &[u8]); 3] = [
            (at, &[0; SECTOR as usize][..head]),
            (behind, &content[head..]),
            (at, &content[..head]),
        ];
        for (at, bytes) in steps {
            if !write(at, bytes).map_err(|e| failed(piece, e))? {
                return Err(FirmwareError::NotKept(piece.place.clone()));
            }
        }
        Ok(())
    }

    /// Takes away what a cut has left beside a file at an earlier time.
    fn clear_aside(&mut self, piece: &Piece) -> Result<(), FatError> {
        let Place::File(path) = &piece.place else {
            return Ok(());
        };
        let (parent, _) = path.rsplit_once('/').unwrap_or(("", path));
        match self.volume.find(&aside(parent))? {
            // If a file has taken its clusters, they stay.
            Some(left) => self.volume.remove(parent, &left),
            None => Ok(()),
        }
    }

    fn digest_of(&mut self, file: &Entry) -> Result<String, FatError> {
        let mut content = vec![0; file.size as usize];
        self.volume.read(file, 0, &mut content)?;
        Ok(hex(&Sha256::digest(&content)))
    }
}

fn aside(parent: &str) -> String {
    match parent {
        "" => ASIDE.to_owned(),
        parent => format!("{parent}/{ASIDE}"),
    }
}

fn fat(piece: &Piece, source: FatError) -> FirmwareError {
    let place = piece.place.clone();
    FirmwareError::Fat { place, source }
}

fn failed(piece: &Piece, source: io::Error) -> FirmwareError {
    let place = piece.place.clone();
    FirmwareError::Io { place, source }
}
