//! A keyslot: the volume key, spread over 4000 stripes and encrypted under a passphrase.
//!
//! Each bit of the stripes is needed for the key, so that on a disk which keeps a few old
//! sectors somewhere the key is gone when most of the area has been overwritten. Stripes but
//! the last are random; the last makes all of them, each stirred into the next, give the key:
//!
//! `d = 0; for all but the last: d = H(d ^ stripe); key = d ^ last`
//!
//! `H` hashes each piece of the hash's length behind its number (32 bits, big-endian).
//! The area is encrypted as by `aes-xts-plain64` in sectors of 512 bytes, counted from 0.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit as _};
use aes::{Aes128, Aes256};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};
use xts_mode::{Xts128, get_tweak_default};
use zeroize::Zeroizing;

use super::metadata::{Bytes, Hash, Luks2Keyslot};
use super::{LuksError, Random};

/// Stripes of a key.
pub(super) const STRIPES: u32 = 4000;
/// The one cipher of areas.
pub(super) const CIPHER: &str = "aes-xts-plain64";
/// Bytes that are encrypted at once.
const SECTOR: usize = 512;
/// Bytes of the longest key.
const MAX_KEY: usize = 64;

/// How a passphrase becomes the key of a keyslot's area.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Kdf {
    Pbkdf2 {
        hash: Hash,
        iterations: u32,
        salt: Bytes,
    },
    Argon2i(Argon2Costs),
    Argon2id(Argon2Costs),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Argon2Costs {
    pub time: u32,
    /// In KiB.
    pub memory: u32,
    pub cpus: u32,
    pub salt: Bytes,
}

impl Kdf {
    /// Makes a key of a passphrase.
    ///
    /// # Errors
    /// [`LuksError::Memory`] when it takes more than `memory` bytes, [`LuksError::Damaged`].
    fn derive(&self, passphrase: &[u8], memory: u64, key: &mut [u8]) -> Result<(), LuksError> {
        match self {
            Self::Pbkdf2 {
                hash,
                iterations,
                salt,
            } => hash.stretch(passphrase, &salt.0, *iterations, key),
            Self::Argon2i(costs) => costs.derive(Algorithm::Argon2i, passphrase, memory, key),
            Self::Argon2id(costs) => costs.derive(Algorithm::Argon2id, passphrase, memory, key),
        }
    }
}

impl Argon2Costs {
    fn derive(
        &self,
        algorithm: Algorithm,
        passphrase: &[u8],
        memory: u64,
        key: &mut [u8],
    ) -> Result<(), LuksError> {
        let no_sense = |error| LuksError::Damaged(format!("a keyslot's Argon2: {error}"));
        let wanted = u64::from(self.memory) << 10;
        let too_much = LuksError::Memory { wanted };
        if wanted > memory {
            return Err(too_much);
        }
        let params = Params::new(self.memory, self.time, self.cpus, Some(key.len()));
        let params = params.map_err(no_sense)?;
        let count = params.block_count();
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(count).map_err(|_| too_much)?;
        blocks.resize(count, Block::default());
        let mut blocks = Zeroizing::new(blocks);
        Argon2::new(algorithm, Version::V0x13, params)
            .hash_password_into_with_memory(passphrase, &self.salt.0, key, blocks.as_mut_slice())
            .map_err(no_sense)
    }
}

impl Hash {
    const fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// PBKDF2 with HMAC.
    fn stretch(
        self,
        password: &[u8],
        salt: &[u8],
        iterations: u32,
        out: &mut [u8],
    ) -> Result<(), LuksError> {
        if iterations == 0 {
            return Err(LuksError::Damaged("PBKDF2 of no iterations".into()));
        }
        match self {
            Self::Sha256 => pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, iterations, out),
            Self::Sha512 => pbkdf2::pbkdf2_hmac::<Sha512>(password, salt, iterations, out),
        }
        Ok(())
    }

    /// What tells a volume key: PBKDF2 of it, as long as the hash.
    pub fn digest_of_key(
        self,
        key: &[u8],
        salt: &[u8],
        iterations: u32,
    ) -> Result<Vec<u8>, LuksError> {
        let mut digest = vec![0; self.size()];
        self.stretch(key, salt, iterations, &mut digest)?;
        Ok(digest)
    }

    /// Stirs a stripe.
    fn diffuse(self, stripe: &mut [u8]) {
        for (n, piece) in (0u32..).zip(stripe.chunks_mut(self.size())) {
            let number = n.to_be_bytes();
            let length = piece.len();
            match self {
                Self::Sha256 => {
                    let hash = Sha256::new().chain_update(number).chain_update(&*piece);
                    piece.copy_from_slice(&hash.finalize()[..length]);
                }
                Self::Sha512 => {
                    let hash = Sha512::new().chain_update(number).chain_update(&*piece);
                    piece.copy_from_slice(&hash.finalize()[..length]);
                }
            }
        }
    }

    /// All stripes but the last, stirred together.
    fn stir(self, stripes: &[u8], key_size: usize) -> Zeroizing<Vec<u8>> {
        let mut stirred = Zeroizing::new(vec![0; key_size]);
        for stripe in stripes.chunks_exact(key_size) {
            xor(&mut stirred, stripe);
            self.diffuse(&mut stirred);
        }
        stirred
    }
}

fn xor(into: &mut [u8], with: &[u8]) {
    into.iter_mut().zip(with).for_each(|(a, b)| *a ^= b);
}

/// Spreads a key over stripes; `random` fills all but the last.
pub(super) fn split(
    hash: Hash,
    key: &[u8],
    random: &mut Random<'_>,
) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut stripes = Zeroizing::new(vec![0; key.len() * STRIPES as usize]);
    let (rest, last) = stripes.split_at_mut(key.len() * (STRIPES as usize - 1));
    random(rest)?;
    last.copy_from_slice(&hash.stir(rest, key.len()));
    xor(last, key);
    Ok(stripes)
}

fn merge(hash: Hash, stripes: &[u8], key_size: usize) -> Zeroizing<Vec<u8>> {
    let (rest, last) = stripes.split_at(stripes.len() - key_size);
    let mut key = hash.stir(rest, key_size);
    xor(&mut key, last);
    key
}

/// What is done to an area.
#[derive(Clone, Copy)]
enum Direction {
    Encrypt,
    Decrypt,
}

/// En- or decrypts an area of whole sectors.
///
/// # Errors
/// [`LuksError::Unsupported`] for a key that has neither 32 nor 64 bytes.
fn xts(key: &[u8], area: &mut [u8], direction: Direction) -> Result<(), LuksError> {
    let (data, tweak) = key.split_at(key.len() / 2);
    if let (Ok(data), Ok(tweak)) = (Aes256::new_from_slice(data), Aes256::new_from_slice(tweak)) {
        run(&Xts128::new(data, tweak), area, direction);
    } else if let (Ok(data), Ok(tweak)) =
        (Aes128::new_from_slice(data), Aes128::new_from_slice(tweak))
    {
        run(&Xts128::new(data, tweak), area, direction);
    } else {
        return Err(LuksError::Unsupported(format!(
            "a keyslot with a key of {} bytes; 32 and 64 are",
            key.len()
        )));
    }
    Ok(())
}

fn run<C>(xts: &Xts128<C>, area: &mut [u8], direction: Direction)
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser<BlockSize = U16>,
{
    match direction {
        Direction::Encrypt => xts.encrypt_area(area, SECTOR, 0, get_tweak_default),
        Direction::Decrypt => xts.decrypt_area(area, SECTOR, 0, get_tweak_default),
    }
}

impl Luks2Keyslot {
    /// Bytes of all stripes, as whole sectors; an error for a keyslot that can't be used.
    /// `areas` is where areas may lie.
    fn stripes(&self, areas: &Range<u64>) -> Result<usize, LuksError> {
        let unsupported = |what: String| Err(LuksError::Unsupported(what));
        let (af, area) = (&self.af, &self.area);
        if af.kind != "luks1" || area.kind != "raw" || area.encryption != CIPHER {
            return unsupported(format!(
                "a keyslot with {:?}, {:?} and {:?}; luks1, raw and {CIPHER} are",
                af.kind, area.kind, area.encryption
            ));
        }
        if self.key_size == 0 || self.key_size > MAX_KEY || !(1..=STRIPES).contains(&af.stripes) {
            return unsupported(format!(
                "a keyslot of {} stripes of {} bytes",
                af.stripes, self.key_size
            ));
        }
        if ![32, 64].contains(&area.key_size) {
            return unsupported(format!("a keyslot with a key of {} bytes", area.key_size));
        }
        let bytes = (self.key_size * af.stripes as usize).next_multiple_of(SECTOR);
        let end = area.offset.checked_add(area.size);
        if (bytes as u64) > area.size
            || area.offset < areas.start
            || end.is_none_or(|end| end > areas.end)
        {
            return Err(LuksError::Damaged("a keyslot lies elsewhere".into()));
        }
        Ok(bytes)
    }

    /// What the keyslot holds, if the passphrase is its: that is for a digest to tell.
    ///
    /// # Errors
    /// [`LuksError`]: it can't be used, or not be read.
    pub fn open<D: Read + Seek>(
        &self,
        device: &mut D,
        areas: &Range<u64>,
        passphrase: &[u8],
        memory: u64,
    ) -> Result<Zeroizing<Vec<u8>>, LuksError> {
        let mut stripes = Zeroizing::new(vec![0; self.stripes(areas)?]);
        let mut key = Zeroizing::new(vec![0; self.area.key_size]);
        self.kdf.derive(passphrase, memory, &mut key)?;
        device
            .seek(SeekFrom::Start(self.area.offset))
            .and_then(|_| device.read_exact(&mut stripes))
            .map_err(LuksError::io("reading a keyslot"))?;
        xts(&key, &mut stripes, Direction::Decrypt)?;
        let length = self.key_size * self.af.stripes as usize;
        Ok(merge(self.af.hash, &stripes[..length], self.key_size))
    }

    /// The area's bytes for a volume key.
    ///
    /// # Errors
    /// As [`Self::open`]; and those of `random`.
    pub fn seal(
        &self,
        volume_key: &[u8],
        areas: &Range<u64>,
        passphrase: &[u8],
        random: &mut Random<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, LuksError> {
        let length = self.stripes(areas)?;
        let mut key = Zeroizing::new(vec![0; self.area.key_size]);
        self.kdf.derive(passphrase, u64::MAX, &mut key)?;
        let stripes = split(self.af.hash, volume_key, random);
        let mut stripes = stripes.map_err(LuksError::io("random bytes"))?;
        stripes.resize(length, 0);
        xts(&key, &mut stripes, Direction::Encrypt)?;
        Ok(stripes)
    }
}
