//! One TOML file: reading it, and finding every error in it.
//!
//! serde stops at the first error. So what an error points at is cut out of the
//! parsed file and the rest is read again, until nothing is left to complain of.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::raw::Raw;
use crate::error::{At as _, Result, near_miss};

/// More errors than anyone reads at once.
const MAX_ERRORS: usize = 20;

/// A TOML file and its text, for messages that say where in it.
pub(crate) struct Source {
    /// As shown in messages.
    pub path: PathBuf,
    text: String,
}

impl Source {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).at("reading", path)?;
        Ok(Self {
            path: path.to_owned(),
            text,
        })
    }

    /// `file:line:column: message`.
    pub fn message(&self, span: Option<Range<usize>>, what: &str) -> String {
        let at = span.map_or(0, |s| s.start.min(self.text.len()));
        let before = self.text.get(..at).unwrap_or(&self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        format!("{}:{line}:{column}: {what}", self.path.display())
    }

    /// The file's content, without what is wrong in it, and what that is.
    pub fn parse(&self) -> (Raw, Vec<String>) {
        let (mut root, syntax) = DeTable::parse_recoverable(&self.text);
        let mut errors: Vec<String> = syntax
            .iter()
            .map(|e| self.message(e.span(), &sentence(e.message())))
            .collect();
        if !errors.is_empty() {
            // What was recovered from broken syntax would give errors of its own.
            return (Raw::default(), errors);
        }
        while errors.len() < MAX_ERRORS {
            match Raw::deserialize(toml::Deserializer::from(root.clone())) {
                Ok(raw) => return (raw, errors),
                Err(e) => {
                    let span = e.span();
                    errors.push(self.message(span.clone(), &sentence(e.message())));
                    if !span.is_some_and(|span| cut_table(root.get_mut(), &span)) {
                        break;
                    }
                }
            }
        }
        (Raw::default(), errors)
    }
}

/// Removes the innermost entry that the span is in. False if there is none.
fn cut_table<'i>(table: &mut DeTable<'i>, span: &Range<usize>) -> bool {
    remove(table, |key, value| key == span || value == span)
        || table.iter_mut().any(|(_, value)| cut_value(value, span))
        || remove(table, |key, value| inside(span, key) || inside(span, value))
}

/// Removes the entries of which key and value are at these places.
fn remove(table: &mut DeTable<'_>, hit: impl Fn(&Range<usize>, &Range<usize>) -> bool) -> bool {
    let before = table.len();
    *table = std::mem::take(table)
        .into_iter()
        .filter(|(key, value)| !hit(&key.span(), &value.span()))
        .collect();
    table.len() < before
}

fn cut_value<'i>(value: &mut Spanned<DeValue<'i>>, span: &Range<usize>) -> bool {
    match value.get_mut() {
        DeValue::Table(table) => cut_table(table, span),
        DeValue::Array(array) => {
            let hit = array.iter().position(|item| item.span() == *span);
            if let Some(hit) = hit {
                let rest = std::mem::replace(array, std::iter::empty().collect())
                    .into_iter()
                    .enumerate()
                    .filter(|(n, _)| *n != hit)
                    .map(|(_, item)| item);
                *array = rest.collect();
                return true;
            }
            array.iter_mut().any(|item| cut_value(item, span))
        }
        _ => false,
    }
}

fn inside(inner: &Range<usize>, outer: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// serde's message in our words: unknown keys with the near miss.
fn sentence(message: &str) -> String {
    let message = message.trim().replace('\n', " ");
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let (Some(given), known) = (quoted.first(), quoted.get(1..).unwrap_or_default()) else {
        return message;
    };
    let kind = if message.starts_with("unknown field") {
        "unknown key"
    } else if message.starts_with("unknown variant") {
        "unknown value"
    } else if message.starts_with("missing field") {
        return format!("key `{given}` is missing");
    } else {
        return message;
    };
    match near_miss(given, known.iter().copied()) {
        Some(near) => format!("{kind} `{given}`, did you mean `{near}`?"),
        None => format!("{kind} `{given}`; known here: {}", known.join(", ")),
    }
}
