//! SHA-256 over bytes, files and source trees.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
pub use slipway_images::hex::hex as to_hex;

use crate::error::{At as _, Result};

/// Lower-case hex SHA-256 of some bytes.
pub fn hex(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

/// Lower-case hex SHA-256 of a file, read in pieces.
pub fn file(path: &Path) -> Result<String> {
    let mut file = File::open(path).at("opening", path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).at("reading", path)? {
            0 => return Ok(to_hex(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// A digest of source files, the same in every checkout: over the sorted paths
/// below `root`, whether each can be executed, and its bytes. Each of `parts`
/// is a file or directory below `root`; hidden files and `target` are passed over.
pub fn sources(root: &Path, parts: &[&str]) -> Result<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut files = Vec::new();
    for part in parts {
        collect(&root.join(part), &mut files)?;
    }
    files.sort();
    files.dedup();
    let mut hash = Sha256::new();
    for path in files {
        let name = path.strip_prefix(root).unwrap_or(&path);
        let bytes = fs::read(&path).at("reading", &path)?;
        let mode = fs::metadata(&path)
            .at("reading", &path)?
            .permissions()
            .mode();
        hash.update(name.as_os_str().as_encoded_bytes());
        hash.update([0, u8::from(mode & 0o100 != 0)]);
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(&bytes);
    }
    Ok(to_hex(&hash.finalize()))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).at("reading", path)? {
        let entry = entry.at("reading", path)?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") || name == "target" {
            continue;
        }
        collect(&entry.path(), files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_digest_knows_names_bytes_and_nothing_else() {
        let make = |extra: &str| {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("src")).unwrap();
            fs::write(dir.path().join("src/a"), "one").unwrap();
            fs::write(dir.path().join("src/b"), extra).unwrap();
            fs::write(dir.path().join("src/.hidden"), extra).unwrap();
            let digest = sources(dir.path(), &["src"]).unwrap();
            (dir, digest)
        };
        let (one, two, three) = (make("x"), make("x"), make("y"));
        assert_eq!(one.1, two.1);
        assert_ne!(one.1, three.1);
    }
}
