//! The network with a real server of DHCPv6 and router advertisements (dnsmasq), on a link of
//! its own in namespaces, without root.
//!
//! Each test runs this program again in its namespaces, as the test `inside`.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use slipway_images::seed::network::{Interface, Kind, Network};
use slipway_init::net::resolv::Resolv;
use slipway_init::net::{self, Handle, News, Shared, TimeServers, dhcp6};

/// Which scene `inside` is to play.
const SCENE: &str = "SLIPWAY_TEST_SCENE";
const NETWORK: &str = "2001:db8:1:";

fn play(scene: &str) {
    let out = Command::new("unshare")
        .args(["-Urnm", "--kill-child", "-pf", "--mount-proc"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "inside", "--ignored", "--nocapture"])
        .env(SCENE, scene)
        .output()
        .unwrap();
    assert!(
        out.status.success() && String::from_utf8_lossy(&out.stdout).contains("1 passed"),
        "{}\n{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn a_network_that_gives_addresses() {
    play("managed");
}

#[test]
fn a_network_that_gives_settings_alone() {
    play("stateless");
}

#[test]
fn a_seed_that_asks_where_routers_say_nothing() {
    play("asked");
}

#[test]
fn an_address_that_another_machine_has() {
    play("taken");
}

#[test]
#[ignore = "the others run it in their namespaces"]
fn inside() {
    match std::env::var(SCENE).unwrap().as_str() {
        "managed" => managed(),
        "stateless" => stateless(),
        "asked" => asked(),
        "taken" => taken(),
        other => panic!("{other}"),
    }
}

fn run(command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let out = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(out.status.success(), "{command}: {out:?}");
}

fn until(what: &str, bench: &Bench, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(
            Instant::now() < end,
            "not in time: {what}\n{}\n{:?}",
            bench.log(),
            bench.news.lock().unwrap()
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A node's eth0, and its router in a namespace of its own.
struct Bench {
    dir: tempfile::TempDir,
    router: Child,
    server: Option<Child>,
    news: Arc<Mutex<Vec<News>>>,
    times: TimeServers,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        run("ip link set lo up");
        let router = Command::new("unshare")
            .args(["-n", "sleep", "600"])
            .spawn()
            .unwrap();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let its = PathBuf::from(format!("/proc/{}/ns/net", router.id()));
        while fs::read_link(&its).is_ok_and(|its| its == own) {
            std::thread::sleep(Duration::from_millis(10));
        }
        run(&format!(
            "ip link add name eth0 type veth peer name lan0 netns {}",
            router.id()
        ));
        // A pair has no hardware behind it; the node is to take it for one that has.
        run("mount -t tmpfs none /sys/class/net");
        fs::create_dir_all("/sys/class/net/eth0/device").unwrap();
        let bench = Self {
            dir,
            router,
            server: None,
            news: Arc::default(),
            times: TimeServers::default(),
        };
        bench.at_router("ip link set lo up");
        bench.at_router(&format!("ip addr add {NETWORK}:1/64 dev lan0 nodad"));
        bench.at_router("ip link set lan0 up");
        bench
    }

    fn at_router(&self, command: &str) {
        run(&format!("nsenter -t {} -n {command}", self.router.id()));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn dnsmasq(&mut self, more: &[&str]) {
        let log = self.path("log");
        fs::write(&log, "").unwrap();
        let server = Command::new("nsenter")
            .args(["-t", &self.router.id().to_string(), "-n", "dnsmasq"])
            .args(["--no-daemon", "--conf-file=/dev/null", "--port=0"])
            .args(["--pid-file", "--log-dhcp"])
            .arg(format!("--log-facility={}", log.display()))
            .arg(format!(
                "--dhcp-leasefile={}",
                self.path("leases").display()
            ))
            .arg("--interface=lan0")
            .args([
                "--dhcp-option=option6:dns-server,[2001:db8:1::53]",
                "--dhcp-option=option6:domain-search,lan.example",
                "--dhcp-option=option6:ntp-server,[2001:db8:1::123]",
            ])
            .args(more)
            .spawn()
            .unwrap();
        self.server = Some(server);
        until("dnsmasq", self, || self.log().contains("started"));
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn start(&self, network: Network) -> Handle {
        let shared = Shared {
            hostname: Some("node1".into()),
            duid: Some(dhcp6::duid("0123456789abcdef0123456789abcdef")),
            resolv: Resolv::new(self.path("resolv.conf")),
            time_servers: self.times.clone(),
        };
        let news = Arc::clone(&self.news);
        net::start(network, shared, move |one| news.lock().unwrap().push(one))
            .unwrap()
            .0
    }

    /// Addresses that the node has come to, without those that are gone.
    fn addresses(&self) -> Vec<IpAddr> {
        let mut all = Vec::new();
        for news in self.news.lock().unwrap().iter() {
            match news {
                News::Address { address, .. } => all.push(*address),
                News::AddressGone { address, .. } => all.retain(|known| known != address),
                News::WifiWanted(_) | News::WifiStatus(_) => {}
            }
        }
        all.sort();
        all.dedup();
        all
    }

    fn has_settings(&self) {
        until("names", self, || {
            fs::read_to_string(self.path("resolv.conf"))
                .is_ok_and(|text| text == "search lan.example\nnameserver 2001:db8:1::53\n")
        });
        until("time", self, || self.times.all() == ["2001:db8:1::123"]);
    }

    fn says(&self, word: &str) {
        until(word, self, || self.log().contains(word));
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for child in std::iter::once(&mut self.router).chain(&mut self.server) {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

fn given() -> IpAddr {
    "2001:db8:1::100".parse().unwrap()
}

/// One address, for two minutes: what is given is known.
const RANGE: &str = "--dhcp-range=2001:db8:1::100,2001:db8:1::100,64,2m";

fn managed() {
    let mut bench = Bench::new();
    bench.dnsmasq(&[RANGE, "--enable-ra"]);
    // Nothing answers by IPv4.
    let handle = bench.start(Network::default());
    until("an address", &bench, || bench.addresses() == [given()]);
    bench.has_settings();
    let out = Command::new("ip").args(["-6", "route"]).output().unwrap();
    let routes = String::from_utf8(out.stdout).unwrap();
    assert!(routes.contains("default via fe80::"), "{routes}");
    let leases = fs::read_to_string(bench.path("leases")).unwrap();
    assert!(leases.contains(" node1 00:04:"), "{leases}");

    // The cable is pulled and put in again: the same address is asked for.
    bench.at_router("ip link set lan0 down");
    until("no carrier", &bench, || {
        let link = Command::new("ip").args(["link", "show", "eth0"]).output();
        String::from_utf8(link.unwrap().stdout).is_ok_and(|text| text.contains("NO-CARRIER"))
    });
    bench.at_router(&format!("ip addr replace {NETWORK}:1/64 dev lan0 nodad"));
    bench.at_router("ip link set lan0 up");
    bench.says("DHCPCONFIRM");

    // A seed sets the network up otherwise: it is given back.
    let eth0 = Interface {
        accept_ra: Some(false),
        ..Interface::new("eth0", Kind::Ethernet)
    };
    let interfaces = vec![eth0];
    handle.change(Network { interfaces }, None).unwrap();
    bench.says("DHCPRELEASE");
    assert!(bench.addresses().is_empty());
    until("no settings", &bench, || {
        bench.times.all().is_empty()
            && fs::read_to_string(bench.path("resolv.conf")).is_ok_and(|text| text.is_empty())
    });
}

fn stateless() {
    let mut bench = Bench::new();
    bench.dnsmasq(&["--dhcp-range=2001:db8:1::,ra-stateless", "--enable-ra"]);
    let _handle = bench.start(Network::default());
    bench.has_settings();
    bench.says("DHCPINFORMATION-REQUEST");
    // The address is the router's prefix with something of its own.
    until("an address", &bench, || !bench.addresses().is_empty());
    assert!(bench.addresses()[0].to_string().starts_with(NETWORK));
    assert!(!bench.log().contains("DHCPSOLICIT"));
}

fn asked() {
    let mut bench = Bench::new();
    bench.dnsmasq(&[RANGE]);
    let eth0 = Interface {
        dhcp6: true,
        ..Interface::new("eth0", Kind::Ethernet)
    };
    let interfaces = vec![eth0];
    let _handle = bench.start(Network { interfaces });
    until("an address", &bench, || bench.addresses() == [given()]);
    bench.has_settings();
}

fn taken() {
    let mut bench = Bench::new();
    // The router speaks for the address.
    let ipv6 = "sysctl -qw net.ipv6.conf";
    bench.at_router(&format!("{ipv6}.all.forwarding=1"));
    bench.at_router(&format!("{ipv6}.lan0.proxy_ndp=1"));
    bench.at_router("ip -6 neigh add proxy 2001:db8:1::100 dev lan0");
    bench.dnsmasq(&[RANGE, "--enable-ra"]);
    let _handle = bench.start(Network::default());
    bench.says("DHCPDECLINE");
    assert!(bench.addresses().is_empty());
}
