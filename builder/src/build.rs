//! The walk from a board's TOML to an image. [`build`] is the whole of it, a
//! step a line; the rooms it passes through are the modules it calls.

mod outputs;

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use slipway_images::bundle::keys::PublicKey;
use slipway_images::info::ImageInfo;
use slipway_images::layout::{Slot, Table, derive_uuid};

use crate::atomic;
use crate::board::Board;
use crate::boot;
use crate::components::{self, Addon, Built as Program, KUBECTL, Toolchains};
use crate::debian::{self, Fetched, Mirror};
use crate::digest;
use crate::error::{At as _, Error, Kind, Result};
use crate::formats::{bmap, ext4, gpt, verity, zst};
use crate::imager;
use crate::inventory::{self, Origin, Part};
use crate::lock::Lock;
use crate::manifest::{self, Manifest};
use crate::progress::Progress;
use crate::root::{self, Root};
use crate::sbom;
use crate::secure_boot::{self, SecureBoot};
use crate::source::Source;
use crate::time;

pub use outputs::{Names, Outputs};
use outputs::{Stamp, lock_directory};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Name of a board.
    pub board: String,
    /// Where outputs go.
    pub out: PathBuf,
    /// A Debian mirror other than the host's own.
    pub mirror: Option<String>,
    /// A lock whose inputs to take.
    pub locked: Option<PathBuf>,
    /// The image's release number, unless a lock has it.
    pub release: Option<u64>,
    /// Whose updates nodes with the image take.
    pub update_keys: Vec<PublicKey>,
    /// Whether to go on without a suite that is past its date.
    pub skip_stale: bool,
    /// Where fetched and built parts are kept.
    pub cache: PathBuf,
    /// A directory of keys to sign loader and kernel with.
    pub secure_boot_keys: Option<PathBuf>,
}

/// Builds the image of a board.
///
/// # Errors
/// Those of each step; a failed or stopped build leaves the previous outputs as
/// they were.
pub fn build(source: &Source, request: &Request, progress: &Progress) -> Result<Outputs> {
    let board = Board::load(&source.path("board-configs"), &request.board)?;
    let _alone = lock_directory(&request.out)?;
    let keys = request.secure_boot_keys.as_deref();
    let keys = keys.map(|dir| SecureBoot::load(dir, board.boot.secure_boot_enroll));
    let keys = keys.transpose()?;
    let tools = Toolchains::find(source)?;
    let mirror = Mirror::resolve(request.mirror.as_deref())?;

    let (lock, warnings) = inputs(
        source,
        request,
        &board,
        keys.as_ref(),
        &tools,
        &mirror,
        progress,
    )?;
    let stamp = Stamp::new(&lock, &board)?;
    if let Some(outputs) = stamp.up_to_date(&request.out) {
        return Ok(outputs);
    }

    let identity = Identity::new(&board, &lock)?;
    let packages = debian::fetch(&mirror, &lock.packages, &request.cache, progress)?;
    let parts = own_parts(source, &board, &tools, lock.epoch, &request.cache, progress)?;
    let info = identity.info(&board, &parts.programs)?;
    let mut root = root::assemble(
        &root::Ingredients {
            source,
            board: &board,
            packages: &packages,
            programs: &parts.programs,
            addons: &parts.addons,
            info: &info,
            update_keys: &request.update_keys,
            cache: &request.cache,
        },
        progress,
    )?;

    root.boot.carry(&mut root.tree, keys.as_ref())?;

    let names = Names::new(&request.out, &board.name);
    let written = write_image(
        &names.image,
        &board,
        &root,
        &identity,
        keys.as_ref(),
        progress,
    )?;
    let compressed = zst::compress(
        &names.image,
        &names.compressed,
        board.image.compression_level,
        &request.cache,
        threads(),
        progress,
    )?;

    let map = bmap::text(&names.image, &written.table, progress)?;

    let inventory = inventory(&packages, &parts);
    let manifest = Manifest {
        format: manifest::FORMAT,
        board: board.name.clone(),
        version: identity.version.clone(),
        built: time::rfc3339(lock.epoch),
        kubernetes: info.kubernetes.clone(),
        image: manifest::File {
            size: compressed.image,
            sha256: digest::to_hex(&compressed.image_sha256),
        },
        download: manifest::File {
            size: compressed.compressed,
            sha256: digest::to_hex(&compressed.compressed_sha256),
        },
        partitions: manifest::partitions(&written.table),
        root: manifest::RootSizes::new(&written.root, &root.tree),
        verity: written.verity,
        secure_boot: keys.as_ref().map(SecureBoot::signer),
        recipe: root.steps.clone(),
        warnings,
        parts: inventory,
    };
    let bill = sbom::document(
        &sbom::Subject {
            name: &board.name,
            version: &identity.version,
            inputs: &identity.digest,
            image_sha256: &manifest.image.sha256,
            created: &manifest.built,
        },
        &manifest.parts,
    );
    let repository = imager::Repository::new(&manifest, &board, names.download());
    atomic::write(&names.bmap, map.as_bytes(), 0o644)?;
    atomic::write(&names.imager, &pretty(&repository)?, 0o644)?;
    atomic::write(&names.manifest, &pretty(&manifest)?, 0o644)?;
    atomic::write(&names.sbom, &pretty(&bill)?, 0o644)?;
    atomic::write(&names.lock, lock.text()?.as_bytes(), 0o644)?;
    let outputs = Outputs {
        board: board.name,
        version: identity.version,
        files: names,
        compressed_size: compressed.compressed,
        up_to_date: false,
    };
    stamp.leave(&request.out, &outputs)?;
    Ok(outputs)
}

/// Builds only the programs of a board and links them into `out` by all the names
/// that they are started under, as they are in an image; with them kubectl for this
/// machine.
///
/// # Errors
/// Those of the board and the compilers; [`Kind::Io`].
pub fn components(
    source: &Source,
    board: &str,
    out: &Path,
    cache: &Path,
    progress: &Progress,
) -> Result<()> {
    let board = Board::load(&source.path("board-configs"), board)?;
    let tools = Toolchains::find(source)?;
    let parts = own_parts(source, &board, &tools, 0, cache, progress)?;
    let kubectl = components::host_tool(source, &tools, KUBECTL, cache, progress)?;
    fs::create_dir_all(out).at("creating", out)?;
    for program in parts.programs.iter().chain([&kubectl]) {
        for name in std::iter::once(&program.name).chain(&program.links) {
            let link = out.join(name);
            match fs::remove_file(&link) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("replacing", &link, &e));
                }
                _ => {}
            }
            std::os::unix::fs::symlink(&program.path, &link).at("creating", &link)?;
        }
    }
    Ok(())
}

/// The exact inputs: those of the lock that was given, or today's; with them
/// the warnings that belong into the manifest.
fn inputs(
    source: &Source,
    request: &Request,
    board: &Board,
    keys: Option<&SecureBoot>,
    tools: &Toolchains,
    mirror: &Mirror,
    progress: &Progress,
) -> Result<(Lock, Vec<String>)> {
    let mut sources = source.digests()?;
    sources.insert("board".to_owned(), board.digest()?);
    if let Some(files) = boot::digest_beside(source, board)? {
        sources.insert("board-files".to_owned(), files);
    }
    if let Some(keys) = keys {
        sources.insert(secure_boot::SOURCE.to_owned(), keys.digest());
    }
    if !request.update_keys.is_empty() {
        let mut keys: Vec<String> = request.update_keys.iter().map(PublicKey::pem).collect();
        keys.sort();
        sources.insert(
            "update-keys".to_owned(),
            digest::hex(keys.concat().as_bytes()),
        );
    }
    let versions = tools.versions();
    if let Some(path) = &request.locked {
        let lock = Lock::read(path)?;
        lock.check(&board.name, &sources, &versions)
            .map_err(|e| e.within(path.display()))?;
        return Ok((lock, Vec::new()));
    }
    let archive = debian::open(mirror, board, &request.cache, request.skip_stale, progress)?;
    let mut wanted = board.packages.install.clone();
    wanted.extend([board.kernel.package.clone(), board.boot.package.clone()]);
    let packages = archive.closure(&wanted, &board.packages.exclude)?;
    let lock = Lock {
        image_release: request.release,
        ..Lock::new(&board.name, archive.snapshot(), packages, sources, versions)
    };
    Ok((lock, archive.warnings().to_vec()))
}

/// Names and numbers that follow from the inputs alone.
struct Identity {
    version: String,
    digest: String,
    epoch: i64,
    release: Option<u64>,
}

impl Identity {
    fn new(board: &Board, lock: &Lock) -> Result<Self> {
        Ok(Self {
            version: lock.version()?,
            digest: format!("{}:{}", board.name, lock.digest()?),
            epoch: lock.epoch,
            release: lock.image_release,
        })
    }

    fn seed(&self) -> &[u8] {
        self.digest.as_bytes()
    }

    fn info(&self, board: &Board, programs: &[Program]) -> Result<ImageInfo> {
        let kubernetes = programs
            .iter()
            .find(|p| p.name == "kube")
            .map(|p| p.version.clone())
            .ok_or_else(|| {
                Error::new(Kind::Bug, "there is no program `kube` among the components")
            })?;
        Ok(ImageInfo {
            board: board.name.clone(),
            version: self.version.clone(),
            built: self.epoch,
            release_number: self.release,
            kubernetes,
            arch: board.architecture.kernel().to_owned(),
            root_uuid: derive_uuid(self.seed(), "root filesystem"),
            loader: board.boot.method,
        })
    }
}

/// What this repository builds for an image.
struct OwnParts {
    programs: Vec<Program>,
    addons: Vec<Addon>,
}

fn own_parts(
    source: &Source,
    board: &Board,
    tools: &Toolchains,
    epoch: i64,
    cache: &Path,
    progress: &Progress,
) -> Result<OwnParts> {
    let arch = board.architecture;
    let mut programs = components::node(source, tools, arch, cache, progress)?;
    programs.extend(components::go(source, tools, arch, cache, progress)?);
    let addons = components::addons(source, tools, arch, epoch, cache, progress)?;
    Ok(OwnParts { programs, addons })
}

struct Written {
    table: Table,
    root: ext4::Stats,
    verity: verity::Verity,
}

/// Writes the image from its inside out: the root, the tree over it, the kernel whose command
/// line has the tree's root hash, the boot partitions with that.
fn write_image(
    target: &Path,
    board: &Board,
    root: &Root,
    identity: &Identity,
    keys: Option<&SecureBoot>,
    progress: &Progress,
) -> Result<Written> {
    let (seed, epoch) = (identity.seed(), identity.epoch);
    let table = root::sizes(board)
        .shipped(seed)
        .map_err(|e| Error::new(Kind::Input, format!("board {}: {e}", board.name)))?;
    let mut written = None;
    gpt::assemble(target, &table, |file, table| {
        let slot = gpt::partition(table, Slot::A.root())?;
        let options = ext4::Options {
            size: root::filesystem_size(slot.size().get()),
            uuid: derive_uuid(seed, "root filesystem"),
            label: "slipway-root".to_owned(),
            epoch,
        };
        let offset = slot.offset().get();
        let stats = ext4::write(&root.tree, file, offset, &options, progress)?;
        let place = verity::Slot {
            offset,
            size: slot.size().get(),
            filesystem: options.size,
            board: &board.name,
        };
        let verity = verity::append(file, place, threads(), progress)?;

        let before = boot::Ingredients {
            board,
            root,
            hash: &verity.root_hash,
            seed,
            epoch,
            keys,
        };
        boot::write(&before, file, table, target)?;
        written = Some((stats, verity));
        Ok(())
    })?;
    let (root, verity) =
        written.ok_or_else(|| Error::new(Kind::Bug, "the root was not written"))?;
    Ok(Written {
        table,
        root,
        verity,
    })
}

fn inventory(packages: &[Fetched], parts: &OwnParts) -> Vec<Part> {
    let debian = packages.iter().map(|f| Part {
        architecture: Some(f.package.architecture.clone()),
        sha256: Some(f.package.sha256.clone()),
        ..Part::new(Origin::Debian, &f.package.name, &f.package.version)
    });
    let programs = parts
        .programs
        .iter()
        .chain(parts.addons.iter().filter_map(|a| a.built.as_ref()))
        .flat_map(Program::parts);
    let images = parts
        .addons
        .iter()
        .filter_map(|a| a.image.as_ref())
        .map(|i| {
            let (name, tag) = i.reference.rsplit_once(':').unwrap_or((&i.reference, ""));
            Part {
                sha256: Some(i.sha256.clone()),
                ..Part::new(Origin::Slipway, name, tag)
            }
        });
    inventory::tidy(debian.chain(programs).chain(images).collect())
}

fn pretty<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::new(Kind::Bug, format!("writing JSON: {e}")))?;
    text.push(b'\n');
    Ok(text)
}

/// Threads for compressing and hashing: what the machine has.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
