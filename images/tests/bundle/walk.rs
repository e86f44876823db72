//! Updates that are taken.

use std::ops::ControlFlow;

use slipway_images::bundle::{Allow, BundleError, Step};

use super::maker::{Draft, Version, key, public};
use super::node::{Node, Served};

fn node(running: &Version) -> Node {
    Node::new(running.clone(), &[public(&key(1))])
}

#[test]
fn a_node_takes_a_full_bundle_and_the_next_by_deltas() {
    let [one, two] = [Version::first(), Version::first().next()];
    let three = two.next();
    let mut node = node(&one);
    let draft = Draft::new(&two, &[]);
    let mut served = Served::new(draft.bundle(&key(1)));
    node.update(&mut served).unwrap();
    node.assert_has(&two);
    // Of what slot a has, nothing was fetched: most of the root, and no zeros.
    let head = served.bytes.len() as u64 - draft.manifest.stored();
    let fetched = served.count() - head;
    assert!(fetched < draft.manifest.stored_full() * 7 / 10, "{fetched}");

    node.boot(&two);
    let draft = Draft::new(&three, &[&one, &two]);
    let deltas = draft.manifest.bases[1].stored();
    let mut served = Served::new(draft.bundle(&key(1)));
    node.update(&mut served).unwrap();
    node.assert_has(&three);
    let head = served.bytes.len() as u64 - draft.manifest.stored();
    assert_eq!(served.count() - head, deltas, "only its own deltas");
    assert!(deltas < draft.manifest.stored_full() / 20, "{deltas}");
    // One run of pieces is one request.
    assert_eq!(served.expected.len(), 1);
    let range = served.expected[0].clone();
    assert_eq!(range.end - range.start, deltas);

    // And from a version that there are no deltas for.
    node.boot(&three);
    let five = three.next().next();
    let draft = Draft::new(&five, &[&one]);
    node.update(&mut Served::new(draft.bundle(&key(1))))
        .unwrap();
    node.assert_has(&five);
}

#[test]
fn what_breaks_off_goes_on_without_fetching_again() {
    let [one, two] = [Version::first(), Version::first().next()];
    let draft = Draft::new(&two, &[]);
    let bundle = draft.bundle(&key(1));
    let head = bundle.len() as u64 - draft.manifest.stored();
    let mut whole = Served::new(bundle.clone());
    node(&one).update(&mut whole).unwrap();
    let needed = whole.count() - head;
    let largest = draft.pieces.iter().map(Vec::len).max().unwrap() as u64;

    let mut node = node(&one);
    let mut fetched = 0;
    let mut tries = 0;
    loop {
        let mut served = Served::new(bundle.clone());
        served.left = head + needed / 5;
        let done = node.update(&mut served);
        fetched += served.count() - head;
        match done {
            Ok(_) => break,
            Err(BundleError::Source(_)) => node.assert_safe(),
            Err(error) => panic!("{error}"),
        }
        tries += 1;
        assert!(tries < 20);
    }
    assert!(tries > 2);
    // No more is lost than the piece that was under way.
    assert!(fetched <= needed + tries * largest, "{fetched} {needed}");
    node.assert_has(&two);
}

#[test]
fn who_is_told_can_stop_it_at_every_step() {
    let [one, two] = [Version::first(), Version::first().next()];
    let bundle = Draft::new(&two, &[&one]).bundle(&key(1));
    for step in [Step::Compare, Step::Write, Step::Verify] {
        let mut node = node(&one);
        let mut seen = 0;
        let stopped = node.update_with(
            &mut Served::new(bundle.clone()),
            Allow::default(),
            &mut |at| {
                seen += u32::from(at.step == step);
                match seen {
                    2 => ControlFlow::Break(()),
                    _ => ControlFlow::Continue(()),
                }
            },
        );
        assert!(matches!(stopped, Err(BundleError::Cancelled)), "{step:?}");
        node.assert_safe();
        node.update(&mut Served::new(bundle.clone())).unwrap();
        node.assert_has(&two);
    }
}

#[test]
fn progress_ends_where_it_said() {
    let [one, two] = [Version::first(), Version::first().next()];
    let bundle = Draft::new(&two, &[&one]).bundle(&key(1));
    let mut all = Vec::new();
    let mut node = node(&one);
    let mut watch = |at: &slipway_images::bundle::Progress| {
        all.push(*at);
        ControlFlow::Continue(())
    };
    node.update_with(&mut Served::new(bundle), Allow::default(), &mut watch)
        .unwrap();
    for step in [Step::Compare, Step::Write, Step::Verify] {
        let of: Vec<_> = all.iter().filter(|at| at.step == step).collect();
        assert!(of.is_sorted_by_key(|at| (at.done, at.fetched)), "{step:?}");
        let last = of.last().unwrap();
        assert_eq!((last.done, last.fetched), (last.total, last.to_fetch));
    }
}

#[test]
fn a_base_that_is_another_one_costs_the_whole_piece_and_nothing_else() {
    let [one, two] = [Version::first(), Version::first().next()];
    let mut served = Served::new(Draft::new(&two, &[&one]).bundle(&key(1)));
    // The same root, but its kernel image was signed by somebody else.
    let mut other = one.clone();
    other.kernel[150_000..160_000].fill(7);
    let mut node = node(&other);
    node.update(&mut served).unwrap();
    node.assert_has(&two);
}
