//! Names that `update-alternatives` would have linked.
//!
//! Debian has several packages offer one name, and their scripts register candidates
//! with priorities. An image's packages are known, so the choice is a table.

use super::resolve;
use crate::error::Result;
use crate::tree::Tree;

/// The name and, in order of preference, what it may be a link to.
const CHOICES: &[(&str, &[&str])] = &[
    ("usr/sbin/iptables", &["/usr/sbin/iptables-nft"]),
    ("usr/sbin/ip6tables", &["/usr/sbin/ip6tables-nft"]),
    ("usr/sbin/arptables", &["/usr/sbin/arptables-nft"]),
    ("usr/sbin/ebtables", &["/usr/sbin/ebtables-nft"]),
    ("usr/bin/awk", &["/usr/bin/mawk", "/usr/bin/gawk"]),
    ("usr/bin/pager", &["/usr/bin/less", "/usr/bin/more"]),
    ("usr/bin/which", &["/usr/bin/which.debianutils"]),
    // The countries' rules of radio and their signature, which Debian's kernel checks.
    (
        "usr/lib/firmware/regulatory.db",
        &["/usr/lib/firmware/regulatory.db-debian"],
    ),
    (
        "usr/lib/firmware/regulatory.db.p7s",
        &["/usr/lib/firmware/regulatory.db.p7s-debian"],
    ),
];

/// Links each name that nothing has taken to the first candidate that is there.
///
/// # Errors
/// [`Kind::Input`](crate::Kind::Input) if the tree is no root filesystem.
pub fn link(tree: &mut Tree) -> Result<String> {
    let mut linked = Vec::new();
    for (name, candidates) in CHOICES {
        if tree.get(name).is_some() {
            continue;
        }
        if let Some(target) = candidates.iter().find(|c| resolve(tree, c).is_some()) {
            tree.symlink(name, target)?;
            linked.push(format!("{name} → {target}"));
        }
    }
    Ok(match linked.is_empty() {
        true => "alternatives: none needed".into(),
        false => format!("alternatives: {}", linked.join(", ")),
    })
}
