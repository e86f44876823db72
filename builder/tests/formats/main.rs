//! Every format against the tool that owns it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and measures for people"
)]

mod disk;
mod ext4;
mod fat;
mod initrd;
mod measure;
#[path = "../common/noise.rs"]
mod noise;
mod uimage;
mod uki;
mod verity;
mod zst;

use std::fs::File;
use std::path::Path;
use std::process::Command;

use noise::noise;
use slipway::progress::{Progress, Style};

const EPOCH: i64 = 1_790_000_000;

fn quiet() -> Progress {
    Progress::with_style(Style::Quiet)
}

/// Runs a tool and gives its output; its absence and its failure fail the test.
fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test, see ci/setup: {e}"));
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    assert!(out.status.success(), "{program} {args:?}: {text}");
    text
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A new file of `size` bytes, all holes, that can be read and written.
fn sparse(path: &Path, size: u64) -> File {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.set_len(size).unwrap();
    file
}

/// Runs `work` with files limited to `bytes`, as a full disk would. The limit is that of
/// this thread's process, so it is a child that runs it: this test binary again, with the
/// test named `name`.
fn in_a_child(name: &str, variable: &str) -> String {
    let exe = std::env::current_exe().unwrap();
    let out = Command::new(exe)
        .args(["--exact", name, "--nocapture"])
        .env(variable, "1")
        .output()
        .unwrap();
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}
