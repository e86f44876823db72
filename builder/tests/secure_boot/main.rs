//! Keys, signatures and what firmware is told, against the tools that own them: sbsign and
//! sbverify, efitools, OpenSSL.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod keys;
mod programs;
mod variables;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use slipway::keys::{Pair, read_certificate};
use slipway_images::secure_boot::Certificate;

/// Two owners' keys, made by the command: `mine` and `others`.
struct Keys {
    scratch: tempfile::TempDir,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let scratch = tempfile::tempdir().unwrap();
    for (dir, name) in [("mine", "Test"), ("others", "Another")] {
        let dir = scratch.path().join(dir);
        let out = slipway(&["keys", "new", str(&dir), "--name", name]);
        assert!(out.0, "{}", out.1);
    }
    Keys { scratch }
});

impl Keys {
    fn dir(&self, whose: &str) -> PathBuf {
        self.scratch.path().join(whose)
    }

    fn path(&self, whose: &str, file: &str) -> PathBuf {
        self.dir(whose).join(file)
    }

    fn pair(&self, whose: &str, name: &str) -> Pair {
        let at = |suffix: &str| self.path(whose, &format!("{name}.{suffix}"));
        Pair::read(&at("crt"), &at("key")).unwrap()
    }

    fn certificate(&self, whose: &str, name: &str) -> Certificate {
        read_certificate(&self.path(whose, &format!("{name}.der"))).unwrap()
    }
}

/// Whether the command did it, and all it said.
fn slipway(args: &[&str]) -> (bool, String) {
    said(Command::new(env!("CARGO_BIN_EXE_slipway")).args(args))
}

/// Whether a tool did it, and all it said.
fn tool(program: &str, args: &[&str]) -> (bool, String) {
    said(Command::new(program).args(args))
}

fn said(command: &mut Command) -> (bool, String) {
    let out = command
        .env("LC_ALL", "C")
        .output()
        .unwrap_or_else(|e| panic!("{command:?} is needed for this test, see ci/setup: {e}"));
    let text = [out.stdout, out.stderr].concat();
    (
        out.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// Runs a tool that must succeed.
fn run(program: &str, args: &[&str]) -> String {
    let (done, said) = tool(program, args);
    assert!(done, "{program} {args:?}: {said}");
    said
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}
