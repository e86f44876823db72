//! Channels: which index is believed, and when what it offers is taken and booted. A test says
//! itself what time it is, but for the first.

use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use serde_json::json;
use slipway_images::bundle::Bundle;
use slipway_images::bundle::channel::{Index, KIND};
use slipway_images::node::update::UpdateState;
use slipway_images::seed::{TimeOfDay, Update as Wish};
use slipway_noded::local_time::Moment;
use slipway_noded::options::Tuning;
use slipway_noded::paths::Paths;
use slipway_noded::update::{Updates, channel};

use super::common::{Node, Owner, until};
use super::keys::{self, bringing};
use super::maker::{BOARD, Version, key, public, sign};
use super::ranges::{Mood, Server};
use super::{Counted, bundle, has, is_untouched, root, runs, update};

/// The date of an index, in seconds since 1970.
const EXPIRES: i64 = 4_000_000_000;

/// A channel's index of this bundle.
fn index(version: &Version, bytes: &[u8], sequence: u64, percent: u8) -> Vec<u8> {
    signed(&offer(version, bytes, sequence, percent), 1)
}

fn signed(index: &Index, by: u8) -> Vec<u8> {
    sign(&KIND, &serde_json::to_vec(index).unwrap(), &key(by))
}

fn offer(version: &Version, bytes: &[u8], sequence: u64, percent: u8) -> Index {
    let mut source = Counted {
        bytes: bytes.to_vec(),
        read: 0,
    };
    let bundle = Bundle::open(&mut source, &[public(&key(1))]).unwrap();
    Index {
        board: BOARD.into(),
        sequence,
        expires: EXPIRES,
        version: version.name(),
        release: version.number,
        file: "x.slip".into(),
        size: bytes.len() as u64,
        head: bundle.head(),
        percent,
    }
}

/// A web server whose channel shows what it is told to, with this bundle.
struct Shop {
    server: Server,
    shown: Arc<Mutex<Vec<u8>>>,
}

impl Shop {
    fn new(bundle: Vec<u8>) -> Self {
        let shown = Arc::new(Mutex::new(Vec::new()));
        let now = Arc::clone(&shown);
        let file = move |path: &str| match path {
            "/c/test.channel" | "/d/test.channel" => Some(now.lock().unwrap().clone()),
            "/c/x.slip" => Some(bundle.clone()),
            _ => None,
        };
        let server = Server::new(file, |_| Mood::Fine);
        Self { server, shown }
    }

    fn show(&self, index: Vec<u8>) {
        *self.shown.lock().unwrap() = index;
    }

    fn wish(&self, window: Option<&str>) -> Wish {
        let url = self.server.url("/c/");
        serde_json::from_value(json!({"channel": url, "window": window})).unwrap()
    }
}

/// Updates of a node as in `noded`, and what stands in for `init`.
pub struct Within {
    pub updates: Updates,
    pub root: tempfile::TempDir,
    init: Child,
}

impl Within {
    pub fn new(root: tempfile::TempDir) -> Self {
        let init = Command::new("sleep").arg("3600").spawn().unwrap();
        let tuning = Tuning {
            init: init.id().try_into().unwrap(),
            ..Tuning::default()
        };
        let updates = Updates::new(Paths::new(root.path(), None), tuning);
        Self {
            updates,
            root,
            init,
        }
    }

    /// After `noded` has started again.
    pub fn again(mut self) -> Self {
        let root = std::mem::replace(&mut self.root, tempfile::tempdir().unwrap());
        let again = Self::new(root);
        again.updates.resume();
        again
    }

    /// Waits until what was begun is staged.
    pub fn is_staged(&self) {
        until("it is staged", || {
            let status = self.updates.status();
            assert_ne!(status.state, UpdateState::Failed, "{status:?}");
            status.state == UpdateState::Staged && !self.updates.under_way()
        });
    }

    /// Whether the node reboots when it is that time.
    pub fn reboots_at(&mut self, time: &str) -> bool {
        let asked = self.updates.reboot_if_due(time.parse().unwrap());
        if asked {
            self.init.wait().unwrap();
        }
        asked
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        drop(self.init.kill());
        drop(self.init.wait());
    }
}

/// So many seconds after the index's date, at that time of the day.
fn moment(late: i64, of_day: &str) -> Moment {
    Moment {
        seconds: (EXPIRES + late).try_into().unwrap(),
        of_day: of_day.parse::<TimeOfDay>().unwrap(),
    }
}

#[test]
fn a_channel_is_followed_as_far_as_it_is_to_be_believed() {
    let owner = Owner::new();
    let old = Version::first();
    let new = old.next();
    let bytes = bundle(&new, &[&old]);
    let shop = Shop::new(bytes.clone());
    let wish = json!({"channel": shop.server.url("/c/"), "poll": 1});
    let mut node = Node::start_in(root(&owner, &old, wish), &[]);
    let says = |node: &Node, words: &str| {
        until(words, || {
            let note = update(node, &owner)["channel"]["note"].to_string();
            note.contains(words)
        });
    };
    says(&node, "channel index");
    shop.show(index(&old, &bundle(&old, &[]), 7, 100));
    says(&node, "runs here");
    shop.show(index(&new, &bytes, 6, 100));
    says(&node, "older index (6) than before (7)");
    shop.show(index(&new, &bytes, 8, 0));
    says(&node, "is for 0 % of the nodes");
    is_untouched(&node);
    // Another bundle than the one that is named.
    shop.show(index(&new, &bundle(&new, &[]), 9, 100));
    until("it is refused", || {
        update(&node, &owner)["note"]
            .to_string()
            .contains("isn't the one")
    });
    is_untouched(&node);
    shop.show(index(&new, &bytes, 10, 100));
    until("it reboots", || {
        node.init.as_mut().unwrap().try_wait().unwrap().is_some()
    });
    has(&node, &new);
}

#[test]
fn an_index_is_believed_until_its_date_and_never_after_a_later_one() {
    let owner = Owner::new();
    let old = Version::first();
    let new = old.next();
    let bytes = bundle(&new, &[]);
    let shop = Shop::new(bytes.clone());
    let node = Within::new(root(&owner, &old, json!({})));
    let wish = shop.wish(None);
    let looks = |node: &Within, wish: &Wish, sequence, late| {
        shop.show(index(&new, &bytes, sequence, 0));
        match channel::look(&node.updates, wish, moment(late, "12:00")) {
            Ok((version, note)) => {
                assert_eq!(version, new.name());
                note
            }
            Err(why) => why,
        }
    };
    let believed = "is for 0 % of the nodes so far";
    assert_eq!(looks(&node, &wish, 7, -1), believed);
    assert_eq!(looks(&node, &wish, 7, 0), believed);
    // Who holds the server back shows what was right once.
    let late = looks(&node, &wish, 9, 1);
    assert!(late.contains("past its date by 0 h"), "{late}");
    let late = looks(&node, &wish, 7, 2 * 86_400);
    assert!(late.contains("past its date by 48 h"), "{late}");
    // One that wasn't believed is none that was seen.
    assert_eq!(looks(&node, &wish, 8, 0), believed);
    // Who puts an older one back; also while noded was away.
    let replayed = "an older index (7) than before (8)";
    assert!(looks(&node, &wish, 7, -1).contains(replayed));
    let node = node.again();
    assert!(looks(&node, &wish, 7, -1).contains(replayed));
    assert_eq!(looks(&node, &wish, 8, -1), believed);
    // Another channel counts for itself.
    let other: Wish = serde_json::from_value(json!({"channel": shop.server.url("/d")})).unwrap();
    assert_eq!(looks(&node, &other, 1, -1), believed);

    // A clock that was never set, and an image that is younger than the index.
    let young = Version {
        number: EXPIRES as u64 + 7200,
        ..old.clone()
    };
    runs(node.root.path(), &young, &[1]);
    let late = looks(&node, &other, 2, -EXPIRES);
    assert!(late.contains("past its date by 2 h"), "{late}");
}

#[test]
fn an_index_is_believed_by_a_key_that_an_update_has_brought() {
    let owner = Owner::new();
    let old = Version::first();
    let new = old.next();
    let bytes = bundle(&new, &[]);
    let shop = Shop::new(bytes.clone());
    let node = Within::new(root(&owner, &old, json!({})));
    shop.show(signed(&offer(&new, &bytes, 1, 0), 2));
    let look = || channel::look(&node.updates, &shop.wish(None), moment(-1, "12:00"));
    let why = look().unwrap_err();
    assert!(
        why.contains("channel index is signed with the key"),
        "{why}"
    );
    keys::store(node.root.path(), &bringing(&old, &[2], 1));
    look().unwrap();
    keys::store(node.root.path(), &bringing(&old, &[2], 3));
    let why = look().unwrap_err();
    assert!(
        why.contains("channel index is signed with the key"),
        "{why}"
    );
}

#[test]
fn what_a_channel_offers_is_taken_and_booted_in_its_window() {
    let owner = Owner::new();
    let old = Version::first();
    let new = old.next();
    let bytes = bundle(&new, &[]);
    // The second goes over midnight.
    for (window, before, first, last, after) in [
        ("02:00-05:00", "01:59", "02:00", "04:59", "05:00"),
        ("22:30-01:00", "22:29", "22:30", "00:59", "01:00"),
    ] {
        let shop = Shop::new(bytes.clone());
        shop.show(index(&new, &bytes, 1, 100));
        let wish = shop.wish(Some(window));
        let node = Within::new(root(&owner, &old, json!({})));
        let look = |node: &Within, of_day| {
            let found = channel::look(&node.updates, &wish, moment(-1, of_day));
            found.unwrap().1
        };
        for time in [before, after, "12:00"] {
            assert_eq!(look(&node, time), format!("waits for {window}"));
        }
        assert_eq!(node.updates.status().state, UpdateState::None);
        assert_eq!(shop.server.asked().len(), 3, "only the index was fetched");
        assert_eq!(look(&node, last), "is being fetched");
        node.is_staged();
        // It took too long: the next window, also if noded starts again in between.
        let mut node = node;
        assert!(!node.reboots_at(after));
        let mut node = node.again();
        assert_eq!(look(&node, after), "is staged");
        assert!(!node.reboots_at(before));
        assert!(node.reboots_at(first));
        assert!(!node.reboots_at(first), "it does so once");
    }
}
