//! What boards that U-Boot starts get on their disks, against golden files: every change of it
//! shows in review. `UPDATE_GOLDEN=1 cargo test --workspace --lib uboot_tests` rewrites them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::uboot::Files;
use crate::board::{Board, Pattern};
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
    let firmware = [
        "start4.elf",
        "fixup4.dat",
        "overlays/pi4-spidev.dtbo",
        "bootcode.bin",
        "start.elf",
        "fixup.dat",
    ];
    let mut paths: Vec<String> = (firmware.iter())
        .map(|name| format!("usr/lib/raspi-firmware/{name}"))
        .collect();
    for board in ["rpi_4", "rpi_3_32b", "rpi_2"] {
        paths.push(format!("usr/lib/u-boot/{board}/u-boot.bin"));
    }
    for model in [
        "broadcom/bcm2711-rpi-4-b",
        "broadcom/bcm2711-rpi-400",
        "broadcom/bcm2711-rpi-cm4-io",
        "bcm2836-rpi-2-b",
        "bcm2837-rpi-3-b",
        "bcm2837-rpi-3-b-plus",
    ] {
        paths.push(format!("usr/lib/linux-image-{RELEASE}/{model}.dtb"));
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
    let slot = files.slot_script(board);
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

#[test]
fn a_board_adds_overlays_before_its_owners() {
    let mut board = load("pi4");
    let from = "usr/lib/raspi-firmware/overlays/pi4-spidev.dtbo";
    board.boot.overlays = vec![Pattern::new(from).unwrap()];
    let shown = shown(&board);
    let place = |what: &str| {
        shown
            .find(what)
            .unwrap_or_else(|| panic!("{what}: {shown}"))
    };
    let boards = place("for name in pi4-spidev; do if load ${from} ");
    let owners = place("for name in ${overlays}; do if load ${here} ");
    assert!(place("if test -n \"pi4-spidev${overlays}\" && ") < boards && boards < owners);
    // A blank would be two names to the script.
    let mut tree = packages();
    let odd = "usr/lib/raspi-firmware/overlays/a b.dtbo";
    tree.file(odd, 0o644, Vec::new()).unwrap();
    board.boot.overlays = vec![Pattern::new(odd).unwrap()];
    let refused = Files::take(&tree, &board, &source(), RELEASE)
        .err()
        .unwrap();
    assert!(refused.to_string().contains("boot.overlays: "), "{refused}");
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

/// The files that a Raspberry Pi takes from its firmware partition up to U-Boot, which config.txt
/// decides on: Raspberry Pi documentation, "config.txt" and "Boot folder contents". That too little
/// memory for the GPU asks for a firmware of its own, which a card without it doesn't start from,
/// is in raspberrypi/firmware#984.
///
/// `sections` are the filters that hold for a model.
fn taken_by_firmware(config: &str, sections: &[&str]) -> Vec<String> {
    let (mut section, mut gpu_mem, mut files) = ("all", 64, Vec::new());
    for line in config.lines() {
        if let Some(named) = line.strip_prefix('[') {
            section = named.trim_end_matches(']');
        } else if section == "all" || sections.contains(&section) {
            match line.split_once(['=', ' ']) {
                Some(("kernel" | "device_tree" | "include", file)) => files.push(file.to_owned()),
                Some(("gpu_mem", mebibytes)) => gpu_mem = mebibytes.parse().unwrap(),
                Some(("start_file" | "fixup_file" | "start_x" | "start_debug", _)) => {
                    panic!("{line}: isn't modelled here")
                }
                _ => {}
            }
        }
    }
    let pi4 = sections.contains(&"pi4");
    let variant = match (pi4, gpu_mem < 32) {
        (true, false) => "4",
        (true, true) => "4cd",
        (false, false) => "",
        (false, true) => "_cd",
    };
    files.extend([format!("start{variant}.elf"), format!("fixup{variant}.dat")]);
    if !pi4 {
        files.push("bootcode.bin".into());
    }
    files
}

#[test]
fn the_firmware_of_a_raspberry_pi_finds_what_it_looks_for() {
    let pi4: &[&[&str]] = &[&["pi4"], &["pi4", "pi400"], &["pi4", "cm4"]];
    for (board, models) in [("pi4", pi4), ("pi2-3", &[&["pi2"], &["pi3"]])] {
        let files = Files::take(&packages(), &load(board), &source(), RELEASE).unwrap();
        let partition = files.firmware_partition().unwrap();
        let here: Vec<&str> = partition.iter().map(|(path, _)| path).collect();
        let (_, config) = partition.iter().find(|(p, _)| *p == "config.txt").unwrap();
        let NodeKind::File(config) = &config.kind else {
            panic!("config.txt is no file");
        };
        let config = String::from_utf8(config.read().unwrap().to_vec()).unwrap();
        for model in models {
            let wanted = taken_by_firmware(&config, model);
            assert!(wanted.iter().any(|file| file.starts_with("u-boot")));
            for file in wanted {
                assert!(here.contains(&file.as_str()), "{model:?}: no {file}");
            }
        }
    }
}
