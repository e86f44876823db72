//! Users of the seed, in passwd(5), shadow(5) and group(5) beside the image's own.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use slipway_images::seed::{Shell, User};

use crate::files;
use crate::instance::Data;
use crate::phase::{Context, Failure};

/// Homes outlive an update, so they are on the data partition.
pub const HOMES: &str = "var/home";
/// Numbers of users who log in (login.defs(5), UID_MIN).
const FIRST_UID: u32 = 1000;
const PASSWD: &str = "etc/passwd";
const SHADOW: &str = "etc/shadow";
const GROUP: &str = "etc/group";

/// Puts users in the place of those of the seed before, and makes their homes. One user's
/// failure doesn't keep the others out. Homes of those who are no more are kept.
///
/// # Errors
/// All that failed, in one line.
pub fn set(root: &Path, before: &[User], users: &[User], data: Data) -> Result<(), Failure> {
    if before.is_empty() && users.is_empty() {
        return Ok(());
    }
    let mut tables = Tables::read(root)?;
    before.iter().for_each(|user| tables.remove(&user.name));
    let mut failures = Vec::new();
    let mut homes = Vec::new();
    for user in users {
        match tables.add(root, user) {
            Ok(uid) => homes.push((user, uid)),
            Err(failure) => failures.push(Failure(format!("user {}: {failure}", user.name))),
        }
    }
    tables.write(root)?;
    for (user, uid) in homes.into_iter().filter(|_| data == Data::There) {
        let made = make_home(&root.join(HOMES).join(&user.name), uid);
        failures.extend(made.context(format_args!("user {}", user.name)).err());
    }
    Failure::all(failures)
}

/// The three files' text.
struct Tables {
    passwd: String,
    shadow: String,
    group: String,
}

impl Tables {
    fn read(root: &Path) -> Result<Self, Failure> {
        Ok(Self {
            passwd: read(root, PASSWD)?,
            shadow: read(root, SHADOW)?,
            group: read(root, GROUP)?,
        })
    }

    fn write(&self, root: &Path) -> Result<(), Failure> {
        // A user is there when all else is.
        for (path, text) in [
            (GROUP, &self.group),
            (SHADOW, &self.shadow),
            (PASSWD, &self.passwd),
        ] {
            replace(&root.join(path), text).context(path)?;
        }
        Ok(())
    }

    /// Takes a user out, who may not be there. Groups that were made are left.
    fn remove(&mut self, name: &str) {
        let others = |table: &str| -> String {
            let lines = table.lines().filter(|line| field(line, 0) != Some(name));
            lines.flat_map(|line| [line, "\n"]).collect()
        };
        self.passwd = others(&self.passwd);
        self.shadow = others(&self.shadow);
        let without = |line: &str| match line.rsplit_once(':') {
            Some((group, members)) => {
                let members: Vec<&str> = members.split(',').filter(|m| *m != name).collect();
                format!("{group}:{}\n", members.join(","))
            }
            None => format!("{line}\n"),
        };
        self.group = others(&self.group).lines().map(without).collect();
    }

    /// Puts a user in, and gives the number.
    fn add(&mut self, root: &Path, user: &User) -> Result<u32, Failure> {
        if id_of(&self.passwd, &user.name).is_some() {
            return Err(Failure(
                "the image has a user of this name; choose another".into(),
            ));
        }
        let home = PathBuf::from(HOMES).join(&user.name);
        let taken = |number: u32| holds(&self.passwd, number) || holds(&self.group, number);
        // A home from earlier says whose it is, however the seed's order has changed.
        let kept = fs::metadata(root.join(&home)).ok().map(|m| m.uid());
        let uid = match user.uid.or(kept.filter(|uid| !taken(*uid))) {
            Some(uid) if taken(uid) => return Err(Failure(format!("number {uid} is taken"))),
            Some(uid) => uid,
            None => (FIRST_UID..65_000)
                .find(|uid| !taken(*uid))
                .ok_or_else(|| Failure("no number is left".into()))?,
        };
        let group = self.group_with(user, uid)?;
        let shell = match user.shell {
            Shell::Sh => "/bin/sh",
            Shell::Nologin => "/usr/sbin/nologin",
        };
        let (name, gecos) = (&user.name, user.gecos.as_deref().unwrap_or_default());
        let line = format!("{name}:x:{uid}:{uid}:{gecos}:/{}:{shell}\n", home.display());
        self.passwd.push_str(&line);
        self.shadow.push_str(&format!("{name}:*:::::::\n"));
        self.group = group;
        Ok(uid)
    }

    /// The groups, with a user's own and the user in the others.
    fn group_with(&self, user: &User, uid: u32) -> Result<String, Failure> {
        let mut text = format!("{}{}:x:{uid}:\n", self.group, user.name);
        for wanted in &user.groups {
            if id_of(&text, wanted).is_none() {
                let gid = (100..FIRST_UID)
                    .find(|gid| !holds(&text, *gid))
                    .ok_or_else(|| Failure(format!("group {wanted}: no number is left")))?;
                text.push_str(&format!("{wanted}:x:{gid}:\n"));
            }
            text = text
                .lines()
                .map(|line| match field(line, 0) == Some(wanted) {
                    true if line.ends_with(':') => format!("{line}{}\n", user.name),
                    true => format!("{line},{}\n", user.name),
                    false => format!("{line}\n"),
                })
                .collect();
        }
        Ok(text)
    }
}

/// Writes a table in the other's place, whose it stays.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let old = fs::metadata(path)?;
    files::write_atomically(path, text.as_bytes(), old.mode() & 0o7777)?;
    chown(path, Some(old.uid()), Some(old.gid()))
}

fn make_home(home: &Path, uid: u32) -> Result<(), Failure> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755);
    builder
        .create(home.parent().unwrap_or(home))
        .context("the homes' directory")?;
    match fs::DirBuilder::new().mode(0o700).create(home) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e).context("the home"),
        _ => {}
    }
    chown(home, Some(uid), Some(uid)).context("the home's owner")
}

/// A table below the root.
pub(crate) fn read(root: &Path, path: &str) -> Result<String, Failure> {
    fs::read_to_string(root.join(path)).context(path)
}

/// The number of a name in passwd(5) or group(5), where both have it third.
pub(crate) fn id_of(table: &str, name: &str) -> Option<u32> {
    let mut lines = table.lines();
    let line = lines.find(|line| field(line, 0) == Some(name))?;
    field(line, 2)?.parse().ok()
}

fn holds(table: &str, number: u32) -> bool {
    let number = number.to_string();
    let mut lines = table.lines();
    lines.any(|line| field(line, 2) == Some(number.as_str()))
}

fn field(line: &str, number: usize) -> Option<&str> {
    line.split(':').nth(number)
}

#[cfg(test)]
#[path = "users_tests.rs"]
mod tests;
