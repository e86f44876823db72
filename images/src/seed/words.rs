//! Scalars with rules: names, addresses, keys, times, choices. Each is checked once, here.

use std::net::{IpAddr, SocketAddr};

use super::cidr::Cidr;
use super::read::Word;
use super::shape::Text;
use super::{San, Secret};
use crate::near::near_miss;
use crate::service::parse_duration;

/// Rules of a scalar that is no secret and has no fixed choices.
pub const fn text(what: &'static str) -> Text {
    Text {
        what,
        choices: &[],
        secret: false,
    }
}

const fn secret(what: &'static str) -> Text {
    Text {
        what,
        choices: &[],
        secret: true,
    }
}

/// Makes a [`Word`] of an enumeration.
macro_rules! choice {
    ($type:ty { $($word:literal => $value:expr),* $(,)? }) => {
        impl $crate::seed::read::Word for $type {
            const TEXT: $crate::seed::shape::Text = $crate::seed::shape::Text {
                what: "one of a few words",
                choices: &[$($word),*],
                secret: false,
            };
            fn parse(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok($value),)*
                    _ => Err($crate::seed::words::not_among(text, Self::TEXT.choices)),
                }
            }
        }
    };
}
pub(super) use choice;

/// Why a word that isn't among the choices is refused.
pub fn not_among(text: &str, choices: &[&'static str]) -> String {
    match near_miss(text, choices.iter().copied()) {
        Some(near) => format!("is none of {}; did you mean {near}?", choices.join(", ")),
        None => format!("is none of {}", choices.join(", ")),
    }
}

/// Makes newtypes of texts: name, what it is, whether secret, and the check.
macro_rules! word {
    ($($(#[$doc:meta])* $name:ident($rules:expr) = $check:expr;)*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
            pub struct $name(pub String);

            impl Word for $name {
                const TEXT: Text = $rules;
                fn parse(text: &str) -> Result<Self, String> {
                    let check: fn(&str) -> Result<String, String> = $check;
                    check(text).map(Self)
                }
            }
        )*
    };
}

word! {
    /// Any text.
    Words(text("text")) = |text| Ok(text.to_owned());
    /// An RFC 1123 name, lower-case.
    DnsName(text("RFC 1123 name")) = dns_name;
    /// An RFC 1123 label, lower-case.
    Label(text("RFC 1123 label")) = |text| {
        let lower = text.to_ascii_lowercase();
        if is_label(&lower) { Ok(lower) } else { Err("is no name of letters, digits and hyphens".into()) }
    };
    /// A DNS name or an address.
    Host(text("RFC 1123 name or IP address")) = |text| match text.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => dns_name(text),
    };
    /// A DNS name or an address, and perhaps a port.
    HostPort(text("HOST or HOST:PORT")) = host_port;
    /// A time zone's name; whether the image has it is known on the node only.
    Zone(text("Area/City")) = zone;
    /// An OpenSSH public key.
    SshKey(text("OpenSSH public key")) = ssh_key;
    /// A user's name.
    UserName(text("user name")) = |text| {
        if is_user(text) { Ok(text.to_owned()) } else {
            Err("is no user's name: at most 32 of a-z, 0-9, _ and -, beginning with a letter or _".into())
        }
    };
    /// A PEM of one or more certificates.
    PemCertificate(text("PEM certificate")) = |text| pem(text, "CERTIFICATE");
    /// A secret text of one line at least.
    SecretWord(secret("secret text")) = |text| match text.trim() {
        "" => Err("is empty".into()),
        text => Ok(text.to_owned()),
    };
    /// A PEM of a private key.
    PemKey(secret("PEM private key")) = |text| pem(text, "PRIVATE KEY");
    /// A URL without credentials in it.
    Url(secret("http:// or https:// URL")) = |text| {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let Some(rest) = rest else {
            return Err("is no URL that begins with https:// or http://".into());
        };
        let (host, _) = rest.split_once('/').unwrap_or((rest, ""));
        if host.contains('@') {
            return Err("has a user in its host; credentials have keys of their own".into());
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err("has a blank in it".into());
        }
        host_port(host).map_err(|_| "has no host".to_owned())?;
        Ok(text.to_owned())
    };
    /// A program: an absolute path.
    Program(text("absolute path")) = |path| {
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        match path.strip_prefix('/') {
            Some(rest) if rest.split('/').all(plain) && !path.contains('\0') => Ok(path.to_owned()),
            _ => Err("is no absolute path without `.`, `..` and double slashes".into()),
        }
    };
    /// A MAC address, lower-case with colons.
    Mac(text("MAC address")) = mac;
    /// An interface's name, as Linux takes it.
    InterfaceName(text("interface name, at most 15 characters")) = |text| {
        let fits = !text.is_empty() && text.len() <= 15 && text != "." && text != "..";
        let plain = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':' && b != b'%';
        if fits && text.bytes().all(plain) { Ok(text.to_owned()) } else {
            Err("is no interface's name: at most 15 letters, digits and -_.".into())
        }
    };
    /// What an interface is called in its file.
    InterfaceId(text("id of an interface")) = |text| Ok(text.to_owned());
    /// A glob of names.
    Glob(text("name, with * ? []")) = |text| {
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c == '/') {
            Err("is no name or glob".into())
        } else {
            Ok(text.to_owned())
        }
    };
}

/// A length of time in seconds, at most a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub u64);

impl Word for Span {
    const TEXT: Text = text("time, such as `90s`, `10m`, `2h`");

    fn parse(text: &str) -> Result<Self, String> {
        let span = parse_duration(text).ok().filter(|s| s.subsec_nanos() == 0);
        match span.map(|span| span.as_secs()) {
            Some(seconds @ 1..=86_400) => Ok(Self(seconds)),
            _ => Err("is no time: a whole number and s, m or h, from 1s to 24h".into()),
        }
    }
}

impl Word for IpAddr {
    const TEXT: Text = text("IP address");
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| match text.contains('/') {
            true => "is no IP address; it is written without /BITS here".into(),
            false => "is no IP address".to_owned(),
        })
    }
}

impl Word for San {
    const TEXT: Text = text("RFC 1123 name or IP address");
    fn parse(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(_) => dns_name(text).map(Self::Dns),
        }
    }
}

impl Word for Cidr {
    const TEXT: Text = text("network, as 10.42.0.0/16");
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error: super::CidrError| error.to_string())
    }
}

impl Word for Secret {
    const TEXT: Text = secret("secret text");
    fn parse(text: &str) -> Result<Self, String> {
        SecretWord::parse(text).map(|word| Self::new(word.0))
    }
}

fn dns_name(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    if lower.len() <= 253 && lower.split('.').all(is_label) {
        Ok(lower)
    } else if lower.contains('_') {
        Err("is no valid name (RFC 1123): it has an underscore".into())
    } else {
        Err("is no valid name (RFC 1123)".into())
    }
}

/// Whether a text is an RFC 1123 label in lower case.
pub fn is_label(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 63
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn host_port(text: &str) -> Result<String, String> {
    let why = || {
        "is no host with or without a port; an IPv6 address with a port is [ADDRESS]:PORT"
            .to_owned()
    };
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address.to_string());
    }
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let host = dns_name(host).map_err(|_| why())?;
    match port.map(str::parse::<u16>) {
        None => Ok(host),
        Some(Ok(port)) if port > 0 => Ok(format!("{host}:{port}")),
        Some(_) => Err(why()),
    }
}

fn zone(text: &str) -> Result<String, String> {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.len() <= 30
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"_+-".contains(&b))
    };
    let parts: Vec<_> = text.split('/').collect();
    let alone = ["UTC", "GMT", "UCT", "Zulu"].contains(&text);
    if alone || ((2..=3).contains(&parts.len()) && parts.into_iter().all(part)) {
        return Ok(text.to_owned());
    }
    Err("is no time zone's name; they look like Europe/Lisbon or Etc/UTC".into())
}

/// Types of keys that the node's ssh server knows.
const SSH_KEYS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// `type base64 [comment]`; sshd's options before the type are not taken.
fn ssh_key(text: &str) -> Result<String, String> {
    let text = text.trim();
    let mut words = text.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let known = ["ssh-", "ecdsa-", "sk-"]
        .iter()
        .any(|p| kind.starts_with(p));
    let blob = words.next().unwrap_or_default();
    let base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/=".contains(&b);
    let whole = !blob.is_empty() && blob.bytes().all(base64);
    if text.contains("PRIVATE KEY") {
        return Err(
            "is a private key; the public one, of the file that ends in .pub, belongs here".into(),
        );
    }
    if known && !SSH_KEYS.contains(&kind) {
        return Err(format!(
            "is of a type that opens nothing here; these do: {}",
            SSH_KEYS.join(", ")
        ));
    }
    // The longest line that dropbear reads is 4200 bytes, with options of the node's own.
    if text.len() > 4000 {
        return Err("is longer than 4000 bytes".into());
    }
    if known && whole && !text.contains(['\n', '\r', '\0']) {
        Ok(text.to_owned())
    } else {
        Err("is no OpenSSH public key: TYPE BASE64 [COMMENT], as in a .pub file".into())
    }
}

/// Whether useradd(8) would take the name.
pub fn is_user(text: &str) -> bool {
    let first = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    first && text.len() <= 32 && text.bytes().all(plain)
}

fn pem(text: &str, label: &str) -> Result<String, String> {
    let whole = text.trim();
    if whole.starts_with("-----BEGIN ") && whole.ends_with(&format!("{label}-----")) {
        Ok(text.to_owned())
    } else {
        Err(format!("is no whole PEM {label}"))
    }
}

fn mac(text: &str) -> Result<String, String> {
    let parts: Vec<_> = text.split([':', '-']).collect();
    let octet = |p: &&str| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit());
    if parts.len() == 6 && parts.iter().all(octet) {
        Ok(parts.join(":").to_ascii_lowercase())
    } else {
        Err("is no MAC address, such as 02:00:5e:10:00:01".into())
    }
}
