//! What components are started with: the promises of a hardened server, one by one.

use std::path::Path;

use slipway_images::seed::Seed;

use super::*;
use crate::options::Tuning;
use crate::paths::Paths;

/// A configuration as an image has it.
pub(crate) fn config(control_plane_only: bool) -> Config {
    Config {
        paths: Paths::new(Path::new("/")),
        seed: Seed::default(),
        node_name: "node1".into(),
        node_address: "192.0.2.7".parse().unwrap(),
        control_plane_only,
        bin: None,
        tuning: Tuning::default(),
    }
}

fn has(name: Name, argument: &str) -> bool {
    component(&config(false), name)
        .arguments
        .iter()
        .any(|found| found == argument)
}

#[test]
fn nobody_is_anonymous_and_everybody_is_authorised() {
    assert!(has(Name::ApiServer, "--anonymous-auth=false"));
    assert!(has(Name::ApiServer, "--authorization-mode=Node,RBAC"));
    assert!(has(
        Name::ApiServer,
        "--enable-admission-plugins=NodeRestriction"
    ));
    for name in [Name::ControllerManager, Name::Scheduler] {
        assert!(has(name, "--authorization-always-allow-paths="), "{name}");
        assert!(has(name, "--bind-address=127.0.0.1"), "{name}");
    }
    for name in [Name::ApiServer, Name::ControllerManager, Name::Scheduler] {
        assert!(has(name, "--profiling=false"), "{name}");
    }
}

#[test]
fn secrets_are_sealed_and_kubelets_verified() {
    assert!(has(
        Name::ApiServer,
        "--encryption-provider-config=/var/lib/clusterd/config/encryption.json"
    ));
    assert!(has(
        Name::ApiServer,
        "--kubelet-certificate-authority=/var/lib/clusterd/pki/cluster-ca.crt"
    ));
}

#[test]
fn the_datastore_keeps_what_it_confirmed() {
    let arguments = component(&config(false), Name::Kine).arguments;
    let endpoint = arguments
        .iter()
        .find(|found| found.starts_with("--endpoint="))
        .unwrap();
    assert!(endpoint.starts_with("--endpoint=sqlite:///var/lib/clusterd/db/state.db?"));
    assert!(endpoint.contains("_journal_mode=WAL") && endpoint.contains("_synchronous=FULL"));
    assert!(arguments.contains(&"--listen-address=unix:///run/clusterd/kine.sock".to_owned()));
    assert!(arguments.contains(&"--metrics-bind-address=0".to_owned()));
}

#[test]
fn without_a_node_nothing_listens_outside() {
    let config = config(true);
    assert_eq!(Name::of(&config).len(), 4);
    let arguments = component(&config, Name::ApiServer).arguments;
    assert!(arguments.contains(&"--bind-address=127.0.0.1".to_owned()));
}

#[test]
fn programs_come_from_the_directory_given() {
    let mut config = config(true);
    assert_eq!(component(&config, Name::Kine).program, Path::new("kine"));
    config.bin = Some("/opt/kube".into());
    assert_eq!(
        component(&config, Name::Kine).program,
        Path::new("/opt/kube/kine")
    );
}

#[test]
fn what_the_seed_adds_comes_last() {
    let mut config = config(false);
    let seed = "#cloud-config\nslipway: {cluster: {labels: {disk: ssd, rack: r1}, taints: ['a=b:NoExecute'], \
                extra-args: {kubelet: {v: 2}, kube-apiserver: {profiling: true, event-ttl: [1h, 2h]}}}}\n";
    config.seed = Seed::parse(seed).unwrap().seed;
    let kubelet = component(&config, Name::Kubelet).arguments;
    assert!(kubelet.ends_with(&["--node-labels=disk=ssd,rack=r1".into(), "--v=2".into()]));
    let api = component(&config, Name::ApiServer).arguments;
    assert!(api.ends_with(&[
        "--profiling=true".into(),
        "--event-ttl=1h".into(),
        "--event-ttl=2h".into()
    ]));
    assert!(
        component(&config, Name::Kine)
            .arguments
            .iter()
            .all(|a| !a.contains("--v="))
    );
}
