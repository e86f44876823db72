//! A bundle read by ranges from servers that do what servers do.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

#[path = "common/ranges.rs"]
mod ranges;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slipway_images::bundle::Source as _;
use slipway_noded::update::remote::Remote;
use slipway_noded::update::{Stop, Word};

use ranges::{Mood, Server};

/// The file, without a pattern that two places share.
fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9) >> 13) as u8
}

const SIZE: u64 = 300_000;

/// A server with the file.
fn server(mood: impl Fn(usize) -> Mood + Send + 'static) -> Server {
    Server::new(|_| Some((0..SIZE).map(byte).collect()), mood)
}

fn remote(server: &Server) -> Remote {
    remote_until(server, Arc::default())
}

fn remote_until(server: &Server, stop: Arc<Stop>) -> Remote {
    let root = tempfile::tempdir().unwrap();
    let (url, patience) = (server.url("/x.slip"), Duration::from_secs(20));
    Remote::new(root.path(), &url, patience, stop, Box::new(|_| {})).unwrap()
}

/// Reads a part and compares it.
fn reads(remote: &mut Remote, range: Range<u64>) {
    let mut buffer = vec![0; (range.end - range.start) as usize];
    remote.read_at(range.start, &mut buffer).unwrap();
    let expected: Vec<u8> = range.clone().map(byte).collect();
    assert!(buffer == expected, "{range:?}");
}

#[test]
fn one_request_serves_reads_that_follow_each_other() {
    let server = server(|_| Mood::Fine);
    let mut remote = remote(&server);
    assert_eq!(remote.size().unwrap(), SIZE);
    remote.expect(1000..200_000);
    for at in (1000..200_000).step_by(19_900) {
        reads(&mut remote, at..at + 19_900);
    }
    // One elsewhere, as for a delta that doesn't fit, and back.
    reads(&mut remote, 250_000..260_000);
    reads(&mut remote, 190_000..SIZE);
    let asked = [0..1, 1000..200_000, 250_000..260_000, 190_000..SIZE];
    assert_eq!(server.asked(), asked);
}

#[test]
fn what_breaks_off_goes_on_where_it_was() {
    let moods = [
        Mood::Fine,
        Mood::BreaksOff(70_000),
        Mood::BreaksOff(30_000),
        Mood::Status(503),
        Mood::BreaksOff(0),
        Mood::Fine,
    ];
    let server = server(move |n| moods[n.min(5)]);
    let mut remote = remote(&server);
    remote.size().unwrap();
    remote.expect(0..SIZE);
    reads(&mut remote, 0..150_000);
    reads(&mut remote, 150_000..SIZE);
    let starts: Vec<u64> = server.asked().iter().map(|range| range.start).collect();
    assert_eq!(starts, [0, 0, 70_000, 100_000, 100_000, 100_000]);
}

#[test]
fn a_server_without_ranges_does() {
    let server = server(|_| Mood::Whole);
    let mut remote = remote(&server);
    assert_eq!(remote.size().unwrap(), SIZE);
    reads(&mut remote, 0..32);
    remote.expect(100_000..SIZE);
    reads(&mut remote, 100_000..120_000);
    reads(&mut remote, 120_000..SIZE);
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn what_a_server_has_decided_is_not_asked_again() {
    for (status, words) in [(404, "404"), (403, "403"), (416, "shorter")] {
        let server = server(move |_| Mood::Status(status));
        let why = remote(&server).size().unwrap_err().to_string();
        assert!(why.contains(words), "{why}");
        assert_eq!(server.asked().len(), 1);
    }
    let server = server(|n| if n == 0 { Mood::Fine } else { Mood::Changed });
    let mut remote = remote(&server);
    remote.size().unwrap();
    let why = remote.read_at(5, &mut [0; 5]).unwrap_err().to_string();
    assert!(why.contains("is another one now"), "{why}");
}

#[test]
fn a_stop_is_heard_while_it_waits() {
    let server = server(|_| Mood::Status(503));
    let stop = Arc::new(Stop::default());
    let mut remote = remote_until(&server, Arc::clone(&stop));
    let began = Instant::now();
    let teller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        stop.tell(Word::Stop);
    });
    let why = remote.size().unwrap_err().to_string();
    assert_eq!(why, "it was stopped");
    assert!(began.elapsed() < Duration::from_secs(5));
    teller.join().unwrap();
}
