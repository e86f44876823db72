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

mod index;

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};

use index::{Aliases, Entry, Soft, name_of_path, parse_cmdline, parse_dep, parse_softdep};
pub use index::{glob_match, normalise, parse_modules_conf};

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
        let found = self.aliases().lookup(name);
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
mod tests;
