//! Pushes that meet another one.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use slipway_images::bundle::{Digest, Source, read_head, wire};
use slipway_images::slot::State;

use super::common::{Node, Owner, Reply, send, until, upgraded};
use super::maker::{self, Version};
use super::{Counted, bundle, has, push, root, slots, update};

/// A client that stops to answer after so many bytes, until it is told to go on.
struct Stalls {
    bundle: Counted,
    after: u64,
    go_on: Receiver<()>,
}

impl Source for Stalls {
    fn size(&mut self) -> std::io::Result<u64> {
        self.bundle.size()
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        if self.bundle.read > self.after {
            // A test that has failed tells nothing.
            self.go_on.recv().unwrap_or_default();
        }
        self.bundle.read_at(offset, buffer)
    }
}

/// Pushes with such a client, up to where it stalls.
fn stalled(
    node: &Node,
    owner: &Owner,
    bytes: &[u8],
    query: &str,
) -> (JoinHandle<Value>, Sender<()>) {
    let (tell, go_on) = channel();
    let tls = upgraded(
        node,
        owner,
        &format!("/v1/update/push?{query}"),
        "slipway-bundle",
    );
    let mut client = Stalls {
        bundle: Counted {
            bytes: bytes.to_vec(),
            read: 0,
        },
        after: 500_000,
        go_on,
    };
    let pushing = std::thread::spawn(move || {
        let last = wire::serve(tls, &mut client, |_| ()).unwrap();
        serde_json::from_str(&last).unwrap()
    });
    until("it stalls", || {
        update(node, owner)["fetched"].as_u64().unwrap() > 400_000
    });
    (pushing, tell)
}

fn head(bytes: &[u8]) -> Digest {
    let mut source = Counted {
        bytes: bytes.to_vec(),
        read: 0,
    };
    Digest::of(&read_head(&mut source).unwrap().0)
}

/// A version of which nothing is there already.
fn foreign() -> Version {
    Version {
        number: 2,
        kernel: maker::noise(300_000, 12),
        root: maker::noise(1 << 20, 11),
    }
}

#[test]
fn a_push_that_hangs_makes_way_for_the_same_one() {
    let owner = Owner::new();
    let old = Version::first();
    let new = foreign();
    let bytes = bundle(&new, &[]);
    let size = bytes.len() as u64;
    let query = format!("reboot=never&bundle={}", head(&bytes));
    let node = Node::start_in(root(&owner, &old, json!({})), &[]);
    let (first, go_on) = stalled(&node, &owner, &bytes, &query);

    // Of another bundle, or of one that isn't said: they wait for each other as before.
    let other = format!("reboot=never&bundle={}", Digest::of(b"other"));
    for query in ["reboot=never", &other] {
        let mut tls = node.connect(&owner.operator).unwrap();
        let headers = "connection: upgrade\r\nupgrade: slipway-bundle\r\n";
        let path = format!("/v1/update/push?{query}");
        send(
            &mut tls,
            "POST",
            &path,
            "",
            &format!("{headers}connection: close\r\n"),
        )
        .unwrap();
        let reply = Reply::read(&mut tls).unwrap();
        assert_eq!(reply.status, 409, "{}", reply.text());
    }

    let (last, read) = push(&node, &owner, bytes, &query);
    assert_eq!(last["state"], "staged", "{last}");
    has(&node, &new);
    assert!(read < size - 300_000, "{read} of {size}");
    // The first still lives, and hears that it isn't to push again.
    drop(go_on);
    let said = first.join().unwrap();
    assert_eq!(said["state"], "stopped", "{said}");
    assert!(
        said["note"].to_string().contains("another connection"),
        "{said}"
    );
}

#[test]
fn a_client_hears_that_its_push_was_stopped() {
    let owner = Owner::new();
    let bytes = bundle(&foreign(), &[]);
    let node = Node::start_in(root(&owner, &Version::first(), json!({})), &[]);
    let (pushing, go_on) = stalled(&node, &owner, &bytes, "reboot=never");
    let stopped = node.ask(&owner.operator, "DELETE", "/v1/update", None);
    assert_eq!(stopped.status, 200);
    drop(go_on);
    let said = pushing.join().unwrap();
    assert_eq!(said["state"], "stopped", "{said}");
    assert_eq!(slots(node.root.path()).status().b.state, State::Empty);
}
