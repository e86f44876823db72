//! A board: everything that differs between the machines an image can be for.
//!
//! `board-configs/<name>.toml` → [`raw`](self) (what is written, with places) →
//! [`Board`] (what it means). Past this module nothing of a board is invalid.
//! `docs/boards.md` explains the keys.

mod raw;
mod rules;
mod source;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use rules::Pattern;

use crate::digest;
use crate::error::{At as _, Error, Kind, Result, near_miss};
use raw::{Lost, Raw, RawList};
use rules::Rules;
use source::Source;

/// Keys of Debian's that boards can name without having a file of their own.
const BUILT_IN_KEYS: [(&str, &str); 3] = [
    (
        "debian-trixie-automatic",
        include_str!("../../keys/debian-trixie-automatic.asc"),
    ),
    (
        "debian-trixie-security-automatic",
        include_str!("../../keys/debian-trixie-security-automatic.asc"),
    ),
    (
        "debian-trixie-stable",
        include_str!("../../keys/debian-trixie-stable.asc"),
    ),
];

/// How long a chain of `inherits` may be.
const MAX_DEPTH: usize = 8;

/// A processor architecture, under the names that others have for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// 64-bit ARM.
    Arm64,
    /// 32-bit ARM v7 with hardware floating point.
    Armhf,
}

impl Architecture {
    /// Debian's name.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Armhf => "armhf",
        }
    }

    /// `GOARCH`.
    pub fn go(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Armhf => "arm",
        }
    }

    /// The target triple of static node binaries.
    pub fn rust(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
            // rustup has no armv7 musl; this one is linked statically too.
            Self::Armhf => "armv7-unknown-linux-gnueabihf",
        }
    }

    /// This machine's.
    ///
    /// # Errors
    /// [`Kind::Missing`] where it is none that images are built for.
    pub fn host() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::Amd64),
            "aarch64" => Ok(Self::Arm64),
            "arm" => Ok(Self::Armhf),
            other => Err(Error::new(
                Kind::Missing,
                format!("there are no tools for a machine of architecture {other}"),
            )),
        }
    }

    /// The kernel's name (`uname -m`).
    pub fn kernel(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
            Self::Armhf => "armv7l",
        }
    }

    /// Debian's multiarch triplet, the directory of libraries.
    pub fn multiarch(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-linux-gnu",
            Self::Arm64 => "aarch64-linux-gnu",
            Self::Armhf => "arm-linux-gnueabihf",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.debian())
    }
}

/// How the machine's firmware is given a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootMethod {
    /// UEFI, systemd-boot, and a unified kernel image.
    SystemdBoot,
}

/// A suite that packages are chosen from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Suite {
    /// Name below `dists/`.
    pub name: String,
    /// Which parts of it.
    pub components: Vec<String>,
    /// Where it is published.
    #[serde(default = "main_archive")]
    pub archive: crate::debian::ArchiveKind,
}

fn main_archive() -> crate::debian::ArchiveKind {
    crate::debian::ArchiveKind::Main
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.components.join(" "))
    }
}

/// A public key that may sign suites.
#[derive(Debug, Clone, Serialize)]
pub struct Key {
    /// Its name in the board's TOML.
    pub name: String,
    /// ASCII-armored OpenPGP certificates.
    #[serde(serialize_with = "as_digest")]
    pub armored: Vec<u8>,
}

fn as_digest<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&digest::hex(bytes))
}

/// `[debian]`: where packages come from.
#[derive(Debug, Clone, Serialize)]
pub struct Debian {
    /// Who must have signed the suites.
    pub keyring: Vec<Key>,
    /// In order of preference between equal versions.
    pub suites: Vec<Suite>,
}

/// `[packages]`: what is installed.
#[derive(Debug, Clone, Serialize)]
pub struct Packages {
    /// Explicitly; what they depend on follows.
    pub install: Vec<String>,
    /// Never; dependencies on these count as met.
    pub exclude: Vec<String>,
}

/// `[kernel]`
#[derive(Debug, Clone, Serialize)]
pub struct Kernel {
    /// The package, or meta package, that brings it.
    pub package: String,
    /// Words of the command line; `root=` is added by the builder.
    pub command_line: Vec<String>,
    /// Globs over names of modules for the initrd, which brings their
    /// dependencies.
    pub initrd_modules: Vec<String>,
    /// Modules for the root filesystem, by path below `kernel/`.
    pub include_modules: Vec<Pattern>,
    /// Exceptions from these.
    pub exclude_modules: Vec<Pattern>,
}

/// `[paths]`: what of the packages is left out.
#[derive(Debug, Clone, Serialize)]
pub struct Paths {
    /// Left out,
    pub exclude: Vec<Pattern>,
    /// but not these.
    pub keep: Vec<Pattern>,
}

/// `[boot]`
#[derive(Debug, Clone, Serialize)]
pub struct Boot {
    /// How.
    pub method: BootMethod,
    /// The package that the loader and the kernel's stub are taken from.
    pub package: String,
}

/// `[image]`
#[derive(Debug, Clone, Serialize)]
pub struct Image {
    /// Size of the boot partition in bytes.
    pub boot_size: u64,
    /// Size of each of the two root partitions in bytes.
    pub slot_size: u64,
    /// zstd level of the image for download.
    pub compression_level: i32,
}

/// `[node]`
#[derive(Debug, Clone, Serialize)]
pub struct Node {
    /// Modules to load at boot whatever the hardware.
    pub modules: Vec<String>,
    /// Kernel parameters by dotted name.
    pub sysctl: BTreeMap<String, String>,
}

/// `[qemu]`: a machine that does for trying the image.
#[derive(Debug, Clone, Serialize)]
pub struct Qemu {
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
}

/// A board, checked.
#[derive(Debug, Clone, Serialize)]
pub struct Board {
    /// The TOML file's name without its extension.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// Its processor.
    pub architecture: Architecture,
    /// Where packages come from.
    pub debian: Debian,
    /// What is installed.
    pub packages: Packages,
    /// The kernel and its modules.
    pub kernel: Kernel,
    /// What of the packages is left out.
    pub paths: Paths,
    /// How it boots.
    pub boot: Boot,
    /// The image's measures.
    pub image: Image,
    /// Settings of the running node.
    pub node: Node,
    /// A machine for trying it.
    pub qemu: Qemu,
    #[serde(skip)]
    rules: CompiledRules,
}

#[derive(Debug, Clone)]
struct CompiledRules {
    exclude: Rules,
    keep: Rules,
    include_modules: Rules,
    exclude_modules: Rules,
    initrd_modules: Rules,
}

impl Board {
    /// Reads the board `name` of the directory `dir`, and what it inherits.
    ///
    /// # Errors
    /// [`Kind::Input`] with one line for everything that is wrong, each with file,
    /// line and column; [`Kind::Io`].
    pub fn load(dir: &Path, name: &str) -> Result<Self> {
        let mut errors = Vec::new();
        let raw = read_chain(dir, name, &mut errors)?;
        let path = dir.join(format!("{name}.toml"));
        let board = check(name, &path, raw, &mut errors);
        match (board, errors.is_empty()) {
            (Some(board), true) => Ok(board),
            _ => Err(Error::new(Kind::Input, errors.join("\n"))),
        }
    }

    /// The boards of a directory: those that say for which architecture they are
    /// and aren't merely inherited from.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn names(dir: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).at("reading", dir)? {
            let path = entry.at("reading", dir)?.path();
            if path.extension().is_some_and(|e| e == "toml")
                && let Some(stem) = path.file_stem().and_then(|s| s.to_str())
                && stem != "base"
                && !stem.starts_with("base-")
            {
                names.push(stem.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Digest of everything that the board says. The order of keys, comments and
    /// which file a setting stands in make no difference.
    ///
    /// # Errors
    /// [`Kind::Bug`] only.
    pub fn digest(&self) -> Result<String> {
        digest_of(self)
    }

    /// Digest of what decides [`Board::keeps_path`], for caching what passes it.
    ///
    /// # Errors
    /// [`Kind::Bug`] only.
    pub fn rules_digest(&self) -> Result<String> {
        digest_of(&self.paths)
    }

    /// Whether a path of a package (`usr/share/doc/x`) goes into the image.
    /// Kernel modules all pass: which of them stay is [`Board::keeps_module`] and
    /// what these depend on.
    pub fn keeps_path(&self, path: &str) -> bool {
        !self.rules.exclude.cover(path) || self.rules.keep.cover(path)
    }

    /// Whether the board asks for a module, given by its path below `kernel/`
    /// (`drivers/net/veth.ko`, with or without a suffix for its compression).
    pub fn keeps_module(&self, path_below_kernel: &str) -> bool {
        let path = module_path(path_below_kernel);
        self.rules.include_modules.cover(path) && !self.rules.exclude_modules.cover(path)
    }

    /// Whether the board asks for a module in the initrd, given by its name or its
    /// path. What it depends on has to be added.
    pub fn wants_in_initrd(&self, module: &str) -> bool {
        let path = module_path(module);
        let name = path.rsplit('/').next().unwrap_or(path).replace('-', "_");
        self.rules.initrd_modules.cover(&name)
    }
}

/// A module's path without `.ko` and what follows it.
fn module_path(path: &str) -> &str {
    ["", ".xz", ".zst", ".gz"]
        .iter()
        .find_map(|suffix| path.strip_suffix(suffix)?.strip_suffix(".ko"))
        .unwrap_or(path)
}

fn digest_of(value: &impl Serialize) -> Result<String> {
    let json = serde_json::to_vec(value)
        .map_err(|e| Error::new(Kind::Bug, format!("digesting a board: {e}")))?;
    Ok(digest::hex(&json))
}

/// A file on top of those it inherits from.
fn read_chain(dir: &Path, name: &str, errors: &mut Vec<String>) -> Result<Raw> {
    let mut files: Vec<(Source, Raw)> = Vec::new();
    let mut next = name.to_owned();
    loop {
        let path = dir.join(format!("{next}.toml"));
        let asked = files.last();
        if next.is_empty() || next.contains(['/', '\\', '\0']) || !path.is_file() {
            errors.push(unknown_board(dir, &next, asked)?);
            break;
        }
        let source = Source::read(&path)?;
        let (raw, found) = source.parse();
        errors.extend(found);
        let inherits = raw
            .inherits
            .as_ref()
            .map(|i| (i.get_ref().clone(), i.span()));
        files.push((source, raw));
        let Some((parent, span)) = inherits else {
            break;
        };
        let seen = files
            .iter()
            .any(|(s, _)| s.path.file_stem().and_then(|s| s.to_str()) == Some(&parent));
        if seen || files.len() >= MAX_DEPTH {
            let why = if seen {
                "which inherits from this one"
            } else {
                "which is one too many"
            };
            if let Some((source, _)) = files.last() {
                errors
                    .push(source.message(Some(span), &format!("inherits from `{parent}`, {why}")));
            }
            break;
        }
        next = parent;
    }
    let mut merged = Raw::default();
    for (source, raw) in files.into_iter().rev() {
        let lost;
        (merged, lost) = raw.on(merged);
        errors.extend(lost.into_iter().map(|l| lost_message(&source, l)));
    }
    Ok(merged)
}

fn lost_message(source: &Source, lost: Lost) -> String {
    let mut message = format!("`{}` can't be removed: it isn't in the list", lost.item);
    if let Some(near) = near_miss(&lost.item, lost.known.iter().map(String::as_str)) {
        message.push_str(&format!(", did you mean `{near}`?"));
    }
    source.message(Some(lost.span), &message)
}

fn unknown_board(dir: &Path, name: &str, asked: Option<&(Source, Raw)>) -> Result<String> {
    let mut names = Board::names(dir)?;
    let mut message = format!("there is no board `{name}`");
    if asked.is_some() {
        names.push("base".into());
    }
    match near_miss(name, names.iter().map(String::as_str)) {
        Some(near) => message.push_str(&format!(", did you mean `{near}`?")),
        None => message.push_str(&format!("; there is: {}", names.join(", "))),
    }
    Ok(match asked {
        Some((source, raw)) => source.message(raw.inherits.as_ref().map(|i| i.span()), &message),
        None => message,
    })
}

/// From what is written to what it means.
fn check(name: &str, path: &Path, raw: Raw, errors: &mut Vec<String>) -> Option<Board> {
    let wrong = !errors.is_empty();
    let mut missing = |key: &str| {
        // What is missing may be what was wrong.
        if !wrong {
            errors.push(format!("{}: `{key}` is not set", path.display()));
        }
    };
    let debian = raw.debian.unwrap_or_default();
    let packages = raw.packages.unwrap_or_default();
    let kernel = raw.kernel.unwrap_or_default();
    let modules = kernel.modules.unwrap_or_default();
    let paths = raw.paths.unwrap_or_default();
    let boot = raw.boot.unwrap_or_default();
    let image = raw.image.unwrap_or_default();
    let node = raw.node.unwrap_or_default();
    let qemu = raw.qemu.unwrap_or_default();

    let suites = items(debian.suites);
    let keys = texts(debian.keyring);
    let install = texts(packages.install);
    for (key, absent) in [
        ("description", raw.description.is_none()),
        ("architecture", raw.architecture.is_none()),
        ("debian.suites", suites.is_empty()),
        ("debian.keyring", keys.is_empty()),
        ("packages.install", install.is_empty()),
        ("kernel.package", kernel.package.is_none()),
        ("boot.method", boot.method.is_none()),
        ("boot.package", boot.package.is_none()),
        ("image.boot-size", image.boot_size.is_none()),
        ("image.slot-size", image.slot_size.is_none()),
    ] {
        if absent {
            missing(key);
        }
    }
    let compression_level = image.compression_level.map_or(9, |l| l.into_inner());
    if !(1..=22).contains(&compression_level) {
        errors.push(format!(
            "{}: image.compression-level is {compression_level}, not from 1 to 22",
            path.display()
        ));
    }
    let cpus = qemu.cpus.map_or(2, |c| c.into_inner());
    if !(1..=64).contains(&cpus) {
        errors.push(format!(
            "{}: qemu.cpus is {cpus}, not from 1 to 64",
            path.display()
        ));
    }
    let keyring = keys
        .into_iter()
        .filter_map(|key| load_key(path, key, errors))
        .collect();
    let exclude = texts(packages.exclude);
    for both in install.iter().filter(|p| exclude.contains(p)) {
        errors.push(format!(
            "{}: package `{both}` is both in packages.install and in packages.exclude",
            path.display()
        ));
    }

    let paths = Paths {
        exclude: items(paths.exclude),
        keep: items(paths.keep),
    };
    let include_modules = items(modules.include);
    let exclude_modules = items(modules.exclude);
    let initrd_modules: Vec<String> = texts(kernel.initrd_modules);
    let initrd_patterns: Vec<Pattern> = initrd_modules
        .iter()
        .filter_map(|m| Pattern::new(&m.replace('-', "_")).ok())
        .collect();
    let compiled = CompiledRules::new(&paths, &include_modules, &exclude_modules, &initrd_patterns);
    let rules = match compiled {
        Ok(rules) => rules,
        Err(e) => {
            errors.push(format!(
                "{}: the path rules are too large: {e}",
                path.display()
            ));
            return None;
        }
    };
    Some(Board {
        name: name.to_owned(),
        description: raw.description?,
        architecture: raw.architecture?,
        debian: Debian { keyring, suites },
        packages: Packages { install, exclude },
        kernel: Kernel {
            package: kernel.package?.0,
            command_line: texts(kernel.command_line),
            initrd_modules,
            include_modules,
            exclude_modules,
        },
        paths,
        boot: Boot {
            method: boot.method?,
            package: boot.package?.0,
        },
        image: Image {
            boot_size: image.boot_size?.0,
            slot_size: image.slot_size?.0,
            compression_level,
        },
        node: Node {
            modules: texts(node.modules),
            sysctl: node
                .sysctl
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.0))
                .collect(),
        },
        qemu: Qemu {
            cpus,
            memory: qemu.memory.map_or(2 << 30, |m| m.0),
        },
        rules,
    })
}

impl CompiledRules {
    fn new(
        paths: &Paths,
        include_modules: &[Pattern],
        exclude_modules: &[Pattern],
        initrd_modules: &[Pattern],
    ) -> Result<Self, globset::Error> {
        Ok(Self {
            exclude: Rules::new(&paths.exclude)?,
            keep: Rules::new(&paths.keep)?,
            include_modules: Rules::new(include_modules)?,
            exclude_modules: Rules::new(exclude_modules)?,
            initrd_modules: Rules::new(initrd_modules)?,
        })
    }
}

/// A built-in key, or a file beside the board's TOML.
fn load_key(board: &Path, name: String, errors: &mut Vec<String>) -> Option<Key> {
    if let Some((_, armored)) = BUILT_IN_KEYS.iter().find(|(known, _)| *known == name) {
        return Some(Key {
            name,
            armored: armored.as_bytes().to_vec(),
        });
    }
    let path: PathBuf = board.parent().unwrap_or(Path::new("")).join(&name);
    if !name.ends_with(".asc") {
        let known: Vec<&str> = BUILT_IN_KEYS.iter().map(|(known, _)| *known).collect();
        let near = match near_miss(&name, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known are {}, and files that end in .asc", known.join(", ")),
        };
        errors.push(format!(
            "{}: unknown key `{name}` in debian.keyring, {near}",
            board.display()
        ));
        return None;
    }
    match std::fs::read(&path) {
        Ok(armored) => Some(Key { name, armored }),
        Err(e) => {
            errors.push(format!(
                "{}: debian.keyring: {}: {e}",
                board.display(),
                path.display()
            ));
            None
        }
    }
}

fn items<T: PartialEq + fmt::Display>(list: Option<RawList<T>>) -> Vec<T> {
    list.map(RawList::into_items).unwrap_or_default()
}

fn texts<T: PartialEq + fmt::Display>(list: Option<RawList<T>>) -> Vec<String> {
    items(list).iter().map(ToString::to_string).collect()
}
