//! What the machine's firmware starts, as its variables say under
//! `/sys/firmware/efi/efivars`: `NAME-GUID`, 4 bytes of attributes, then the content.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use slipway_images::secure_boot::Firmware;
use slipway_images::secure_boot::lists::{GLOBAL, IMAGE_SECURITY, Lists};
use slipway_init::firmware::secure_boot;

use crate::paths::Paths;

const VARIABLES: &str = "sys/firmware/efi/efivars";
/// Of a variable's attributes.
const ATTRIBUTES: usize = 4;
/// More than any firmware has room for.
const LIMIT: u64 = 4 << 20;

/// What it starts; none where Secure Boot is off, or unknown.
///
/// # Errors
/// A sentence when it is on and what it goes by can't be read: an update that the firmware
/// doesn't start needs somebody at the machine.
pub fn read(paths: &Paths) -> Result<Option<Firmware>, String> {
    let said = secure_boot(paths.root());
    let dir = paths.at(VARIABLES);
    if said == Some(false) || (said.is_none() && !dir.is_dir()) {
        return Ok(None);
    }
    let unreadable = |why: &dyn std::fmt::Display| {
        format!("Secure Boot is on, and what the firmware starts can't be read: {why}")
    };
    match (state(&dir), said) {
        (Ok(Some(state)), _) if state == [1] => {}
        // Where the kernel doesn't say it either, nobody enforces it.
        (Ok(Some(_)), _) | (_, None) => return Ok(None),
        (Ok(None), _) => return Err(unreadable(&"there is no variable SecureBoot")),
        (Err(error), _) => return Err(unreadable(&error)),
    }
    let lists = |name: &str| {
        let content = variable(&dir, &format!("{name}-{IMAGE_SECURITY}"));
        let content = content.map_err(|error| unreadable(&error))?;
        Lists::parse(&content.unwrap_or_default())
            .map_err(|fault| unreadable(&format!("{name}: {fault}")))
    };
    Ok(Some(Firmware {
        db: lists("db")?,
        dbx: lists("dbx")?,
    }))
}

/// The firmware's own word on whether it is on.
fn state(dir: &Path) -> io::Result<Option<Vec<u8>>> {
    let name = format!("SecureBoot-{GLOBAL}");
    if let Some(state) = variable(dir, &name)? {
        return Ok(Some(state));
    }
    // Not at each boot: to list all variables takes some firmware long.
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("efivarfs"), dir, Some("efivarfs"), flags, None::<&str>)?;
    variable(dir, &name)
}

/// A variable's content; none if there is no such variable.
fn variable(dir: &Path, name: &str) -> io::Result<Option<Vec<u8>>> {
    let path = dir.join(name);
    let content = match fs::File::open(&path) {
        Ok(file) => {
            let mut content = Vec::new();
            file.take(LIMIT).read_to_end(&mut content)?;
            content
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match content.get(ATTRIBUTES..) {
        Some(content) => Ok(Some(content.to_vec())),
        None => Err(io::Error::new(
            ErrorKind::InvalidData,
            format!("{name} is too short"),
        )),
    }
}
