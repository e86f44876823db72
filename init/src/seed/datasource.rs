//! cloud-init's words for where a seed is, on the kernel's command line or as the
//! machine's serial number (SMBIOS type 1): `ds=nocloud;s=https://host/path/;i=ID;h=NAME`.
//!
//! | key | long form | meaning |
//! |---|---|---|
//! | `s` | `seedfrom` | URL to which `user-data`, `meta-data` and so on are appended |
//! | `i` | `instance-id` | instance-id, before that of meta-data |
//! | `h` | `local-hostname` | host name, before that of meta-data |
//!
//! Source: cloud-init, "NoCloud", line configuration. `nocloud-net` is its old name for the
//! same.

use crate::phase::Failure;

/// What such a line asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataSource {
    /// Where the files are, ending in `/`; none if only names are given.
    pub url: Option<String>,
    /// The instance's id.
    pub instance_id: Option<String>,
    /// The machine's name.
    pub hostname: Option<String>,
}

/// Reads the last `ds=nocloud...` of a command line or serial number; `None` without one.
///
/// # Errors
/// A sentence that names what is not understood.
pub fn parse(line: &str) -> Result<Option<DataSource>, Failure> {
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
            return Err(Failure(format!("`{part}` in ds={value} is no key=value")));
        };
        match key {
            "s" | "seedfrom" => source.url = Some(url(value)?),
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

fn url(value: &str) -> Result<String, Failure> {
    if !["http://", "https://"].iter().any(|scheme| {
        value
            .strip_prefix(scheme)
            .is_some_and(|rest| !rest.trim_start_matches('/').is_empty())
    }) {
        return Err(Failure(format!(
            "s={value} is no http:// or https:// address"
        )));
    }
    let mut url = value.to_owned();
    // cloud-init appends the file's name as it is; a directory is always meant.
    if !url.ends_with('/') && !url.ends_with('=') {
        url.push('/');
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lines_as_cloud_init_has_them() {
        let parsed = |line| parse(line).unwrap();
        assert_eq!(parsed("root=UUID=1 quiet console=ttyS0"), None);
        let source = parsed("quiet ds=nocloud;s=http://10.0.2.2:8000/a;i=x1;h=n1 ro").unwrap();
        assert_eq!(source.url.as_deref(), Some("http://10.0.2.2:8000/a/"));
        assert_eq!(source.instance_id.as_deref(), Some("x1"));
        assert_eq!(source.hostname.as_deref(), Some("n1"));
        let source = parsed("ds=nocloud-net;seedfrom=https://h/?f=;local-hostname=n").unwrap();
        assert_eq!(source.url.as_deref(), Some("https://h/?f="));
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
        ] {
            let failure = parse(line).unwrap_err();
            assert!(failure.0.contains(named), "{line}: {failure}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in "\\PC{0,80}", tail in "[;=a-z/:]{0,30}") {
            drop(parse(&line));
            drop(parse(&format!("ds=nocloud{tail}")));
        }
    }
}
