//! The supervisor with real children, as an ordinary process.
//!
//! One test function: the reaper takes the status of every child of the process, so nothing
//! else may start children beside it.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::process::Command;
use std::time::{Duration, Instant};

use slipway_images::service::{Service, start_order};
use slipway_init::reaper::Reaper;
use slipway_init::supervisor::{Paths, State, Supervisor};

struct Bench {
    dir: tempfile::TempDir,
    reaper: Reaper,
    supervisor: Supervisor,
}

impl Bench {
    fn new(services: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().to_str().unwrap();
        let parsed = services
            .iter()
            .map(|(name, text)| {
                let text = format!("description = \"d\"\n{}", text.replace("DIR", here));
                Service::parse(name, &text).unwrap()
            })
            .collect();
        let paths = Paths {
            logs: dir.path().to_owned(),
            notify: dir.path().join("notify"),
            cgroup: None,
        };
        let reaper = Reaper::default();
        let order = start_order(parsed).unwrap();
        let supervisor = Supervisor::new(order, &paths, reaper.clone()).unwrap();
        Self {
            dir,
            reaper,
            supervisor,
        }
    }

    /// One turn of the main loop.
    fn turn(&mut self) {
        let now = Instant::now();
        for (pid, status) in self.reaper.reap() {
            self.supervisor.exited(pid, status, now);
        }
        self.supervisor.notified(now);
        self.supervisor.tick(now);
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Supervisor) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(&self.supervisor) {
            assert!(Instant::now() < deadline, "not in time: {what}");
            self.turn();
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn is_ready(supervisor: &Supervisor, name: &str) -> bool {
        matches!(supervisor.unit(name).unwrap().state, State::Ready { .. })
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("{name}.log"))).unwrap_or_default()
    }

    fn stop(mut self) {
        self.supervisor.stop_all();
        self.until("everything stopped", Supervisor::is_stopped);
    }
}

/// Sends a datagram from a shell's own process: `exec` keeps the pid.
const NOTIFY: &str = r#"import os, socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for m in sys.argv[1:]:
    s.sendto(m.encode(), os.environ['NOTIFY_SOCKET'])
time.sleep(1000)
"#;

fn python(messages: &str) -> String {
    format!("command = [\"/usr/bin/env\", \"python3\", \"-c\", '''{NOTIFY}''', {messages}]\n")
}

#[test]
fn services() {
    order_and_conditions();
    what_lost_its_condition_is_stopped_and_comes_back();
    readiness_by_socket_and_notify();
    only_the_service_itself_may_notify();
    restart_with_backoff();
    output_is_captured();
    a_silent_service_is_restarted();
    stubborn_ones_are_killed();
    stop_goes_in_reverse();
    orphans_are_reaped_and_tools_get_their_status();
}

fn order_and_conditions() {
    let mut b = Bench::new(&[
        (
            "b",
            "command = [\"/bin/sleep\", \"1000\"]\nafter = [\"a\", \"network\"]",
        ),
        ("a", "command = [\"/bin/sleep\", \"1000\"]"),
    ]);
    b.until("a ready", |s| Bench::is_ready(s, "a"));
    for _ in 0..10 {
        b.turn();
    }
    assert_eq!(b.supervisor.unit("b").unwrap().state, State::Waiting);
    b.supervisor.set_condition("network");
    b.until("b ready", |s| Bench::is_ready(s, "b"));
    b.stop();
}

fn what_lost_its_condition_is_stopped_and_comes_back() {
    let mut b = Bench::new(&[
        (
            "ssh",
            "command = [\"/bin/sleep\", \"1000\"]\nafter = [\"ssh-keys\"]",
        ),
        (
            "other",
            "command = [\"/bin/sleep\", \"1000\"]\nafter = [\"network\"]",
        ),
    ]);
    b.supervisor.set_condition("network");
    b.until("other ready", |s| Bench::is_ready(s, "other"));
    let other = b.supervisor.unit("other").unwrap().pid();
    assert_eq!(b.supervisor.unit("ssh").unwrap().state, State::Waiting);
    for _ in 0..2 {
        b.supervisor.set_condition("ssh-keys");
        b.until("ssh ready", |s| Bench::is_ready(s, "ssh"));
        b.supervisor.withdraw_condition("ssh-keys");
        b.until("ssh waits", |s| {
            s.unit("ssh").unwrap().state == State::Waiting
        });
    }
    // That is no failure, and nothing else was touched.
    assert_eq!(b.supervisor.unit("ssh").unwrap().restarts, 0);
    assert_eq!(b.supervisor.unit("other").unwrap().pid(), other);
    b.stop();
}

fn readiness_by_socket_and_notify() {
    let script = "import socket, time; s = socket.socket(socket.AF_UNIX); time.sleep(0.2); \
                  s.bind('DIR/s'); s.listen(); time.sleep(1000)";
    let socket = format!(
        "command = [\"/usr/bin/env\", \"python3\", \"-c\", \"{script}\"]\nready = {{ socket = \"DIR/s\" }}"
    );
    let notify = format!(
        "{}ready = \"notify\"",
        python("\"STATUS=half\", \"READY=1\\nSTATUS=3 nodes\"")
    );
    let mut b = Bench::new(&[("socket", &socket), ("notify", &notify)]);
    b.turn();
    assert!(!Bench::is_ready(&b.supervisor, "socket"));
    b.until("both ready", |s| {
        Bench::is_ready(s, "socket") && Bench::is_ready(s, "notify")
    });
    let unit = b.supervisor.unit("notify").unwrap();
    assert!(unit.status_is_new && unit.status == "3 nodes");
    b.stop();
}

fn only_the_service_itself_may_notify() {
    // env forks nothing; sh does: the child inherits the address but is not the service.
    let text = "command = [\"/bin/sh\", \"-c\", \"python3 -c \\\"import os,socket; \
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])\\\"; \
                echo sent; sleep 1000\"]\nready = \"notify\"";
    let mut b = Bench::new(&[("x", text)]);
    let log = b.dir.path().join("x.log");
    b.until("the child has sent", |_| {
        std::fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("sent")
    });
    b.turn();
    assert!(!Bench::is_ready(&b.supervisor, "x"));
    b.stop();
}

fn restart_with_backoff() {
    let text = "command = [\"/bin/sh\", \"-c\", \"exit 3\"]\nrestart-delay = \"20ms\"\nrestart-delay-max = \"80ms\"";
    let mut b = Bench::new(&[
        ("x", text),
        (
            "missing",
            "command = [\"/nonexistent\"]\nrestart-delay = \"20ms\"",
        ),
    ]);
    let started = Instant::now();
    b.until("5 restarts", |s| s.unit("x").unwrap().restarts >= 5);
    // 20 + 40 + 80 + 80 ms lie between the five failures.
    assert!(
        started.elapsed() >= Duration::from_millis(220),
        "{:?}",
        started.elapsed()
    );
    assert!(b.supervisor.unit("missing").unwrap().restarts >= 2);
    b.stop();
}

fn output_is_captured() {
    let text = "command = [\"/bin/sh\", \"-c\", \"echo to stdout; echo to stderr >&2; echo $KEY; exec sleep 1000\"]\n\
                environment = { KEY = \"value\" }";
    let mut b = Bench::new(&[("x", text)]);
    let log = b.dir.path().join("x.log");
    b.until("output", |_| {
        std::fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("value")
    });
    let text = b.log("x");
    assert!(
        text.contains("to stdout") && text.contains("to stderr"),
        "{text}"
    );
    assert!(text.contains("--- slipway: started, pid "), "{text}");
    b.stop();
}

fn a_silent_service_is_restarted() {
    let text = format!(
        "{}ready = \"notify\"\nwatchdog = \"100ms\"\nrestart-delay = \"10ms\"",
        python("\"READY=1\"")
    );
    let mut b = Bench::new(&[("x", &text)]);
    b.until("a restart", |s| s.unit("x").unwrap().restarts >= 1);
    let slow = "command = [\"/bin/sleep\", \"1000\"]\nready = \"notify\"\nstart-timeout = \"50ms\"\nrestart-delay = \"10ms\"";
    b.stop();
    let mut b = Bench::new(&[("x", slow)]);
    b.until("a restart of what never gets ready", |s| {
        s.unit("x").unwrap().restarts >= 1
    });
    b.stop();
}

fn stubborn_ones_are_killed() {
    let text = "command = [\"/bin/sh\", \"-c\", \"trap '' TERM; echo armed; while :; do sleep 0.1; done\"]\nstop-timeout = \"200ms\"";
    let mut b = Bench::new(&[("x", text)]);
    let log = b.dir.path().join("x.log");
    b.until("the trap", |_| {
        std::fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("armed")
    });
    let started = Instant::now();
    b.stop();
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert!(started.elapsed() < Duration::from_secs(5));
}

fn stop_goes_in_reverse() {
    let text = |name: &str| {
        format!(
            "command = [\"/bin/sh\", \"-c\", \"trap 'sleep 0.1; echo {name} >> DIR/order; exit' TERM; echo up; while :; do sleep 0.05; done\"]\n"
        )
    };
    let (a, b, c) = (
        text("a"),
        text("b") + "after = [\"a\"]",
        text("c") + "after = [\"b\"]",
    );
    let mut bench = Bench::new(&[("a", &a), ("b", &b), ("c", &c)]);
    let dir = bench.dir.path().to_owned();
    bench.until("all up", |_| {
        ["a", "b", "c"].iter().all(|n| {
            let log = std::fs::read_to_string(dir.join(format!("{n}.log"))).unwrap_or_default();
            log.contains("up\n")
        })
    });
    bench.supervisor.stop_all();
    bench.until("all stopped", Supervisor::is_stopped);
    assert_eq!(
        std::fs::read_to_string(dir.join("order")).unwrap(),
        "c\nb\na\n"
    );
}

fn orphans_are_reaped_and_tools_get_their_status() {
    let reaper = Reaper::default();
    let tool = reaper.clone();
    let thread = std::thread::spawn(move || {
        let good =
            tool.output(Command::new("/bin/sh").args(["-c", "echo out; echo err >&2; exit 7"]));
        let bad = tool.output(&mut Command::new("/nonexistent"));
        (good, bad)
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while !thread.is_finished() && Instant::now() < deadline {
        reaper.reap();
        std::thread::sleep(Duration::from_millis(1));
    }
    let (good, bad) = thread.join().unwrap();
    let (status, text) = good.unwrap();
    assert_eq!(status.code(), Some(7));
    assert_eq!(text, "out\nerr\n");
    assert!(bad.unwrap_err().0.contains("/nonexistent"));
}
