//! cloud-init's own `cloud-init schema` (Debian's package) takes what we write, apart
//! from the key `slipway`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::new_in;

/// Prints a user-data without the key that is ours.
const STRIP: &str = "
import sys, yaml
seed = yaml.safe_load(open(sys.argv[1])) or {}
seed.pop('slipway', None)
sys.stdout.write('#cloud-config\\n' + yaml.safe_dump(seed))
";

fn schema(args: &[&str], file: &Path) -> (bool, String) {
    let out = Command::new("cloud-init")
        .args(["schema", "--config-file"])
        .arg(file)
        .args(args)
        .output()
        .expect("cloud-init is needed (ci/setup installs it)");
    let said = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8(said).unwrap())
}

fn stripped(seed: &Path, into: &Path) -> PathBuf {
    let out = Command::new("/usr/bin/python3")
        .args(["-c", STRIP])
        .arg(seed.join("user-data"))
        .output()
        .expect("python3 is needed (ci/setup installs cloud-init, which needs it)");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let file = into.join("stripped");
    fs::write(&file, out.stdout).unwrap();
    file
}

#[test]
fn cloud_init_takes_what_seed_new_writes() {
    let tmp = tempfile::tempdir().unwrap();
    let keys = tmp.path().join("id.pub");
    fs::write(&keys, "ssh-ed25519 AAAA me@here\n").unwrap();
    let dir = tmp.path().join("home");
    new_in(
        &dir,
        &[
            "--endpoint",
            "a.lan",
            "--agents",
            "1",
            "--ssh-key",
            keys.to_str().unwrap(),
        ],
    );
    for node in ["home-server-1", "home-agent-1"] {
        let (good, said) = schema(&[], &stripped(&dir.join(node), tmp.path()));
        assert!(good && said.to_lowercase().contains("valid"), "{said}");
    }
    // The oracle can say no.
    let bad = tmp.path().join("bad");
    fs::write(&bad, "#cloud-config\nssh_authorized_keys: 5\n").unwrap();
    assert!(!schema(&[], &bad).0);
}

/// The seeds that our reader is tested with are cloud-config and netplan to others, too.
#[test]
fn cloud_init_takes_our_corpus() {
    let tmp = tempfile::tempdir().unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../images/tests/seed/good");
    let help = Command::new("cloud-init")
        .args(["schema", "--help"])
        .output()
        .unwrap();
    // Newer than Debian 12's.
    let networks = String::from_utf8_lossy(&help.stdout).contains("--schema-type");
    for seed in fs::read_dir(corpus).unwrap() {
        let seed = seed.unwrap().path();
        let (good, said) = schema(&[], &stripped(&seed, tmp.path()));
        assert!(good, "{}: {said}", seed.display());
        let network = seed.join("network-config");
        if networks && network.exists() {
            let (good, said) = schema(&["--schema-type", "network-config"], &network);
            assert!(good, "{}: {said}", network.display());
        }
    }
}
