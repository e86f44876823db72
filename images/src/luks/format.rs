//! Making a volume.

use std::collections::BTreeMap;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;

use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::header::{BINARY, Copy, SIZES};
use super::keyslot::{Argon2Costs, CIPHER, Kdf, STRIPES};
use super::metadata::{
    AntiForensic, AnySegment, Area, Bytes, Config, Digest, Hash, KeyDigest, Keyslot, Luks2Keyslot,
    Metadata, Segment, Size,
};
use super::{DATA_OFFSET, LuksError, Random, Volume, VolumeKey};

/// Bytes of a volume key: two of AES-256, as XTS takes them.
const KEY: usize = 64;
/// Bytes of a copy of the header.
const COPY: u64 = SIZES[0];
/// Bytes from one keyslot's area to the next: its stripes, up to a multiple of 4 KiB.
const AREA: u64 = (KEY as u64 * STRIPES as u64).next_multiple_of(4096);
const SALT: usize = 32;
/// Of passphrases that are random. The volume key is so itself: nothing is won by making
/// its digest slow.
const FEW_ITERATIONS: u32 = 1000;

/// Writes zeros.
///
/// # Errors
/// Those of writing.
pub fn zero<D: Write + Seek>(device: &mut D, range: Range<u64>) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    device.seek(SeekFrom::Start(range.start))?;
    let mut left = range.end.saturating_sub(range.start);
    while left > 0 {
        let length = usize::try_from(left).map_or(zeros.len(), |left| left.min(zeros.len()));
        device.write_all(&zeros[..length])?;
        left -= length as u64;
    }
    Ok(())
}

/// How a passphrase is made slow to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strength {
    /// It was thought of by somebody: Argon2id with 64 MiB, RFC 9106's second recommendation.
    Chosen,
    /// It is random and long: PBKDF2 with 1000 iterations.
    Random,
}

/// A keyslot to be.
#[derive(Clone, Copy)]
pub struct NewKey<'a> {
    /// What opens it.
    pub passphrase: &'a [u8],
    /// Where that is from.
    pub strength: Strength,
    /// Where to get the passphrase: the fields of a token, which gets the keyslot's number.
    pub token: Option<&'a Map<String, Value>>,
}

/// A volume to be.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The header's label, at most 47 bytes.
    pub label: &'a str,
    /// Who uses it, at most 47 bytes.
    pub subsystem: &'a str,
    /// Bytes that are encrypted at once: 512 or 4096.
    pub sector_size: u32,
}

/// Makes a volume on a device, whatever it holds, and gives its key.
///
/// # Errors
/// [`LuksError::NoRoom`], [`LuksError::Io`]. Before the header's copies are written, the
/// first in place of what was at the device's start, all else is on the medium.
pub fn format<D: Write + Seek>(
    device: &mut D,
    wish: Wish<'_>,
    keys: &[NewKey<'_>],
    random: &mut Random<'_>,
    sync: impl Fn(&mut D) -> io::Result<()>,
) -> Result<(Volume, VolumeKey), LuksError> {
    let size = device.seek(SeekFrom::End(0));
    if size.map_err(LuksError::io("measuring the device"))? < DATA_OFFSET + (1 << 20) {
        return Err(LuksError::NoRoom);
    }
    let mut bytes = |length| {
        let mut bytes = Zeroizing::new(vec![0; length]);
        random(&mut bytes).map_err(LuksError::io("random bytes"))?;
        Ok::<_, LuksError>(bytes)
    };
    let key = bytes(KEY)?;
    let mut salts = Vec::new();
    for _ in 0..=keys.len() {
        salts.push(Bytes(bytes(SALT)?.to_vec()));
    }
    let mut salt = [0; 64];
    salt.copy_from_slice(&bytes(64)?);
    let mut id = [0; 16];
    id.copy_from_slice(&bytes(16)?);

    let metadata = describe(wish, keys, &key, salts)?;
    let mut volume = Volume {
        copy: Copy {
            size: COPY,
            // What is written gets one more.
            sequence: 0,
            label: wish.label.into(),
            uuid: uuid::Builder::from_random_bytes(id).into_uuid().to_string(),
            subsystem: wish.subsystem.into(),
            salt,
            text: serde_json::to_vec(&metadata)
                .map_err(|error| LuksError::Damaged(error.to_string()))?,
        },
        metadata,
        half: false,
    };
    let areas = volume.areas();
    let writing = LuksError::io("writing the keyslots");
    zero(device, areas.clone()).map_err(&writing)?;
    for (new, keyslot) in keys.iter().zip(volume.metadata.keyslots.values()) {
        let Keyslot::Luks2(keyslot) = keyslot else {
            continue;
        };
        let area = keyslot.seal(&key, &areas, new.passphrase, random)?;
        device
            .seek(SeekFrom::Start(keyslot.area.offset))
            .and_then(|_| device.write_all(&area))
            .map_err(&writing)?;
    }
    sync(device).map_err(writing)?;
    volume.write(device, wish.label, sync)?;
    Ok((volume, VolumeKey(key)))
}

/// The header's text.
fn describe(
    wish: Wish<'_>,
    keys: &[NewKey<'_>],
    key: &[u8],
    salts: Vec<Bytes>,
) -> Result<Metadata, LuksError> {
    let mut salts = salts.into_iter();
    let mut salt = || salts.next().ok_or(LuksError::NoRoom);
    let mut keyslots = BTreeMap::new();
    let mut tokens = BTreeMap::new();
    // Numbers of one digit stay in order as texts.
    for (n, new) in (0..10).zip(keys) {
        let kdf = match new.strength {
            Strength::Chosen => Kdf::Argon2id(Argon2Costs {
                time: 3,
                memory: 64 << 10,
                cpus: 4,
                salt: salt()?,
            }),
            Strength::Random => Kdf::Pbkdf2 {
                hash: Hash::Sha256,
                iterations: FEW_ITERATIONS,
                salt: salt()?,
            },
        };
        let keyslot = Luks2Keyslot {
            key_size: KEY,
            af: AntiForensic {
                kind: "luks1".into(),
                stripes: STRIPES,
                hash: Hash::Sha256,
            },
            area: Area {
                kind: "raw".into(),
                offset: 2 * COPY + n * AREA,
                size: AREA,
                encryption: CIPHER.into(),
                key_size: KEY,
            },
            kdf,
        };
        keyslots.insert(n.to_string(), Keyslot::Luks2(keyslot));
        if let Some(token) = new.token {
            let mut token = token.clone();
            token.insert("keyslots".into(), json!([n.to_string()]));
            tokens.insert(n.to_string(), Value::Object(token));
        }
    }
    let salt = salt()?;
    let digest = KeyDigest {
        keyslots: keyslots.keys().cloned().collect(),
        segments: vec!["0".into()],
        hash: Hash::Sha256,
        iterations: FEW_ITERATIONS,
        digest: Bytes(Hash::Sha256.digest_of_key(key, &salt.0, FEW_ITERATIONS)?),
        salt,
    };
    let segment = Segment {
        offset: DATA_OFFSET,
        size: Size::Dynamic,
        iv_tweak: 0,
        encryption: CIPHER.into(),
        sector_size: wish.sector_size,
        integrity: None,
        flags: Vec::new(),
    };
    let only = |n: &str| n.to_owned();
    Ok(Metadata {
        keyslots,
        tokens,
        segments: BTreeMap::from([(only("0"), AnySegment::Crypt(segment))]),
        digests: BTreeMap::from([(only("0"), Digest::Pbkdf2(digest))]),
        config: Config {
            json_size: COPY - BINARY as u64,
            keyslots_size: DATA_OFFSET - 2 * COPY,
            requirements: None,
        },
    })
}
