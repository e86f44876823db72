//! The datastore between versions of Kubernetes: kept before a newer one writes to it, taken
//! up again by the older one, and left alone within a minor.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use common::{Place, Server};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Says which version the place has; the components are the same ones.
fn pretend(place: &Place, kubernetes: &str) {
    let path = place.root().join("usr/lib/slipway/image.json");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    // Certificates begin with the image.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let info = json!({
        "board": "x86_64", "version": format!("for {kubernetes}"), "built": now.as_secs() - 3600,
        "kubernetes": kubernetes, "arch": "x86_64",
        "root_uuid": "00000000-0000-0000-0000-000000000007",
    });
    std::fs::write(path, info.to_string()).unwrap();
}

/// Starts what this version of Kubernetes would.
fn start<'a>(place: &'a Place, kubernetes: &str) -> Server<'a> {
    pretend(place, kubernetes);
    let mut server = place.start(&[]);
    server.wait_ready();
    server
}

fn make(place: &Place, name: &str) {
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    place.admin().create(MAPS, &object).unwrap();
}

fn names(place: &Place) -> Vec<String> {
    let all = place.admin().list(MAPS).unwrap();
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    let ours = all.iter().map(name).filter(|name| name.starts_with("made"));
    ours.collect()
}

/// `clusterd snapshot`: its description.
fn snapshot(place: &Place) -> Value {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_clusterd"))
        .arg("snapshot")
        .arg("--root")
        .arg(place.root())
        .arg("--bin")
        .arg(place.bin())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
#[ignore = "needs SLIPWAY_COMPONENTS"]
fn an_older_minor_takes_up_again_what_it_had() {
    let place = Place::new();
    assert_eq!(snapshot(&place), Value::Null, "there is nothing yet");
    let server = start(&place, "v1.36.3");
    make(&place, "made-before");
    // Taken while everything runs.
    let first = snapshot(&place);
    assert_eq!(first["kubernetes"], "v1.36.3");
    assert_eq!(first["slipway"], "for v1.36.3");
    for file in ["snapshots/1.db", "snapshots/1.json"] {
        assert_eq!(mode(&place.state(file)), 0o600, "{file}");
    }
    make(&place, "made-since");
    // The power is cut, and the next boot is the newer version's. What it keeps is what was
    // there at the end, and not only what was kept before.
    server.kill();
    let server = start(&place, "v1.37.0");
    assert_eq!(names(&place), ["made-before", "made-since"]);
    let second = std::fs::read(place.state("snapshots/2.json")).unwrap();
    let second: Value = serde_json::from_slice(&second).unwrap();
    assert_eq!(second["kubernetes"], "v1.36.3");
    make(&place, "made-by-the-newer");
    server.kill();

    let server = start(&place, "v1.36.3");
    assert_eq!(names(&place), ["made-before", "made-since"]);
    assert!(place.state("db-v1.37.0-1/state.db").exists());
    make(&place, "made-again");
    server.stop();
    // Within a minor nothing is taken back.
    let server = start(&place, "v1.36.1");
    assert_eq!(names(&place), ["made-again", "made-before", "made-since"]);
    server.stop();

    // A newer one's datastore without a snapshot is not for this version.
    pretend(&place, "v1.35.0");
    let output = place.command().output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().last().unwrap();
    assert!(
        line.contains("v1.36.1 wrote it, v1.35.0 runs here"),
        "{line}"
    );
}
