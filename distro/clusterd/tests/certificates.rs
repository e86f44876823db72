//! Certificates are renewed while everything runs.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

mod common;

use common::{PATIENCE, Place};

#[test]
#[ignore = "needs SLIPWAY_COMPONENTS"]
fn certificates_are_renewed_and_their_users_restarted() {
    let place = Place::new();
    // Renewed 40 s after their issue: long after the start, with time for it to settle.
    let mut server = place.start(&["--certificate-lifetime", "60"]);
    let first = server.wait_ready();
    let before = place.kubeconfig();
    let server_before = std::fs::read(place.state("pki/apiserver.crt")).unwrap();
    let status = server.wait("the renewal", |status| {
        status["components"].as_object().is_some_and(|all| {
            all.iter().all(|(name, line)| {
                name == "kine"
                    || line["state"] == "up" && line["pid"] != first["components"][name]["pid"]
            })
        })
    });
    // A restart that was asked for isn't counted as an end, and the datastore had no part in it.
    assert_eq!(status["components"]["kube-apiserver"]["restarts"], 0);
    assert_eq!(status["components"]["kine"], first["components"]["kine"]);
    let after = place.kubeconfig();
    assert_ne!(after.client, before.client);
    assert_eq!(after.ca_pem, before.ca_pem);
    assert_ne!(
        std::fs::read(place.state("pki/apiserver.crt")).unwrap(),
        server_before
    );
    place
        .admin()
        .wait("/api/v1/namespaces/default", "the API", PATIENCE, |found| {
            found.is_some()
        })
        .unwrap();
    server.stop();
}
