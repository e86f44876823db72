//! Held against the tool that owns the format: wpa_supplicant reads what was written, with
//! a driver for no radio, and shows what it has understood.

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

/// What wpa_supplicant says of a file while it reads it: secrets, too (-K).
fn understood(access_points: &[AccessPoint], country: Option<&str>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wlan9.conf");
    std::fs::write(&path, render(access_points, country).reveal()).unwrap();
    // There is no such interface, so it ends by itself.
    let out = Command::new("wpa_supplicant")
        .args(["-dd", "-K", "-Dwired", "-iwlan9", "-c"])
        .arg(&path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(!said.contains("Failed to read"), "{said}");
    said
}

/// The bytes of the dumps that `label` stands before, in their order.
fn dumps(said: &str, label: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut lines = said.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(rest) = line.strip_prefix(label) else {
            continue;
        };
        let length = rest.split(['=', ')']).nth(1).unwrap().parse().unwrap();
        let mut bytes = Vec::new();
        while bytes.len() < length {
            // "     68 6f 6d 65 ... home": sixteen at most on a line.
            let line = lines.next().unwrap();
            let here = (length - bytes.len()).min(16);
            let digits = line.trim_start().split(' ').take(here);
            bytes.extend(digits.map(|d| u8::from_str_radix(d, 16).unwrap()));
        }
        found.push(bytes);
    }
    found
}

fn by_wpa_passphrase(ssid: &str, passphrase: &str) -> String {
    let mut child = Command::new("wpa_passphrase")
        .arg(ssid)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{passphrase}").unwrap();
    drop(input);
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

fn network(ssid: &str, security: WifiSecurity) -> AccessPoint {
    AccessPoint {
        ssid: ssid.into(),
        security,
        hidden: false,
        bssid: None,
    }
}

#[test]
fn the_file_as_a_whole() {
    let all = [
        AccessPoint {
            hidden: true,
            bssid: Some("02:00:00:00:01:00".into()),
            ..network("home", WifiSecurity::Wpa2(Secret::new("twelve chars")))
        },
        network("garden", WifiSecurity::Wpa3(Secret::new("a \"b\" #c"))),
        network("guests", WifiSecurity::Open),
        network("key", WifiSecurity::Wpa2(Secret::new("0f".repeat(32)))),
    ];
    let text = render(&all, Some("DE"));
    assert!(!format!("{text:?}").contains("twelve"));
    let (home, key) = (hex(&key("twelve chars", "home")), "0f".repeat(32));
    let expected = format!(
        "country=DE\nsae_pwe=2\np2p_disabled=1\n\
         network={{\nssid=686f6d65\nscan_ssid=1\nbssid=02:00:00:00:01:00\npriority=4\nproto=RSN\n\
         key_mgmt=WPA-PSK WPA-PSK-SHA256\npsk={home}\nieee80211w=1\n\
         bgscan=\"simple:30:-70:600\"\n}}\n\
         network={{\nssid=67617264656e\npriority=3\nproto=RSN\nkey_mgmt=SAE\n\
         sae_password=6120226222202363\nieee80211w=2\nbgscan=\"simple:30:-70:600\"\n}}\n\
         network={{\nssid=677565737473\npriority=2\nkey_mgmt=NONE\n\
         bgscan=\"simple:30:-70:600\"\n}}\n\
         network={{\nssid=6b6579\npriority=1\nproto=RSN\nkey_mgmt=WPA-PSK WPA-PSK-SHA256\n\
         psk={key}\nieee80211w=1\nbgscan=\"simple:30:-70:600\"\n}}\n"
    );
    assert_eq!(text.reveal(), expected);

    let said = understood(&all, Some("DE"));
    for line in [
        "country='DE'",
        "sae_pwe=2",
        "scan_ssid=1 (0x1)",
        "BSSID - hexdump(len=6): 02 00 00 00 01 00",
        // Numbers are places in the list, which messages are told by.
        "   id=0 ssid='home'",
        "   id=3 ssid='key'",
        &format!("PSK - hexdump(len=32): {}", vec!["0f"; 32].join(" ")),
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\n{said}");
    }
}

/// IEEE 802.11, J.4.2.
#[test]
fn the_standards_example() {
    assert_eq!(
        hex(&key("password", "IEEE")),
        "f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a seed may hold arrives byte for byte, and nothing else does.
    #[test]
    fn wpa_supplicant_reads_what_the_seed_says(
        names in proptest::collection::vec("\\PC{1,8}", 1..4),
        passphrase in "[ -~]{8,63}",
        sae in "[ -~]{8,63}",
    ) {
        let mut all: Vec<_> = names
            .iter()
            .map(|ssid| network(ssid, WifiSecurity::Wpa2(Secret::new(&*passphrase))))
            .collect();
        all.push(network("#\"}", WifiSecurity::Wpa3(Secret::new(&*sae))));
        let said = understood(&all, None);
        let ssids: Vec<Vec<u8>> = all.iter().map(|n| n.ssid.clone().into_bytes()).collect();
        prop_assert_eq!(dumps(&said, "ssid - hexdump_ascii(len"), ssids);
        for ssid in &names {
            // Its own tool, which is told by its standard input.
            let line = format!("\tpsk={}\n", hex(&key(&passphrase, ssid)));
            prop_assert!(by_wpa_passphrase(ssid, &passphrase).contains(&line), "{}", line);
        }
        prop_assert_eq!(
            dumps(&said, "sae_password - hexdump_ascii(len"),
            vec![sae.into_bytes()]
        );
    }
}
