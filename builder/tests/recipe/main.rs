//! The steps in place of maintainer scripts, against the tools that do them elsewhere.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and one measures for people"
)]

mod files;
mod ldcache;
mod modules;

use std::fs;
use std::path::Path;
use std::process::Command;

use slipway::progress::{Progress, Style};
use slipway::tree::{NodeKind, Tree};

fn quiet() -> Progress {
    Progress::with_style(Style::Quiet)
}

/// Runs a tool and gives what it printed; its absence and its failure fail the test.
fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test, see ci/setup: {e}"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success(),
        "{program} {args:?}: {text}{complaint}"
    );
    text
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Writes a tree's files and links below `dir`.
fn unpack(tree: &Tree, dir: &Path) {
    for (path, node) in tree.iter() {
        let to = dir.join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        match &node.kind {
            NodeKind::Directory => fs::create_dir_all(to).unwrap(),
            NodeKind::Symlink(target) => std::os::unix::fs::symlink(target, to).unwrap(),
            NodeKind::File(content) => fs::write(to, content.read().unwrap()).unwrap(),
            NodeKind::Hardlink(target) => fs::hard_link(dir.join(target), to).unwrap(),
        }
    }
}

fn text(tree: &Tree, path: &str) -> String {
    let content = tree.content(path).unwrap_or_else(|| panic!("no {path}"));
    String::from_utf8(content.read().unwrap().to_vec()).unwrap()
}
