//! An agent joins a real API server: what it gets, who is kept out, and that it starts again
//! without any server.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

mod common;

use std::time::Duration;

use common::{PATIENCE, Place, Server};
use serde_json::{Value, json};
use slipway_access::api::Client;
use slipway_access::kubeconfig::Kubeconfig;
use slipway_access::pki;

/// The seed of an agent of the server at this place, with the token that it gives out.
fn write_seed(agent: &Place, server: &Place, change: impl Fn(&str) -> String) {
    let token = std::fs::read_to_string(server.state("agent-token")).unwrap();
    let seed = json!({"cluster": {
        "role": "agent",
        "token": change(token.trim()),
        "servers": [format!("127.0.0.1:{}", server.ports()[0])],
    }});
    std::fs::create_dir_all(agent.root().join("run/slipway")).unwrap();
    std::fs::write(agent.root().join("run/slipway/seed.json"), seed.to_string()).unwrap();
}

fn start<'a>(agent: &'a Place, name: &str, address: &str) -> Server<'a> {
    agent.start(&["--node-name", name, "--node-address", address])
}

fn wait_joined(agent: &mut Server<'_>) {
    agent.wait("joining", |status| status["api_ready"] == true);
}

/// A certificate of the agent at this place, as a client through its load balancer.
fn client(agent: &Place, kubeconfig: &str) -> Client {
    let path = agent.state(&format!("kubeconfig/{kubeconfig}.kubeconfig"));
    let config = Kubeconfig::read(&path).unwrap();
    assert_eq!(
        config.server,
        format!("https://127.0.0.1:{}", agent.ports()[0])
    );
    Client::from_kubeconfig(&config).unwrap()
}

/// Registers the node as a kubelet does.
fn register(agent: &Place, name: &str, address: &str) -> Value {
    let kubelet = client(agent, "kubelet");
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    let node = kubelet.create("/api/v1/nodes", &node).unwrap();
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
    kubelet
        .merge_patch(&format!("/api/v1/nodes/{name}/status"), &status)
        .unwrap();
    node
}

/// The last thing said of joining. A machine that is refused goes on trying.
fn wait_refused(place: &Place, name: &str, word: &str) {
    let mut child = place
        .command()
        .args(["--node-name", name, "--node-address", "198.51.100.9"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = child.stderr.take().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        use std::io::BufRead as _;
        for line in std::io::BufReader::new(stderr)
            .lines()
            .map_while(Result::ok)
        {
            drop(sender.send(line));
        }
    });
    let mut seen = Vec::new();
    while !seen.last().is_some_and(|line: &String| line.contains(word)) {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => seen.push(line),
            Err(_) => panic!("{word:?} isn't said: {seen:#?}"),
        }
    }
    assert!(common::signal(child.id(), "TERM"));
    assert!(child.wait().unwrap().success());
}

#[test]
#[ignore = "needs SLIPWAY_COMPONENTS"]
fn an_agent_joins_and_others_are_kept_out() {
    let place = Place::new();
    let mut server = place.start(&[]);
    server.wait_ready();
    let admin = place.admin();

    let two = Place::empty();
    write_seed(&two, &place, str::to_owned);
    let mut agent = start(&two, "two", "198.51.100.2");
    wait_joined(&mut agent);
    register(&two, "two", "198.51.100.2");

    // Its programs are who they should be, and no more than that.
    let kubelet = client(&two, "kubelet");
    assert!(kubelet.get("/api/v1/nodes/two").is_ok());
    assert_eq!(
        kubelet.get("/api/v1/secrets").unwrap_err().code(),
        Some(403)
    );
    let proxy = client(&two, "kube-proxy");
    assert!(proxy.list("/api/v1/services").is_ok());
    let serving = std::fs::read_to_string(two.state("pki/kubelet-server.crt")).unwrap();
    let serving = pki::inspect(&serving).unwrap();
    assert_eq!(serving.dns_names, ["two"]);
    assert_eq!(
        serving.addresses,
        ["198.51.100.2".parse::<std::net::IpAddr>().unwrap()]
    );
    assert!(!two.state("pki/cluster-ca.key").exists());
    assert!(!two.state("admin.kubeconfig").exists());

    others_are_kept_out(&place, &admin);

    // It starts again while no server is there.
    agent.stop();
    server.stop();
    let mut agent = start(&two, "two", "198.51.100.2");
    agent.wait("a start alone", |status| {
        status["message"]
            .as_str()
            .is_some_and(|text| text.contains("servers: "))
    });
    let mut server = place.start(&[]);
    server.wait_ready();
    wait_joined(&mut agent);
    agent.stop();

    // Reset, the same machine is another: until its node is deleted.
    let new = Place::empty();
    write_seed(&new, &place, str::to_owned);
    wait_refused(&new, "two", "kubectl delete node two");
    admin.delete("/api/v1/nodes/two").unwrap();
    // As if it had joined long ago.
    let records = "/api/v1/namespaces/kube-system/configmaps/slipway-agents";
    let record = admin.get(records).unwrap()["data"]["two"]
        .as_str()
        .unwrap()
        .to_owned();
    let key = record.split(' ').next().unwrap();
    admin
        .merge_patch(records, &json!({"data": {"two": format!("{key} 1000")}}))
        .unwrap();
    let mut agent = start(&new, "two", "198.51.100.2");
    wait_joined(&mut agent);
    agent.stop();
    server.stop();
}

fn others_are_kept_out(place: &Place, admin: &Client) {
    // A wrong secret, of the right CA.
    let wrong = Place::empty();
    write_seed(&wrong, place, |token| {
        let mut token = token.to_owned();
        let last = if token.pop() == Some('0') { '1' } else { '0' };
        token.push(last);
        token
    });
    wait_refused(&wrong, "three", "401");
    // Another cluster's token: the secret isn't even sent.
    let other = Place::empty();
    write_seed(&other, place, |token| {
        let (head, rest) = token.split_at(2);
        let digit = if rest.starts_with('0') { "1" } else { "0" };
        format!("{head}{digit}{}", &rest[1..])
    });
    wait_refused(&other, "three", "its CA is another");
    // A name that another agent has, and one that nobody may have again.
    let duplicate = Place::empty();
    write_seed(&duplicate, place, str::to_owned);
    wait_refused(&duplicate, "two", "another machine is node two");
    // Whoever has the token gets nothing else with it.
    let token = std::fs::read_to_string(place.state("agent-token")).unwrap();
    let token = slipway_images::seed::Token::parse(&token).unwrap();
    let digest = <sha2::Sha256 as sha2::Digest>::digest(
        [b"slipway agent token\0", token.secret().as_bytes()].concat(),
    );
    let bearer: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let ca = place.kubeconfig().ca_pem;
    let joining = Client::with_token(admin.server(), &ca, &bearer).unwrap();
    for path in ["/api/v1/nodes", "/api/v1/secrets", "/api/v1/namespaces"] {
        assert_eq!(joining.get(path).unwrap_err().code(), Some(403), "{path}");
    }
    let approve = json!({"status": {"conditions": []}});
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let name = admin.list(requests).unwrap()[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let approval = format!("{requests}/{name}/approval");
    assert_eq!(
        joining.replace(&approval, &approve).unwrap_err().code(),
        Some(403)
    );
    for plain in [token.secret(), ""] {
        let wrong = Client::with_token(admin.server(), &ca, plain).unwrap();
        assert_eq!(wrong.get("/readyz").unwrap_err().code(), Some(401));
    }
}

#[test]
#[ignore = "needs SLIPWAY_COMPONENTS"]
fn an_agents_certificates_are_renewed_by_the_server() {
    let place = Place::new();
    let mut server = place.start(&["--certificate-lifetime", "3600"]);
    server.wait_ready();
    let agent = Place::empty();
    write_seed(&agent, &place, str::to_owned);
    let mut running = agent.start(&[
        "--node-name",
        "two",
        "--node-address",
        "198.51.100.2",
        "--certificate-lifetime",
        "3600",
    ]);
    wait_joined(&mut running);
    let read = || std::fs::read_to_string(agent.state("pki/kubelet.crt")).unwrap();
    let key = || std::fs::read_to_string(agent.state("pki/clusterd.key")).unwrap();
    let own = || std::fs::read_to_string(agent.state("pki/clusterd.crt")).unwrap();
    let (first, first_key, first_own) = (read(), key(), own());
    running.stop();
    // A life that is mostly over: by a clock that asks for a longer one.
    let mut running = agent.start(&[
        "--node-name",
        "two",
        "--node-address",
        "198.51.100.2",
        "--certificate-lifetime",
        "36000",
    ]);
    wait_joined(&mut running);
    let end = std::time::Instant::now() + PATIENCE;
    while read() == first || own() == first_own {
        assert!(std::time::Instant::now() < end, "not renewed");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        key(),
        first_key,
        "the key that the cluster knows it by stays"
    );
    running.stop();
    server.stop();
}
