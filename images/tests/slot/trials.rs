//! From boot to boot: trials, fallbacks, power cuts, and that none of it goes on for ever.

use slipway_images::slot::{
    CHOICE_SIZE, CUTS, Choice, Leaving, RESTARTS, Slot, SlotError, Standing, State, TRIES,
};

use super::loader;
use super::machine::{Kind, Machine, Version, payload};

const A: Slot = Slot::A;
const B: Slot = Slot::B;

#[test]
fn a_new_version_is_tried_and_committed_and_the_next_goes_the_other_way() {
    for kind in Kind::BOTH {
        let mut machine = Machine::flashed(kind);
        assert_eq!(machine.states(), (A, State::Good, State::Empty));
        machine.update(2).unwrap();
        assert_eq!(machine.states(), (A, State::Good, State::Trial));
        assert_eq!(machine.status().next, Some(B));
        machine.boot();
        assert_eq!(machine.states(), (B, State::Good, State::Trial));
        assert!(machine.status().on_trial());
        let refused = machine.update(3).unwrap_err();
        assert!(matches!(refused, SlotError::OnTrial(B)), "{refused}");
        machine.slots(|s| s.commit()).unwrap();
        machine.slots(|s| s.commit()).unwrap();
        machine.reboot();
        assert_eq!(machine.states(), (B, State::Good, State::Good));
        let status = machine.status();
        assert_eq!(status.b.version, Some(Version(2).name()));
        assert_eq!((status.b.release, status.next), (Some(2), Some(B)));
        let again = machine.update(2).unwrap_err();
        assert!(
            again.to_string().contains("runs already, in slot b"),
            "{again}"
        );
        machine.update(3).unwrap();
        machine.boot();
        assert_eq!(machine.states(), (A, State::Trial, State::Good));
        let wanted = Version(3).payload(kind);
        let read = machine.slots(|s| {
            assert_eq!(s.booted(), A);
            s.status()
        });
        assert_eq!(read.a.version, Some(Version(3).name()));
        let disk = super::disk::Recorder::new(&std::fs::read(machine.path()).unwrap());
        let mut boot = kind.method(&disk);
        assert!(payload(&mut boot, A, wanted.len()) == wanted);
    }
}

#[test]
fn one_that_never_gets_up_is_left_after_its_tries_and_remembered() {
    for kind in Kind::BOTH {
        let mut machine = Machine::flashed(kind);
        machine.update(2).unwrap();
        for _ in 0..TRIES {
            machine.power_on();
            assert_eq!(machine.booted, B);
        }
        machine.boot();
        assert_eq!(machine.states(), (A, State::Good, State::Bad));
        let status = machine.status();
        assert_eq!(
            status.b.why.as_deref(),
            Some("it didn't get far enough to say why")
        );
        assert_eq!(status.bad_versions[0].version, Version(2).name());
        // For good, whatever happens.
        for _ in 0..4 {
            machine.reboot();
            assert_eq!(machine.booted, A);
        }
        // Another one takes its place; the same one, forced, may, too.
        machine.update(3).unwrap();
        machine.boot();
        machine.slots(|s| s.commit()).unwrap();
        assert_eq!(machine.states(), (B, State::Good, State::Good));
        let why = machine.slots(|s| s.why_bad(&Version(2).name()).map(str::to_owned));
        assert!(why.is_some());
        machine.update(2).unwrap();
        machine.boot();
        machine.slots(|s| s.commit()).unwrap();
        assert_eq!(
            machine.slots(|s| s.why_bad(&Version(2).name()).map(str::to_owned)),
            None
        );
    }
}

#[test]
fn one_that_fails_its_gate_says_why() {
    for kind in Kind::BOTH {
        let mut machine = Machine::flashed(kind);
        machine.update(2).unwrap();
        for n in 0..TRIES {
            machine.boot();
            assert_eq!(machine.booted, B);
            machine.slots(|s| s.fail(&format!("no node, {n}"))).unwrap();
            let late = machine.slots(|s| s.commit()).unwrap_err();
            assert!(matches!(late, SlotError::Failed { .. }), "{late}");
            // A reboot in order gives nothing back any more.
            machine.slots(|s| s.leave(Leaving::InOrder)).unwrap();
        }
        machine.boot();
        assert_eq!(machine.states(), (A, State::Good, State::Bad));
        assert_eq!(machine.status().b.why.as_deref(), Some("no node, 2"));
    }
}

#[test]
fn reboots_in_order_and_a_few_cuts_do_not_count() {
    for kind in Kind::BOTH {
        let mut machine = Machine::flashed(kind);
        machine.update(2).unwrap();
        machine.boot();
        for _ in 0..RESTARTS {
            assert_eq!(
                (machine.booted, machine.status().b.tries_left),
                (B, Some(TRIES - 1))
            );
            machine.reboot();
        }
        for _ in 0..CUTS {
            assert_eq!(
                (machine.booted, machine.status().b.tries_left),
                (B, Some(TRIES - 1))
            );
            machine.boot();
        }
        machine.slots(|s| s.commit()).unwrap();
        assert_eq!(machine.states(), (B, State::Good, State::Good));
    }
}

#[test]
fn a_cut_in_the_last_try_does_not_count_either() {
    for kind in Kind::BOTH {
        let mut machine = Machine::flashed(kind);
        machine.update(2).unwrap();
        for _ in 1..TRIES {
            machine.boot();
            machine.slots(|s| s.fail("not Ready")).unwrap();
        }
        machine.boot();
        assert_eq!(
            (machine.booted, machine.status().b.tries_left),
            (B, Some(0))
        );
        machine.boot();
        assert_eq!(
            machine.states(),
            (A, State::Good, State::Trial),
            "it is still on trial"
        );
        machine.boot();
        assert_eq!(machine.booted, B);
        machine.slots(|s| s.fail("still not Ready")).unwrap();
        machine.boot();
        assert_eq!(machine.states(), (A, State::Good, State::Bad));
        assert_eq!(machine.status().b.why.as_deref(), Some("still not Ready"));
    }
}

#[test]
fn whatever_happens_a_trial_ends() {
    for kind in Kind::BOTH {
        // Each way a boot of the new version can end, mixed by a fixed sequence.
        for mut dice in 1..9u64 {
            let mut machine = Machine::flashed(kind);
            machine.update(2).unwrap();
            let mut tried = 0;
            loop {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                machine.power_on();
                if machine.booted == A {
                    machine.arrive();
                    if machine.states().2 != State::Trial {
                        break;
                    }
                    continue;
                }
                tried += 1;
                assert!(tried <= TRIES + CUTS + RESTARTS, "for ever");
                let id = format!("{tried}");
                let version = Version(2);
                let how = dice >> 33;
                if how % 7 == 0 {
                    continue;
                }
                machine
                    .slots(|s| s.arrive(&id, &version.name(), &version.plan(kind).root))
                    .unwrap();
                match how % 7 {
                    1 => machine.slots(|s| s.fail("gate")).unwrap(),
                    2..5 => machine.slots(|s| s.leave(Leaving::InOrder)).unwrap(),
                    5 => machine
                        .slots(|s| s.leave(Leaving::Failed("a phase")))
                        .unwrap(),
                    _ => {}
                }
            }
            assert_eq!(machine.states(), (A, State::Good, State::Bad));
            if kind == Kind::SystemdBoot {
                assert_eq!(loader::entries(machine.path())[0].file, "slipway-1-a.efi");
            }
        }
    }
}

#[test]
fn without_a_record_the_loader_counts_all_the_same() {
    for kind in Kind::BOTH {
        let mut machine = Machine::flashed(kind);
        machine.update(2).unwrap();
        super::disk::mtools("mdel", machine.path(), &[&format!("::/{}", kind.record())]).unwrap();
        machine.boot();
        assert_eq!(machine.states(), (B, State::Good, State::Trial));
        machine.slots(|s| s.fail("x")).unwrap();
        for _ in 1..TRIES {
            machine.power_on();
        }
        machine.boot();
        assert_eq!(machine.states(), (A, State::Good, State::Bad));
    }
}

#[test]
fn a_slot_without_an_entry_is_nothing_to_fall_back_to() {
    let mut machine = Machine::flashed(Kind::SystemdBoot);
    super::disk::mtools(
        "mren",
        machine.path(),
        &["::/EFI/Linux/slipway-1-a.efi", "::/EFI/Linux/mine.efi"],
    )
    .unwrap();
    let refused = machine.update(2).unwrap_err();
    assert!(
        refused.to_string().contains("slot a has no boot entry"),
        "{refused}"
    );
}

#[test]
fn whatever_becomes_of_its_two_copies_u_boot_has_something_to_start() {
    use super::script;
    // What a cut can leave of either copy while a try is counted, or settled by the node.
    let old = Choice {
        first: B,
        a: Standing::Good,
        b: Standing::Tries(3),
    };
    for new in [Standing::Tries(2), Standing::Good, Standing::Nothing] {
        let new = old.with(B, new);
        let broken = [0xff; CHOICE_SIZE];
        let states = [
            (old.encode(), old.encode()),
            (broken, old.encode()),
            (new.encode(), old.encode()),
            (new.encode(), broken),
            (new.encode(), new.encode()),
            (old.encode(), broken),
            (old.encode(), new.encode()),
            (broken, new.encode()),
        ];
        for (one, two) in states {
            let mut machine = Machine::flashed(Kind::UBoot);
            machine.update(2).unwrap();
            script::put(machine.path(), 0, &one);
            script::put(machine.path(), 1, &two);
            let allowed = [old.next(), new.next()];
            let next = machine.status().next;
            assert!(allowed.contains(&next), "{next:?}");
            machine.power_on();
            assert_eq!(Some(machine.booted), next);
        }
    }
    // With neither, whatever can be loaded: the good one is tried first.
    let mut machine = Machine::flashed(Kind::UBoot);
    script::put(machine.path(), 0, &[1; CHOICE_SIZE]);
    script::put(machine.path(), 1, b"short");
    machine.power_on();
    assert_eq!(machine.booted, A);
    machine.arrive();
    machine.update(2).unwrap();
    machine.boot();
    assert_eq!(machine.states(), (B, State::Good, State::Trial));
}
