//! Container images of one static program each, in an OCI image archive as
//! `ctr images import`, `podman load` and `skopeo` read it.
//!
//! | entry of the archive | what it is (OCI image-spec v1.1) |
//! |---|---|
//! | `oci-layout` | `{"imageLayoutVersion":"1.0.0"}` |
//! | `index.json` | one descriptor per image, named by annotations |
//! | `blobs/sha256/<manifest>` | config and layers of an image |
//! | `blobs/sha256/<config>` | platform, user, entry point, the layers' diff IDs |
//! | `blobs/sha256/<layer>` | a tar of the root filesystem, uncompressed |
//!
//! Layers aren't compressed: the system image around the archive is, and a
//! node under emulation would spend seconds on inflating them at first boot.
//! Nothing depends on the time, the machine or the order of a directory.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::board::Architecture;
use crate::components::oci_variant;
use crate::digest;
use crate::error::{Error, Kind, Result};
use crate::time;
use crate::tree::Content;

const MEDIA_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MEDIA_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const MEDIA_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MEDIA_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// How containerd names an image that it imports.
const ANNOTATION_NAME: &str = "io.containerd.image.name";
/// The specification's own: the tag alone.
const ANNOTATION_REF: &str = "org.opencontainers.image.ref.name";

/// An image with one layer.
#[derive(Debug, Clone)]
pub struct Image {
    /// Name and tag: `slipway.local/pause:1`.
    pub reference: String,
    /// What it runs on.
    pub arch: Architecture,
    /// `UID:GID` of its process.
    pub user: String,
    /// The program and its first arguments, by absolute path.
    pub entrypoint: Vec<String>,
    /// The files, by path without the leading slash. Each is `0555`, root's.
    pub files: BTreeMap<String, Content>,
    /// `org.opencontainers.image.*` labels: version, licences, ...
    pub labels: BTreeMap<String, String>,
}

/// Writes an archive of `images`, all created at `epoch` (Unix seconds).
///
/// # Errors
/// [`Kind::Io`] if a file can't be read or the archive not be written.
pub fn write(images: &[Image], epoch: i64, out: &mut dyn Write) -> Result<()> {
    let mut blobs: BTreeMap<String, Blob> = BTreeMap::new();
    let mut manifests = Vec::new();
    for image in images {
        let layer = Layer::new(image)?;
        let config = json_blob(&config(image, &layer, epoch));
        let manifest = json_blob(&json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": descriptor(MEDIA_CONFIG, &config),
            "layers": [{
                "mediaType": MEDIA_LAYER,
                "digest": format!("sha256:{}", layer.digest),
                "size": layer.size,
            }],
        }));
        let tag = image.reference.rsplit_once(':').map_or("", |(_, tag)| tag);
        let mut entry = descriptor(MEDIA_MANIFEST, &manifest);
        entry["platform"] = platform(image.arch);
        entry["annotations"] = json!({ ANNOTATION_NAME: image.reference, ANNOTATION_REF: tag });
        manifests.push(entry);
        blobs.insert(layer.digest.clone(), Blob::Layer(layer));
        blobs.insert(digest::hex(&config), Blob::Bytes(config));
        blobs.insert(digest::hex(&manifest), Blob::Bytes(manifest));
    }
    let index = json_blob(&json!({
        "schemaVersion": 2,
        "mediaType": MEDIA_INDEX,
        "manifests": manifests,
    }));
    archive(&index, &blobs, out)
        .map_err(|e| Error::new(Kind::Io, format!("writing a container image: {e}")))
}

enum Blob<'a> {
    Bytes(Vec<u8>),
    Layer(Layer<'a>),
}

fn archive(
    index: &[u8],
    blobs: &BTreeMap<String, Blob<'_>>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let layout = json_blob(&json!({ "imageLayoutVersion": "1.0.0" }));
    entry(out, "oci-layout", 0o644, layout.len() as u64, |o| {
        o.write_all(&layout)
    })?;
    entry(out, "index.json", 0o644, index.len() as u64, |o| {
        o.write_all(index)
    })?;
    directory(out, "blobs/")?;
    directory(out, "blobs/sha256/")?;
    for (digest, blob) in blobs {
        let path = format!("blobs/sha256/{digest}");
        match blob {
            Blob::Bytes(bytes) => {
                entry(out, &path, 0o644, bytes.len() as u64, |o| {
                    o.write_all(bytes)
                })?;
            }
            Blob::Layer(layer) => entry(out, &path, 0o644, layer.size, |o| layer.write(o))?,
        }
    }
    end(out)
}

/// The layer of an image: its size and digest known, its bytes written on demand,
/// so that a program needn't be held in memory.
struct Layer<'a> {
    files: &'a BTreeMap<String, Content>,
    digest: String,
    size: u64,
}

impl<'a> Layer<'a> {
    fn new(image: &'a Image) -> Result<Self> {
        let mut layer = Self {
            files: &image.files,
            digest: String::new(),
            size: 0,
        };
        let mut hash = Hashing {
            hash: Sha256::new(),
            size: 0,
        };
        layer.write(&mut hash).map_err(|e| {
            Error::new(
                Kind::Io,
                format!("reading the files of {}: {e}", image.reference),
            )
        })?;
        layer.digest = digest::to_hex(&hash.hash.finalize());
        layer.size = hash.size;
        Ok(layer)
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut made: Vec<&str> = Vec::new();
        for (path, content) in self.files {
            for (slash, _) in path.match_indices('/') {
                let dir = &path[..=slash];
                if !made.contains(&dir) {
                    directory(out, dir)?;
                    made.push(dir);
                }
            }
            entry(out, path, 0o555, content.len(), |out| {
                let mut from = content.open().map_err(io::Error::other)?;
                let mut buffer = vec![0; 1 << 18];
                let mut left = content.len();
                while left > 0 {
                    let n = from.read(&mut buffer)?;
                    if n == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    out.write_all(&buffer[..n])?;
                    left -= n as u64;
                }
                Ok(())
            })?;
        }
        end(out)
    }
}

/// Counts and hashes what is written to it.
struct Hashing {
    hash: Sha256,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn config(image: &Image, layer: &Layer<'_>, epoch: i64) -> Value {
    let created = time::rfc3339(epoch);
    let mut config = platform(image.arch);
    config["created"] = json!(created);
    config["config"] = json!({
        "User": image.user,
        "Entrypoint": image.entrypoint,
        "WorkingDir": "/",
        "Labels": image.labels,
    });
    config["rootfs"] = json!({
        "type": "layers",
        "diff_ids": [format!("sha256:{}", layer.digest)],
    });
    config["history"] = json!([{ "created": created, "created_by": "slipway build" }]);
    config
}

fn platform(arch: Architecture) -> Value {
    let mut platform = json!({ "os": "linux", "architecture": arch.go() });
    if let Some(variant) = oci_variant(arch) {
        platform["variant"] = json!(variant);
    }
    platform
}

fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({
        "mediaType": media_type,
        "digest": format!("sha256:{}", digest::hex(blob)),
        "size": blob.len(),
    })
}

/// JSON in a fixed form: keys sorted, as serde_json's map keeps them.
fn json_blob(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// One entry of a tar with fixed owner and time, its bytes padded to a block.
fn entry(
    out: &mut dyn Write,
    path: &str,
    mode: u32,
    size: u64,
    bytes: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    header(out, path, mode, size, tar::EntryType::Regular)?;
    bytes(out)?;
    let padding = (512 - size % 512) % 512;
    io::copy(&mut io::repeat(0).take(padding), out).map(drop)
}

fn directory(out: &mut dyn Write, path: &str) -> io::Result<()> {
    header(out, path, 0o755, 0, tar::EntryType::Directory)
}

fn header(
    out: &mut dyn Write,
    path: &str,
    mode: u32,
    size: u64,
    kind: tar::EntryType,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(path)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    out.write_all(header.as_bytes())
}

/// Two empty blocks end a tar.
fn end(out: &mut dyn Write) -> io::Result<()> {
    out.write_all(&[0; 1024])
}
