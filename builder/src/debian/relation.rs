//! Dependency fields (Debian Policy, 7.1): `a (>= 1) | b, c:any`.

use std::cmp::Ordering;
use std::fmt;

use super::version;

/// How a version must relate to the one that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    /// `<<`
    Less,
    /// `<=`, and the old `<`
    LessEqual,
    /// `=`
    Equal,
    /// `>=`, and the old `>`
    GreaterEqual,
    /// `>>`
    Greater,
}

/// One package named by a dependency field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Relation<'a> {
    /// Package or virtual package.
    pub name: &'a str,
    /// `any`, `native` or an architecture, after a colon.
    pub qualifier: Option<&'a str>,
    /// Which versions will do; all if absent.
    pub constraint: Option<(Operator, &'a str)>,
}

impl Relation<'_> {
    /// Whether this version will do.
    pub fn admits(&self, candidate: &str) -> bool {
        let Some((operator, asked)) = self.constraint else {
            return true;
        };
        let order = version::compare(candidate, asked);
        match operator {
            Operator::Less => order == Ordering::Less,
            Operator::LessEqual => order != Ordering::Greater,
            Operator::Equal => order == Ordering::Equal,
            Operator::GreaterEqual => order != Ordering::Less,
            Operator::Greater => order == Ordering::Greater,
        }
    }

    /// Whether a package of the image's architecture (or of `all`) can be meant.
    pub fn means(&self, architecture: &str) -> bool {
        match self.qualifier {
            None | Some("any" | "native") => true,
            Some(other) => other == architecture,
        }
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if let Some(qualifier) = self.qualifier {
            write!(f, ":{qualifier}")?;
        }
        if let Some((operator, version)) = self.constraint {
            let operator = match operator {
                Operator::Less => "<<",
                Operator::LessEqual => "<=",
                Operator::Equal => "=",
                Operator::GreaterEqual => ">=",
                Operator::Greater => ">>",
            };
            write!(f, " ({operator} {version})")?;
        }
        Ok(())
    }
}

/// A whole field: all groups must hold, one alternative of each is enough.
///
/// # Errors
/// The text that isn't a relation.
pub(crate) fn parse(field: &str) -> Result<Vec<Vec<Relation<'_>>>, String> {
    field
        .split(',')
        .map(str::trim)
        .filter(|group| !group.is_empty())
        .map(|group| group.split('|').map(|one| relation(one.trim())).collect())
        .collect()
}

fn relation(text: &str) -> Result<Relation<'_>, String> {
    let bad = || format!("`{text}` is not a dependency");
    let end = text
        .find(|c: char| c.is_whitespace() || "([<".contains(c))
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let (name, qualifier) = match name.split_once(':') {
        Some((name, qualifier)) => (name, Some(qualifier)),
        None => (name, None),
    };
    if !is_package_name(name) || qualifier == Some("") {
        return Err(bad());
    }
    let rest = rest.trim();
    let constraint = match rest.strip_prefix('(') {
        // Architecture and profile restrictions occur in source packages only.
        None if rest.is_empty() || rest.starts_with(['[', '<']) => None,
        None => return Err(bad()),
        Some(inner) => Some(constraint(inner.split_once(')').ok_or_else(bad)?.0).ok_or_else(bad)?),
    };
    Ok(Relation {
        name,
        qualifier,
        constraint,
    })
}

fn constraint(text: &str) -> Option<(Operator, &str)> {
    let text = text.trim();
    let end = text.find(|c| !"<=>".contains(c))?;
    let (operator, asked) = text.split_at(end);
    let operator = match operator {
        "<<" => Operator::Less,
        "<=" | "<" => Operator::LessEqual,
        "=" => Operator::Equal,
        ">=" | ">" => Operator::GreaterEqual,
        ">>" => Operator::Greater,
        _ => return None,
    };
    let asked = asked.trim();
    version::is_valid(asked).then_some((operator, asked))
}

/// Debian Policy, 5.6.1.
pub(crate) fn is_package_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| {
            b.is_ascii_lowercase()
                || b.is_ascii_digit()
                || b"+-.".contains(&b)
                || b.is_ascii_uppercase()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_that_occurs() {
        let groups = parse("libc6 (>= 2.38), d=1").unwrap_err();
        assert!(groups.contains("d=1"), "{groups}");
        let groups =
            parse("libc6 (>= 2.38), perl:any, a (<<2) | b (= 1:2-3),c ( >> 1~ ) ,").unwrap();
        assert_eq!(groups.len(), 4);
        assert_eq!(
            groups[0][0].constraint,
            Some((Operator::GreaterEqual, "2.38"))
        );
        assert_eq!(groups[1][0].qualifier, Some("any"));
        assert_eq!(groups[2][1].to_string(), "b (= 1:2-3)");
        assert!(groups[2][0].admits("2~rc1") && !groups[2][0].admits("2"));
        assert!(groups[3][0].admits("1") && !groups[3][0].admits("1~"));
    }

    #[test]
    fn nonsense_is_named() {
        for bad in [
            "a (1)", "a (>= 1", "a b", "(>= 1)", "a:", "a (>= )", "../x", "é",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_field_is_read_or_refused(field in "\\PC*") {
            parse(&field).map(|_| ()).unwrap_or(());
        }

        #[test]
        fn what_is_shown_reads_back(name in "[a-z0-9][a-z0-9+.-]{0,8}", version in "[0-9][a-z0-9.+~-]{0,6}") {
            let text = format!("{name} (>= {version})");
            let parsed = parse(&text).unwrap();
            prop_assert_eq!(parsed[0][0].to_string(), text);
        }
    }
}
