//! What the outside world does to a port: garbage, slowness, floods. Whatever it is, the owner
//! gets through and memory stays bounded.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use common::{Node, Owner, Reply, connect, prepared, send, until};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

/// Resident memory that noded may come to, in KiB, whatever is done to it. A debug build's code
/// and 256 connections of some 40 KiB are in it.
const MEMORY: u64 = 96 << 10;

fn closed_by_the_node(stream: &mut TcpStream) {
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let mut rest = Vec::new();
    // An alert or nothing, then the end or a reset; a time-out would be a failure.
    if let Err(error) = stream.read_to_end(&mut rest) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    }
}

#[test]
fn garbage_is_hung_up_on() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    let http = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
    let mut pseudo = 12_345_u32;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        pseudo = pseudo.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (pseudo >> 24) as u8
    })
    .take(100_000)
    .collect();
    let hello = [&[0x16, 3, 1, 0xff, 0xff][..], &noise[..20_000]].concat();
    for bytes in [http, noise, hello] {
        let mut stream = TcpStream::connect(node.address).unwrap();
        // It may hang up before it has everything.
        drop(stream.write_all(&bytes));
        closed_by_the_node(&mut stream);
    }
    // Garbage within TLS, from a friend.
    let mut tls = node.connect(&owner.operator).unwrap();
    tls.write_all(&[0xff; 5000]).unwrap();
    let reply = Reply::read(&mut tls).unwrap();
    assert_eq!(reply.status, 400);
    let mut tls = node.connect(&owner.operator).unwrap();
    let long = format!("x-long: {}\r\n", "y".repeat(64 << 10));
    drop(send(&mut tls, "GET", "/v1/status", "", &long));
    assert!(matches!(
        Reply::read(&mut tls),
        Ok(Reply {
            status: 400..=431,
            ..
        }) | Err(_)
    ));
    node.is_well(&owner.operator);
}

#[test]
fn the_slow_are_not_waited_for() {
    let owner = Owner::new();
    let root = prepared(Some(&owner.checked_seed()));
    let node = Node::start_in(root, &["--patience", "300"]);
    // No byte of a handshake; a part of one; a part of a head; a part of a body.
    let mut silent = TcpStream::connect(node.address).unwrap();
    closed_by_the_node(&mut silent);
    let mut slow = TcpStream::connect(node.address).unwrap();
    slow.write_all(&[0x16, 3, 1]).unwrap();
    closed_by_the_node(&mut slow);
    let mut tls = connect(node.address, owner.ca.certificate_pem(), None).unwrap();
    tls.write_all(b"GET /healthz HT").unwrap();
    // Answered with 408 or just ended.
    drop(Reply::read(&mut tls));
    let mut tls = node.connect(&owner.operator).unwrap();
    tls.write_all(b"PUT /v1/seed HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        .unwrap();
    tls.flush().unwrap();
    assert_eq!(Reply::read(&mut tls).unwrap().status, 408);
    // A byte every now and then: a stranger's whole connection has an end.
    let mut tls = connect(node.address, owner.ca.certificate_pem(), None).unwrap();
    until("a dripping connection is ended", || {
        std::thread::sleep(Duration::from_millis(50));
        tls.write_all(b"G").and_then(|()| tls.flush()).is_err()
    });
    node.is_well(&owner.operator);
}

#[test]
fn half_closed_and_broken_off() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    // A follower that closes its sending side, and one that vanishes: their places come free.
    for n in 0..40 {
        let mut tls = node.connect(&owner.reader).unwrap();
        send(&mut tls, "GET", "/v1/events?follow=true", "", "").unwrap();
        let mut first = [0; 12];
        tls.read_exact(&mut first).unwrap();
        assert!(matches!(&first, b"HTTP/1.1 200" | b"HTTP/1.1 503"));
        if n % 2 == 0 {
            tls.sock.shutdown(Shutdown::Write).unwrap();
            closed_by_the_node(&mut tls.sock);
        }
        drop(tls);
    }
    until("followers are let go", || {
        let mut tls = node.connect(&owner.reader).unwrap();
        send(&mut tls, "GET", "/v1/events?follow=true", "", "").unwrap();
        let mut first = [0; 12];
        tls.read_exact(&mut first).unwrap();
        first == *b"HTTP/1.1 200"
    });
}

#[test]
fn followers_are_bounded_and_the_rest_goes_on() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..40 {
        let mut tls = node.connect(&owner.reader).unwrap();
        send(&mut tls, "GET", "/v1/events?follow=true", "", "").unwrap();
        let mut first = [0; 12];
        tls.read_exact(&mut first).unwrap();
        refused += usize::from(first == *b"HTTP/1.1 503");
        open.push(tls);
    }
    assert_eq!(refused, 8);
    node.is_well(&owner.operator);
}

#[test]
fn a_body_that_is_too_large_is_not_taken() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    let before = node.kib("VmHWM");
    let mut tls = node.connect(&owner.operator).unwrap();
    let length = 1_u64 << 40;
    let head = format!("PUT /v1/seed HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    tls.write_all(head.as_bytes()).unwrap();
    let part = vec![b' '; 64 << 10];
    // Until it hangs up, at most a hundred times what it takes.
    for _ in 0..6400 {
        if tls.write_all(&part).is_err() {
            break;
        }
    }
    // The answer may be lost in the reset.
    if let Ok(reply) = Reply::read(&mut tls) {
        assert_eq!(reply.status, 413);
    }
    assert!(
        node.kib("VmHWM") < before + (16 << 10),
        "{}",
        node.kib("VmHWM")
    );
    let files = json!({"user-data": "#".repeat(5 << 20)});
    let mut tls = node.connect(&owner.operator).unwrap();
    drop(send(
        &mut tls,
        "PUT",
        "/v1/seed",
        &files.to_string(),
        "connection: close\r\n",
    ));
    if let Ok(reply) = Reply::read(&mut tls) {
        assert_eq!(reply.status, 413);
    }
    node.is_well(&owner.operator);
}

#[test]
fn ten_thousand_connections() {
    let owner = Owner::new();
    let node = Node::start(Some(&owner.checked_seed()));
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    // Somebody who was let in before the flood stays.
    let mut follower = node.connect(&owner.reader).unwrap();
    send(&mut follower, "GET", "/v1/events?follow=true", "", "").unwrap();
    let mut first = [0; 12];
    follower.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");

    let many = usize::try_from(hard.saturating_sub(200).min(10_000)).unwrap();
    let mut held = Vec::new();
    for n in 0..many {
        let mut stream = TcpStream::connect(node.address).unwrap();
        if n % 2 == 0 {
            // The beginning of a handshake costs more memory than silence.
            drop(stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]));
        }
        held.push(stream);
    }
    node.is_well(&owner.operator);
    let open = std::fs::read_dir(format!("/proc/{}/fd", node.child.id()))
        .unwrap()
        .count();
    println!(
        "{many} connections: {open} descriptors, {} KiB at most",
        node.kib("VmHWM")
    );
    assert!(open < 300, "{open}");
    assert!(node.kib("VmHWM") < MEMORY, "{} KiB", node.kib("VmHWM"));
    node.write(
        "run/slipway/events.jsonl",
        "{\"time\":1,\"kind\":\"k\",\"subject\":\"s\",\"message\":\"after the flood\"}\n",
    );
    let mut seen = String::new();
    until("the follower still gets events", || {
        let mut part = [0; 4096];
        let n = follower.read(&mut part).unwrap();
        seen.push_str(&String::from_utf8_lossy(&part[..n]));
        seen.contains("after the flood")
    });
}
