//! A bundle that is pushed over a socket.

use std::io::Cursor;
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use slipway_images::bundle::Source as _;
use slipway_images::bundle::wire::{Pushed, serve};

use super::maker::{Draft, Version, key, public};
use super::node::{Node, Served};

#[test]
fn a_pushed_bundle_is_fetched_no_more_than_a_pulled_one() {
    let [one, two] = [Version::first(), Version::first().next()];
    let bundle = Draft::new(&two, &[&one]).bundle(&key(1));
    let mut pulled = Served::new(bundle.clone());
    let mut node = Node::new(one.clone(), &[public(&key(1))]);
    node.update(&mut pulled).unwrap();

    let (ours, theirs) = UnixStream::pair().unwrap();
    let sender = std::thread::spawn(move || {
        let mut file = Served::new(bundle);
        let mut texts = Vec::new();
        let last = serve(ours, &mut file, |text| texts.push(text.to_owned())).unwrap();
        (last, texts, file.count())
    });
    let mut node = Node::new(one, &[public(&key(1))]);
    let mut pushed = Pushed::begin(theirs).unwrap();
    node.update(&mut pushed).unwrap();
    pushed.tell("nearly").unwrap();
    pushed.end("staged in slot b").unwrap();
    let (last, texts, count) = sender.join().unwrap();
    assert_eq!(
        (last.as_str(), texts),
        ("staged in slot b", vec!["nearly".to_owned()])
    );
    assert_eq!(count, pulled.count());
    node.assert_has(&two);
}

#[test]
fn a_stream_that_ends_is_an_error_on_both_sides() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    assert!(serve(ours, &mut Served::new(vec![0; 9]), |_| ()).is_err());
    let (ours, theirs) = UnixStream::pair().unwrap();
    let sender = std::thread::spawn(move || serve(ours, &mut Served::new(vec![0; 9]), |_| ()));
    let mut pushed = Pushed::begin(theirs).unwrap();
    assert_eq!(pushed.size().unwrap(), 9);
    assert!(pushed.read_at(5, &mut [0; 20]).is_err(), "beyond the end");
    drop(pushed);
    assert!(sender.join().unwrap().is_err());
}

proptest! {
    /// What a node says is bounded before anything is made of it.
    #[test]
    fn whatever_a_node_says_is_served_or_refused(said: Vec<u8>) {
        struct Stream(Cursor<Vec<u8>>);
        impl std::io::Read for Stream {
            fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                self.0.read(into)
            }
        }
        impl std::io::Write for Stream {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut bundle = Served::new(vec![7; 1000]);
        drop(serve(Stream(Cursor::new(said)), &mut bundle, |_| ()));
    }
}
