//! When a node reboots into what is staged, and what keeps it from that.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;

use serde_json::{Value, json};
use slipway_images::node::update::{How, UpdateState};
use slipway_noded::update::order::Order;

use super::channels::Within;
use super::common::{Node, Owner, until};
use super::maker::{Draft, Version, key};
use super::ranges::{Mood, Server};
use super::{bundle, ended, has, order, push, root, update};

const STAGED: &str = "var/lib/slipway/update/staged.json";

/// The time of the day, and another one.
fn times() -> (String, &'static str) {
    let time = Command::new("date").arg("+%H:%M").output().unwrap();
    let now = String::from_utf8(time.stdout).unwrap().trim().to_owned();
    let hour: u32 = now[..2].parse().unwrap();
    (now, if hour < 12 { "18:00" } else { "06:00" })
}

/// The node has told init to reboot.
fn reboots(node: &mut Node) {
    until("the signal for init", || {
        node.init.as_mut().unwrap().try_wait().unwrap().is_some()
    });
}

/// As if the time had come.
fn comes(root: &Path, later: &str) {
    let kept = root.join(STAGED);
    let text = fs::read_to_string(&kept).unwrap();
    assert!(text.contains(later), "{text}");
    fs::write(&kept, text.replace(later, &times().0)).unwrap();
}

#[test]
fn what_is_staged_is_rebooted_into_as_asked() {
    let owner = Owner::new();
    let old = Version::first();
    let bytes = bundle(&old.next(), &[]);
    let mut node = Node::start_in(root(&owner, &old, json!({})), &[]);
    push(&node, &owner, bytes.clone(), "reboot=now");
    reboots(&mut node);

    // At the time of day, and after a restart of noded, too.
    let (_, later) = times();
    let node = Node::start_in(root(&owner, &old, json!({})), &[]);
    let (last, _) = push(&node, &owner, bytes, &format!("reboot={later}"));
    assert_eq!(last["reboot"], later);
    let kept = fs::metadata(node.at(STAGED)).unwrap();
    assert_eq!(kept.permissions().mode() & 0o777, 0o600);
    let node = Node::start_in(node.stop(), &[]);
    until("the update is known again", || {
        update(&node, &owner)["state"] == "staged"
    });
    assert_eq!(update(&node, &owner)["reboot"], later);
    let root = node.stop();
    comes(root.path(), later);
    reboots(&mut Node::start_in(root, &[]));
}

#[test]
fn a_refused_update_leaves_alone_what_waits() {
    let owner = Owner::new();
    let old = Version::first();
    let new = old.next();
    let (_, later) = times();
    let node = Node::start_in(root(&owner, &old, json!({})), &[]);
    push(&node, &owner, bundle(&new, &[]), &format!("reboot={later}"));
    let waiting = json!({"version": new.name(), "reboot": later});

    let refused = Draft::new(&new.next(), &[]).bundle(&key(2));
    let (last, _) = push(&node, &owner, refused, "reboot=now");
    assert_eq!(last["state"], "failed", "{last}");
    assert_eq!(last["waiting"], waiting, "{last}");
    let server = Server::new(|_| None, |_| Mood::Fine);
    order(&node, &owner, &server.url("/none"), json!({}));
    let last = ended(&node, &owner);
    assert_eq!(last["state"], "failed", "{last}");
    assert_eq!(last["waiting"], waiting, "{last}");
    has(&node, &new);
    let root = node.stop();
    comes(root.path(), later);
    reboots(&mut Node::start_in(root, &[]));
}

#[test]
fn what_is_written_over_or_cancelled_is_not_rebooted_into() {
    let owner = Owner::new();
    let old = Version::first();
    let new = old.next();
    let (_, later) = times();
    let node = Node::start_in(root(&owner, &old, json!({})), &["--patience", "1000"]);
    let stage = || push(&node, &owner, bundle(&new, &[]), &format!("reboot={later}"));
    let forgotten = || {
        assert!(!node.at(STAGED).exists());
        let last = update(&node, &owner);
        assert_eq!(last["waiting"], Value::Null, "{last}");
        last
    };
    // By one that doesn't get to its end.
    stage();
    let over = bundle(&new.next(), &[]);
    let server = Server::new(move |_| Some(over.clone()), |_| Mood::Falters(20_000));
    order(&node, &owner, &server.url("/x.slip"), json!({}));
    until("it writes", || update(&node, &owner)["step"] == "write");
    forgotten();
    node.ask(&owner.operator, "DELETE", "/v1/update", None);
    assert_eq!(ended(&node, &owner)["state"], "stopped");
    // By one that nobody wants to be rebooted into.
    stage();
    push(&node, &owner, bundle(&new.next(), &[]), "reboot=never");
    assert_eq!(forgotten()["state"], "staged");
    // By word.
    stage();
    node.ask(&owner.operator, "DELETE", "/v1/update", None);
    assert_eq!(forgotten()["reboot"], "never");
    has(&node, &new);
}

#[test]
fn the_time_to_reboot_waits_for_an_update_that_is_refused() {
    let owner = Owner::new();
    let old = Version::first();
    let bytes = bundle(&old.next(), &[]);
    let (tell, go_on) = channel::<()>();
    let server = Server::new(
        move |path| match path {
            "/x.slip" => Some(bytes.clone()),
            // Until the test has looked.
            _ => go_on.recv().map_or(None, |()| None),
        },
        |_| Mood::Fine,
    );
    let mut node = Within::new(root(&owner, &old, json!({})));
    let order = |path: &str, reboot: &str| {
        let how = How {
            reboot: reboot.parse().unwrap(),
            ..How::default()
        };
        Order {
            url: server.url(path),
            ..Order::pushed(how)
        }
    };
    node.updates.fetch(order("/x.slip", "03:30")).unwrap();
    node.is_staged();
    assert!(!node.reboots_at("03:29"));
    node.updates.fetch(order("/none", "now")).unwrap();
    assert!(!node.reboots_at("03:30"));
    tell.send(()).unwrap();
    until("it is refused", || !node.updates.under_way());
    assert_eq!(node.updates.status().state, UpdateState::Failed);
    assert!(node.reboots_at("03:31"));
}
