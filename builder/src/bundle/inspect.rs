//! What a bundle says of itself, for people.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Serialize;
use slipway_images::bundle::manifest::Manifest;
use slipway_images::bundle::{Bundle, KIND, signed};

use super::refused;
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

/// Reads a bundle's manifest; with a key, only if that has signed it.
///
/// # Errors
/// [`Kind::Untrusted`], [`Kind::Input`] for what is no bundle, [`Kind::Io`].
pub fn inspect(path: &Path, key: Option<&Path>) -> Result<Inspected> {
    let mut file = File::open(path).at("opening", path)?;
    let size = file.metadata().at("reading", path)?.len();
    let (head, manifest) = match key {
        Some(key) => {
            let key = load_public(key)?;
            let bundle = Bundle::open(&mut file, &[key]).map_err(|e| refused(path, &e))?;
            (key.id().to_string(), bundle.manifest().clone())
        }
        None => unverified(path, &file)?,
    };
    Ok(Inspected {
        bundle: path.to_owned(),
        size,
        signer: head,
        verified: key.is_some(),
        manifest,
    })
}

/// Who says that he has signed, and the manifest.
fn unverified(path: &Path, file: &File) -> Result<(String, Manifest)> {
    use std::os::unix::fs::FileExt as _;
    let refuse = |e: &dyn fmt::Display| {
        let message = format!("{}: {e}", path.display());
        Error::new(Kind::Input, message)
    };
    let len = file.metadata().at("reading", path)?.len();
    let mut head = vec![0; len.min(signed::HEAD as u64) as usize];
    file.read_exact_at(&mut head, 0).at("reading", path)?;
    let end = KIND.end(&head).map_err(|e| refuse(&e))?;
    let mut json = vec![0; end - signed::HEAD - slipway_images::bundle::keys::SIGNATURE];
    file.read_exact_at(&mut json, signed::HEAD as u64)
        .at("reading", path)?;
    let manifest = Manifest::parse(&json).map_err(|e| refuse(&e))?;
    Ok((crate::digest::to_hex(&head[16..]), manifest))
}
