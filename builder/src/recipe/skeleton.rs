//! Directories, users and the files of `/etc` that every node has.
//!
//! Debian's base-files and base-passwd make these at installation; an image has fewer:
//! no one logs in, and services that need a user bring it with their package's list.

use crate::error::Result;
use crate::tree::{Node, NodeKind, Tree};

/// What the skeleton says about the image.
#[derive(Debug, Clone)]
pub struct Identity<'a> {
    /// Version of the image, such as `0.1.0`.
    pub version: &'a str,
    /// Name of the board, such as `x86_64`.
    pub board: &'a str,
    /// Version of Kubernetes, such as `v1.36.3`.
    pub kubernetes: &'a str,
}

/// Top-level names that are links into `/usr` (Debian's usr-merge, file-hierarchy(7)).
const MERGED: [(&str, &str); 4] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
];

/// Directories with their modes. Mount points are among them, since nothing can be made
/// on a root that is read-only.
const DIRECTORIES: &[(&str, u16)] = &[
    ("boot", 0o755),
    ("boot/efi", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/ssl", 0o755),
    ("etc/ssl/certs", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("usr/bin", 0o755),
    ("usr/lib", 0o755),
    ("usr/lib64", 0o755),
    ("usr/lib/slipway", 0o755),
    ("usr/libexec", 0o755),
    ("usr/sbin", 0o755),
    ("usr/share", 0o755),
    ("var", 0o755),
];

/// Name, uid, gid, what for, home, shell. No password opens any of them.
const USERS: &[(&str, u32, u32, &str, &str, &str)] = &[
    ("root", 0, 0, "root", "/root", "/bin/sh"),
    (
        "nobody",
        65534,
        65534,
        "nobody",
        "/nonexistent",
        "/usr/sbin/nologin",
    ),
];

/// Name and gid. The numbers below 100 are Debian's (base-passwd's group.master).
const GROUPS: &[(&str, u32)] = &[
    ("root", 0),
    ("tty", 5),
    ("disk", 6),
    ("kmem", 15),
    ("shadow", 42),
    ("nogroup", 65534),
];

/// Makes the links that merge `/bin`, `/lib` and so on into `/usr`, and the directories.
/// To be called before packages are unpacked, so that those which say `lib/` land right.
///
/// # Errors
/// None on an empty tree.
pub fn directories(tree: &mut Tree) -> Result<String> {
    for (path, mode) in DIRECTORIES {
        tree.insert(path, Node::new(NodeKind::Directory, *mode))?;
    }
    for (link, target) in MERGED {
        tree.symlink(link, target)?;
    }
    Ok(format!(
        "skeleton: {} directories and mount points, {} links into /usr",
        DIRECTORIES.len(),
        MERGED.len()
    ))
}

/// Writes users, groups and the configuration that doesn't depend on the node. To be
/// called after packages are unpacked: what they bring under these names is replaced,
/// and the modes of the directories are set again.
///
/// # Errors
/// [`Kind::Input`](crate::Kind::Input) if a package has put a file where a directory
/// belongs.
pub fn configuration(tree: &mut Tree, identity: &Identity<'_>) -> Result<Vec<String>> {
    for (path, mode) in DIRECTORIES {
        tree.insert(path, Node::new(NodeKind::Directory, *mode))?;
    }
    let files: &[(&str, u16, String)] = &[
        ("etc/passwd", 0o644, passwd()),
        ("etc/group", 0o644, group()),
        ("etc/shadow", 0o640, shadow()),
        ("etc/shells", 0o644, SHELLS.into()),
        ("etc/profile", 0o644, PROFILE.into()),
        ("etc/nsswitch.conf", 0o644, NSSWITCH.into()),
        ("etc/hosts", 0o644, HOSTS.into()),
        ("etc/hostname", 0o644, "localhost\n".into()),
        ("etc/fstab", 0o644, "# init mounts everything.\n".into()),
        // Empty: init writes the machine's own into its /etc at boot (machine-id(5)).
        ("etc/machine-id", 0o444, String::new()),
        ("usr/lib/os-release", 0o644, os_release(identity)),
    ];
    for (path, mode, text) in files {
        tree.insert(
            path,
            Node {
                gid: if *path == "etc/shadow" { 42 } else { 0 },
                ..Node::new(NodeKind::File(text.as_str().into()), *mode)
            },
        )?;
    }
    let links = [
        ("etc/os-release", "../usr/lib/os-release"),
        ("etc/resolv.conf", "/run/slipway/resolv.conf"),
        ("etc/mtab", "/proc/self/mounts"),
        ("var/run", "/run"),
    ];
    for (path, target) in links {
        tree.symlink(path, target)?;
    }
    // Without tzdata there is nothing to point to, and UTC is what libc falls back to.
    let zone = tree.get("usr/share/zoneinfo/Etc/UTC").is_some();
    if zone {
        tree.symlink("etc/localtime", "../usr/share/zoneinfo/Etc/UTC")?;
    }
    let names = |n: &mut dyn Iterator<Item = &str>| n.collect::<Vec<_>>().join(" ");
    Ok(vec![
        format!("users: {}", names(&mut USERS.iter().map(|u| u.0))),
        format!("groups: {}", names(&mut GROUPS.iter().map(|g| g.0))),
        format!(
            "configuration: {} {}{}",
            names(&mut files.iter().map(|f| f.0)),
            names(&mut links.iter().map(|l| l.0)),
            if zone { " etc/localtime" } else { "" }
        ),
    ])
}

/// Who has another shell can't log in by ssh (shells(5)).
const SHELLS: &str = "/bin/sh\n/usr/bin/sh\n";

/// What a login shell reads. ssh's server gives a shorter PATH.
const PROFILE: &str = "\
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
PS1='\\u@\\h:\\w\\$ '
";

const NSSWITCH: &str = "\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
";

const HOSTS: &str = "\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
";

fn passwd() -> String {
    let line = |u: &(&str, u32, u32, _, _, _)| {
        format!("{}:x:{}:{}:{}:{}:{}\n", u.0, u.1, u.2, u.3, u.4, u.5)
    };
    USERS.iter().map(line).collect()
}

fn group() -> String {
    let line = |g: &(&str, u32)| format!("{}:x:{}:\n", g.0, g.1);
    GROUPS.iter().map(line).collect()
}

/// `*` is no hash of any password; the day of the last change is left out, since 0 would
/// demand a change at once (shadow(5)).
fn shadow() -> String {
    USERS
        .iter()
        .map(|u| format!("{}:*:::::::\n", u.0))
        .collect()
}

/// The text of `os-release` (os-release(5)), which the boot menu shows, too.
pub fn os_release(identity: &Identity<'_>) -> String {
    let Identity {
        version,
        board,
        kubernetes,
    } = identity;
    format!(
        "NAME=\"Slipway\"\n\
         ID=slipway\n\
         ID_LIKE=debian\n\
         PRETTY_NAME=\"Slipway {version} ({board}, Kubernetes {kubernetes})\"\n\
         VERSION=\"{version}\"\n\
         VERSION_ID=\"{version}\"\n\
         IMAGE_ID=slipway-{board}\n\
         IMAGE_VERSION=\"{version}\"\n\
         VARIANT_ID={board}\n"
    )
}
