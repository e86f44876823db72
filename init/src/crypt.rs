//! The data partition encrypted: a LUKS2 volume on it, which the kernel's dm-crypt shows as a
//! device of its own, and ext4 in that.
//!
//! | table of the target `crypt` | here |
//! |---|---|
//! | cipher | what the header says: `aes-xts-plain64` |
//! | key, in hexadecimal | the volume's |
//! | first sector's number for the cipher | 0 |
//! | device, and the sector on it where the volume begins | the partition, 16 MiB |
//! | number of options, and these | `1 sector_size:4096` |
//!
//! Source: the kernel's Documentation/admin-guide/device-mapper/dm-crypt.rst. Discards don't
//! pass: what is free isn't told to who has the disk.
//!
//! What has to be known before there is a key stands in the header's label, in the words
//! that a plain filesystem's has: `slipway-mkfs`, `slipway-data`, `slipway-reset`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use slipway_images::layout::Sectors;
use slipway_images::luks::{self, LuksError, NewKey, Segment, Strength, Volume, VolumeKey};
use slipway_images::seed::{Encrypt, PASSPHRASE_FILE, Secret};

use crate::data::{FIRST_BACKUP, LABEL, LABEL_RESET, LABEL_UNFINISHED};
use crate::dm::{self, Access, Mapped, Mapper, Target};
use crate::ext4::{Superblock, backup_offsets};
use crate::modules::Modules;
use crate::phase::{Context, Failure};
use crate::{files, say, tpm};

/// The mapped device's name.
const NAME: &str = "data";
/// Who uses the volume, for whoever looks at its header.
const SUBSYSTEM: &str = "slipway";
/// What ext4 writes at once, so a sector never holds a part of it.
const SECTOR: u32 = 4096;
/// Where all copies of a LUKS header end, whatever their size.
const HEADERS: u64 = 8 << 20;
/// For a keyslot, where the kernel doesn't say what there is: what those of ours take, twice.
const SOME_MEMORY: u64 = 128 << 20;

/// How the seed wants data to be kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Wish {
    /// It doesn't say.
    #[default]
    Clear,
    /// Encrypted, with the key there.
    Encrypted(Encrypt),
    /// There is a seed, and it couldn't be read: nothing may be made that it perhaps wants
    /// otherwise.
    Unknown,
}

/// How data is to be kept, and what opens it.
#[derive(Debug, Default)]
pub struct Keys {
    /// For when it is made.
    pub wish: Wish,
    /// The passphrase beside the seed's `user-data`, without the line's end.
    pub passphrase: Option<Secret>,
}

impl Keys {
    fn passphrase(&self) -> Result<&[u8], Failure> {
        let passphrase = self.passphrase.as_ref().map(Secret::reveal);
        let passphrase = passphrase.ok_or_else(|| {
            Failure(format!(
                "there is no file `{PASSPHRASE_FILE}` beside the seed's user-data"
            ))
        })?;
        let passphrase = passphrase.trim_end_matches(['\r', '\n']);
        match passphrase.len() {
            0 => Err(Failure(format!(
                "the seed's file `{PASSPHRASE_FILE}` is empty"
            ))),
            _ => Ok(passphrase.as_bytes()),
        }
    }
}

/// A volume that is open; it is closed when it isn't kept.
#[derive(Debug)]
pub struct Open {
    volume: Volume,
    device: File,
    mapped: Mapped,
}

impl Open {
    /// The device on which its filesystem is.
    pub fn path(&self) -> &Path {
        self.mapped.path()
    }

    /// Its filesystem is whole: the header says so from now on.
    ///
    /// # Errors
    /// Those of writing.
    pub fn finish(&mut self) -> Result<(), Failure> {
        (self.volume)
            .write(&mut self.device, LABEL, |file| file.sync_all())
            .context("finishing the encrypted volume")
    }

    /// It is mounted and stays.
    pub fn keep(self) {
        self.mapped.keep();
    }
}

fn writable(device: &Path) -> Result<File, Failure> {
    let opened = OpenOptions::new().read(true).write(true).open(device);
    opened.context(format_args!("opening {}", device.display()))
}

/// Opens a volume that was found on a device, and mends its header. Gives a note for the
/// console, too.
///
/// # Errors
/// No key opens it, or the kernel can't; what it holds is as it was.
pub fn open(device: &Path, mut volume: Volume, keys: &Keys) -> Result<(Open, String), Failure> {
    let mut file = writable(device)?;
    let (key, by) = unlock(&mut file, &volume, keys)?;
    let mut note = format!("encrypted, opened by {by}");
    if volume.is_half() {
        let label = volume.label().to_owned();
        volume
            .write(&mut file, &label, |file| file.sync_all())
            .context("mending the LUKS header")?;
        note.push_str(", its header mended");
    }
    Ok((map(device, file, volume, &key)?, note))
}

fn unlock(
    device: &mut (impl Read + Seek),
    volume: &Volume,
    keys: &Keys,
) -> Result<(VolumeKey, &'static str), Failure> {
    let memory = memory();
    let mut why = Vec::new();
    for token in volume.tokens().filter_map(tpm::Token::read) {
        match token.and_then(|token| token.unseal()) {
            Ok(secret) => match volume.unlock(device, &secret, memory) {
                Ok(key) => return Ok((key, "the TPM")),
                Err(error) => why.push(format!("what the TPM keeps: {error}")),
            },
            Err(failure) => why.push(failure.0),
        }
    }
    match keys.passphrase() {
        Ok(passphrase) => match volume.unlock(device, passphrase, memory) {
            Ok(key) => return Ok((key, "the seed's passphrase")),
            Err(error) => why.push(format!("the seed's passphrase: {error}")),
        },
        Err(failure) => why.push(failure.0),
    }
    Err(Failure(format!(
        "the data partition is encrypted and can't be opened: {}. Nothing on it was touched. \
         Bring its key back and reboot, or reset the node to begin anew without its data",
        why.join("; ")
    )))
}

/// What a keyslot may take of it, in bytes: three quarters of what is free.
fn memory() -> u64 {
    let info = files::read_trimmed("/proc/meminfo").unwrap_or_default();
    let free = info.lines().find_map(|line| {
        let kib = line.strip_prefix("MemAvailable:")?.strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok()
    });
    free.map_or(SOME_MEMORY, |kib| kib.saturating_mul(1024 / 4 * 3))
}

/// Makes a volume and opens it. It is unfinished until [`Open::finish`].
///
/// # Errors
/// There is no key for it, before anything is written; or writing fails.
pub fn make(device: &Path, wish: Encrypt, keys: &Keys) -> Result<(Open, String), Failure> {
    let mut file = writable(device)?;
    let mut random = File::open("/dev/random").context("/dev/random")?;
    let mut random = |bytes: &mut [u8]| random.read_exact(bytes);
    let (volume, key, by) = create(&mut file, wish, keys, &mut random, File::sync_all)?;
    let open = map(device, file, volume, &key)?;
    Ok((open, format!("encrypted, its key kept by {by}")))
}

fn create<D: Read + Write + Seek>(
    device: &mut D,
    wish: Encrypt,
    keys: &Keys,
    random: &mut luks::Random<'_>,
    sync: fn(&D) -> io::Result<()>,
) -> Result<(Volume, VolumeKey, &'static str), Failure> {
    let unkept = |failure: Failure| {
        Failure(format!(
            "the seed asks for an encrypted data partition (slipway.data.encrypt), and {failure}. \
             None was made"
        ))
    };
    let (passphrase, sealed);
    let mut new = Vec::new();
    let by = match wish {
        Encrypt::Tpm2 => {
            sealed = tpm::Sealed::new(random).map_err(unkept)?;
            new.push(NewKey {
                passphrase: sealed.secret(),
                strength: Strength::Random,
                token: Some(sealed.token()),
            });
            // For the day when the TPM is gone.
            if let Ok(passphrase) = keys.passphrase() {
                new.push(chosen(passphrase));
            }
            "the TPM"
        }
        Encrypt::PassphraseFile => {
            passphrase = keys.passphrase().map_err(unkept)?;
            new.push(chosen(passphrase));
            "the seed's passphrase"
        }
    };
    let wish = luks::Wish {
        label: LABEL_UNFINISHED,
        subsystem: SUBSYSTEM,
        sector_size: SECTOR,
    };
    let (volume, key) = luks::format(device, wish, &new, random, |device| sync(device))
        .context("making the encrypted volume")?;
    forget_filesystem(device, sync).context("making the encrypted volume")?;
    Ok((volume, key, by))
}

fn chosen(passphrase: &[u8]) -> NewKey<'_> {
    NewKey {
        passphrase,
        strength: Strength::Chosen,
        token: None,
    }
}

/// Wipes the copies of a plain filesystem's superblock: were the header damaged one day, they
/// would say that there is a filesystem to be mended or made.
fn forget_filesystem<D: Read + Write + Seek>(
    device: &mut D,
    sync: fn(&D) -> io::Result<()>,
) -> io::Result<()> {
    for offset in backup_offsets() {
        if Superblock::read_at(device, offset)?.is_some() {
            luks::zero(device, offset..offset + 1024)?;
        }
    }
    sync(device)
}

/// Removes whatever LUKS headers a device has, before a plain filesystem is made on it. Until
/// that is there, a copy of a superblock says that it is to be made.
///
/// # Errors
/// Those of reading and writing.
pub fn forget_volume(device: &Path) -> Result<(), Failure> {
    remove(&mut writable(device)?, File::sync_all)
}

fn remove<D: Read + Write + Seek>(
    device: &mut D,
    sync: fn(&D) -> io::Result<()>,
) -> Result<(), Failure> {
    match Volume::find(device, 0) {
        Ok(None) => return Ok(()),
        Err(error @ LuksError::Io { .. }) => return Err(error.into()),
        Ok(Some(_)) | Err(_) => {}
    }
    let mut forget = || {
        let size = device.seek(SeekFrom::End(0))?;
        if size > FIRST_BACKUP + 1024 {
            device.seek(SeekFrom::Start(FIRST_BACKUP))?;
            device.write_all(&Superblock::mark(LABEL_RESET))?;
            sync(device)?;
        }
        luks::zero(device, 0..HEADERS.min(size))?;
        sync(device)
    };
    forget().context("removing the LUKS header")
}

/// The modules that the cipher takes, or better ones than the kernel's own.
const MODULES: [&str; 3] = ["dm_crypt", "xts", "crypto-aes"];

fn map(device: &Path, mut file: File, volume: Volume, key: &VolumeKey) -> Result<Open, Failure> {
    let mut modules = Modules::of_running_kernel()?;
    for module in MODULES {
        // Mapping tells whether one was really needed.
        if let Err(error) = modules.load(module)
            && !error.is_no_hardware()
        {
            say!("data: {error}");
        }
    }
    let size = file.seek(SeekFrom::End(0)).context("measuring")?;
    let table = table(device, size, volume.segment()?, key)?;
    let uuid = format!("CRYPT-LUKS2-{}-{NAME}", volume.uuid().replace('-', ""));
    let mapped = Mapper::open()?.map(NAME, &uuid, Access::ReadWrite, &[table])?;
    Ok(Open {
        volume,
        device: file,
        mapped,
    })
}

fn table(device: &Path, size: u64, segment: &Segment, key: &VolumeKey) -> Result<Target, Failure> {
    let too_small = || Failure(format!("{} is too small for its volume", device.display()));
    let bytes = segment.size_on(size).ok_or_else(too_small)?;
    let options = match segment.sector_size {
        512 => String::new(),
        size => format!(" 1 sector_size:{size}"),
    };
    let parameters = format!(
        "{} {} {} {} {}{options}",
        segment.encryption,
        *key.reveal_hex(),
        segment.iv_tweak,
        device.display(),
        segment.offset / Sectors::SIZE,
    );
    Ok(Target {
        start: 0,
        sectors: bytes / Sectors::SIZE,
        kind: "crypt".into(),
        parameters: parameters.into(),
    })
}

/// Closes the volume before the machine ends: the kernel wipes its key.
pub fn close() {
    if dm::is_mapped(NAME)
        && let Err(failure) = Mapper::open().and_then(|mapper| mapper.remove(NAME))
    {
        say!("shutdown: {failure}");
    }
}

#[cfg(test)]
#[path = "crypt_tests.rs"]
mod tests;
