//! A machine's life, with a real QEMU and a tiny real guest that counts its
//! boots on its disk.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use slipway_qemu::argv::CONSOLE_SOCKET;
use slipway_qemu::harness::{Node, Setup};
use slipway_qemu::machine::{Mebibytes, OnReboot};
use slipway_qemu::qmp::connect_below;
use slipway_qemu::snapshot::Snapshot;
use slipway_qemu::vm::Vm;
use slipway_qemu::{Error, guest};

/// On a busy host the tiny guest may take a while for its milliseconds of work.
const SOON: Duration = Duration::from_secs(60);

/// One QEMU at a time: the hosts that run this are small.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn tiny(dir: &tempfile::TempDir) -> (Setup, PathBuf) {
    let image = dir.path().join("tiny.img");
    std::fs::write(&image, guest::tiny_disk()).unwrap();
    let mut setup = Setup::new(&image);
    setup.bios = true;
    setup.cpus = 1;
    setup.memory = Mebibytes(64);
    (setup, image)
}

#[test]
fn a_machine_boots_goes_off_by_its_button_and_comes_back_on_its_disk() {
    let _one = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let (setup, image) = tiny(&dir);
    let before = std::fs::read(&image).unwrap();
    let mut node = Node::boot(setup);
    node.wait_console("boot 1", SOON);
    assert_eq!(node.vm().status().unwrap(), "running");
    node.power_down(SOON);
    assert!(node.console().contains("power button, bye"));

    node.power_on();
    node.wait_console("boot 2", SOON);
    // Cut while the guest runs: what it wrote before is there.
    node.cut_power();
    node.power_on();
    node.wait_console("boot 3", SOON);
    assert!(
        std::fs::read(&image).unwrap() == before,
        "the image was written to"
    );
}

#[test]
fn a_machine_is_found_again_by_another_process() {
    let _one = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::boot(tiny(&dir).0);
    node.wait_console("boot 1", SOON);
    let (name, process) = (node.machine().name.clone(), node.vm().process().clone());
    let mut found = Vm::find(&name, node.dir(), &process).unwrap().unwrap();
    assert_eq!(found.status().unwrap(), "running");
    assert!(found.power_down(SOON).unwrap());
    node.wait_off(SOON);
    assert!(Vm::find(&name, node.dir(), &process).unwrap().is_none());
}

#[test]
fn a_reset_restarts_or_ends_as_asked() {
    use std::io::Write as _;
    let _one = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    for on_reboot in [OnReboot::Restart, OnReboot::Exit] {
        let (mut setup, _) = tiny(&dir);
        setup.on_reboot = on_reboot;
        let mut node = Node::boot(setup);
        node.wait_console("boot 1", SOON);
        connect_below(node.dir(), CONSOLE_SOCKET)
            .unwrap()
            .write_all(b"r")
            .unwrap();
        match on_reboot {
            OnReboot::Restart => {
                node.wait_console("boot 2", SOON);
            }
            OnReboot::Exit => node.wait_off(SOON),
        }
    }
}

#[test]
fn a_caught_machine_lives_on_twice() {
    use std::io::Write as _;
    let _one = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let (mut setup, _) = tiny(&dir);
    setup.ports = vec![80];
    let mut node = Node::boot(setup);
    node.wait_console("boot 1", SOON);
    let at = dir.path().join("snapshot");
    node.snapshot(&at);

    let snapshot = Snapshot::open(&at).unwrap();
    for _ in 0..2 {
        let mut node = Node::restore(&snapshot);
        assert!(node.port(80) != 0);
        // It does not boot: it goes on in its loop, which echoes.
        // Kept open: QEMU forgets input that the guest hasn't taken when its
        // sender goes.
        let mut console = connect_below(node.dir(), CONSOLE_SOCKET).unwrap();
        console.write_all(b"alive\n").unwrap();
        node.wait_console("alive", SOON);
        drop(console);
        assert!(!node.console().contains("boot"), "{}", node.console());
        node.power_down(SOON);
        node.power_on();
        node.wait_console("boot 2", SOON);
    }
}

#[test]
fn a_snapshot_on_a_changed_image_is_refused() {
    let _one = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let (setup, image) = tiny(&dir);
    let mut node = Node::boot(setup);
    node.wait_console("boot 1", SOON);
    let snapshot = node.snapshot(&dir.path().join("snapshot"));
    let mut changed = guest::tiny_disk();
    changed.push(0);
    std::fs::write(&image, changed).unwrap();
    let target = tempfile::tempdir().unwrap();
    let said = snapshot.restore(target.path(), None).unwrap_err();
    assert!(said.to_string().contains("another image"), "{said}");
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let _one = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::boot(tiny(&dir).0);
    node.wait_console("boot 1", SOON);
    let at = dir.path().join("snapshot");
    let snapshot = node.snapshot(&at);
    let ram = at.join("ram.zst");
    let bytes = std::fs::read(&ram).unwrap();
    let target = tempfile::tempdir().unwrap();
    std::fs::write(&ram, &bytes[..bytes.len() / 2]).unwrap();
    let failure = snapshot.restore(target.path(), None).unwrap_err();
    assert!(
        matches!(failure, Error::Io { .. } | Error::Refused { .. }),
        "{failure}"
    );
}

/// What QEMU finds taken although it was free when we looked.
#[test]
fn a_port_taken_in_the_last_moment_is_named() {
    let _one = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let (mut setup, _) = tiny(&dir);
    setup.ports = vec![80];
    let mut node = Node::boot(setup);
    let machine = node.machine().clone();
    let port = node.port(80);
    node.cut_power();
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    match Vm::start(&machine, node.dir()) {
        Err(Error::PortInUse { port: named, .. }) => assert_eq!(named, port),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_disk_that_is_in_use_is_said_to_be() {
    let _one = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::boot(tiny(&dir).0);
    node.wait_console("boot 1", SOON);
    let other = tempfile::tempdir().unwrap();
    let mut machine = node.machine().clone();
    machine.disks[0].path = node.dir().join("overlay.qcow2");
    let said = Vm::start(&machine, other.path()).unwrap_err().to_string();
    assert!(said.contains("has the machine's disk open"), "{said}");
}

#[test]
fn a_missing_disk_is_named() {
    let _one = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::boot(tiny(&dir).0);
    let mut machine = node.machine().clone();
    node.cut_power();
    machine.disks[0].path = "nowhere.qcow2".into();
    match Vm::start(&machine, node.dir()) {
        Err(Error::StartFailed(said)) => assert!(said.contains("nowhere.qcow2"), "{said}"),
        other => panic!("{other:?}"),
    }
}

/// The control protocol against the real thing.
#[test]
fn qmp_answers_refuses_and_reports() {
    let _one = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::boot(tiny(&dir).0);
    let mut qmp = node.vm().qmp().unwrap();
    assert!(
        qmp.execute("query-version", json!({}))
            .unwrap()
            .pointer("/qemu/major")
            .is_some()
    );
    match qmp.execute("no-such-command", json!({})) {
        Err(Error::Refused {
            command,
            description,
        }) => {
            assert_eq!(command, "no-such-command");
            assert!(description.contains("not been found"), "{description}");
        }
        other => panic!("{other:?}"),
    }
    qmp.execute("stop", json!({})).unwrap();
    qmp.wait_event("the stop", SOON, |e| e.event == "STOP")
        .unwrap();
    assert!(matches!(
        qmp.wait_event("nothing", Duration::from_millis(50), |_| true),
        Err(Error::Timeout { .. })
    ));
    qmp.execute("cont", json!({})).unwrap();
    drop(qmp);
    assert_eq!(node.vm().status().unwrap(), "running");
    node.vm().quit().unwrap();
    node.wait_off(SOON);
}

/// A test that fails must show what the machine said.
#[test]
fn a_failure_shows_the_console() {
    let _one = one_at_a_time();
    let dir = tempfile::tempdir().unwrap();
    let mut node = Node::boot(tiny(&dir).0);
    node.wait_console("boot 1", SOON);
    let failure = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        node.wait_console("never said", Duration::from_millis(50));
    }))
    .unwrap_err();
    let text = failure.downcast_ref::<String>().unwrap();
    assert!(
        text.contains("`never said` on the console took longer"),
        "{text}"
    );
    let evidence = node.evidence();
    assert!(
        evidence.contains("slipway test guest, boot 1"),
        "{evidence}"
    );

    // And a closure's last error.
    let started = Instant::now();
    let failure = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let nobody = slipway_qemu::ports::free().unwrap();
        node.wait_for("an answer", Duration::from_millis(50), |_| {
            TcpStream::connect((Ipv4Addr::LOCALHOST, nobody))
        });
    }))
    .unwrap_err();
    let text = failure.downcast_ref::<String>().unwrap();
    assert!(text.contains("refused"), "{text}");
    assert!(started.elapsed() < SOON);
}
