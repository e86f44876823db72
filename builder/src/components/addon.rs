//! Add-ons: each directory of `distro/addons` with an `addon.toml` is one, and
//! becomes manifests and, where it needs an image of ours, an OCI archive.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::recipe::{self, GoMod, Image};
use super::rust::Linking;
use super::store::Store;
use super::{Built, Toolchains, golang, rust};
use crate::atomic::Pending;
use crate::board::Architecture;
use crate::digest;
use crate::error::{At as _, Error, Kind, Result};
use crate::oci;
use crate::progress::Progress;
use crate::source::Source;
use crate::tree::Content;

/// Raised when archives change in a way that the rest of the key doesn't show.
const FORMAT: u32 = 1;

/// An add-on, ready for the root filesystem.
#[derive(Debug, Clone)]
pub struct Addon {
    /// The directory's name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Its container image, if it has one of ours.
    pub image: Option<ImageArchive>,
    /// File name and bytes of each manifest.
    pub manifests: Vec<(String, Content)>,
    /// The program in the image.
    pub built: Option<Built>,
}

/// An OCI archive with one image.
#[derive(Debug, Clone)]
pub struct ImageArchive {
    /// Name and tag: `slipway.local/pause:1`.
    pub reference: String,
    /// `pause-<12 hex digits of its SHA-256>.tar`.
    pub file_name: String,
    /// SHA-256 of the archive, in hex.
    pub sha256: String,
    /// The archive.
    pub content: Content,
}

/// An add-on as its directory says.
pub struct Recipe {
    name: String,
    dir: PathBuf,
    addon: recipe::Addon,
}

/// Reads every add-on's recipe, in the order of their names.
pub fn recipes(source: &Source) -> Result<Vec<Recipe>> {
    let dir = source.path("distro/addons");
    let mut all = Vec::new();
    for entry in std::fs::read_dir(&dir).at("reading", &dir)? {
        let path = entry.at("reading", &dir)?.path();
        let recipe = path.join("addon.toml");
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else {
            continue;
        };
        if recipe.is_file() {
            all.push(Recipe {
                name: name.to_owned(),
                addon: recipe::read(&recipe)?,
                dir: path.clone(),
            });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

impl Recipe {
    fn rust_job<'a>(
        &'a self,
        source: &'a Source,
        programs: &'a [(&'a str, &'a str)],
        arch: Architecture,
    ) -> rust::Job<'a> {
        rust::Job {
            workspace: &self.dir,
            programs,
            arch,
            linking: Linking::Bare,
            target_dir: source.path("target/addons").join(&self.name),
        }
    }

    /// Builds its program and image, or finds them in the store.
    pub fn build(
        &self,
        source: &Source,
        arch: Architecture,
        epoch: i64,
        tools: &Toolchains,
        cache: &Path,
        progress: &Progress,
    ) -> Result<Addon> {
        let fault = |what: &str| {
            Error::new(
                Kind::Input,
                format!("{}: {what}", self.dir.join("addon.toml").display()),
            )
        };
        let store = Store::new(cache);
        let mut built = None;
        let mut archive = None;
        if let Some(image) = &self.addon.image {
            let (program, tag) = match (&image.go, &image.rust) {
                (Some(program), None) => {
                    let job = golang::Job {
                        dir: &self.dir,
                        program,
                        arch,
                    };
                    let path = self.dir.join("go.mod");
                    let text = std::fs::read_to_string(&path).at("reading", &path)?;
                    let tag = GoMod::parse(&text).expand(&image.tag)?;
                    (job.build(&tools.go, &store, progress)?, tag)
                }
                (None, Some(program)) => {
                    let programs = [(program.name.as_str(), program.name.as_str())];
                    let job = self.rust_job(source, &programs, arch);
                    let one = job.build(&tools.rust, &store, progress)?.pop();
                    (
                        one.ok_or_else(|| fault("no program was built"))?,
                        image.tag.clone(),
                    )
                }
                _ => return Err(fault("[image] needs one of [image.go] and [image.rust]")),
            };
            let made = archive_of(&self.name, image, &tag, &program, arch, epoch, cache)?;
            archive = Some(made);
            built = Some(program);
        }
        let mut manifests = Vec::new();
        for name in &self.addon.manifests {
            let path = self.dir.join(name);
            let text = std::fs::read_to_string(&path).at("reading", &path)?;
            if let Some(archive) = &archive {
                check_references(&path, &text, &archive.reference)?;
            }
            manifests.push((name.clone(), Content::from(text)));
        }
        Ok(Addon {
            name: self.name.clone(),
            description: self.addon.description.clone(),
            image: archive,
            manifests,
            built,
        })
    }
}

/// Our images can't be pulled from anywhere, so a manifest that asks for another
/// version than the one that is built would wait for ever.
fn check_references(path: &Path, text: &str, reference: &str) -> Result<()> {
    let (name, _) = reference.rsplit_once(':').unwrap_or((reference, ""));
    for (number, line) in text.lines().enumerate() {
        let Some((_, image)) = line.split_once("image:") else {
            continue;
        };
        let image = image.trim().trim_matches(['"', '\'']);
        if image.rsplit_once(':').is_some_and(|(n, _)| n == name) && image != reference {
            return Err(Error::new(
                Kind::Input,
                format!(
                    "{}:{}: image {image} is not what is built",
                    path.display(),
                    number + 1
                ),
            )
            .hint(format!("write `image: {reference}`")));
        }
    }
    Ok(())
}

/// The archive of a program's image, from the cache if it is there.
fn archive_of(
    addon: &str,
    image: &Image,
    tag: &str,
    program: &Built,
    arch: Architecture,
    epoch: i64,
    cache: &Path,
) -> Result<ImageArchive> {
    let reference = format!("{}:{tag}", image.name);
    let mut entrypoint = vec![format!("/{}", program.name)];
    entrypoint.extend(image.arguments.iter().cloned());
    let described = oci::Image {
        reference: reference.clone(),
        arch,
        user: image.user.clone(),
        entrypoint,
        files: BTreeMap::from([(program.name.clone(), Content::file(&program.path)?)]),
        labels: BTreeMap::from([(
            "org.opencontainers.image.version".to_owned(),
            program.version.clone(),
        )]),
    };
    let key = serde_json::json!({
        "format": FORMAT, "program": program.sha256, "arch": arch, "epoch": epoch,
        "reference": reference, "user": described.user,
        "entrypoint": described.entrypoint, "labels": described.labels,
    });
    let key = digest::hex(key.to_string().as_bytes());
    let dir = cache.join("components/images");
    let path = dir.join(format!("{}.tar", &key[..32]));
    let sum = path.with_extension("sha256");
    let sha256 = match (path.is_file(), std::fs::read_to_string(&sum)) {
        (true, Ok(sha256)) if sha256.len() == 64 => sha256,
        _ => {
            let mut pending = Pending::create(&path)?;
            let mut out = std::io::BufWriter::with_capacity(1 << 20, pending.file());
            oci::write(&[described], epoch, &mut out)?;
            std::io::Write::flush(&mut out).at("writing", &path)?;
            drop(out);
            let sha256 = digest::file(pending.path())?;
            pending.commit(0o644)?;
            // Written last: without it the archive doesn't count.
            crate::atomic::write(&sum, sha256.as_bytes(), 0o644)?;
            sha256
        }
    };
    Ok(ImageArchive {
        reference,
        file_name: format!("{addon}-{}.tar", &sha256[..12]),
        sha256,
        content: Content::file(path)?,
    })
}
