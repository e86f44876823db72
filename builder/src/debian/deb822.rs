//! Debian control data (deb822(5)): paragraphs of `Field: value` lines, where a
//! line that begins with a blank continues the field before it.
//!
//! Borrowing and lenient in what it passes over, strict in what it hands out: a
//! line without a colon is an error.

/// The paragraphs of a text.
pub(crate) fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            if rest.is_empty() {
                return None;
            }
            let (paragraph, after) = rest.split_once("\n\n").unwrap_or((rest, ""));
            rest = after;
            let paragraph = paragraph.trim_matches('\n');
            if !paragraph.is_empty() {
                return Some(paragraph);
            }
        }
    })
}

/// The fields of a paragraph in order: name, value with its continuation lines
/// (which keep their leading blank). Comment lines are passed over.
pub(crate) fn fields(paragraph: &str) -> impl Iterator<Item = Result<(&str, &str), String>> {
    let mut rest = paragraph;
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let mut end = rest.find('\n').unwrap_or(rest.len());
            let first = &rest[..end];
            while let Some(next) = rest.get(end + 1..)
                && next.starts_with([' ', '\t'])
            {
                end = end + 1 + next.find('\n').unwrap_or(next.len());
            }
            let field = &rest[..end];
            rest = rest.get(end + 1..).unwrap_or_default();
            if first.is_empty() || first.starts_with('#') {
                continue;
            }
            return Some(match field.split_once(':') {
                Some((name, value)) if is_field_name(name) => Ok((name, value.trim())),
                _ => Err(format!("`{}` is not a `Field: value` line", shorten(first))),
            });
        }
        None
    })
}

/// The value of one field. Names are compared without regard to case.
pub(crate) fn field<'a>(paragraph: &'a str, name: &str) -> Option<&'a str> {
    fields(paragraph)
        .filter_map(Result::ok)
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v)
}

fn is_field_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('-') && name.bytes().all(|b| (b'!'..=b'~').contains(&b))
}

/// The beginning of a text, fit for an error message.
pub(crate) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short.escape_debug().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paragraphs_and_continued_fields() {
        let text = "\nA: 1\nB:\n two\n three\n# no\nC:3\n\n\n\nA: 2\n";
        let all: Vec<_> = paragraphs(text).collect();
        assert_eq!(all.len(), 2);
        let fields: Vec<_> = fields(all[0]).collect::<Result<_, _>>().unwrap();
        assert_eq!(fields, [("A", "1"), ("B", "two\n three"), ("C", "3")]);
        assert_eq!(field(all[1], "a"), Some("2"));
    }

    #[test]
    fn a_line_without_a_colon_is_named() {
        assert!(
            fields("A: 1\nnonsense")
                .last()
                .unwrap()
                .unwrap_err()
                .contains("nonsense")
        );
        assert!(fields(" begins with a blank: x").next().unwrap().is_err());
    }

    proptest! {
        #[test]
        fn any_text_comes_apart(text in "(?s).*") {
            for p in paragraphs(&text) {
                prop_assert!(fields(p).count() <= p.len());
            }
        }

        #[test]
        fn lines_come_apart(text in "([A-Z]{0,2}:? ?[a-z]{0,3}\n){0,12}") {
            for p in paragraphs(&text) {
                prop_assert!(fields(p).count() <= p.len());
            }
        }
    }
}
