//! The packages of a suite: `<component>/binary-<arch>/Packages.xz`.
//!
//! An index is 60 MB of text, of which we need a third. So its wanted fields are
//! kept in the cache, under the digest of the original, in a form that can be
//! searched without being parsed:
//!
//! ```text
//! slipway-index 1
//! Package: NAME
//! Provides: ...            (second, if there is one)
//! other fields of [`KEPT`], one line each
//!                          (an empty line)
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read as _, Write as _};
use std::ops::Range;
use std::path::Path;

use super::relation::{self, is_package_name};
use super::release::is_sha256;
use super::{deb822, version};
use crate::atomic::Pending;
use crate::error::{At as _, Error, Kind, Result};

const HEADER: &str = "slipway-index 1\n";

/// The fields that are kept besides `Package` and `Provides`.
const KEPT: [&str; 14] = [
    "Version",
    "Architecture",
    "Source",
    "Section",
    "Homepage",
    "Essential",
    "Multi-Arch",
    "Pre-Depends",
    "Depends",
    "Conflicts",
    "Breaks",
    "Filename",
    "Size",
    "SHA256",
];

/// No index of Debian's is larger; a limit for what a decompressor may give out.
const MAX_LEN: u64 = 512 << 20;

/// An index that can be asked for packages.
#[derive(Debug)]
pub(crate) struct Index {
    text: String,
    by_name: HashMap<Box<str>, Vec<u32>>,
    providers: HashMap<Box<str>, Vec<u32>>,
    paragraphs: Vec<Range<usize>>,
}

/// A paragraph of an index, its fields not yet looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    text: &'a str,
}

impl<'a> Entry<'a> {
    /// A field's value. Kept fields have canonical names and single lines.
    pub fn field(&self, name: &str) -> Option<&'a str> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The package's name.
    pub fn name(&self) -> &'a str {
        self.field("Package").unwrap_or_default()
    }

    /// Its version.
    pub fn version(&self) -> &'a str {
        self.field("Version").unwrap_or_default()
    }
}

/// Writes the wanted part of `Packages.xz` to `target`.
///
/// # Errors
/// [`Kind::Network`] if the index is damaged (its digest has been checked, so the
/// mirror signed nonsense), [`Kind::Io`].
pub(crate) fn compact(packages_xz: &Path, target: &Path) -> Result<()> {
    let file = File::open(packages_xz).at("opening", packages_xz)?;
    let mut text = String::new();
    let corrupt = |why: &str| {
        Error::new(
            Kind::Network,
            format!("index {}: {why}", packages_xz.display()),
        )
    };
    liblzma::read::XzDecoder::new_multi_decoder(BufReader::new(file))
        .take(MAX_LEN)
        .read_to_string(&mut text)
        .map_err(|e| corrupt(&e.to_string()))?;
    if text.len() as u64 == MAX_LEN {
        return Err(corrupt("it is too large"));
    }
    let compacted = compact_text(&text).map_err(|e| corrupt(&e))?;
    let mut pending = Pending::create(target)?;
    pending
        .file()
        .write_all(compacted.as_bytes())
        .at("writing", target)?;
    pending.commit(0o644)
}

fn compact_text(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len() / 2);
    out.push_str(HEADER);
    for paragraph in deb822::paragraphs(text) {
        let mut values: [Option<&str>; KEPT.len()] = [None; KEPT.len()];
        let (mut name, mut provides) = (None, None);
        for field in deb822::fields(paragraph) {
            let (field, value) = field?;
            match field {
                "Package" => name = Some(value),
                "Provides" => provides = Some(value),
                _ => {
                    if let Some(at) = KEPT.iter().position(|k| *k == field)
                        && let Some(slot) = values.get_mut(at)
                    {
                        *slot = Some(value);
                    }
                }
            }
        }
        let name = name.filter(|n| is_package_name(n)).ok_or_else(|| {
            format!(
                "a package has no usable name: {}",
                deb822::shorten(paragraph)
            )
        })?;
        let mut line = |field: &str, value: &str| {
            out.push_str(field);
            out.push_str(": ");
            // A continued line becomes one.
            for (n, part) in value.lines().enumerate() {
                if n > 0 {
                    out.push(' ');
                }
                out.push_str(part.trim());
            }
            out.push('\n');
        };
        line("Package", name);
        if let Some(provides) = provides {
            line("Provides", provides);
        }
        for (field, value) in KEPT.iter().zip(values) {
            if let Some(value) = value {
                line(field, value);
            }
        }
        out.push('\n');
    }
    Ok(out)
}

impl Index {
    /// Reads what [`compact`] wrote.
    ///
    /// # Errors
    /// [`Kind::Io`], also for a cache file of another format.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).at("reading", path)?;
        Self::from_compact(text).ok_or_else(|| {
            Error::new(Kind::Io, format!("{} is damaged", path.display()))
                .hint("remove this file; it will be made again")
        })
    }

    /// The index of a text, for tests.
    #[cfg(test)]
    pub fn of_packages(text: &str) -> Self {
        Self::from_compact(compact_text(text).unwrap()).unwrap()
    }

    fn from_compact(text: String) -> Option<Self> {
        text.starts_with(HEADER).then_some(())?;
        let mut index = Self {
            by_name: HashMap::new(),
            providers: HashMap::new(),
            paragraphs: Vec::new(),
            text: String::new(),
        };
        let mut at = HEADER.len();
        while let Some(rest) = text.get(at..).filter(|r| !r.is_empty()) {
            let end = at + rest.find("\n\n")? + 1;
            let paragraph = text.get(at..end)?;
            let number = u32::try_from(index.paragraphs.len()).ok()?;
            let mut lines = paragraph.lines();
            let name = lines.next()?.strip_prefix("Package: ")?;
            index.by_name.entry(name.into()).or_default().push(number);
            if let Some(provides) = lines.next().and_then(|l| l.strip_prefix("Provides: ")) {
                // What can't be read provides nothing.
                for provided in relation::parse(provides)
                    .unwrap_or_default()
                    .iter()
                    .flatten()
                {
                    index
                        .providers
                        .entry(provided.name.into())
                        .or_default()
                        .push(number);
                }
            }
            index.paragraphs.push(at..end);
            at = end + 1;
        }
        index.text = text;
        Some(index)
    }

    /// All versions of a package.
    pub fn named(&self, name: &str) -> impl Iterator<Item = Entry<'_>> {
        self.entries(self.by_name.get(name))
    }

    /// All packages that say they provide this name.
    pub fn providing(&self, name: &str) -> impl Iterator<Item = Entry<'_>> {
        self.entries(self.providers.get(name))
    }

    /// The names of all packages and of all that is provided.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name
            .keys()
            .chain(self.providers.keys())
            .map(AsRef::as_ref)
    }

    fn entries<'a>(&'a self, numbers: Option<&'a Vec<u32>>) -> impl Iterator<Item = Entry<'a>> {
        numbers
            .into_iter()
            .flatten()
            .filter_map(|&n| self.paragraphs.get(n as usize))
            .filter_map(|range| self.text.get(range.clone()))
            .map(|text| Entry { text })
    }
}

/// What an entry says of its file, checked: nothing of it may lead out of the
/// cache or the mirror.
pub(crate) struct Location<'a> {
    /// Path below the mirror's base.
    pub path: &'a str,
    /// Bytes.
    pub size: u64,
    /// Lower-case hex.
    pub sha256: String,
}

impl<'a> Location<'a> {
    /// # Errors
    /// The reason, for a message that names the package.
    pub fn of(entry: &Entry<'a>) -> Result<Self, String> {
        let get = |name: &str| entry.field(name).ok_or_else(|| format!("it has no {name}"));
        let path = get("Filename")?;
        if !is_pool_path(path) {
            return Err(format!(
                "its file name `{}` is not usable",
                deb822::shorten(path)
            ));
        }
        let sha256 = get("SHA256")?.to_ascii_lowercase();
        if !is_sha256(&sha256) {
            return Err("its SHA256 is not one".into());
        }
        if !version::is_valid(get("Version")?) {
            return Err("its version is not one".into());
        }
        let size = get("Size")?
            .parse()
            .map_err(|_| "its size is not a number".to_owned())?;
        Ok(Self { path, size, sha256 })
    }
}

/// A relative path without `..` or characters that mean something in a URL.
pub(crate) fn is_pool_path(path: &str) -> bool {
    path.bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"/._+~:-%=@,".contains(&b))
        && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "Package: a\nVersion: 1\nDescription: long\n text\nProvides: virtual (= 2),\n other\nDepends: b\n\nPackage: b\nVersion: 2\nFilename: pool/b.deb\nSize: 3\nSHA256: 94055c54983a56c019ec1e8147080917f8cd543df0bb7b12c01aabc234d0a19b\n";

    #[test]
    fn compacting_keeps_what_is_asked_for() {
        let index = Index::from_compact(compact_text(TEXT).unwrap()).unwrap();
        let a = index.named("a").next().unwrap();
        assert_eq!((a.name(), a.version()), ("a", "1"));
        assert_eq!(a.field("Depends"), Some("b"));
        assert_eq!(a.field("Description"), None);
        assert_eq!(index.providing("virtual").next().unwrap().name(), "a");
        assert_eq!(index.providing("other").count(), 1);
        assert_eq!(index.named("c").count(), 0);
        let b = index.named("b").next().unwrap();
        assert_eq!(Location::of(&b).unwrap().path, "pool/b.deb");
        assert!(Location::of(&a).is_err());
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for bad in [
            "/etc/passwd",
            "../x",
            "pool/../../x",
            "pool//x",
            "a?b",
            "a b",
            "",
            "é",
        ] {
            assert!(!is_pool_path(bad), "{bad}");
        }
        assert!(is_pool_path(
            "pool/main/g/gcc-14/libstdc++6_14.2.0-19_amd64.deb"
        ));
    }

    proptest! {
        #[test]
        fn any_text_is_compacted_or_refused(text in "(?s).*") {
            if let Ok(compacted) = compact_text(&text) {
                prop_assert!(Index::from_compact(compacted).is_some());
            }
        }

        #[test]
        fn a_damaged_index_is_compacted_or_refused(at in 0usize..200, with in "\\PC{0,3}", cut in 0usize..9) {
            let mut text = TEXT.to_owned();
            let at = at.min(text.len());
            text.replace_range(at..(at + cut).min(text.len()), &with);
            if let Ok(compacted) = compact_text(&text) {
                let index = Index::from_compact(compacted).unwrap();
                for entry in index.named("a").chain(index.named("b")) {
                    Location::of(&entry).map(|_| ()).unwrap_or(());
                }
            }
        }

        #[test]
        fn a_damaged_cache_is_noticed_or_read(text in "(?s).*") {
            Index::from_compact(format!("{HEADER}{text}")).map(|_| ()).unwrap_or(());
        }
    }
}
