//! Kernel modules: which of them an image has, and the indices that `depmod` would make.
//!
//! | file of `/usr/lib/modules/<release>/` | a line |
//! |---|---|
//! | `modules.dep` | `path: what it needs, what needs nothing last` |
//! | `modules.alias` | `alias PATTERN name` |
//! | `modules.softdep` | `softdep name pre: ... post: ...` |
//! | `modules.order` | `path`, in the order in which modules are tried |
//! | `modules.builtin`, `modules.builtin.modinfo` | as the kernel's package has them |
//!
//! A module is an ELF object whose section `.modinfo` holds `key=value` texts, each
//! ending in NUL. Sources: the kernel's include/linux/module.h and scripts/mod/modpost.c;
//! kmod's tools/depmod.c, whose order of lines is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

use object::{Object as _, ObjectSection as _};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Kind, Result, near_miss};
use crate::formats::store::Store;
use crate::progress::Progress;
use crate::tree::{Content, NodeKind, Tree};

/// The longest module that is believed to be one, uncompressed.
const MAX_SIZE: u64 = 256 << 20;

/// A module and what its `.modinfo` says.
#[derive(Debug, Clone)]
pub struct Module {
    /// As the kernel has it, with `_` for `-`.
    pub name: String,
    /// Below the release's directory, uncompressed: `kernel/fs/ext4/ext4.ko`.
    pub path: String,
    /// The ELF object.
    pub content: Content,
    /// Patterns of devices and names that it answers to.
    pub aliases: Vec<String>,
    /// Names of modules whose symbols it uses, in the order of `.modinfo`.
    pub depends: Vec<String>,
    /// Values of `softdep=`, such as `pre: a b post: c`.
    pub softdeps: Vec<String>,
}

/// Modules of one kernel, in the order of `modules.order`. All that one of them depends on
/// is among them or built in.
#[derive(Debug, Clone)]
pub struct Modules {
    /// The kernel's release, `uname -r`.
    pub release: String,
    /// The modules.
    pub modules: Vec<Module>,
    builtin: BTreeSet<String>,
    builtin_files: Vec<(&'static str, Content)>,
    /// Soft dependencies that nothing among these modules answers to, by name or alias.
    pub missing_softdeps: Vec<String>,
}

impl Modules {
    /// Takes the modules that `wanted` says, by name and path below `kernel/`, with all
    /// that they need, from the kernel of that release in the tree. Compressed ones are
    /// decompressed; the results are kept in `cache`.
    ///
    /// # Errors
    /// [`Kind::Input`] for broken modules and missing dependencies, [`Kind::Io`].
    pub fn select(
        tree: &Tree,
        release: &str,
        wanted: &dyn Fn(&str, &str) -> bool,
        cache: &Path,
        progress: &Progress,
    ) -> Result<Self> {
        let dir = format!("usr/lib/modules/{release}");
        let mut found: BTreeMap<String, (String, &Content)> = BTreeMap::new();
        for (path, node) in tree.below(&dir) {
            let (NodeKind::File(content), Some(relative)) = (&node.kind, path.get(dir.len() + 1..))
            else {
                continue;
            };
            if let Some((stem, _)) = split_suffix(relative) {
                found.insert(name_of(stem), (stem.to_owned(), content));
            }
        }
        if found.is_empty() {
            return Err(Error::new(
                Kind::Input,
                format!("there are no kernel modules below `{dir}`"),
            ));
        }
        let text = |file: &str| -> Result<String> {
            match tree.content(&format!("{dir}/{file}")) {
                Some(content) => Ok(String::from_utf8_lossy(&content.read()?).into_owned()),
                None => Ok(String::new()),
            }
        };
        let builtin = text("modules.builtin")?.lines().map(name_of).collect();
        let order = text("modules.order")?;
        let builtin_files = ["modules.builtin", "modules.builtin.modinfo"]
            .into_iter()
            .filter_map(|f| Some((f, tree.content(&format!("{dir}/{f}"))?.clone())))
            .collect();
        let task = progress.task("reading kernel modules", None);
        let store = Store::new(cache, "modules");
        let read = |name: &str| -> Result<Option<Module>> {
            progress.check()?;
            let Some((path, content)) = found.get(name) else {
                return Ok(None);
            };
            let module = read_module(path, content, &store)
                .map_err(|e| e.within(format!("kernel module `{path}`")))?;
            task.add(module.content.len());
            Ok(Some(module))
        };
        let start = found
            .iter()
            .filter(|(name, (path, _))| wanted(name, path.strip_prefix("kernel/").unwrap_or(path)))
            .map(|(name, _)| name.clone())
            .collect();
        // An alias such as `crc32c` has many modules answer to it; which of them an image has
        // is the board's choice, and it is only looked whether there is one.
        let (mut modules, mut missing_softdeps) =
            complete(start, &builtin, &read, &|_| Vec::new())?;
        let answers = by_alias(&modules);
        missing_softdeps.retain(|alias| !answers.contains_key(alias));
        sort(&mut modules, &order);
        Ok(Self {
            release: release.to_owned(),
            modules,
            builtin,
            builtin_files,
            missing_softdeps,
        })
    }

    /// Those of the modules that `wanted` says, with all that they need: for the initrd.
    /// A soft dependency that is an alias brings all that answer to it, as modprobe would
    /// load them: ext4 asks for `crc32c` and finds nothing without.
    ///
    /// # Errors
    /// None that [`Modules::select`] hasn't reported before.
    pub fn subset(&self, wanted: &dyn Fn(&str, &str) -> bool) -> Result<Self> {
        let by_name: BTreeMap<&str, &Module> =
            self.modules.iter().map(|m| (m.name.as_str(), m)).collect();
        let start = self
            .modules
            .iter()
            .filter(|m| wanted(&m.name, m.path.strip_prefix("kernel/").unwrap_or(&m.path)))
            .map(|m| m.name.clone())
            .collect();
        let read = |name: &str| Ok(by_name.get(name).map(|m| (*m).clone()));
        let answers = by_alias(&self.modules);
        let resolve = |alias: &str| answers.get(alias).cloned().unwrap_or_default();
        let (mut modules, missing_softdeps) = complete(start, &self.builtin, &read, &resolve)?;
        let order: Vec<&str> = self.modules.iter().map(|m| m.path.as_str()).collect();
        sort(&mut modules, &order.join("\n"));
        Ok(Self {
            release: self.release.clone(),
            modules,
            builtin: self.builtin.clone(),
            builtin_files: self.builtin_files.clone(),
            missing_softdeps,
        })
    }

    /// Whether a module of this name is among them or built in.
    pub fn has(&self, name: &str) -> bool {
        let name = name.replace('-', "_");
        self.builtin.contains(&name) || self.modules.iter().any(|m| m.name == name)
    }

    /// Puts the modules and their indices into a tree, in place of what that has of this
    /// kernel.
    ///
    /// # Errors
    /// [`Kind::Input`] if modules depend on each other in a circle.
    pub fn install(&self, tree: &mut Tree) -> Result<String> {
        let dir = format!("usr/lib/modules/{}", self.release);
        let prefix = format!("{dir}/");
        tree.retain(|path, _| !path.starts_with(&prefix));
        for module in &self.modules {
            tree.file(
                &format!("{dir}/{}", module.path),
                0o644,
                module.content.clone(),
            )?;
        }
        for (file, content) in &self.builtin_files {
            tree.file(&format!("{dir}/{file}"), 0o644, content.clone())?;
        }
        let order: String = self
            .modules
            .iter()
            .map(|m| format!("{}\n", m.path))
            .collect();
        tree.file(&format!("{dir}/modules.order"), 0o644, order)?;
        tree.file(&format!("{dir}/modules.dep"), 0o644, self.dependencies()?)?;
        tree.file(&format!("{dir}/modules.alias"), 0o644, self.aliases())?;
        tree.file(&format!("{dir}/modules.softdep"), 0o644, self.softdeps())?;
        let bytes: u64 = self.modules.iter().map(|m| m.content.len()).sum();
        Ok(format!(
            "modules: {} of kernel {}, {bytes} bytes, with modules.dep, .alias and .softdep",
            self.modules.len(),
            self.release
        ))
    }

    /// The text of `modules.dep`.
    fn dependencies(&self) -> Result<String> {
        let index: BTreeMap<&str, usize> = self
            .modules
            .iter()
            .enumerate()
            .map(|(i, m)| (m.name.as_str(), i))
            .collect();
        let needs: Vec<Vec<usize>> = self
            .modules
            .iter()
            .map(|m| {
                let mut seen = BTreeSet::new();
                m.depends
                    .iter()
                    .filter_map(|d| index.get(d.as_str()).copied())
                    .filter(|d| seen.insert(*d))
                    .collect()
            })
            .collect();
        let rank = self.rank(&needs)?;
        let mut text = String::new();
        for (module, direct) in self.modules.iter().zip(&needs) {
            text.push_str(&module.path);
            text.push(':');
            let mut all = BTreeSet::new();
            let mut todo = direct.clone();
            while let Some(i) = todo.pop() {
                if all.insert((rank[i], i)) {
                    todo.extend(&needs[i]);
                }
            }
            for (_, i) in all {
                text.push(' ');
                text.push_str(&self.modules[i].path);
            }
            text.push('\n');
        }
        Ok(text)
    }

    /// For each module its place in an order in which it comes before all it needs.
    fn rank(&self, needs: &[Vec<usize>]) -> Result<Vec<usize>> {
        let mut users = vec![0usize; needs.len()];
        for needed in needs.iter().flatten() {
            users[*needed] += 1;
        }
        let mut free: Vec<usize> = (0..needs.len()).filter(|i| users[*i] == 0).collect();
        let mut rank = vec![usize::MAX; needs.len()];
        let mut next = 0;
        while let Some(i) = free.pop() {
            rank[i] = next;
            next += 1;
            for needed in &needs[i] {
                users[*needed] -= 1;
                if users[*needed] == 0 {
                    free.push(*needed);
                }
            }
        }
        match rank.iter().position(|r| *r == usize::MAX) {
            None => Ok(rank),
            Some(i) => Err(Error::new(
                Kind::Input,
                format!(
                    "kernel module `{}` depends on itself through others",
                    self.modules[i].name
                ),
            )),
        }
    }

    fn aliases(&self) -> String {
        let mut text = String::from("# Aliases extracted from modules themselves.\n");
        for module in &self.modules {
            for alias in &module.aliases {
                text.push_str(&format!("alias {alias} {}\n", module.name));
            }
        }
        text
    }

    fn softdeps(&self) -> String {
        let mut text = String::from(
            "# Soft dependencies extracted from modules themselves.\n\
             # Copy, with a .conf extension, to /etc/modprobe.d to use it with modprobe.\n",
        );
        for module in &self.modules {
            for softdep in &module.softdeps {
                text.push_str(&format!("softdep {} {softdep}\n", module.name));
            }
        }
        text
    }
}

/// The names of modules by the aliases they answer to, those with wildcards left out.
fn by_alias(modules: &[Module]) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for module in modules {
        for alias in &module.aliases {
            let names = found.entry(alias.replace('-', "_")).or_default();
            names.push(module.name.clone());
        }
    }
    found
}

/// The modules of `start` and all they need, through `read`, which gives a module by name,
/// and `resolve`, which gives names by alias. What is needed softly may be missing, and is
/// named then.
fn complete(
    start: Vec<String>,
    builtin: &BTreeSet<String>,
    read: &dyn Fn(&str) -> Result<Option<Module>>,
    resolve: &dyn Fn(&str) -> Vec<String>,
) -> Result<(Vec<Module>, Vec<String>)> {
    let mut done: BTreeMap<String, Module> = BTreeMap::new();
    let mut missing = BTreeSet::new();
    let mut todo: Vec<(String, Option<String>)> = start.into_iter().map(|n| (n, None)).collect();
    while let Some((name, needed_by)) = todo.pop() {
        if done.contains_key(&name) || builtin.contains(&name) {
            continue;
        }
        let Some(module) = read(&name)? else {
            match needed_by {
                Some(by) => {
                    return Err(Error::new(
                        Kind::Input,
                        format!("kernel module `{by}` needs `{name}`, which is not there"),
                    )
                    .hint("the rules for paths must not exclude what modules need"));
                }
                None => {
                    let answering = resolve(&name);
                    if answering.is_empty() {
                        missing.insert(name);
                    }
                    todo.extend(answering.into_iter().map(|n| (n, None)));
                }
            }
            continue;
        };
        for needed in &module.depends {
            todo.push((needed.clone(), Some(name.clone())));
        }
        for softly in module.softdeps.iter().flat_map(|s| soft_names(s)) {
            todo.push((softly, None));
        }
        done.insert(name, module);
    }
    Ok((done.into_values().collect(), missing.into_iter().collect()))
}

/// Sorts as `modules.order` has it; what isn't in there follows, by path.
fn sort(modules: &mut [Module], order: &str) {
    let place: BTreeMap<&str, usize> = order
        .lines()
        .enumerate()
        .map(|(i, line)| (split_suffix(line).map_or(line, |(stem, _)| stem), i))
        .collect();
    modules.sort_by(|a, b| {
        let at = |m: &Module| place.get(m.path.as_str()).copied().unwrap_or(usize::MAX);
        at(a).cmp(&at(b)).then_with(|| a.path.cmp(&b.path))
    });
}

/// The names in `pre: a b post: c`.
fn soft_names(softdep: &str) -> impl Iterator<Item = String> {
    softdep
        .split_whitespace()
        .filter(|w| !w.ends_with(':'))
        .map(|w| w.replace('-', "_"))
}

/// How a module is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    None,
    Xz,
    Zstd,
    Gzip,
}

/// A path up to and with `.ko`, and the packing; `None` for what is no module.
fn split_suffix(path: &str) -> Option<(&str, Packing)> {
    let packings = [
        (".xz", Packing::Xz),
        (".zst", Packing::Zstd),
        (".gz", Packing::Gzip),
    ];
    let (stem, packing) = packings
        .into_iter()
        .find_map(|(suffix, p)| Some((path.strip_suffix(suffix)?, p)))
        .unwrap_or((path, Packing::None));
    stem.ends_with(".ko").then_some((stem, packing))
}

/// `kernel/net/nf-x.ko` → `nf_x`.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.strip_suffix(".ko").unwrap_or(file).replace('-', "_")
}

/// Reads a module whose path, without the packing's suffix, is `path`. Which packing it is
/// shows in its first bytes, as the kernel has it.
fn read_module(path: &str, content: &Content, store: &Store) -> Result<Module> {
    let raw = content.read()?;
    let packing = match raw.as_ref() {
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packing::Zstd,
        [0x1f, 0x8b, ..] => Packing::Gzip,
        _ => Packing::None,
    };
    if packing == Packing::None {
        return parse(path, &raw, content.clone());
    }
    let key: [u8; 32] = Sha256::digest(&raw).into();
    let bytes = match store.get(&key) {
        Some(bytes) => bytes,
        None => {
            let bytes = unpack(&raw, packing)?;
            store.put(&key, &bytes)?;
            bytes
        }
    };
    let content = store.content(&key, bytes.len() as u64);
    parse(path, &bytes, content)
}

fn unpack(raw: &[u8], packing: Packing) -> Result<Vec<u8>> {
    let wrong = |e: std::io::Error| Error::new(Kind::Input, format!("decompressing it: {e}"));
    let reader: Box<dyn std::io::Read> = match packing {
        Packing::None => Box::new(raw),
        Packing::Xz => Box::new(liblzma::read::XzDecoder::new(raw)),
        Packing::Zstd => Box::new(zstd::Decoder::new(raw).map_err(wrong)?),
        Packing::Gzip => Box::new(flate2::read::GzDecoder::new(raw)),
    };
    let mut bytes = Vec::new();
    reader
        .take(MAX_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(wrong)?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(Error::new(Kind::Input, "it is larger than 256 MiB"));
    }
    Ok(bytes)
}

/// Reads the `.modinfo` of an ELF object.
fn parse(path: &str, bytes: &[u8], content: Content) -> Result<Module> {
    let wrong = |why: String| Error::new(Kind::Input, why);
    let file =
        object::File::parse(bytes).map_err(|e| wrong(format!("it is no ELF object: {e}")))?;
    let info = file
        .section_by_name(".modinfo")
        .ok_or_else(|| wrong("it has no section .modinfo".into()))?
        .data()
        .map_err(|e| wrong(format!(".modinfo: {e}")))?;
    let mut module = Module {
        name: name_of(path),
        path: path.to_owned(),
        content,
        aliases: Vec::new(),
        depends: Vec::new(),
        softdeps: Vec::new(),
    };
    for text in info.split(|b| *b == 0) {
        let Some(at) = text.iter().position(|b| *b == b'=') else {
            continue;
        };
        let (key, value) = (&text[..at], &text[at + 1..]);
        let into = match key {
            b"alias" => &mut module.aliases,
            b"softdep" => &mut module.softdeps,
            b"depends" => &mut module.depends,
            _ => continue,
        };
        let value = str::from_utf8(value)
            .ok()
            .filter(|v| !v.contains(['\n', '\r']))
            .ok_or_else(|| {
                wrong(format!(
                    "its {} is no line of UTF-8",
                    String::from_utf8_lossy(key)
                ))
            })?;
        if key == b"depends" {
            let names = value.split(',').filter(|n| !n.is_empty());
            into.extend(names.map(|n| n.replace('-', "_")));
        } else {
            into.push(value.to_owned());
        }
    }
    Ok(module)
}

/// The error for a module that a board names and the kernel hasn't got.
pub fn unknown(name: &str, modules: &Modules) -> Error {
    let error = Error::new(
        Kind::Input,
        format!(
            "there is no kernel module `{name}` in kernel {}",
            modules.release
        ),
    );
    match near_miss(name, modules.modules.iter().map(|m| m.name.as_str())) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_packings() {
        assert_eq!(name_of("kernel/net/nf-x.ko"), "nf_x");
        assert_eq!(split_suffix("a/b.ko.xz"), Some(("a/b.ko", Packing::Xz)));
        assert_eq!(split_suffix("a/b.ko"), Some(("a/b.ko", Packing::None)));
        assert_eq!(split_suffix("modules.dep"), None);
        assert_eq!(
            soft_names("pre: a-b c post: d").collect::<Vec<_>>(),
            ["a_b", "c", "d"]
        );
    }
}
