//! What is wrong or odd about a seed: where, which key, why, and what the key means.

use std::fmt;

use serde::Serialize;

/// One of a seed's three documents, by the name of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Document {
    /// `user-data`: what the owner wants of the machine.
    UserData,
    /// `network-config`: its interfaces.
    NetworkConfig,
    /// `meta-data`: which instance it is.
    MetaData,
}

impl Document {
    /// All of them, in the order in which they are read.
    pub const ALL: [Self; 3] = [Self::UserData, Self::NetworkConfig, Self::MetaData];

    /// The name of its file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserData => "user-data",
            Self::NetworkConfig => "network-config",
            Self::MetaData => "meta-data",
        }
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A place in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Place {
    /// Which document.
    pub document: Document,
    /// Line, from 1; 0 for the document as a whole.
    pub line: usize,
    /// Column in characters, from 1; 0 for the whole line.
    pub column: usize,
}

impl Place {
    /// The document as a whole.
    #[must_use]
    pub const fn whole(document: Document) -> Self {
        Self {
            document,
            line: 0,
            column: 0,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.document)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if self.column > 0 {
            write!(f, ":{}", self.column)?;
        }
        Ok(())
    }
}

/// Whether a seed can be used in spite of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The seed is refused.
    Error,
    /// Something has no effect, or another than its author may expect.
    Warning,
}

/// One thing that is wrong or odd. Shows no values of keys that hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether the seed is refused for it.
    pub severity: Severity,
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// Path of the key from the top, with dots; empty for the document as a whole.
    pub key: String,
    /// What is wrong, and what to do where that isn't plain.
    pub message: String,
    /// What the key means; none for a key that isn't known.
    pub meaning: Option<&'static str>,
}

impl fmt::Display for Finding {
    /// One line: `user-data:4:11: slipway.cluster.role: ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}
