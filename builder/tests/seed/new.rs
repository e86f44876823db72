//! `slipway seed new`: files, modes, who gets which secret, and that all of it belongs together.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use slipway_access::kubeconfig::Kubeconfig;
use slipway_access::node_api::{Credential, Role as ApiRole};
use slipway_access::pki::{self, CertificateAuthority, KeyCertificate};
use slipway_images::node::ANY_NODE;
use slipway_images::seed::{Datastore, Finding, Role, Seed, SeedFiles};

use super::{command, new_in, seed, stderr, stdout};

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn read(dir: &Path) -> Seed {
    let parsed = Seed::read(SeedFiles {
        user_data: &text(&dir.join("user-data")),
        network_config: None,
        meta_data: Some(&text(&dir.join("meta-data"))),
    });
    let parsed = parsed.unwrap();
    // There is no ssh server in the image yet, which is said of keys.
    let odd = |found: &&Finding| found.key != "ssh_authorized_keys";
    assert_eq!(parsed.warnings.iter().find(odd), None);
    parsed.seed
}

const CLUSTER: [&str; 6] = [
    "--endpoint",
    "192.0.2.1,home.lan",
    "--servers",
    "3",
    "--agents",
    "2",
];

#[test]
fn a_cluster_has_a_seed_for_each_node_and_no_one_else_can_read_it() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("deep/home");
    let out = new_in(&dir, &CLUSTER);
    let nodes = [
        "home-agent-1",
        "home-agent-2",
        "home-server-1",
        "home-server-2",
        "home-server-3",
    ];
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        names.push(entry.file_name().into_string().unwrap());
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(
            mode,
            if entry.path().is_dir() { 0o700 } else { 0o600 },
            "{names:?}"
        );
    }
    names.sort();
    assert_eq!(
        names,
        [
            nodes.as_slice(),
            &["kubeconfig", "node-api-ca.pem", "operator.pem"]
        ]
        .concat()
    );
    for node in nodes {
        for file in ["user-data", "meta-data"] {
            let mode = fs::metadata(dir.join(node).join(file))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert!(stdout(&out).contains(node));
    }
    assert_eq!(
        fs::metadata(&dir).unwrap().permissions().mode() & 0o777,
        0o700
    );
    // Nothing stays aside.
    assert_eq!(fs::read_dir(dir.parent().unwrap()).unwrap().count(), 1);
    let check = seed(&["check", dir.to_str().unwrap()]);
    assert!(check.status.success(), "{}", stderr(&check));
    assert_eq!(
        stdout(&check).matches("good, 0 errors, 0 warnings").count(),
        5
    );
}

#[test]
fn each_node_has_the_secrets_it_needs_and_no_others() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("home");
    new_in(&dir, &CLUSTER);
    let first = read(&dir.join("home-server-1")).cluster;
    let second = read(&dir.join("home-server-2")).cluster;
    let agent = read(&dir.join("home-agent-1")).cluster;

    let cas = first.ca.as_ref().unwrap();
    assert!(second.ca.is_none() && agent.ca.is_none());
    assert_eq!(first.servers, Vec::<String>::new());
    assert_eq!(second.servers, ["192.0.2.1", "home.lan"]);
    assert_eq!(first.datastore, Datastore::Etcd);
    assert_eq!((second.role, agent.role), (Role::Server, Role::Agent));

    // A token lets the one who joins check the server, whose CA it names.
    let hash = pki::sha256(&cas.cluster.certificate).unwrap();
    for cluster in [&first, &second, &agent] {
        assert_eq!(cluster.token.as_ref().unwrap().ca_sha256(), Some(hash));
        assert_eq!(cluster.token.as_ref().unwrap().role(), Some(cluster.role));
    }
    assert_eq!(first.token, second.token);
    assert_eq!(first.agent_token, agent.token);
    assert!(agent.agent_token.is_none());
    let server_secret = first.token.as_ref().unwrap().secret().to_owned();
    assert_eq!(server_secret.len(), 64);
    let agent_text = text(&dir.join("home-agent-1/user-data"));
    assert!(!agent_text.contains(&server_secret));
    let keys = [
        cas.cluster.key.reveal(),
        cas.etcd.key.reveal(),
        cas.front_proxy.key.reveal(),
    ];
    let pem = text(&dir.join("node-api-ca.pem"));
    let node_key = &pem[pem.find("-----BEGIN PRIVATE").unwrap()..];
    for node in [
        "home-server-1",
        "home-server-2",
        "home-agent-1",
        "home-agent-2",
    ] {
        let user_data = text(&dir.join(node).join("user-data"));
        let line = |key: &str| key.lines().nth(1).unwrap().to_owned();
        assert!(
            !user_data.contains(&line(node_key)),
            "{node} has the key of the node API's CA"
        );
        let has = keys.iter().all(|key| user_data.contains(&line(key)));
        assert_eq!(has, node == "home-server-1", "{node}");
    }
}

#[test]
fn credentials_work_before_the_first_boot() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("home");
    new_in(&dir, &CLUSTER);
    let server = read(&dir.join("home-server-1"));
    let now = SystemTime::now();

    let ca = server.cluster.ca.unwrap().cluster;
    let ca = CertificateAuthority::from_pem(&ca.certificate, ca.key.reveal()).unwrap();
    let config = Kubeconfig::read(&dir.join("kubeconfig")).unwrap();
    assert_eq!(config.server, "https://192.0.2.1:6443");
    assert_eq!(config.ca_pem, ca.certificate_pem());
    let who = config.client.check(&ca, now).unwrap();
    assert_eq!(who.organizations, ["system:masters"]);

    // The bundle's parts, in its order: certificate, key, CA.
    let split = |pem: &str| -> Vec<String> {
        pem.split_inclusive("-----\n")
            .collect::<Vec<_>>()
            .chunks(2)
            .map(|two| two.concat())
            .collect()
    };
    let node_ca = split(&text(&dir.join("node-api-ca.pem")));
    let node_ca = CertificateAuthority::from_pem(&node_ca[0], &node_ca[1]).unwrap();
    let operator = Credential::read(&dir.join("operator.pem")).unwrap();
    assert_eq!(operator.ca_pem.trim(), node_ca.certificate_pem().trim());
    let who = operator.client.check(&node_ca, now).unwrap();
    assert_eq!(ApiRole::of(&who.organizations), Some(ApiRole::Operator));
    for node in ["home-server-1", "home-agent-2"] {
        let seed = read(&dir.join(node));
        assert_eq!(seed.hostname.as_deref(), Some(node));
        assert!(seed.instance_id.unwrap().starts_with(node));
        let api = seed.node_api.unwrap();
        assert_eq!(api.ca.trim(), node_ca.certificate_pem().trim());
        let serving = KeyCertificate {
            certificate_pem: api.certificate,
            key_pem: api.key.reveal().to_owned(),
        };
        let info = serving.check(&node_ca, now).unwrap();
        assert!(
            info.dns_names.contains(&node.to_owned())
                && info.dns_names.contains(&ANY_NODE.to_owned())
        );
        assert!(!info.is_ca);
    }
}

#[test]
fn a_single_server_and_what_was_given_for_all() {
    let tmp = tempfile::tempdir().unwrap();
    let keys = tmp.path().join("id.pub");
    fs::write(&keys, "# mine\nssh-ed25519 AAAA me@here\n\n").unwrap();
    let network = tmp.path().join("net");
    fs::write(&network, "version: 2\nethernets: {eth0: {dhcp4: true}}\n").unwrap();
    let dir = tmp.path().join("one");
    // An empty directory is taken.
    fs::create_dir(&dir).unwrap();
    new_in(
        &dir,
        &[
            "--endpoint",
            "::1",
            "--ssh-key",
            keys.to_str().unwrap(),
            "--network-config",
            network.to_str().unwrap(),
        ],
    );
    let node = dir.join("home-server-1");
    assert_eq!(text(&node.join("network-config")), text(&network));
    let seed = read(&node);
    assert_eq!(seed.ssh_authorized_keys, ["ssh-ed25519 AAAA me@here"]);
    assert_eq!(seed.cluster.datastore, Datastore::Sqlite);
    assert_eq!(
        Kubeconfig::read(&dir.join("kubeconfig")).unwrap().server,
        "https://[::1]:6443"
    );
}

#[test]
fn nothing_is_written_over_or_left_half_written() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("home");
    new_in(&dir, &["--endpoint", "a.lan"]);
    let before = text(&dir.join("kubeconfig"));
    let path = dir.to_str().unwrap();
    let again = seed(&["new", path, "--cluster", "home", "--endpoint", "a.lan"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("not empty"), "{}", stderr(&again));
    assert_eq!(text(&dir.join("kubeconfig")), before);

    let other = tmp.path().join("other");
    let path = other.to_str().unwrap();
    for (args, word) in [
        (
            &["--cluster", "a b", "--endpoint", "x"][..],
            "hostname: \"a b-server-1\"",
        ),
        (&["--cluster", "../evil", "--endpoint", "x"], "hostname"),
        (
            &["--cluster", "x", "--endpoint", "a b"],
            "slipway.cluster.endpoint",
        ),
        (
            &["--cluster", "x", "--endpoint", "x", "--servers", "0"],
            "--servers",
        ),
    ] {
        let out = seed(&[&["new", path], args].concat());
        assert_eq!(out.status.code(), Some(2), "{args:?}");
        assert!(stderr(&out).contains(word), "{}", stderr(&out));
    }
    // A disk that fills: files can't grow beyond 1 KiB here.
    let line = format!(
        "trap '' XFSZ; ulimit -f 1; exec {} seed new {path} --cluster x --endpoint x",
        env!("CARGO_BIN_EXE_slipway")
    );
    let out = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert_eq!(out.status.code(), Some(7), "{}", stderr(&out));
    let left: Vec<_> = fs::read_dir(tmp.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["home"]);
}

#[test]
fn an_even_number_of_servers_is_warned_of() {
    let tmp = tempfile::tempdir().unwrap();
    let out = new_in(
        &tmp.path().join("x"),
        &["--endpoint", "a.lan", "--servers", "2"],
    );
    assert!(stderr(&out).contains("even number"));
    let json = command(&[
        "new",
        tmp.path().join("y").to_str().unwrap(),
        "--cluster",
        "c",
        "--endpoint",
        "a.lan",
        "--json",
    ])
    .output()
    .unwrap();
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["nodes"], serde_json::json!(["c-server-1"]));
}
