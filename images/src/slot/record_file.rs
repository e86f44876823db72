//! The [`Record`] as a file of two copies on a boot partition.

use super::Disk;
use super::fat::{Entry, FatError, Volume};
use super::record::{COPY, RECORD_SIZE, Record};

/// The newer copy that holds together; an empty record without one.
///
/// # Errors
/// [`FatError`].
pub fn read<D: Disk>(volume: &mut Volume<D>, path: &str) -> Result<Record, FatError> {
    let file = volume.find(path)?;
    let Some(file) = file.filter(|file| file.size == RECORD_SIZE) else {
        return Ok(Record::default());
    };
    let copies = copies(volume, &file)?.into_iter().flatten();
    let newest = copies.max_by_key(|(sequence, _)| *sequence);
    Ok(newest.map(|(_, record)| record).unwrap_or_default())
}

/// Writes over the older copy.
///
/// # Errors
/// [`FatError`].
pub fn write<D: Disk>(volume: &mut Volume<D>, path: &str, record: &Record) -> Result<(), FatError> {
    let mut file = volume.find(path)?;
    if let Some(other) = file.take_if(|file| file.size != RECORD_SIZE) {
        let (directory, _) = path.rsplit_once('/').unwrap_or_default();
        volume.remove(directory, &other)?;
    }
    // An image has it; who has deleted it by hand gets it again.
    let file = match file {
        Some(file) => file,
        None => volume.create(path, RECORD_SIZE)?,
    };
    let sequences = copies(volume, &file)?.map(|copy| copy.map(|(n, _)| n));
    let older = usize::from(sequences[0] > sequences[1]);
    let next = sequences.into_iter().flatten().max().unwrap_or(0) + 1;
    let bytes = record.encode(next);
    volume.write(&file, (older * COPY) as u64, &bytes)?;
    volume.flush()
}

/// Both copies: sequence number and record, where they hold together.
fn copies<D: Disk>(
    volume: &mut Volume<D>,
    file: &Entry,
) -> Result<[Option<(u64, Record)>; 2], FatError> {
    let mut read = |index: usize| -> Result<_, FatError> {
        let mut copy = vec![0; COPY];
        volume.read(file, (index * COPY) as u64, &mut copy)?;
        Ok(Record::decode(&copy))
    };
    Ok([read(0)?, read(1)?])
}
