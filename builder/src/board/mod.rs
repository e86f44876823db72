//! A board: everything that differs between the machines an image can be for.
//!
//! `board-configs/<name>.toml` → [`raw`](self) (what is written, with places) →
//! [`Board`] (what it means). Past this module nothing of a board is invalid.
//! `board-configs/base.toml` shows the keys at work.

mod check;
mod raw;
mod rules;
mod source;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use slipway_images::info::Loader;

pub use rules::Pattern;

use crate::digest;
use crate::error::{At as _, Error, Kind, Result};
use crate::secure_boot::Enroll;
use check::{check, read_chain};
use rules::Rules;

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

/// Files for the partition that a board without UEFI starts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootFile {
    /// Of packages, or beside the board's TOML.
    pub from: Pattern,
    /// Where they go: a file's path; a directory's with `/` at its end, or nothing.
    #[serde(default)]
    pub to: String,
    /// Whether they are their owner's from the first boot on, and never renewed.
    #[serde(default)]
    pub once: bool,
}

impl fmt::Display for BootFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.from)
    }
}

/// A file that a board's ROM wants at a place on the disk, before the first partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawPiece {
    /// Of a package.
    pub from: String,
    /// Bytes from the disk's beginning.
    #[serde(deserialize_with = "values::kibibytes")]
    pub at: u64,
}

impl fmt::Display for RawPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.from)
    }
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
    /// Words of the command line; `roothash=` is added by the builder.
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
    /// What chooses a slot and starts its kernel.
    pub method: Loader,
    /// The package that the loader is taken from, with UEFI the kernel's stub, too.
    pub package: String,
    /// When firmware is given the keys of an image that is signed.
    pub secure_boot_enroll: Enroll,
    /// U-Boot: what else is on the firmware partition.
    pub files: Vec<BootFile>,
    /// U-Boot: what lies before the first partition. Renewed after the files, in this order.
    pub raw: Vec<RawPiece>,
    /// U-Boot: device trees for the slot's boot area, by path below the kernel package's. The
    /// kernel gets the one that U-Boot names in `fdtfile`, or U-Boot's own where it names none.
    pub device_trees: Vec<Pattern>,
    /// U-Boot: overlays for the slot's boot area, of packages or beside the board's TOML. The
    /// kernel's device tree gets them in this order, before its owner's.
    pub overlays: Vec<Pattern>,
    /// U-Boot: what a slot's script does first.
    pub commands: Vec<String>,
    /// Raspberry Pi: lines at the end of `config.txt`.
    pub config_txt: Vec<String>,
}

/// `[image]`
#[derive(Debug, Clone, Serialize)]
pub struct Image {
    /// Where the first partition begins, in bytes.
    pub first_partition: u64,
    /// Whether the first partition is in the MBR, too, for ROMs that know no GPT.
    pub hybrid_mbr: bool,
    /// Size of the boot partition in bytes, or of the firmware's.
    pub boot_size: u64,
    /// Size of each slot's boot area in bytes, with U-Boot.
    pub slot_boot_size: Option<u64>,
    /// Size of each of the two root partitions in bytes.
    pub slot_size: u64,
    /// zstd level of the image for download.
    pub compression_level: i32,
    /// By which tags Raspberry Pi Imager knows the machines that it runs on.
    pub imager_devices: Vec<String>,
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

    /// The boards of a directory: those that aren't merely inherited from (`base`, `base-*`),
    /// nor there for tests only (`test-*`).
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn names(dir: &Path) -> Result<Vec<String>> {
        let mut names = Self::files(dir)?;
        names.retain(|name| {
            name != "base" && !name.starts_with("base-") && !name.starts_with("test-")
        });
        Ok(names)
    }

    /// All that can be inherited from.
    fn files(dir: &Path) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).at("reading", dir)? {
            let path = entry.at("reading", dir)?.path();
            if path.extension().is_some_and(|e| e == "toml")
                && let Some(stem) = path.file_stem().and_then(|s| s.to_str())
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
