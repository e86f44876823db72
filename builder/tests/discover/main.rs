//! `slipway discover` and real `noded`s on a network of their own (namespaces, without root),
//! with avahi as the judge.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

#[path = "../common/noded.rs"]
mod noded;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use slipway_access::node_api::serving;
use slipway_access::pki::{CertificateAuthority, sha256};

/// Prepares the root of a node and gives its certificate's fingerprint.
fn root(dir: &Path, name: &str, hostname: &str) -> String {
    let root = dir.join(name);
    for path in ["run/slipway", "var/lib/slipway", "usr/lib/slipway"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    for path in ["proc", "sys"] {
        symlink(format!("/{path}"), root.join(path)).unwrap();
    }
    fs::write(dir.join(format!("{name}.hostname")), hostname).unwrap();
    let now = SystemTime::now();
    let ca = CertificateAuthority::generate("nodes", now - Duration::from_secs(60)).unwrap();
    let pair = serving(&ca, hostname, Vec::new(), now).unwrap();
    let write = |path: &str, value: Value| fs::write(root.join(path), value.to_string()).unwrap();
    write(
        "run/slipway/seed.json",
        json!({
            "hostname": hostname,
            "node-api": {"ca": ca.certificate_pem(), "certificate": pair.certificate_pem, "key": pair.key_pem},
            "cluster": {"name": "home", "role": "agent", "token": "S1hunter22secret"},
        }),
    );
    // As PID 1 says which interfaces are the node's; what else there is belongs to pods.
    write(
        "run/slipway/status.json",
        json!({"addresses": [{"interface": "eth0", "address": "10.77.0.1"}]}),
    );
    write(
        "usr/lib/slipway/image.json",
        json!({
            "board": "x86_64", "version": "1.2.3", "built": 0, "kubernetes": "v1", "arch": "x86_64",
            "root_uuid": "00000000-0000-0000-0000-000000000000",
        }),
    );
    let digest = sha256(&pair.certificate_pem).unwrap();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn nodes_are_found_by_name_and_keep_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let fingerprint = root(dir.path(), "first", "twin");
    root(dir.path(), "second", "twin.example.org");
    root(dir.path(), "third", "other");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/discover/network.sh");
    let out = Command::new("unshare")
        .args(["-Urnm", "--kill-child", "-pf", "--mount-proc", "sh"])
        .arg(script)
        .arg(dir.path())
        .arg(noded::noded())
        .arg(env!("CARGO_BIN_EXE_slipway"))
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let two: Value = serde_json::from_str(&read("two.json")).unwrap();
    let node = &two[0];
    assert_eq!(node["name"], "twin");
    assert_eq!(node["host"], "twin.local");
    assert_eq!(node["port"], 7443);
    assert_eq!(node["addresses"][0], "10.77.0.1");
    assert_eq!(node["version"], "1.2.3");
    assert_eq!(node["board"], "x86_64");
    assert_eq!(
        (&node["cluster"], &node["role"]),
        (&json!("home"), &json!("agent"))
    );
    assert_eq!(node["fingerprint"], fingerprint);
    assert_eq!(two[1]["host"], "twin-2.local");
    let text = read("text");
    assert!(
        text.contains(&fingerprint) && text.contains("twin-2.local:7443"),
        "{text}"
    );

    let browse = read("browse");
    let line = (browse.lines())
        .find(|line| line.starts_with("=;br0;IPv4;twin;"))
        .unwrap_or_else(|| unreachable!("{browse}"));
    for part in ["twin.local;10.77.0.1;7443;", "role=agent", &fingerprint] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!browse.contains("hunter22"), "{browse}");
    assert_eq!(
        read("by-name"),
        "twin.local\t10.77.0.1\ntwin-2.local\t10.77.0.2\n"
    );
    assert_eq!(read("by-address"), "10.77.0.2\ttwin-2.local\n");
    // What PID 1's page shows is what others see.
    let told: Value = serde_json::from_str(&read("second/run/slipway/node-api.json")).unwrap();
    assert_eq!(told["mdns-name"], "twin-2.local");
}
