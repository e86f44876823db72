//! What boards that U-Boot starts get on their disks, against golden files: every change of it
//! shows in review. `UPDATE_GOLDEN=1 cargo test --workspace --lib uboot_tests` rewrites them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::uboot::{Files, slot_script};
use crate::board::Board;
use crate::source::Source;
use crate::tree::{NodeKind, Tree};

const RELEASE: &str = "6.12.0-arm";

fn source() -> Source {
    Source::find(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))).unwrap()
}

fn load(name: &str) -> Board {
    Board::load(&source().path("board-configs"), name).unwrap()
}

/// Files where the packages of these boards have them.
fn packages() -> Tree {
    let mut tree = Tree::new();
    let firmware = ["start4.elf", "fixup4.dat", "overlays/pi4-spidev.dtbo"];
    let mut paths: Vec<String> = (firmware.iter())
        .map(|name| format!("usr/lib/raspi-firmware/{name}"))
        .collect();
    paths.push("usr/lib/u-boot/rpi_4/u-boot.bin".into());
    for model in ["4-b", "400", "cm4-io"] {
        paths.push(format!(
            "usr/lib/linux-image-{RELEASE}/broadcom/bcm2711-rpi-{model}.dtb"
        ));
    }
    for path in paths {
        tree.file(&path, 0o644, path.clone()).unwrap();
    }
    tree
}

/// The text of a script of U-Boot's, behind its header.
fn script(image: &[u8]) -> String {
    const HEADER: usize = 72;
    String::from_utf8(image[HEADER..].to_vec()).unwrap()
}

/// The firmware partition's files, what is text of them, and the slot's script.
fn shown(board: &Board) -> String {
    let files = Files::take(&packages(), board, &source(), RELEASE).unwrap();
    let firmware = files.firmware_partition().unwrap();
    let (mut list, mut texts) = (String::new(), String::new());
    for (path, node) in firmware.iter() {
        let NodeKind::File(content) = &node.kind else {
            continue;
        };
        writeln!(list, "{path}").unwrap();
        let content = content.read().unwrap();
        let text = match path {
            "boot.scr" => script(&content),
            _ if path.ends_with(".txt") => String::from_utf8(content.to_vec()).unwrap(),
            _ => continue,
        };
        writeln!(texts, "=== {path}\n{text}").unwrap();
    }
    let mut renewed = String::new();
    for (place, _) in files.pieces() {
        writeln!(renewed, "{place}").unwrap();
    }
    let slot = slot_script(board);
    format!("{list}\n=== renewed in this order\n{renewed}\n{texts}=== slot.scr\n{slot}")
}

fn check(name: &str) {
    let shown = shown(&load(name));
    let golden = format!("tests/golden/{name}.firmware");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(golden);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &shown).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap();
    assert_eq!(
        shown, golden,
        "{name} differs; see the top of this test's file"
    );
}

#[test]
fn a_raspberry_pi_gets_these_files() {
    check("pi4");
}

#[test]
fn qemus_machine_gets_these_files() {
    check("armv7");
}

#[test]
fn a_board_adds_lines_to_config_txt_before_its_owners() {
    let mut board = load("pi4");
    board.boot.config_txt = vec!["dtparam=i2c_arm=on".into(), "dtoverlay=mine".into()];
    let shown = shown(&board);
    let end = "[all]\n# `boot.config-txt` of the board.\ndtparam=i2c_arm=on\ndtoverlay=mine\n\
               # Its owner's lines, which have the last word.\ninclude user.txt\n\n===";
    assert!(shown.contains(end), "{shown}");
}

/// Whoever reads `config.txt` on a card learns what each line is for.
#[test]
fn each_line_of_config_txt_is_explained() {
    for name in ["pi4", "pi2-3"] {
        let path = source().path(&format!("board-configs/rpi/{name}.txt"));
        let text = fs::read_to_string(&path).unwrap();
        let mut before = "";
        for line in text.lines() {
            let explained = before.starts_with('#') && before.len() > 10;
            let says = !line.is_empty() && !line.starts_with('#');
            assert!(!says || explained, "{}: {line}", path.display());
            before = line;
        }
    }
}
