use super::page::*;
use super::*;
use slipway_images::node::{Address, ApiInfo, Phase, PhaseResult, Service, ServiceState};
use std::io::Read as _;

fn page() -> Page {
    let service = |name: &str, status: &str| Service {
        name: name.into(),
        description: String::new(),
        state: ServiceState::Ready,
        pid: Some(7),
        since: None,
        restarts: 0,
        status: status.into(),
    };
    Page {
        image: Image {
            title: "1.2.3 for x86_64, Kubernetes v1.36.3".into(),
            slot: Some("a".into()),
        },
        name: "node1".into(),
        boot: Boot {
            booted: true,
            services: vec![
                service("noded", ""),
                service("clusterd", "ready: node node1, 4 pods"),
            ],
            addresses: vec![
                Address {
                    interface: "eth0".into(),
                    address: "fe80::1".parse().unwrap(),
                },
                Address {
                    interface: "eth0".into(),
                    address: "192.0.2.7".parse().unwrap(),
                },
            ],
            ..Boot::default()
        },
        api: Some(ApiInfo {
            port: 7443,
            fingerprint: Some("ab".repeat(32)),
            mdns_name: "node1-2.local".into(),
        }),
        trouble: None,
    }
}

/// What a terminal of this size shows, of the few sequences that a page is made of.
fn shown(frame: &str, columns: usize) -> Vec<String> {
    let text = frame.strip_prefix("\x18\x1b[0m\x1b[?25l\x1b[H").unwrap();
    let text = text.strip_suffix("\x1b[J").unwrap().replace("\x1b[K", "");
    assert!(!text.contains('\x1b'), "{text:?}");
    let lines: Vec<String> = text.split_terminator("\r\n").map(str::to_owned).collect();
    for line in &lines {
        assert!(line.len() < columns, "{line}");
    }
    lines
}

#[test]
fn a_page_says_all_that_it_is_there_for() {
    let lines = shown(&page().screen(80, 25), 80);
    let want = "

  Slipway

  name          node1 (node1-2.local)
  address       192.0.2.7 on eth0
                fe80::1 on eth0
  image         1.2.3 for x86_64, Kubernetes v1.36.3, slot a
  state         booted
  cluster       ready: node node1, 4 pods
  node API      port 7443, certificate SHA-256
                abababababababababababababababababababababababababababab
                abababab
  last error    none

  Alt-F2: messages of the kernel; Alt-F1: back";
    // But for where a long value is cut.
    let text = |page: &str| page.replace(['\n', ' '], "");
    assert_eq!(text(&lines.concat()), text(want));
}

#[test]
fn a_node_about_which_nothing_is_known_has_a_page() {
    let lines = Page::default().lines().join("\n");
    for part in ["none yet", "slot unknown", "not up yet", "none runs"] {
        assert!(lines.contains(part), "{lines}");
    }
}

#[test]
fn every_size_is_kept() {
    let mut page = page();
    page.name = "n".repeat(300);
    page.trouble = Some(Trouble {
        what: "word ".repeat(200),
        ago: Duration::from_secs(90),
    });
    let all = (0..40).map(|n: u8| Address {
        interface: "a-long-name-0".into(),
        address: std::net::IpAddr::from([10, 0, 0, n]),
    });
    page.boot.addresses = all.collect();
    for columns in [1, 20, 40, 80, 132, 500] {
        for rows in [1, 2, 10, 25, 60] {
            let lines = shown(&page.screen(columns, rows), columns.max(1));
            assert!(lines.len() < rows.max(2), "{columns}x{rows}");
        }
    }
    assert!(page.lines().join("\n").contains("and 34 more"));
}

#[test]
fn outside_text_is_escaped() {
    let mut page = page();
    page.trouble = Some(Trouble {
        what: "seed: \x1b[2J\x07evil\nslipway: forged \u{9b}1m ü".into(),
        ago: Duration::ZERO,
    });
    let lines = shown(&page.screen(200, 25), 200);
    let line = lines.iter().find(|l| l.contains("evil")).unwrap();
    assert!(
        line.contains(r"seed: \u{1b}[2J\u{7}evil\nslipway: forged \u{9b}1m \u{fc} (just now)"),
        "{line}"
    );
    assert!(
        page.lines()
            .iter()
            .all(|l| l.is_ascii() && !l.contains('\n'))
    );
}

#[test]
fn the_last_error_is_the_last() {
    let phase = |name: &str, result| Phase {
        name: name.into(),
        result,
        milliseconds: 1,
        note: "line 2".into(),
    };
    let before = Boot::default();
    let mut now = Boot {
        phases: vec![
            phase("seed", PhaseResult::Failed),
            phase("network", PhaseResult::Done),
        ],
        ..Boot::default()
    };
    assert_eq!(trouble(&before, &now).unwrap(), "seed: line 2");
    assert_eq!(trouble(&now, &now), None);
    let before = now.clone();
    now.services = page().boot.services;
    assert_eq!(trouble(&before, &now), None);
    now.services[0].restarts = 1;
    assert!(
        trouble(&before, &now)
            .unwrap()
            .starts_with("noded ended unasked (1 times")
    );
    let before = now.clone();
    now.services[1].status = "degraded: scheduler not ready".into();
    assert_eq!(
        trouble(&before, &now).unwrap(),
        "clusterd: degraded: scheduler not ready"
    );
}

#[test]
fn news_is_told_once_it_has_settled_and_not_all_the_time() {
    let root = tempfile::tempdir().unwrap();
    let mut drawer = Drawer::new(root.path().to_owned());
    drawer.take(Item::Wanted(true));
    drawer.take(Item::Boot(Box::new(page().boot)));
    let start = Instant::now();
    let mut told = Vec::new();
    let mut step = |drawer: &mut Drawer, second: u64| {
        let before = drawer.logged.as_ref().map(|(at, _)| *at);
        drawer.show(start + Duration::from_secs(second));
        if drawer.logged.as_ref().map(|(at, _)| *at) != before {
            told.push(second);
        }
    };
    for second in 0..10 {
        step(&mut drawer, second);
    }
    // Other words of the same state are no news, another state is.
    let mut boot = page().boot;
    boot.services[1].status = "ready: node node1, 9 pods".into();
    drawer.take(Item::Boot(Box::new(boot.clone())));
    for second in 10..50 {
        step(&mut drawer, second);
    }
    for (at, status) in [(50, "degraded: x"), (52, "ready: y"), (54, "degraded: z")] {
        boot.services[1].status = status.into();
        drawer.take(Item::Boot(Box::new(boot.clone())));
        step(&mut drawer, at);
        step(&mut drawer, at + 1);
    }
    for second in 56..100 {
        step(&mut drawer, second);
    }
    boot.ending = Some("rebooting".into());
    boot.addresses.clear();
    drawer.take(Item::Boot(Box::new(boot)));
    for second in 100..200 {
        step(&mut drawer, second);
    }
    assert_eq!(told, [3, 57]);
}

const CONSOLES: &str = "sys/class/tty/console/active";

/// A root whose kernel has a screen, which is a pseudoterminal here.
fn with_screen() -> (tempfile::TempDir, nix::pty::PtyMaster) {
    use nix::fcntl::OFlag;
    use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
    let root = tempfile::tempdir().unwrap();
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    std::fs::create_dir_all(root.path().join("sys/class/tty/console")).unwrap();
    std::fs::create_dir_all(root.path().join("dev")).unwrap();
    std::fs::write(root.path().join(CONSOLES), "tty0 ttyS0\n").unwrap();
    std::os::unix::fs::symlink(ptsname_r(&master).unwrap(), root.path().join(PAGE_TTY)).unwrap();
    (root, master)
}

#[test]
fn a_terminal_that_nobody_reads_holds_nobody_up() {
    let (root, mut master) = with_screen();
    let mut status = StatusPage::start(root.path().to_owned());
    status.wanted(true);
    // More than a terminal takes, and each is another page.
    for n in 0..200_000 {
        let mut boot = page().boot;
        boot.services[1].status = format!("ready: {n}");
        status.tell(&boot);
    }
    // Whoever reads at last finds a page.
    let mut read = String::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !read.contains("ready: ") {
        assert!(Instant::now() < deadline, "{read:?}");
        let mut buffer = [0; 4096];
        match master.read(&mut buffer) {
            Ok(n) => read.push_str(&String::from_utf8_lossy(&buffer[..n])),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

#[test]
fn a_stuck_terminal_costs_a_frame_and_is_drawn_again() {
    let (root, mut master) = with_screen();
    let mut drawer = Drawer::new(root.path().to_owned());
    drawer.take(Item::Wanted(true));
    // Fills it.
    let mut tty = log::open_terminal(&root.path().join(PAGE_TTY)).unwrap();
    log::write_patiently(&mut tty, &vec![b'x'; 1 << 20]).unwrap();
    let now = Instant::now();
    drawer.show(now);
    let mut buffer = vec![0; 1 << 20];
    while master.read(&mut buffer).is_ok() {}
    drawer.show(now + REDRAW);
    let n = master.read(&mut buffer).unwrap();
    assert!(String::from_utf8_lossy(&buffer[..n]).contains("Slipway"));
    // And whoever doesn't want it has an empty terminal.
    while master.read(&mut buffer).is_ok() {}
    drawer.take(Item::Wanted(false));
    drawer.show(now + REDRAW);
    let n = master.read(&mut buffer).unwrap();
    assert!(String::from_utf8_lossy(&buffer[..n]).ends_with("\x1b[J\x1b[?25h"));
}

#[test]
fn without_a_screen_or_a_wish_nothing_is_drawn() {
    let (root, mut master) = with_screen();
    let mut drawer = Drawer::new(root.path().to_owned());
    let now = Instant::now();
    drawer.show(now);
    assert!(drawer.screen.is_none(), "nobody has said yet");
    drawer.take(Item::Wanted(false));
    drawer.show(now + UNDECIDED * 2);
    assert!(drawer.screen.is_none() && master.read(&mut [0; 10]).is_err());
    drawer.wanted = None;
    drawer.show(now + UNDECIDED * 2);
    assert!(drawer.screen.is_some(), "somebody should have said by now");
    std::fs::write(root.path().join(CONSOLES), "ttyS0\n").unwrap();
    assert!(Screen::open(root.path()).is_none());
}
