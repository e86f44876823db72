//! Debian version numbers and their order (Debian Policy, 5.6.12; deb-version(7)).
//!
//! `[epoch:]upstream[-revision]`. Each part is compared piece by piece: a run of
//! non-digits (letters before everything else, `~` before even the end), then a
//! run of digits by value.

use std::cmp::Ordering;

/// The order in which `dpkg` installs one version over another.
pub fn compare(a: &str, b: &str) -> Ordering {
    let ((a_epoch, a_upstream, a_revision), (b_epoch, b_upstream, b_revision)) =
        (split(a), split(b));
    by_value(a_epoch.as_bytes(), b_epoch.as_bytes())
        .then_with(|| part(a_upstream.as_bytes(), b_upstream.as_bytes()))
        .then_with(|| part(a_revision.as_bytes(), b_revision.as_bytes()))
}

/// Whether this can be a version at all: no blanks, no path separators, and it
/// begins with a digit or letter. The archive guarantees more than this.
pub fn is_valid(version: &str) -> bool {
    version.starts_with(|c: char| c.is_ascii_alphanumeric())
        && version
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b".+-~:_".contains(&b))
}

fn split(version: &str) -> (&str, &str, &str) {
    let (epoch, rest) = version.split_once(':').unwrap_or(("0", version));
    let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
    (epoch, upstream, revision)
}

/// `verrevcmp` of dpkg.
fn part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        loop {
            let (left, right) = (a.first().copied(), b.first().copied());
            let more = |c: Option<u8>| c.is_some_and(|c| !c.is_ascii_digit());
            if !more(left) && !more(right) {
                break;
            }
            match weight(left).cmp(&weight(right)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
        let (a_digits, a_rest) = digits(a);
        let (b_digits, b_rest) = digits(b);
        match by_value(a_digits, b_digits) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
        (a, b) = (a_rest, b_rest);
    }
    Ordering::Equal
}

/// Where a character sorts; the end of the text and digits count as 0.
fn weight(c: Option<u8>) -> i32 {
    match c {
        None => 0,
        Some(b'~') => -1,
        Some(c) if c.is_ascii_digit() => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(c),
        Some(c) => i32::from(c) + 256,
    }
}

fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text
        .iter()
        .position(|c| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Numbers of any length by value.
fn by_value(a: &[u8], b: &[u8]) -> Ordering {
    let strip = |n: &[u8]| n.iter().position(|&c| c != b'0').unwrap_or(n.len());
    let (a, b) = (&a[strip(a)..], &b[strip(b)..]);
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_order_of_the_manual() {
        let sorted = ["~~", "~~a", "~", "1", "1a", "1.0", "1.0-1", "1.0+b1", "1:0"];
        let rising = [
            ("1.0~rc1", "1.0"),
            ("1.0", "1.0+b1"),
            ("1.0", "1.0a"),
            ("1.9", "1.10"),
            ("2", "1:1"),
            ("1.0-1", "1.0-1.1"),
            ("1.0-1~bpo1", "1.0-1"),
            ("6.12.57-1", "6.12.74-2"),
        ];
        for (a, b) in rising {
            assert_eq!(compare(a, b), Ordering::Less, "{a} < {b}");
            assert_eq!(compare(b, a), Ordering::Greater, "{b} > {a}");
        }
        assert_eq!(compare("1.0", "0:1.0-0"), Ordering::Equal);
        assert_eq!(compare("007", "7"), Ordering::Equal);
        assert!(sorted.iter().all(|v| compare(v, v) == Ordering::Equal));
    }

    proptest! {
        #[test]
        fn any_text_has_an_order(a in "\\PC*", b in "\\PC*") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
        }

        #[test]
        fn the_order_is_transitive(
            a in "[0-9]{0,3}[a-z~.+:-]{0,3}[0-9]{0,3}",
            b in "[0-9]{0,3}[a-z~.+:-]{0,3}[0-9]{0,3}",
            c in "[0-9]{0,3}[a-z~.+:-]{0,3}[0-9]{0,3}",
        ) {
            if compare(&a, &b) != Ordering::Greater && compare(&b, &c) != Ordering::Greater {
                prop_assert_ne!(compare(&a, &c), Ordering::Greater);
            }
        }
    }
}
