//! What is written beside an image: the entry for Raspberry Pi Imager.

use slipway::board::Board;
use slipway::formats::verity::Verity;
use slipway::imager::Repository;
use slipway::manifest::{File, Manifest, RootSizes};

#[test]
fn imager_gets_what_it_needs() {
    let boards = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../board-configs");
    let mut board = Board::load(&boards, "x86_64").unwrap();
    let file = |size, digit: &str| File {
        size,
        sha256: digit.repeat(64),
    };
    let manifest = Manifest {
        format: slipway::manifest::FORMAT,
        board: "x86_64".into(),
        version: "1.2.3".into(),
        built: "2026-11-24T09:15:44Z".into(),
        kubernetes: "1.36.0".into(),
        image: file(1000, "a"),
        download: file(100, "b"),
        partitions: Vec::new(),
        root: RootSizes {
            size: 0,
            used: 0,
            entries: 0,
            largest: Vec::new(),
        },
        verity: Verity {
            root_hash: "c".repeat(64).parse().unwrap(),
            offset: 0,
            size: 0,
        },
        secure_boot: None,
        recipe: Vec::new(),
        warnings: Vec::new(),
        parts: Vec::new(),
    };
    let shown = |board: &Board| {
        let repository = Repository::new(&manifest, board, "x86_64.img.zst");
        serde_json::to_value(&repository).unwrap()["os_list"][0].clone()
    };
    let entry = shown(&board);
    // What os-list-schema.json requires, and the digests.
    for key in ["name", "description", "icon", "url"] {
        assert!(entry[key].is_string(), "{key}: {entry}");
    }
    assert_eq!(entry["url"], "x86_64.img.zst");
    assert_eq!(entry["extract_size"], 1000);
    assert_eq!(entry["extract_sha256"], "a".repeat(64));
    assert_eq!(entry["image_download_size"], 100);
    assert_eq!(entry["image_download_sha256"], "b".repeat(64));
    assert_eq!(entry["release_date"], "2026-11-24");
    assert_eq!(entry["init_format"], "cloudinit");
    assert!(entry.get("devices").is_none(), "a PC is no Raspberry Pi");
    board.image.imager_devices = vec!["pi4-64bit".into()];
    assert_eq!(shown(&board)["devices"][0], "pi4-64bit");
}
