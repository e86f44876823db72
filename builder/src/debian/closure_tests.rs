use super::*;
use crate::debian::index::Index;

const DIGEST: &str = "94055c54983a56c019ec1e8147080917f8cd543df0bb7b12c01aabc234d0a19b";

/// `name version | field: value | ...`, one package a line.
fn suite(name: &str, archive: ArchiveKind, packages: &str) -> Suite {
    let mut text = String::new();
    for line in packages.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let mut parts = line.split('|').map(str::trim);
        let (package, version) = parts.next().unwrap().split_once(' ').unwrap();
        text.push_str(&format!(
            "Package: {package}\nVersion: {version}\nArchitecture: amd64\n"
        ));
        for field in parts {
            // `/` is written for the bar of alternatives.
            text.push_str(&field.replace(" / ", " | "));
            text.push('\n');
        }
        text.push_str(&format!(
            "Filename: pool/{package}_{version}.deb\nSize: 1\nSHA256: {DIGEST}\n\n"
        ));
    }
    Suite {
        name: name.into(),
        archive,
        index: Index::of_packages(&text),
    }
}

fn main(packages: &str) -> Vec<Suite> {
    vec![suite("test", ArchiveKind::Main, packages)]
}

fn chosen(suites: &[Suite], wanted: &[&str], exclude: &[&str]) -> Vec<String> {
    resolve(suites, "amd64", wanted, exclude)
        .unwrap()
        .into_iter()
        .map(|p| format!("{} {}", p.name, p.version))
        .collect()
}

fn error(suites: &[Suite], wanted: &[&str], exclude: &[&str]) -> String {
    let e = resolve(suites, "amd64", wanted, exclude).unwrap_err();
    assert_eq!(e.kind, Kind::Input);
    e.message().to_owned()
}

#[test]
fn dependencies_follow_and_recommendations_do_not() {
    let suites = main(
        "a 1 | Pre-Depends: b | Depends: c (>= 1), d:any | Recommends: e
         b 1
         c 1
         d 1 | Depends: a
         e 1",
    );
    assert_eq!(chosen(&suites, &["a"], &[]), ["a 1", "b 1", "c 1", "d 1"]);
    let packages = resolve(&suites, "amd64", &["a"], &[]).unwrap();
    assert!(packages[0].listed && !packages[1].listed);
    assert_eq!(packages[0].depends, ["b", "c", "d"]);
}

#[test]
fn excluded_packages_count_as_there() {
    let suites = main("a 1 | Depends: b, c / d\nb 1 | Depends: e\nc 1\nd 1\ne 1");
    assert_eq!(chosen(&suites, &["a"], &["b", "d"]), ["a 1"]);
    assert!(error(&suites, &["a", "b"], &["b"]).contains("both listed and excluded"));
}

#[test]
fn the_newest_version_of_all_suites_wins() {
    let suites = vec![
        suite(
            "test",
            ArchiveKind::Main,
            "a 1.0-1\nb 2 | Depends: a (<< 1.0-1.1)",
        ),
        suite(
            "test-security",
            ArchiveKind::Security,
            "a 1.0-1.1\na 1.0-1~x",
        ),
    ];
    assert_eq!(chosen(&suites, &["a"], &[]), ["a 1.0-1.1"]);
    let package = &resolve(&suites, "amd64", &["a"], &[]).unwrap()[0];
    assert_eq!(package.suite, "test-security");
    assert_eq!(package.archive, ArchiveKind::Security);
    // An older one where the newest doesn't fit.
    assert_eq!(chosen(&suites, &["b"], &[]), ["a 1.0-1", "b 2"]);
}

#[test]
fn alternatives_prefer_what_is_there_then_the_first() {
    let suites = main("a 1 | Depends: x / y / z\nw 1 | Depends: y / z\ny 1\nz 1");
    assert_eq!(chosen(&suites, &["a"], &[]), ["a 1", "y 1"]);
    assert_eq!(chosen(&suites, &["a", "z"], &[]), ["a 1", "z 1"]);
}

#[test]
fn provided_packages_do_with_the_right_version() {
    let suites = main(
        "a 1 | Depends: virtual
         b 1 | Depends: virtual (>= 2)
         c 1 | Depends: virtual (>= 9)
         q 1 | Provides: virtual
         r 1 | Provides: other, virtual (= 3)",
    );
    assert_eq!(chosen(&suites, &["a"], &[]), ["a 1", "q 1"]);
    assert_eq!(chosen(&suites, &["b"], &[]), ["b 1", "r 1"]);
    assert!(error(&suites, &["c"], &[]).contains("virtual (>= 9)"));
}

#[test]
fn what_is_missing_is_explained() {
    let suites = main("bar 1 | Depends: foo\nfoo 1 | Depends: libx (>= 3)\nlibx 2");
    let e = error(&suites, &["bar"], &[]);
    assert!(e.contains("`libx (>= 3)` can't be had"), "{e}");
    assert!(
        e.contains("needed by foo, needed by bar, which is listed"),
        "{e}"
    );
    assert!(e.contains("there is libx 2"), "{e}");
    let e = error(&suites, &["fooo", "qqqqqqq"], &[]);
    assert!(
        e.contains("`fooo`") && e.contains("did you mean `foo`?") && e.contains("qqqqqqq"),
        "{e}"
    );
}

#[test]
fn conflicts_are_reported_with_both_reasons() {
    let suites = main(
        "a 1 | Depends: b
         b 1 | Conflicts: c (<< 2), v
         c 1 | Provides: v
         d 1 | Provides: v | Conflicts: v",
    );
    let e = error(&suites, &["a", "c"], &[]);
    assert!(
        e.contains("b (needed by b, needed by a, which is listed)"),
        "{e}"
    );
    assert!(e.contains("can't be together with c 1"), "{e}");
    // A package may conflict with what it provides itself.
    assert_eq!(chosen(&suites, &["d"], &[]), ["d 1"]);
}

#[test]
fn the_order_of_the_list_does_not_show() {
    let suites = main("a 1 | Depends: b\nb 1 | Depends: c\nc 1");
    assert_eq!(
        chosen(&suites, &["a", "c"], &[]),
        chosen(&suites, &["c", "a"], &[])
    );
}

#[test]
fn sources_are_named() {
    let suites = main("a 1+b1 | Source: s (1)\nb 2 | Source: t\nc 3");
    let packages = resolve(&suites, "amd64", &["a", "b", "c"], &[]).unwrap();
    let sources: Vec<_> = packages
        .iter()
        .map(|p| (p.source.as_str(), p.source_version.as_str()))
        .collect();
    assert_eq!(sources, [("s", "1"), ("t", "2"), ("c", "3")]);
}
