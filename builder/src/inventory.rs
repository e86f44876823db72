//! What is in an image: the list that both the manifest and the SBOM are
//! written from, so that they can't disagree.

use serde::Serialize;

/// Where a part comes from, and so how it is named to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A program or container image that the builder made.
    Slipway,
    /// A Debian binary package.
    Debian,
    /// A Go module linked into a program.
    Go,
    /// A Rust crate linked into a program.
    Crate,
}

/// One part of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Part {
    /// Where it comes from.
    pub origin: Origin,
    /// Its name there: `libc6`, `k8s.io/kubernetes`, `rustls`.
    pub name: String,
    /// Its version there.
    pub version: String,
    /// Debian architecture, for packages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// SHA-256 of the package or program, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The registry's own checksum where it isn't a SHA-256 of a file (`h1:…`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// SPDX licence expression where the origin states one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// The programs it is linked into (Go modules and crates).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub within: Vec<String>,
}

impl Part {
    /// A part of which nothing but its name and version is known yet.
    pub fn new(origin: Origin, name: impl Into<String>, version: impl Into<String>) -> Self {
        Self {
            origin,
            name: name.into(),
            version: version.into(),
            architecture: None,
            sha256: None,
            checksum: None,
            license: None,
            within: Vec::new(),
        }
    }

    /// The package URL (<https://github.com/package-url/purl-spec>).
    pub fn purl(&self) -> String {
        let name = encode(&self.name, "/");
        let version = encode(&self.version, "");
        match self.origin {
            Origin::Debian => match &self.architecture {
                Some(arch) => format!("pkg:deb/debian/{name}@{version}?arch={arch}"),
                None => format!("pkg:deb/debian/{name}@{version}"),
            },
            Origin::Go => format!("pkg:golang/{name}@{version}"),
            Origin::Crate => format!("pkg:cargo/{name}@{version}"),
            Origin::Slipway => format!("pkg:generic/slipway/{name}@{version}"),
        }
    }
}

/// Sorts the parts and joins those that several programs share.
pub fn tidy(mut parts: Vec<Part>) -> Vec<Part> {
    parts.sort();
    let mut out: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts {
        match out.last_mut() {
            Some(last)
                if (last.origin, &last.name, &last.version)
                    == (part.origin, &part.name, &part.version)
                    && last.architecture == part.architecture =>
            {
                last.within.extend(part.within);
                last.within.sort();
                last.within.dedup();
            }
            _ => out.push(part),
        }
    }
    out
}

/// Percent-encodes all but unreserved characters and those in `also`.
fn encode(text: &str, also: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        let c = char::from(byte);
        if byte.is_ascii_alphanumeric() || "-._~".contains(c) || also.contains(c) {
            out.push(c);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purls_follow_the_specification() {
        let mut deb = Part::new(Origin::Debian, "libc6", "2.41-12+deb13u1");
        deb.architecture = Some("amd64".into());
        assert_eq!(
            deb.purl(),
            "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64"
        );
        let go = Part::new(Origin::Go, "k8s.io/kubernetes", "v1.36.3");
        assert_eq!(go.purl(), "pkg:golang/k8s.io/kubernetes@v1.36.3");
    }

    #[test]
    fn a_module_in_two_programs_is_one_part() {
        let part = |within: &str| Part {
            within: vec![within.into()],
            ..Part::new(Origin::Go, "golang.org/x/sys", "v0.1.0")
        };
        let parts = tidy(vec![part("kube"), part("cni"), part("kube")]);
        assert_eq!(parts.len(), 1);
        assert_eq!(parts[0].within, ["cni", "kube"]);
    }
}
