//! LUKS2: the header of an encrypted volume. What is behind it is en- and decrypted by the
//! kernel (dm-crypt), with the volume key that the header keeps under a passphrase.
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 16 KiB | the header's first copy: 4 KiB of fields ([`header`]), 12 KiB of JSON ([`metadata`]) |
//! | 16 KiB | 16 KiB | its second copy |
//! | 32 KiB | to 16 MiB | areas of keyslots, 252 KiB each ([`keyslot`]) |
//! | 16 MiB | to the end | the encrypted volume |
//!
//! These are cryptsetup's sizes by default, and what [`format`] writes; others are read.
//! A header has a number that grows with each change, and a checksum. The copy with the
//! higher one is in force, so power may be cut in the midst of a change: the second copy
//! is written first, and the first when the second is on the medium.
//!
//! Source: the LUKS2 On-Disk Format Specification, 1.1.1; cryptsetup is the judge in the tests.

mod format;
mod header;
mod keyslot;
mod metadata;

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use zeroize::Zeroizing;

use header::{Copy, SIZES, Seen, Which, look};
use metadata::{Digest, Keyslot, Metadata};

pub use format::{NewKey, Strength, Wish, format, zero};
pub use metadata::Segment;

/// Where the encrypted volume begins in what [`format`] writes, in bytes.
pub const DATA_OFFSET: u64 = 16 << 20;
/// What fills a buffer with random bytes that nobody can guess.
pub type Random<'a> = dyn FnMut(&mut [u8]) -> io::Result<()> + 'a;

/// Why a volume can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LuksError {
    /// Reading or writing failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// There is a header, and neither copy of it is whole.
    #[error("the LUKS header is damaged: {0}")]
    Damaged(String),
    /// It asks for what isn't known here.
    #[error("{0} in the LUKS header; that isn't supported")]
    Unsupported(String),
    /// No keyslot opens.
    #[error("the key opens none of the volume's keyslots")]
    WrongKey,
    /// A keyslot takes too much memory.
    #[error("a keyslot takes {} MiB of memory, more than there is", .wanted >> 20)]
    Memory {
        /// In bytes.
        wanted: u64,
    },
    /// The device, or a field, is too small.
    #[error("there is no room for a LUKS header and a volume")]
    NoRoom,
}

impl LuksError {
    fn io(doing: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// What en- and decrypts a volume; wiped when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct VolumeKey(Zeroizing<Vec<u8>>);

impl VolumeKey {
    /// In hexadecimal, as a table of dm-crypt has it.
    #[must_use]
    pub fn reveal_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(crate::hex(&self.0))
    }
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(volume key)")
    }
}

/// A header that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    copy: Copy,
    metadata: Metadata,
    /// Whether only one copy is as it should be.
    half: bool,
}

impl Volume {
    /// Looks for a header in what begins at `base`, in bytes; `None` where there is none.
    ///
    /// # Errors
    /// [`LuksError`]: one is there and can't be used. Nothing may be written then.
    pub fn find<D: Read + Seek>(device: &mut D, base: u64) -> Result<Option<Self>, LuksError> {
        let mut look = |offset, which| {
            look(device, base, offset, which).map_err(LuksError::io("reading the LUKS header"))
        };
        let mut seen = vec![look(0, Which::First)?];
        // The second's place is the first one's size, which may be lost.
        let places = match &seen[0] {
            Seen::Good(copy) => vec![copy.size],
            _ => SIZES.to_vec(),
        };
        for place in places {
            seen.push(look(place, Which::Second)?);
        }
        let (mut copies, mut why) = (Vec::new(), None);
        for seen in seen {
            match seen {
                Seen::Nothing => {}
                Seen::Bad(error) => drop(why.get_or_insert(error)),
                Seen::Good(copy) => copies.push(copy),
            }
        }
        let half = copies.len() != 2 || copies[0].sequence != copies[1].sequence;
        // Stable: the first of two that are the same.
        copies.sort_by_key(|copy| std::cmp::Reverse(copy.sequence));
        for copy in copies {
            match Metadata::read(&copy.text, copy.size) {
                Ok(metadata) => {
                    return Ok(Some(Self {
                        half: half || why.is_some(),
                        copy,
                        metadata,
                    }));
                }
                // An older copy knows nothing of what this one asks for.
                Err(error @ LuksError::Unsupported(_)) => return Err(error),
                Err(error) => drop(why.get_or_insert(error)),
            }
        }
        why.map_or(Ok(None), Err)
    }

    /// The header's label.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.copy.label
    }

    /// The volume's UUID, as the header has it.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.copy.uuid
    }

    /// Whether one copy of the header is damaged, missing or older: [`Self::write`] mends it.
    #[must_use]
    pub fn is_half(&self) -> bool {
        self.half
    }

    /// What is encrypted, and how.
    ///
    /// # Errors
    /// Never for a volume that was found.
    pub fn segment(&self) -> Result<&Segment, LuksError> {
        self.metadata.segment()
    }

    /// The tokens, as they are in the header.
    pub fn tokens(&self) -> impl Iterator<Item = &serde_json::Value> {
        self.metadata.tokens.values()
    }

    /// Where areas of keyslots may lie: behind the header's copies.
    #[must_use]
    pub fn areas(&self) -> Range<u64> {
        let start = 2 * self.copy.size;
        start..start.saturating_add(self.metadata.config.keyslots_size)
    }

    /// Opens it by a passphrase: tries each keyslot that is there for the volume. At most
    /// `memory` bytes are taken for that.
    ///
    /// # Errors
    /// [`LuksError::WrongKey`] when none opens, or why one couldn't be tried.
    pub fn unlock<D: Read + Seek>(
        &self,
        device: &mut D,
        passphrase: &[u8],
        memory: u64,
    ) -> Result<VolumeKey, LuksError> {
        let mut why = None;
        for digest in self.metadata.digests.values() {
            let Digest::Pbkdf2(digest) = digest else {
                continue;
            };
            if !digest.segments.iter().any(|segment| segment == "0") {
                continue;
            }
            for number in &digest.keyslots {
                let Some(Keyslot::Luks2(keyslot)) = self.metadata.keyslots.get(number) else {
                    continue;
                };
                let opened = keyslot.open(device, &self.areas(), passphrase, memory);
                let opened = opened.and_then(|key| {
                    let (salt, iterations) = (&digest.salt.0, digest.iterations);
                    let is = digest.hash.digest_of_key(&key, salt, iterations)?;
                    Ok((is == digest.digest.0).then_some(VolumeKey(key)))
                });
                match opened {
                    Ok(Some(key)) => return Ok(key),
                    Ok(None) => {}
                    // Another may open.
                    Err(error) => drop(why.get_or_insert(error)),
                }
            }
        }
        Err(why.unwrap_or(LuksError::WrongKey))
    }

    /// Gives the volume another label and writes both copies of the header, so that a damaged
    /// one is whole again, too.
    ///
    /// # Errors
    /// [`LuksError::Io`]; then the old header is in force, or the new one.
    pub fn write<D: Write + Seek>(
        &mut self,
        device: &mut D,
        label: &str,
        sync: impl Fn(&mut D) -> io::Result<()>,
    ) -> Result<(), LuksError> {
        self.copy.sequence = self.copy.sequence.saturating_add(1);
        label.clone_into(&mut self.copy.label);
        for which in [Which::Second, Which::First] {
            let bytes = self.copy.bytes(which)?;
            device
                .seek(SeekFrom::Start(self.copy.offset(which)))
                .and_then(|_| device.write_all(&bytes))
                .and_then(|()| sync(device))
                .map_err(LuksError::io("writing the LUKS header"))?;
        }
        self.half = false;
        Ok(())
    }

    /// Overwrites all keyslots: nothing opens the volume any more, whoever knows a
    /// passphrase. The header stays.
    ///
    /// # Errors
    /// [`LuksError::Io`].
    pub fn destroy_keys<D: Write + Seek>(
        &self,
        device: &mut D,
        sync: impl Fn(&mut D) -> io::Result<()>,
    ) -> Result<(), LuksError> {
        zero(device, self.areas())
            .and_then(|()| sync(device))
            .map_err(LuksError::io("destroying the keyslots"))
    }
}

#[cfg(test)]
mod tests;
