//! Power cuts: each state that one can leave is judged by each loader's model and fsck.vfat.
//!
//! What the library does from one boot to the next is recorded. The power is cut at every
//! flush, and between two flushes with a random part of the sectors that are not flushed yet
//! on the medium: caches keep no order, and a partition's flush is no other's. In each state
//!
//! * the loader has one first choice, and what it starts is whole: boot payload and root of
//!   one version;
//! * nothing else that it lists is half-written either;
//! * fsck.vfat finds nothing but clusters that are nobody's yet, and what follows from them;
//! * from there (in a part of the states) the node settles its slots, is updated again, and
//!   leaves a boot partition without a fault.
//!
//! `SLIPWAY_CUTS` says how many states; `make test-power` takes 1,500.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use slipway_images::slot::{Leaving, Slot, State};

use super::cuts::{Dice, intervals};
use super::disk::{Event, Recorder, Shown};
use super::machine::{Kind, Version, on, runs, update};

/// States in CI.
const SAMPLE: usize = 120;
/// Of how many states one is gone on from.
const GO_ON: usize = 16;

/// What was done between two boots.
struct Recording {
    what: &'static str,
    before: Shown,
    log: Vec<Event>,
}

struct Story {
    kind: Kind,
    now: Shown,
    boots: u32,
    recordings: Vec<Recording>,
}

impl Story {
    /// The loader boots; gives the slot and the version.
    fn boot(&mut self) -> (Slot, Version) {
        let chosen = self.kind.boot(&self.now).unwrap();
        self.boots += 1;
        runs(self.kind, &self.now, &chosen).unwrap()
    }

    fn record<T>(
        &mut self,
        what: &'static str,
        work: impl FnOnce(&Rc<RefCell<Recorder>>) -> T,
    ) -> T {
        let disk = Recorder::over(&self.now);
        let result = work(&disk);
        let log = std::mem::take(&mut disk.borrow_mut().log);
        let before = std::mem::replace(&mut self.now, Shown::of(&disk));
        self.recordings.push(Recording { what, before, log });
        result
    }

    fn arrive(&mut self, what: &'static str) -> Slot {
        let (slot, version) = self.boot();
        let (id, kind) = (self.boots.to_string(), self.kind);
        self.record(what, |disk| {
            let (name, root) = (version.name(), version.plan(kind).root);
            on(kind, disk, slot, |slots| slots.arrive(&id, &name, &root)).unwrap();
        });
        slot
    }
}

/// Everything that a node does to its slots.
fn story(kind: Kind) -> Vec<Recording> {
    let mut story = Story {
        kind,
        now: Shown::new(&kind.flashed()),
        boots: 0,
        recordings: Vec::new(),
    };
    let first = story.arrive("first boot");
    story
        .record("an update broken off", |disk| {
            update(kind, disk, first, &Version(2), Some(2))
        })
        .unwrap();
    story
        .record("taken up again", |disk| {
            update(kind, disk, first, &Version(2), None)
        })
        .unwrap();
    let trial = story.arrive("a trial");
    story.record("a reboot in order", |disk| {
        on(kind, disk, trial, |slots| slots.leave(Leaving::InOrder)).unwrap();
    });
    story.arrive("the trial goes on");
    story.arrive("and after a cut");
    story.record("commit", |disk| {
        on(kind, disk, trial, |slots| slots.commit()).unwrap()
    });
    story
        .record("an update over the old slot", |disk| {
            update(kind, disk, trial, &Version(3), None)
        })
        .unwrap();
    for what in ["one try", "two", "three"] {
        let slot = story.arrive(what);
        story.record("a failed gate", |disk| {
            on(kind, disk, slot, |slots| slots.fail("no node")).unwrap();
        });
    }
    let fallen = story.arrive("fallen back");
    assert_eq!(fallen, trial);
    story
        .record("an update over the bad slot", |disk| {
            update(kind, disk, fallen, &Version(4), None)
        })
        .unwrap();
    story
        .record("another over the staged one", |disk| {
            update(kind, disk, fallen, &Version(5), None)
        })
        .unwrap();
    story.recordings
}

/// What fsck.vfat may find where the power was cut.
pub fn is_harmless(finding: &str) -> bool {
    [
        "Reclaimed ",
        "FATs differ but appear to be intact",
        "Using first FAT",
        "Free cluster summary wrong ",
        "Auto-correcting.",
        "Automatically ",
        "Orphaned long file name part ",
        "Cluster ",
    ]
    .iter()
    .any(|start| finding.trim_start().starts_with(start))
}

#[derive(Default)]
struct Tally {
    states: usize,
    boundaries: usize,
    gone_on: usize,
    findings: BTreeMap<String, usize>,
}

fn judge(kind: Kind, shown: &Shown, at: &str, tally: &mut Tally) {
    for finding in shown.fsck() {
        assert!(is_harmless(&finding), "{at}: fsck.vfat: {finding}");
        let words: String = finding.chars().filter(|c| !c.is_ascii_digit()).collect();
        *tally.findings.entry(words).or_default() += 1;
    }
    let listed = kind.listed(shown);
    assert!(!listed.is_empty(), "{at}: nothing to boot");
    let mut slots = Vec::new();
    for chosen in &listed {
        let whole = runs(kind, shown, chosen);
        let (slot, version) = whole.unwrap_or_else(|| panic!("{at}: {} is not whole", chosen.slot));
        slots.push((slot, version));
    }
    // Two names for one slot would be a rename that was cut, which has one name first.
    let again = slots.iter().filter(|s| **s == slots[0]).count();
    assert_eq!(again, 1, "{at}: two entries start the same: {slots:?}");
    tally.states += 1;
    if tally.states.is_multiple_of(GO_ON) {
        go_on(kind, shown, at);
        tally.gone_on += 1;
    }
}

/// The node boots from there and is updated.
fn go_on(kind: Kind, shown: &Shown, at: &str) {
    let mut shown = Shown::of(&Recorder::over(shown));
    for round in 0..3u32 {
        let chosen = kind.boot(&shown).unwrap();
        let (slot, version) =
            runs(kind, &shown, &chosen).unwrap_or_else(|| panic!("{at}: round {round}"));
        let disk = Recorder::over(&shown);
        on(kind, &disk, slot, |slots| {
            let id = format!("after-{round}");
            slots
                .arrive(&id, &version.name(), &version.plan(kind).root)
                .unwrap();
            if slots.state(slot) == State::Trial {
                slots.commit().unwrap();
            }
        });
        let next = Version(20 + u64::from(round));
        update(kind, &disk, slot, &next, None)
            .unwrap_or_else(|e| panic!("{at}: round {round}: {e}"));
        shown = Shown::of(&disk);
        assert_eq!(shown.fsck(), [""; 0], "{at}: round {round}");
    }
}

#[test]
fn a_power_cut_at_any_moment_leaves_one_whole_thing_to_boot() {
    println!("{}", cut(Kind::SystemdBoot));
}

#[test]
fn nor_does_it_with_u_boot_leave_anything_else() {
    println!("{}", cut(Kind::UBoot));
}

/// All of them with one loader; gives what was found, to be read.
fn cut(kind: Kind) -> String {
    let wanted = std::env::var("SLIPWAY_CUTS").map_or(SAMPLE, |n| n.parse().unwrap());
    let story = story(kind);
    let boundaries: usize = story.iter().map(|r| intervals(&r.log).len()).sum();
    let samples = wanted.saturating_sub(boundaries).div_ceil(boundaries);
    let mut tally = Tally::default();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let recordings = story.len();
    for mut recording in story {
        let shown = &mut recording.before;
        for (n, interval) in intervals(&recording.log).iter().enumerate() {
            for sample in 0..samples {
                shown.put(&interval.some(&mut dice));
                let at = format!("{}, after flush {n}, sample {sample}", recording.what);
                judge(kind, shown, &at, &mut tally);
                shown.restore();
            }
            shown.put(&interval.flushed);
            shown.keep();
            judge(
                kind,
                shown,
                &format!("{}, at flush {}", recording.what, n + 1),
                &mut tally,
            );
            tally.boundaries += 1;
        }
    }
    assert!(tally.states >= wanted, "{} states", tally.states);
    format!(
        "{kind:?}: {} power cuts: {} at flushes, {} within, in {} recordings; gone on from {}\n\
         fsck.vfat found: {:#?}",
        tally.states,
        tally.boundaries,
        tally.states - tally.boundaries,
        recordings,
        tally.gone_on,
        tally.findings
    )
}
