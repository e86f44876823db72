//! What clusterd refuses to start with: one clear line and its own exit status each.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

mod common;

use std::process::Output;

use common::Place;

fn refused(place: &Place, more: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = place.command().args(more).output().unwrap();
    let text = String::from_utf8_lossy(&stderr);
    let last = text.lines().last().unwrap_or_default();
    (status.code(), last.to_owned())
}

#[test]
fn a_port_in_use() {
    let (place, _held) = Place::with_held_ports();
    let [api, ..] = place.ports();
    let (code, line) = refused(&place, &[]);
    assert_eq!(code, Some(5), "{line}");
    assert!(
        line.starts_with(&format!(
            "clusterd: port {api}, which kube-apiserver needs, is in use"
        )),
        "{line}"
    );
}

#[test]
fn a_root_in_use() {
    let place = Place::empty();
    let run = place.root().join("run/clusterd");
    std::fs::create_dir_all(&run).unwrap();
    let lock = std::fs::File::create(run.join("lock")).unwrap();
    lock.lock().unwrap();
    let (code, line) = refused(&place, &[]);
    assert_eq!(code, Some(5), "{line}");
    assert!(line.contains("another clusterd runs on"), "{line}");
}

#[test]
fn a_damaged_seed() {
    let place = Place::empty();
    std::fs::create_dir_all(place.root()).unwrap();
    let seed = place.root().join("seed.json");
    std::fs::write(&seed, "{\"cluster\": {\"token\": 5, \"name\": \"s3cr3t\"").unwrap();
    let (code, line) = refused(&place, &["--seed", seed.to_str().unwrap()]);
    assert_eq!(code, Some(3), "{line}");
    assert!(
        line.contains("seed.json") && !line.contains("s3cr3t"),
        "{line}"
    );
}

#[test]
fn an_agents_seed_without_a_token() {
    let place = Place::empty();
    std::fs::create_dir_all(place.root()).unwrap();
    let seed = place.root().join("seed.json");
    std::fs::write(&seed, "{\"cluster\": {\"role\": \"agent\"}}").unwrap();
    let (code, line) = refused(&place, &["--seed", seed.to_str().unwrap()]);
    assert_eq!(code, Some(3), "{line}");
    assert!(line.contains("token"), "{line}");
}

/// It must not begin a cluster of its own instead.
#[test]
fn a_seed_with_servers_to_join_or_another_datastore() {
    let place = Place::empty();
    std::fs::create_dir_all(place.root()).unwrap();
    let seed = place.root().join("seed.json");
    for (cluster, word) in [
        (
            "{\"servers\": [\"192.0.2.1\"], \"datastore\": \"etcd\"}",
            "servers",
        ),
        ("{\"datastore\": \"etcd\"}", "datastore"),
        (
            "{\"datastore\": {\"external\": \"postgres://u:s3cr3t@h/d\"}}",
            "datastore",
        ),
    ] {
        std::fs::write(&seed, format!("{{\"cluster\": {cluster}}}")).unwrap();
        let (code, line) = refused(&place, &["--seed", seed.to_str().unwrap()]);
        assert_eq!(code, Some(3), "{line}");
        assert!(line.contains(word) && !line.contains("s3cr3t"), "{line}");
    }
}

#[test]
fn a_truncated_ca_of_a_cluster_with_data() {
    let place = Place::empty();
    for directory in ["pki", "db", "config"] {
        std::fs::create_dir_all(place.state(directory)).unwrap();
    }
    std::fs::write(place.state("db/state.db"), "data").unwrap();
    std::fs::write(
        place.state("pki/cluster-ca.crt"),
        "-----BEGIN CERTIFICATE-----\nMII",
    )
    .unwrap();
    std::fs::write(
        place.state("pki/cluster-ca.key"),
        "-----BEGIN PRIVATE KEY-----\nMII",
    )
    .unwrap();
    let (code, line) = refused(&place, &[]);
    assert_eq!(code, Some(4), "{line}");
    assert!(
        line.contains("cluster-ca") && line.contains("restore"),
        "{line}"
    );
}

#[test]
fn a_wrong_command_line() {
    let place = Place::empty();
    let (code, line) = refused(&place, &["--sede", "x"]);
    assert_eq!(code, Some(2), "{line}");
    assert!(line.contains("--sede") && line.contains("--help"), "{line}");
}
