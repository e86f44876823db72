//! U-Boot, with a script that counts (`distro/u-boot/boot.cmd`).
//!
//! The script on the firmware partition reads the [`Choice`], takes a try away from a slot on
//! trial before it starts it, and runs the script in the slot's boot area, a partition of its
//! own that holds a FAT with kernel, initrd and device trees. Whole areas are the boot payload.

use super::boot::{BootError, BootMethod, Bootable, Found};
use super::choice::{CHOICE_FILES, CHOICE_SIZE, Choice, Standing};
use super::fat::{Entry, FatError, Volume};
use super::name::Tries;
use super::record::Record;
use super::{Disk, Slot, TRIES, record_file};

/// Where the record is on the firmware partition.
pub const UBOOT_RECORD_FILE: &str = "slipway/slots";

/// A slot's boot area.
#[derive(Debug)]
pub struct Area<D> {
    /// Its partition.
    pub disk: D,
    /// Bytes of that.
    pub size: u64,
}

/// The firmware partition, and the boot areas where they are needed.
#[derive(Debug)]
pub struct UBoot<D> {
    volume: Volume<D>,
    a: Option<Area<D>>,
    b: Option<Area<D>>,
}

impl<D: Disk> UBoot<D> {
    /// Takes the firmware partition. Without boot areas slots can be settled, not written.
    ///
    /// # Errors
    /// [`FatError`] if it is no FAT32.
    pub fn open(firmware: D, a: Option<Area<D>>, b: Option<Area<D>>) -> Result<Self, FatError> {
        let volume = Volume::open(firmware)?;
        Ok(Self { volume, a, b })
    }

    fn area(&mut self, slot: Slot) -> Result<&mut Area<D>, BootError> {
        let area = match slot {
            Slot::A => &mut self.a,
            Slot::B => &mut self.b,
        };
        area.as_mut().ok_or(BootError::Nothing {
            slot,
            missing: "no boot area that could be opened",
        })
    }

    /// Both copies, where they hold together, and their files.
    fn copies(&mut self) -> Result<[(Entry, Option<Choice>); 2], FatError> {
        let mut read = |path: &str| -> Result<_, FatError> {
            let file = match self.volume.find(path)? {
                Some(file) if file.size as usize == CHOICE_SIZE => file,
                found => {
                    if let Some(other) = found {
                        let (directory, _) = path.rsplit_once('/').unwrap_or_default();
                        self.volume.remove(directory, &other)?;
                    }
                    self.volume.create(path, CHOICE_SIZE as u32)?
                }
            };
            let mut copy = [0; CHOICE_SIZE];
            self.volume.read(&file, 0, &mut copy)?;
            Ok((file, Choice::decode(&copy)))
        };
        Ok([read(CHOICE_FILES[0])?, read(CHOICE_FILES[1])?])
    }

    fn choice(&mut self) -> Result<Choice, FatError> {
        let [(_, first), (_, second)] = self.copies()?;
        Ok(first.or(second).unwrap_or(Choice::LOST))
    }

    fn set(&mut self, choice: Choice) -> Result<(), BootError> {
        let mut copies = self.copies()?;
        if copies[1].1.is_none() {
            // Never both at once without one that holds together.
            copies.reverse();
        }
        for (file, found) in copies {
            if found != Some(choice) {
                self.volume.write(&file, 0, &choice.encode())?;
                self.volume.flush()?;
            }
        }
        Ok(())
    }

    fn put(&mut self, slot: Slot, standing: Standing) -> Result<(), BootError> {
        let choice = self.choice()?.with(slot, standing);
        self.set(choice)
    }

    /// Bytes of the payload that is being written.
    fn being_written(choice: &Choice, slot: Slot) -> Result<u64, BootError> {
        match choice.of(slot) {
            Standing::Writing(size) => Ok(size.into()),
            _ => Err(BootError::Nothing {
                slot,
                missing: "no payload that is being written",
            }),
        }
    }

    /// Bytes of a slot's payload that may be read.
    fn limit(&mut self, slot: Slot) -> Result<u64, BootError> {
        match self.choice()?.of(slot) {
            Standing::Writing(size) => Ok(size.into()),
            Standing::Nothing => Err(BootError::Nothing {
                slot,
                missing: "no boot entry",
            }),
            _ => Ok(self.area(slot)?.size),
        }
    }
}

fn within(slot: Slot, limit: u64, offset: u64, len: usize) -> Result<(), BootError> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= limit => Ok(()),
        _ => Err(BootError::Beyond { slot, limit }),
    }
}

impl<D: Disk> BootMethod for UBoot<D> {
    fn status(&mut self) -> Result<Found, BootError> {
        let choice = self.choice()?;
        let mut found = Found::default();
        for slot in Slot::BOTH {
            let present = found.of_mut(slot);
            let first = choice.next() == Some(slot);
            let bootable = |tries| Some(Bootable { tries, first });
            match choice.of(slot) {
                Standing::Nothing => {}
                Standing::Writing(size) => present.writing = Some(size),
                Standing::Good => present.bootable = bootable(None),
                Standing::Tries(left) => {
                    let done = TRIES.saturating_sub(left);
                    present.bootable = bootable(Some(Tries { left, done }));
                }
            }
        }
        Ok(found)
    }

    fn clear(&mut self, slot: Slot) -> Result<(), BootError> {
        let choice = self.choice()?.with(slot, Standing::Nothing);
        let first = match choice.first == slot {
            true => !slot,
            false => choice.first,
        };
        self.set(Choice { first, ..choice })
    }

    fn room(&mut self, slot: Slot) -> Result<u64, BootError> {
        Ok(self.area(slot)?.size)
    }

    fn reserve(&mut self, slot: Slot, size: u32) -> Result<(), BootError> {
        let limit = self.area(slot)?.size;
        if u64::from(size) > limit {
            return Err(BootError::Beyond { slot, limit });
        }
        self.put(slot, Standing::Writing(size))
    }

    fn write(&mut self, slot: Slot, offset: u64, bytes: &[u8]) -> Result<(), BootError> {
        let limit = Self::being_written(&self.choice()?, slot)?;
        within(slot, limit, offset, bytes.len())?;
        let area = self.area(slot)?;
        let written = area.disk.write_at(offset, bytes);
        written.map_err(|source| BootError::Area { slot, source })
    }

    fn read(&mut self, slot: Slot, offset: u64, buffer: &mut [u8]) -> Result<(), BootError> {
        within(slot, self.limit(slot)?, offset, buffer.len())?;
        let area = self.area(slot)?;
        let read = area.disk.read_at(offset, buffer);
        read.map_err(|source| BootError::Area { slot, source })
    }

    fn stage(&mut self, slot: Slot, tries: u32) -> Result<(), BootError> {
        let choice = self.choice()?;
        Self::being_written(&choice, slot)?;
        let flushed = self.area(slot)?.disk.flush();
        flushed.map_err(|source| BootError::Area { slot, source })?;
        let choice = choice.with(slot, Standing::Tries(tries.min(TRIES)));
        self.set(Choice {
            first: slot,
            ..choice
        })
    }

    fn give_back(&mut self, slot: Slot) -> Result<(), BootError> {
        match self.choice()?.of(slot) {
            Standing::Tries(left) => self.put(slot, Standing::Tries((left + 1).min(TRIES))),
            _ => Ok(()),
        }
    }

    fn commit(&mut self, slot: Slot) -> Result<(), BootError> {
        match self.choice()?.of(slot) {
            Standing::Good => Ok(()),
            Standing::Tries(_) => self.put(slot, Standing::Good),
            _ => Err(BootError::Nothing {
                slot,
                missing: "no boot entry",
            }),
        }
    }

    fn record(&mut self) -> Result<Record, BootError> {
        Ok(record_file::read(&mut self.volume, UBOOT_RECORD_FILE)?)
    }

    fn set_record(&mut self, record: &Record) -> Result<(), BootError> {
        Ok(record_file::write(
            &mut self.volume,
            UBOOT_RECORD_FILE,
            record,
        )?)
    }
}
