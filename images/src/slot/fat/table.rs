//! The file allocation tables: an array of 32-bit entries, one for each cluster, that says
//! which cluster comes next in its chain. 0 is free, from 0x0ffffff8 on is a chain's end.

use std::collections::{BTreeMap, BTreeSet};

use super::{FatError, MASK, SECTOR, Volume, le32};
use crate::slot::Disk;

/// The first table in memory.
pub struct Table {
    entries: Vec<u32>,
    pub changed: BTreeSet<u32>,
    end: u32,
}

impl Table {
    pub fn read<D: Disk>(volume: &mut Volume<D>) -> Result<Self, FatError> {
        let mut bytes = vec![0; volume.end as usize * 4];
        volume.disk.read_at(volume.tables, &mut bytes)?;
        Ok(Self {
            entries: bytes.chunks_exact(4).map(|b| le32(b, 0)).collect(),
            changed: BTreeSet::new(),
            end: volume.end,
        })
    }

    pub fn is_taken(&self, cluster: u32) -> bool {
        // One that is marked bad isn't free either.
        self.get(cluster) != 0 && !self.is_bad(cluster)
    }

    pub fn is_bad(&self, cluster: u32) -> bool {
        self.get(cluster) == 0x0fff_fff7
    }

    fn get(&self, cluster: u32) -> u32 {
        self.entries.get(cluster as usize).copied().unwrap_or(0) & MASK
    }

    pub fn set(&mut self, cluster: u32, value: u32) {
        if let Some(entry) = self.entries.get_mut(cluster as usize) {
            *entry = *entry & !MASK | value & MASK;
            self.changed.insert(cluster);
        }
    }

    pub fn allocate(&mut self, count: usize) -> Result<Vec<u32>, FatError> {
        let free = (2..self.end).filter(|c| self.get(*c) == 0);
        let chain: Vec<u32> = free.take(count).collect();
        if chain.len() < count {
            return Err(FatError::Full {
                needed: count,
                free: chain.len(),
            });
        }
        for pair in chain.windows(2) {
            self.set(pair[0], pair[1]);
        }
        if let Some(last) = chain.last() {
            self.set(*last, MASK);
        }
        Ok(chain)
    }

    pub fn free(&mut self, chain: Vec<u32>) {
        for cluster in chain {
            self.set(cluster, 0);
        }
    }

    /// Notes where another table differs from the first.
    pub fn equalise<D: Disk>(&mut self, volume: &mut Volume<D>) -> Result<(), FatError> {
        for copy in 1..volume.copies {
            let mut bytes = vec![0; volume.end as usize * 4];
            let offset = volume.tables + copy * volume.table;
            volume.disk.read_at(offset, &mut bytes)?;
            let differ = (2..volume.end)
                .zip(bytes.chunks_exact(4).skip(2))
                .filter(|(c, b)| le32(b, 0) & MASK != self.get(*c))
                .map(|(c, _)| c);
            let differ: Vec<u32> = differ.collect();
            self.changed.extend(differ);
        }
        Ok(())
    }

    /// Writes the sectors that have changed, in every table. No flush.
    pub fn write<D: Disk>(&mut self, volume: &mut Volume<D>) -> Result<(), FatError> {
        let per_sector = SECTOR as u32 / 4;
        let sectors: BTreeSet<u32> = self.changed.iter().map(|c| c / per_sector).collect();
        let mut images = BTreeMap::new();
        for sector in sectors {
            let offset = volume.tables + u64::from(sector) * SECTOR;
            let mut bytes = [0; SECTOR as usize];
            // Behind the last cluster's there may be entries that are not in memory.
            volume.disk.read_at(offset, &mut bytes)?;
            let first = sector * per_sector;
            for (cluster, place) in (first..self.end).zip(bytes.chunks_exact_mut(4)) {
                if let Some(entry) = self.entries.get(cluster as usize) {
                    place.copy_from_slice(&entry.to_le_bytes());
                }
            }
            images.insert(offset, bytes);
        }
        for copy in 0..volume.copies {
            for (offset, bytes) in &images {
                volume.disk.write_at(offset + copy * volume.table, bytes)?;
            }
        }
        self.changed.clear();
        Ok(())
    }

    /// Writes how many clusters are free; whoever finds it wrong after a cut counts himself.
    pub fn write_count<D: Disk>(&self, volume: &mut Volume<D>) -> Result<(), FatError> {
        if let Some(info) = volume.info {
            let free = (2..self.end).filter(|c| self.get(*c) == 0).count() as u32;
            volume.disk.write_at(info + 488, &free.to_le_bytes())?;
        }
        Ok(())
    }
}
