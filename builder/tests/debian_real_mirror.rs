//! Against the mirror that the host's apt is set up with. Not run by default:
//! `cargo test -p slipway --test debian_real_mirror -- --ignored`.

#![allow(clippy::print_stderr, reason = "run by hand, for its figures")]

use std::path::Path;
use std::time::Instant;

use slipway::board::Board;
use slipway::debian::{self, Mirror};
use slipway::progress::{Progress, Style};

fn boards() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../board-configs")
}

#[test]
#[ignore = "needs a Debian mirror"]
fn the_x86_64_board_resolves_and_fetches() {
    let cache = std::env::var_os("SLIPWAY_TEST_CACHE").map_or_else(
        || tempfile::tempdir().unwrap().keep(),
        std::path::PathBuf::from,
    );
    let progress = Progress::with_style(Style::Lines);
    let board = Board::load(&boards(), "x86_64").unwrap();
    let mirror = Mirror::resolve(None).unwrap();
    let start = Instant::now();
    let archive = debian::open(&mirror, &board, &cache, false, &progress).unwrap();
    eprintln!("open: {:?}", start.elapsed());
    let mut wanted = board.packages.install.clone();
    wanted.extend([board.kernel.package.clone(), board.boot.package.clone()]);
    let start = Instant::now();
    let packages = archive.closure(&wanted, &board.packages.exclude).unwrap();
    eprintln!("closure: {:?}", start.elapsed());
    for p in &packages {
        eprintln!(
            "{:9} {:28} {:28} {:?}",
            p.size, p.name, p.version, p.depends
        );
    }
    let start = Instant::now();
    let fetched = debian::fetch(archive.mirror(), &packages, &cache, &progress).unwrap();
    eprintln!("fetch: {:?}, {} packages", start.elapsed(), fetched.len());
    assert!(fetched.iter().all(|f| f.path.is_file()));
    let rules = board.rules_digest().unwrap();
    let keep = |path: &str| board.keeps_path(path);
    for pass in ["cold", "warm"] {
        let start = Instant::now();
        let all = debian::unpack_all(&fetched, &keep, &rules, &cache, &progress).unwrap();
        eprintln!("unpack, {pass}: {:?}", start.elapsed());
        let mut tree = slipway::tree::Tree::new();
        for dir in ["bin", "sbin", "lib", "lib64"] {
            tree.symlink(dir, &format!("usr/{dir}")).unwrap();
        }
        for (path, node) in all.into_iter().flatten() {
            tree.insert(&path, node).unwrap();
        }
        let bytes: u64 = tree
            .iter()
            .filter(|(p, _)| !p.starts_with("usr/lib/modules"))
            .map(|(_, n)| match &n.kind {
                slipway::tree::NodeKind::File(c) => c.len(),
                _ => 0,
            })
            .sum();
        eprintln!("{} entries, {bytes} bytes besides modules", tree.len());
        if let Some(dump) = std::env::var_os("SLIPWAY_TEST_DUMP") {
            let mut list = String::new();
            for (path, node) in tree.iter() {
                let what = match &node.kind {
                    slipway::tree::NodeKind::File(c) => c.len().to_string(),
                    other => format!("{other:?}"),
                };
                list.push_str(&format!("{:o} {path} {what}\n", node.mode));
            }
            std::fs::write(dump, list).unwrap();
        }
        assert!(tree.content("usr/bin/crun").is_some());
        assert!(tree.content("usr/lib64/ld-linux-x86-64.so.2").is_some());
    }
}
