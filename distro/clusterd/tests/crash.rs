//! Components and the whole are killed: everything comes back, with its data.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

mod common;

use common::{PATIENCE, Place, pid, signal};
use serde_json::json;

#[test]
#[ignore = "needs SLIPWAY_COMPONENTS"]
fn each_killed_component_comes_back() {
    let place = Place::new();
    let mut server = place.start(&[]);
    server.wait_ready();
    for name in [
        "kube-scheduler",
        "kube-controller-manager",
        "kine",
        "kube-apiserver",
    ] {
        let before = pid(&place.status().unwrap(), name);
        assert!(signal(before, "KILL"));
        let status = server.wait(&format!("the return of {name}"), |status| {
            let line = &status["components"][name];
            line["state"] == "up" && line["pid"].as_u64() != Some(before.into())
        });
        let line = &status["components"][name];
        assert_eq!(line["restarts"], 1, "{name}");
        assert!(
            line["last_exit"].as_str().unwrap().starts_with("signal 9"),
            "{line}"
        );
    }
    server.wait_ready();
    // And it isn't only up: it answers.
    let admin = place.admin();
    admin
        .wait("/api/v1/namespaces/default", "the API", PATIENCE, |found| {
            found.is_some()
        })
        .unwrap();
    server.stop();
}

#[test]
#[ignore = "needs SLIPWAY_COMPONENTS"]
fn what_was_confirmed_survives_a_kill_of_everything() {
    let place = Place::new();
    let mut server = place.start(&[]);
    let status = server.wait_ready();
    let admin = place.admin();
    let mut confirmed = 0;
    // Bounded: the datastore may be back before the API server gives up a request.
    while confirmed < 300 {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("c{confirmed}")},
        });
        if admin
            .create("/api/v1/namespaces/default/configmaps", &object)
            .is_err()
        {
            break;
        }
        confirmed += 1;
        if confirmed == 200 {
            // In the middle of it: the datastore, and soon after its supervisor with all the rest.
            assert!(signal(pid(&status, "kine"), "KILL"));
        }
    }
    server.kill();
    assert!(confirmed >= 200, "{confirmed}");

    let mut server = place.start(&[]);
    server.wait_ready();
    // A new client: the old one keeps connections to the server that was killed.
    let names: Vec<String> = place
        .admin()
        .list("/api/v1/namespaces/default/configmaps")
        .unwrap()
        .iter()
        .map(|object| object["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    for number in 0..confirmed {
        assert!(
            names.contains(&format!("c{number}")),
            "c{number} of {confirmed} is lost"
        );
    }
    server.stop();
}
