//! A bundle taken as a node takes it, into files that go away.

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use slipway_images::bundle::segment::FrameHead;
use slipway_images::bundle::{Allow, Apart, Bundle, Digest, NodeFacts, Places, RootPlace, Step};
use slipway_images::slot::Disk;
use slipway_images::verity;

use super::refused;
use crate::error::{At as _, Error, Kind, Result};
use crate::formats::sparse;
use crate::keys::update::load_public;
use crate::progress::Progress;

/// What was found right.
#[derive(Debug, Serialize)]
pub struct Verified {
    bundle: PathBuf,
    board: String,
    version: String,
    release: u64,
    /// Deltas whose pieces are as signed. What they give shows on a node that has the base.
    deltas: usize,
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} {}, signature, kernel, root and {} deltas are as signed",
            self.bundle.display(),
            self.board,
            self.version,
            self.deltas
        )
    }
}

/// Verifies all of a bundle.
///
/// # Errors
/// [`Kind::Untrusted`] for what isn't as signed, [`Kind::Io`], [`Kind::Interrupted`].
pub fn verify(path: &Path, key: &Path, progress: &Progress) -> Result<Verified> {
    let key = load_public(key)?;
    let mut file = File::open(path).at("opening", path)?;
    let bundle = Bundle::open(&mut file, &[key]).map_err(|e| refused(path, &e))?;
    let manifest = bundle.manifest().clone();
    let deltas = check_deltas(path, &file, &bundle, progress)?;

    // A node that takes everything and has nothing.
    let requires: Vec<&str> = manifest.requires.iter().map(String::as_str).collect();
    let size = verity::end(manifest.root.size)
        .ok_or_else(|| Error::new(Kind::Bug, "a root without end"))?;
    let facts = NodeFacts {
        board: &manifest.board,
        version: "",
        release: 0,
        root_hash: None,
        slot_size: size,
        boot_room: manifest.kernel.size,
        supports: &requires,
        bad_versions: &[],
        firmware: None,
    };
    let admitted = bundle
        .admit(&facts, Allow::default())
        .map_err(|e| refused(path, &e))?;
    let dir = std::env::temp_dir();
    let mut root = Scratch::new(&dir, size)?;
    let mut kernel = Apart(Scratch::new(&dir, manifest.kernel.size)?);
    let mut places = Places {
        root: &mut root,
        running_root: None,
        kernel: &mut kernel,
    };
    let task = progress.task("verifying the bundle", Some(manifest.root.size));
    let mut shown = 0;
    let mut watch = |at: &slipway_images::bundle::Progress| {
        if at.step == Step::Verify {
            task.add(at.done.saturating_sub(shown));
            shown = shown.max(at.done);
        }
        match progress.check() {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    admitted
        .prepare(&mut places, &mut watch)
        .and_then(|prepared| prepared.run(&mut file, &mut places, &mut watch))
        .map_err(|e| refused(path, &e))?;
    Ok(Verified {
        bundle: path.to_owned(),
        board: manifest.board,
        version: manifest.version,
        release: manifest.release,
        deltas,
    })
}

/// Whether the deltas' pieces are as signed.
fn check_deltas(path: &Path, file: &File, bundle: &Bundle, progress: &Progress) -> Result<usize> {
    let manifest = bundle.manifest();
    let mut at = bundle.pieces() + manifest.stored_full();
    let mut count = 0;
    for base in &manifest.bases {
        for delta in &base.deltas {
            progress.check()?;
            let mut piece = vec![0; delta.stored.size as usize];
            file.read_exact_at(&mut piece, at).at("reading", path)?;
            let place = manifest.place(delta.payload, delta.segment as usize);
            let head = FrameHead::parse(&piece).ok();
            let right = Digest::of(&piece) == delta.stored.sha256
                && head.is_some_and(|head| head.content == place.end - place.start);
            if !right {
                let (payload, n) = (delta.payload, delta.segment);
                return Err(Error::new(
                    Kind::Untrusted,
                    format!(
                        "{}: the delta for {payload} segment {n} from {} isn't what was signed",
                        path.display(),
                        base.version
                    ),
                ));
            }
            at += piece.len() as u64;
            count += 1;
        }
    }
    Ok(count)
}

/// A file without a name, all zeros at first.
struct Scratch(File);

impl Scratch {
    fn new(dir: &Path, size: u64) -> Result<Self> {
        let file = tempfile::tempfile_in(dir).at("creating a file in", dir)?;
        file.set_len(size).at("writing into", dir)?;
        Ok(Self(file))
    }
}

impl Disk for Scratch {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        sparse::write_at(&self.0, offset, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl RootPlace for Scratch {
    fn forget(&mut self) -> io::Result<()> {
        Ok(())
    }
}
