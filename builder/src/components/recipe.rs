//! What is built, as data: `distro/components/components.toml` for the programs
//! on a node and `distro/addons/*/addon.toml` for what runs in the cluster.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::{At as _, Error, Kind, Result};

/// `components.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Components {
    /// The programs made of the Go module beside the file.
    pub go: Vec<GoProgram>,
}

/// A program of a Go module.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GoProgram {
    /// The file's name.
    pub name: String,
    /// The directory of its `package main` below the module, `.` for the module itself.
    pub package: String,
    /// The module whose version is the program's.
    pub module: String,
    /// Whether it is a tool for the building machine and not part of images.
    #[serde(default)]
    pub host: bool,
    /// Build tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Names under which the program is also started: links to it.
    #[serde(default)]
    pub links: Vec<String>,
    /// A package of the module that writes an overlay for the build: run as
    /// `go run PACKAGE DIR`, it leaves `DIR/overlay.json`, and `DIR/go.mod` where
    /// the build needs another than the module's.
    pub overlay: Option<String>,
    /// String variables set by the linker. `{MODULE}` is that module's version in
    /// go.mod, `{MODULE|bare}` the same without the `v`, `{MODULE|major}` and
    /// `{MODULE|minor}` its numbers.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
}

/// A program of a Rust crate in the add-on's directory.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RustProgram {
    /// The file's name, which is the crate's and its program's.
    pub name: String,
}

/// `addon.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Addon {
    /// What it is for, in a few words.
    pub description: String,
    /// Manifests beside the file that are applied to the cluster.
    #[serde(default)]
    pub manifests: Vec<String>,
    /// The container image, if it needs one of ours.
    pub image: Option<Image>,
}

/// A container image with one program in it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Image {
    /// Name without tag: `slipway.local/coredns`.
    pub name: String,
    /// Tag; may hold `{MODULE}` as in [`GoProgram::variables`].
    pub tag: String,
    /// Arguments after the program.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// `UID:GID` that it runs as.
    #[serde(default = "nobody")]
    pub user: String,
    /// The program, if it is written in Go.
    pub go: Option<GoProgram>,
    /// The program, if it is written in Rust.
    pub rust: Option<RustProgram>,
}

fn nobody() -> String {
    "65534:65534".into()
}

/// Reads a recipe.
///
/// # Errors
/// [`Kind::Input`] with line and column if it makes no sense.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).at("reading", path)?;
    toml::from_str(&text).map_err(|e| {
        let line = e
            .span()
            .map_or(1, |s| text[..s.start].matches('\n').count() + 1);
        Error::new(
            Kind::Input,
            format!("{}:{line}: {}", path.display(), e.message()),
        )
    })
}

/// What a go.mod requires, by module path.
pub struct GoMod {
    /// The module's own path.
    pub module: String,
    /// The least Go version: `1.26.3`.
    pub go: String,
    versions: BTreeMap<String, String>,
}

impl GoMod {
    /// Reads the `module`, `go` and `require` directives
    /// (<https://go.dev/ref/mod#go-mod-file>).
    pub fn parse(text: &str) -> Self {
        let (mut module, mut go) = (String::new(), String::new());
        let (mut versions, mut block) = (BTreeMap::new(), false);
        for line in text.lines() {
            let line = line.split("//").next().unwrap_or_default();
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["module", path] => module = (*path).to_owned(),
                ["go", version] => go = (*version).to_owned(),
                ["require", "("] => block = true,
                [")"] => block = false,
                ["require", module, version] => {
                    versions.insert((*module).to_owned(), (*version).to_owned());
                }
                [module, version] if block => {
                    versions.insert((*module).to_owned(), (*version).to_owned());
                }
                _ => {}
            }
        }
        Self {
            module,
            go,
            versions,
        }
    }

    /// The version of a module.
    pub fn version(&self, module: &str) -> Result<&str> {
        self.versions
            .get(module)
            .map(String::as_str)
            .ok_or_else(|| Error::new(Kind::Input, format!("go.mod requires no module `{module}`")))
    }

    /// Puts versions in place of `{MODULE}`.
    pub fn expand(&self, text: &str) -> Result<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, tail)) = rest.split_once('{') {
            let (name, tail) = tail
                .split_once('}')
                .ok_or_else(|| Error::new(Kind::Input, format!("`{text}` has no closing brace")))?;
            out.push_str(before);
            let (module, part) = name.split_once('|').unwrap_or((name, "whole"));
            let version = self.version(module)?;
            let bare = version.trim_start_matches('v');
            let mut numbers = bare.split('.');
            out.push_str(match part {
                "whole" => version,
                "bare" => bare,
                "major" => numbers.next().unwrap_or_default(),
                "minor" => numbers.nth(1).unwrap_or_default(),
                _ => {
                    return Err(Error::new(
                        Kind::Input,
                        format!("`{{{name}}}`: no such part of a version as `{part}`"),
                    ));
                }
            });
            rest = tail;
        }
        out.push_str(rest);
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GO_MOD: &str = "module x\n\ngo 1.26.3\n\nrequire a.io/one v1.2.3\n\
        require (\n\tk8s.io/kubernetes v1.36.3\n\tb.io/two v0.0.9 // indirect\n)\n\
        replace (\n\tk8s.io/api => k8s.io/api v0.36.3\n)\n";

    #[test]
    fn versions_come_from_go_mod() {
        let m = GoMod::parse(GO_MOD);
        assert_eq!((m.module.as_str(), m.go.as_str()), ("x", "1.26.3"));
        assert_eq!(m.version("a.io/one").unwrap(), "v1.2.3");
        assert_eq!(m.version("b.io/two").unwrap(), "v0.0.9");
        assert_eq!(
            m.expand("{k8s.io/kubernetes} {k8s.io/kubernetes|minor} {a.io/one|bare}!")
                .unwrap(),
            "v1.36.3 36 1.2.3!"
        );
        assert!(m.expand("{k8s.io/kubernetes").is_err());
        assert!(m.expand("{k8s.io/kubernetes|patch}").is_err());
        assert!(
            m.expand("{c.io/none}")
                .unwrap_err()
                .to_string()
                .contains("c.io/none")
        );
    }

    #[test]
    fn a_mistake_is_shown_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("addon.toml");
        std::fs::write(&path, "description = \"x\"\n\nmanifest = []\n").unwrap();
        let text = read::<Addon>(&path).unwrap_err().to_string();
        assert!(
            text.contains("addon.toml:3:") && text.contains("manifest"),
            "{text}"
        );
    }

    proptest::proptest! {
        #[test]
        fn go_mod_never_panics(text: String) {
            GoMod::parse(&text).expand(&text).map(drop).unwrap_or_default();
        }
    }
}
