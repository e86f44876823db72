//! The version of each program and the crates in it, as `cargo metadata` resolves them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;

use super::{Job, Linking, Toolchain, clean};
use crate::components::{Module, child};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// What we need of `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
    resolve: MetadataResolve,
}

#[derive(Deserialize)]
struct MetadataPackage {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct MetadataResolve {
    nodes: Vec<MetadataNode>,
}

#[derive(Deserialize)]
struct MetadataNode {
    id: String,
    deps: Vec<MetadataDependency>,
}

#[derive(Deserialize)]
struct MetadataDependency {
    pkg: String,
    dep_kinds: Vec<MetadataKind>,
}

#[derive(Deserialize)]
struct MetadataKind {
    kind: Option<String>,
}

impl Job<'_> {
    /// Version and crates of each package's program, as resolved for the target
    /// with its features; build-time and test-only crates aren't in the program.
    pub(super) fn modules(
        &self,
        rust: &Toolchain,
        target: &str,
        progress: &Progress,
    ) -> Result<BTreeMap<String, (String, Vec<Module>)>> {
        let mut command = clean(Command::new("cargo"));
        command.current_dir(self.workspace).args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--filter-platform",
            target,
        ]);
        let text = child::run(command, progress, |_| true)?.concat();
        let metadata: Metadata = serde_json::from_str(&text)
            .map_err(|e| Error::new(Kind::Tool, format!("`cargo metadata` said: {e}")))?;
        let locked = self.locked()?;
        let packages: BTreeMap<&str, &MetadataPackage> = metadata
            .packages
            .iter()
            .map(|p| (p.id.as_str(), p))
            .collect();
        let nodes: BTreeMap<&str, &MetadataNode> = metadata
            .resolve
            .nodes
            .iter()
            .map(|n| (n.id.as_str(), n))
            .collect();
        let mut all = BTreeMap::new();
        for (name, _) in self.programs {
            let Some(own) = metadata
                .packages
                .iter()
                .find(|p| p.name == *name && p.source.is_none())
            else {
                continue;
            };
            let (mut todo, mut seen) = (vec![own.id.as_str()], BTreeSet::new());
            while let Some(id) = todo.pop() {
                if seen.insert(id) {
                    todo.extend(
                        nodes
                            .get(id)
                            .into_iter()
                            .flat_map(|n| &n.deps)
                            .filter_map(|d| {
                                let normal = d.dep_kinds.iter().any(|k| k.kind.is_none());
                                normal.then_some(d.pkg.as_str())
                            }),
                    );
                }
            }
            let mut modules: Vec<Module> = seen
                .iter()
                .filter_map(|id| packages.get(id))
                .filter(|p| p.source.is_some())
                .map(|p| Module {
                    name: p.name.clone(),
                    version: p.version.clone(),
                    checksum: locked
                        .get(&(p.name.clone(), p.version.clone()))
                        .and_then(|l| l.checksum.clone())
                        .map(|sum| format!("sha256:{sum}")),
                    license: p.license.clone(),
                })
                .collect();
            if self.linking == Linking::Static {
                modules.push(Module {
                    name: "std".into(),
                    version: rust.release.clone(),
                    checksum: None,
                    license: Some("MIT OR Apache-2.0".into()),
                });
            }
            modules.sort();
            all.insert((*name).to_owned(), (own.version.clone(), modules));
        }
        Ok(all)
    }
}
