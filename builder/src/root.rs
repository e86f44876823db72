//! The root filesystem and the initrd, put together in memory: what Debian's
//! packages bring, what this repository adds, and what maintainer scripts would
//! have done. [`assemble`] names the steps in their order.

use std::fs;
use std::path::Path;

use slipway_images::bundle::keys::{PublicKey, TRUSTED_KEYS_DIR};
use slipway_images::info::{IMAGE_INFO_PATH, ImageInfo};
use slipway_images::layout::{self, Bytes, Sizes};
use slipway_images::service::Service;

use crate::board::{Architecture, Board};
use crate::boot::{self, BootFiles};
use crate::components::{Addon, Built as Program};
use crate::debian::{self, Fetched};
use crate::error::{At as _, Error, Kind, Result};
use crate::progress::Progress;
use crate::recipe::modules::Modules;
use crate::recipe::skeleton::{self, Identity};
use crate::recipe::{self, alternatives, busybox, certificates, ldcache};
use crate::source::Source;
use crate::tree::{Content, NodeKind, Tree};

/// What a root is made from.
pub struct Ingredients<'a> {
    /// The checkout.
    pub source: &'a Source,
    /// The board.
    pub board: &'a Board,
    /// Debian packages in the cache.
    pub packages: &'a [Fetched],
    /// Our programs.
    pub programs: &'a [Program],
    /// Our add-ons.
    pub addons: &'a [Addon],
    /// What the image says about itself.
    pub info: &'a ImageInfo,
    /// Whose updates nodes take.
    pub update_keys: &'a [PublicKey],
    /// Where unpacked packages are kept.
    pub cache: &'a Path,
}

/// A root, an initrd, and what is needed to boot them.
pub struct Root {
    /// The root filesystem.
    pub tree: Tree,
    /// The initrd, not yet an archive.
    pub initrd: Tree,
    /// What goes onto the boot partitions instead.
    pub boot: BootFiles,
    /// A line for each thing done in place of maintainer scripts.
    pub steps: Vec<String>,
}

/// Puts a root together.
///
/// # Errors
/// Those of the packages and recipes; [`Kind::Input`] where a package lacks what
/// the board needs of it.
pub fn assemble(from: &Ingredients<'_>, progress: &Progress) -> Result<Root> {
    let board = from.board;
    let mut tree = Tree::new();
    let mut steps = vec![skeleton::directories(&mut tree)?];
    unpack(&mut tree, from, progress)?;
    let identity = Identity {
        version: &from.info.version,
        board: &board.name,
        kubernetes: &from.info.kubernetes,
    };
    steps.extend(skeleton::configuration(&mut tree, &identity)?);
    let boot = boot::take(&mut tree, board, from.source)?;

    let wanted = |_: &str, path: &str| board.keeps_module(path);
    let modules = Modules::select(&tree, &boot.release, &wanted, from.cache, progress)?;
    steps.push(modules.install(&mut tree)?);
    let early = modules.subset(&|name, _| board.wants_in_initrd(name))?;

    add_programs(&mut tree, from.programs)?;
    add_addons(&mut tree, from.addons)?;
    copy_files(&mut tree, &from.source.path("distro/files"), "")?;
    copy_files(&mut tree, &from.source.path("distro/services"), SERVICES)?;
    steps.push(drop_services(&mut tree)?);
    add_node_settings(&mut tree, from)?;

    steps.push(alternatives::link(&mut tree)?);
    steps.push(busybox::link(&mut tree)?);
    steps.push(certificates::bundle(&mut tree)?);
    steps.push(ldcache::write(&mut tree)?);
    let (initrd, step) = initrd(&tree, &early)?;
    steps.push(step);
    Ok(Root {
        tree,
        initrd,
        boot,
        steps,
    })
}

fn initrd(root: &Tree, modules: &Modules) -> Result<(Tree, String)> {
    let of_root = |path: &str| {
        root.content(path)
            .cloned()
            .ok_or_else(|| Error::new(Kind::Bug, format!("the root has no {path}")))
    };
    recipe::initrd::tree(of_root(INIT)?, modules, of_root(IMAGE_INFO_PATH)?)
}

/// PID 1 in the root.
const INIT: &str = "usr/lib/slipway/init";

/// What else PID 1's program is started as.
const INIT_NAMES: [&str; 5] = ["init", "modprobe", "poweroff", "reboot", "halt"];

/// Sizes of the shipped partitions.
pub fn sizes(board: &Board) -> Sizes {
    Sizes {
        start: Bytes::new(board.image.first_partition),
        esp: Bytes::new(board.image.boot_size),
        boot: board.image.slot_boot_size.map(Bytes::new),
        root: Bytes::new(board.image.slot_size),
        root_type: match board.architecture {
            Architecture::Amd64 => layout::TYPE_ROOT_X86_64,
            Architecture::Arm64 => layout::TYPE_ROOT_ARM64,
            Architecture::Armhf => layout::TYPE_ROOT_ARM,
        },
    }
}

/// How much of a slot the filesystem takes: a sixty-fourth, in whole MiB, is left
/// for its verity tree, which needs a little over 1/128.
pub fn filesystem_size(slot: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    (slot - slot / 64) / MIB * MIB
}

fn unpack(tree: &mut Tree, from: &Ingredients<'_>, progress: &Progress) -> Result<()> {
    let rules = from.board.rules_digest()?;
    let keep = |path: &str| from.board.keeps_path(path);
    let unpacked = debian::unpack_all(from.packages, &keep, &rules, from.cache, progress)?;
    for (package, entries) in from.packages.iter().zip(unpacked) {
        for (path, node) in entries {
            tree.insert(&path, node)
                .map_err(|e| e.within(&package.package.name))?;
        }
    }
    Ok(())
}

fn add_programs(tree: &mut Tree, programs: &[Program]) -> Result<()> {
    for program in programs {
        let content = Content::file(&program.path)?;
        let (dir, links) = match program.name.as_str() {
            "init" => ("usr/lib/slipway", "usr/sbin"),
            "cni" => ("usr/libexec/cni", "usr/libexec/cni"),
            _ => ("usr/bin", "usr/bin"),
        };
        tree.file(&format!("{dir}/{}", program.name), 0o755, content)?;
        let own = if program.name == "init" {
            &INIT_NAMES[..]
        } else {
            &[]
        };
        for link in program
            .links
            .iter()
            .map(String::as_str)
            .chain(own.iter().copied())
        {
            let target = if dir == links {
                program.name.clone()
            } else {
                format!("/{dir}/{}", program.name)
            };
            tree.symlink(&format!("{links}/{link}"), &target)?;
        }
    }
    Ok(())
}

fn add_addons(tree: &mut Tree, addons: &[Addon]) -> Result<()> {
    for addon in addons {
        if let Some(image) = &addon.image {
            let path = format!("usr/share/slipway/images/{}", image.file_name);
            tree.file(&path, 0o644, image.content.clone())?;
        }
        for (name, manifest) in &addon.manifests {
            tree.file(
                &format!("usr/share/slipway/addons/{name}"),
                0o644,
                manifest.clone(),
            )?;
        }
    }
    Ok(())
}

/// Copies a directory of the checkout as it is, with its execute bits.
fn copy_files(tree: &mut Tree, from: &Path, to: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    for entry in fs::read_dir(from).at("reading", from)? {
        let path = entry.at("reading", from)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).ok_or_else(|| {
            Error::new(
                Kind::Input,
                format!("{} is not named in UTF-8", path.display()),
            )
        })?;
        let target = format!("{to}/{name}");
        let meta = fs::symlink_metadata(&path).at("reading", &path)?;
        if meta.is_dir() {
            copy_files(tree, &path, &target)?;
        } else if meta.is_symlink() {
            let link = fs::read_link(&path).at("reading", &path)?;
            tree.symlink(&target, &link.to_string_lossy())?;
        } else {
            let mode = if meta.permissions().mode() & 0o100 != 0 {
                0o755
            } else {
                0o644
            };
            let bytes = fs::read(&path).at("reading", &path)?;
            tree.file(&target, mode, bytes)?;
        }
    }
    Ok(())
}

/// Where PID 1 looks for services.
const SERVICES: &str = "usr/lib/slipway/services";

/// Takes out the services whose programs no package has brought, where that is allowed.
fn drop_services(tree: &mut Tree) -> Result<String> {
    let mut lacking = Vec::new();
    for (path, node) in tree.below(SERVICES) {
        let name = Path::new(path).file_stem().and_then(|n| n.to_str());
        let (Some(name), NodeKind::File(content)) = (name, &node.kind) else {
            continue;
        };
        let text = content.read()?;
        let service = Service::parse(name, &String::from_utf8_lossy(&text))
            .map_err(|e| Error::new(Kind::Input, e.to_string()))?;
        let program = service.command.first().map_or("", String::as_str);
        if recipe::resolve(tree, program).is_some() {
            continue;
        }
        if !service.optional {
            let message = format!("service {name}: nothing brings {program}");
            return Err(Error::new(Kind::Input, message)
                .hint("add its package to packages.install, or make the service `optional`"));
        }
        lacking.push((path.to_owned(), format!("{name} (no {program})")));
    }
    tree.retain(|path, _| !lacking.iter().any(|(lacks, _)| lacks == path));
    let names: Vec<_> = lacking.into_iter().map(|(_, name)| name).collect();
    Ok(match names.is_empty() {
        true => "services: all".into(),
        false => format!("services: all but {}", names.join(", ")),
    })
}

/// `image.json`, the keys of updates, and what the board's `[node]` says.
fn add_node_settings(tree: &mut Tree, from: &Ingredients<'_>) -> Result<()> {
    let info = serde_json::to_string_pretty(from.info)
        .map_err(|e| Error::new(Kind::Bug, format!("writing image.json: {e}")))?;
    tree.file(IMAGE_INFO_PATH, 0o644, info + "\n")?;
    for key in from.update_keys {
        let path = format!("{TRUSTED_KEYS_DIR}/{}.pem", key.id());
        tree.file(&path, 0o644, key.pem())?;
    }
    let node = &from.board.node;
    if !node.modules.is_empty() {
        let list = node.modules.join("\n") + "\n";
        tree.file("usr/lib/slipway/modules.d/60-board.conf", 0o644, list)?;
    }
    if !node.sysctl.is_empty() {
        let list: String = node
            .sysctl
            .iter()
            .map(|(k, v)| format!("{k} = {v}\n"))
            .collect();
        tree.file("usr/lib/slipway/sysctl.d/60-board.conf", 0o644, list)?;
    }
    Ok(())
}
