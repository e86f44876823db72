//! What the programs are made of: our own source directories and the locked crates, so
//! that a cache key covers these and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Job;
use crate::error::{At as _, Error, Kind, Result};

/// What we need of a Cargo.toml.
#[derive(Deserialize)]
struct Manifest {
    package: Option<Package>,
    #[serde(default)]
    workspace: Members,
    #[serde(default)]
    dependencies: BTreeMap<String, toml::Value>,
    #[serde(default, rename = "build-dependencies")]
    build_dependencies: BTreeMap<String, toml::Value>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
}

#[derive(Deserialize, Default)]
struct Members {
    #[serde(default)]
    members: Vec<String>,
}

/// What we need of a Cargo.lock.
#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize, serde::Serialize)]
pub(super) struct Locked {
    name: String,
    version: String,
    pub(super) checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).at("reading", path)?;
    toml::from_str(&text)
        .map_err(|e| Error::new(Kind::Input, format!("{}: {}", path.display(), e.message())))
}

impl Job<'_> {
    /// The directories of the packages' own sources below the workspace, with
    /// those of the packages they depend on by path.
    pub(super) fn source_dirs(&self) -> Result<BTreeSet<PathBuf>> {
        let root: Manifest = read(&self.workspace.join("Cargo.toml"))?;
        let mut todo = Vec::new();
        for member in root
            .workspace
            .members
            .iter()
            .map(String::as_str)
            .chain(["."])
        {
            let dir = self.workspace.join(member);
            let manifest: Manifest = match dir.join("Cargo.toml") {
                // A member that another part of the tree is only beginning with.
                path if !path.exists() => continue,
                path => read(&path)?,
            };
            if let Some(package) = manifest.package
                && self.programs.iter().any(|(p, _)| *p == package.name)
            {
                todo.push(dir);
            }
        }
        if todo.len() != self.programs.len() {
            let names: Vec<_> = self.programs.iter().map(|(p, _)| *p).collect();
            return Err(Error::new(
                Kind::Input,
                format!(
                    "the workspace at {} lacks one of the packages {}",
                    self.workspace.display(),
                    names.join(", ")
                ),
            ));
        }
        let mut dirs = BTreeSet::new();
        while let Some(dir) = todo.pop() {
            let dir = dir.canonicalize().at("resolving", &dir)?;
            if !dirs.insert(dir.clone()) {
                continue;
            }
            let manifest: Manifest = read(&dir.join("Cargo.toml"))?;
            let all = manifest
                .dependencies
                .values()
                .chain(manifest.build_dependencies.values());
            todo.extend(
                all.filter_map(|d| d.get("path")?.as_str())
                    .map(|path| dir.join(path)),
            );
        }
        Ok(dirs)
    }

    /// The locked packages that the programs can come to use, whatever the
    /// features: so a change of the builder's own dependencies doesn't count.
    pub(super) fn locked(&self) -> Result<BTreeMap<(String, String), Locked>> {
        let lock: Lock = read(&self.workspace.join("Cargo.lock"))?;
        let mut todo: Vec<String> = self.programs.iter().map(|(p, _)| (*p).to_owned()).collect();
        let mut by_name: BTreeMap<String, Vec<Locked>> = BTreeMap::new();
        for package in lock.package {
            by_name
                .entry(package.name.clone())
                .or_default()
                .push(package);
        }
        let mut used = BTreeMap::new();
        while let Some(wanted) = todo.pop() {
            // `name`, or `name version` where there are several.
            let mut words = wanted.split(' ');
            let name = words.next().unwrap_or_default();
            let version = words.next();
            let Some(several) = by_name.get_mut(name) else {
                continue;
            };
            let Some(i) = several
                .iter()
                .position(|p| version.is_none_or(|v| v == p.version))
            else {
                continue;
            };
            let package = several.swap_remove(i);
            todo.extend(package.dependencies.iter().cloned());
            used.insert((package.name.clone(), package.version.clone()), package);
        }
        Ok(used)
    }

    /// Makes sure that the key covers every source of ours that cargo names in
    /// its dependency file (`PROGRAM: FILE FILE ...`, spaces as `\ `).
    pub(super) fn check_sources(&self, dep_info: &Path) -> Result<()> {
        let text = std::fs::read_to_string(dep_info).at("reading", dep_info)?;
        let dirs = self.source_dirs()?;
        let root = self
            .workspace
            .canonicalize()
            .at("resolving", self.workspace)?;
        let target = self
            .target_dir
            .canonicalize()
            .at("resolving", &self.target_dir)?;
        for file in text.replace("\\ ", "\0").split_whitespace() {
            let file = PathBuf::from(file.trim_end_matches(':').replace('\0', " "));
            let Ok(file) = file.canonicalize() else {
                continue;
            };
            let covered = dirs.iter().any(|d| {
                file.starts_with(d.join("src"))
                    || file == d.join("build.rs")
                    || file == d.join("Cargo.toml")
            });
            if file.starts_with(&root) && !file.starts_with(&target) && !covered {
                return Err(Error::new(
                    Kind::Bug,
                    format!(
                        "{} goes into a program, and the cache's key doesn't cover it",
                        file.display()
                    ),
                )
                .hint("keep what a crate includes below its src directory"));
            }
        }
        Ok(())
    }
}
