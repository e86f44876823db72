//! What has to be done before a datastore is used, as a pure function.
//!
//! | datastore | written last by | snapshots | then |
//! |---|---|---|---|
//! | none | | | begin |
//! | there | nobody knows | | go on |
//! | there | our minor | | go on |
//! | there | an older minor | | snapshot it, and go on |
//! | there | a newer minor | one that is not newer than ours | restore the last of them |
//! | there | a newer minor | none | refuse |
//!
//! Nobody knows it of a datastore from before there was a record; then it is taken for ours.

use super::snapshots::Snapshot;
use super::version::Minor;

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Use it.
    GoOn,
    /// Snapshot it first: the version that wrote it couldn't read what we make of it.
    Snapshot,
    /// Restore the first of these that is whole.
    Restore(Vec<&'a Snapshot>),
    /// Nothing that this version could read.
    Refuse,
}

/// Decides about a datastore that the minor `last` wrote last.
pub fn decide(ours: Minor, last: Minor, snapshots: &[Snapshot]) -> Step<'_> {
    if last == ours {
        return Step::GoOn;
    }
    if last < ours {
        return Step::Snapshot;
    }
    let readable = |snapshot: &&Snapshot| snapshot.writer.kubernetes.minor() <= ours;
    let mut readable: Vec<&Snapshot> = snapshots.iter().filter(readable).collect();
    // By number: clocks may have been wrong.
    readable.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.number));
    match readable.is_empty() {
        true => Step::Refuse,
        false => Step::Restore(readable),
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshots::tests::snapshot;
    use super::*;

    const OLD: Minor = Minor(1, 36);
    const NEW: Minor = Minor(1, 37);

    #[test]
    fn the_table() {
        assert_eq!(decide(OLD, OLD, &[]), Step::GoOn);
        assert_eq!(decide(NEW, OLD, &[]), Step::Snapshot);
        assert_eq!(decide(OLD, NEW, &[]), Step::Refuse);
        let newer = [snapshot(1, "v1.37.0")];
        assert_eq!(decide(OLD, NEW, &newer), Step::Refuse);
    }

    #[test]
    fn the_last_that_is_not_newer_is_restored() {
        let all = [
            snapshot(2, "v1.35.9"),
            snapshot(5, "v1.37.1"),
            snapshot(4, "v1.36.1"),
            snapshot(3, "v1.36.2"),
        ];
        let chosen = |ours| match decide(ours, Minor(1, 38), &all) {
            Step::Restore(found) => found.iter().map(|s| s.number).collect(),
            _ => Vec::new(),
        };
        assert_eq!(chosen(OLD), [4, 3, 2]);
        assert_eq!(chosen(NEW), [5, 4, 3, 2]);
        assert_eq!(chosen(Minor(1, 35)), [2]);
        assert_eq!(chosen(Minor(1, 34)), [0; 0]);
    }
}
