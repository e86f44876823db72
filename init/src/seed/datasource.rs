//! cloud-init's words for where a seed is, on the kernel's command line or as the
//! machine's serial number (SMBIOS type 1): `ds=nocloud;s=https://host/path/;i=ID;h=NAME`.
//!
//! | key | long form | meaning |
//! |---|---|---|
//! | `s` | `seedfrom` | URL to which `user-data`, `meta-data` and so on are appended |
//! | `i` | `instance-id` | instance-id, before that of meta-data |
//! | `h` | `local-hostname` | host name, before that of meta-data |
//!
//! In the URL `__dmi.NAME__` stands for what SMBIOS says of the machine ([`DMI`]).
//!
//! Source: cloud-init, "NoCloud", line configuration, and `dmi.py` for the names. `nocloud-net`
//! is its old name for the same.

use std::fs;
use std::path::Path;

use slipway_images::seed::url::SeedUrl;

use crate::phase::Failure;

/// dmidecode's names, and the files of `/sys/class/dmi/id` that hold what they stand for.
const DMI: [(&str, &str); 17] = [
    ("baseboard-asset-tag", "board_asset_tag"),
    ("baseboard-manufacturer", "board_vendor"),
    ("baseboard-product-name", "board_name"),
    ("baseboard-serial-number", "board_serial"),
    ("baseboard-version", "board_version"),
    ("bios-release-date", "bios_date"),
    ("bios-vendor", "bios_vendor"),
    ("bios-version", "bios_version"),
    ("chassis-asset-tag", "chassis_asset_tag"),
    ("chassis-manufacturer", "chassis_vendor"),
    ("chassis-serial-number", "chassis_serial"),
    ("chassis-version", "chassis_version"),
    ("system-manufacturer", "sys_vendor"),
    ("system-product-name", "product_name"),
    ("system-serial-number", "product_serial"),
    ("system-uuid", "product_uuid"),
    ("system-version", "product_version"),
];

/// What such a line asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataSource {
    /// Where the documents are; none if only names are given.
    pub url: Option<SeedUrl>,
    /// The instance's id.
    pub instance_id: Option<String>,
    /// The machine's name.
    pub hostname: Option<String>,
}

/// Reads the last `ds=nocloud...` of a command line or serial number; `None` without one.
/// `dmi` is `/sys/class/dmi/id`.
///
/// # Errors
/// A sentence that names what is not understood.
pub fn parse(line: &str, dmi: &Path) -> Result<Option<DataSource>, Failure> {
    let Some(value) = line
        .split_ascii_whitespace()
        .map(|word| word.trim_matches('"'))
        .filter_map(|word| word.strip_prefix("ds="))
        .next_back()
    else {
        return Ok(None);
    };
    let mut parts = value.split(';');
    match parts
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase()
        .as_str()
    {
        "nocloud" | "nocloud-net" => {}
        other => {
            return Err(Failure(format!(
                "ds={other} names a kind of seed that isn't known here; use ds=nocloud;s=URL"
            )));
        }
    }
    let mut source = DataSource::default();
    for part in parts.filter(|part| !part.is_empty()) {
        let Some((key, value)) = part.split_once('=') else {
            return Err(Failure(format!("`{part}` in ds=nocloud is no key=value")));
        };
        match key {
            "s" | "seedfrom" => {
                let url = SeedUrl::parse(&substituted(value, dmi)?);
                source.url = Some(url.map_err(|error| Failure(format!("s={error}")))?);
            }
            "i" | "instance-id" => source.instance_id = Some(value.to_owned()),
            "h" | "local-hostname" => source.hostname = Some(value.to_owned()),
            _ => {
                return Err(Failure(format!(
                    "`{key}` in ds=nocloud isn't known; s, i and h are"
                )));
            }
        }
    }
    Ok(Some(source))
}

/// Puts in what SMBIOS says, %-encoded. A machine that doesn't say it is not to come up with
/// somebody else's seed.
fn substituted(text: &str, dmi: &Path) -> Result<String, Failure> {
    const OPEN: &str = "__dmi.";
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, tail)) = rest.split_once(OPEN) {
        out.push_str(before);
        let Some((name, after)) = tail.split_once("__") else {
            return Err(Failure(format!(
                "{OPEN} in ds=nocloud lacks its closing __"
            )));
        };
        let file = DMI.iter().find(|(known, _)| *known == name);
        let Some((_, file)) = file else {
            return Err(Failure(format!(
                "{OPEN}{name}__ in ds=nocloud isn't known; system-uuid, system-serial-number, \
                 chassis-serial-number and their like are"
            )));
        };
        let value = fs::read_to_string(dmi.join(file)).unwrap_or_default();
        let value = value.trim();
        if value.is_empty() {
            return Err(Failure(format!(
                "{OPEN}{name}__ in ds=nocloud: this machine doesn't say its {name}"
            )));
        }
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    out.push(char::from(byte));
                }
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_as_cloud_init_has_them() {
        let parsed = |line| parse(line, Path::new("/nonexistent")).unwrap();
        let url = |source: &DataSource| source.url.as_ref().map(|u| u.reveal().to_owned());
        assert_eq!(parsed("root=UUID=1 quiet console=ttyS0"), None);
        let source = parsed("quiet ds=nocloud;s=http://10.0.2.2:8000/a;i=x1;h=n1 ro").unwrap();
        assert_eq!(url(&source).as_deref(), Some("http://10.0.2.2:8000/a/"));
        assert_eq!(source.instance_id.as_deref(), Some("x1"));
        assert_eq!(source.hostname.as_deref(), Some("n1"));
        let source = parsed("ds=nocloud-net;seedfrom=https://h/?f=;local-hostname=n").unwrap();
        assert_eq!(url(&source).as_deref(), Some("https://h/?f="));
        assert_eq!(source.hostname.as_deref(), Some("n"));
        // The last one counts, as with all of the kernel's parameters.
        let source = parsed("ds=nocloud;h=a ds=nocloud;h=b").unwrap();
        assert_eq!(source.hostname.as_deref(), Some("b"));
        assert_eq!(source.url, None);
    }

    #[test]
    fn what_is_not_understood_is_named() {
        for (line, named) in [
            ("ds=ec2", "ds=ec2"),
            ("ds=nocloud;s=ftp://h/", "ftp://h/"),
            ("ds=nocloud;s=http://", "http://"),
            ("ds=nocloud;x=1", "`x`"),
            ("ds=nocloud;s", "`s`"),
            ("ds=nocloud;s=http://h/__dmi.system-uuid", "closing"),
            ("ds=nocloud;s=http://h/__dmi.colour__/", "__dmi.colour__"),
            (
                "ds=nocloud;s=http://h/__dmi.system-uuid__/",
                "doesn't say its system-uuid",
            ),
        ] {
            let failure = parse(line, Path::new("/nonexistent")).unwrap_err();
            assert!(failure.0.contains(named), "{line}: {failure}");
        }
    }

    #[test]
    fn what_smbios_says_is_put_in() {
        let dmi = tempfile::tempdir().unwrap();
        fs::write(dmi.path().join("product_uuid"), "4c4c4544-0051\n").unwrap();
        fs::write(dmi.path().join("chassis_serial"), "A/1 %s\n").unwrap();
        fs::write(dmi.path().join("product_serial"), "\n").unwrap();
        let parsed = |line| parse(line, dmi.path());
        let line = "ds=nocloud;s=http://h/__dmi.system-uuid__/__dmi.chassis-serial-number__/%s";
        let url = parsed(line).unwrap().unwrap().url.unwrap();
        assert_eq!(url.reveal(), "http://h/4c4c4544-0051/A%2F1%20%25s/%s");
        // Empty is as good as missing.
        let failure = parsed("ds=nocloud;s=http://h/__dmi.system-serial-number__").unwrap_err();
        assert!(failure.0.contains("doesn't say"), "{failure}");
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "\\PC{0,80}", tail in "[;=a-z/:]{0,30}") {
            let nowhere = Path::new("/nonexistent");
            drop(parse(&line, nowhere));
            drop(parse(&format!("ds=nocloud{tail}"), nowhere));
        }
    }
}
