use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;

use super::*;

fn seed(body: &str) -> Seed {
    Seed::parse(&format!("#cloud-config\n{body}")).unwrap().seed
}

fn root(homes: &[&str]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for home in ["root", "var/lib/slipway"].iter().chain(homes) {
        fs::create_dir_all(dir.path().join(home)).unwrap();
    }
    dir
}

#[test]
fn everyone_gets_the_seeds_keys_and_no_others() {
    let root = root(&["var/home/ann/.ssh", "var/home/bob"]);
    let at = |path: &str| root.path().join(path);
    fs::write(at("var/home/ann/.ssh/authorized_keys"), "by hand\n").unwrap();
    let both = seed(
        "ssh_authorized_keys: [ssh-ed25519 AAAAroot me@here, ssh-rsa AAAAtwo]\nusers:\n- {name: ann}\n- {name: bob, ssh_authorized_keys: [ssh-ed25519 AAAAbob]}\n",
    );
    write_keys(root.path(), &both).unwrap();
    let keys = fs::read_to_string(at("root/.ssh/authorized_keys")).unwrap();
    assert_eq!(
        keys,
        format!("{RESTRICTIONS} ssh-ed25519 AAAAroot me@here\n{RESTRICTIONS} ssh-rsa AAAAtwo\n")
    );
    let mode = |path: &str| fs::metadata(at(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("root/.ssh"), 0o700);
    assert_eq!(mode("root/.ssh/authorized_keys"), 0o600);
    assert!(!at("var/home/ann/.ssh/authorized_keys").exists());
    let bob = fs::read_to_string(at("var/home/bob/.ssh/authorized_keys")).unwrap();
    assert!(bob.ends_with(" ssh-ed25519 AAAAbob\n"), "{bob}");
    // All taken back.
    write_keys(root.path(), &seed("users: [{name: bob}]\n")).unwrap();
    assert!(!at("root/.ssh/authorized_keys").exists());
    assert!(!at("var/home/bob/.ssh/authorized_keys").exists());
}

#[test]
fn links_in_a_home_are_not_followed_and_keep_no_keys() {
    let root = root(&[
        "var/home/ann",
        "var/home/ann/mine",
        "var/home/bob/.ssh",
        "etc",
    ]);
    let at = |path: &str| root.path().join(path);
    symlink("mine", at("var/home/ann/.ssh")).unwrap();
    fs::write(at("var/home/ann/mine/authorized_keys"), "kept\n").unwrap();
    fs::write(at("etc/passwd"), "root\n").unwrap();
    symlink(
        "../../../../etc/passwd",
        at("var/home/bob/.ssh/authorized_keys"),
    )
    .unwrap();
    symlink(
        "../../../../etc/passwd",
        at("var/home/bob/.ssh").join(KEYS_NEW),
    )
    .unwrap();
    let seed = seed(
        "users:\n- {name: ann}\n- {name: bob, ssh_authorized_keys: [ssh-ed25519 AAAAbob]}\n- {name: cat, ssh_authorized_keys: [ssh-ed25519 AAAAcat]}\n",
    );
    // One without a home is said, and the others get theirs.
    let failure = write_keys(root.path(), &seed).unwrap_err();
    assert!(failure.0.contains("ssh keys of cat: the home"), "{failure}");
    assert!(!failure.0.contains("bob"), "{failure}");
    assert!(
        fs::symlink_metadata(at("var/home/ann/.ssh"))
            .unwrap()
            .is_dir()
    );
    assert!(!at("var/home/ann/.ssh/authorized_keys").exists());
    assert_eq!(fs::read_to_string(at("etc/passwd")).unwrap(), "root\n");
    let bob = at("var/home/bob/.ssh/authorized_keys");
    assert!(fs::symlink_metadata(bob).unwrap().is_file());
}

#[test]
fn ssh_is_wanted_by_who_has_a_key_and_a_shell() {
    assert!(!is_wanted(&Seed::default()));
    assert!(!is_wanted(&seed("users: [{name: ann}]\n")));
    assert!(is_wanted(&seed(
        "ssh_authorized_keys: [ssh-ed25519 AAAA]\n"
    )));
    let user = |shell| {
        format!("users: [{{name: ann, shell: {shell}, ssh_authorized_keys: [ssh-ed25519 AAAA]}}]\n")
    };
    assert!(is_wanted(&seed(&user("/bin/sh"))));
    assert!(!is_wanted(&seed(&user("/usr/sbin/nologin"))));
}

/// By the real tool. The reaper's place is taken by the standard library: a test's children
/// are its own.
fn run(command: &mut Command) -> Result<(ExitStatus, String), Failure> {
    let out = command.output().context("dropbearkey")?;
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    Ok((out.status, said))
}

#[test]
fn the_hosts_key_is_made_once_and_damage_is_replaced() {
    let root = root(&[]);
    let key = || host_key(root.path(), &run);
    // Left by a power cut.
    let directory = root.path().join(HOST_KEYS);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("host_ed25519.new"), "half").unwrap();
    let first = key().unwrap();
    assert!(first.starts_with("SHA256:") && first.len() == 50, "{first}");
    assert_eq!(key().unwrap(), first);
    assert_eq!(files::names(&directory), [HOST_KEY]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&directory.join(HOST_KEY)), 0o600);
    fs::write(directory.join(HOST_KEY), "").unwrap();
    let second = key().unwrap();
    assert_ne!(second, first);
    assert_eq!(key().unwrap(), second);
    // A tool that isn't there or fails is told, and nothing half takes the key's place.
    fs::remove_file(directory.join(HOST_KEY)).unwrap();
    let fails = |_: &mut Command| Ok((ExitStatus::from_raw(256), "some\nno space left".into()));
    let failure = host_key(root.path(), &fails).unwrap_err();
    assert!(failure.0.ends_with("no space left"), "{failure}");
    assert!(!directory.join(HOST_KEY).exists());
}
