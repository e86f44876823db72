//! The image as a stream of pieces, raw or compressed, with what is known of it
//! beforehand.
//!
//! | what is known | from |
//! |---|---|
//! | size | the file; or the manifest, or the seek table of a download |
//! | SHA-256 | `IMAGE.sha256` beside a raw image, or the manifest |
//! | where the table says that the disk ends | the GPT header in sector 1 |

use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use slipway_images::layout::{Found, LayoutError, Sectors, grow, read};

use crate::error::{At as _, Error, Kind, Result};
use crate::formats::{sparse, zst};

/// How much of the image's beginning is looked at before anything is written: the
/// partition table lies in it.
const HEAD: usize = 64 << 10;

/// Beginnings of files that are compressed in a way that we don't read.
const OTHERS: [(&[u8], &str); 5] = [
    (b"\xfd7zXZ\0", "xz"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"PK\x03\x04", "zip"),
    (b"\x04\x22\x4d\x18", "lz4"),
];
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// An image that was opened and whose beginning was read.
pub struct Source {
    path: PathBuf,
    head: Vec<u8>,
    kind: Input,
    /// Bytes of the image, where known.
    pub size: Option<u64>,
    digests: Vec<String>,
}

enum Input {
    Raw {
        file: File,
        data: Vec<Range<u64>>,
        at: u64,
        len: u64,
    },
    Zstd {
        decoder: zstd::Decoder<'static, io::BufReader<File>>,
        /// How much of the head was given out again.
        replayed: usize,
    },
}

/// Whether a file is compressed with zstd.
///
/// # Errors
/// [`Kind::Io`].
pub fn is_packed(path: &Path) -> Result<bool> {
    let mut magic = Vec::new();
    File::open(path)
        .and_then(|f| f.take(ZSTD.len() as u64).read_to_end(&mut magic))
        .at("reading", path)?;
    Ok(magic == ZSTD)
}

/// What was read into a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes.
    Data(usize),
    /// So many zeros; the buffer was left alone.
    Hole(usize),
    /// Nothing is left.
    End,
}

impl Source {
    /// Opens the image and reads its beginning.
    ///
    /// # Errors
    /// [`Kind::Input`] if it is no image, or compressed in another way;
    /// [`Kind::Untrusted`] if it isn't the download that the manifest beside it
    /// tells of; [`Kind::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).at("opening", path)?;
        let len = file.metadata().at("reading", path)?.len();
        let mut magic = [0; 8];
        let known = usize::try_from(len).unwrap_or(8).min(8);
        file.read_exact_at(&mut magic[..known], 0)
            .at("reading", path)?;
        if let Some((_, name)) = OTHERS.iter().find(|(start, _)| magic.starts_with(start)) {
            return Err(Error::new(
                Kind::Input,
                format!("{} is compressed with {name}", path.display()),
            )
            .hint("unpack it first: slipway reads raw images and .zst"));
        }
        let packed = magic.starts_with(ZSTD);
        let manifest = Manifest::beside(path)?;
        let mut digests = Vec::new();
        if let Some(manifest) = &manifest {
            if packed && manifest.download.size != len {
                return Err(Error::new(
                    Kind::Untrusted,
                    format!(
                        "{} has {len} bytes, and its manifest says {}",
                        path.display(),
                        manifest.download.size
                    ),
                )
                .hint("it is cut off or of another build: fetch it again; nothing was written"));
            }
            digests.push(manifest.image.sha256.clone());
        }
        if !packed {
            digests.extend(read_digest(path)?);
        }
        let mut source = if packed {
            let table = zst::seek_table(path).ok();
            let size = manifest.map(|m| m.image.size).or_else(|| {
                let last = *table?.last()?;
                Some(last.at + u64::from(last.size))
            });
            let mut decoder = zstd::Decoder::new(file).at("reading", path)?;
            // Whatever window it was packed with; that of our own needs 32 MiB.
            decoder.window_log_max(31).at("reading", path)?;
            Self {
                path: path.to_owned(),
                head: Vec::new(),
                kind: Input::Zstd {
                    decoder,
                    replayed: 0,
                },
                size,
                digests,
            }
        } else {
            let data = sparse::data_ranges(&file).at("reading", path)?;
            Self {
                path: path.to_owned(),
                head: Vec::new(),
                kind: Input::Raw {
                    file,
                    data,
                    at: 0,
                    len,
                },
                size: Some(len),
                digests,
            }
        };
        source.read_head()?;
        Ok(source)
    }

    fn read_head(&mut self) -> Result<()> {
        let mut head = Vec::new();
        match &mut self.kind {
            // By place: looking for holes has moved the file's own.
            Input::Raw { file, len, .. } => {
                head.resize(HEAD.min(usize::try_from(*len).unwrap_or(HEAD)), 0);
                file.read_exact_at(&mut head, 0).map(|()| head.len())
            }
            Input::Zstd { decoder, .. } => decoder.take(HEAD as u64).read_to_end(&mut head),
        }
        .map_err(|e| self.broken(&e))?;
        self.head = head;
        if self.head.is_empty() {
            return Err(self.refuse("is empty"));
        }
        Ok(())
    }

    /// The next piece, of the buffer's length unless it is the last.
    ///
    /// # Errors
    /// [`Kind::Input`] for a damaged or cut off download, [`Kind::Io`].
    pub fn next(&mut self, buffer: &mut [u8]) -> Result<Piece> {
        let piece = match &mut self.kind {
            Input::Raw {
                file,
                data,
                at,
                len,
            } => {
                let start = *at;
                let end = len.saturating_sub(start).min(buffer.len() as u64) + start;
                *at = end;
                let n = usize::try_from(end - start).unwrap_or(usize::MAX);
                data.retain(|range| range.end > start);
                match data.first() {
                    _ if n == 0 => Ok(Piece::End),
                    Some(range) if range.start < end => file
                        .read_exact_at(&mut buffer[..n], start)
                        .map(|()| Piece::Data(n)),
                    _ => Ok(Piece::Hole(n)),
                }
            }
            Input::Zstd { decoder, replayed } => {
                let again = self.head[*replayed..].len().min(buffer.len());
                buffer[..again].copy_from_slice(&self.head[*replayed..*replayed + again]);
                *replayed += again;
                fill(decoder, &mut buffer[again..]).map(|n| match again + n {
                    0 => Piece::End,
                    n => Piece::Data(n),
                })
            }
        };
        piece.map_err(|e| self.broken(&e))
    }

    /// What the image is called.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image's own table of partitions, as it will be on a disk of that size;
    /// `None` if it has none.
    fn table(&self, disk: Sectors) -> Option<Found> {
        read(&mut Cursor::new(&self.head), disk).ok()
    }

    /// The partitions that a node adds on a disk of so many bytes: where they will
    /// begin. None for an image that isn't a node's.
    ///
    /// # Errors
    /// [`Kind::Usage`] if the node's partitions don't fit.
    pub fn added_partitions(&self, disk: u64) -> Result<Vec<u64>> {
        let Some(found) = self.table(Sectors::new(disk / Sectors::SIZE)) else {
            return Ok(Vec::new());
        };
        match grow(&found, b"") {
            Ok(Some(grown)) => Ok(grown
                .partitions
                .iter()
                .skip(found.table.partitions.len())
                .map(|p| p.offset().get())
                .collect()),
            Err(LayoutError::TooSmall { needed, disk }) => Err(Error::new(
                Kind::Usage,
                format!("the device is too small: {disk}; a node needs at least {needed}"),
            )),
            // Not a node's disk: it is written as it is.
            Ok(None) | Err(_) => Ok(Vec::new()),
        }
    }

    /// Whether what was read is the whole image and nothing else.
    ///
    /// # Errors
    /// [`Kind::Input`] if something is missing, [`Kind::Untrusted`] if the digest is
    /// another one.
    pub fn check(&self, len: u64, sha256: &str) -> Result<()> {
        let promised = self.size.into_iter().chain(self.disk_end()).max();
        if let Some(promised) = promised.filter(|p| *p > len) {
            return Err(self.refuse(&format!("is cut off: {len} of {promised} bytes are there")));
        }
        if self.digests.is_empty() || self.digests.iter().any(|d| d == sha256) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Untrusted,
            format!(
                "{} isn't what was built: its SHA-256 is {sha256}, and what lies beside it says {}",
                self.path.display(),
                self.digests.join(" or ")
            ),
        ))
    }

    /// Whether a digest was there to check against.
    pub fn has_digest(&self) -> bool {
        !self.digests.is_empty()
    }

    /// Where the primary GPT header says that its backup ends: the field AlternateLBA,
    /// 32 bytes into sector 1.
    fn disk_end(&self) -> Option<u64> {
        let header = self.head.get(512..1024)?;
        let last = u64::from_le_bytes(header.get(32..40)?.try_into().ok()?);
        (header.starts_with(b"EFI PART"))
            .then(|| last.checked_add(1)?.checked_mul(Sectors::SIZE))
            .flatten()
    }

    fn refuse(&self, why: &str) -> Error {
        Error::new(Kind::Input, format!("{} {why}", self.path.display()))
            .hint("fetch it again, or build it: slipway build")
    }

    fn broken(&self, error: &io::Error) -> Error {
        match (&self.kind, error.kind()) {
            (Input::Zstd { .. }, io::ErrorKind::UnexpectedEof) => self.refuse("is cut off"),
            // The decoder's own words come without a system error's number.
            (Input::Zstd { .. }, _) if error.raw_os_error().is_none() => {
                self.refuse(&format!("is damaged and can't be unpacked: {error}"))
            }
            _ => Error::io("reading", &self.path, error),
        }
    }
}

/// Reads until the buffer is full or nothing is left.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// What of a manifest is of use here ([`crate::manifest::Manifest`] writes it).
#[derive(Deserialize)]
struct Manifest {
    image: Listed,
    download: Listed,
}

#[derive(Deserialize)]
struct Listed {
    size: u64,
    sha256: String,
}

impl Manifest {
    /// `BOARD.manifest.json` beside `BOARD.img` or `BOARD.img.zst`.
    fn beside(image: &Path) -> Result<Option<Self>> {
        let name = image.file_name().and_then(|n| n.to_str()).unwrap_or("");
        let name = name.strip_suffix(".zst").unwrap_or(name);
        let Some(board) = name.strip_suffix(".img") else {
            return Ok(None);
        };
        let path = image.with_file_name(format!("{board}.manifest.json"));
        let Some(text) = read_small(&path)? else {
            return Ok(None);
        };
        serde_json::from_str(&text).map(Some).map_err(|e| {
            Error::new(
                Kind::Input,
                format!("{} is no manifest: {e}", path.display()),
            )
            .hint("build it again, or move it away to write the image unchecked")
        })
    }
}

/// The file that holds the digest of a raw image: sha256sum's format, `HEX  NAME`.
pub fn digest_path(image: &Path) -> PathBuf {
    let mut name = image.as_os_str().to_owned();
    name.push(".sha256");
    PathBuf::from(name)
}

fn read_digest(image: &Path) -> Result<Option<String>> {
    let path = digest_path(image);
    let Some(text) = read_small(&path)? else {
        return Ok(None);
    };
    let word = text.split_whitespace().next().unwrap_or("");
    if word.len() != 64 || !word.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(
            Error::new(Kind::Input, format!("{} holds no SHA-256", path.display()))
                .hint("make it with sha256sum, or move it away"),
        );
    }
    Ok(Some(word.to_ascii_lowercase()))
}

fn read_small(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).at("reading", path),
    }
}
