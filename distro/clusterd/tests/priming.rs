//! What is written into an empty datastore before the API server serves is what it would
//! have made there itself, no more and no less.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use common::{PATIENCE, Place};
use serde_json::Value;
use slipway_access::api::Client;

/// Everything that is primed, by collection.
const PRIMED: [&str; 8] = [
    "/api/v1/namespaces",
    "/api/v1/serviceaccounts",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    "/apis/rbac.authorization.k8s.io/v1/roles",
    "/apis/rbac.authorization.k8s.io/v1/rolebindings",
    "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
    "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas",
];

#[test]
#[ignore = "needs SLIPWAY_COMPONENTS"]
fn a_primed_datastore_holds_what_the_api_server_makes() {
    let (primed, unprimed) = (Place::new(), Place::unprimed());
    let (mut one, mut other) = (primed.start(&[]), unprimed.start(&[]));
    one.wait_ready();
    other.wait_ready();
    let log = |place: &Place| {
        std::fs::read_to_string(place.root().join("var/log/clusterd/kube-apiserver.log")).unwrap()
    };
    let said = "primed the datastore with ";
    assert!(log(&primed).contains(said), "{}", log(&primed));
    assert!(!log(&primed).contains("priming the datastore:"));
    assert!(!log(&unprimed).contains(said));

    // Controllers still make accounts and gather the rules of aggregated roles.
    let (primed, unprimed) = (primed.admin(), unprimed.admin());
    let end = Instant::now() + PATIENCE;
    loop {
        let (ours, theirs) = (objects(&primed), objects(&unprimed));
        if ours == theirs {
            assert!(ours.len() > 190, "{}", ours.len());
            break;
        }
        assert!(Instant::now() < end, "{}", difference(&ours, &theirs));
        std::thread::sleep(Duration::from_millis(500));
    }
    one.stop();
    other.stop();
}

/// All objects of the primed kinds by their paths, without what differs between two
/// clusters anyhow: identities, versions, times, and who wrote which field when. What
/// clusterd applies itself depends on whether it comes before or after the API server.
fn objects(admin: &Client) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for collection in PRIMED {
        for mut object in admin.list(collection).unwrap() {
            if !object["metadata"]["annotations"]["slipway.local/applied"].is_null() {
                continue;
            }
            let metadata = object["metadata"].as_object_mut().unwrap();
            for field in [
                "uid",
                "creationTimestamp",
                "resourceVersion",
                "managedFields",
            ] {
                metadata.remove(field);
            }
            let path = format!(
                "{collection} {}/{}",
                metadata.get("namespace").unwrap_or(&Value::Null),
                metadata["name"]
            );
            for condition in object["status"]["conditions"]
                .as_array_mut()
                .into_iter()
                .flatten()
            {
                condition
                    .as_object_mut()
                    .unwrap()
                    .remove("lastTransitionTime");
            }
            all.insert(path, object);
        }
    }
    all
}

fn difference(ours: &BTreeMap<String, Value>, theirs: &BTreeMap<String, Value>) -> String {
    let mut lines = Vec::new();
    for (path, object) in ours {
        match theirs.get(path) {
            None => lines.push(format!("only primed: {path}")),
            Some(other) if other != object => {
                lines.push(format!("{path}\n  primed {object}\n  made   {other}"));
            }
            Some(_) => {}
        }
    }
    let missing = theirs.keys().filter(|path| !ours.contains_key(*path));
    lines.extend(missing.map(|path| format!("not primed: {path}")));
    lines.join("\n")
}
