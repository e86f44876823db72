//! What a bundle says of itself, for people.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;
use slipway_images::bundle::keys::SIGNATURE;
use slipway_images::bundle::manifest::Manifest;
use slipway_images::bundle::{Bundle, BundleError, Source, read_head, signed};

use super::refused;
use super::remote::Remote;
use crate::error::{At as _, Error, Kind, Result};
use crate::keys::update::load_public;

/// What a bundle says.
#[derive(Debug, Serialize)]
pub struct Inspected {
    bundle: PathBuf,
    /// Bytes of the file.
    size: u64,
    /// Which key has signed, as the file says.
    signer: String,
    /// Whether that was verified.
    verified: bool,
    manifest: Manifest,
}

impl fmt::Display for Inspected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |n: u64| format!("{:.2} MB", n as f64 / 1e6);
        let m = &self.manifest;
        writeln!(f, "{} {}", m.board, m.version)?;
        writeln!(f, "  release    {}", m.release)?;
        writeln!(f, "  kubernetes {}", m.kubernetes)?;
        let verified = match self.verified {
            true => "verified",
            false => "NOT VERIFIED: give --key",
        };
        writeln!(f, "  signed by  {} ({verified})", self.signer)?;
        for key in &m.next_keys {
            writeln!(f, "  next key   {}", key.id())?;
        }
        if !m.requires.is_empty() {
            writeln!(f, "  requires   {}", m.requires.join(", "))?;
        }
        writeln!(f, "  root hash  {}", m.root_hash)?;
        for (name, payload) in [("kernel", &m.kernel), ("root", &m.root)] {
            let (size, n) = (megabytes(payload.size), payload.segments.len());
            writeln!(f, "  {name:<10} {size} in {n} segments")?;
        }
        write!(
            f,
            "  stored     {}, alone {}",
            megabytes(self.size),
            megabytes(m.stored_full())
        )?;
        for base in &m.bases {
            let (version, n) = (&base.version, base.deltas.len());
            let size = megabytes(base.stored());
            write!(f, "\n  from       {version}: {size} in {n} deltas")?;
        }
        Ok(())
    }
}

/// Reads the manifest of a bundle, a file or a URL; with a key, only if that has signed it. Of
/// a URL only the head is fetched.
///
/// # Errors
/// [`Kind::Untrusted`], [`Kind::Input`] for what is no bundle, [`Kind::Io`], [`Kind::Network`].
pub fn inspect(path: &Path, key: Option<&Path>) -> Result<Inspected> {
    let url = path.to_str().filter(|text| text.contains("://"));
    let mut source: Box<dyn Source> = match url {
        Some(url) => Box::new(Remote::new(url)),
        None => Box::new(File::open(path).at("opening", path)?),
    };
    let refuse = |error: BundleError| match (&error, url) {
        (BundleError::Source(why), Some(url)) => {
            Error::new(Kind::Network, format!("{url} can't be read: {why}"))
        }
        _ => refused(path, &error),
    };
    let (head, size) = read_head(&mut *source).map_err(refuse)?;
    let manifest = match key {
        Some(key) => {
            let bundle = Bundle::open(&mut *source, &[load_public(key)?]).map_err(refuse)?;
            bundle.manifest().clone()
        }
        None => {
            let json = &head[signed::HEAD..head.len() - SIGNATURE];
            Manifest::parse(json).map_err(refuse)?
        }
    };
    Ok(Inspected {
        bundle: path.to_owned(),
        size,
        signer: crate::digest::to_hex(&head[16..signed::HEAD]),
        verified: key.is_some(),
        manifest,
    })
}
