//! The root through dm-verity: each block is proved by the root hash when it is read.
//!
//! A block that isn't what was built must not be used, and a node that goes on without it is
//! half a node: the machine restarts, so that the loader tries what it has. The kernel does
//! that itself, by `restart_on_corruption`, and for a disk that can't be read by
//! `restart_on_error` (Linux 6.12 and later): it is kernel_restart(), which shuts down
//! devices, disks' caches among them, before the reset. `panic_on_corruption` would leave
//! that out, and wait for `panic=` seconds before. What runs has no part in it: the block may
//! be PID 1's own.

use std::path::Path;

use slipway_images::layout::Sectors;
use slipway_images::verity::{RootHash, Superblock};

use crate::dm::{Access, Mapped, Mapper, Target};
use crate::phase::Failure;

/// The mapped device's name.
const NAME: &str = "root";

/// What the target takes besides its parameters, by their number.
const OPTIONS: &str = "2 restart_on_corruption restart_on_error";

/// Maps the root with this hash in a slot's partition, whose superblock was found.
///
/// # Errors
/// When the kernel refuses.
pub fn open(slot: &Path, tree: &Superblock, hash: &RootHash) -> Result<Mapped, Failure> {
    let table = table(slot, tree, hash);
    let uuid = format!("CRYPT-VERITY-{}-{NAME}", tree.uuid.simple());
    Mapper::open()?.map(NAME, &uuid, Access::ReadOnly, &[table])
}

fn table(slot: &Path, tree: &Superblock, hash: &RootHash) -> Target {
    let parameters = tree.parameters(&slot.display().to_string(), hash);
    Target {
        start: 0,
        sectors: tree.covered() / Sectors::SIZE,
        kind: "verity".into(),
        parameters: format!("{parameters} {OPTIONS}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_bit_restarts_the_machine() {
        let salt = slipway_images::verity::salt("x");
        let blocks = std::num::NonZeroU64::MIN.saturating_add(999);
        let read = |_, _: &mut [u8]| Ok::<_, Failure>(());
        let made = slipway_images::verity::tree(blocks, &[], &salt, 1, read).unwrap();
        let tree = Superblock::parse(made.bytes.first_chunk().unwrap()).unwrap();
        let table = table(Path::new("/dev/vda2"), &tree, &made.root);
        assert_eq!((table.sectors, table.kind.as_str()), (8000, "verity"));
        let words: Vec<&str> = table.parameters.split(' ').collect();
        assert_eq!(words.len(), 13, "{words:?}");
        assert_eq!(words[8], made.root.to_string());
        // The number of the options, then as many.
        assert_eq!(
            words[10..],
            ["2", "restart_on_corruption", "restart_on_error"]
        );
    }
}
