//! What Slipway itself brings into an image: the Go programs of
//! `distro/components`, the Rust programs of a node, and the add-ons of
//! `distro/addons` with their container images. All are static programs for the
//! target, built from locked sources and cached by the digest of what they are
//! made of, so that a warm build costs milliseconds.

mod addon;
mod arch;
mod child;
mod elf;
mod golang;
mod recipe;
mod rust;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use addon::{Addon, ImageArchive};
pub(crate) use arch::oci_variant;

use crate::board::Architecture;

use crate::error::{Error, Kind, Result};
use crate::inventory::{Origin, Part};
use crate::progress::Progress;
use crate::source::Source;
use store::Store;

/// The packages of the node's Rust programs, with the programs' names.
const NODE: [(&str, &str); 3] = [
    ("slipway-init", "init"),
    ("slipway-noded", "noded"),
    ("clusterd", "clusterd"),
];

/// Where the Go programs of a node are, with `components.toml`.
const COMPONENTS: &str = "distro/components";

/// What a program is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Go: its modules have `h1:` sums.
    Go,
    /// Rust: its crates have SHA-256 sums and licences.
    Rust,
}

/// A module or crate that is linked into a program.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Module {
    /// Module path or crate name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The registry's checksum: `h1:…` of a module, `sha256:…` of a crate.
    pub checksum: Option<String>,
    /// SPDX expression, where the registry states one.
    pub license: Option<String>,
}

/// A static program, ready for an image.
#[derive(Debug, Clone)]
pub struct Built {
    /// File name.
    pub name: String,
    /// Where it is, in the cache.
    pub path: PathBuf,
    /// SHA-256 in hex.
    pub sha256: String,
    /// Its upstream's version (`v1.36.3`), or the crate's.
    pub version: String,
    /// Other names that it is started under: links to it.
    pub links: Vec<String>,
    /// What it is written in.
    pub language: Language,
    /// What is linked into it, sorted.
    pub modules: Vec<Module>,
}

impl Built {
    /// The program and its modules for the manifest and the SBOM.
    pub fn parts(&self) -> Vec<Part> {
        let origin = match self.language {
            Language::Go => Origin::Go,
            Language::Rust => Origin::Crate,
        };
        let own = Part {
            sha256: Some(self.sha256.clone()),
            ..Part::new(Origin::Slipway, &self.name, &self.version)
        };
        let modules = self.modules.iter().map(|m| Part {
            checksum: m.checksum.clone(),
            license: m.license.clone(),
            within: vec![self.name.clone()],
            ..Part::new(origin, &m.name, &m.version)
        });
        std::iter::once(own).chain(modules).collect()
    }
}

/// The compilers in PATH, asked once.
pub struct Toolchains {
    go: golang::Toolchain,
    rust: rust::Toolchain,
}

impl Toolchains {
    /// Asks `go` and `rustc` who they are.
    ///
    /// # Errors
    /// [`Kind::Missing`] if one isn't there.
    pub fn find(source: &Source) -> Result<Self> {
        std::thread::scope(|scope| {
            let go = scope.spawn(golang::Toolchain::find);
            let rust = rust::Toolchain::find(source.root())?;
            let go = go
                .join()
                .map_err(|_| Error::new(Kind::Bug, "asking for Go's version panicked"))??;
            Ok(Self { go, rust })
        })
    }

    /// Their names and versions, for a lock.
    pub fn versions(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("go".to_owned(), self.go.version.clone()),
            ("rust".to_owned(), self.rust.release.clone()),
        ])
    }
}

/// The Go programs of a node: `kube`, `foundation`, `containerd-shim-runc-v2`, `cni`.
///
/// # Errors
/// [`Kind::Missing`] without a Go that is new enough, [`Kind::Tool`] if it fails,
/// [`Kind::Interrupted`] after Ctrl-C; nothing half-built is kept.
pub fn go(
    source: &Source,
    tools: &Toolchains,
    arch: Architecture,
    cache: &Path,
    progress: &Progress,
) -> Result<Vec<Built>> {
    let (dir, store) = (source.path(COMPONENTS), Store::new(cache));
    let recipe: recipe::Components = recipe::read(&dir.join("components.toml"))?;
    recipe
        .go
        .iter()
        .filter(|program| !program.host)
        .map(|program| {
            golang::Job {
                dir: &dir,
                program,
                arch,
            }
            .build(&tools.go, &store, progress)
        })
        .collect()
}

/// The host tool that the owner of a cluster works with.
pub const KUBECTL: &str = "kubectl";

/// A tool of `components.toml` for this machine, such as [`KUBECTL`].
///
/// # Errors
/// As for [`go`]; [`Kind::Bug`] for a name that isn't there.
pub fn host_tool(
    source: &Source,
    tools: &Toolchains,
    name: &str,
    cache: &Path,
    progress: &Progress,
) -> Result<Built> {
    let dir = source.path(COMPONENTS);
    let recipe: recipe::Components = recipe::read(&dir.join("components.toml"))?;
    let program = recipe
        .go
        .iter()
        .find(|p| p.host && p.name == name)
        .ok_or_else(|| {
            Error::new(
                Kind::Bug,
                format!("components.toml has no host tool {name}"),
            )
        })?;
    let job = golang::Job {
        dir: &dir,
        program,
        arch: Architecture::host()?,
    };
    job.build(&tools.go, &Store::new(cache), progress)
}

/// The Rust programs of a node: `init`, `noded`, `clusterd`.
///
/// # Errors
/// As for [`go`]; [`Kind::Missing`], too, without Rust's library for the target.
pub fn node(
    source: &Source,
    tools: &Toolchains,
    arch: Architecture,
    cache: &Path,
    progress: &Progress,
) -> Result<Vec<Built>> {
    node_job(source, arch).build(&tools.rust, &Store::new(cache), progress)
}

fn node_job(source: &Source, arch: Architecture) -> rust::Job<'_> {
    rust::Job {
        workspace: source.root(),
        programs: &NODE,
        arch,
        linking: rust::Linking::Static,
        // Not cargo's usual one, whose lock a developer's own builds hold.
        target_dir: source.path("target/node"),
    }
}

/// The add-ons, sorted by name. `epoch` (Unix seconds) is when their images say
/// that they were created.
///
/// # Errors
/// As for [`go`]; [`Kind::Input`] for a recipe that makes no sense.
pub fn addons(
    source: &Source,
    tools: &Toolchains,
    arch: Architecture,
    epoch: i64,
    cache: &Path,
    progress: &Progress,
) -> Result<Vec<Addon>> {
    addon::recipes(source)?
        .iter()
        .map(|recipe| recipe.build(source, arch, epoch, tools, cache, progress))
        .collect()
}
