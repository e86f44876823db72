//! What is in the initial RAM filesystem: init, the modules it needs to find the root, and
//! what the image says about itself. Everything else waits for the root.
//!
//! | path | what |
//! |---|---|
//! | `/init` | PID 1, the same binary as in the root |
//! | `/usr/lib/modules/<release>/` | some modules with indices of their own |
//! | `/usr/lib/slipway/image.json` | [`slipway_images::info::ImageInfo`] |
//! | `/dev` `/proc` `/run` `/sys` `/sysroot` | mount points |

use slipway_images::info::IMAGE_INFO_PATH;

use super::modules::Modules;
use crate::error::Result;
use crate::tree::{Content, Tree};

/// Puts the tree together.
///
/// # Errors
/// [`Kind::Input`](crate::Kind::Input) if the modules' dependencies go round.
pub fn tree(init: Content, modules: &Modules, image_info: Content) -> Result<(Tree, String)> {
    let mut tree = Tree::new();
    for dir in ["dev", "proc", "run", "sys", "sysroot"] {
        tree.dir(dir)?;
    }
    tree.file("init", 0o755, init)?;
    tree.file(IMAGE_INFO_PATH, 0o644, image_info)?;
    tree.symlink("lib", "usr/lib")?;
    modules.install(&mut tree)?;
    let names: Vec<&str> = modules.modules.iter().map(|m| m.name.as_str()).collect();
    Ok((tree, format!("initrd: init and {}", names.join(" "))))
}
