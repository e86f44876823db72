//! Add-ons that come and go with images, on a control plane from real components.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

mod common;

use std::fs;
use std::time::SystemTime;

use common::Place;
use serde_json::json;
use slipway_access::api::Client;

/// When the first image was built: certificates can't be older.
fn first() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(now.unwrap().as_secs()).unwrap() - 3600
}

/// Starts it as an image built at this time, with one manifest of each text.
fn with_image<'a>(place: &'a Place, built: i64, manifests: &[&str]) -> common::Server<'a> {
    let addons = place.root().join("usr/share/slipway/addons");
    drop(fs::remove_dir_all(&addons));
    fs::create_dir_all(&addons).unwrap();
    for (number, text) in manifests.iter().enumerate() {
        fs::write(addons.join(format!("{number}.yaml")), text).unwrap();
    }
    let image = json!({
        "board": "x86_64", "version": "1", "built": built, "kubernetes": "v1.36.0", "arch": "x86_64",
        "root_uuid": "00000000-0000-0000-0000-000000000000",
    });
    let info = place.root().join("usr/lib/slipway/image.json");
    fs::create_dir_all(info.parent().unwrap()).unwrap();
    fs::write(info, image.to_string()).unwrap();
    let mut server = place.start(&[]);
    server.wait_ready();
    server
}

const STAYS: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: stays, namespace: kube-system}\n";
const GOES: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: dropped}\n---\n\
    apiVersion: v1\nkind: ConfigMap\nmetadata: {name: goes, namespace: dropped}\n---\n\
    apiVersion: v1\nkind: ConfigMap\nmetadata: {name: retaken, namespace: dropped}\n---\n\
    apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: goes}\nrules: []\n";

fn config_map(name: &str) -> String {
    format!("/api/v1/namespaces/dropped/configmaps/{name}")
}

fn is_there(admin: &Client, path: &str) -> bool {
    admin.find(path).unwrap().is_some()
}

#[test]
#[ignore = "needs SLIPWAY_COMPONENTS"]
fn what_a_newer_image_no_longer_has_is_removed_and_nothing_else() {
    let place = Place::new();
    let first = first();
    let server = with_image(&place, first, &[STAYS, GOES]);
    let admin = place.admin();
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/goes";
    // A user's own, beside the add-on's and in the place of one.
    let own = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"whose": "the user's"},
        })
    };
    assert!(admin.delete(&config_map("retaken")).unwrap());
    let all = "/api/v1/namespaces/dropped/configmaps";
    for name in ["retaken", "users"] {
        admin.create(all, &own(name)).unwrap();
    }
    server.stop();

    // An older server of a cluster that is being upgraded takes nothing away.
    with_image(&place, first - 1, &[STAYS]).stop();
    // A manifest that can't be applied: who knows what it would have had.
    let broken = "apiVersion: v1\nkind: Nothing\nmetadata: {name: x}\n";
    let addons = place.root().join("usr/share/slipway/addons");
    fs::write(addons.join("9.yaml"), broken).unwrap();
    let info = place.root().join("usr/lib/slipway/image.json");
    let text = fs::read_to_string(&info).unwrap();
    let newer = text.replace(&(first - 1).to_string(), &(first + 1).to_string());
    fs::write(&info, newer).unwrap();
    let mut server = place.start(&[]);
    server.wait("the trouble", |status| {
        status.to_string().contains("no Nothing")
    });
    for path in [&config_map("goes"), role] {
        assert!(is_there(&admin, path), "{path}");
    }
    server.stop();

    let server = with_image(&place, first + 1, &[STAYS]);
    for path in [&config_map("goes"), role] {
        assert!(!is_there(&admin, path), "{path}");
    }
    for name in ["retaken", "users"] {
        let found = admin.get(&config_map(name)).unwrap();
        assert_eq!(found["data"]["whose"], "the user's");
    }
    assert!(is_there(&admin, "/api/v1/namespaces/dropped"));
    let stays = "/api/v1/namespaces/kube-system/configmaps/stays";
    assert!(is_there(&admin, stays));
    server.stop();

    // It comes back with the image that has it.
    let server = with_image(&place, first + 2, &[STAYS, GOES]);
    assert!(is_there(&admin, &config_map("goes")));
    server.stop();
}
