//! Names for what busybox can do.
//!
//! Debian's busybox-static brings one program and no names for it, not even `sh`. An image
//! gets those that someone looks into a node with, or a script needs. Those that set a machine
//! up or take it down are not among them: init does that, and a node has programs of its own
//! for it.

use crate::error::Result;
use crate::tree::Tree;

const PROGRAM: &str = "usr/bin/busybox";

/// Applets that are linked, where no other program has the name.
const APPLETS: &str = "\
[ arp arping ash awk base64 basename blockdev brctl bunzip2 bzcat cat chgrp chmod chown \
chroot clear cmp cp cpio cut date dd df diff dirname dmesg dnsdomainname du echo ed \
egrep env expand expr false fgrep find fold free fstrim grep groups gunzip gzip head \
hexdump hostname hwclock id ifconfig ionice ip ipcalc kill killall less ln logger \
logname ls lsmod lsscsi lzcat md5sum mkdir mkfifo mknod mktemp modinfo more mv nc \
netstat nl nologin nproc nsenter nslookup od paste patch pidof ping ping6 printf ps pwd \
readlink realpath renice reset rev rm rmdir route run-parts sed seq setpriv setsid sh \
sha1sum sha256sum sha512sum shred shuf sleep sort stat strings stty sync sysctl tac tail \
tar taskset tc tee telnet test time timeout top touch tr traceroute traceroute6 true \
truncate tty uname uniq unlink unshare unxz unzip uptime usleep vi watch wc wget which \
who whoami xargs xxd xz xzcat yes zcat";

/// Makes the links, in the directory of the program; `nologin` where it is looked for. To be
/// called when all other programs are in the tree.
///
/// # Errors
/// [`Kind::Input`](crate::Kind::Input) if the tree is no root filesystem.
pub fn link(tree: &mut Tree) -> Result<String> {
    if tree.get(PROGRAM).is_none() {
        return Ok("busybox: none".into());
    }
    let mut linked = 0;
    for applet in applets() {
        let places = ["usr/bin", "usr/sbin"].map(|dir| format!("{dir}/{applet}"));
        if places.iter().any(|place| tree.get(place).is_some()) {
            continue;
        }
        let [bin, sbin] = places;
        match applet {
            "nologin" => tree.symlink(&sbin, "../bin/busybox")?,
            _ => tree.symlink(&bin, "busybox")?,
        }
        linked += 1;
    }
    Ok(format!("busybox: {linked} names"))
}

fn applets() -> impl Iterator<Item = &'static str> {
    APPLETS.split(' ')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::NodeKind;

    #[test]
    fn names_are_linked_unless_a_program_has_them() {
        let mut tree = Tree::new();
        assert_eq!(link(&mut tree).unwrap(), "busybox: none");
        tree.file(PROGRAM, 0o755, "b").unwrap();
        tree.file("usr/sbin/tc", 0o755, "t").unwrap();
        tree.file("usr/bin/awk", 0o755, "a").unwrap();
        let said = link(&mut tree).unwrap();
        assert_eq!(said, format!("busybox: {} names", applets().count() - 2));
        let target = |path: &str| match tree.get(path).map(|node| &node.kind) {
            Some(NodeKind::Symlink(target)) => target.clone(),
            _ => String::new(),
        };
        assert_eq!(target("usr/bin/sh"), "busybox");
        assert_eq!(target("usr/sbin/nologin"), "../bin/busybox");
        assert_eq!(target("usr/bin/awk"), "");
        assert!(tree.get("usr/bin/tc").is_none());
    }
}
