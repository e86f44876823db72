//! From a list of packages to everything they need.
//!
//! There is no search: of each package the newest version that fits is taken, of
//! alternatives the first that can be had (one that is chosen already comes
//! before that). What is left unsatisfied, and what conflicts, is reported with
//! the chain of packages that wanted it. A dependency on an excluded package
//! counts as met: that is how packages are left out that only maintainer
//! scripts, which never run, have a use for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::index::{Entry, Index, Location};
use super::relation::{self, Relation};
use super::{ArchiveKind, Package, version};
use crate::error::{Error, Kind, Result, near_miss};

/// An index and the suite that it is of.
pub(crate) struct Suite {
    /// Name of the suite.
    pub name: String,
    /// The archive that it is in.
    pub archive: ArchiveKind,
    /// Its packages.
    pub index: Index,
}

/// A package that was chosen, and who asked for it first.
struct Chosen<'a> {
    entry: Entry<'a>,
    suite: &'a Suite,
    wanted_by: Option<&'a str>,
    needs: BTreeSet<&'a str>,
}

struct Closure<'a> {
    suites: &'a [Suite],
    architecture: &'a str,
    exclude: BTreeSet<&'a str>,
    chosen: BTreeMap<&'a str, Chosen<'a>>,
    todo: VecDeque<&'a str>,
    errors: Vec<String>,
}

/// The packages that `wanted` consist of, sorted by name.
///
/// # Errors
/// [`Kind::Input`] naming every package that can't be had and every conflict.
pub(crate) fn resolve(
    suites: &[Suite],
    architecture: &str,
    wanted: &[&str],
    exclude: &[&str],
) -> Result<Vec<Package>> {
    let mut closure = Closure {
        suites,
        architecture,
        exclude: exclude.iter().copied().collect(),
        chosen: BTreeMap::new(),
        todo: VecDeque::new(),
        errors: Vec::new(),
    };
    closure.want(wanted);
    while let Some(name) = closure.todo.pop_front() {
        closure.follow(name);
    }
    closure.check_conflicts();
    closure.finish(wanted)
}

impl<'a> Closure<'a> {
    /// All of the list first, so that its packages settle alternatives.
    fn want(&mut self, wanted: &[&str]) {
        for &name in wanted {
            if self.exclude.contains(name) {
                self.errors
                    .push(format!("package `{name}` is both listed and excluded"));
                continue;
            }
            let any = Relation {
                name,
                qualifier: None,
                constraint: None,
            };
            match self.best(&any) {
                Some((entry, suite)) => self.choose(entry, suite, None),
                None => self.errors.push(self.unknown(name)),
            }
        }
    }

    fn unknown(&self, name: &str) -> String {
        let suites: Vec<&str> = self.suites.iter().map(|s| s.name.as_str()).collect();
        let mut message = format!(
            "there is no package `{name}` for {} in {}",
            self.architecture,
            suites.join(", ")
        );
        let mut names: Vec<&str> = self.suites.iter().flat_map(|s| s.index.names()).collect();
        names.sort_unstable();
        names.dedup();
        // Only names of about the same length can be near.
        let near = names
            .into_iter()
            .filter(|n| n.len().abs_diff(name.len()) <= 3);
        if let Some(near) = near_miss(name, near) {
            message.push_str(&format!(", did you mean `{near}`?"));
        }
        message
    }

    fn choose(&mut self, entry: Entry<'a>, suite: &'a Suite, wanted_by: Option<&'a str>) {
        let name = entry.name();
        if !self.chosen.contains_key(name) {
            self.todo.push_back(name);
            self.chosen.insert(
                name,
                Chosen {
                    entry,
                    suite,
                    wanted_by,
                    needs: BTreeSet::new(),
                },
            );
        }
    }

    /// Chooses what a chosen package needs.
    fn follow(&mut self, name: &'a str) {
        let Some(chosen) = self.chosen.get(name) else {
            return;
        };
        let entry = chosen.entry;
        for field in ["Pre-Depends", "Depends"] {
            let groups = match relation::parse(entry.field(field).unwrap_or_default()) {
                Ok(groups) => groups,
                Err(e) => {
                    self.errors.push(format!("{}: {e}", self.chain(name)));
                    continue;
                }
            };
            for group in groups {
                if let Some(met_by) = self.meet(&group, name)
                    && let Some(chosen) = self.chosen.get_mut(name)
                {
                    chosen.needs.insert(met_by);
                }
            }
        }
    }

    /// Meets one dependency; gives the package that does.
    fn meet(&mut self, group: &[Relation<'a>], by: &'a str) -> Option<&'a str> {
        if let Some(there) = group.iter().find_map(|r| self.already(r)) {
            return Some(there);
        }
        if group.iter().any(|r| self.exclude.contains(r.name)) {
            return None;
        }
        if let Some((entry, suite)) = group.iter().find_map(|r| self.best(r)) {
            self.choose(entry, suite, Some(by));
            return Some(entry.name());
        }
        let text: Vec<String> = group.iter().map(ToString::to_string).collect();
        let mut message = format!("`{}` can't be had; {}", text.join(" | "), self.chain(by));
        let there = group
            .iter()
            .find_map(|r| Some(format!("{} {}", r.name, self.newest(r.name)?.0.version())));
        if let Some(there) = there {
            message.push_str(&format!(" (there is {there})"));
        }
        self.errors.push(message);
        None
    }

    /// A chosen package that meets the relation.
    fn already(&self, relation: &Relation<'_>) -> Option<&'a str> {
        if !relation.means(self.architecture) {
            return None;
        }
        let by_name = self
            .chosen
            .get_key_value(relation.name)
            .filter(|(_, c)| relation.admits(c.entry.version()))
            .map(|(name, _)| *name);
        by_name.or_else(|| {
            self.chosen
                .iter()
                .find(|(_, c)| provides(&c.entry, relation))
                .map(|(name, _)| *name)
        })
    }

    /// The newest version that meets the relation: of the package of this name,
    /// else of one that provides it (the first by name).
    fn best(&self, relation: &Relation<'_>) -> Option<(Entry<'a>, &'a Suite)> {
        if !relation.means(self.architecture) {
            return None;
        }
        let real = self
            .suites
            .iter()
            .flat_map(|s| s.index.named(relation.name).map(move |e| (e, s)))
            .filter(|(e, _)| relation.admits(e.version()));
        newest(real).or_else(|| {
            let providers: Vec<(Entry<'a>, &'a Suite)> = self
                .suites
                .iter()
                .flat_map(|s| s.index.providing(relation.name).map(move |e| (e, s)))
                .filter(|(e, _)| {
                    provides(e, relation)
                        && !self.exclude.contains(e.name())
                        && !self.chosen.contains_key(e.name())
                })
                .collect();
            let first = providers.iter().map(|(e, _)| e.name()).min()?;
            newest(providers.into_iter().filter(|(e, _)| e.name() == first))
        })
    }

    fn newest(&self, name: &str) -> Option<(Entry<'a>, &'a Suite)> {
        newest(
            self.suites
                .iter()
                .flat_map(|s| s.index.named(name).map(move |e| (e, s))),
        )
    }

    /// `libfoo needed by bar needed by the list`.
    fn chain(&self, name: &'a str) -> String {
        let mut text = format!("needed by {name}");
        let mut at = self.chosen.get(name).and_then(|c| c.wanted_by);
        while let Some(name) = at {
            text.push_str(&format!(", needed by {name}"));
            at = self.chosen.get(name).and_then(|c| c.wanted_by);
        }
        text.push_str(", which is listed");
        text
    }

    fn check_conflicts(&mut self) {
        let mut found = Vec::new();
        for (&name, chosen) in &self.chosen {
            for field in ["Conflicts", "Breaks"] {
                let groups = relation::parse(chosen.entry.field(field).unwrap_or_default())
                    .unwrap_or_default();
                for relation in groups.iter().flatten() {
                    let hit = self.chosen.iter().find(|(other, c)| {
                        **other != name
                            && relation.means(self.architecture)
                            && ((**other == relation.name && relation.admits(c.entry.version()))
                                || provides(&c.entry, relation))
                    });
                    if let Some((other, c)) = hit {
                        found.push(format!(
                            "{name} ({}) can't be together with {other} {} ({})",
                            self.chain(name),
                            c.entry.version(),
                            self.chain(other),
                        ));
                    }
                }
            }
        }
        self.errors.extend(found);
    }

    fn finish(self, wanted: &[&str]) -> Result<Vec<Package>> {
        let mut errors = self.errors;
        let mut packages = Vec::new();
        for (name, chosen) in &self.chosen {
            match package(chosen, wanted.contains(name)) {
                Ok(package) => packages.push(package),
                Err(e) => errors.push(format!("package {name} of {}: {e}", chosen.suite.name)),
            }
        }
        if errors.is_empty() {
            return Ok(packages);
        }
        Err(Error::new(Kind::Input, errors.join("\n")))
    }
}

fn newest<'a>(
    candidates: impl Iterator<Item = (Entry<'a>, &'a Suite)>,
) -> Option<(Entry<'a>, &'a Suite)> {
    // Of equal versions the first: suites are listed in order of preference.
    candidates.reduce(
        |a, b| match version::compare(b.0.version(), a.0.version()) {
            std::cmp::Ordering::Greater => b,
            _ => a,
        },
    )
}

/// Whether the entry's `Provides` meets the relation. What is provided without a
/// version meets only relations without one (Debian Policy, 7.5).
fn provides(entry: &Entry<'_>, relation: &Relation<'_>) -> bool {
    let field = entry.field("Provides").unwrap_or_default();
    if !field.contains(relation.name) {
        return false;
    }
    relation::parse(field)
        .unwrap_or_default()
        .iter()
        .flatten()
        .filter(|p| p.name == relation.name)
        .any(|p| match (relation.constraint, p.constraint) {
            (None, _) => true,
            (Some(_), Some((_, version))) => relation.admits(version),
            (Some(_), None) => false,
        })
}

fn package(chosen: &Chosen<'_>, listed: bool) -> Result<Package, String> {
    let entry = &chosen.entry;
    let location = Location::of(entry)?;
    let own = |field: &str| entry.field(field).map(str::to_owned);
    // `Source: name (version)`; absent when both are the package's own.
    let source = entry.field("Source").unwrap_or(entry.name());
    let (source, source_version) = match source.split_once(" (") {
        Some((name, version)) => (name, version.trim_end_matches(')')),
        None => (source, entry.version()),
    };
    Ok(Package {
        name: entry.name().to_owned(),
        version: entry.version().to_owned(),
        architecture: own("Architecture").unwrap_or_default(),
        source: source.to_owned(),
        source_version: source_version.to_owned(),
        section: own("Section").unwrap_or_default(),
        homepage: own("Homepage"),
        archive: chosen.suite.archive,
        suite: chosen.suite.name.clone(),
        path: location.path.to_owned(),
        size: location.size,
        sha256: location.sha256,
        listed,
        depends: chosen.needs.iter().map(|n| (*n).to_owned()).collect(),
    })
}

#[cfg(test)]
#[path = "closure_tests.rs"]
mod tests;
