//! Ctrl-C ends the compiler and whatever it started. A file of its own, because
//! the wish to stop holds for the whole process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it measured"
)]

use std::fs;
use std::path::Path;
use std::thread;

use slipway::board::Architecture;
use slipway::components::{self, Toolchains};
use slipway::progress::{self, Progress, Style};
use slipway::source::Source;
use slipway::{Kind, Result};

/// Stands in the place of cni's overlay writer: tells us that it runs, and stays.
const STAYS: &str = r#"package main

import (
	"fmt"
	"os"
)

func main() {
	pipe, err := os.OpenFile("PIPE", os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	fmt.Fprintln(pipe, os.Getpid())
	pipe.Close()
	<-make(chan int)
}
"#;

#[test]
fn ctrl_c_ends_the_compiler_and_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let components_dir = dir.path().join("distro/components");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../distro/components");
    for part in ["board-configs", "distro/addons", "distro/components/cni"] {
        fs::create_dir_all(dir.path().join(part)).unwrap();
    }
    fs::create_dir(components_dir.join("overlay")).unwrap();
    for file in ["go.mod", "go.sum", "cni/main.go"] {
        fs::copy(repository.join(file), components_dir.join(file)).unwrap();
    }
    let recipe = fs::read_to_string(repository.join("components.toml")).unwrap();
    let cni = recipe
        .split("[[go]]")
        .find(|p| p.contains("\"cni\""))
        .unwrap();
    fs::write(
        components_dir.join("components.toml"),
        format!("[[go]]{cni}"),
    )
    .unwrap();
    let pipe = dir.path().join("pipe");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
    )
    .unwrap();
    let program = STAYS.replace("PIPE", pipe.to_str().unwrap());
    fs::write(components_dir.join("overlay/main.go"), program).unwrap();

    let cache = dir.path().join("cache");
    let (pid, built) = thread::scope(|scope| {
        let build = scope.spawn(|| -> Result<_> {
            let source = Source::find(Some(dir.path()))?;
            let tools = Toolchains::find(&source)?;
            let quiet = Progress::with_style(Style::Quiet);
            components::go(&source, &tools, Architecture::Amd64, &cache, &quiet)
        });
        let pid = fs::read_to_string(&pipe).unwrap();
        progress::interrupt();
        (pid, build.join().unwrap())
    });
    assert_eq!(built.unwrap_err().kind, Kind::Interrupted);
    // Gone, or a zombie that whoever inherited it has yet to reap.
    if let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", pid.trim())) {
        let state = stat.rsplit(')').next().unwrap().trim_start().chars().next();
        assert_eq!(state, Some('Z'), "{stat}");
    }
    assert_eq!(fs::read_dir(cache.join("components")).unwrap().count(), 0);
}
