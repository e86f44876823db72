//! ssh: who may log in, and the host's key. The server itself (dropbear) is a service, which
//! runs as long as the seed gives somebody a key.
//!
//! | path | mode | what |
//! |---|---|---|
//! | `/var/lib/slipway/ssh/host_ed25519` | 0600 | the host's key in dropbear's form, made once |
//! | `HOME/.ssh/authorized_keys` | 0600 | the seed's keys of root (`/root`) or a user (`/var/home/NAME`), and no others |
//!
//! A user's home is the user's: what is found in it is not followed if it is a link.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use slipway_images::seed::{Seed, Shell};
use slipway_images::service::SSH_KEYS;

use crate::mailbox::{Event, Mailbox};
use crate::phase::{Context, Failure};
use crate::reaper::Reaper;
use crate::users::HOMES;
use crate::{files, say};

/// Directory of the host's key, below the root.
const HOST_KEYS: &str = "var/lib/slipway/ssh";
const HOST_KEY: &str = "host_ed25519";
const DROPBEARKEY: &str = "/usr/bin/dropbearkey";
const ROOT_HOME: &str = "root";
/// What a key may not do, whatever the server's options are (dropbear(8)).
const RESTRICTIONS: &str = "no-port-forwarding,no-agent-forwarding,no-X11-forwarding";
const KEYS: &str = "authorized_keys";
const KEYS_NEW: &str = "authorized_keys.slipway-new";

/// Whether there is anybody to let in.
#[must_use]
pub fn is_wanted(seed: &Seed) -> bool {
    let mut users = seed.users.iter().filter(|user| user.shell == Shell::Sh);
    !seed.ssh_authorized_keys.is_empty() || users.any(|user| !user.ssh_authorized_keys.is_empty())
}

/// Tells the main loop whether ssh's service may run, after the host's key is made. Gives a
/// note for the console.
///
/// # Errors
/// The host's key can't be made.
pub fn open(seed: &Seed, reaper: &Reaper, mailbox: &Mailbox) -> Result<String, Failure> {
    // The boot and an applied seed may come at once.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if !is_wanted(seed) {
        mailbox.send(Event::ConditionGone(SSH_KEYS));
        return Ok("off, the seed gives no keys".into());
    }
    let key = host_key(Path::new("/"), &|command| reaper.output(command))?;
    mailbox.send(Event::Condition(SSH_KEYS));
    Ok(format!("host key {key}"))
}

/// Writes everyone's keys into their homes below `root`; who has none loses the file. One
/// user's failure doesn't keep the others from getting theirs.
///
/// # Errors
/// All that failed, in one line.
pub fn write_keys(root: &Path, seed: &Seed) -> Result<(), Failure> {
    let users = seed.users.iter().map(|user| {
        let home = Path::new(HOMES).join(&user.name);
        (user.name.as_str(), home, &user.ssh_authorized_keys)
    });
    let all = std::iter::once(("root", ROOT_HOME.into(), &seed.ssh_authorized_keys)).chain(users);
    Failure::all(all.filter_map(|(name, home, keys)| {
        let written = write_for(&root.join(home), keys);
        written.context(format_args!("ssh keys of {name}")).err()
    }))
}

fn write_for(home: &Path, keys: &[String]) -> Result<(), Failure> {
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(home);
    let home = match opened {
        Ok(home) => home,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && keys.is_empty() => return Ok(()),
        Err(e) => return Err(e).context("the home"),
    };
    let owner = home.metadata().context("the home")?;
    let owner = (owner.uid(), owner.gid());
    let directory = ssh_directory(&home, owner)?;
    remove(&directory, KEYS_NEW)?;
    if keys.is_empty() {
        return remove(&directory, KEYS);
    }
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let mut file = openat(&directory, KEYS_NEW, flags, mode)
        .map(File::from)
        .context("writing")?;
    let lines: String = keys
        .iter()
        .map(|key| format!("{RESTRICTIONS} {key}\n"))
        .collect();
    file.write_all(lines.as_bytes()).context("writing")?;
    fchown(&file, Some(owner.0), Some(owner.1)).context("their owner")?;
    file.sync_all().context("writing")?;
    renameat(&directory, KEYS_NEW, &directory, KEYS).context("writing")?;
    directory.sync_all().context("writing")
}

/// Opens `.ssh` in a home, which is made if it isn't there. A link or a file in its place is
/// taken away: behind it keys could be kept that the seed doesn't give.
fn ssh_directory(home: &File, owner: (u32, u32)) -> Result<File, Failure> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = || openat(home, ".ssh", flags, Mode::empty()).map(File::from);
    match open() {
        Ok(directory) => return Ok(directory),
        Err(Errno::ENOENT) => {}
        Err(Errno::ELOOP | Errno::ENOTDIR) => remove(home, ".ssh")?,
        Err(error) => return Err(error).context(".ssh"),
    }
    mkdirat(home, ".ssh", Mode::S_IRWXU).context("making .ssh")?;
    let directory = open().context(".ssh")?;
    fchown(&directory, Some(owner.0), Some(owner.1)).context("the owner of .ssh")?;
    Ok(directory)
}

fn remove(directory: impl AsFd, name: &str) -> Result<(), Failure> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(error) => Err(error).context(format_args!("removing {name}")),
    }
}

type Run<'a> = &'a dyn Fn(&mut Command) -> Result<(ExitStatus, String), Failure>;

/// Makes the host's key where there is none, and gives its fingerprint.
fn host_key(root: &Path, run: Run<'_>) -> Result<String, Failure> {
    let directory = root.join(HOST_KEYS);
    let path = directory.join(HOST_KEY);
    if fs::symlink_metadata(&path).is_ok() {
        match fingerprint(&path, run) {
            Ok(fingerprint) => return Ok(fingerprint),
            Err(failure) => say!("ssh: the host's key is damaged, a new one is made: {failure}"),
        }
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory)
        .context(directory.display())?;
    let new = directory.join(format!("{HOST_KEY}.new"));
    // dropbearkey overwrites nothing, and from 2025 on puts the public key beside it.
    let public = new.with_extension("new.pub");
    files::remove(&new)?;
    files::remove(&public)?;
    // Written with mode 0600 and synced by the tool (dropbearkey(1)).
    succeed(
        Command::new(DROPBEARKEY)
            .args(["-t", "ed25519", "-f"])
            .arg(&new),
        run,
    )?;
    let fingerprint = fingerprint(&new, run)?;
    fs::rename(&new, &path).context(path.display())?;
    files::remove(&public)?;
    File::open(&directory)
        .and_then(|directory| directory.sync_all())
        .context(directory.display())?;
    Ok(fingerprint)
}

fn fingerprint(key: &Path, run: Run<'_>) -> Result<String, Failure> {
    let said = succeed(Command::new(DROPBEARKEY).args(["-y", "-f"]).arg(key), run)?;
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("Fingerprint: "));
    line.map(str::to_owned)
        .ok_or_else(|| Failure("dropbearkey gives no fingerprint".into()))
}

/// Runs the tool, whose output may hold a key: only its last line is told.
fn succeed(command: &mut Command, run: Run<'_>) -> Result<String, Failure> {
    let (status, said) = run(command)?;
    match status.success() {
        true => Ok(said),
        false => Err(Failure(format!(
            "dropbearkey: {status}: {}",
            said.lines().last().unwrap_or_default()
        ))),
    }
}

#[cfg(test)]
#[path = "ssh_tests.rs"]
mod tests;
