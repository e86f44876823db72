//! `slipway seed`: what it writes works before a machine has booted, and what it says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod check;
mod new;
mod oracle;

use std::path::Path;
use std::process::{Command, Output};

/// Runs `slipway seed` with these arguments.
fn seed(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipway"));
    command.arg("seed").args(args);
    command
}

fn stdout(out: &Output) -> String {
    String::from_utf8(out.stdout.clone()).unwrap()
}

fn stderr(out: &Output) -> String {
    String::from_utf8(out.stderr.clone()).unwrap()
}

/// A cluster's seeds in `dir`, which must be.
fn new_in(dir: &Path, more: &[&str]) -> Output {
    let mut args = vec!["new", dir.to_str().unwrap(), "--cluster", "home"];
    args.extend(more);
    let out = seed(&args);
    assert!(out.status.success(), "{}", stderr(&out));
    out
}
