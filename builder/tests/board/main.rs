//! Boards: the ones that ship, and what is refused, one fault a file.
//!
//! Each file of `refused/` has `# expect: TEXT` lines, which the error must contain.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use slipway::Kind;
use slipway::board::{Architecture, Board};

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../board-configs")
}

#[test]
fn every_shipped_board_is_valid() {
    let names = Board::names(&shipped()).unwrap();
    assert!(names.contains(&"x86_64".to_owned()), "{names:?}");
    for name in names {
        let board = Board::load(&shipped(), &name).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(board.name, name);
        assert!(!board.debian.keyring.is_empty());
    }
}

#[test]
fn the_x86_64_board_says_what_it_inherits_and_what_it_adds() {
    let board = Board::load(&shipped(), "x86_64").unwrap();
    assert_eq!(board.architecture, Architecture::Amd64);
    assert!(board.packages.install.contains(&"crun".to_owned()));
    let words = &board.kernel.command_line;
    assert!(
        words.iter().any(|w| w == "console=ttyS0,115200"),
        "{words:?}"
    );
    assert!(words.iter().any(|w| w == "panic=10"), "{words:?}");
    assert!(board.keeps_path("usr/bin/crun"));
    assert!(!board.keeps_path("usr/share/doc/crun/README.gz"));
    assert!(board.keeps_path("usr/share/doc/crun/copyright"));
    assert!(board.keeps_path("usr/lib/modules/6.12/kernel/sound/x.ko.xz"));
    for kept in [
        "drivers/net/veth.ko",
        "drivers/net/ethernet/intel/e1000e/e1000e.ko.xz",
        "net/netfilter/nf_tables.ko.zst",
        "fs/overlayfs/overlay.ko",
        "drivers/block/virtio_blk.ko.xz",
    ] {
        assert!(board.keeps_module(kept), "{kept}");
    }
    for gone in [
        "sound/soundcore.ko.xz",
        "drivers/gpu/drm/i915/i915.ko.xz",
        "net/netfilter/xt_tcpudp.ko",
        "net/ipv4/netfilter/ip_tables.ko",
        "drivers/net/wireless/ath/ath.ko",
    ] {
        assert!(!board.keeps_module(gone), "{gone}");
    }
    assert!(board.wants_in_initrd("virtio_blk"));
    assert!(board.wants_in_initrd("arch/x86/crypto/crc32c-intel.ko.xz"));
    assert!(!board.wants_in_initrd("wireguard"));
}

/// A base that lacks nothing, and files on top of it.
fn load(files: &[(&str, &str)], name: &str) -> slipway::Result<Board> {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(corpus().join("base.toml"), dir.path().join("base.toml")).unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(format!("{name}.toml")), text).unwrap();
    }
    Board::load(dir.path(), name)
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/board/refused")
}

#[test]
fn lists_replace_or_change() {
    let board = load(
        &[
            ("mid", "inherits = \"base\"\npackages.install.add = [\"bb\"]\n"),
            (
                "top",
                "inherits = \"mid\"\npackages.install = { remove = [\"aa\"], add = [\"cc\", \"bb\"] }\npackages.exclude = [\"dd\"]\nimage.slot-size = \"1 GiB\"\n",
            ),
        ],
        "top",
    )
    .unwrap();
    assert_eq!(board.packages.install, ["bb", "cc"]);
    assert_eq!(board.packages.exclude, ["dd"]);
    assert_eq!(board.image.slot_size, 1 << 30);
    assert_eq!(board.image.boot_size, 64 << 20);
}

#[test]
fn fragments_go_on_top_of_a_board() {
    let fragment = "packages.install.add = [\"bb\"]\n[kernel.modules]\ninclude.add = [\"net/x\"]\n";
    let board = load(
        &[
            ("base-x", fragment),
            (
                "base-y",
                "packages.install = { remove = [\"bb\"], add = [\"cc\"] }\n",
            ),
            ("top", "inherits = [\"base\", \"base-x\", \"base-y\"]\n"),
        ],
        "top",
    )
    .unwrap();
    assert_eq!(board.packages.install, ["aa", "cc"]);
    assert!(board.keeps_module("net/x.ko"));
}

#[test]
fn wireless_networks_come_by_one_line_and_only_so() {
    let wifi = Board::load(&shipped(), "x86_64-wifi").unwrap();
    let plain = Board::load(&shipped(), "x86_64").unwrap();
    for (board, there) in [(&wifi, true), (&plain, false)] {
        let names = &board.packages.install;
        assert_eq!(
            names.contains(&"wpasupplicant".to_owned()),
            there,
            "{names:?}"
        );
        assert_eq!(board.keeps_module("net/wireless/cfg80211.ko.xz"), there);
        assert_eq!(board.keeps_path("usr/sbin/wpa_cli"), !there);
    }
    assert!(wifi.packages.install.contains(&"crun".to_owned()));
    let names = Board::names(&shipped()).unwrap();
    assert!(
        names
            .iter()
            .all(|name| !name.starts_with("test-") && !name.starts_with("base"))
    );
    Board::load(&shipped(), "test-wifi").unwrap();
}

#[test]
fn tables_merge() {
    let board = load(
        &[(
            "b",
            "inherits = \"base\"\n[node.sysctl]\n\"kernel.panic\" = 5\n\"vm.x\" = \"1 2\"\n",
        )],
        "b",
    )
    .unwrap();
    let sysctl: Vec<_> = board
        .node
        .sysctl
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    assert_eq!(
        sysctl,
        ["kernel.panic=5", "net.ipv4.ip_forward=1", "vm.x=1 2"]
    );
}

#[test]
fn the_digest_knows_meaning_not_form() {
    let plain = load(&[("b", "inherits = \"base\"\n")], "b").unwrap();
    let commented = load(
        &[(
            "b",
            "# x\ninherits   = \"base\"\nimage.boot-size = \"64 MiB\"\n",
        )],
        "b",
    )
    .unwrap();
    let other = load(
        &[("b", "inherits = \"base\"\nimage.boot-size = \"65 MiB\"\n")],
        "b",
    )
    .unwrap();
    assert_eq!(plain.digest().unwrap(), commented.digest().unwrap());
    assert_ne!(plain.digest().unwrap(), other.digest().unwrap());
    assert_eq!(plain.rules_digest().unwrap(), other.rules_digest().unwrap());
}

#[test]
fn everything_in_the_corpus_is_refused_for_its_reason() {
    let mut count = 0;
    for file in fs::read_dir(corpus()).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "base" {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let expected: Vec<&str> = text
            .lines()
            .filter_map(|l| l.strip_prefix("# expect: "))
            .collect();
        assert!(!expected.is_empty(), "{name} expects nothing");
        match Board::load(&corpus(), &name) {
            Ok(_) => panic!("{name} was accepted"),
            Err(e) => {
                assert_eq!(e.kind, Kind::Input, "{name}: {e}");
                for part in expected {
                    assert!(
                        e.message().contains(part),
                        "{name}: expected `{part}`, got:\n{e}"
                    );
                }
            }
        }
        count += 1;
    }
    assert!(count >= 15, "only {count} files");
}

#[test]
fn an_unknown_board_has_a_near_miss() {
    let e = Board::load(&shipped(), "x86-64").unwrap_err();
    assert!(e.message().contains("did you mean `x86_64`?"), "{e}");
    let e = Board::load(&shipped(), "../x").unwrap_err();
    assert_eq!(e.kind, Kind::Input);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_text_is_a_board_or_not(text in "(?s).{0,200}") {
        load(&[("b", &text)], "b").map(|_| ()).unwrap_or(());
    }

    #[test]
    fn a_damaged_board_is_one_or_not(at in 0usize..2000, with in "\\PC{0,3}", cut in 0usize..12) {
        let mut text = fs::read_to_string(corpus().join("base.toml")).unwrap();
        let mut at = at % text.len();
        while !text.is_char_boundary(at) { at -= 1; }
        let mut end = (at + cut).min(text.len());
        while !text.is_char_boundary(end) { end -= 1; }
        text.replace_range(at..end.max(at), &with);
        load(&[("b", &text)], "b").map(|_| ()).unwrap_or(());
    }
}
