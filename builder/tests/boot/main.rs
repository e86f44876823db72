//! The proof that an image is a cluster: a real machine boots it in QEMU under
//! UEFI, serves a workload, loses its power in the middle of writes, and comes
//! back by itself with everything.
//!
//! Emulated boots cost minutes, so these tests are ignored unless asked for;
//! `make test` asks. One machine boots until its node is Ready and is caught
//! alive; most tests go on from there. They boot `$SLIPWAY_IMAGE`, or the image that
//! `slipway build x86_64` left in target/images.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod boards;
mod cuts;
#[path = "../../../images/tests/slot/disk.rs"]
#[allow(dead_code, reason = "made for other tests, too")]
mod disk;
mod fetched;
mod flashed;
mod immutable;
mod joined;
mod machine;
#[path = "../../../images/tests/slot/cuts.rs"]
mod recorded;
mod secure;
mod slots;
mod uboot;
mod update;
mod wifi;

use std::process::Command;
use std::time::Duration;

use slipway_qemu::harness::{Node, Setup};

use machine::{Cluster, MINUTE};

/// `make run` in small, then the hardest thing that can happen to it.
#[test]
#[ignore = "boots a machine: run with --ignored"]
fn a_cluster_serves_and_survives_a_power_cut() {
    let mut cluster = Cluster::ready();
    cluster.kubectl(&["apply", "-f", machine::WORKLOAD, "-f", machine::WRITER]);
    for deployment in ["web", "client", "writer"] {
        cluster.kubectl(&[
            "rollout",
            "status",
            "deployment",
            deployment,
            "--timeout=300s",
        ]);
    }
    let answer = cluster.ask_the_service();
    assert!(answer.starts_with("hello from web-"), "{answer}");
    let log = cluster.kubectl(&["logs", "-l", "app=web", "--prefix", "--tail=-1"]);
    assert!(
        log.contains("response:200"),
        "the servers' log has the request:\n{log}"
    );
    let version = cluster.kubectl(&["version"]);
    assert!(version.contains("Server Version: v1.36."), "{version}");

    let before = cluster.kubectl(&["get", "deployment,service", "-o", "name"]);
    cluster.node.cut_power();
    cluster.data_is_clean_after_replay();
    cluster.node.power_on();
    cluster.wait_ready();
    assert_eq!(
        cluster.kubectl(&["get", "deployment,service", "-o", "name"]),
        before
    );
    cluster.kubectl(&["rollout", "status", "deployment/web", "--timeout=300s"]);
    cluster.kubectl(&["rollout", "status", "deployment/client", "--timeout=300s"]);
    let answer = cluster.ask_the_service();
    assert!(
        answer.starts_with("hello from web-"),
        "after the power cut: {answer}"
    );

    cluster.node.power_down(2 * MINUTE);
    let console = cluster.node.console();
    assert!(
        !console.contains("Kernel panic"),
        "the kernel panicked:\n{console}"
    );
    cluster.data_is_clean();
}

/// Who isn't let in by the cluster's CA gets nothing, from neither of the two that listen.
#[test]
#[ignore = "boots a machine: run with --ignored"]
fn strangers_are_refused() {
    let cluster = Cluster::ready();
    cluster.api_refuses_strangers();
    cluster.kubelet_refuses_strangers();
}

/// The power button: pods and datastore are ended in order, and the filesystem is left clean.
#[test]
#[ignore = "boots a machine: run with --ignored"]
fn the_power_button_ends_it_in_order() {
    let mut cluster = Cluster::ready();
    cluster.node.power_down(2 * MINUTE);
    let console = cluster.node.console();
    for said in ["clusterd: stopped", "containerd: stopped"] {
        assert!(console.contains(said), "{said}:\n{console}");
    }
    assert!(!console.contains("killed"), "{console}");
    cluster.data_is_clean();
}

/// A seed that makes no sense must leave a node that says so, not a brick and not
/// a cluster that nobody asked for. It comes on a FAT volume as anybody makes one.
#[test]
#[ignore = "boots a machine: run with --ignored"]
fn a_broken_seed_is_said_and_no_cluster_is_started() {
    let scratch = tempfile::tempdir().unwrap();
    let (volume, text) = (
        scratch.path().join("stick"),
        scratch.path().join("user-data"),
    );
    std::fs::write(&text, "#cloud-config\nhostname: [not, a, name]\n").unwrap();
    machine::run(
        Command::new("mkfs.vfat")
            .args(["-C", "-n", "CIDATA"])
            .arg(&volume)
            .arg("2048"),
    );
    machine::run(
        Command::new("mcopy")
            .arg("-i")
            .arg(&volume)
            .arg(&text)
            .arg("::/user-data"),
    );
    let mut setup = Setup::new(machine::image());
    setup.volumes = vec![volume];
    let mut node = Node::boot(setup);
    let said = node.wait_console("seed FAILED", 3 * MINUTE);
    assert!(
        said.contains("/dev/vdb") && said.contains("user-data:2:11"),
        "{said}"
    );
    // Reachable; but how data is to be kept isn't known, so none are, and nothing runs that has any.
    // These come in any order.
    let all = [
        "slipway: address",
        "noded: started",
        "degraded: seed, data, services failed",
    ];
    node.wait_for("it is up", 3 * MINUTE, |node| {
        let console = node.console();
        let missing = all.iter().find(|said| !console.contains(*said));
        missing.map_or(Ok(()), |said| Err(format!("no `{said}`")))
    });
    let console = node.console();
    for needs_data in ["clusterd: started", "containerd: started"] {
        assert!(!console.contains(needs_data), "{console}");
    }
    node.power_down(Duration::from_secs(120));
}
