//! What the seed makes of the machine besides its name and network: users, files, CAs, zone.
//!
//! `/etc` is memory and made at each boot. What lands on the data partition is written once
//! for each instance, whose id is kept beside it, last: a cut before that does it all again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use slipway_images::seed::{CaCerts, Seed, When, WriteFile};

use crate::phase::{Context, Failure};
use crate::{files, say, users};

/// Holds the id of the instance whose first boot is done.
const INSTANCE_FILE: &str = "var/lib/slipway/instance-id";
/// The id of a seed that gives none, as cloud-init has it for this kind of source.
const NO_ID: &str = "nocloud";
/// Where root finds the kubeconfig of the cluster's administrator, whom a server has.
const KUBE_CONFIG: &str = "root/.kube/config";
const ADMIN: &str = "/var/lib/clusterd/admin.kubeconfig";
/// The CAs that the machine's programs trust, below the root.
pub const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
const ZONES: &str = "usr/share/zoneinfo";
const UTC: &str = "Etc/UTC";
const LOCALTIME: &str = "etc/localtime";

/// Whether the data partition is there to keep what is written once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Mounted on /var.
    There,
    /// What would be written once is left out.
    Missing,
}

/// Does all of it below `root`. One part's failure doesn't keep the others from being done.
///
/// # Errors
/// All parts that failed, in one line.
pub fn apply(root: &Path, seed: &Seed, data: Data) -> Result<String, Failure> {
    let id = seed.instance_id.as_deref().unwrap_or(NO_ID);
    let done = files::read_trimmed(root.join(INSTANCE_FILE)).unwrap_or_default();
    let first = data == Data::There && done != id;
    let mut failures = Vec::new();
    let mut check = |result: Result<(), Failure>| failures.extend(result.err());
    check(zone(root, seed.timezone.as_deref()));
    check(authorities(root, &seed.ca_certs));
    check(kube_config(root));
    check(users::set(root, &[], &seed.users, data));
    for file in &seed.write_files {
        if file.when == When::EachBoot || first {
            check(write(root, file).context(&file.path));
        }
    }
    if first && failures.is_empty() {
        failures.extend(finish(root, id).err());
    }
    Failure::all(failures)?;
    Ok(if first {
        format!("first boot of {id}")
    } else {
        String::new()
    })
}

/// What of it a running node follows: users and the zone. Programs that run keep the zone
/// until they are started anew.
///
/// # Errors
/// All parts that failed, in one line.
pub fn follow(root: &Path, before: &Seed, now: &Seed) -> Result<(), Failure> {
    let mut done = Vec::new();
    if before.timezone != now.timezone {
        done.push(zone(root, now.timezone.as_deref()));
    }
    if before.users != now.users {
        done.push(users::set(root, &before.users, &now.users, Data::There));
    }
    Failure::all(done.into_iter().filter_map(Result::err))
}

/// Everything written before is on the disk when the id is.
fn finish(root: &Path, id: &str) -> Result<(), Failure> {
    let var = File::open(root.join("var")).context("/var")?;
    nix::unistd::syncfs(&var).context("syncing /var")?;
    files::write_atomically(
        &root.join(INSTANCE_FILE),
        format!("{id}\n").as_bytes(),
        0o644,
    )
    .context(INSTANCE_FILE)
}

fn zone(root: &Path, zone: Option<&str>) -> Result<(), Failure> {
    let zone = match zone {
        Some(zone) => zone,
        // The image's own, if it has any data.
        None if root.join(ZONES).join(UTC).is_file() => UTC,
        None => return files::remove(&root.join(LOCALTIME)),
    };
    let data = Path::new(ZONES).join(zone);
    if !root.join(&data).is_file() {
        say!("time zone {zone}: the image has no data of it, UTC is used");
        return Ok(());
    }
    let link = root.join(LOCALTIME);
    files::remove(&link)?;
    symlink(Path::new("/").join(data), link).context(LOCALTIME)
}

fn authorities(root: &Path, certificates: &CaCerts) -> Result<(), Failure> {
    if *certificates == CaCerts::default() {
        return Ok(());
    }
    let path = root.join(BUNDLE);
    let mut text = match certificates.remove_defaults {
        true => String::new(),
        false => fs::read_to_string(&path).context(BUNDLE)?,
    };
    for certificate in &certificates.trusted {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(certificate);
    }
    text.push('\n');
    // The image's may be a link to its read-only part.
    files::remove(&path)?;
    fs::write(&path, text).context(BUNDLE)
}

/// The administrator's file is made when the cluster is, and may not be there yet.
fn kube_config(root: &Path) -> Result<(), Failure> {
    let link = root.join(KUBE_CONFIG);
    let directory = link.parent().unwrap_or(root);
    fs::create_dir_all(directory).context(directory.display())?;
    files::remove(&link)?;
    symlink(ADMIN, &link).context(KUBE_CONFIG)
}

/// Writes one file with its owner and mode before it has its name, so that nothing secret is
/// readable for a moment.
fn write(root: &Path, file: &WriteFile) -> Result<(), Failure> {
    let relative = file.path.trim_start_matches('/');
    let path = root.join(relative);
    let directory = path.parent().unwrap_or(root);
    make_directories(root, Path::new(relative).parent().unwrap_or(Path::new("")))?;
    let uid = number_of(root, "etc/passwd", &file.owner)?;
    let gid = number_of(root, "etc/group", &file.group)?;
    let mut content = Vec::new();
    if file.append {
        match fs::read(&path) {
            Ok(bytes) => content = bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).context("reading what is there"),
        }
    }
    content.extend_from_slice(&file.content.0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".slipway-new");
    let temporary = path.with_file_name(name);
    files::remove(&temporary)?;
    let mut new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&temporary)
        .context("writing")?;
    new.write_all(&content).context("writing")?;
    std::os::unix::fs::fchown(&new, Some(uid), Some(gid)).context("its owner")?;
    new.set_permissions(fs::Permissions::from_mode(file.permissions))
        .context("its permissions")?;
    new.sync_all().context("writing")?;
    fs::rename(&temporary, &path).context("writing")?;
    File::open(directory)
        .and_then(|d| d.sync_all())
        .context("its directory")
}

/// Makes the directories down to `relative`. A link on the way is refused: what is below /var
/// could lead anywhere.
fn make_directories(root: &Path, relative: &Path) -> Result<(), Failure> {
    let mut path = root.to_owned();
    for part in relative.components() {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => {}
            // /var/run and its like are the image's own.
            Ok(found) if found.is_symlink() => {
                return Err(Failure(format!(
                    "{} is a link; name the place it leads to",
                    path.display()
                )));
            }
            Ok(_) => return Err(Failure(format!("{} is no directory", path.display()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::DirBuilder::new()
                    .mode(0o755)
                    .create(&path)
                    .context(path.display())?;
            }
            Err(e) => return Err(e).context(path.display()),
        }
    }
    Ok(())
}

/// The number of a user or group that is given by name or number.
fn number_of(root: &Path, table: &str, name: &str) -> Result<u32, Failure> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    users::id_of(&users::read(root, table)?, name)
        .ok_or_else(|| Failure(format!("there is no `{name}` in /{table}")))
}

#[cfg(test)]
#[path = "instance_tests.rs"]
mod tests;
