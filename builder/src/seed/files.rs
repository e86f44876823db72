//! A seed as files in a directory: cloud-init's NoCloud.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use slipway_images::seed::PASSPHRASE_FILE;

use super::load::load;
use crate::error::{At as _, Error, Kind, Result, near_miss};
use crate::progress::Progress;

/// The file that a seed can't do without.
pub const USER_DATA: &str = "user-data";

/// What a Raspberry Pi's `config.txt` includes. It isn't the node's, but the same hands put it
/// into the same place. An image has one, which stays where a seed brings none.
pub const USER_TXT: &str = "user.txt";

/// Overlays for the kernel's device tree on a board that U-Boot starts: `NAME.dtbo` in the seed's
/// directory goes here on the card, where a line `overlays=NAME` of `user.txt` finds it. An image's
/// own are in a directory of this name in a slot's boot area.
pub const OVERLAYS: &str = "overlays";

/// What an overlay begins with, as every device tree does (Devicetree Specification, 5.2).
const TREE_MAGIC: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];

/// Every file of a seed.
pub const NAMES: [&str; 6] = [
    "meta-data",
    "network-config",
    PASSPHRASE_FILE,
    USER_DATA,
    USER_TXT,
    "vendor-data",
];

/// No seed is as large as this; something else was named.
const MAX: u64 = 4 << 20;

/// The files of a seed, checked as far as they can be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    /// Reads a directory. What is odd is warned of; what is no file of a seed is left out,
    /// with a warning.
    ///
    /// # Errors
    /// [`Kind::Input`] if there is no user-data, or it is wrong; [`Kind::Io`];
    /// [`Kind::Interrupted`].
    pub fn read(dir: &Path, progress: &Progress) -> Result<Self> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(dir).at("reading", dir)? {
            let name = entry.at("reading", dir)?.file_name();
            let name = name.to_string_lossy();
            let path = dir.join(name.as_ref());
            // A file of an editor's or a version control's is nobody's mistake.
            if name.starts_with('.') {
                continue;
            }
            let is_overlay = name.ends_with(".dtbo");
            if !is_overlay && !NAMES.contains(&name.as_ref()) {
                progress.warn(&left_out(&path, &name));
                continue;
            }
            let len = fs::metadata(&path).at("reading", &path)?.len();
            if len > MAX {
                return Err(Error::new(
                    Kind::Input,
                    format!(
                        "{} has {} MiB: that is no part of a seed",
                        path.display(),
                        len >> 20
                    ),
                ));
            }
            let content = fs::read(&path).at("reading", &path)?;
            if is_overlay {
                overlay(&path, &content)?;
                files.insert(format!("{OVERLAYS}/{name}"), content);
            } else {
                files.insert(name.into_owned(), content);
            }
            progress.check()?;
        }
        let loaded = load(dir)?;
        // Before anything is written: what a node would refuse goes nowhere.
        loaded.seed()?;
        for found in loaded.check().1 {
            progress.warn(&found.to_string());
        }
        Ok(Self(files))
    }

    /// A seed of two files that is known to be right.
    pub(crate) fn of(meta_data: Vec<u8>, user_data: Vec<u8>) -> Self {
        Self(BTreeMap::from([
            ("meta-data".to_owned(), meta_data),
            (USER_DATA.to_owned(), user_data),
        ]))
    }

    /// The names that are there, sorted.
    pub fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// The bytes of a file; `None` for one that the seed hasn't got.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Name and bytes of each file that is the node's, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.all().filter(|(name, _)| !name.contains('/'))
    }

    /// Path below the boot partition's root, and bytes, of each overlay.
    pub fn overlays(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.all().filter(|(name, _)| name.contains('/'))
    }

    fn all(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(n, b)| (n.as_str(), b.as_slice()))
    }
}

/// Checks what can be checked without the tree that it is for.
fn overlay(path: &Path, content: &[u8]) -> Result<()> {
    match content.starts_with(&TREE_MAGIC) {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Input,
            format!("{} is no compiled overlay", path.display()),
        )
        .hint("dtc -@ -I dts -O dtb -o NAME.dtbo NAME.dts makes one")),
    }
}

fn left_out(path: &Path, name: &str) -> String {
    let text = format!("{} is no file of a seed and is left out", path.display());
    match near_miss(name, NAMES) {
        Some(near) => format!("{text}; did you mean {near}?"),
        None => text,
    }
}
