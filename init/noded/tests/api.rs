//! What the API does, on a root that looks like a node's.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};

use common::{Node, Owner, Reply, Tls, prepared, send, until, upgraded};
use serde_json::{Value, json};
use slipway_images::node::shell::Frame;

/// A process that writes down which signals it gets, in the place of PID 1.
fn listener(root: &tempfile::TempDir) -> Child {
    let script =
        "trap 'echo TERM' TERM; trap 'echo USR2' USR2; echo here; while :; do sleep 0.05; done";
    let said = fs::File::create(root.path().join("signals")).unwrap();
    let child = Command::new("sh")
        .args(["-c", script])
        .stdout(said)
        .spawn()
        .unwrap();
    until("the listener is there", || {
        fs::read_to_string(root.path().join("signals")).unwrap() == "here\n"
    });
    child
}

fn events(node: &Node, owner: &Owner) -> Vec<Value> {
    let reply = node.get(&owner.reader, "/v1/events");
    let lines = reply.text();
    lines
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

fn audited(node: &Node, owner: &Owner, what: &str) -> bool {
    events(node, owner).iter().any(|event| {
        event["kind"] == "audit"
            && event["subject"] == "ann"
            && event["message"].as_str().unwrap().contains(what)
    })
}

#[test]
fn status_says_what_is_known() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    let bare = node.get(&owner.reader, "/v1/status").json();
    assert!(bare["boot"].is_null() && bare["cluster"].is_null() && bare["image"].is_null());
    assert!(bare["memory"]["total"].as_u64().unwrap() > 0);
    node.write(
        "usr/lib/slipway/image.json",
        r#"{"board":"x86_64","version":"1.2.3","built":1,"kubernetes":"v1.36.3","arch":"x86_64","root_uuid":"0d3ff44e-23ad-4cd1-8c6a-33f2f3e6d2b4"}"#,
    );
    node.write(
        "run/slipway/status.json",
        r#"{"booted":true,"degraded":["seed"],"services":[{"name":"containerd","description":"d","state":"ready","pid":7,"since":5,"restarts":2,"status":""}],"later":1}"#,
    );
    node.write(
        "run/clusterd/status.json",
        r#"{"phase":"ready","message":"ready: node node1","node":"node1","api_ready":true,"node_ready":true,"addons_applied":true,"components":{}}"#,
    );
    let status = node.get(&owner.reader, "/v1/status").json();
    assert_eq!(status["image"]["version"], "1.2.3");
    assert_eq!(status["boot"]["services"][0]["restarts"], 2);
    assert_eq!(status["boot"]["degraded"][0], "seed");
    assert_eq!(status["cluster"]["message"], "ready: node node1");
    // Half a file is as none.
    node.write("run/slipway/status.json", "{\"booted\":");
    assert!(node.get(&owner.reader, "/v1/status").json()["boot"].is_null());
}

fn read_until(tls: &mut Tls, seen: &mut String, what: &str) {
    until(what, || {
        let mut part = [0; 4096];
        let n = tls.read(&mut part).unwrap();
        seen.push_str(&String::from_utf8_lossy(&part[..n]));
        seen.contains(what)
    });
}

#[test]
fn logs_are_listed_read_and_followed() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    node.write("var/log/slipway/containerd.log.1", "one\n");
    node.write("var/log/slipway/containerd.log", "two\nthree\n");
    node.write(
        "var/log/clusterd/kubelet.log",
        "I0101 00:00:00.000000 old\n",
    );
    let names = node.get(&owner.reader, "/v1/logs").json();
    assert_eq!(
        names["names"],
        json!(["containerd", "init", "kernel", "kubelet"])
    );
    let get = |path: &str| node.get(&owner.reader, path);
    assert_eq!(get("/v1/logs/containerd").text(), "one\ntwo\nthree\n");
    assert_eq!(get("/v1/logs/containerd?lines=1").text(), "three\n");
    assert_eq!(
        get("/v1/logs/kubelet?lines=5").text(),
        "I0101 00:00:00.000000 old\n"
    );
    assert_eq!(get("/v1/logs/kubelet?lines=x").status, 400);
    let none = get("/v1/logs/nothing");
    assert_eq!(none.status, 404);
    assert!(none.text().contains("containerd"), "{}", none.text());
    for path in [
        "/v1/logs/..%2fx",
        "/v1/logs/..",
        "/v1/logs/a/b",
        "/v1/logs/%00",
    ] {
        assert_eq!(get(path).status, 404, "{path}");
    }

    let mut tls = node.connect(&owner.reader).unwrap();
    send(
        &mut tls,
        "GET",
        "/v1/logs/containerd?follow=true&lines=1",
        "",
        "",
    )
    .unwrap();
    let mut seen = String::new();
    read_until(&mut tls, &mut seen, "three\n");
    assert!(!seen.contains("two"));
    node.write("var/log/slipway/containerd.log", "two\nthree\nfour\n");
    read_until(&mut tls, &mut seen, "four\n");
    fs::rename(
        node.at("var/log/slipway/containerd.log"),
        node.at("var/log/slipway/containerd.log.1"),
    )
    .unwrap();
    node.write("var/log/slipway/containerd.log", "five\n");
    read_until(&mut tls, &mut seen, "five\n");
    assert_eq!(seen.matches("four").count(), 1, "{seen}");
}

#[test]
fn reboot_and_poweroff_ask_init_and_are_audited() {
    let owner = Owner::new();
    let root = prepared(Some(&owner.checked_seed()));
    let mut init = listener(&root);
    let pid = init.id().to_string();
    let node = Node::start_in(root, &["--init", &pid]);
    let said = || fs::read_to_string(node.at("signals")).unwrap();
    let post = |path: &str| node.ask(&owner.operator, "POST", path, None).status;
    assert_eq!(post("/v1/reboot"), 200);
    until("reboot", || said().contains("TERM"));
    assert_eq!(post("/v1/poweroff"), 200);
    until("power-off", || said().contains("USR2"));
    assert!(audited(&node, &owner, "reboots the node"));
    assert!(audited(&node, &owner, "powers the node off"));

    // A reset wants the node's name, and a data partition of ours: this machine's disk is none.
    let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let reset = |node_name: &str| {
        let body = json!({ "node": node_name });
        node.ask(&owner.operator, "POST", "/v1/reset", Some(&body))
    };
    let other = reset("some-other-node");
    assert_eq!(other.status, 409);
    assert!(
        other.text().contains("nothing was erased"),
        "{}",
        other.text()
    );
    let here = reset(&name);
    assert_eq!(here.status, 409);
    assert!(here.text().contains("can't be reset"), "{}", here.text());
    assert!(!audited(&node, &owner, "resets"));
    assert_eq!(
        said().matches("TERM").count(),
        1,
        "and nobody reboots for it"
    );
    init.kill().unwrap();
    init.wait().unwrap();
}

#[test]
fn an_order_to_reboot_is_answered_though_the_machine_ends() {
    let owner = Owner::new();
    let mut node = Node::start_as_init(prepared(Some(&owner.checked_seed())));
    // Idle, and flowing without an end: neither keeps the process.
    let _idle = node.connect(&owner.operator).unwrap();
    node.write("var/log/slipway/containerd.log", "one\n");
    let mut following = node.connect(&owner.operator).unwrap();
    let path = "/v1/logs/containerd?follow=true";
    send(&mut following, "GET", path, "", "").unwrap();
    read_until(&mut following, &mut String::new(), "one\n");
    let reply = node.ask(&owner.operator, "POST", "/v1/reboot", None);
    assert_eq!(reply.status, 200);
    assert!(node.ended().success());
}

#[test]
fn the_kubeconfig_is_the_operators() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    let none = node.get(&owner.operator, "/v1/kubeconfig");
    assert_eq!(none.status, 404);
    assert!(none.text().contains("has not started"), "{}", none.text());
    node.write("var/lib/clusterd/admin.kubeconfig", "apiVersion: v1\n");
    assert_eq!(
        node.get(&owner.operator, "/v1/kubeconfig").text(),
        "apiVersion: v1\n"
    );
    assert!(audited(&node, &owner, "kubeconfig"));
}

fn user_data(owner: &Owner, hostname: &str) -> Value {
    let seed = json!({
        "hostname": hostname,
        "slipway": {
            "node-api": owner.node_api(),
            "cluster": { "token": "hunter22secret" },
        },
    });
    json!({ "user-data": format!("#cloud-config\n{seed:#}\n") })
}

#[test]
fn a_seed_is_shown_compared_applied_and_forgotten() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    node.write("run/slipway/seed-outside", "some digest");
    let shown = node.get(&owner.reader, "/v1/seed");
    assert_eq!(shown.json()["seed"]["hostname"], "node1");
    assert!(!shown.text().contains("hunter22secret") && !shown.text().contains("PRIVATE"));

    let files = user_data(&owner, "node2");
    let diff = node
        .ask(&owner.reader, "POST", "/v1/seed/diff", Some(&files))
        .json();
    let keys: Vec<&str> = diff["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["key"].as_str().unwrap())
        .collect();
    assert!(
        keys.contains(&"hostname") && keys.contains(&"node-api.certificate"),
        "{diff}"
    );
    assert_eq!(diff["effect"], "reset");
    assert!(!diff.to_string().contains("PRIVATE"));
    let stored = node.at("var/lib/slipway/seed/applied.json");
    assert!(!stored.exists(), "comparing changes nothing");

    let broken = json!({"user-data": "#cloud-config\nhostname: [x]\n"});
    let reply = node.ask(&owner.operator, "PUT", "/v1/seed", Some(&broken));
    assert_eq!(reply.status, 422);
    assert!(reply.text().contains("user-data:2:11"), "{}", reply.text());
    let not_files = node.ask(
        &owner.operator,
        "PUT",
        "/v1/seed",
        Some(&json!({"userdata": "x"})),
    );
    assert_eq!(not_files.status, 400);
    // What would lock everybody out isn't taken.
    let mut useless = user_data(&owner, "node2");
    let text = useless["user-data"].as_str().unwrap();
    let other = Owner::new().node_api();
    let seed: Value = serde_json::from_str(text.trim_start_matches("#cloud-config")).unwrap();
    let key = seed["slipway"]["node-api"]["key"].to_string();
    useless["user-data"] = text.replace(&key, &other["key"].to_string()).into();
    let reply = node.ask(&owner.operator, "PUT", "/v1/seed", Some(&useless));
    assert_eq!(reply.status, 422);
    assert!(
        reply.text().contains("another certificate"),
        "{}",
        reply.text()
    );
    assert!(!stored.exists());

    let reply = node.ask(&owner.operator, "PUT", "/v1/seed", Some(&files));
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(
        fs::metadata(&stored).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let kept: Value = serde_json::from_slice(&fs::read(&stored).unwrap()).unwrap();
    assert_eq!(kept["over"], "some digest");
    assert_eq!(kept["files"]["user-data"], files["user-data"]);
    assert!(audited(&node, &owner, "applied a seed"));
    assert_eq!(node.get(&owner.reader, "/v1/seed").json()["applied"], true);
    assert_eq!(
        node.ask(&owner.operator, "DELETE", "/v1/seed", None).status,
        200
    );
    assert!(!stored.exists());
    assert_eq!(
        node.ask(&owner.operator, "DELETE", "/v1/seed", None).status,
        200
    );
}

/// Keys and registries of a seed that was applied hold at once; what needs a reboot doesn't.
#[test]
fn what_is_live_in_an_applied_seed_is_followed() {
    let owner = Owner::new();
    let mut node = Node::start(Some(&owner.checked_seed()));
    let seed = |more: Value| {
        let mut seed = json!({
            "hostname": "node1",
            "slipway": { "node-api": owner.node_api(), "cluster": { "token": "hunter22secret" } },
        });
        for (key, value) in more.as_object().unwrap() {
            match key.as_str() {
                "registries" => seed["slipway"][key] = value.clone(),
                _ => seed[key] = value.clone(),
            }
        }
        json!({ "user-data": format!("#cloud-config\n{seed:#}\n") })
    };
    let apply = |node: &Node, more: Value| {
        let reply = node.ask(&owner.operator, "PUT", "/v1/seed", Some(&seed(more)));
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    };
    let keys = node.at("root/.ssh/authorized_keys");
    for (table, line) in [
        ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
        ("etc/shadow", "root:*:::::::\n"),
        ("etc/group", "root:x:0:\n"),
    ] {
        node.write(table, line);
    }
    // Only root may give a home away.
    let uid = match fs::metadata(node.at("run")).unwrap().uid() {
        0 => 4000,
        own => own,
    };
    let hosts = node.at("etc/containerd/certs.d/r.example/hosts.toml");
    let effect = apply(
        &node,
        json!({
            "fqdn": "node1.example",
            "ntp": { "servers": ["time.example"] },
            "users": [{ "name": "ann", "uid": uid, "ssh_authorized_keys": ["ssh-ed25519 BBBB"] }],
            "ssh_authorized_keys": ["ssh-ed25519 AAAA me"],
            "registries": { "r.example": { "username": "u", "password": "hunter33secret" } },
        }),
    );
    assert_eq!(effect["effect"], "reboot", "{effect}");
    assert!(
        fs::read_to_string(&keys)
            .unwrap()
            .contains("ssh-ed25519 AAAA")
    );
    assert!(fs::read_to_string(&hosts).unwrap().contains("Basic "));
    let ended = node.init.as_mut().unwrap().wait().unwrap();
    assert_eq!(ended.signal(), Some(1), "init is told by SIGHUP");
    let in_force = fs::read_to_string(node.at("run/slipway/seed.json")).unwrap();
    let in_force: Value = serde_json::from_str(&in_force).unwrap();
    assert_eq!(in_force["ssh-authorized-keys"][0], "ssh-ed25519 AAAA me");
    assert_eq!(in_force["ntp"]["servers"][0], "time.example");
    assert_eq!(in_force["fqdn"], Value::Null);
    let passwd = || fs::read_to_string(node.at("etc/passwd")).unwrap();
    assert!(passwd().contains(&format!("\nann:x:{uid}:{uid}::/var/home/ann:")));
    let her_keys = fs::read_to_string(node.at("var/home/ann/.ssh/authorized_keys")).unwrap();
    assert!(her_keys.contains("ssh-ed25519 BBBB"));
    // init is gone by now, and the keys are taken back all the same.
    let reply = node.ask(&owner.operator, "PUT", "/v1/seed", Some(&seed(json!({}))));
    assert_eq!(reply.status, 500);
    assert!(reply.text().contains("asking init"), "{}", reply.text());
    assert!(!keys.exists() && !hosts.exists());
    assert!(!passwd().contains("ann"));
    assert!(node.at("var/lib/slipway/seed/applied.json").exists());
}

#[test]
fn an_applied_identity_counts_at_once_and_after_a_restart() {
    let (old, new) = (Owner::new(), Owner::new());
    let node = Node::start(Some(&old.checked_seed()));
    let reply = node.ask(
        &old.operator,
        "PUT",
        "/v1/seed",
        Some(&user_data(&new, "node1")),
    );
    assert_eq!(reply.status, 200, "{}", reply.text());
    node.is_well(&new.operator);
    assert!(
        node.connect(&old.operator).is_err(),
        "the old CA no longer counts"
    );
    // The process is started again before the machine is: the seed in force is still the old.
    let root = node.stop();
    fs::remove_file(root.path().join("run/slipway/seed.json")).unwrap();
    let node = Node::start_in(root, &[]);
    node.is_well(&new.operator);
}

#[test]
fn a_support_bundle_has_everything_but_secrets() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    let key = owner.node_api()["key"].as_str().unwrap().to_owned();
    let key_line = key.lines().nth(1).unwrap();
    node.write(
        "var/log/slipway/clusterd.log",
        &format!(
            "joining with hunter22secret\nleaked: {key}\nAuthorization: Bearer abc.DEF.123\nwell\n"
        ),
    );
    node.write(
        "var/log/clusterd/kubelet.log",
        "token 0a1b2c.0123456789abcdef\n",
    );
    let reply = node.get(&owner.operator, "/v1/support");
    assert_eq!(reply.status, 200);
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(reply.body.as_slice()));
    let mut files = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        files.insert(path.split_once('/').unwrap().1.to_owned(), text);
    }
    for name in [
        "status.json",
        "seed.json",
        "events.jsonl",
        "logs/clusterd.log",
        "logs/kubelet.log",
        "proc/meminfo",
        "missing.txt",
    ] {
        assert!(files.contains_key(name), "{name}: {:?}", files.keys());
    }
    assert!(files["logs/clusterd.log"].ends_with("well\n"));
    assert!(files["missing.txt"].contains("run/clusterd/status.json"));
    assert!(files["proc/meminfo"].contains("MemTotal"));
    let seed: Value =
        serde_json::from_slice(&fs::read(node.at("run/slipway/seed.json")).unwrap()).unwrap();
    let seeds_key = seed["node-api"]["key"]
        .as_str()
        .unwrap()
        .lines()
        .nth(1)
        .unwrap();
    for (name, text) in &files {
        for secret in [
            "hunter22secret",
            key_line,
            seeds_key,
            "abc.DEF.123",
            "0123456789abcdef",
        ] {
            assert!(!text.contains(secret), "{secret} in {name}:\n{text}");
        }
    }
    assert!(audited(&node, &owner, "support bundle"));
}

fn shell(node: &Node, owner: &Owner) -> Tls {
    upgraded(node, owner, "/v1/shell?term=vt100", "slipway-shell")
}

/// Reads frames until the shell ends.
fn to_the_end(tls: &mut Tls) -> (String, i32) {
    let (mut buffer, mut text) = (Vec::new(), Vec::new());
    loop {
        match Frame::take(&mut buffer).unwrap() {
            Some(Frame::Bytes(bytes)) => text.extend(bytes),
            Some(Frame::Exit(status)) => {
                return (String::from_utf8_lossy(&text).into_owned(), status);
            }
            Some(other) => unreachable!("{other:?}"),
            None => {
                let mut part = [0; 4096];
                let n = tls.read(&mut part).unwrap();
                assert!(n > 0, "{}", String::from_utf8_lossy(&text));
                buffer.extend(&part[..n]);
            }
        }
    }
}

#[test]
fn a_shell_has_a_terminal_and_is_audited() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    let plain = node.ask(&owner.operator, "POST", "/v1/shell", None);
    assert_eq!(plain.status, 426);
    let mut tls = shell(&node, &owner);
    let say = |tls: &mut Tls, frame: Frame| {
        tls.write_all(&frame.encode()).unwrap();
        tls.flush().unwrap();
    };
    say(
        &mut tls,
        Frame::Size {
            columns: 91,
            rows: 17,
        },
    );
    let line = "stty size; tty; echo $TERM; echo sum$((40+2)); exit 3\n";
    say(&mut tls, Frame::Bytes(line.into()));
    let (text, status) = to_the_end(&mut tls);
    assert_eq!(status, 3, "{text}");
    for expected in ["17 91", "/dev/pts/", "vt100", "sum42"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    assert!(audited(&node, &owner, "opened a shell"));
    until("its end is audited", || {
        audited(&node, &owner, "ended, status 3")
    });

    // A client that hangs up takes its shell with it.
    let mut tls = shell(&node, &owner);
    say(&mut tls, Frame::Bytes("exec sleep 1000\n".into()));
    drop(tls);
    until("the shell is gone", || {
        audited(&node, &owner, "ended, status 129")
    });

    // An image without a shell says so.
    fs::remove_file(node.at("bin")).unwrap();
    let mut tls = node.connect(&owner.operator).unwrap();
    let upgrade = "connection: upgrade\r\nupgrade: slipway-shell\r\n";
    send(
        &mut tls,
        "POST",
        "/v1/shell",
        "",
        &format!("{upgrade}connection: close\r\n"),
    )
    .unwrap();
    let reply = Reply::read(&mut tls).unwrap();
    assert_eq!(reply.status, 501);
    assert!(reply.text().contains("no shell"), "{}", reply.text());
}

#[test]
fn a_command_line_that_makes_no_sense_is_status_2() {
    let noded = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_noded"))
            .args(arguments)
            .stderr(Stdio::piped())
            .output()
            .unwrap()
    };
    assert_eq!(noded(&["--nonsense"]).status.code(), Some(2));
    assert!(noded(&["--version"]).stdout.starts_with(b"noded "));
    // A port that somebody else has.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let root = prepared(None);
    let out = noded(&[
        "--root",
        root.path().to_str().unwrap(),
        "--listen",
        &address,
    ]);
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains(&address));
}
