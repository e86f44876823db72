//! A control plane from real components: what works, and who is kept out.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

mod common;

use std::time::{Duration, SystemTime};

use common::{PATIENCE, Place};
use serde_json::json;
use slipway_access::api::{Applied, Client};
use slipway_access::pki::{CertificateAuthority, Leaf};

#[test]
#[ignore = "needs SLIPWAY_COMPONENTS"]
fn a_first_and_a_second_start() {
    let place = Place::new();
    let addons = place.root().join("usr/share/slipway/addons");
    std::fs::create_dir_all(&addons).unwrap();
    std::fs::write(
        addons.join("example.yaml"),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: example, namespace: addons}\n\
         data: {dns: '${CLUSTER_DNS}'}\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {name: addons}\n",
    )
    .unwrap();
    let mut server = place.start(&[]);
    server.wait_ready();
    let admin = place.admin();
    assert_eq!(admin.get_text("/readyz", PATIENCE).unwrap(), "ok");

    kubectl_agrees(&place);
    strangers_are_refused(&place);
    secrets_are_sealed(&place);
    objects_are_applied_and_waited_for(&admin);

    // What every pod needs, made by the controllers.
    admin
        .wait(
            "/api/v1/namespaces/default/serviceaccounts/default",
            "it",
            PATIENCE,
            |found| found.is_some(),
        )
        .unwrap();
    let example = "/api/v1/namespaces/addons/configmaps/example";
    let applied = admin.get(example).unwrap();
    assert_eq!(applied["data"]["dns"], "10.43.0.10");

    // What its owner changes stays until the manifest itself changes.
    admin
        .merge_patch(example, &json!({"data": {"dns": "mine"}}))
        .unwrap();
    server.stop();
    assert_eq!(
        place.status().unwrap()["components"]["kine"]["state"],
        "stopped"
    );

    let kubeconfig = place.kubeconfig();
    let mut server = place.start(&[]);
    server.wait_ready();
    assert_eq!(
        place.kubeconfig(),
        kubeconfig,
        "the CA and the owner's certificate are kept"
    );
    assert_eq!(admin.get(example).unwrap()["data"]["dns"], "mine");
    server.stop();
}

/// The real client, with the file as its owner would use it.
fn kubectl_agrees(place: &Place) {
    let output = std::process::Command::new(place.bin().join("kubectl"))
        .args(["get", "namespaces", "-o", "name"])
        .env("KUBECONFIG", place.state("admin.kubeconfig"))
        .env("HOME", place.root())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("namespace/kube-system"), "{output:?}");
}

fn strangers_are_refused(place: &Place) {
    let config = place.kubeconfig();
    let anonymous = Client::new(&config.server, &config.ca_pem, None).unwrap();
    for path in ["/api/v1/namespaces", "/readyz", "/livez", "/version"] {
        let error = anonymous.get_text(path, PATIENCE).unwrap_err();
        assert_eq!(error.code(), Some(401), "{error}");
    }
    // Somebody with a CA of the same name.
    let foreign = CertificateAuthority::generate("slipway", SystemTime::UNIX_EPOCH).unwrap();
    let leaf = Leaf::client("admin", Some("system:masters"));
    let identity = foreign.issue(&leaf, SystemTime::now()).unwrap();
    let stranger = Client::new(&config.server, &config.ca_pem, Some(&identity)).unwrap();
    let error = stranger.get("/api/v1/namespaces").unwrap_err();
    assert_eq!(error.code(), Some(401), "{error}");
    // And who trusts another CA doesn't talk to this server at all.
    let wary = Client::new(
        &config.server,
        foreign.certificate_pem(),
        Some(&config.client),
    )
    .unwrap();
    let error = wary.get("/api/v1/namespaces").unwrap_err();
    assert_eq!(error.code(), None, "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    // A user of this cluster without any role.
    let pki = |file: &str| std::fs::read_to_string(place.state(&format!("pki/{file}"))).unwrap();
    let ca =
        CertificateAuthority::from_pem(&pki("cluster-ca.crt"), &pki("cluster-ca.key")).unwrap();
    let identity = ca
        .issue(&Leaf::client("guest", None), SystemTime::now())
        .unwrap();
    let guest = Client::new(&config.server, &config.ca_pem, Some(&identity)).unwrap();
    assert_eq!(guest.get("/api/v1/secrets").unwrap_err().code(), Some(403));
    // The controllers' ports tell strangers nothing either, not even their health.
    for port in &place.ports()[1..] {
        let server = format!("https://127.0.0.1:{port}");
        let anonymous = Client::new(&server, &config.ca_pem, None).unwrap();
        for path in ["/healthz", "/metrics"] {
            let code = anonymous.get_text(path, PATIENCE).unwrap_err().code();
            assert!(matches!(code, Some(401 | 403)), "{server}{path}: {code:?}");
        }
    }
}

fn secrets_are_sealed(place: &Place) {
    let marker = "xyzzy-marker-of-a-secret";
    let collection = |kind: &str| format!("/api/v1/namespaces/default/{kind}");
    let admin = place.admin();
    for (kind, resource) in [("Secret", "secrets"), ("ConfigMap", "configmaps")] {
        let field = if kind == "Secret" {
            "stringData"
        } else {
            "data"
        };
        let text = format!("{marker}-{resource}");
        admin
            .create(
                &collection(resource),
                &json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "sealed"}, field: {"key": text}}),
            )
            .unwrap();
    }
    let stored = |text: &str| {
        ["state.db", "state.db-wal"].iter().any(|file| {
            let bytes = std::fs::read(place.state(&format!("db/{file}"))).unwrap_or_default();
            bytes
                .windows(text.len())
                .any(|window| window == text.as_bytes())
        })
    };
    assert!(
        stored(&format!("{marker}-configmaps")),
        "the search itself works"
    );
    assert!(
        !stored(&format!("{marker}-secrets")),
        "the secret stands in the datastore"
    );
    // The form that the API server writes when it seals.
    assert!(stored("k8s:enc:secretbox:v1:key1:"));
}

fn objects_are_applied_and_waited_for(admin: &Client) {
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": {"a": "b"}},
            "template": {
                "metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": "i"}]},
            },
        },
    });
    assert_eq!(
        admin.apply_if_changed(&object, "test").unwrap(),
        Applied::Written
    );
    assert_eq!(
        admin.apply_if_changed(&object, "test").unwrap(),
        Applied::Unchanged
    );
    let path = admin.path_of(&object).unwrap();
    assert_eq!(path, "/apis/apps/v1/namespaces/default/deployments/d");
    admin.wait_condition(&path, "Available", PATIENCE).unwrap();
    // A condition that never comes is a deadline, with what was seen last.
    let error = admin
        .wait_condition(&path, "Never", Duration::from_secs(1))
        .unwrap_err();
    assert!(error.to_string().contains("Available=True"), "{error}");
    assert!(admin.delete(&path).unwrap());
    admin
        .wait(&path, "its end", PATIENCE, |found| found.is_none())
        .unwrap();
    assert!(!admin.delete(&path).unwrap());

    // A kind that is made in the same text as its first object.
    let crd = "apiVersion: example.org/v1\nkind: Thing\nmetadata: {name: t, namespace: default}\n\
         ---\napiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\n\
         metadata: {name: things.example.org}\nspec:\n  group: example.org\n  scope: Namespaced\n  \
         names: {plural: things, kind: Thing}\n  versions:\n  - name: v1\n    served: true\n    \
         storage: true\n    schema: {openAPIV3Schema: {type: object}}\n";
    assert_eq!(admin.apply_yaml(crd, "test").unwrap(), 2);
    assert_eq!(admin.apply_yaml(crd, "test").unwrap(), 0);
    assert_eq!(admin.list("/apis/example.org/v1/things").unwrap().len(), 1);
    let error = admin.apply_yaml(
        "apiVersion: v1\nkind: Nothing\nmetadata: {name: a}\n",
        "test",
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "can't be applied: the API has no Nothing in /api/v1"
    );
}
