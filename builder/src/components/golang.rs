//! Builds programs of Go modules: for the target, without cgo, and with nothing
//! of the user's own Go settings in the result.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::recipe::{GoMod, GoProgram};
use super::store::Store;
use super::{Built, Language, Module, arch, child};
use crate::board::Architecture;
use crate::digest;
use crate::error::{At as _, Error, Kind, Result};
use crate::progress::{Progress, Style};

/// Raised when the way of building changes in a way that the rest of the key doesn't show.
const FORMAT: u32 = 1;

/// Settings of the user that say where modules come from and where they are
/// kept. They can't change the result, since go.sum holds, and so are kept;
/// every other setting is ours.
const KEPT: [&str; 10] = [
    "GOPROXY",
    "GOSUMDB",
    "GONOSUMDB",
    "GONOPROXY",
    "GOPRIVATE",
    "GOINSECURE",
    "GOAUTH",
    "GOMODCACHE",
    "GOCACHE",
    "GOPATH",
];

/// How often a long build says that it goes on.
const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

/// The Go that is in PATH.
pub struct Toolchain {
    /// As it calls itself: `go1.26.8`.
    pub version: String,
    settings: Vec<(String, String)>,
}

impl Toolchain {
    /// Asks the `go` in PATH.
    ///
    /// # Errors
    /// [`Kind::Missing`] if there is none.
    pub fn find() -> Result<Self> {
        let mut command = Command::new("go");
        command
            .args(["env", "-json", "GOVERSION"])
            .args(KEPT)
            // Not in a module, whose own wish for a version would be an error here.
            .current_dir("/")
            .env("GOTOOLCHAIN", "local");
        let quiet = Progress::with_style(Style::Quiet);
        let out = child::run(command, &quiet, |_| true).map_err(|e| match e.kind {
            Kind::Missing => e.hint("install Go and put it into PATH"),
            _ => e,
        })?;
        let mut settings: Vec<(String, String)> =
            serde_json::from_str::<std::collections::BTreeMap<_, _>>(&out.join("\n"))
                .map_err(|e| Error::new(Kind::Tool, format!("`go env -json` said: {e}")))?
                .into_iter()
                .collect();
        let version = settings
            .iter()
            .position(|(k, _)| k == "GOVERSION")
            .map(|i| settings.remove(i).1)
            .ok_or_else(|| Error::new(Kind::Tool, "`go env` knows no GOVERSION"))?;
        Ok(Self { version, settings })
    }

    /// Whether it is as new as a go.mod asks for.
    ///
    /// # Errors
    /// [`Kind::Missing`] with the version that is needed.
    pub fn serves(&self, least: &str) -> Result<()> {
        let numbers = |text: &str| -> Vec<u32> {
            text.split('.')
                .map(|n| {
                    let end = n.find(|c: char| !c.is_ascii_digit()).unwrap_or(n.len());
                    n[..end].parse().unwrap_or(0)
                })
                .collect()
        };
        let found = self.version.rsplit("go").next().unwrap_or_default();
        if numbers(found) >= numbers(least) {
            return Ok(());
        }
        Err(Error::new(
            Kind::Missing,
            format!(
                "Go {least} or newer is needed, and `go` in PATH is {}",
                self.version
            ),
        )
        .hint("install a newer Go and put it first in PATH"))
    }

    /// `go` with nothing but our settings.
    fn command(&self, dir: &Path, target: Option<Architecture>) -> Command {
        let mut command = Command::new("go");
        command.current_dir(dir);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let cgo = text.starts_with("CGO_");
            if cgo || (text.starts_with("GO") && text != "GOROOT" && text != "GOTMPDIR") {
                command.env_remove(&name);
            }
        }
        command
            .envs(self.settings.iter().filter(|(_, v)| !v.is_empty()).cloned())
            .envs(ENVIRONMENT);
        if let Some(arch) = target {
            let (level, value) = arch::go_level(arch);
            command.env("GOARCH", arch.go()).env(level, value);
        }
        command
    }
}

/// What every run of `go` gets. GOENV=off: the user's `go env -w` file isn't
/// read; GOWORK=off: nor a workspace above the checkout.
const ENVIRONMENT: [(&str, &str); 6] = [
    ("GOOS", "linux"),
    ("CGO_ENABLED", "0"),
    ("GOENV", "off"),
    ("GOWORK", "off"),
    ("GOTOOLCHAIN", "local"),
    ("GOFLAGS", "-mod=readonly"),
];

/// A program of a module, ready to be built.
pub struct Job<'a> {
    /// The module's directory, with its go.mod.
    pub dir: &'a Path,
    /// What to build.
    pub program: &'a GoProgram,
    /// For what.
    pub arch: Architecture,
}

impl Job<'_> {
    fn go_mod(&self) -> Result<GoMod> {
        let path = self.dir.join("go.mod");
        Ok(GoMod::parse(
            &std::fs::read_to_string(&path).at("reading", &path)?,
        ))
    }

    /// The arguments of `go build` that shape the result.
    fn arguments(&self, go_mod: &GoMod) -> Result<Vec<String>> {
        let mut link = "-s -w -buildid=".to_owned();
        for (name, value) in &self.program.variables {
            let value = go_mod.expand(value)?;
            link.push_str(&format!(" -X {name}={value}"));
        }
        Ok(vec![
            "-trimpath".into(),
            "-buildvcs=false".into(),
            format!("-tags={}", self.program.tags.join(",")),
            format!("-ldflags={link}"),
        ])
    }

    /// A digest of all that the result depends on.
    pub fn key(&self, go: &Toolchain) -> Result<String> {
        let mut parts = vec!["go.mod".to_owned(), "go.sum".to_owned()];
        for package in self.own_packages()? {
            match package.as_str() {
                // Manifests and recipe lie beside the module's only package.
                "." => parts.extend(go_files(self.dir)?),
                _ => parts.push(package),
            }
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.key_of(go, &digest::sources(self.dir, &parts)?)
    }

    /// The directories of the module's own packages that the program is made of,
    /// found by following imports from its `package main`; the overlay's writer
    /// is one of them. Import paths are only ever written as string literals.
    fn own_packages(&self) -> Result<BTreeSet<String>> {
        let prefix = format!("\"{}/", self.go_mod()?.module);
        let named = [Some(&self.program.package), self.program.overlay.as_ref()];
        let mut todo: Vec<String> = named
            .into_iter()
            .flatten()
            .map(|p| p.trim_start_matches("./").to_owned())
            .collect();
        let mut packages = BTreeSet::new();
        while let Some(package) = todo.pop() {
            let dir = self.dir.join(&package);
            // What an overlay adds isn't on disk; its writer stands for it.
            if !dir.is_dir() || !packages.insert(package) {
                continue;
            }
            for file in go_files(&dir)? {
                let path = dir.join(file);
                let text = std::fs::read_to_string(&path).at("reading", &path)?;
                todo.extend(
                    text.match_indices(&prefix)
                        .filter_map(|(at, _)| text[at + prefix.len()..].split_once('"'))
                        .map(|(package, _)| package.to_owned()),
                );
            }
        }
        Ok(packages)
    }

    fn key_of(&self, go: &Toolchain, sources: &str) -> Result<String> {
        let go_mod = self.go_mod()?;
        let key = serde_json::json!({
            "format": FORMAT,
            "go": go.version,
            "name": self.program.name,
            "package": self.program.package,
            "overlay": self.program.overlay,
            "arguments": self.arguments(&go_mod)?,
            "environment": ENVIRONMENT,
            "arch": self.arch,
            "sources": sources,
        });
        Ok(digest::hex(key.to_string().as_bytes()))
    }

    /// The program from the store, built if it isn't there.
    pub fn build(&self, go: &Toolchain, store: &Store, progress: &Progress) -> Result<Built> {
        let name = &self.program.name;
        let key = self.key(go)?;
        if let Some(built) = store.find(&key, name) {
            return Ok(self.finish(built));
        }
        let go_mod = self.go_mod()?;
        go.serves(&go_mod.go)?;
        let task = progress.task(format!("build {name} for {}", self.arch), None);
        let building = store.begin()?;
        let made = building.path().join(name);
        let mut arguments = self.arguments(&go_mod)?;
        if let Some(overlay) = &self.program.overlay {
            let dir = building.path().join("overlay");
            let mut command = go.command(self.dir, None);
            command.args(["run", "-trimpath", overlay]).arg(&dir);
            self.run(command, task.progress())?;
            arguments.push(format!("-overlay={}", dir.join("overlay.json").display()));
            let other = dir.join("go.mod");
            if other.is_file() {
                arguments.push(format!("-modfile={}", other.display()));
            }
        }
        let mut command = go.command(self.dir, Some(self.arch));
        command
            .args(["build", "-v"])
            .args(&arguments)
            .arg("-o")
            .arg(&made)
            .arg(&self.program.package);
        self.run(command, task.progress())?;
        self.check_sources(go, &arguments, progress)?;
        let modules = self.modules(go, &made, progress)?;
        let version = go_mod.version(&self.program.module)?.to_owned();
        let about = (Language::Go, version, modules);
        if self.key(go)? != key {
            return Err(Error::new(
                Kind::Input,
                format!("sources of {name} changed while it was being built"),
            )
            .hint("run it again"));
        }
        Ok(self.finish(store.keep(&building, &key, name, self.arch, about)?))
    }

    fn finish(&self, built: Built) -> Built {
        Built {
            links: self.program.links.clone(),
            ..built
        }
    }

    /// Runs `go`, passing on what it downloads, and now and then a sign of life.
    fn run(&self, command: Command, progress: &Progress) -> Result<()> {
        let (started, mut said, mut packages) = (Instant::now(), Instant::now(), 0u32);
        child::run(command, progress, |line| {
            if let Some(line) = line {
                if line.starts_with("go: downloading ") {
                    progress.say(line);
                    return false;
                }
                // With -v, the name of each package that had to be compiled.
                let package = !line.contains([' ', ':', '#']);
                packages += u32::from(package);
                return !package;
            }
            if said.elapsed() >= SIGN_OF_LIFE {
                said = Instant::now();
                progress.say(&format!(
                    "{} for {}: {packages} packages compiled in {} s",
                    self.program.name,
                    self.arch,
                    started.elapsed().as_secs()
                ));
            }
            true
        })
        .map(drop)
        .map_err(|e| e.within(format_args!("building {}", self.program.name)))
    }

    /// Makes sure that the key covers every source of ours that went in.
    fn check_sources(
        &self,
        go: &Toolchain,
        arguments: &[String],
        progress: &Progress,
    ) -> Result<()> {
        let mut command = go.command(self.dir, Some(self.arch));
        command
            .args(["list", "-deps"])
            .args(["-f", "{{with .Module}}{{if .Main}}{{$.Dir}}{{end}}{{end}}"])
            .args(arguments)
            .arg(&self.program.package);
        let here = self.dir.canonicalize().at("resolving", self.dir)?;
        let own = self.own_packages()?;
        for dir in child::run(command, progress, |_| true)? {
            let covered = own.iter().any(|package| match package.as_str() {
                "." => Path::new(&dir) == here,
                _ => Path::new(&dir).starts_with(here.join(package)),
            });
            if !dir.is_empty() && !covered {
                return Err(Error::new(
                    Kind::Bug,
                    format!(
                        "{} uses {dir}, which the cache's key doesn't cover",
                        self.program.name
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The modules linked in, from the build information in the program itself.
    fn modules(&self, go: &Toolchain, program: &Path, progress: &Progress) -> Result<Vec<Module>> {
        let mut command = go.command(self.dir, None);
        command.args(["version", "-m"]).arg(program);
        Ok(parse_modules(
            &child::run(command, progress, |_| true)?,
            &go.version,
        ))
    }
}

/// Names of the .go files of a directory itself, without those of its tests.
fn go_files(dir: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).at("reading", dir)? {
        let name = entry.at("reading", dir)?.file_name();
        let name = name.to_string_lossy();
        if name.ends_with(".go") && !name.ends_with("_test.go") {
            files.push(name.into_owned());
        }
    }
    Ok(files)
}

/// Reads the lines of `go version -m`: `dep PATH VERSION SUM`, and after one of
/// those `=> PATH VERSION SUM` where go.mod replaces it. A replacement by a
/// directory is upstream's version with a patch of ours: it keeps its name and
/// version, and has no checksum. Go's own library is a part, too.
fn parse_modules(lines: &[String], go: &str) -> Vec<Module> {
    let mut modules = vec![Module {
        name: "stdlib".into(),
        version: go.trim_start_matches("go").to_owned(),
        checksum: None,
        license: Some("BSD-3-Clause".into()),
    }];
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (kind, module) = match words.as_slice() {
            [kind @ ("dep" | "=>"), name, version, rest @ ..] => (
                *kind,
                Module {
                    name: (*name).to_owned(),
                    version: (*version).to_owned(),
                    checksum: rest.first().map(|s| (*s).to_owned()),
                    license: None,
                },
            ),
            _ => continue,
        };
        if kind == "=>" {
            if module.name.starts_with("./") {
                continue;
            }
            modules.pop();
        }
        modules.push(module);
    }
    modules.sort();
    modules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_read_with_their_replacements() {
        let text = "kube: go1.26.8\n\tpath\tslipway/kube\n\tmod\tslipway\t(devel)\t\n\
            \tdep\tcel.dev/expr\tv0.25.1\th1:abc=\n\tdep\tk8s.io/api\tv0.0.0\n\
            \t=>\tk8s.io/api\tv0.36.3\th1:def=\n\tdep\tk8s.io/client-go\tv0.36.3\n\
            \t=>\t./patched/k8s.io/client-go\t(devel)\t\n\tbuild\t-compiler=gc\n";
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let modules = parse_modules(&lines, "go1.26.8");
        let shown: Vec<_> = modules
            .iter()
            .map(|m| (m.name.as_str(), m.version.as_str(), m.checksum.as_deref()))
            .collect();
        assert_eq!(
            shown,
            [
                ("cel.dev/expr", "v0.25.1", Some("h1:abc=")),
                ("k8s.io/api", "v0.36.3", Some("h1:def=")),
                ("k8s.io/client-go", "v0.36.3", None),
                ("stdlib", "1.26.8", None),
            ]
        );
    }

    #[test]
    fn a_change_in_a_package_that_programs_share_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("go.mod", "module a/b\n\ngo 1.26.3\n");
        write("go.sum", "");
        write(
            "one/main.go",
            "import (\n\t\"a/b/shared\"\n\t\"a/b/one/laid\"\n)\n",
        );
        write("shared/s.go", "import \"a/b/deep\"\n");
        write("shared/s_test.go", "import \"a/b/other\"\n");
        write("deep/d.go", "");
        write("other/o.go", "");
        let program: GoProgram =
            toml::from_str("name = 'one'\npackage = './one'\nmodule = 'x'\n").unwrap();
        let job = Job {
            dir: dir.path(),
            program: &program,
            arch: Architecture::Amd64,
        };
        let found: Vec<String> = job.own_packages().unwrap().into_iter().collect();
        assert_eq!(found, ["deep", "one", "shared"]);
        let go = Toolchain {
            version: "go1.26.3".into(),
            settings: Vec::new(),
        };
        let before = job.key(&go).unwrap();
        write("other/o.go", "changed");
        assert_eq!(job.key(&go).unwrap(), before);
        write("deep/d.go", "changed");
        assert_ne!(job.key(&go).unwrap(), before);
    }

    #[test]
    fn an_old_go_is_refused_in_one_line() {
        let go = |version: &str| Toolchain {
            version: version.into(),
            settings: Vec::new(),
        };
        for good in [
            "go1.26.3",
            "go1.26.8",
            "go1.27rc1",
            "go2.0",
            "devel go1.27-abc",
        ] {
            go(good).serves("1.26.3").unwrap();
        }
        for bad in ["go1.26.2", "go1.26", "go1.9.7", "go1.25.11"] {
            let error = go(bad).serves("1.26.3").unwrap_err();
            assert_eq!(error.kind, Kind::Missing);
            assert!(error.message().contains("1.26.3") && error.message().contains(bad));
        }
    }
}
