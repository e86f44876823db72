//! "Did you mean": the known word that a given one was most likely meant to be.

/// The entry of `known` that differs least from `given`: at most a third of its letters wrong.
pub fn near_miss<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let letters = given.chars().count();
    if letters > 64 {
        return None;
    }
    known
        .into_iter()
        .map(|k| (distance(given, k), k))
        .filter(|(d, k)| *d <= (letters.max(k.chars().count()) / 3).max(1))
        .min()
        .map(|(_, k)| k)
}

/// Damerau-Levenshtein distance in its optimal-string-alignment form: insertions,
/// deletions, substitutions and swaps of neighbours. Case and `-` against `_` don't count.
fn distance(a: &str, b: &str) -> usize {
    let letters = |text: &str| -> Vec<char> {
        let plain = |c: char| {
            if c == '_' {
                '-'
            } else {
                c.to_ascii_lowercase()
            }
        };
        text.chars().map(plain).collect()
    };
    let (a, b) = (letters(a), letters(b));
    // Rows i-2, i-1 and i of the table.
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
            let mut least = (cell(&above, j) + usize::from(x != y))
                .min(cell(&above, j + 1) + 1)
                .min(cell(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                least = least.min(cell(&before, j - 1) + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut above, row);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_near() {
        let known = ["kernel", "packages", "exclude", "pod-cidr"];
        assert_eq!(near_miss("kernal", known), Some("kernel"));
        assert_eq!(near_miss("pakcages", known), Some("packages"));
        assert_eq!(near_miss("pod_cidr", known), Some("pod-cidr"));
        assert_eq!(near_miss("zebra", known), None);
        assert_eq!(near_miss("", known), None);
        assert_eq!(distance("abcd", "acbd"), 1);
        assert_eq!(distance("", "abc"), 3);
    }
}
