//! U-Boot: the firmware partition with its script, and a boot area for each slot.
//!
//! | firmware partition | what |
//! |---|---|
//! | as the board says | what its ROM or firmware reads, U-Boot |
//! | `boot.scr` | chooses and counts: `distro/u-boot/boot.cmd` |
//! | `slipway/slots-0.env`, `slots-1.env` | what it goes by ([`slipway_images::slot::Choice`]) |
//! | `slipway/slots` | what the node remembers of slots |
//!
//! | boot area | what |
//! |---|---|
//! | `slot.scr` | starts this slot: [`slot_script`] |
//! | `slot.env` | `bootargs=` and the command line |
//! | `linux`, `initrd` | |
//! | `dtb/` | device trees |
//! | `overlays/` | overlays, which the kernel's device tree gets |

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use slipway_images::firmware::Place;
use slipway_images::layout::Table;
use slipway_images::slot::{CHOICE_FILES, Choice, RECORD_SIZE, UBOOT_RECORD_FILE};

use super::{Ingredients, missing};
use crate::board::{Architecture, Board, Pattern, RawPiece};
use crate::error::{At as _, Error, Kind, Result};
use crate::formats::{cpio, uimage};
use crate::seed::files::{OVERLAYS, USER_TXT};
use crate::source::Source;
use crate::tree::{NodeKind, Tree};

/// The script of every board.
const SCRIPT: &str = "distro/u-boot/boot.cmd";
/// What a Raspberry Pi's firmware reads first.
const CONFIG_TXT: &str = "config.txt";
/// What is made of it on the firmware partition.
const SCRIPT_FILE: &str = "boot.scr";
/// What a slot's command line is in.
pub const COMMAND_LINE_FILE: &str = "slot.env";
/// Under which name.
pub const COMMAND_LINE_NAME: &str = "bootargs=";
/// A slot's initrd, compressed: U-Boot reads cards at 10 to 20 MB/s, so the 10 MB that it is larger
/// unpacked would be up to a second of each boot.
pub const INITRD_FILE: &str = "initrd";
/// Loads the device tree that U-Boot has named.
const LOAD_TREE: &str = "load ${from} ${fdt_addr_r} dtb/${fdtfile}";
/// zstd level of it: 19 took 11 s of each build and saved 3 % of a tenth of the image.
const INITRD_LEVEL: i32 = 12;

/// A file, and where it goes.
type Placed<P> = (P, Arc<[u8]>);

/// What packages and the checkout bring.
pub struct Files {
    script: String,
    firmware: Vec<Placed<String>>,
    /// Of these, what is never renewed.
    once: Vec<String>,
    raw: Vec<Placed<u64>>,
    device_trees: Vec<Placed<String>>,
    /// By name, without `.dtbo`.
    overlays: Vec<Placed<String>>,
}

impl Files {
    /// Takes them from the tree, and from beside the board's TOML.
    pub fn take(tree: &Tree, board: &Board, source: &Source, release: &str) -> Result<Self> {
        let script = source.path(SCRIPT);
        let (mut firmware, mut once) = (Vec::new(), Vec::new());
        for file in &board.boot.files {
            for (path, content) in found(tree, source, &file.from, &board.boot.package)? {
                let path = placed(&file.to, &path);
                let content = match path.as_str() {
                    CONFIG_TXT => config_txt(&content, &board.boot.config_txt).into(),
                    _ => content,
                };
                if file.once {
                    once.push(path.clone());
                }
                firmware.push((path, content));
            }
        }
        let mut device_trees = Vec::new();
        let below = format!("usr/lib/linux-image-{release}/");
        for pattern in &board.boot.device_trees {
            device_trees.extend(matching(tree, &below, pattern, &board.kernel.package)?);
        }
        let mut overlays = Vec::new();
        for pattern in &board.boot.overlays {
            for (path, content) in found(tree, source, pattern, &board.boot.package)? {
                overlays.push((overlay_name(&path)?, content));
            }
        }
        let piece = |piece: &RawPiece| {
            let content = tree.content(&piece.from);
            let content = content.ok_or_else(|| missing(&piece.from, &board.boot.package))?;
            Ok((piece.at, content.read()?))
        };
        Ok(Self {
            script: fs::read_to_string(&script).at("reading", &script)?,
            firmware,
            once,
            raw: board.boot.raw.iter().map(piece).collect::<Result<_>>()?,
            device_trees,
            overlays,
        })
    }

    /// The partition that the board starts from.
    pub fn firmware_partition(&self) -> Result<Tree> {
        let mut tree = Tree::new();
        for (path, content) in &self.firmware {
            tree.file(path, 0o644, content.to_vec())?;
        }
        tree.file(SCRIPT_FILE, 0o644, self.choosing_script())?;
        for copy in CHOICE_FILES {
            tree.file(copy, 0o644, Choice::SHIPPED.encode().to_vec())?;
        }
        tree.file(UBOOT_RECORD_FILE, 0o644, vec![0; RECORD_SIZE as usize])?;
        Ok(tree)
    }

    /// The script that chooses. Its time is nobody's, so that it is the same as long as its text
    /// is.
    fn choosing_script(&self) -> Vec<u8> {
        uimage::script("Slipway: choose a slot", &self.script, 0)
    }

    /// What can be renewed later. The script first: it does with any U-Boot.
    pub fn pieces(&self) -> Vec<(Place, Arc<[u8]>)> {
        let file = |path: &str| Place::File(path.to_owned());
        let mut pieces = vec![(file(SCRIPT_FILE), self.choosing_script().into())];
        let renewed = self
            .firmware
            .iter()
            .filter(|(path, _)| !self.once.contains(path));
        pieces.extend(renewed.map(|(path, content)| (file(path), content.clone())));
        let raw = self.raw.iter();
        pieces.extend(raw.map(|(at, content)| (Place::Raw(*at), content.clone())));
        pieces
    }

    /// A slot's payload.
    pub fn boot_area(&self, from: &Ingredients<'_>) -> Result<Tree> {
        let mut tree = Tree::new();
        let script = self.slot_script(from.board);
        let script = uimage::script("Slipway: start this slot", &script, from.epoch);
        tree.file("slot.scr", 0o644, script)?;
        let line = format!("{COMMAND_LINE_NAME}{}\n", from.command_line());
        tree.file(COMMAND_LINE_FILE, 0o644, line)?;
        tree.file("linux", 0o644, from.root.boot.kernel.to_vec())?;
        let initrd = cpio::compressed(&from.root.initrd, from.epoch, INITRD_LEVEL)?;
        tree.file(INITRD_FILE, 0o644, initrd)?;
        for (path, content) in &self.device_trees {
            tree.file(&format!("dtb/{path}"), 0o644, content.to_vec())?;
        }
        for (name, content) in &self.overlays {
            let path = format!("{OVERLAYS}/{name}.dtbo");
            tree.file(&path, 0o644, content.to_vec())?;
        }
        Ok(tree)
    }

    /// What starts a slot. U-Boot runs it with `devtype`, `devnum` and `area` set: the disk, and
    /// the number of the boot area's partition; and with `here`, where the firmware partition is.
    pub(super) fn slot_script(&self, board: &Board) -> String {
        let start = match board.architecture {
            Architecture::Arm64 => "booti",
            Architecture::Amd64 | Architecture::Armhf => "bootz",
        };
        let mut lines = vec!["setenv append".to_owned()];
        lines.extend(board.boot.commands.clone());
        // Not by `exit`: before 2024 it doesn't end a script that another one has started.
        lines.extend([
            "setenv from ${devtype} ${devnum}:${area}".to_owned(),
            "setenv fdt ${fdtcontroladdr}".to_owned(),
            "if test -n \"${fdtfile}\"; then".to_owned(),
            "  setenv fdt".to_owned(),
            format!("  if {LOAD_TREE}; then setenv fdt ${{fdt_addr_r}}; fi"),
            "fi".to_owned(),
            "if test -n \"${fdt}\"; then".to_owned(),
        ]);
        lines.extend(self.overlay_lines());
        lines.extend([
            format!("if load ${{from}} ${{kernel_addr_r}} {COMMAND_LINE_FILE}; then"),
            "if env import -t ${kernel_addr_r} ${filesize} bootargs; then".to_owned(),
            // What was found out on the way.
            "  setenv bootargs \"${bootargs} ${append}\"".to_owned(),
            format!("if load ${{from}} ${{ramdisk_addr_r}} {INITRD_FILE}; then"),
            "  setenv initrd ${ramdisk_addr_r}:${filesize}".to_owned(),
            "  if load ${from} ${kernel_addr_r} linux; then".to_owned(),
            format!("    {start} ${{kernel_addr_r}} ${{initrd}} ${{fdt}}"),
            "  fi".to_owned(),
            "fi; fi; fi; fi".to_owned(),
        ]);
        lines.join("\n") + "\n"
    }

    /// What puts overlays over the device tree at `fdt`: the image's, then those that its owner
    /// names in `user.txt`. One that can't be applied leaves a broken tree (U-Boot's
    /// doc/usage/fdt_overlays.rst): then the kernel gets the tree without any, and is told, since a
    /// node that isn't there is worse than one without a device.
    fn overlay_lines(&self) -> Vec<String> {
        let owners = (self.firmware.iter()).any(|(path, _)| path == USER_TXT);
        if !owners && self.overlays.is_empty() {
            return Vec::new();
        }
        let apply = |place: &str, names: &str| {
            format!(
                "for name in {names}; do if load ${{{place}}} ${{kernel_addr_r}} \
                 {OVERLAYS}/${{name}}.dtbo && fdt apply ${{kernel_addr_r}}; then \
                 echo \"Slipway: overlay ${{name}}\"; else setenv broken ${{name}}; fi; done"
            )
        };
        let mut lines = vec!["setenv overlays".to_owned(), "setenv broken".to_owned()];
        if owners {
            lines.push(format!(
                "if load ${{here}} ${{kernel_addr_r}} {USER_TXT}; then \
                 env import -t -r ${{kernel_addr_r}} ${{filesize}} overlays; fi"
            ));
        }
        let names: Vec<&str> = (self.overlays.iter())
            .map(|(name, _)| name.as_str())
            .collect();
        let names = names.join(" ");
        lines.extend([
            // QEMU's machine has no place for a tree, and no device of theirs.
            format!("if test -n \"{names}${{overlays}}\" && test -n \"${{fdt_addr_r}}\"; then"),
            "  fdt addr ${fdt}".to_owned(),
            // U-Boot's own stays as it is.
            "  if test -z \"${fdtfile}\"; then fdt move ${fdt} ${fdt_addr_r}; \
             setenv fdt ${fdt_addr_r}; fi"
                .to_owned(),
            "  fdt resize 4000".to_owned(),
        ]);
        if !names.is_empty() {
            lines.push(format!("  {}", apply("from", &names)));
        }
        if owners {
            lines.push(format!("  {}", apply("here", "${overlays}")));
        }
        lines.extend([
            "  if test -n \"${broken}\"; then".to_owned(),
            "    echo \"Slipway: overlay ${broken} cannot be applied, and so none is\"".to_owned(),
            "    setenv append \"${append} slipway.overlay-failed=${broken}\"".to_owned(),
            format!(
                "    if test -n \"${{fdtfile}}\"; then {LOAD_TREE}; \
                 else setenv fdt ${{fdtcontroladdr}}; fi"
            ),
            "  fi".to_owned(),
            "fi".to_owned(),
        ]);
        lines
    }

    /// What the board's ROM wants at a place of its own.
    pub fn write_raw(&self, file: &File, table: &Table, image: &Path) -> Result<()> {
        let entries = slipway_images::layout::gpt::PRIMARY_END.get();
        let end = (table.partitions.first()).map_or(0, |first| first.offset().get());
        let mut free = entries..end;
        for (at, content) in &self.raw {
            let behind = at + content.len() as u64;
            if *at < free.start || behind > free.end {
                return Err(Error::new(
                    Kind::Input,
                    format!(
                        "boot.raw: {} bytes at {at} don't fit between byte {} and byte {} of the disk",
                        content.len(),
                        free.start,
                        free.end
                    ),
                ));
            }
            free.start = behind;
            file.write_all_at(content, *at).at("writing", image)?;
        }
        Ok(())
    }
}

/// A Raspberry Pi's `config.txt` with its end: the board's lines, then its owner's.
fn config_txt(base: &[u8], lines: &[String]) -> Vec<u8> {
    let mut text = base.to_vec();
    if !lines.is_empty() {
        text.extend(b"# `boot.config-txt` of the board.\n");
    }
    for line in lines {
        text.extend(line.bytes().chain(*b"\n"));
    }
    text.extend(b"# Its owner's lines, which have the last word.\ninclude user.txt\n");
    text
}

/// A file beside the board's TOML; none if it is a package's.
pub fn beside(source: &Source, file: &Pattern) -> Result<Option<Vec<u8>>> {
    let path = source.path("board-configs").join(file.as_str());
    match path.is_file() {
        true => fs::read(&path).at("reading", &path).map(Some),
        false => Ok(None),
    }
}

/// What a pattern names: a file beside the board's TOML, or those of packages.
fn found(
    tree: &Tree,
    source: &Source,
    pattern: &Pattern,
    package: &str,
) -> Result<Vec<Placed<String>>> {
    match beside(source, pattern)? {
        Some(content) => Ok(vec![(pattern.as_str().to_owned(), content.into())]),
        None => matching(tree, "", pattern, package),
    }
}

/// By what an overlay is called in U-Boot's script, where a blank would be the end of it.
fn overlay_name(path: &str) -> Result<String> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.strip_suffix(".dtbo").unwrap_or_default();
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b',');
    if stem.is_empty() || !stem.bytes().all(plain) {
        return Err(Error::new(
            Kind::Input,
            format!(
                "boot.overlays: {path}: an overlay's name is of letters, digits, -_., and ends in .dtbo"
            ),
        ));
    }
    Ok(stem.to_owned())
}

/// Where a file goes whose path is `from`.
fn placed(to: &str, from: &str) -> String {
    let name = from.rsplit('/').next().unwrap_or(from);
    match to {
        "" => name.to_owned(),
        directory if directory.ends_with('/') => format!("{directory}{name}"),
        path => path.to_owned(),
    }
}

/// The files below a directory whose paths there match.
fn matching(
    tree: &Tree,
    below: &str,
    pattern: &Pattern,
    package: &str,
) -> Result<Vec<Placed<String>>> {
    let matcher = pattern
        .matcher()
        .map_err(|e| Error::new(Kind::Bug, format!("`{pattern}`: {e}")))?;
    let mut found = Vec::new();
    for (path, node) in tree.iter() {
        if let (Some(path), NodeKind::File(content)) = (path.strip_prefix(below), &node.kind)
            && matcher.is_match(path)
        {
            found.push((path.to_owned(), content.read()?));
        }
    }
    match found.is_empty() {
        true => Err(missing(&format!("{below}{pattern}"), package)),
        false => Ok(found),
    }
}
