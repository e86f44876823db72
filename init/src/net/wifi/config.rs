//! What wpa_supplicant is told about one interface: a file in the form of
//! wpa_supplicant.conf(5), holding passphrases.
//!
//! | line | from the seed | why so |
//! |---|---|---|
//! | `country=` | `regulatory-domain` | set in the kernel by nl80211 as soon as the interface is taken |
//! | `sae_pwe=2` | | WPA3 by either way of making the password element; some stations want the newer |
//! | `p2p_disabled=1` | | no interface for Wi-Fi Direct beside ours |
//! | `ssid=` | the network's name | in hexadecimal digits: any bytes, no quoting |
//! | `scan_ssid=1` | `hidden` | it is asked for by name |
//! | `priority=` | the order | the higher wins |
//! | `psk=` | a key of WPA2, or what a passphrase stands for | 64 hexadecimal digits; in quotes a passphrase couldn't hold every `"` and `#` |
//! | `sae_password=` | a passphrase of WPA3 | in hexadecimal digits |
//! | `ieee80211w=` | | protection of management frames: 1 where the station has it, 2 always (WPA3) |
//! | `bgscan=` | | looks for a better station of the network: every 30 s while it hears less than -70 dBm, else every 10 min |

use std::fmt::Write;

use pbkdf2::pbkdf2_hmac_array;
use sha1::Sha1;
use slipway_images::hex;
use slipway_images::seed::Secret;
use slipway_images::seed::network::{AccessPoint, WifiSecurity};

/// The file's text. Networks have their place in `access_points` as their number.
#[must_use]
pub fn render(access_points: &[AccessPoint], country: Option<&str>) -> Secret {
    let mut text = String::new();
    if let Some(country) = country {
        line(&mut text, "country", country);
    }
    line(&mut text, "sae_pwe", "2");
    line(&mut text, "p2p_disabled", "1");
    for (place, network) in access_points.iter().enumerate() {
        text.push_str("network={\n");
        line(&mut text, "ssid", &hex(network.ssid.as_bytes()));
        if network.hidden {
            line(&mut text, "scan_ssid", "1");
        }
        if let Some(bssid) = &network.bssid {
            line(&mut text, "bssid", bssid);
        }
        let priority = access_points.len() - place;
        line(&mut text, "priority", &priority.to_string());
        security(&mut text, &network.security, &network.ssid);
        line(&mut text, "bgscan", "\"simple:30:-70:600\"");
        text.push_str("}\n");
    }
    Secret::new(text)
}

/// The key that a passphrase of WPA2 stands for in a network (IEEE 802.11, J.4.1).
fn key(passphrase: &str, ssid: &str) -> [u8; 32] {
    pbkdf2_hmac_array::<Sha1, 32>(passphrase.as_bytes(), ssid.as_bytes(), 4096)
}

fn security(text: &mut String, security: &WifiSecurity, ssid: &str) {
    match security {
        WifiSecurity::Open => line(text, "key_mgmt", "NONE"),
        WifiSecurity::Wpa2(secret) => {
            let secret = secret.reveal();
            line(text, "proto", "RSN");
            line(text, "key_mgmt", "WPA-PSK WPA-PSK-SHA256");
            match secret.len() {
                64 => line(text, "psk", secret),
                _ => line(text, "psk", &hex(&key(secret, ssid))),
            }
            line(text, "ieee80211w", "1");
        }
        WifiSecurity::Wpa3(secret) => {
            line(text, "proto", "RSN");
            line(text, "key_mgmt", "SAE");
            line(text, "sae_password", &hex(secret.reveal().as_bytes()));
            line(text, "ieee80211w", "2");
        }
    }
}

fn line(text: &mut String, key: &str, value: &str) {
    // Writing to a String can't fail.
    crate::ignore(writeln!(text, "{key}={value}"));
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
