//! Texts that never show in debug output, and serialising without them.

use std::cell::RefCell;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// What stands in a secret's place.
const REDACTED: &str = "(redacted)";

/// A text that never shows in debug output.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// What serialising does with the secrets it comes by.
enum Mode {
    /// Their own text: for who needs it.
    Reveal,
    /// [`REDACTED`].
    Redact,
    /// As `Redact`, and the text is kept here.
    Collect(Vec<String>),
}

thread_local! {
    // By type and not by key names: a secret that is added to the schema is covered with it.
    static MODE: RefCell<Mode> = const { RefCell::new(Mode::Reveal) };
}

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

/// Serialises a text that is secret, whatever type it has.
pub(super) fn serialize<S: Serializer>(text: &str, serializer: S) -> Result<S::Ok, S::Error> {
    let shown = MODE.with_borrow_mut(|mode| match mode {
        Mode::Reveal => text,
        Mode::Redact => REDACTED,
        Mode::Collect(all) => {
            all.push(text.to_owned());
            REDACTED
        }
    });
    serializer.serialize_str(shown)
}

/// Serialises under `mode` and gives what it became.
fn under<T: Serialize>(value: &T, mode: Mode) -> (serde_json::Result<serde_json::Value>, Mode) {
    MODE.set(mode);
    let json = serde_json::to_value(value);
    (json, MODE.replace(Mode::Reveal))
}

/// The value as JSON, every secret replaced.
pub(super) fn redacted<T: Serialize>(value: &T) -> serde_json::Result<serde_json::Value> {
    under(value, Mode::Redact).0
}

/// Every secret in the value.
pub(super) fn collect<T: Serialize>(value: &T) -> serde_json::Result<Vec<String>> {
    let (json, mode) = under(value, Mode::Collect(Vec::new()));
    json?;
    Ok(match mode {
        Mode::Collect(all) => all,
        Mode::Reveal | Mode::Redact => Vec::new(),
    })
}
