//! Tests of the module indices.

use super::*;
use proptest::prelude::*;

fn sample() -> (tempfile::TempDir, Modules) {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "modules.dep",
        "kernel/net/nf-tables.ko: kernel/net/nfnetlink.ko kernel/lib/libcrc32c.ko\n\
         kernel/net/nfnetlink.ko:\nkernel/lib/libcrc32c.ko:\n\
         kernel/fs/ext4.ko: kernel/fs/jbd2.ko kernel/fs/mbcache.ko\nkernel/fs/jbd2.ko:\n\
         kernel/fs/mbcache.ko:\nkernel/drivers/virtio_net.ko: kernel/net/failover.ko\n\
         kernel/net/failover.ko:\nkernel/crypto/crc32c_generic.ko:\n",
    );
    write(
        "modules.alias",
        "# Aliases extracted from modules themselves.\nalias fs-ext4 ext4\n\
         alias virtio:d00000001v* virtio-net\nalias net-pf-16-proto-12-subsys-* nf_tables\n\
         alias pci:v00001AF4d00001[0-9]41sv*sd*bc*sc*i* virtio_net\n",
    );
    write(
        "modules.softdep",
        "# Soft\nsoftdep ext4 pre: crypto-crc32c post: failover absent\n",
    );
    write(
        "modules.builtin",
        "kernel/fs/proc-x.ko\nkernel/crypto/crc32c_builtin.ko\n",
    );
    std::fs::write(
        dir.path().join("modules.builtin.modinfo"),
        b"proc_x.alias=fs-proc\0proc_x.license=GPL\0crc32c_generic.alias=crypto-crc32c\0",
    )
    .unwrap();
    let modules = Modules::at(dir.path());
    (dir, modules)
}

#[test]
fn order_of_loading() {
    let (_dir, modules) = sample();
    assert_eq!(
        modules.plan("nf_tables").unwrap(),
        ["libcrc32c", "nfnetlink", "nf_tables"]
    );
    assert_eq!(
        modules.plan("ext4").unwrap(),
        ["crc32c_generic", "mbcache", "jbd2", "ext4", "failover"]
    );
    assert!(matches!(
        modules.plan("nonesuch"),
        Err(ModuleError::NotFound(..))
    ));
}

#[test]
fn names_and_aliases() {
    let (_dir, modules) = sample();
    assert_eq!(modules.resolve("nf-tables").unwrap(), ["nf_tables"]);
    assert_eq!(modules.resolve("fs-ext4").unwrap(), ["ext4"]);
    assert_eq!(
        modules.resolve("virtio:d00000001v00001AF4").unwrap(),
        ["virtio_net"]
    );
    assert_eq!(
        modules
            .resolve("pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00")
            .unwrap(),
        ["virtio_net"]
    );
    assert_eq!(
        modules.resolve("net-pf-16-proto-12-subsys-10").unwrap(),
        ["nf_tables"]
    );
    assert_eq!(modules.resolve("fs-proc").unwrap(), ["proc_x"]);
    assert!(
        modules
            .resolve("pci:v00001AF4d0000A041sv")
            .unwrap()
            .is_empty()
    );
}

#[test]
fn built_in_needs_nothing() {
    let (_dir, mut modules) = sample();
    assert_eq!(modules.load("proc-x").unwrap(), 0);
    assert_eq!(modules.load("fs-proc").unwrap(), 0);
}

#[test]
fn command_line_and_conf() {
    let (options, blacklist) = parse_cmdline(
        "root=UUID=a.b quiet nf-conntrack.hashsize=8 nf_conntrack.x modprobe.blacklist=a-b,c",
    );
    assert_eq!(options["nf_conntrack"], "hashsize=8 x");
    assert!(!options.contains_key("root"));
    assert!(blacklist.contains("a_b") && blacklist.contains("c"));
    let conf = parse_modules_conf("# c\n\nbr-netfilter\noverlay  metacopy=1 x=2 # why\n");
    assert_eq!(
        conf,
        [
            ("br_netfilter".to_owned(), String::new()),
            ("overlay".to_owned(), "metacopy=1 x=2".to_owned())
        ]
    );
}

#[test]
fn globs() {
    for (pattern, text, expected) in [
        ("a*b*c", "axxbyyc", true),
        ("a*b*c", "axxbyy", false),
        ("*", "", true),
        ("", "", true),
        ("?", "", false),
        ("[0-9A]x", "Ax", true),
        ("[!0-9]x", "Ax", true),
        ("[^0-9]x", "5x", false),
        ("[]]", "]", true),
        ("[", "[", false),
        ("a*", "b", false),
    ] {
        assert_eq!(glob_match(pattern, text), expected, "{pattern} {text}");
    }
}

proptest! {
    #[test]
    fn never_panics(text in "\\PC*", other in "[a\\[\\]*?:!^-]{0,20}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let lossy = String::from_utf8_lossy(&bytes);
        for t in [text.as_str(), &lossy] {
            parse_dep(t);
            parse_softdep(t);
            parse_modules_conf(t);
            parse_cmdline(t);
            Aliases::default().parse(t);
            glob_match(&other, t);
            glob_match(t, &other);
        }
        Aliases::default().parse_builtin(&bytes);
    }

    #[test]
    fn a_text_matches_itself_and_stars(text in "[a-z0-9:]{0,30}", at in 0usize..30) {
        prop_assert!(glob_match(&text, &text));
        let at = at.min(text.len());
        let starred = format!("{}*{}", &text[..at], &text[at..]);
        prop_assert!(glob_match(&starred, &text));
    }

    #[test]
    fn circles_end(edges in proptest::collection::vec((0u8..5, 0u8..5), 0..20)) {
        let mut dep = String::new();
        for n in 0..5u8 {
            let to: Vec<String> = edges.iter().filter(|e| e.0 == n).map(|e| format!("m{}.ko", e.1)).collect();
            dep.push_str(&format!("m{n}.ko: {}\n", to.join(" ")));
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("modules.dep"), dep).unwrap();
        let plan = Modules::at(dir.path()).plan("m0").unwrap();
        prop_assert!(plan.len() <= 5);
    }
}
