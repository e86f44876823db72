//! Leaves out what the board doesn't want, and says what that saved.

use globset::{GlobBuilder, GlobMatcher};

use crate::error::{Error, Kind, Result};
use crate::tree::{Node, NodeKind, Tree};

/// What one rule took out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The rule as written.
    pub rule: String,
    /// Entries.
    pub entries: usize,
    /// Bytes of files.
    pub bytes: u64,
}

impl Dropped {
    /// A line for the manifest.
    pub fn line(&self) -> String {
        format!(
            "left out by `{}`: {} entries, {} bytes",
            self.rule, self.entries, self.bytes
        )
    }
}

/// Takes out every path that a glob of `exclude` matches, itself or by a directory above
/// it, unless one of `keep` does so. Globs have no leading slash; `*` stops at slashes,
/// `**` doesn't. Gives the rules in their order, those that met nothing included: they
/// may be mistakes.
///
/// # Errors
/// [`Kind::Input`] for a glob that is none.
pub fn prune<E: AsRef<str>, K: AsRef<str>>(
    tree: &mut Tree,
    exclude: &[E],
    keep: &[K],
) -> Result<Vec<Dropped>> {
    let exclude = exclude
        .iter()
        .map(|e| Ok((matcher(e.as_ref())?, e.as_ref())))
        .collect::<Result<Vec<_>>>()?;
    let keep = keep
        .iter()
        .map(|k| matcher(k.as_ref()))
        .collect::<Result<Vec<_>>>()?;
    let mut dropped: Vec<Dropped> = exclude
        .iter()
        .map(|(_, rule)| Dropped {
            rule: (*rule).to_owned(),
            entries: 0,
            bytes: 0,
        })
        .collect();
    // Directories on the way to what is kept must stay.
    let mut needed: Vec<String> = Vec::new();
    for (path, node) in tree.iter() {
        let kept = keep.iter().any(|k| covers(k, path));
        if kept && !matches!(node.kind, NodeKind::Directory) {
            needed.push(path.to_owned());
        }
    }
    let on_the_way = |path: &str| {
        let prefix = format!("{path}/");
        let i = needed.partition_point(|n| n.as_str() < prefix.as_str());
        needed.get(i).is_some_and(|n| n.starts_with(&prefix))
    };
    tree.retain(|path, node: &Node| {
        let Some(i) = exclude.iter().position(|(e, _)| covers(e, path)) else {
            return true;
        };
        let kept = match node.kind {
            NodeKind::Directory => on_the_way(path),
            _ => keep.iter().any(|k| covers(k, path)),
        };
        if !kept {
            dropped[i].entries += 1;
            if let NodeKind::File(content) = &node.kind {
                dropped[i].bytes += content.len();
            }
        }
        kept
    });
    Ok(dropped)
}

fn matcher(glob: &str) -> Result<GlobMatcher> {
    GlobBuilder::new(glob)
        .literal_separator(true)
        .build()
        .map(|g| g.compile_matcher())
        .map_err(|e| Error::new(Kind::Input, format!("`{glob}`: {}", e.kind())))
}

/// Whether the glob matches the path or a directory above it.
fn covers(glob: &GlobMatcher, path: &str) -> bool {
    let above = path.match_indices('/').map(|(at, _)| &path[..at]);
    above.chain([path]).any(|p| glob.is_match(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_mean_what_is_below_and_exceptions_keep_their_directories() {
        let mut tree = Tree::new();
        tree.file("usr/share/doc/a/copyright", 0o644, "free")
            .unwrap();
        tree.file("usr/share/doc/a/README", 0o644, "read me")
            .unwrap();
        tree.file("usr/share/doc/b/README", 0o644, "read").unwrap();
        tree.file("usr/share/man/man1/x.1", 0o644, "x").unwrap();
        tree.file("usr/bin/x", 0o755, "x").unwrap();
        let dropped = prune(
            &mut tree,
            &["usr/share/doc", "usr/share/man/**", "usr/share/info"],
            &["usr/share/doc/*/copyright"],
        )
        .unwrap();
        let paths: Vec<&str> = tree.iter().map(|(p, _)| p).collect();
        assert_eq!(
            paths,
            [
                "usr",
                "usr/bin",
                "usr/bin/x",
                "usr/share",
                "usr/share/doc",
                "usr/share/doc/a",
                "usr/share/doc/a/copyright",
                "usr/share/man",
            ]
        );
        assert_eq!((dropped[0].entries, dropped[0].bytes), (3, 11));
        assert_eq!((dropped[1].entries, dropped[1].bytes), (2, 1));
        assert_eq!(dropped[2].entries, 0);
        assert!(prune(&mut tree, &["a/[b"], &[] as &[&str]).is_err());
    }
}
