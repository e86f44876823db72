//! The unified kernel image, against objdump and Debian's own stub.

use std::fs;

use proptest::prelude::*;
use slipway::formats::uki::{Parts, assemble, read};

use super::{noise, run, str};

const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";

fn stub() -> Vec<u8> {
    fs::read(STUB).unwrap_or_else(|e| panic!("{STUB} is needed (systemd-boot-efi): {e}"))
}

fn kernel() -> Vec<u8> {
    [b"MZ".to_vec(), noise(1, 300_001)].concat()
}

fn parts<'a>(stub: &'a [u8], kernel: &'a [u8], initrd: &'a [u8]) -> Parts<'a> {
    Parts {
        stub,
        linux: kernel,
        initrd,
        cmdline: "console=ttyS0 root=UUID=x\n",
        os_release: "ID=slipway\n",
        uname: "6.12.0",
    }
}

#[test]
fn objdump_shows_every_section_where_it_belongs() {
    let (stub, kernel, initrd) = (stub(), kernel(), noise(2, 70_000));
    let uki = assemble(parts(&stub, &kernel, &initrd)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("uki.efi");
    fs::write(&path, &uki).unwrap();
    let shown = run("objdump", &["-h", str(&path)]);
    assert!(shown.contains("file format pei-x86-64"), "{shown}");
    let rows: Vec<(String, u64, u64)> = shown
        .lines()
        .filter_map(|l| {
            let words: Vec<&str> = l.split_whitespace().collect();
            let [index, name, size, address, ..] = words.as_slice() else {
                return None;
            };
            index.parse::<u32>().ok()?;
            Some((
                (*name).to_owned(),
                u64::from_str_radix(address, 16).ok()?,
                u64::from_str_radix(size, 16).ok()?,
            ))
        })
        .collect();
    let names: Vec<&str> = rows.iter().map(|r| r.0.as_str()).collect();
    assert!(
        names.ends_with(&[".osrel", ".cmdline", ".uname", ".initrd", ".linux"]),
        "{shown}"
    );
    for pair in rows.windows(2) {
        assert!(pair[0].1 + pair[0].2 <= pair[1].1, "{shown}");
    }
    for row in rows.iter().rev().take(5) {
        assert_eq!(row.1 % 4096, 0, "{shown}");
    }

    let sections = read(&uki).unwrap();
    let section = |name: &str| sections.iter().find(|s| s.name == name).unwrap().data;
    assert_eq!(section(".cmdline"), b"console=ttyS0 root=UUID=x");
    assert_eq!(section(".osrel"), b"ID=slipway\n");
    assert_eq!(section(".uname"), b"6.12.0");
    assert!(section(".initrd") == initrd && section(".linux") == kernel);
    assert_eq!(uki, assemble(parts(&stub, &kernel, &initrd)).unwrap());
    // What objcopy reads and writes again is what it read.
    let copy = dir.path().join("linux");
    run(
        "objcopy",
        &[
            "-O",
            "binary",
            "--only-section=.linux",
            str(&path),
            str(&copy),
        ],
    );
    assert!(fs::read(&copy).unwrap() == kernel);
}

#[test]
fn what_makes_no_image_is_said() {
    let (stub, kernel) = (stub(), kernel());
    let mut p = parts(&stub, &kernel, b"");
    p.cmdline = "quiet\nroot=x";
    assert!(assemble(p).unwrap_err().message().contains("'\\n'"));
    let mut p = parts(&stub, b"\x7fELF", b"");
    p.linux = b"\x7fELF";
    assert!(
        assemble(p)
            .unwrap_err()
            .advice()
            .unwrap()
            .contains("bzImage")
    );
    for bad in [&b""[..], b"MZ", &stub[..200], &kernel[..]] {
        let error = assemble(parts(bad, &kernel, b"")).unwrap_err();
        assert!(
            error.advice().unwrap().contains("systemd-boot-efi"),
            "{error}"
        );
    }
}

#[test]
fn a_stub_whose_header_is_full_is_refused() {
    let (mut stub, kernel) = (stub(), kernel());
    for _ in 0..8 {
        // A UKI is a stub with more sections; the header fills up before long.
        match assemble(parts(&stub, &kernel, b"initrd")) {
            Ok(uki) => stub = uki,
            Err(e) => {
                assert!(e.message().contains("no room for the section"), "{e}");
                return;
            }
        }
    }
    panic!("more than 40 sections fit");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_stub_makes_it_panic(
        changes in prop::collection::vec((0usize..0x500, any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
    ) {
        let mut stub = stub();
        for (at, byte) in changes {
            stub[at] = byte;
        }
        let len = if whole { stub.len() } else { cut.index(stub.len()) };
        drop(read(&stub[..len]));
        if let Ok(uki) = assemble(parts(&stub[..len], b"MZkernel", b"initrd")) {
            prop_assert!(read(&uki).is_ok());
        }
    }
}

#[test]
fn a_slots_os_release_has_no_version_to_sort_by() {
    let text = "ID=slipway\nVERSION=\"1\"\nVERSION_ID=1\nIMAGE_ID=slipway-x\nIMAGE_VERSION=1\nBUILD_ID=2\nPRETTY_NAME=\"Slipway 1\"\n";
    assert_eq!(
        slipway::formats::uki::without_version(text),
        "ID=slipway\nIMAGE_ID=slipway-x\nPRETTY_NAME=\"Slipway 1\"\n"
    );
}
