//! From files on top of one another to one board of which everything is valid.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use slipway_images::info::Loader;
use slipway_images::layout::ALIGNMENT;

use super::raw::{Lost, Raw, RawList};
use super::rules::Rules;
use super::source::Source;
use super::{
    Board, Boot, CompiledRules, Debian, Image, Kernel, Key, Node, Packages, Paths, Pattern, Qemu,
};
use crate::error::{Result, near_miss};

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

/// A file on top of those it inherits from.
pub(super) fn read_chain(dir: &Path, name: &str, errors: &mut Vec<String>) -> Result<Raw> {
    let mut chain = Chain {
        dir,
        files: Vec::new(),
        errors,
    };
    chain.gather(name, None, &mut Vec::new())?;
    let files = chain.files;
    let mut merged = Raw::default();
    for (source, raw) in files {
        let lost;
        (merged, lost) = raw.on(merged);
        errors.extend(lost.into_iter().map(|l| lost_message(&source, l)));
    }
    Ok(merged)
}

/// Who inherits from a file, and where it says so.
type Asked<'a> = Option<(&'a Source, Range<usize>)>;

/// Files that lie on top of one another, the lowest first.
struct Chain<'a> {
    dir: &'a Path,
    files: Vec<(Source, Raw)>,
    errors: &'a mut Vec<String>,
}

impl Chain<'_> {
    /// Reads a file after those it inherits from. `above` are the names on the way to it.
    fn gather(&mut self, name: &str, asked: Asked<'_>, above: &mut Vec<String>) -> Result<()> {
        let path = self.dir.join(format!("{name}.toml"));
        if name.is_empty() || name.contains(['/', '\\', '\0']) || !path.is_file() {
            self.errors.push(unknown_board(self.dir, name, asked)?);
            return Ok(());
        }
        let source = Source::read(&path)?;
        let (raw, found) = source.parse();
        self.errors.extend(found);
        if let Some(inherits) = &raw.inherits {
            above.push(name.to_owned());
            for (place, parent) in inherits.get_ref().0.iter().enumerate() {
                let asked = (&source, inherits.span());
                if let Some(why) = refused(above, parent) {
                    let message = format!("inherits from `{parent}`, {why}");
                    self.errors.push(source.message(Some(asked.1), &message));
                    continue;
                }
                let before = self.files.len();
                self.gather(parent, Some(asked), above)?;
                // On top of the first, a base that both have would undo what that changes.
                if place > 0 && self.files.len() > before + 1 {
                    let message = format!(
                        "inherits from `{parent}`, which inherits from others: only the first of a list may"
                    );
                    self.errors
                        .push(source.message(Some(inherits.span()), &message));
                }
            }
            above.pop();
        }
        self.files.push((source, raw));
        Ok(())
    }
}

/// Why a file can't be inherited from by the last of those above it.
fn refused(above: &[String], parent: &str) -> Option<&'static str> {
    if above.iter().any(|name| name == parent) {
        return Some("which inherits from this one");
    }
    (above.len() >= MAX_DEPTH).then_some("which is one too many")
}

fn lost_message(source: &Source, lost: Lost) -> String {
    let mut message = format!("`{}` can't be removed: it isn't in the list", lost.item);
    if let Some(near) = near_miss(&lost.item, lost.known.iter().map(String::as_str)) {
        message.push_str(&format!(", did you mean `{near}`?"));
    }
    source.message(Some(lost.span), &message)
}

fn unknown_board(dir: &Path, name: &str, asked: Asked<'_>) -> Result<String> {
    let names = match asked {
        // Files that are merely inherited from count, too.
        Some(_) => Board::files(dir)?,
        None => Board::names(dir)?,
    };
    let mut message = format!("there is no board `{name}`");
    match near_miss(name, names.iter().map(String::as_str)) {
        Some(near) => message.push_str(&format!(", did you mean `{near}`?")),
        None => message.push_str(&format!("; there is: {}", names.join(", "))),
    }
    Ok(match asked {
        Some((source, span)) => source.message(Some(span), &message),
        None => message,
    })
}

/// From what is written to what it means.
pub(super) fn check(name: &str, path: &Path, raw: Raw, errors: &mut Vec<String>) -> Option<Board> {
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
        (
            "image.slot-boot-size",
            boot.method == Some(Loader::UBoot) && image.slot_boot_size.is_none(),
        ),
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
    let boot_method = boot.method?;
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
            method: boot_method,
            package: boot.package?.0,
            secure_boot_enroll: boot.secure_boot_enroll.unwrap_or_default(),
            files: items(boot.files),
            raw: items(boot.raw),
            device_trees: items(boot.device_trees),
            overlays: items(boot.overlays),
            commands: texts(boot.commands),
            config_txt: texts(boot.config_txt),
        },
        image: Image {
            first_partition: image
                .first_partition
                .map_or(ALIGNMENT.get(), |place| place.0),
            hybrid_mbr: image.hybrid_mbr.unwrap_or_default(),
            boot_size: image.boot_size?.0,
            slot_boot_size: (image.slot_boot_size.map(|size| size.0))
                .filter(|_| boot_method == Loader::UBoot),
            slot_size: image.slot_size?.0,
            compression_level,
            imager_devices: texts(image.imager_devices),
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
