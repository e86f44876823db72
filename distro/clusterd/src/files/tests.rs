//! The files' promises, one by one.

use super::*;
use crate::component::tests::config;

#[test]
fn the_kubelet_knows_its_callers_and_opens_one_port() {
    let content = kubelet(&config(false)).unwrap();
    assert_eq!(content["authentication"]["anonymous"]["enabled"], false);
    assert_eq!(content["authentication"]["webhook"]["enabled"], true);
    assert_eq!(
        content["authentication"]["x509"]["clientCAFile"],
        "/var/lib/clusterd/pki/cluster-ca.crt"
    );
    assert_eq!(content["authorization"]["mode"], "Webhook");
    assert_eq!(content["readOnlyPort"], 0);
    assert_eq!(content["healthzPort"], 0);
    assert_eq!(content["cgroupDriver"], "cgroupfs");
    assert_eq!(content["clusterDNS"][0], "10.43.0.10");
}

#[test]
fn only_nftables() {
    let proxy = kube_proxy(&config(false)).unwrap();
    assert_eq!(proxy["mode"], "nftables");
    let network = pod_network(&config(false), default_pod_network(&config(false)));
    // clusterd's own rules do that, with other nodes' pods left out.
    assert_eq!(network["plugins"][0]["ipMasq"], false);
    assert_eq!(network["plugins"][1]["backend"], "nftables");
    assert_eq!(
        network["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
        "10.42.0.0/24"
    );
}

#[test]
fn tests_can_lay_members_over_it() {
    let mut config = config(false);
    config.tuning.kubelet = Some(r#"{"failCgroupV1": false, "readOnlyPort": 1}"#.into());
    let content = kubelet(&config).unwrap();
    assert_eq!(content["failCgroupV1"], false);
    assert_eq!(content["readOnlyPort"], 1);
    config.tuning.kubelet = Some("[]".into());
    assert!(kubelet(&config).is_err());
}
