//! The node API's program, built beside a test's own.

use std::path::PathBuf;
use std::process::Command;

/// Builds it and gives its path.
pub fn noded() -> PathBuf {
    // Of the whole workspace: with the features that `cargo test` compiled it with.
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--locked",
            "--workspace",
            "--bin",
            "noded",
        ])
        .status()
        .unwrap();
    assert!(built.success());
    // target/debug/deps/node-xxx
    let here = std::env::current_exe().unwrap();
    here.parent().unwrap().parent().unwrap().join("noded")
}
