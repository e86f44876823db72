//! Components are built as promised: static, versioned, cached, and the same
//! bytes from any directory. The small ones stand for all here; the boot tests
//! run the large ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use slipway::board::Architecture;
use slipway::components::{self, Toolchains};
use slipway::progress::{Progress, Style};
use slipway::source::Source;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// Where built components may stay from run to run; the user's own cache if named.
fn cache() -> PathBuf {
    std::env::var_os("SLIPWAY_COMPONENTS_CACHE")
        .map_or_else(|| repository().join("target/tests/cache"), PathBuf::from)
}

fn quiet() -> Progress {
    Progress::with_style(Style::Quiet)
}

#[test]
#[ignore = "compiles Kubernetes: minutes"]
fn everything_builds_and_says_its_version() {
    let source = Source::find(Some(&repository())).unwrap();
    let tools = Toolchains::find(&source).unwrap();
    let (cache, progress) = (cache(), Progress::with_style(Style::Lines));
    let go = components::go(&source, &tools, Architecture::Amd64, &cache, &progress).unwrap();
    let started = Instant::now();
    components::go(&source, &tools, Architecture::Amd64, &cache, &progress).unwrap();
    assert!(
        started.elapsed() < Duration::from_millis(200),
        "{:?}",
        started.elapsed()
    );
    for built in &go {
        println!(
            "{} {} {} {}",
            built.name,
            built.version,
            built.sha256,
            built.modules.len()
        );
    }
    let kube = go.iter().find(|b| b.name == "kube").unwrap();
    let says = |name: &str| {
        let out = Command::new(&kube.path)
            .args([name, "--version"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    assert_eq!(
        says("kube-apiserver"),
        format!("Kubernetes {}", kube.version)
    );
    assert_eq!(says("kubelet"), format!("Kubernetes {}", kube.version));
    let version_of = |module: &str| {
        kube.modules
            .iter()
            .find(|m| m.name == module)
            .unwrap()
            .version
            .clone()
    };
    let containerd = version_of("github.com/containerd/containerd/v2");
    assert!(says("containerd").contains(containerd.trim_start_matches('v')));
    assert!(says("kine").starts_with(&format!(
        "kine version {}",
        version_of("github.com/k3s-io/kine")
    )));
    let etcd = version_of("go.etcd.io/etcd/server/v3");
    assert!(says("etcd").contains(etcd.trim_start_matches('v')));
    for name in ["containerd", "ctr", "kine", "etcd"] {
        let text = says(name);
        println!("{text}");
        assert!(!text.contains("unknown") && !text.contains("dev"), "{text}");
    }
}

#[test]
#[ignore = "compiles the node's programs for release: minutes"]
fn node_programs_build() {
    let source = Source::find(Some(&repository())).unwrap();
    let tools = Toolchains::find(&source).unwrap();
    let progress = Progress::with_style(Style::Lines);
    for built in
        components::node(&source, &tools, Architecture::Amd64, &cache(), &progress).unwrap()
    {
        println!(
            "{} {} {} {}",
            built.name,
            built.version,
            built.sha256,
            built.modules.len()
        );
    }
}

#[test]
#[ignore = "compiles CoreDNS: minutes"]
fn addons_build() {
    let source = Source::find(Some(&repository())).unwrap();
    let tools = Toolchains::find(&source).unwrap();
    let progress = Progress::with_style(Style::Lines);
    for addon in
        components::addons(&source, &tools, Architecture::Amd64, 0, &cache(), &progress).unwrap()
    {
        let image = addon.image.unwrap();
        println!(
            "{} {} {} {}",
            addon.name,
            image.reference,
            image.file_name,
            image.content.len()
        );
        fs::create_dir_all(cache().join("out")).unwrap();
        fs::write(
            cache().join("out").join(&image.file_name),
            image.content.read().unwrap(),
        )
        .unwrap();
    }
    quiet().check().unwrap();
}
