//! A node that joins wireless networks: its image's kernel simulates two radios, one of which
//! is made a station by hostapd, within the machine. What is said between them is what real
//! radios say: beacons, WPA2's and WPA3's handshakes, encrypted frames.
//!
//! Boots `$SLIPWAY_WIFI_IMAGE`, or what `slipway build test-wifi` left in target/images.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use slipway_images::node::PORT;
use slipway_qemu::harness::Setup;

use super::flashed::{AGENT, Owned, append, seeds};
use super::machine::{MINUTE, image_of, run};

/// The seed's, with all that a careless writer of the file would stumble over.
const HOME: &str = "home \" #1";
const PASSPHRASE: &str = "it's \"right\" #1 \\";
const GARDEN: &str = "a garden's secret";

/// A station for hostapd.
fn station(ssid: &str, more: &[&str]) -> String {
    let ssid: String = ssid.bytes().map(|byte| format!("{byte:02x}")).collect();
    let common = format!(
        "interface=wlan1\ndriver=nl80211\nssid2={ssid}\nhw_mode=g\nwpa=2\nrsn_pairwise=CCMP\n"
    );
    format!("{common}{}\n", more.join("\n"))
}

/// The agent's seed as a CD: a wireless interface and no other, and the stations' files, one of which is of the first network's name and has another passphrase.
fn seed(scratch: &Path) -> PathBuf {
    let seed = scratch.join("home").join(AGENT);
    let home = |passphrase: &str| {
        let passphrase = format!("wpa_passphrase={passphrase}");
        station(HOME, &["channel=1", "wpa_key_mgmt=WPA-PSK", &passphrase])
    };
    let garden = station(
        "garden",
        &[
            "channel=6",
            "wpa_key_mgmt=SAE",
            &format!("sae_password={GARDEN}"),
            "ieee80211w=2",
            "ignore_broadcast_ssid=1",
        ],
    );
    let leases = "interface wlan1\nstart 192.168.77.50\nend 192.168.77.60\nlease_file /run/leases\n\
                  pidfile /run/udhcpd.pid\noption subnet 255.255.255.0\n";
    let files = serde_json::json!([
        {"path": "/run/other.conf", "content": home("it's another's")},
        {"path": "/run/home.conf", "content": home(PASSPHRASE)},
        {"path": "/run/garden.conf", "content": garden},
        {"path": "/run/udhcpd.conf", "content": leases},
        {"path": "/run/leases", "content": ""},
    ]);
    append(&seed.join("user-data"), &format!("write_files: {files}\n"));
    let network = serde_json::json!({
        "version": 2,
        "wifis": {"wlan0": {
            "dhcp4": true,
            "regulatory-domain": "DE",
            "access-points": {
                HOME: {"password": PASSPHRASE},
                "garden": {"hidden": true, "auth": {"key-management": "sae", "password": GARDEN}},
            },
        }},
    });
    fs::write(seed.join("network-config"), network.to_string()).unwrap();
    let volume = scratch.join("seed.iso");
    let mut cd = Command::new("genisoimage");
    cd.args(["-quiet", "-volid", "cidata", "-joliet", "-rock", "-output"]);
    run(cd.arg(&volume).arg(&seed));
    volume
}

/// Waits until the console says something, or has said it.
fn says(owned: &mut Owned, text: &str) {
    owned.node.wait_for(text, 2 * MINUTE, |node| {
        let said = node.console().contains(text);
        said.then_some(()).ok_or("the console doesn't say it")
    });
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn wireless_networks_are_joined() {
    let scratch = seeds();
    let mut setup = Setup::new(image_of("SLIPWAY_WIFI_IMAGE", "test-wifi"));
    setup.ports = vec![PORT];
    setup.volumes = vec![seed(scratch.path())];
    let mut owned = Owned::of(AGENT, setup, scratch);
    // In the order of the file, which JSON's writer has sorted.
    let none = format!("finds no network of network-config: \"garden\", {HOME:?}");
    owned.wait_phases(&[("seed", "from /dev/vdb"), ("network", "")]);
    says(&mut owned, &none);
    // The API has answered by cable, though the seed names none: there is nothing else.
    let unnamed = "no interface of network-config can be used; DHCP is used";
    says(&mut owned, unnamed);

    // Who is of that name has another passphrase.
    owned.shell("busybox ip addr add 192.168.77.1/24 dev wlan1; hostapd -B /run/other.conf");
    let wrong = format!("degraded: wlan0 isn't let into {HOME:?}: the passphrase");
    says(&mut owned, &wrong);
    let status = owned.operator(&["status"]);
    assert!(status.contains(&wrong), "{status}");
    // So does the page on the screen.
    let screen = owned.shell("cat /dev/vcs1");
    for word in [
        AGENT,
        "certificate SHA-256",
        "wifi: degraded: wlan0 isn't let in",
        "Alt-F2",
    ] {
        assert!(screen.contains(word), "{word}: {screen}");
    }

    // WPA2. An address comes over the air.
    owned.shell(
        "busybox killall hostapd; sleep 1; hostapd -B /run/home.conf; busybox udhcpd /run/udhcpd.conf",
    );
    let joined = format!("wlan0 has joined {HOME:?}");
    says(&mut owned, &joined);
    says(&mut owned, "address 192.168.77.5");
    let said = owned.shell("busybox ls -ld /run/slipway/wifi /run/slipway/wifi/*; busybox ps");
    for word in ["drwx------", "-rw-------", "wpa_supplicant -g"] {
        assert!(said.contains(word), "{said}");
    }

    // It vanishes, and the next of the list is joined: WPA3, and hidden.
    owned.shell("busybox killall hostapd; sleep 1; hostapd -B /run/garden.conf");
    let joined = "wlan0 has joined \"garden\"";
    says(&mut owned, joined);

    // The country's rules hold, and nothing tells a secret: no log, no process.
    let log = owned.operator(&["logs", "wifi"]);
    assert!(log.contains("type=COUNTRY alpha2=DE"), "{log}");
    let all = format!("{log}{said}{}", owned.node.console());
    for secret in [PASSPHRASE, GARDEN] {
        assert!(!all.contains(secret), "{all}");
    }
    owned.node.power_down(2 * MINUTE);
}
