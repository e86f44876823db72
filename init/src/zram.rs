//! Swap in compressed memory, where there is little of it: what a node's idle programs keep of
//! their start takes a third of the room. Pods don't use it (kubelet's `NoSwap`).
//!
//! | offset in the first page | size | field |
//! |---|---|---|
//! | 1024 | 4 | version: 1 |
//! | 1028 | 4 | number of the last page |
//! | 1032 | 4 | bad pages: 0 |
//! | page size - 10 | 10 | `SWAPSPACE2` |
//!
//! Numbers are the processor's own. Sources: the kernel's `include/linux/swap.h`
//! (`union swap_header`), Documentation/admin-guide/blockdev/zram.rst.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::phase::{Context as _, Failure, Outcome};
use crate::{files, sys};

/// Machines with more memory have no need of it: it takes a second of each start.
const ENOUGH: u64 = 1280 << 20;
/// Of the memory, how much may be swapped, before compression.
const SHARE: u64 = 2;
const PAGE: usize = 4096;
const DEVICE: &str = "dev/zram0";
const SETTINGS: &str = "sys/block/zram0";

/// Makes it where memory is scarce. `load` loads the driver.
///
/// # Errors
/// When the driver or the kernel refuses.
pub fn swap(root: &Path, load: impl FnOnce() -> Result<(), Failure>) -> Outcome {
    let memory = fs::read_to_string(root.join("proc/meminfo")).context("proc/meminfo")?;
    let memory = files::meminfo(&memory, "MemTotal")
        .ok_or_else(|| Failure("no MemTotal in /proc/meminfo".into()))?;
    if memory > ENOUGH {
        return Ok("none: there is enough memory".into());
    }
    load()?;
    let size = memory / SHARE / PAGE as u64 * PAGE as u64;
    let settings = root.join(SETTINGS);
    // Its size in use is 0 before, and can be set but once.
    files::write_existing(settings.join("disksize"), &size.to_string()).context("zram's size")?;
    let device = root.join(DEVICE);
    let mut file = fs::File::options()
        .write(true)
        .open(&device)
        .context(device.display())?;
    file.write_all(&header(size)).context(device.display())?;
    file.sync_all().context(device.display())?;
    drop(file);
    sys::swap_on(&device).context("swapping to zram")?;
    Ok(format!("{} MiB in compressed memory", size >> 20))
}

/// The first page of a swap area of so many bytes.
fn header(size: u64) -> [u8; PAGE] {
    let last = u32::try_from(size / PAGE as u64 - 1).unwrap_or(u32::MAX);
    let mut page = [0; PAGE];
    page[1024..1028].copy_from_slice(&1_u32.to_ne_bytes());
    page[1028..1032].copy_from_slice(&last.to_ne_bytes());
    page[PAGE - 10..].copy_from_slice(b"SWAPSPACE2");
    page
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_machine_with_enough_memory_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("proc")).unwrap();
        let meminfo = |kib: u64| {
            let text = format!("MemTotal:       {kib} kB\nMemFree: 1 kB\n");
            fs::write(dir.path().join("proc/meminfo"), text).unwrap();
        };
        meminfo(4 << 20);
        let note = swap(dir.path(), || panic!("not needed")).unwrap();
        assert!(note.starts_with("none"), "{note}");
        meminfo(1 << 20);
        let failed = swap(dir.path(), || Err(Failure("no such module".into())));
        assert_eq!(failed.unwrap_err().0, "no such module");
    }

    #[test]
    fn the_header_is_mkswaps() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("swap");
        let size = 1 << 20;
        fs::write(&file, vec![0; size]).unwrap();
        let zero = "00000000-0000-0000-0000-000000000000";
        let made = Command::new("/usr/sbin/mkswap")
            .args(["-U", zero])
            .arg(&file)
            .output();
        let made = made.expect("mkswap is needed: apt install mount");
        assert!(made.status.success(), "{made:?}");
        assert_eq!(fs::read(&file).unwrap()[..PAGE], header(size as u64));
    }
}
