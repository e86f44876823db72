//! Components are built as promised: static, versioned, cached, and the same
//! bytes from any directory. The small ones stand for all in the quick tests;
//! those that compile Kubernetes are for CI and the boot tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it measured"
)]

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use slipway::board::Architecture;
use slipway::components::{self, Addon, Built, Toolchains};
use slipway::progress::{Progress, Style};
use slipway::source::Source;

/// As /proc/PID/syscall shows it on x86-64.
const RT_SIGTIMEDWAIT: &str = "128 ";

const AMD64: Architecture = Architecture::Amd64;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Where what takes minutes stays from run to run.
fn cache() -> PathBuf {
    std::env::var_os("SLIPWAY_COMPONENTS_CACHE")
        .map_or_else(|| repository().join("target/tests/cache"), PathBuf::from)
}

fn quiet() -> Progress {
    Progress::with_style(Style::Quiet)
}

/// A checkout in a directory of its own with nothing but `cni` and `pause`.
struct Checkout {
    dir: tempfile::TempDir,
    cache: tempfile::TempDir,
}

impl Checkout {
    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("a checkout ")
            .tempdir()
            .unwrap();
        fs::create_dir(dir.path().join("board-configs")).unwrap();
        for part in ["distro/components", "distro/addons/pause"] {
            copy(&repository().join(part), &dir.path().join(part));
        }
        let this = Self {
            dir,
            cache: tempfile::tempdir().unwrap(),
        };
        this.change("distro/components/components.toml", |text| {
            let cni = text
                .split("[[go]]")
                .find(|p| p.contains("\"cni\""))
                .unwrap();
            format!("[[go]]{cni}")
        });
        this
    }

    fn change(&self, path: &str, edit: impl FnOnce(&str) -> String) {
        let path = self.dir.path().join(path);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, edit(&text)).unwrap();
    }

    fn source(&self) -> Source {
        Source::find(Some(self.dir.path())).unwrap()
    }

    fn cni(&self, arch: Architecture) -> slipway::Result<Built> {
        let source = self.source();
        let tools = Toolchains::find(&source)?;
        let built = components::go(&source, &tools, arch, self.cache.path(), &quiet())?;
        Ok(built.into_iter().next().unwrap())
    }

    fn pause(&self, arch: Architecture) -> slipway::Result<Addon> {
        let source = self.source();
        let tools = Toolchains::find(&source)?;
        let addons = components::addons(&source, &tools, arch, 0, self.cache.path(), &quiet())?;
        Ok(addons.into_iter().next().unwrap())
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[test]
fn another_checkout_gives_the_same_bytes() {
    let (one, two) = (Checkout::new(), Checkout::new());
    let (a, b) = (one.cni(AMD64).unwrap(), two.cni(AMD64).unwrap());
    assert_ne!(a.path, b.path);
    assert_eq!(a.sha256, b.sha256);
    let (a, b) = (one.pause(AMD64).unwrap(), two.pause(AMD64).unwrap());
    assert_eq!(a.built.unwrap().sha256, b.built.unwrap().sha256);
    let (a, b) = (a.image.unwrap(), b.image.unwrap());
    assert_eq!(a.sha256, b.sha256);
    assert_eq!(a.file_name, format!("pause-{}.tar", &a.sha256[..12]));
    assert_eq!(a.reference, "slipway.local/pause:1");
}

#[test]
fn a_second_build_is_found_and_a_change_of_source_is_not() {
    let checkout = Checkout::new();
    let source = checkout.source();
    let tools = Toolchains::find(&source).unwrap();
    let first = checkout.cni(AMD64).unwrap();
    let made = fs::metadata(&first.path).unwrap().modified().unwrap();
    let started = Instant::now();
    let cache = checkout.cache.path();
    let again = components::go(&source, &tools, AMD64, cache, &quiet()).unwrap();
    assert!(
        started.elapsed() < Duration::from_millis(500),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(again[0].sha256, first.sha256);
    assert_eq!(again[0].modules, first.modules);
    assert_eq!(
        again[0].links,
        ["bridge", "firewall", "host-local", "loopback", "portmap"]
    );
    assert_eq!(
        fs::metadata(&again[0].path).unwrap().modified().unwrap(),
        made
    );

    checkout.change("distro/components/cni/main.go", |t| {
        t.replace("is no plugin of", "is not a plugin of")
    });
    assert_ne!(checkout.cni(AMD64).unwrap().sha256, first.sha256);
}

#[test]
fn plugins_say_the_modules_version() {
    let built = Checkout::new().cni(AMD64);
    // The checkout is gone, and with it the program; what was said of it stays.
    let built = built.unwrap();
    let checkout = Checkout::new();
    let program = checkout.cni(AMD64).unwrap();
    let link = checkout.dir.path().join("bridge");
    std::os::unix::fs::symlink(&program.path, &link).unwrap();
    let out = Command::new(&link).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        said.contains(&format!("CNI bridge plugin {}", built.version)),
        "{said}"
    );
    let plugins = built
        .modules
        .iter()
        .find(|m| m.name.ends_with("networking/plugins"))
        .unwrap();
    assert_eq!(plugins.version, built.version);
    assert!(plugins.checksum.as_deref().unwrap().starts_with("h1:"));
    let parts = built.parts();
    assert_eq!(parts[0].sha256.as_deref(), Some(built.sha256.as_str()));
    assert!(parts.iter().all(|p| p.name == "cni" || p.within == ["cni"]));
}

#[test]
fn a_compilers_complaint_reaches_the_user_and_nothing_is_kept() {
    let checkout = Checkout::new();
    checkout.change("distro/components/cni/main.go", |t| {
        t.replace("run()", "runn()")
    });
    let error = checkout.cni(AMD64).unwrap_err();
    assert_eq!(error.kind, slipway::Kind::Tool);
    assert!(error.to_string().contains("undefined: runn"), "{error}");
    assert_eq!(
        fs::read_dir(checkout.cache.path().join("components"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_module_that_go_sum_doesnt_know_is_refused() {
    let checkout = Checkout::new();
    checkout.change("distro/components/go.sum", |t| {
        let kept = t
            .lines()
            .filter(|l| !l.contains("containernetworking/plugins"));
        kept.map(|l| format!("{l}\n")).collect()
    });
    let error = checkout.cni(AMD64).unwrap_err();
    assert!(error.to_string().contains("go.sum"), "{error}");
}

#[test]
fn a_manifest_that_asks_for_another_version_is_refused() {
    let checkout = Checkout::new();
    let dir = "distro/addons/pause";
    let manifest = "spec:\n  containers:\n  - image: slipway.local/pause:2\n";
    fs::write(checkout.dir.path().join(dir).join("pod.yaml"), manifest).unwrap();
    checkout.change("distro/addons/pause/addon.toml", |t| {
        format!("manifests = ['pod.yaml']\n{t}")
    });
    let error = checkout.pause(AMD64).unwrap_err();
    assert_eq!(error.kind, slipway::Kind::Input);
    let text = error.to_string();
    assert!(
        text.contains("pod.yaml:3") && text.contains("slipway.local/pause:1"),
        "{text}"
    );
}

#[test]
fn pause_ends_when_told_to_and_is_tiny() {
    let checkout = Checkout::new();
    let pause = checkout.pause(AMD64).unwrap().built.unwrap();
    assert!(fs::metadata(&pause.path).unwrap().len() < 20_000);
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
        let mut child = Command::new(&pause.path).spawn().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        // Told earlier, it would end too, but by the signal and not by itself.
        let call = format!("/proc/{}/syscall", child.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        while !fs::read_to_string(&call)
            .unwrap()
            .starts_with(RT_SIGTIMEDWAIT)
        {
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("pause doesn't wait for signals");
            }
        }
        rustix::process::kill_process(pid, signal).unwrap();
        assert!(child.wait().unwrap().success());
    }
}

#[test]
#[ignore = "compiles Kubernetes: minutes"]
fn everything_builds_and_says_its_version() {
    let source = Source::find(Some(&repository())).unwrap();
    let tools = Toolchains::find(&source).unwrap();
    let (cache, progress) = (cache(), Progress::with_style(Style::Lines));
    let go = components::go(&source, &tools, AMD64, &cache, &progress).unwrap();
    let started = Instant::now();
    components::go(&source, &tools, AMD64, &cache, &progress).unwrap();
    assert!(
        started.elapsed() < Duration::from_millis(100),
        "{:?}",
        started.elapsed()
    );
    // Each component's program, by whichever name it is started under.
    let program = |name: &str| {
        go.iter()
            .find(|b| b.links.iter().any(|l| l == name))
            .unwrap()
    };
    let says = |name: &str| {
        let out = Command::new(&program(name).path)
            .arg0(name)
            .arg("--version")
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    let kubernetes = &program("kubelet").version;
    assert_eq!(says("kube-apiserver"), format!("Kubernetes {kubernetes}"));
    assert_eq!(says("kubelet"), format!("Kubernetes {kubernetes}"));
    for (name, module) in [
        ("containerd", "github.com/containerd/containerd/v2"),
        ("ctr", "github.com/containerd/containerd/v2"),
        ("etcd", "go.etcd.io/etcd/server/v3"),
        ("kine", "github.com/k3s-io/kine"),
    ] {
        let found = program(name).modules.iter().find(|m| m.name == module);
        let (text, version) = (says(name), &found.unwrap().version);
        assert!(text.starts_with(name), "{text}");
        assert!(text.contains(version.trim_start_matches('v')), "{text}");
        assert!(!text.contains("unknown"), "{text}");
    }
    for built in &go {
        println!(
            "{} {} {} modules",
            built.name,
            built.version,
            built.modules.len()
        );
    }
}

#[test]
#[ignore = "compiles the node's programs for release: minutes"]
fn node_programs_are_the_same_from_another_directory() {
    let there = tempfile::Builder::new()
        .prefix("a checkout ")
        .tempdir()
        .unwrap();
    for part in [
        "board-configs",
        "distro/components",
        "init",
        "images",
        "qemu",
        "builder",
        "distro/access",
        "distro/clusterd",
    ] {
        copy(&repository().join(part), &there.path().join(part));
    }
    for file in ["Cargo.toml", "Cargo.lock"] {
        fs::copy(repository().join(file), there.path().join(file)).unwrap();
    }
    let progress = Progress::with_style(Style::Lines);
    let build = |root: &Path, cache: &Path| {
        let source = Source::find(Some(root)).unwrap();
        let tools = Toolchains::find(&source).unwrap();
        components::node(&source, &tools, AMD64, cache, &progress).unwrap()
    };
    let other_cache = tempfile::tempdir().unwrap();
    let here = build(&repository(), &cache());
    let there = build(there.path(), other_cache.path());
    for (a, b) in here.iter().zip(&there) {
        assert_eq!(a.sha256, b.sha256, "{}", a.name);
        println!(
            "{} {} {} {} crates",
            a.name,
            a.version,
            a.sha256,
            a.modules.len()
        );
        assert!(
            a.modules
                .iter()
                .any(|m| m.name == "serde_json" && m.license.is_some())
        );
    }
}

#[test]
#[ignore = "compiles CoreDNS: minutes"]
fn addons_build() {
    let source = Source::find(Some(&repository())).unwrap();
    let tools = Toolchains::find(&source).unwrap();
    let progress = Progress::with_style(Style::Lines);
    let addons = components::addons(&source, &tools, AMD64, 0, &cache(), &progress).unwrap();
    let names: Vec<_> = addons.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["coredns", "pause"]);
    let coredns = addons[0].built.as_ref().unwrap();
    let out = Command::new(&coredns.path)
        .arg("-version")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        said.contains(coredns.version.trim_start_matches('v')),
        "{said}"
    );
}
