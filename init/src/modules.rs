//! Kernel modules: the text indices that depmod writes, and loading in dependency order.
//!
//! | file in /usr/lib/modules/VERSION | line |
//! |---|---|
//! | modules.dep | `kernel/a.ko: kernel/b.ko kernel/c.ko`, the last to be loaded first |
//! | modules.alias | `alias PATTERN NAME`, PATTERN as in glob(7) |
//! | modules.softdep | `softdep NAME pre: X Y post: Z` |
//! | modules.builtin | `kernel/x.ko`, in the kernel itself |
//! | modules.builtin.modinfo | `NAME.alias=PATTERN`, NUL-terminated |
//!
//! `-` and `_` are the same in names; `_` is used here, as the kernel does.
//! Options come from /usr/lib/slipway/modules.d/*.conf (`NAME option=value ...`, also the
//! list of modules to preload) and from `NAME.option=value` on the kernel command line.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};

/// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h (Linux 5.17 and later).
const COMPRESSED_FILE: u32 = 4;

/// Where modules with options, and those to preload, are listed.
pub const MODULES_D: &str = "/usr/lib/slipway/modules.d";

/// Why a module could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// No module and no alias has this name.
    #[error("module {0} not found in {1}")]
    NotFound(String, PathBuf),
    /// An index could not be read.
    #[error("cannot read {0}: {1}")]
    Index(PathBuf, io::Error),
    /// The kernel refused it.
    #[error("cannot load {path}: {source}")]
    Load {
        /// The module's file.
        path: PathBuf,
        /// ENODEV: no such hardware; EINVAL, ENOENT: see the kernel's log.
        source: Errno,
    },
    /// The module's file could not be opened.
    #[error("cannot open {0}: {1}")]
    Open(PathBuf, io::Error),
}

impl ModuleError {
    /// Whether it only means that this driver found no hardware of its kind.
    pub fn is_no_hardware(&self) -> bool {
        matches!(
            self,
            Self::Load {
                source: Errno::ENODEV,
                ..
            }
        )
    }
}

/// A name as the kernel has it in /sys/module.
pub fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

/// The module's name from its path: `kernel/fs/nls/nls-utf8.ko.xz` is `nls_utf8`.
fn name_of_path(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let (name, _) = file.split_once(".ko")?;
    Some(normalise(name))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    path: String,
    /// In the order of loading.
    dependencies: Vec<String>,
}

fn parse_dep(text: &str) -> HashMap<String, Entry> {
    let mut map = HashMap::new();
    for line in text.lines() {
        let Some((path, dependencies)) = line.split_once(':') else {
            continue;
        };
        let Some(name) = name_of_path(path) else {
            continue;
        };
        let mut dependencies: Vec<String> = dependencies
            .split_ascii_whitespace()
            .filter_map(name_of_path)
            .collect();
        dependencies.reverse();
        let path = path.to_owned();
        map.insert(name, Entry { path, dependencies });
    }
    map
}

/// Aliases by what stands before the first `:`, so that a lookup tries few patterns.
#[derive(Debug, Default)]
struct Aliases(HashMap<String, Vec<(String, String)>>);

impl Aliases {
    fn add(&mut self, pattern: &str, name: &str) {
        let bus = pattern
            .split([':', '-', '*', '?', '['])
            .next()
            .unwrap_or_default();
        self.0
            .entry(bus.to_owned())
            .or_default()
            .push((pattern.to_owned(), normalise(name)));
    }

    fn parse(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                self.add(pattern, name);
            }
        }
    }

    fn parse_builtin(&mut self, bytes: &[u8]) {
        for record in bytes.split(|b| *b == 0) {
            let Ok(record) = std::str::from_utf8(record) else {
                continue;
            };
            if let Some((key, pattern)) = record.split_once('=')
                && let Some(name) = key.strip_suffix(".alias")
            {
                self.add(pattern, name);
            }
        }
    }

    fn lookup(&self, alias: &str) -> Vec<&str> {
        let bus = alias
            .split([':', '-', '*', '?', '['])
            .next()
            .unwrap_or_default();
        let mut names: Vec<&str> = Vec::new();
        for key in [bus, ""] {
            for (pattern, name) in self.0.get(key).into_iter().flatten() {
                if glob_match(pattern, alias) && !names.contains(&name.as_str()) {
                    names.push(name);
                }
            }
            if bus.is_empty() {
                break;
            }
        }
        names
    }
}

type Soft = HashMap<String, (Vec<String>, Vec<String>)>;

fn parse_softdep(text: &str) -> Soft {
    let mut map = Soft::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some("softdep"), Some(name)) = (words.next(), words.next()) else {
            continue;
        };
        let (pre, post) = map.entry(normalise(name)).or_default();
        let mut into_post = None;
        for word in words {
            match (word, into_post) {
                ("pre:", _) => into_post = Some(false),
                ("post:", _) => into_post = Some(true),
                (word, Some(false)) => pre.push(normalise(word)),
                (word, Some(true)) => post.push(normalise(word)),
                (_, None) => {}
            }
        }
    }
    map
}

/// glob(7) for aliases: `*`, `?` and `[a-z]`. Linear in practice: only the last `*` is
/// tried again.
pub fn glob_match(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        let step = match pattern.get(p) {
            None if t == text.len() => return true,
            None => None,
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'[') => match_class(pattern, p, text.get(t).copied()),
            Some(b'?') => text.get(t).map(|_| p + 1),
            Some(b) => (text.get(t) == Some(b)).then_some(p + 1),
        };
        match (step, star) {
            (Some(next), _) => {
                p = next;
                t += 1;
            }
            (None, Some((after, from))) if from < text.len() => {
                p = after;
                t = from + 1;
                star = Some((after, t));
            }
            (None, _) => return false,
        }
    }
}

/// Gives where the pattern goes on after the class at `start`, if `byte` is in it.
fn match_class(pattern: &[u8], start: usize, byte: Option<u8>) -> Option<usize> {
    let byte = byte?;
    let mut at = start + 1;
    let negated = matches!(pattern.get(at), Some(b'!' | b'^'));
    if negated {
        at += 1;
    }
    let mut found = false;
    let first = at;
    loop {
        let low = *pattern.get(at)?;
        if low == b']' && at > first {
            return (found != negated).then_some(at + 1);
        }
        if pattern.get(at + 1) == Some(&b'-') && pattern.get(at + 2).is_some_and(|b| *b != b']') {
            let high = *pattern.get(at + 2)?;
            found |= (low..=high).contains(&byte);
            at += 3;
        } else {
            found |= low == byte;
            at += 1;
        }
    }
}

/// One line of modules.d: a module and its options.
pub fn parse_modules_conf(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let line = line.split('#').next()?.trim();
            let (name, options) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            (!name.is_empty()).then(|| (normalise(name), options.trim().to_owned()))
        })
        .collect()
}

/// Options (`module.option=value`) and `modprobe.blacklist=a,b` of a kernel command line.
fn parse_cmdline(text: &str) -> (BTreeMap<String, String>, HashSet<String>) {
    let mut options: BTreeMap<String, String> = BTreeMap::new();
    let mut blacklist = HashSet::new();
    for word in text.split_ascii_whitespace() {
        if let Some(list) = word.strip_prefix("modprobe.blacklist=") {
            blacklist.extend(list.split(',').map(normalise));
        } else if let Some((module, option)) = word.split_once('.')
            && !module.contains('=')
        {
            let all = options.entry(normalise(module)).or_default();
            if !all.is_empty() {
                all.push(' ');
            }
            all.push_str(option);
        }
    }
    (options, blacklist)
}

/// The modules of one kernel version. Indices are read when first needed.
#[derive(Debug)]
pub struct Modules {
    base: PathBuf,
    entries: OnceCell<HashMap<String, Entry>>,
    aliases: OnceCell<Aliases>,
    soft: OnceCell<Soft>,
    builtin: OnceCell<HashSet<String>>,
    options: BTreeMap<String, String>,
    blacklist: HashSet<String>,
    sys_module: PathBuf,
    done: HashSet<String>,
    absent: HashSet<String>,
}

impl Modules {
    /// The modules of the running kernel.
    ///
    /// # Errors
    /// When uname(2) fails.
    pub fn of_running_kernel() -> io::Result<Self> {
        let name = nix::sys::utsname::uname()?;
        let release = name.release().to_string_lossy().into_owned();
        let mut modules = Self::at(&Path::new("/usr/lib/modules").join(release));
        for (name, options) in preload_list(Path::new(MODULES_D)) {
            if !options.is_empty() {
                modules.options.insert(name, options);
            }
        }
        let cmdline = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
        let (options, blacklist) = parse_cmdline(&cmdline);
        modules.options.extend(options);
        modules.blacklist = blacklist;
        Ok(modules)
    }

    /// The modules in a directory.
    pub fn at(base: &Path) -> Self {
        Self {
            base: base.to_owned(),
            entries: OnceCell::new(),
            aliases: OnceCell::new(),
            soft: OnceCell::new(),
            builtin: OnceCell::new(),
            options: BTreeMap::new(),
            blacklist: HashSet::new(),
            sys_module: "/sys/module".into(),
            done: HashSet::new(),
            absent: HashSet::new(),
        }
    }

    fn text(&self, name: &str) -> Result<String, ModuleError> {
        let path = self.base.join(name);
        let bytes = std::fs::read(&path).map_err(|e| ModuleError::Index(path, e))?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn entries(&self) -> Result<&HashMap<String, Entry>, ModuleError> {
        if self.entries.get().is_none() {
            let text = self.text("modules.dep")?;
            return Ok(self.entries.get_or_init(|| parse_dep(&text)));
        }
        Ok(self.entries.get_or_init(HashMap::new))
    }

    fn aliases(&self) -> &Aliases {
        self.aliases.get_or_init(|| {
            let mut aliases = Aliases::default();
            // An initrd with few modules may lack one of them.
            aliases.parse(&self.text("modules.alias").unwrap_or_default());
            let builtin = std::fs::read(self.base.join("modules.builtin.modinfo"));
            aliases.parse_builtin(&builtin.unwrap_or_default());
            aliases
        })
    }

    fn soft(&self) -> &Soft {
        self.soft
            .get_or_init(|| parse_softdep(&self.text("modules.softdep").unwrap_or_default()))
    }

    fn is_builtin(&self, name: &str) -> bool {
        self.builtin
            .get_or_init(|| {
                let text = self.text("modules.builtin").unwrap_or_default();
                text.lines().filter_map(name_of_path).collect()
            })
            .contains(name)
    }

    /// The modules that a name or alias stands for. Built-in ones are included.
    ///
    /// # Errors
    /// When modules.dep cannot be read.
    pub fn resolve(&self, name: &str) -> Result<Vec<String>, ModuleError> {
        let plain = normalise(name);
        if self.entries()?.contains_key(&plain) || self.is_builtin(&plain) {
            return Ok(vec![plain]);
        }
        let aliases = self.aliases();
        let mut found = aliases.lookup(name);
        if found.is_empty() {
            found = aliases.lookup(&plain);
        }
        Ok(found.into_iter().map(str::to_owned).collect())
    }

    /// All modules to load for one, in order, soft dependencies included.
    ///
    /// # Errors
    /// When modules.dep cannot be read or the module is not there.
    pub fn plan(&self, name: &str) -> Result<Vec<String>, ModuleError> {
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        self.plan_into(name, &mut order, &mut seen)?;
        Ok(order)
    }

    fn plan_into(
        &self,
        name: &str,
        order: &mut Vec<String>,
        seen: &mut HashSet<String>,
    ) -> Result<(), ModuleError> {
        if self.is_builtin(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let entry = self
            .entries()?
            .get(name)
            .ok_or_else(|| ModuleError::NotFound(name.to_owned(), self.base.clone()))?;
        let (pre, post) = self.soft().get(name).cloned().unwrap_or_default();
        for soft in pre {
            // A soft dependency may be an alias or absent; it is only a wish.
            for name in self.resolve(&soft)? {
                drop(self.plan_into(&name, order, seen));
            }
        }
        for dependency in &entry.dependencies {
            self.plan_into(dependency, order, seen)?;
        }
        order.push(name.to_owned());
        for soft in post {
            for name in self.resolve(&soft)? {
                drop(self.plan_into(&name, order, seen));
            }
        }
        Ok(())
    }

    /// Loads what a name or alias stands for. An alias may match several modules: all are
    /// loaded, as udev does. Gives the number of modules newly loaded.
    ///
    /// # Errors
    /// The first error met; `NotFound` when the name stands for nothing.
    pub fn load(&mut self, name: &str) -> Result<usize, ModuleError> {
        let names = self.resolve(name)?;
        if names.is_empty() {
            return Err(ModuleError::NotFound(name.to_owned(), self.base.clone()));
        }
        let by_alias = names.first().is_none_or(|n| *n != normalise(name));
        let mut first_error = None;
        let mut count = 0;
        for module in names {
            if by_alias && self.blacklist.contains(&module) {
                continue;
            }
            match self.load_planned(&module) {
                Ok(n) => count += n,
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(count), Err)
    }

    /// Takes a module out of the kernel, and then those it needed that nobody else needs.
    ///
    /// # Errors
    /// EWOULDBLOCK while it is in use.
    pub fn remove(&mut self, name: &str) -> Result<usize, ModuleError> {
        let mut count = 0;
        for module in self.resolve(name)? {
            let mut plan = self.plan(&module)?;
            plan.reverse();
            for part in plan {
                let c_name = CString::new(part.as_str()).unwrap_or_default();
                match delete_module(&c_name, DeleteModuleFlags::O_NONBLOCK) {
                    Ok(()) => {
                        self.done.remove(&part);
                        count += 1;
                    }
                    Err(_) if part != module => {}
                    Err(Errno::ENOENT) => {}
                    Err(source) => {
                        let path = self.base.join(&part);
                        return Err(ModuleError::Load { path, source });
                    }
                }
            }
        }
        Ok(count)
    }

    fn load_planned(&mut self, name: &str) -> Result<usize, ModuleError> {
        if self.done.contains(name) {
            return Ok(0);
        }
        let plan = self.plan(name)?;
        let mut count = 0;
        for module in &plan {
            match self.insert(module) {
                Ok(true) => count += 1,
                Ok(false) => {}
                // Soft dependencies and those without hardware do not stop the rest.
                Err(error) if module != name && error.is_no_hardware() => {}
                Err(error) => return Err(error),
            }
        }
        self.done.insert(name.to_owned());
        Ok(count)
    }

    fn is_live(&self, name: &str) -> bool {
        // Only loaded modules have `initstate`; built-in ones with parameters do not.
        std::fs::read_to_string(self.sys_module.join(name).join("initstate"))
            .is_ok_and(|state| state.trim() == "live")
    }

    fn insert(&mut self, name: &str) -> Result<bool, ModuleError> {
        if self.done.contains(name) || self.absent.contains(name) || self.is_live(name) {
            return Ok(false);
        }
        let Some(entry) = self.entries()?.get(name) else {
            return Err(ModuleError::NotFound(name.to_owned(), self.base.clone()));
        };
        let path = self.base.join(&entry.path);
        let file = File::open(&path).map_err(|e| ModuleError::Open(path.clone(), e))?;
        let options = self.options.get(name).cloned().unwrap_or_default();
        let options = CString::new(options).unwrap_or_default();
        let flags = if entry.path.ends_with(".ko") {
            ModuleInitFlags::empty()
        } else {
            ModuleInitFlags::from_bits_retain(COMPRESSED_FILE)
        };
        match finit_module(&file, &options, flags) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Ok(false),
            Err(source) => {
                if source == Errno::ENODEV {
                    // Its hardware will not appear: do not read and verify it again for each
                    // module that would like to use it.
                    self.absent.insert(name.to_owned());
                }
                return Err(ModuleError::Load { path, source });
            }
        }
        self.done.insert(name.to_owned());
        Ok(true)
    }
}

/// Reads all *.conf of a modules.d directory in the order of their names.
pub fn preload_list(directory: &Path) -> Vec<(String, String)> {
    crate::files::sorted_files(directory, "conf")
        .into_iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|text| parse_modules_conf(&text))
        .collect()
}

#[cfg(test)]
#[path = "modules_tests.rs"]
mod tests;
