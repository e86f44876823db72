//! The `.deb` format (deb(5)): an `ar` archive of three members in fixed order.
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 8 | `!<arch>\n` |
//! | 8 | 60 + n | `debian-binary`: `2.0\n` |
//! | | 60 + n | `control.tar*` |
//! | | 60 + n | `data.tar`, `.gz`, `.xz` or `.zst` |
//!
//! A member's header, all of it ASCII, padded with blanks:
//!
//! | offset | size | what |
//! |---|---|---|
//! | 0 | 16 | name, perhaps with a `/` at its end |
//! | 16 | 32 | time, owner, group, mode: of no interest |
//! | 48 | 10 | size of the content, decimal |
//! | 58 | 2 | `` `\n `` |
//!
//! Contents begin at even offsets.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use liblzma::stream::MtStreamBuilder;

use crate::error::{At as _, Error, Kind, Result};

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER_LEN: usize = 60;

/// Memory that decoding one package may take in bytes: some blocks at once of
/// what `xz -9` makes.
const XZ_MEMORY: u64 = 512 << 20;

/// Calls `read` with the decompressed `data.tar` of a package file. Decoding runs
/// to the end, so that a damaged tail is noticed even if `read` stops early.
///
/// # Errors
/// [`Kind::Input`] for what isn't a package or is damaged; [`Kind::Io`].
pub(crate) fn with_data<T>(
    path: &Path,
    read: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    let file = File::open(path).at("opening", path)?;
    with_data_of(BufReader::with_capacity(256 << 10, file), read)
}

/// [`with_data`] of any reader.
pub(crate) fn with_data_of<T>(
    mut deb: impl Read,
    read: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<T> {
    let mut magic = [0; 8];
    fill(&mut deb, &mut magic)?;
    if magic != *MAGIC {
        return Err(corrupt("it is not a Debian package (no `ar` archive)"));
    }
    let version = Member::next(&mut deb)?.ok_or_else(|| corrupt("it is empty"))?;
    if version.name != "debian-binary" || version.size > 64 {
        return Err(corrupt(
            "it is not a Debian package (`debian-binary` is missing)",
        ));
    }
    let mut text = vec![0; usize::try_from(version.size).unwrap_or(0)];
    fill(&mut deb, &mut text)?;
    version.skip_padding(&mut deb)?;
    if !text.starts_with(b"2.") {
        return Err(unsupported("its format version is not 2"));
    }
    while let Some(member) = Member::next(&mut deb)? {
        let mut content = (&mut deb).take(member.size);
        let Some(suffix) = member.name.strip_prefix("data.tar") else {
            let skipped = io::copy(&mut content, &mut io::sink()).map_err(|e| damaged(&e))?;
            if skipped != member.size {
                return Err(corrupt("it is cut off"));
            }
            member.skip_padding(&mut deb)?;
            continue;
        };
        let result = match suffix {
            "" => drained(&mut content, read),
            ".gz" => drained(&mut flate2::read::MultiGzDecoder::new(&mut content), read),
            ".xz" => drained(&mut xz(&mut content, member.size)?, read),
            ".zst" => {
                let mut zst = zstd::Decoder::new(&mut content).map_err(|e| damaged(&e))?;
                drained(&mut zst, read)
            }
            other => Err(unsupported(&format!("its data is compressed as `{other}`"))),
        }?;
        if content.limit() > 0 {
            return Err(corrupt("something follows its data, or it is cut off"));
        }
        return Ok(result);
    }
    Err(corrupt("it has no data.tar"))
}

/// Large packages are compressed in several blocks, which can be decoded at once.
fn xz<R: Read>(from: R, size: u64) -> Result<liblzma::read::XzDecoder<R>> {
    let threads = match std::thread::available_parallelism() {
        Ok(n) if size > 4 << 20 => u32::try_from(n.get().min(8)).unwrap_or(1),
        _ => 1,
    };
    let stream = MtStreamBuilder::new()
        .threads(threads)
        .memlimit_threading(XZ_MEMORY)
        .memlimit_stop(XZ_MEMORY)
        .decoder()
        .map_err(|e| Error::new(Kind::Bug, format!("setting up xz: {e}")))?;
    Ok(liblzma::read::XzDecoder::new_stream(from, stream))
}

fn drained<T>(from: &mut dyn Read, read: impl FnOnce(&mut dyn Read) -> Result<T>) -> Result<T> {
    let result = read(from)?;
    io::copy(from, &mut io::sink()).map_err(|e| damaged(&e))?;
    Ok(result)
}

struct Member {
    name: String,
    size: u64,
}

impl Member {
    fn next(deb: &mut impl Read) -> Result<Option<Self>> {
        let mut header = [0; HEADER_LEN];
        match deb.read(&mut header).map_err(|e| damaged(&e))? {
            0 => return Ok(None),
            n => fill(deb, header.get_mut(n..).unwrap_or_default())?,
        }
        let text = |from: usize, to: usize| {
            std::str::from_utf8(header.get(from..to)?)
                .ok()
                .map(|t| t.trim_end_matches(' '))
        };
        let bad = || corrupt("it has a bad member header");
        let name = text(0, 16).ok_or_else(bad)?.trim_end_matches('/');
        let size = text(48, 58)
            .filter(|t| t.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|t| t.parse().ok())
            .ok_or_else(bad)?;
        if header.get(58..) != Some(b"`\n") || name.is_empty() {
            return Err(bad());
        }
        Ok(Some(Self {
            name: name.to_owned(),
            size,
        }))
    }

    fn skip_padding(&self, deb: &mut impl Read) -> Result<()> {
        if self.size % 2 == 1 {
            fill(deb, &mut [0])?;
        }
        Ok(())
    }
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<()> {
    from.read_exact(buffer).map_err(|e| damaged(&e))
}

/// The package's bytes don't make sense.
pub(crate) fn corrupt(why: &str) -> Error {
    Error::new(Kind::Input, why).hint("its digest is right, so it was published like this")
}

/// The package makes sense but asks for more than we can do.
pub(crate) fn unsupported(why: &str) -> Error {
    Error::new(Kind::Input, format!("{why}, which is not supported"))
}

/// What a decoder or a short file says; a failing disk stays one.
pub(crate) fn damaged(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => corrupt("it is cut off"),
        _ if error.raw_os_error().is_some() => {
            Error::new(Kind::Io, format!("reading it failed: {error}"))
        }
        _ => corrupt(&format!("it is damaged: {error}")),
    }
}
