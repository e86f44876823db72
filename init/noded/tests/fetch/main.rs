//! A seed by URL as a boot has it: `init`'s part and `noded fetch`, both real, against a real
//! server on loopback that does what servers do.
//!
//! The reaper takes the status of every child of the process: all tests share one, and start
//! children by it alone.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

mod server;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use slipway_access::node_api::serving;
use slipway_access::pki::{CertificateAuthority, KeyCertificate};
use slipway_images::seed::url::{FETCHED_FILE, SeedUrl};
use slipway_images::seed::{APPLIED_FILE, Applied, Documents, Secret, Seed, outside};
use slipway_init::phase::Outcome;
use slipway_init::reaper::Reaper;
use slipway_init::seed::remote::{Fetcher, kept};
use slipway_init::seed::{Data, Names, applied};

use server::{Reply, Server};

const GOOD: &str = "#cloud-config\nhostname: fetched\nslipway: {cluster: {token: hunter22}}\n";
const ENDLESS: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(1500);

fn reaper() -> &'static Reaper {
    static REAPER: OnceLock<Reaper> = OnceLock::new();
    REAPER.get_or_init(|| {
        let reaper = Reaper::default();
        let mine = reaper.clone();
        std::thread::spawn(move || {
            loop {
                mine.reap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        reaper
    })
}

/// A machine that is booted again and again.
struct Machine {
    root: tempfile::TempDir,
    program: PathBuf,
    limit: Duration,
    patience: Duration,
    data: bool,
}

impl Machine {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for dir in ["etc/ssl/certs", "var/lib/slipway", "run"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let machine = Self {
            root,
            program: env!("CARGO_BIN_EXE_noded").into(),
            limit: ENDLESS,
            patience: Duration::from_secs(5),
            data: true,
        };
        machine.trust("");
        machine
    }

    /// One that has no time for a server that doesn't answer as it should.
    fn hasty() -> Self {
        Self {
            limit: SHORT,
            patience: SHORT / 6,
            ..Self::new()
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// The image's CAs.
    fn trust(&self, bundle: &str) {
        fs::write(self.at("etc/ssl/certs/ca-certificates.crt"), bundle).unwrap();
    }

    fn boot(&self, url: &str) -> (Option<Seed>, Outcome) {
        fs::remove_dir_all(self.at("run")).unwrap();
        fs::create_dir_all(self.at("run/slipway")).unwrap();
        let url = SeedUrl::parse(url).unwrap();
        let fetcher = Fetcher {
            root: self.root.path(),
            reaper: reaper(),
            program: &self.program,
            first: self.limit,
            again: self.limit,
            patience: self.patience,
            data: Data::Safe,
        };
        let kept = self.data.then(|| kept(self.root.path(), &url)).flatten();
        let settled = fetcher.settle(&url, &Names::default(), kept, self.data);
        let handed_on = fs::read_to_string(self.at("run/slipway/seed.json")).ok();
        let handed_on = handed_on.map(|text| Seed::from_json(&text).unwrap());
        assert_eq!(handed_on, settled.0, "what clusterd reads");
        settled
    }

    /// Boots with a good seed.
    fn seeded(&self, url: &str) -> (Seed, String) {
        let (seed, outcome) = self.boot(url);
        let note = outcome.unwrap();
        (seed.unwrap(), note)
    }

    /// Boots without any; why.
    fn unseeded(&self, url: &str) -> String {
        let (seed, outcome) = self.boot(url);
        assert_eq!(seed, None);
        let why = outcome.unwrap_err().0;
        assert!(!self.at(FETCHED_FILE).exists(), "kept: {why}");
        why
    }
}

/// A server with a good seed, and nothing else but what `more` says.
fn good(more: impl Fn(&str, usize) -> Option<Reply> + Send + Sync + 'static) -> Server {
    Server::http(move |path, before| more(path, before).unwrap_or_else(|| document(path)))
}

fn document(path: &str) -> Reply {
    match path {
        "/user-data" => Reply::Text(GOOD.into()),
        _ => Reply::Status(404),
    }
}

fn name(seed: &Seed) -> &str {
    seed.hostname.as_deref().unwrap_or_default()
}

#[test]
fn a_good_seed_is_in_force_and_kept() {
    let server = good(|path, _| match path {
        "/meta-data" => Some(Reply::Text("instance-id: i1\n".into())),
        "/network-config" => Some(Reply::Text(
            "version: 2\nethernets: {e: {dhcp4: true}}\n".into(),
        )),
        _ => None,
    });
    let machine = Machine::new();
    let (seed, note) = machine.seeded(&server.url());
    assert_eq!(name(&seed), "fetched");
    assert_eq!(seed.instance_id.as_deref(), Some("i1"));
    assert!(seed.network.is_some());
    assert_eq!(note, format!("from {}", server.url()));
    assert_eq!(
        server.asked(),
        ["/user-data", "/network-config", "/meta-data"]
    );
    for file in [FETCHED_FILE, "run/slipway/seed.json"] {
        let mode = fs::metadata(machine.at(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let directory = machine.at(FETCHED_FILE);
    let mode = fs::metadata(directory.parent().unwrap())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    // Nothing of it stays in memory.
    assert!(!machine.at("run/slipway/seed-fetched.json").exists());
    let url = SeedUrl::parse(&server.url()).unwrap();
    let kept = kept(machine.root.path(), &url).unwrap();
    assert_eq!(outside(machine.root.path()), Ok(kept.files.digest()));
}

#[test]
fn only_user_data_must_be_there() {
    let server = good(|_, _| None);
    assert_eq!(name(&Machine::new().seeded(&server.url()).0), "fetched");
    let empty = Server::http(|_, _| Reply::Status(404));
    let machine = Machine::new();
    let why = machine.unseeded(&empty.url());
    assert!(
        why.contains("user-data") && why.contains("no such file"),
        "{why}"
    );
    assert_eq!(
        empty.asked(),
        ["/user-data"],
        "a decision isn't asked for again"
    );
    let denied = Server::http(|_, _| Reply::Status(403));
    let why = machine.unseeded(&denied.url());
    assert!(why.contains("403"), "{why}");
    assert_eq!(denied.asked().len(), 1);
}

#[test]
fn what_may_pass_is_tried_again() {
    let begins =
        || Reply::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n#cloud-config".into());
    let server = good(move |path, before| match (path, before) {
        ("/user-data", 0) => Some(Reply::Status(500)),
        ("/user-data", 1) => Some(begins()),
        ("/user-data", 2) => Some(Reply::Raw(Vec::new())),
        ("/meta-data", 0) => Some(Reply::Status(429)),
        _ => None,
    });
    assert_eq!(name(&Machine::new().seeded(&server.url()).0), "fetched");
    let times = |wanted: &str| server.asked().iter().filter(|p| *p == wanted).count();
    assert_eq!((times("/user-data"), times("/meta-data")), (4, 2));
}

#[test]
fn a_server_that_never_does_is_given_up() {
    let cut_off = b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n#cloud-config".to_vec();
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n#cloud-config".to_vec();
    let no_http = b"220 mail ready\r\n".to_vec();
    type Make = fn(Vec<u8>) -> Reply;
    let answers: [(&str, Make, Vec<u8>); 5] = [
        ("timeout", |_| Reply::Silence, Vec::new()),
        ("503", |_| Reply::Status(503), Vec::new()),
        ("", Reply::Raw, cut_off),
        ("", Reply::Raw, chunked),
        ("", Reply::Raw, no_http),
    ];
    let checks = answers.map(|(said, reply, bytes)| {
        std::thread::spawn(move || {
            let server = Server::http(move |_, _| reply(bytes.clone()));
            let why = Machine::hasty().unseeded(&server.url());
            assert!(
                why.contains(said) && why.contains("given up after"),
                "{why}"
            );
            assert!(server.asked().len() > 1, "tried once: {why}");
        })
    });
    for check in checks {
        check.join().unwrap();
    }
    // Nobody there at all.
    let gone = good(|_, _| None).url();
    let why = Machine::hasty().unseeded(&gone);
    assert!(why.contains("refused") && why.contains("given up"), "{why}");
    // Half a seed is none.
    let half = good(|path, _| (path == "/meta-data").then_some(Reply::Status(502)));
    let why = Machine::hasty().unseeded(&half.url());
    assert!(why.contains("meta-data") && why.contains("502"), "{why}");
}

#[test]
fn what_is_too_large_or_no_text_is_refused_at_once() {
    let mib = 1 << 20;
    let announced = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", mib + 1);
    let mut unannounced = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n#".to_vec();
    unannounced.resize(unannounced.len() + mib, b'a');
    let binary = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe".to_vec();
    for (bytes, said) in [
        (announced.into_bytes(), "larger than 1 MiB"),
        (unannounced, "larger than 1 MiB"),
        (binary, "not UTF-8"),
    ] {
        let server = Server::http(move |_, _| Reply::Raw(bytes.clone()));
        let why = Machine::new().unseeded(&server.url());
        assert!(why.contains(said), "{why}");
        assert_eq!(server.asked().len(), 1);
    }
    // As large as it may be.
    let server = good(move |path, _| {
        let text = format!("#cloud-config\nhostname: large\n{}", "#".repeat(mib - 31));
        (path == "/user-data").then_some(Reply::Text(text))
    });
    assert_eq!(name(&Machine::new().seeded(&server.url()).0), "large");
}

#[test]
fn redirects_are_followed_but_not_for_ever() {
    let server = good(|path, _| match path {
        "/moved/user-data" => Some(Reply::Redirect("/user-data".into())),
        "/loop/user-data" => Some(Reply::Redirect("/loop/user-data".into())),
        "/file/user-data" => Some(Reply::Redirect("file:///etc/passwd".into())),
        _ => None,
    });
    let machine = Machine::new();
    let why = machine.unseeded(&format!("{}loop/", server.url()));
    assert!(why.contains("more than 5 redirects"), "{why}");
    assert_eq!(server.asked().len(), 6);
    let why = Machine::hasty().unseeded(&format!("{}file/", server.url()));
    assert!(!why.contains("root:"), "{why}");
    let (seed, _) = machine.seeded(&format!("{}moved/", server.url()));
    assert_eq!(name(&seed), "fetched");
}

fn authority(begin: SystemTime) -> (CertificateAuthority, KeyCertificate) {
    let ca = CertificateAuthority::generate("web", begin).unwrap();
    let now = SystemTime::now().max(begin);
    let local = vec![std::net::Ipv4Addr::LOCALHOST.into()];
    let pair = serving(&ca, "web", local, now).unwrap();
    (ca, pair)
}

#[test]
fn a_certificate_must_hold_by_the_images_cas() {
    let hour = Duration::from_secs(3600);
    let (ca, pair) = authority(SystemTime::now() - hour);
    let (stranger, _) = authority(SystemTime::now() - hour);
    let server = Server::https(&pair, |path, _| document(path));
    let machine = Machine::new();
    for bundle in ["", stranger.certificate_pem()] {
        machine.trust(bundle);
        let why = machine.unseeded(&server.url());
        assert!(why.contains("certificate doesn't hold"), "{why}");
    }
    // One of many; and one that makes no sense among them.
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let bundle = [stranger.certificate_pem(), broken, ca.certificate_pem()].concat();
    machine.trust(&bundle);
    assert_eq!(name(&machine.seeded(&server.url()).0), "fetched");
    // For another name.
    let elsewhere = serving(&ca, "web", Vec::new(), SystemTime::now()).unwrap();
    let other = Server::https(&elsewhere, |path, _| document(path));
    let machine = Machine::new();
    machine.trust(&bundle);
    let why = machine.unseeded(&other.url());
    assert!(why.contains("certificate doesn't hold"), "{why}");

    // Nobody is led from a certificate to where there is none.
    let plain = good(|_, _| None);
    let to = plain.url();
    let leading = Server::https(&pair, move |path, _| {
        Reply::Redirect(format!("{}{}", to, path.trim_start_matches('/')))
    });
    let why = machine.unseeded(&leading.url());
    assert!(why.contains("leads from https:// to http://"), "{why}");
    assert!(plain.asked().is_empty());

    fs::remove_file(machine.at("etc/ssl/certs/ca-certificates.crt")).unwrap();
    let why = machine.unseeded(&server.url());
    assert!(why.contains("ca-certificates.crt"), "{why}");
}

#[test]
fn a_clock_that_is_behind_may_still_be_set() {
    let (ca, pair) = authority(SystemTime::now() + Duration::from_secs(3600));
    let server = Server::https(&pair, |path, _| document(path));
    let machine = Machine::hasty();
    machine.trust(ca.certificate_pem());
    let why = machine.unseeded(&server.url());
    assert!(
        why.contains("isn't valid yet") && why.contains("given up"),
        "{why}"
    );
}

#[test]
fn a_seed_that_is_refused_is_no_seed() {
    let page =
        Server::http(|_, _| Reply::Text("<html>Log in to the guests' network</html>".into()));
    let why = Machine::new().unseeded(&page.url());
    assert!(
        why.contains("user-data") && why.contains(&page.url()),
        "{why}"
    );
    let machine = Machine::new();
    let wrong = Server::http(|path, _| match path {
        "/user-data" => Reply::Text("#cloud-config\nhostname: [a]\n".into()),
        _ => Reply::Status(404),
    });
    let why = machine.unseeded(&wrong.url());
    assert!(why.contains("user-data:2:11"), "{why}");
}

#[test]
fn without_its_server_a_node_boots_as_before() {
    let machine = Machine::hasty();
    let server = good(|_, _| None);
    let url = server.url();
    machine.seeded(&url);
    let (_, note) = machine.seeded(&url);
    assert!(note.ends_with("as before"), "{note}");
    let text = fs::read(machine.at(FETCHED_FILE)).unwrap();
    drop(server);
    let (seed, note) = machine.seeded(&url);
    assert_eq!(name(&seed), "fetched");
    assert!(
        note.contains("kept from before is used") && note.contains("refused"),
        "{note}"
    );
    assert_eq!(fs::read(machine.at(FETCHED_FILE)).unwrap(), text);

    // Another URL has nothing to do with it, and no other seed takes its place.
    let (seed, outcome) = machine.boot(&format!("{url}other/"));
    assert_eq!(seed, None);
    assert!(outcome.unwrap_err().0.contains("other/"));
    assert_eq!(fs::read(machine.at(FETCHED_FILE)).unwrap(), text);

    // What was damaged isn't used.
    fs::write(machine.at(FETCHED_FILE), &text[..text.len() - 9]).unwrap();
    assert_eq!(machine.boot(&url).0, None);
}

#[test]
fn a_changed_seed_takes_effect_and_a_broken_one_does_not() {
    let machine = Machine::new();
    let server = Server::http(|path, before| match (path, before) {
        ("/user-data", 0) => Reply::Text(GOOD.into()),
        ("/user-data", 1) => Reply::Text(GOOD.replace("fetched", "changed")),
        ("/user-data", _) => Reply::Text("#cloud-config\nhostname: [a]\n".into()),
        _ => Reply::Status(404),
    });
    assert_eq!(name(&machine.seeded(&server.url()).0), "fetched");
    assert_eq!(name(&machine.seeded(&server.url()).0), "changed");
    let (seed, outcome) = machine.boot(&server.url());
    assert_eq!(name(&seed.unwrap()), "changed");
    let why = outcome.unwrap_err().0;
    assert!(
        why.contains("user-data:2:11") && why.contains("kept from before"),
        "{why}"
    );
}

#[test]
fn what_is_applied_meanwhile_gives_way_to_what_is_fetched() {
    let machine = Machine::hasty();
    let server = good(|_, before| (before == 0).then_some(Reply::Status(404)));
    let url = server.url();
    machine.unseeded(&url);
    let rescue = Applied {
        over: outside(machine.root.path()).unwrap(),
        files: Documents {
            user_data: Secret::new("#cloud-config\nhostname: rescue\n"),
            network_config: None,
            meta_data: None,
        },
    };
    assert_ne!(rescue.over, slipway_images::seed::NOTHING);
    fs::create_dir_all(machine.at(APPLIED_FILE).parent().unwrap()).unwrap();
    fs::write(
        machine.at(APPLIED_FILE),
        serde_json::to_vec(&rescue).unwrap(),
    )
    .unwrap();
    let applied = || applied(machine.root.path(), Data::Safe).unwrap();
    assert_eq!(name(&applied().unwrap()), "rescue");
    machine.seeded(&url);
    assert_eq!(applied(), None);
}

#[test]
fn without_a_data_partition_it_is_used_and_not_kept() {
    let machine = Machine {
        data: false,
        ..Machine::new()
    };
    let server = good(|_, _| None);
    let (_, note) = machine.seeded(&server.url());
    assert!(note.contains("isn't kept"), "{note}");
    assert!(!machine.at(FETCHED_FILE).exists());
    // One that can't be written: used, and said.
    let machine = Machine::new();
    fs::write(machine.at("var/lib/slipway/seed"), "in the way").unwrap();
    let (seed, outcome) = machine.boot(&server.url());
    assert_eq!(name(&seed.unwrap()), "fetched");
    let why = outcome.unwrap_err().0;
    assert!(why.contains("can't be kept"), "{why}");
}

fn script(machine: &mut Machine, text: &str) {
    machine.program = machine.at("program");
    fs::write(&machine.program, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&machine.program, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_program_that_fails_or_hangs_holds_nobody_up() {
    let url = "http://ann:secret1@h/?t=secret2";
    let mut machine = Machine::new();
    script(&mut machine, "echo 'noded: out of memory' >&2; exit 1");
    assert_eq!(machine.unseeded(url), "out of memory");
    script(&mut machine, "exit 7");
    assert!(machine.unseeded(url).contains("ended with exit status: 7"));
    script(&mut machine, "exit 0");
    assert!(machine.unseeded(url).contains("nothing was left"));
    script(&mut machine, r#"echo '{"url": "secret3"' > "$5""#);
    assert!(machine.unseeded(url).contains("damaged in line"));
    machine.program = "/nonexistent/noded".into();
    assert!(machine.unseeded(url).contains("/nonexistent/noded"));
    // With children of its own that hold its output.
    machine.limit = Duration::from_millis(1);
    let mark = machine.at("pid");
    script(
        &mut machine,
        &format!("echo $$ > {}; sleep 1000; sleep 1000", mark.display()),
    );
    let why = machine.unseeded(url);
    assert!(why.contains("not done in time, and killed"), "{why}");
    let real = Machine::hasty().unseeded("http://ann:secret1@127.0.0.1:1/?t=secret2");
    for text in [why, real] {
        assert!(!text.contains("secret"), "{text}");
    }
    let pid = fs::read_to_string(mark).unwrap();
    let process = Path::new("/proc").join(pid.trim());
    for _ in 0..1000 {
        if !process.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} still runs", process.display());
}
