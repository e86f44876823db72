//! QEMU's machine `raspi4b`, and the device tree that a Raspberry Pi's kernel needs for it.
//!
//! QEMU emulates neither the Pi's firmware nor all of its devices (its documentation,
//! "Raspberry Pi boards"). U-Boot and the kernel are those of the image; the tree is a copy
//! in which is changed what they would stumble over:
//!
//! | node | change | why |
//! |---|---|---|
//! | HDMI, its I²C, clock and interrupts, the video scaler | disabled | not emulated: their drivers read what isn't there |
//! | `serial@7e201000` | no `bluetooth`, the console | the first serial port is QEMU's, and no radio is at it |
//! | `serial@7e215040` | disabled | the mini UART is the second port, which nothing listens to |
//! | `mmc@7e340000` | disabled | the Pi's slot is empty here. U-Boot would leave an interrupt pending on a line that both share |
//! | `mmc@7e300000` | no `wifi@1`, no `mmc-pwrseq` | QEMU has the card here, not at `emmc2` |
//! | `usb@7e980000` | `dr_mode = "host"` | network and keyboard are there; without PCIe it is the only USB |
//! | `watchdog@7e100000` | a `syscon` | it doesn't count: when it is armed it resets the machine at once |
//! | `reboot`, `poweroff`, `poweroff-last` | added | what its driver does else, by its registers |
//! | `ram@40000000` | added | the second GiB, of which the firmware would tell |
//! | `chosen/bootloader` | added | the EEPROM's says there when it was built |
//! | `model` | [`MODEL`] | the slot's script (`board-configs/pi4.toml`) keeps this tree by it |

use std::path::Path;

use dtoolkit::fdt::Fdt;
use dtoolkit::model::{DeviceTree, DeviceTreeNode, DeviceTreeProperty};
use dtoolkit::{Node as _, Property as _};

use crate::error::{Error, Result};
use crate::host;
use crate::machine::Mebibytes;

/// The machine type.
pub const MACHINE: &str = "raspi4b";
/// How QMP calls it.
pub const QOM_TYPE: &str = "raspi4b-machine";
/// It has these and no others.
pub const CPUS: u16 = 4;
/// It has this much and no other.
pub const MEMORY: Mebibytes = Mebibytes(2048);
/// What the tree's `model` says.
pub const MODEL: &str = "Raspberry Pi 4 Model B in QEMU";
/// The first version of QEMU that was tried; 9.0 has the machine, but not its USB's network.
pub const SINCE: (u32, u32) = (10, 0);

const DISABLED: [&str; 9] = [
    "/emmc2bus/mmc@7e340000",
    "/soc/clock@7ef00000",
    "/soc/hdmi@7ef00700",
    "/soc/hdmi@7ef05700",
    "/soc/hvs@7e400000",
    "/soc/i2c@7ef04500",
    "/soc/i2c@7ef09500",
    "/soc/interrupt-controller@7ef00100",
    "/soc/serial@7e215040",
];
const POWER: &str = "/soc/watchdog@7e100000";

/// 2020-09-03, the first one that reads a GPT.
const BUILT: u32 = 0x5f50_de7f;

/// Registers of the power manager, with its password 0x5a (the kernel's
/// drivers/watchdog/bcm2835_wdt.c): [`RSTC`] with bit 5 resets, or switches off if [`RSTS`]
/// says partition 63.
const RSTC: u32 = 0x1c;
const RSTS: u32 = 0x20;
const RESET: u32 = 0x5a00_0020;
const HALT: u32 = 0x5a00_0555;

/// Whether an emulator has the machine.
///
/// # Errors
/// [`Error::EmulatorTooOld`].
pub fn check(emulator: &Path) -> Result<()> {
    match host::version(emulator) {
        Some(version) if version < SINCE => Err(Error::EmulatorTooOld {
            machine: MACHINE,
            version,
            needed: SINCE,
        }),
        _ => Ok(()),
    }
}

/// A Raspberry Pi 4's device tree, changed for QEMU.
///
/// # Errors
/// [`Error::Invalid`] if it is none.
pub fn adapt(dtb: &[u8]) -> Result<Vec<u8>> {
    let wrong = |why: String| Error::Invalid(format!("the image's device tree: {why}"));
    let fdt = Fdt::new(dtb).map_err(|e| wrong(e.to_string()))?;
    let mut tree = DeviceTree::from_fdt(&fdt);
    let mut change = |path: &str, act: &dyn Fn(&mut DeviceTreeNode)| match tree.find_node_mut(path)
    {
        Some(node) => {
            act(node);
            Ok(())
        }
        None => Err(wrong(format!("it has no {path}, so it isn't a Pi 4's"))),
    };
    for path in DISABLED {
        change(path, &|node| set(node, "status", "disabled"))?;
    }
    change("/soc/serial@7e201000", &|node| {
        node.remove_child("bluetooth");
    })?;
    change("/soc/mmc@7e300000", &|node| {
        node.remove_child("wifi@1");
        node.remove_property("mmc-pwrseq");
    })?;
    change("/soc/usb@7e980000", &|node| set(node, "dr_mode", "host"))?;
    change("/chosen", &|chosen| {
        set(chosen, "stdout-path", "serial0:115200n8");
        chosen.add_child(node("bootloader", &[], &[("build-timestamp", BUILT)]));
    })?;
    change(POWER, &|node| set(node, "compatible", "syscon"))?;
    let manager = tree
        .find_node(POWER)
        .and_then(|node| node.property("phandle"));
    let manager = manager
        .and_then(|handle| handle.value().try_into().ok())
        .map(u32::from_be_bytes)
        .ok_or_else(|| wrong(format!("{POWER} has no phandle")))?;
    let writes = |name, kind, offset, value| {
        let cells = [("regmap", manager), ("offset", offset), ("value", value)];
        node(name, &[("compatible", kind)], &cells)
    };
    let root = &mut tree.root;
    set(root, "model", MODEL);
    root.add_child(writes("reboot", "syscon-reboot", RSTC, RESET));
    // In this order.
    root.add_child(writes("poweroff", "syscon-poweroff", RSTS, HALT));
    root.add_child(writes("poweroff-last", "syscon-poweroff", RSTC, RESET));
    let mut memory = node("ram@40000000", &[("device_type", "memory")], &[]);
    let place = [0, 0x4000_0000_u32, 0x4000_0000].map(u32::to_be_bytes);
    memory.add_property(DeviceTreeProperty::new_unchecked(
        "reg",
        place.as_flattened(),
    ));
    root.add_child(memory);
    Ok(tree.to_dtb())
}

fn set(node: &mut DeviceTreeNode, name: &str, value: &str) {
    node.add_property(DeviceTreeProperty::new_unchecked(name, value));
}

fn node(name: &str, texts: &[(&str, &str)], cells: &[(&str, u32)]) -> DeviceTreeNode {
    let mut node = DeviceTreeNode::new_unchecked(name);
    for (name, value) in texts {
        set(&mut node, name, value);
    }
    for (name, value) in cells {
        node.add_property(DeviceTreeProperty::new_unchecked(*name, *value));
    }
    node
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    /// As much of a Pi's tree as is changed.
    fn pi() -> DeviceTree {
        let mut tree = DeviceTree::new();
        let mut soc = DeviceTreeNode::new_unchecked("soc");
        let mut bus = DeviceTreeNode::new_unchecked("emmc2bus");
        for path in DISABLED {
            let (parent, name) = path[1..].split_once('/').unwrap();
            let parent = if parent == "soc" { &mut soc } else { &mut bus };
            parent.add_child(node(name, &[("status", "okay")], &[]));
        }
        tree.root.add_child(bus);
        let power = POWER.strip_prefix("/soc/").unwrap();
        soc.add_child(node(power, &[], &[("phandle", 0x29)]));
        let mut serial = DeviceTreeNode::new_unchecked("serial@7e201000");
        serial.add_child(DeviceTreeNode::new_unchecked("bluetooth"));
        soc.add_child(serial);
        let mut mmc = node(
            "mmc@7e300000",
            &[],
            &[("mmc-pwrseq", 0xf), ("bus-width", 4)],
        );
        mmc.add_child(DeviceTreeNode::new_unchecked("wifi@1"));
        soc.add_child(mmc);
        soc.add_child(node("usb@7e980000", &[("dr_mode", "otg")], &[]));
        tree.root.add_child(DeviceTreeNode::new_unchecked("chosen"));
        tree.root.add_child(soc);
        tree
    }

    /// What the device tree compiler makes of it.
    fn source(dtb: &[u8]) -> String {
        let mut dtc = Command::new("dtc")
            .args(["-q", "-I", "dtb", "-O", "dts"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        dtc.stdin.take().unwrap().write_all(dtb).unwrap();
        let out = dtc.wait_with_output().unwrap();
        assert!(out.status.success(), "dtc doesn't read it");
        String::from_utf8(out.stdout).unwrap()
    }

    #[test]
    fn a_tree_is_changed_as_qemu_needs_it() {
        let shown = source(&adapt(&pi().to_dtb()).unwrap());
        let golden = include_str!("../tests/golden/raspi4b.dts");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/raspi4b.dts");
            std::fs::write(path, &shown).unwrap();
            return;
        }
        assert_eq!(shown, golden, "UPDATE_GOLDEN=1 rewrites it");
    }

    #[test]
    fn what_is_no_pis_tree_is_refused() {
        let other = adapt(&DeviceTree::new().to_dtb()).unwrap_err().to_string();
        assert!(other.contains("isn't a Pi 4's"), "{other}");
        let mut no_handle = pi();
        let power = no_handle.find_node_mut(POWER).unwrap();
        power.remove_property("phandle");
        let said = adapt(&no_handle.to_dtb()).unwrap_err().to_string();
        assert!(said.contains("no phandle"), "{said}");
        adapt(b"").unwrap_err();
    }

    proptest! {
        /// An image is somebody's: whatever its tree is like, there is an answer.
        #[test]
        fn damage_is_no_panic(at in 0_usize..2000, with in any::<[u8; 4]>()) {
            let mut dtb = pi().to_dtb();
            let at = at % (dtb.len() - with.len());
            dtb[at..at + with.len()].copy_from_slice(&with);
            if let Ok(adapted) = adapt(&dtb) {
                prop_assert!(Fdt::new(&adapted).is_ok());
            }
        }
    }
}
