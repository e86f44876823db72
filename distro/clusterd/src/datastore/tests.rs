//! A datastore between versions, without the programs that read one: they are not asked here.

use std::fs;
use std::path::PathBuf;

use super::snapshots::tests::put;
use super::*;
use crate::component::tests::config;

/// A node's directory, whose datastore is a text.
struct Place {
    directory: tempfile::TempDir,
    config: Config,
}

impl Place {
    fn new(text: &str, version: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = config(true);
        config.paths = Paths::new(directory.path());
        config.paths.create().unwrap();
        fs::write(config.paths.database(), text).unwrap();
        record::write(&config.paths.datastore(), &writer(version)).unwrap();
        Self { directory, config }
    }

    fn text(&self) -> String {
        fs::read_to_string(self.config.paths.database()).unwrap()
    }

    fn put(&self, number: u64, version: &str, text: &str) {
        put(&self.config.paths.snapshots(), number, version, text);
    }

    fn prepare(&self, version: &str) -> Result<(), Error> {
        prepare_for(&self.config, &writer(version))
    }

    /// Datastores that were put aside: names, and what is in them.
    fn aside(&self) -> Vec<(String, String)> {
        let state = self.directory.path().join("var/lib/clusterd");
        let mut found: Vec<_> = fs::read_dir(state)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
            .filter(|(name, _)| name.starts_with("db") && name != "db")
            .map(|(name, path)| (name, fs::read_to_string(path.join(DATABASE)).unwrap()))
            .collect();
        found.sort();
        found
    }
}

fn writer(version: &str) -> Writer {
    Writer {
        kubernetes: version.to_owned().try_into().unwrap(),
        slipway: "0.1.0".to_owned(),
    }
}

fn aside(name: &str, text: &str) -> (String, String) {
    (name.to_owned(), text.to_owned())
}

#[test]
fn within_a_minor_data_stay_forwards_and_backwards() {
    let place = Place::new("data", "v1.36.3");
    place.put(1, "v1.36.1", "older data");
    for version in ["v1.36.4", "v1.36.0"] {
        place.prepare(version).unwrap();
        assert_eq!(place.text(), "data");
        let noted = record::read(&place.config.paths.datastore()).unwrap();
        assert_eq!(noted, Some(writer(version)));
    }
    assert_eq!(place.aside(), []);
}

#[test]
fn what_nobody_noted_is_ours_and_a_new_cluster_begins() {
    let place = Place::new("data", "v1.37.0");
    fs::remove_file(place.config.paths.datastore().join("written-by.json")).unwrap();
    place.prepare("v1.36.0").unwrap();
    assert_eq!(place.text(), "data");
    // A record alone is of no datastore.
    let place = Place::new("", "v1.37.0");
    fs::remove_file(place.config.paths.database()).unwrap();
    place.prepare("v1.36.0").unwrap();
    assert!(!place.config.paths.database().exists());
}

#[test]
fn a_newer_minors_data_is_put_aside_for_what_was_kept() {
    let place = Place::new("newer", "v1.37.0");
    fs::write(place.config.paths.datastore().join("state.db-wal"), "rows").unwrap();
    place.put(1, "v1.36.1", "first");
    place.put(2, "v1.36.2", "second");
    place.put(3, "v1.37.0", "newer");
    place.prepare("v1.36.2").unwrap();
    assert_eq!(place.text(), "second");
    assert!(!place.config.paths.datastore().join("state.db-wal").exists());
    assert_eq!(place.aside(), [aside("db-v1.37.0-1", "newer")]);
    // It happens once, and not again at the next start.
    fs::write(place.config.paths.database(), "third").unwrap();
    place.prepare("v1.36.2").unwrap();
    assert_eq!(place.text(), "third");
    // What was put aside is bounded.
    for round in 0..3 {
        record::write(&place.config.paths.datastore(), &writer("v1.38.0")).unwrap();
        fs::write(place.config.paths.database(), format!("{round}")).unwrap();
        place.prepare("v1.36.2").unwrap();
    }
    let kept = [aside("db-v1.38.0-3", "1"), aside("db-v1.38.0-4", "2")];
    assert_eq!(place.aside(), kept);
}

#[test]
fn a_damaged_snapshot_gives_way_to_the_one_before() {
    let place = Place::new("newer", "v1.37.0");
    place.put(1, "v1.36.1", "first");
    place.put(2, "v1.36.2", "second");
    let damaged = place.config.paths.snapshots().join("2.db");
    fs::write(&damaged, "sec0nd").unwrap();
    place.prepare("v1.36.2").unwrap();
    assert_eq!(place.text(), "first");
}

#[test]
fn without_a_snapshot_nothing_is_touched() {
    let place = Place::new("newer", "v1.37.0");
    place.put(1, "v1.37.0", "as new");
    place.put(2, "v1.36.0", "damaged");
    fs::remove_file(place.config.paths.snapshots().join("2.db")).unwrap();
    let error = place.prepare("v1.36.2").unwrap_err();
    assert_eq!(error.exit_status(), 4);
    let text = error.to_string();
    let said = "Kubernetes v1.37.0 wrote it, v1.36.2 runs here and can't read it";
    assert!(text.contains(said) && !text.contains('\n'), "{text}");
    assert_eq!(place.text(), "newer");
    assert_eq!(place.aside(), []);
    // The version that can read it still does.
    place.prepare("v1.37.1").unwrap();
    assert_eq!(place.text(), "newer");
}

#[test]
fn a_damaged_record_stops_it() {
    let place = Place::new("data", "v1.36.0");
    fs::write(place.config.paths.datastore().join("written-by.json"), "{").unwrap();
    let error = place.prepare("v1.36.0").unwrap_err();
    assert_eq!(error.exit_status(), 4, "{error}");
    assert_eq!(place.text(), "data");
}

/// The power is cut behind each step of a restore: the datastore in use is always a whole one,
/// the next start ends where an uncut one would, and the newer data is kept.
#[test]
fn a_cut_in_a_restore_leaves_one_whole_datastore() {
    let new = |place: &Place| place.config.paths.datastore_new();
    let half = |place: &Place, name: &str, text: &str| {
        fs::create_dir_all(new(place)).unwrap();
        fs::write(new(place).join(name), text).unwrap();
    };
    let build = |place: &Place| {
        let kept = Snapshots::open(&place.config.paths.snapshots()).unwrap();
        let all = kept.list().unwrap();
        restore::build(&place.config.paths, &kept, &all[0]).unwrap();
    };
    type Cut<'a> = (&'a str, Box<dyn Fn(&Place) + 'a>, &'a str);
    let cuts: [Cut<'_>; 5] = [
        (
            "made",
            Box::new(|p| fs::create_dir(new(p)).unwrap()),
            "newer",
        ),
        (
            "half copied",
            Box::new(|p| half(p, DATABASE, "ol")),
            "newer",
        ),
        ("no record", Box::new(|p| half(p, DATABASE, "old")), "newer"),
        ("built", Box::new(|p| build(p)), "newer"),
        (
            "exchanged",
            Box::new(|p| {
                build(p);
                restore::exchange(&p.config.paths).unwrap();
            }),
            "old",
        ),
    ];
    for (when, cut, then) in cuts {
        let place = Place::new("newer", "v1.37.0");
        place.put(1, "v1.36.0", "old");
        cut(&place);
        assert_eq!(place.text(), then, "{when}");
        place.prepare("v1.36.0").unwrap();
        assert_eq!(place.text(), "old", "{when}");
        assert_eq!(place.aside(), [aside("db-v1.37.0-1", "newer")], "{when}");
        // The newer version may come instead: it goes on with whichever is in use.
        let place = Place::new("newer", "v1.37.0");
        place.put(1, "v1.36.0", "old");
        cut(&place);
        if then == "newer" {
            place.prepare("v1.37.0").unwrap();
            assert_eq!(place.text(), "newer", "{when}");
            assert_eq!(place.aside(), [], "{when}");
        }
    }
}

#[test]
fn what_happened_is_an_event() {
    let place = Place::new("newer", "v1.37.0");
    place.put(1, "v1.36.0", "old");
    let events: PathBuf = place.directory.path().join(EVENTS_FILE);
    fs::create_dir_all(events.parent().unwrap()).unwrap();
    place.prepare("v1.36.0").unwrap();
    let line = fs::read_to_string(events).unwrap();
    let event: Event = serde_json::from_str(line.trim()).unwrap();
    assert_eq!(event.kind, "datastore");
    assert!(event.message.contains("db-v1.37.0-1"), "{}", event.message);
}
