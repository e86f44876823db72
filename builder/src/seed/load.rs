//! Seeds from files: a directory as a node would find it, or one document alone.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use slipway_images::seed::{
    Document, Documents, Encrypt, Finding, HEADER, PASSPHRASE_FILE, Place, Secret, Seed, SeedFiles,
    Severity,
};

use crate::error::{At as _, Error, Kind, Result};

/// More than any document may have; the library refuses it with the right words.
const MAX_BYTES: u64 = (1 << 20) + 1;

/// A seed's texts, and where they came from.
pub struct Loaded {
    /// The directory or file that was named.
    pub path: PathBuf,
    texts: Vec<Text>,
}

struct Text {
    document: Document,
    path: PathBuf,
    text: Result<String, Finding>,
}

/// A finding with the file it is in.
#[derive(Debug, Serialize)]
pub struct Found {
    /// The file.
    pub file: PathBuf,
    /// What it is.
    #[serde(flatten)]
    pub finding: Finding,
}

impl std::fmt::Display for Found {
    /// `FILE:LINE:COLUMN: error: KEY: MESSAGE`, as compilers do, and what the key means.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Finding {
            severity,
            place,
            key,
            message,
            meaning,
        } = &self.finding;
        write!(f, "{}:", self.file.display())?;
        if place.line > 0 {
            write!(f, "{}:{}:", place.line, place.column)?;
        }
        let severity = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, " {severity}: ")?;
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        write!(f, "{message}")?;
        if let Some(meaning) = meaning {
            write!(f, "\n    {meaning}")?;
        }
        Ok(())
    }
}

/// Reads what is at `path`: a directory with `user-data` in it, or a single document,
/// told by its name. Whatever is wrong with a text comes out of [`Loaded::check`].
///
/// # Errors
/// [`Kind::Input`] if there is no seed, [`Kind::Io`] if it can't be read.
pub fn load(path: &Path) -> Result<Loaded> {
    let whole = path.is_dir();
    let documents: Vec<(Document, PathBuf)> = if whole {
        let at = |document: Document| (document, path.join(document.name()));
        Document::ALL
            .map(at)
            .into_iter()
            .filter(|(_, file)| file.exists())
            .collect()
    } else {
        vec![(document_of(path), path.to_owned())]
    };
    if whole
        && !documents
            .iter()
            .any(|(document, _)| *document == Document::UserData)
    {
        return Err(Error::new(
            Kind::Input,
            format!("{} has no file user-data", path.display()),
        )
        .hint("`slipway seed new` writes seeds; docs/seed.md says what belongs into one"));
    }
    let text = |(document, path): (Document, PathBuf)| {
        let text = read(document, &path)?;
        Ok(Text {
            document,
            path,
            text,
        })
    };
    Ok(Loaded {
        path: path.to_owned(),
        texts: documents.into_iter().map(text).collect::<Result<_>>()?,
    })
}

/// `network-config`, `my-network-config.yaml` and so on; anything else is user-data.
fn document_of(path: &Path) -> Document {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let named = |document: &Document| name.contains(document.name());
    Document::ALL
        .into_iter()
        .find(named)
        .unwrap_or(Document::UserData)
}

fn read(document: Document, path: &Path) -> Result<Result<String, Finding>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
        .at("reading", path)?;
    Ok(String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..valid).unwrap_or_default();
        Finding {
            severity: Severity::Error,
            place: Place {
                document,
                line: before.iter().filter(|b| **b == b'\n').count() + 1,
                column: before.iter().rev().take_while(|b| **b != b'\n').count() + 1,
            },
            key: String::new(),
            message: "not UTF-8 from here on".into(),
            meaning: None,
        }
    }))
}

impl Loaded {
    /// Checks it as a node would. The seed is there if there is no error.
    pub fn check(&self) -> (Option<Seed>, Vec<Found>) {
        let unreadable: Vec<&Finding> = self
            .texts
            .iter()
            .filter_map(|t| t.text.as_ref().err())
            .collect();
        if !unreadable.is_empty() {
            return (None, self.placed(unreadable.into_iter().cloned()));
        }
        let files = SeedFiles {
            // A single other document is checked beside an empty one.
            user_data: self.text(Document::UserData).unwrap_or(HEADER),
            network_config: self.text(Document::NetworkConfig),
            meta_data: self.text(Document::MetaData),
        };
        match Seed::read(files) {
            Ok(parsed) => {
                let mut found = self.placed(parsed.warnings);
                found.extend(self.without_passphrase(&parsed.seed));
                (Some(parsed.seed), found)
            }
            Err(error) => (None, self.placed(error.findings().iter().cloned())),
        }
    }

    /// The seed, or what is wrong with it in one line.
    ///
    /// # Errors
    /// [`Kind::Input`].
    pub fn seed(&self) -> Result<Seed> {
        let (seed, found) = self.check();
        let error = found
            .iter()
            .find(|found| found.finding.severity == Severity::Error);
        seed.ok_or_else(|| {
            let first = error.map(ToString::to_string).unwrap_or_default();
            Error::new(Kind::Input, first.lines().next().unwrap_or_default()).hint(format!(
                "`slipway seed check {}` shows everything",
                self.path.display()
            ))
        })
    }

    /// The texts, if a node would take them.
    ///
    /// # Errors
    /// Those of [`Loaded::seed`].
    pub fn documents(&self) -> Result<Documents> {
        self.seed()?;
        let text = |document| self.text(document).map(Secret::new);
        Ok(Documents {
            user_data: text(Document::UserData).unwrap_or_else(|| Secret::new(HEADER)),
            network_config: text(Document::NetworkConfig),
            meta_data: text(Document::MetaData),
        })
    }

    /// No error: the file may come on its own, as it should.
    fn without_passphrase(&self, seed: &Seed) -> Option<Found> {
        let wanted = seed.data.encrypt == Some(Encrypt::PassphraseFile) && self.path.is_dir();
        let missing = wanted && !self.path.join(PASSPHRASE_FILE).exists();
        missing.then(|| Found {
            file: self.path.clone(),
            finding: Finding {
                severity: Severity::Warning,
                place: Place {
                    document: Document::UserData,
                    line: 0,
                    column: 0,
                },
                key: "slipway.data.encrypt".into(),
                message: format!(
                    "there is no file `{PASSPHRASE_FILE}` beside user-data: without it a node \
                     has no data partition and no cluster"
                ),
                meaning: None,
            },
        })
    }

    fn text(&self, document: Document) -> Option<&str> {
        let found = self.texts.iter().find(|text| text.document == document)?;
        found.text.as_deref().ok()
    }

    fn placed(&self, findings: impl IntoIterator<Item = Finding>) -> Vec<Found> {
        let file = |document: Document| {
            let text = self.texts.iter().find(|text| text.document == document);
            text.map_or_else(|| self.path.clone(), |text| text.path.clone())
        };
        let place = |finding: Finding| Found {
            file: file(finding.place.document),
            finding,
        };
        findings.into_iter().map(place).collect()
    }
}
