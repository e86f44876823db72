//! The root can't be changed: not by root on the running node, and not on its disk, where a
//! single bit is enough for the machine to refuse it.

use std::path::Path;
use std::process::Command;

use slipway_images::layout::Slot;
use slipway_qemu::harness::Node;

use super::flashed::Owned;
use super::machine::{MINUTE, flip_bit, partition_of};

/// Tries to write to each directory and each file of the root (find names mount points, too),
/// to the device below it, to make it writable, and looks for other mounts that are. What it
/// says has quotes in it, since the terminal repeats the line itself; the places that may be
/// written are the control.
const TRIES: &str = "n=0; \
    for at in $(find / -xdev -type d); do n=$((n+1)); \
        case $at in /dev|/etc|/proc|/root|/run|/sys|/tmp|/var) continue;; esac; \
        true 2>/dev/null > $at/.try && echo wr''itable: $at; done; \
    for at in $(find / -xdev -type f); do n=$((n+1)); \
        true 2>/dev/null >> $at && echo wr''itable: $at; done; \
    mount -o remount,rw / 2>/dev/null && echo wr''itable: remounted; \
    dd if=/dev/zero of=/dev/dm-0 bs=512 count=1 2>/dev/null && echo wr''itable: device; \
    while read -r device at kind options rest; do case $options in rw|rw,*) case $at in \
        /run|/run/*|/tmp|/var|/var/*|/etc|/root|/dev|/dev/*|/proc|/proc/*|/sys|/sys/*) ;; \
        *) echo wr''itable: mount $at;; esac;; esac; done < /proc/self/mounts; \
    for at in /run /tmp /var /etc; do \
        true 2>/dev/null > $at/.try && rm $at/.try && echo con''trol: $at; done; \
    echo pla''ces: $n";

/// Tries to write everywhere on a running node, as root.
pub fn nothing_else_is_writable(owned: &Owned) {
    let said = owned.shell(TRIES);
    let places = said
        .split_once("places: ")
        .and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u32>().ok());
    // An image has about 950 files and directories.
    let tried = places.is_some_and(|n| n > 500);
    let control = ["/run", "/tmp", "/var", "/etc"];
    let controlled = control
        .iter()
        .all(|at| said.contains(&format!("control: {at}")));
    if !tried || !controlled || said.contains("writable: ") {
        owned.node.fail(&format!("writing everywhere: {said}"));
    }
}

/// Flips one bit of PID 1's program in the disk of a machine that is off, which was made from
/// `image`, and sees the machine stop at it and start over.
pub fn a_flipped_bit_restarts_it(node: &mut Node, image: &Path) {
    let root = partition_of(image, Slot::A.root()).offset();
    let out = Command::new("/usr/sbin/debugfs")
        .args(["-R", "blocks /usr/lib/slipway/init"])
        .arg(format!("{}?offset={}", image.display(), root.get()))
        .output()
        .unwrap();
    let blocks = String::from_utf8(out.stdout).unwrap();
    let first: u64 = blocks.split_whitespace().next().unwrap().parse().unwrap();
    flip_bit(node, image, root.get() + first * 4096 + 123);
    node.power_on();
    // The initrd has done its work: it is what comes after that can't be read.
    node.wait_console("] root ", 3 * MINUTE);
    let line = node.wait_console("device-mapper: verity: ", MINUTE);
    assert!(
        line.contains(&format!("data block {first} is corrupted")),
        "{line}"
    );
    let line = node.wait_console("[1/6] mounts", 3 * MINUTE);
    assert!(!line.contains("FAILED"), "{line}");
    node.cut_power();
    let console = node.console();
    assert!(!console.contains("Kernel panic"), "{console}");
}
