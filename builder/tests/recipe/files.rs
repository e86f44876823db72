//! Directories, users, certificates, alternatives.

use slipway::recipe::{alternatives, certificates, initrd, skeleton};
use slipway::tree::{Node, NodeKind, Tree};

use super::text;

const IDENTITY: skeleton::Identity<'static> = skeleton::Identity {
    version: "0.1.0",
    board: "x86_64",
    kubernetes: "v1.36.3",
};

#[test]
fn packages_land_in_usr_and_directories_keep_their_modes() {
    let mut tree = Tree::new();
    skeleton::directories(&mut tree).unwrap();
    // As a package may have them.
    tree.insert("tmp", Node::new(NodeKind::Directory, 0o755))
        .unwrap();
    tree.dir("lib").unwrap();
    tree.file("lib/x86_64-linux-gnu/libc.so.6", 0o755, "elf")
        .unwrap();
    tree.file("etc/passwd", 0o644, "someone").unwrap();
    let lines = skeleton::configuration(&mut tree, &IDENTITY).unwrap();
    assert!(lines.iter().any(|l| l == "users: root nobody"), "{lines:?}");
    assert!(tree.get("usr/lib/x86_64-linux-gnu/libc.so.6").is_some());
    let mode = |path: &str| tree.get(path).unwrap().mode;
    assert_eq!(mode("tmp"), 0o1777);
    assert_eq!(mode("root"), 0o700);
    assert_eq!(mode("etc/shadow"), 0o640);
    assert_eq!(text(&tree, "etc/machine-id"), "");
    for mount_point in ["proc", "sys", "dev", "run", "var", "boot/efi"] {
        assert!(matches!(
            tree.get(mount_point).unwrap().kind,
            NodeKind::Directory
        ));
    }
}

#[test]
fn no_one_has_a_password_and_the_files_fit_each_other() {
    let mut tree = Tree::new();
    skeleton::directories(&mut tree).unwrap();
    skeleton::configuration(&mut tree, &IDENTITY).unwrap();
    let passwd = text(&tree, "etc/passwd");
    let shadow = text(&tree, "etc/shadow");
    let groups = text(&tree, "etc/group");
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        assert_eq!((fields.len(), fields[1]), (7, "x"), "{line}");
        assert!(
            shadow
                .lines()
                .any(|s| s.starts_with(&format!("{}:*:", fields[0])))
        );
        assert!(
            groups
                .lines()
                .any(|g| g.split(':').nth(2) == Some(fields[3])),
            "{line}"
        );
    }
    assert!(shadow.lines().all(|l| l.split(':').count() == 9));
    let release = text(&tree, "etc/os-release");
    assert!(release.contains("ID=slipway\nID_LIKE=debian\n"));
    assert!(release.contains("IMAGE_VERSION=\"0.1.0\""));
}

#[test]
fn the_bundle_has_every_certificate_in_the_order_of_paths() {
    let mut tree = Tree::new();
    let pem = |n: u8| format!("-----BEGIN CERTIFICATE-----\n{n}\n-----END CERTIFICATE-----");
    tree.file(
        "usr/share/ca-certificates/mozilla/B.crt",
        0o644,
        pem(2) + "\n",
    )
    .unwrap();
    tree.file("usr/share/ca-certificates/mozilla/A.crt", 0o644, pem(1))
        .unwrap();
    tree.file("usr/share/ca-certificates/mozilla/README", 0o644, "no")
        .unwrap();
    let line = certificates::bundle(&mut tree).unwrap();
    assert!(line.starts_with("certificates: 2 in"), "{line}");
    assert_eq!(
        text(&tree, "etc/ssl/certs/ca-certificates.crt"),
        format!("{}\n{}\n", pem(1), pem(2))
    );
    tree.file("usr/share/ca-certificates/x.crt", 0o644, "DER")
        .unwrap();
    assert!(
        certificates::bundle(&mut tree)
            .unwrap_err()
            .message()
            .contains("x.crt")
    );
    let error = certificates::bundle(&mut Tree::new()).unwrap_err();
    assert!(error.advice().unwrap().contains("ca-certificates"));
}

#[test]
fn alternatives_take_what_is_there_and_replace_nothing() {
    let mut tree = Tree::new();
    assert_eq!(
        alternatives::link(&mut tree).unwrap(),
        "alternatives: none needed"
    );
    tree.file("usr/bin/gawk", 0o755, "").unwrap();
    tree.file("usr/bin/less", 0o755, "").unwrap();
    tree.file("usr/bin/pager", 0o755, "mine").unwrap();
    let line = alternatives::link(&mut tree).unwrap();
    assert_eq!(line, "alternatives: usr/bin/awk → /usr/bin/gawk");
    assert_eq!(text(&tree, "usr/bin/pager"), "mine");
}

#[test]
fn an_initrd_has_init_its_modules_and_what_the_image_is() {
    let kernel = super::modules::kernel();
    let dir = tempfile::tempdir().unwrap();
    let modules = super::modules::select(&kernel, dir.path(), &|name| name == "alpha").unwrap();
    let (tree, line) = initrd::tree("elf".into(), &modules, "{}".into()).unwrap();
    assert_eq!(tree.get("init").unwrap().mode, 0o755);
    assert_eq!(text(&tree, "usr/lib/slipway/image.json"), "{}");
    assert!(text(&tree, "usr/lib/modules/6.12.1/modules.dep").contains("alpha.ko: "));
    assert!(
        line.starts_with("initrd: init and ") && line.contains("alpha"),
        "{line}"
    );
}
