//! Builds static programs of Rust crates so that the same sources give the same
//! bytes in whatever directory they lie and whoever's account builds them.

mod metadata;
mod sources;

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::store::Store;
use sources::Locked;

use super::{Built, Language, arch, child};
use crate::board::Architecture;
use crate::digest;
use crate::error::{At as _, Error, Kind, Result};
use crate::progress::{Progress, Style};

/// Raised when the way of building changes in a way that the rest of the key doesn't show.
const FORMAT: u32 = 1;

/// Variables for cargo that say where things come from and are kept; all others
/// that begin like its own are withheld from it.
const KEPT_PREFIXES: [&str; 6] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
];
const WITHHELD_PREFIXES: [&str; 9] = [
    "CARGO",
    "RUSTC",
    "RUSTFLAGS",
    "RUSTDOC",
    "CFLAGS",
    "CC_",
    "AR_",
    "LDFLAGS",
    "TARGET_",
];
const WITHHELD: [&str; 6] = [
    "CC",
    "AR",
    "CXX",
    "CXXFLAGS",
    "CPPFLAGS",
    "SOURCE_DATE_EPOCH",
];

/// Cargo's profile for what runs on a node or in a pod: see the workspace's Cargo.toml.
const PROFILE: &str = "node";

const SIGN_OF_LIFE: Duration = Duration::from_secs(60);

/// The Rust that is in PATH.
pub struct Toolchain {
    /// The whole of `rustc -vV`: version, commit, host and LLVM.
    pub version: String,
    /// Its release: `1.95.0`.
    pub release: String,
    commit: String,
    sysroot: PathBuf,
}

impl Toolchain {
    /// Asks the `rustc` in PATH, as it is for the workspace at `dir`.
    ///
    /// # Errors
    /// [`Kind::Missing`] if there is none.
    pub fn find(dir: &Path) -> Result<Self> {
        let quiet = Progress::with_style(Style::Quiet);
        let ask = |arguments: &[&str]| {
            let mut command = clean(Command::new("rustc"));
            command.args(arguments).current_dir(dir);
            child::run(command, &quiet, |_| true).map_err(|e| match e.kind {
                Kind::Missing => e.hint("install Rust 1.95 or newer and put it into PATH"),
                _ => e,
            })
        };
        let lines = ask(&["-vV"])?;
        let field = |name: &str| {
            lines
                .iter()
                .find_map(|l| l.strip_prefix(name)?.strip_prefix(": "))
                .unwrap_or_default()
                .to_owned()
        };
        Ok(Self {
            release: field("release"),
            commit: field("commit-hash"),
            sysroot: ask(&["--print", "sysroot"])?.concat().into(),
            version: lines.join("\n"),
        })
    }

    /// Makes sure that the library for a target is there.
    fn has_target(&self, target: &str) -> Result<()> {
        if self
            .sysroot
            .join("lib/rustlib")
            .join(target)
            .join("lib")
            .is_dir()
        {
            return Ok(());
        }
        Err(Error::new(
            Kind::Missing,
            format!("Rust's library for {target} is not installed"),
        )
        .hint(format!("rustup target add {target}")))
    }
}

/// Takes everything out of a command's environment that could change the result.
fn clean(mut command: Command) -> Command {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let begins = |list: &[&str]| list.iter().any(|p| text.starts_with(p));
        if (begins(&WITHHELD_PREFIXES) || WITHHELD.contains(&&*text)) && !begins(&KEPT_PREFIXES) {
            command.env_remove(&name);
        }
    }
    command
}

/// How a program is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub enum Linking {
    /// With the standard library and a libc, statically.
    Static,
    /// With nothing at all: `no_std` and its own `_start`.
    Bare,
}

/// Programs of one workspace, ready to be built.
pub struct Job<'a> {
    /// The directory of the workspace's Cargo.toml and Cargo.lock.
    pub workspace: &'a Path,
    /// Each package with the name of its program.
    pub programs: &'a [(&'a str, &'a str)],
    /// For what.
    pub arch: Architecture,
    /// How they are linked.
    pub linking: Linking,
    /// Where cargo keeps what it compiles, from run to run.
    pub target_dir: PathBuf,
}

impl Job<'_> {
    /// Flags for rustc that shape the result, without the paths of this machine.
    fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec!["-Ctarget-feature=+crt-static"];
        match (self.linking, self.arch) {
            (Linking::Bare, _) => flags.extend([
                "-Clinker=rust-lld",
                "-Clinker-flavor=ld.lld",
                "-Clink-self-contained=no",
                "-Crelocation-model=static",
                "-Clink-arg=-nostdlib",
                "-Clink-arg=--build-id=none",
            ]),
            // Rust's own linker and C library: nothing of the host's goes in.
            (Linking::Static, Architecture::Amd64 | Architecture::Arm64) => flags.extend([
                "-Clinker=rust-lld",
                "-Clinker-flavor=ld.lld",
                "-Clink-self-contained=yes",
                "-Clink-arg=--build-id=none",
            ]),
            (Linking::Static, Architecture::Armhf) => flags.extend([
                "-Clinker=arm-linux-gnueabihf-gcc",
                "-Clink-arg=-Wl,--build-id=none",
            ]),
        }
        flags
    }

    /// A digest of all that the result depends on.
    pub fn key(&self, rust: &Toolchain) -> Result<String> {
        let root = self
            .workspace
            .canonicalize()
            .at("resolving", self.workspace)?;
        let mut sources = BTreeMap::new();
        for dir in self.source_dirs()? {
            let name = dir.strip_prefix(&root).map_err(|_| {
                Error::new(
                    Kind::Input,
                    format!("{} lies outside {}", dir.display(), root.display()),
                )
            })?;
            let mut parts = vec!["Cargo.toml"];
            parts.extend(
                ["src", "build.rs"]
                    .into_iter()
                    .filter(|p| dir.join(p).exists()),
            );
            sources.insert(name.to_owned(), digest::sources(&dir, &parts)?);
        }
        let locked: Vec<Locked> = self.locked()?.into_values().collect();
        let key = serde_json::json!({
            "format": FORMAT,
            "rustc": rust.version,
            "programs": self.programs,
            "arch": self.arch,
            "flags": self.flags(),
            "workspace": digest::sources(&root, &["Cargo.toml"])?,
            "locked": locked,
            "sources": sources,
        });
        Ok(digest::hex(key.to_string().as_bytes()))
    }

    /// The programs from the store, built if one isn't there.
    pub fn build(
        &self,
        rust: &Toolchain,
        store: &Store,
        progress: &Progress,
    ) -> Result<Vec<Built>> {
        let key = self.key(rust)?;
        let there: Option<Vec<Built>> = self
            .programs
            .iter()
            .map(|(_, program)| store.find(&key, program))
            .collect();
        if let Some(there) = there {
            return Ok(there);
        }
        let target = self.arch.rust();
        rust.has_target(target)?;
        let names: Vec<_> = self.programs.iter().map(|(_, program)| *program).collect();
        let names = names.join(", ");
        let task = progress.task(format!("build {names} for {}", self.arch), None);
        self.run_cargo(rust, target, task.progress())
            .map_err(|e| e.within(format_args!("building {names}")))?;
        let modules = self.modules(rust, target, task.progress())?;
        if self.key(rust)? != key {
            return Err(Error::new(
                Kind::Input,
                format!("sources of {names} changed while they were being built"),
            )
            .hint("run it again"));
        }
        let building = store.begin()?;
        let mut all = Vec::new();
        for (package, program) in self.programs {
            let made = self.target_dir.join(target).join(PROFILE).join(program);
            self.check_sources(&made.with_extension("d"))?;
            let copy = building.path().join(program);
            std::fs::copy(&made, &copy).at("copying", &made)?;
            let (version, modules) = modules.get(*package).cloned().unwrap_or_default();
            let about = (Language::Rust, version, modules);
            all.push(store.keep(&building, &key, program, self.arch, about)?);
        }
        Ok(all)
    }

    fn run_cargo(&self, rust: &Toolchain, target: &str, progress: &Progress) -> Result<()> {
        // One spelling for each directory, whatever way the caller came by: cargo
        // compiles everything anew when a flag changes, and they are in flags.
        std::fs::create_dir_all(&self.target_dir).at("creating", &self.target_dir)?;
        let real = |dir: &Path| dir.canonicalize().at("resolving", dir);
        let (workspace, target_dir) = (real(self.workspace)?, real(&self.target_dir)?);
        let mut command = clean(Command::new("cargo"));
        command
            .current_dir(&workspace)
            .args([
                "build",
                "--profile",
                PROFILE,
                "--locked",
                "--target",
                target,
            ])
            .arg("--target-dir")
            .arg(&target_dir);
        for (package, program) in self.programs {
            command.args(["-p", package, "--bin", program]);
        }
        let (rust_flags, c_flags) = remapping(rust, &workspace, &target_dir);
        let flags: Vec<String> = self
            .flags()
            .iter()
            .map(|f| (*f).to_owned())
            .chain(rust_flags)
            .collect();
        let variable = target.replace('-', "_");
        command
            // Wins over RUSTFLAGS and over every configuration file.
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env("CARGO_INCREMENTAL", "0")
            .env(format!("CC_{variable}"), arch::cc(self.arch))
            .env("CC_SHELL_ESCAPED_FLAGS", "1")
            .env(format!("CFLAGS_{variable}"), c_flags.join(" "));
        let (started, mut said, mut crates) = (Instant::now(), Instant::now(), 0u32);
        child::run(command, progress, |line| {
            let line = line.map(str::trim_start);
            match line {
                Some(l) if l.starts_with("Downloaded ") => progress.say(&format!("cargo: {l}")),
                Some(l) if l.starts_with("Blocking ") => progress.say(&format!("cargo: {l}")),
                Some(l) if l.starts_with("Compiling ") => crates += 1,
                Some(_) => return true,
                None if said.elapsed() >= SIGN_OF_LIFE => {
                    said = Instant::now();
                    progress.say(&format!(
                        "{target}: {crates} crates in {} s",
                        started.elapsed().as_secs()
                    ));
                }
                None => {}
            }
            false
        })
        .map(drop)
    }
}

/// Flags for rustc and for the C compiler that put fixed names in place of this
/// machine's directories wherever they'd end up in a program.
fn remapping(rust: &Toolchain, workspace: &Path, target_dir: &Path) -> (Vec<String>, Vec<String>) {
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    // The last that fits wins, so what may lie inside another comes later.
    let (mut rust_flags, mut c_flags) = (Vec::new(), Vec::new());
    for (dir, name) in [
        (workspace, "/slipway".to_owned()),
        (&cargo_home, "/cargo".to_owned()),
        (&rust.sysroot, format!("/rust-{}", rust.release)),
        // Where the library's own build says that its sources were.
        (
            &rust.sysroot.join("lib/rustlib/src/rust"),
            format!("/rustc/{}", rust.commit),
        ),
        (target_dir, "/target".to_owned()),
    ] {
        let mut spellings = vec![dir.to_owned()];
        if let Ok(real) = dir.canonicalize()
            && real != *dir
        {
            spellings.push(real);
        }
        for dir in spellings {
            let quoted = dir.to_string_lossy().replace('\'', r"'\''");
            rust_flags.push(format!("--remap-path-prefix={}={name}", dir.display()));
            c_flags.push(format!("'-ffile-prefix-map={quoted}={name}'"));
        }
    }
    (rust_flags, c_flags)
}
