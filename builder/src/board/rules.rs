//! Path rules: globs that mean a path and everything below it.
//!
//! `*` and `?` stay within one name, `**` crosses any number of them,
//! `{a,b}` and `[ab]` do as in a shell.

use std::fmt;

use globset::{GlobBuilder, GlobMatcher, GlobSet, GlobSetBuilder};
use serde::{Deserialize, Deserializer, Serialize};

/// A pattern that has been found to be one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl Pattern {
    /// # Errors
    /// Why it is no pattern, for a message that quotes it.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.starts_with('/') || text.ends_with('/') {
            return Err("a path rule neither begins nor ends with `/`".into());
        }
        compile(text).map_err(|e| e.kind().to_string())?;
        Ok(Self(text.to_owned()))
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it matches, ancestors not considered.
    ///
    /// # Errors
    /// None: the pattern was compiled once already.
    pub fn matcher(&self) -> Result<GlobMatcher, globset::Error> {
        Ok(compile(&self.0)?.compile_matcher())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::values::checked(deserializer, |text| {
            Self::new(text).map_err(|why| format!("`{text}`: {why}"))
        })
    }
}

fn compile(text: &str) -> Result<globset::Glob, globset::Error> {
    GlobBuilder::new(text).literal_separator(true).build()
}

/// Several patterns at once.
#[derive(Debug, Clone)]
pub(crate) struct Rules(GlobSet);

impl Rules {
    /// # Errors
    /// Only if the patterns together are too large for the matcher.
    pub fn new(patterns: &[Pattern]) -> Result<Self, globset::Error> {
        let mut set = GlobSetBuilder::new();
        for pattern in patterns {
            set.add(compile(&pattern.0)?);
        }
        Ok(Self(set.build()?))
    }

    /// Whether a pattern matches the path or a directory above it.
    pub fn cover(&self, path: &str) -> bool {
        let path = path.trim_matches('/');
        let parents = path.match_indices('/').filter_map(|(at, _)| path.get(..at));
        parents.chain([path]).any(|p| self.0.is_match(p))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(patterns: &[&str]) -> Rules {
        let patterns: Vec<Pattern> = patterns.iter().map(|p| Pattern::new(p).unwrap()).collect();
        Rules::new(&patterns).unwrap()
    }

    #[test]
    fn a_rule_means_what_is_below_too() {
        let rules = rules(&[
            "usr/share/doc",
            "usr/share/locale/*",
            "**/__pycache__",
            "a/{b,c}",
        ]);
        for covered in [
            "usr/share/doc",
            "usr/share/doc/x/y",
            "/usr/share/locale/de/LC_MESSAGES",
            "usr/lib/x/__pycache__/y.pyc",
            "a/c/d",
        ] {
            assert!(rules.cover(covered), "{covered}");
        }
        for free in ["usr/share", "usr/share/docs", "usr/share/locale", "a/d", ""] {
            assert!(!rules.cover(free), "{free}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_said() {
        for bad in ["", "/usr", "usr/", "a/[b", "a/{b"] {
            assert!(Pattern::new(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_pattern_or_not(text in "\\PC*", path in "\\PC*") {
            if let Ok(pattern) = Pattern::new(&text) {
                Rules::new(&[pattern]).unwrap().cover(&path);
            }
        }
    }
}
