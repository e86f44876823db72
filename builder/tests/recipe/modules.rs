//! Kernel modules, against depmod on small objects made by the C compiler.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use proptest::prelude::*;
use slipway::recipe::modules::Modules;
use slipway::tree::Tree;
use slipway::{Kind, Result};

use super::{quiet, run, str, text, unpack};

const RELEASE: &str = "6.12.1";

/// Path below `kernel/`, `.modinfo`, and the symbols from other modules in use. Each
/// module exports `<name>_export`.
const MODULES: &[(&str, &[&str], &[&str])] = &[
    (
        "drivers/alpha.ko",
        &[
            "license=GPL",
            "alias=pci:v00008086d*sv*",
            "alias=alpha-alias",
            "softdep=pre: soft-one not-there post: delta-by-alias",
            "depends=beta,gamma",
            "name=alpha",
        ],
        &["beta", "gamma"],
    ),
    (
        "fs/beta.ko",
        &["depends=delta", "alias=fs-beta"],
        &["delta"],
    ),
    ("fs/gamma.ko", &["depends=delta"], &["delta"]),
    (
        "lib/delta.ko",
        &["depends=", "alias=crypto-delta", "alias=delta-by-alias"],
        &[],
    ),
    (
        "net/soft-one.ko",
        &["depends=delta", "alias=net-pf-99"],
        &["delta"],
    ),
    ("net/unused.ko", &["depends=", "alias=delta-by-alias"], &[]),
    ("net/broken-needs.ko", &["depends=nowhere"], &[]),
];

/// In the kernel's order, which is not that of the paths. `unused` is missing.
const ORDER: &str = "kernel/net/soft-one.ko\nkernel/lib/delta.ko\nkernel/fs/gamma.ko\n\
                     kernel/fs/beta.ko\nkernel/drivers/alpha.ko\n";

fn object(info: &[&str], name: &str, uses: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (source, output) = (dir.path().join("m.c"), dir.path().join("m.ko"));
    let quote = |s: &str| format!("{s:?}");
    let mut text = format!(
        "const char exports[] __attribute__((section(\"__ksymtab_strings\"), used)) = {};\n",
        quote(&format!("{name}_export"))
    );
    for (i, line) in info.iter().enumerate() {
        text += &format!(
            "const char info{i}[] __attribute__((section(\".modinfo\"), used)) = {};\n",
            quote(line)
        );
    }
    for used in uses {
        text += &format!("extern int {used}_export; int *use_{used} = &{used}_export;\n");
    }
    fs::write(&source, text).unwrap();
    run("cc", &["-c", "-o", str(&output), str(&source)]);
    fs::read(&output).unwrap()
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A kernel's modules as a package has them: compressed, without indices.
pub fn kernel() -> Tree {
    static KERNEL: OnceLock<Tree> = OnceLock::new();
    KERNEL
        .get_or_init(|| {
            let mut tree = Tree::new();
            let dir = format!("usr/lib/modules/{RELEASE}");
            for (i, (path, info, uses)) in MODULES.iter().enumerate() {
                let name = path.rsplit('/').next().unwrap().trim_end_matches(".ko");
                let bytes = object(info, &name.replace('-', "_"), uses);
                let path = format!("{dir}/kernel/{path}");
                match i % 3 {
                    0 => tree
                        .file(&format!("{path}.xz"), 0o644, packed(&bytes))
                        .unwrap(),
                    1 => tree
                        .file(
                            &format!("{path}.zst"),
                            0o644,
                            zstd::encode_all(&bytes[..], 1).unwrap(),
                        )
                        .unwrap(),
                    _ => tree.file(&path, 0o644, bytes).unwrap(),
                }
            }
            tree.file(&format!("{dir}/modules.order"), 0o644, ORDER)
                .unwrap();
            tree.file(
                &format!("{dir}/modules.builtin"),
                0o644,
                "kernel/fs/ext4/ext4.ko\n",
            )
            .unwrap();
            tree.file(
                &format!("{dir}/modules.builtin.modinfo"),
                0o644,
                "ext4.alias=fs-ext4\0",
            )
            .unwrap();
            tree
        })
        .clone()
}

pub fn select(tree: &Tree, cache: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<Modules> {
    Modules::select(tree, RELEASE, &|name, _| wanted(name), cache, &quiet())
}

/// The indices of depmod and ours of what is in the tree.
fn compare(tree: &Tree, release: &str) {
    let dir = tempfile::tempdir().unwrap();
    unpack(tree, dir.path());
    std::os::unix::fs::symlink("usr/lib", dir.path().join("lib")).unwrap();
    run("depmod", &["-b", str(dir.path()), release]);
    for file in ["modules.alias", "modules.softdep", "modules.dep"] {
        let path = format!("usr/lib/modules/{release}/{file}");
        let theirs = fs::read_to_string(dir.path().join(&path)).unwrap();
        let ours = text(tree, &path);
        if file != "modules.dep" {
            // Versions of depmod differ in their comments.
            let lines = |text: &str| -> Vec<String> {
                let meant = text.lines().filter(|l| !l.starts_with('#'));
                meant.map(str::to_owned).collect()
            };
            assert!(lines(&ours) == lines(&theirs), "{file}:\n{ours}\n{theirs}");
            continue;
        }
        // Among several valid orders of dependencies depmod's follows from the order of
        // symbols; ours from that of `depends=`. Which they are must be the same.
        let set = |text: &str| -> Vec<(String, BTreeSet<String>)> {
            text.lines()
                .map(|l| {
                    let (path, deps) = l.split_once(':').unwrap();
                    (
                        path.into(),
                        deps.split_whitespace().map(str::to_owned).collect(),
                    )
                })
                .collect()
        };
        assert!(set(&ours) == set(&theirs), "{ours}\n{theirs}");
        let same = ours
            .lines()
            .zip(theirs.lines())
            .filter(|(a, b)| a == b)
            .count();
        println!(
            "modules.dep: {same} of {} lines byte for byte",
            ours.lines().count()
        );
        assert_valid_order(&ours);
    }
}

/// In a line of modules.dep, what a module needs comes after it: they are loaded from the
/// end.
fn assert_valid_order(dep: &str) {
    let needs: std::collections::BTreeMap<&str, Vec<&str>> = dep
        .lines()
        .map(|l| {
            let (path, deps) = l.split_once(':').unwrap();
            (path, deps.split_whitespace().collect())
        })
        .collect();
    for deps in needs.values() {
        for (i, dep) in deps.iter().enumerate() {
            for needed in &needs[dep] {
                assert!(
                    deps[i + 1..].contains(needed),
                    "{dep} needs {needed}: {deps:?}"
                );
            }
        }
    }
}

#[test]
fn indices_are_those_of_depmod() {
    let cache = tempfile::tempdir().unwrap();
    let mut tree = kernel();
    let all = |name: &str| name != "broken_needs";
    let line = select(&tree, cache.path(), &all)
        .unwrap()
        .install(&mut tree)
        .unwrap();
    assert!(line.starts_with("modules: 6 of kernel 6.12.1"), "{line}");
    compare(&tree, RELEASE);
    let dir = format!("usr/lib/modules/{RELEASE}");
    assert!(
        tree.get(&format!("{dir}/kernel/drivers/alpha.ko"))
            .is_some()
    );
    assert!(
        tree.iter()
            .all(|(p, _)| !p.ends_with(".xz") && !p.ends_with(".zst"))
    );
    assert!(text(&tree, &format!("{dir}/modules.builtin.modinfo")).contains("fs-ext4"));
    assert!(text(&tree, &format!("{dir}/modules.order")).ends_with("kernel/net/unused.ko\n"));
}

#[test]
fn a_choice_brings_what_it_needs_hard_and_softly_and_no_more() {
    let cache = tempfile::tempdir().unwrap();
    let tree = kernel();
    let chosen = select(&tree, cache.path(), &|name| name == "alpha").unwrap();
    let names = |m: &Modules| -> Vec<String> { m.modules.iter().map(|m| m.name.clone()).collect() };
    assert_eq!(
        names(&chosen),
        ["soft_one", "delta", "gamma", "beta", "alpha"]
    );
    assert_eq!(chosen.missing_softdeps, ["not_there"]);
    assert!(chosen.has("soft-one") && chosen.has("ext4") && !chosen.has("unused"));
    let subset = chosen
        .subset(&|name, path| name == "beta" && path == "fs/beta.ko")
        .unwrap();
    assert_eq!(names(&subset), ["delta", "beta"]);
    // The initrd has whatever of the root answers to an alias that is asked for.
    let all = select(&tree, cache.path(), &|name| name != "broken_needs").unwrap();
    let early = all.subset(&|name, _| name == "alpha").unwrap();
    assert!(early.has("unused"), "{:?}", names(&early));
    // What was decompressed once comes from the cache, with the same bytes.
    let again = select(&tree, cache.path(), &|name| name == "alpha").unwrap();
    for (a, b) in chosen.modules.iter().zip(&again.modules) {
        assert_eq!(a.content.read().unwrap(), b.content.read().unwrap());
    }
}

#[test]
fn what_is_missing_or_broken_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let mut tree = kernel();
    let error = select(&tree, cache.path(), &|name| name == "broken_needs").unwrap_err();
    assert!(
        error.message().contains("`broken_needs` needs `nowhere`"),
        "{error}"
    );
    let dir = format!("usr/lib/modules/{RELEASE}/kernel");
    for (bytes, part) in [
        (&b"text"[..], "no ELF object"),
        (
            &[0xfd, b'7', b'z', b'X', b'Z', 0, 1, 2][..],
            "decompressing",
        ),
        (&[0x28, 0xb5, 0x2f, 0xfd, 9][..], "decompressing"),
    ] {
        tree.file(&format!("{dir}/bad.ko"), 0o644, bytes.to_vec())
            .unwrap();
        let error = select(&tree, cache.path(), &|name| name == "bad").unwrap_err();
        assert_eq!(error.kind, Kind::Input);
        assert!(error.message().contains(part), "{error}");
        assert!(error.message().contains("kernel/bad.ko"), "{error}");
    }
    assert!(select(&Tree::new(), cache.path(), &|_| true).is_err());
}

#[test]
fn modules_that_need_each_other_are_refused() {
    let cache = tempfile::tempdir().unwrap();
    let mut tree = Tree::new();
    for (a, b) in [("x", "y"), ("y", "x")] {
        let bytes = object(&[&format!("depends={b}")], a, &[]);
        tree.file(
            &format!("usr/lib/modules/{RELEASE}/kernel/{a}.ko"),
            0o644,
            bytes,
        )
        .unwrap();
    }
    let modules = select(&tree, cache.path(), &|_| true).unwrap();
    let error = modules.install(&mut tree).unwrap_err();
    assert!(error.message().contains("depends on itself"), "{error}");
}

/// `SLIPWAY_KERNEL=DIR`, where DIR/usr/lib/modules has one kernel's modules.
#[test]
#[ignore = "needs a kernel package, unpacked"]
fn a_real_kernels_indices_are_those_of_depmod() {
    let root = std::env::var("SLIPWAY_KERNEL").expect("SLIPWAY_KERNEL names a directory");
    let root = Path::new(&root);
    let mut tree = Tree::new();
    let listed = Command::new("find")
        .args(["usr/lib/modules", "-type", "f"])
        .current_dir(root)
        .output()
        .unwrap();
    for path in String::from_utf8(listed.stdout).unwrap().lines() {
        let content = slipway::tree::Content::file(root.join(path)).unwrap();
        tree.file(path, 0o644, content).unwrap();
    }
    let first = tree.below("usr/lib/modules").next().unwrap().0.to_owned();
    let release = first.split('/').nth(3).unwrap();
    let cache = tempfile::tempdir().unwrap();
    let started = std::time::Instant::now();
    let modules = Modules::select(&tree, release, &|_, _| true, cache.path(), &quiet()).unwrap();
    println!(
        "cold {:?}, soft and missing: {:?}",
        started.elapsed(),
        modules.missing_softdeps
    );
    let started = std::time::Instant::now();
    Modules::select(&tree, release, &|_, _| true, cache.path(), &quiet()).unwrap();
    println!("warm {:?}", started.elapsed());
    println!("{}", modules.install(&mut tree).unwrap());
    compare(&tree, release);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_module_makes_it_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<prop::sample::Index>(),
        whole in any::<bool>(),
        pack in any::<bool>(),
    ) {
        static ALPHA: OnceLock<Vec<u8>> = OnceLock::new();
        let alpha = ALPHA.get_or_init(|| object(MODULES[0].1, "alpha", &["beta"]));
        let mut bytes = if pack { packed(alpha) } else { alpha.clone() };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(if whole { bytes.len() } else { cut.index(bytes.len()) });
        let mut tree = Tree::new();
        tree.file(&format!("usr/lib/modules/{RELEASE}/kernel/alpha.ko"), 0o644, bytes).unwrap();
        let cache = tempfile::tempdir().unwrap();
        drop(select(&tree, cache.path(), &|_| true));
    }
}
