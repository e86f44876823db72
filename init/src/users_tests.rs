//! Tests of the seed's users.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn root() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    let write = |path: &str, text: &str| fs::write(dir.path().join(path), text).unwrap();
    write(PASSWD, "root:x:0:0:root:/root:/bin/sh\n");
    write(GROUP, "root:x:0:\ntty:x:5:\n");
    write(SHADOW, "root:*:::::::\n");
    let private = fs::Permissions::from_mode(0o640);
    fs::set_permissions(dir.path().join(SHADOW), private).unwrap();
    dir
}

fn user(name: &str) -> User {
    User {
        name: name.into(),
        gecos: None,
        uid: None,
        groups: vec!["tty".into(), "ops".into()],
        shell: Shell::Sh,
        ssh_authorized_keys: Vec::new(),
    }
}

fn set_users(root: &tempfile::TempDir, before: &[User], users: &[User]) -> Result<(), Failure> {
    set(root.path(), before, users, Data::Missing)
}

#[test]
fn users_get_lines_and_groups() {
    let root = root();
    let mut same_number = user("cyd");
    same_number.uid = Some(1001);
    let all = [user("ada"), user("bob"), user("root"), same_number];
    let failure = set_users(&root, &[], &all).unwrap_err().0;
    assert!(failure.contains("user root: ") && failure.contains("another"));
    assert!(
        failure.contains("user cyd: number 1001 is taken"),
        "{failure}"
    );
    let text = |path| read(root.path(), path).unwrap();
    assert!(text(PASSWD).ends_with(
        "ada:x:1000:1000::/var/home/ada:/bin/sh\nbob:x:1001:1001::/var/home/bob:/bin/sh\n"
    ));
    assert!(text(SHADOW).ends_with("ada:*:::::::\nbob:*:::::::\n"));
    assert_eq!(
        text(GROUP),
        "root:x:0:\ntty:x:5:ada,bob\nada:x:1000:\nops:x:100:ada,bob\nbob:x:1001:\n"
    );
    let mode = fs::metadata(root.path().join(SHADOW)).unwrap().mode();
    assert_eq!(mode & 0o7777, 0o640);
}

#[test]
fn another_seed_takes_users_away_and_brings_others() {
    let root = root();
    let (ada, bob) = (user("ada"), user("bob"));
    set_users(&root, &[], &[ada.clone(), bob.clone()]).unwrap();
    let changed = User {
        shell: Shell::Nologin,
        groups: vec!["tty".into()],
        uid: Some(1001),
        ..bob.clone()
    };
    let new = [changed, user("adam")];
    set_users(&root, &[ada, bob], &new).unwrap();
    let text = |path| read(root.path(), path).unwrap();
    assert_eq!(
        text(PASSWD),
        "root:x:0:0:root:/root:/bin/sh\nbob:x:1001:1001::/var/home/bob:/usr/sbin/nologin\n\
         adam:x:1000:1000::/var/home/adam:/bin/sh\n"
    );
    assert_eq!(text(SHADOW), "root:*:::::::\nbob:*:::::::\nadam:*:::::::\n");
    assert_eq!(
        text(GROUP),
        "root:x:0:\ntty:x:5:bob,adam\nops:x:100:adam\nbob:x:1001:\nadam:x:1000:\n"
    );
    // All gone: as the image has it, but for the group that was made.
    set_users(&root, &new, &[]).unwrap();
    assert_eq!(text(PASSWD), "root:x:0:0:root:/root:/bin/sh\n");
    assert_eq!(text(GROUP), "root:x:0:\ntty:x:5:\nops:x:100:\n");
    // One of the image's is never taken away: no seed can have brought it.
    let failure = set_users(&root, &[], &[user("root")]).unwrap_err().0;
    assert!(failure.contains("another"), "{failure}");
}

#[test]
fn a_full_table_loses_nobody() {
    let root = root();
    fs::remove_file(root.path().join(SHADOW)).unwrap();
    let failure = set_users(&root, &[], &[user("ada")]).unwrap_err().0;
    assert!(failure.contains(SHADOW), "{failure}");
    assert_eq!(
        read(root.path(), PASSWD).unwrap(),
        "root:x:0:0:root:/root:/bin/sh\n"
    );
}
