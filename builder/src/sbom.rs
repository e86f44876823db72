//! The software bill of materials, as SPDX 2.3 JSON
//! (<https://spdx.github.io/spdx-spec/v2.3/>). Its bytes depend on the image's
//! inputs alone: the creation time is that of the inputs, and the namespace is
//! made from their digest.

use serde_json::{Value, json};

use crate::inventory::{Origin, Part};

/// What the document describes.
pub struct Subject<'a> {
    /// Board and version, as in the file names.
    pub name: &'a str,
    /// Version of the image.
    pub version: &'a str,
    /// Hex SHA-256 of the image's inputs.
    pub inputs: &'a str,
    /// Hex SHA-256 of the uncompressed image.
    pub image_sha256: &'a str,
    /// RFC 3339, UTC.
    pub created: &'a str,
}

/// The document for an image with these parts.
pub fn document(subject: &Subject<'_>, parts: &[Part]) -> Value {
    let root = "SPDXRef-image";
    let mut packages = vec![json!({
        "SPDXID": root,
        "name": subject.name,
        "versionInfo": subject.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "checksums": [{"algorithm": "SHA256", "checksumValue": subject.image_sha256}],
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    })];
    let mut relationships = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": root,
    })];
    for part in parts {
        let id = identifier(part);
        packages.push(package(&id, part));
        let holders: Vec<String> = if part.within.is_empty() {
            vec![root.to_owned()]
        } else {
            part.within
                .iter()
                .filter_map(|name| {
                    parts
                        .iter()
                        .find(|p| p.origin == Origin::Slipway && p.name == *name)
                        .map(identifier)
                })
                .collect()
        };
        for holder in holders {
            relationships.push(json!({
                "spdxElementId": holder,
                "relationshipType": "CONTAINS",
                "relatedSpdxElement": id,
            }));
        }
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject.name,
        "documentNamespace": format!("urn:slipway:sbom:{}:{}", subject.name, subject.inputs),
        "creationInfo": {
            "created": subject.created,
            "creators": [concat!("Tool: slipway-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
    })
}

fn package(id: &str, part: &Part) -> Value {
    let mut value = json!({
        "SPDXID": id,
        "name": part.name,
        "versionInfo": part.version,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": part.license.as_deref().unwrap_or("NOASSERTION"),
        "copyrightText": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": part.purl(),
        }],
    });
    if let Some(sha256) = &part.sha256 {
        value["checksums"] = json!([{"algorithm": "SHA256", "checksumValue": sha256}]);
    }
    if let Some(checksum) = &part.checksum {
        value["comment"] = json!(format!("registry checksum {checksum}"));
    }
    value
}

/// An SPDX identifier: letters, digits, `.` and `-` only. What is replaced is
/// kept apart by a number made of the purl, so that two parts never share one.
fn identifier(part: &Part) -> String {
    let purl = part.purl();
    let clean: String = part
        .name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect();
    format!(
        "SPDXRef-{clean}-{}",
        &crate::digest::hex(purl.as_bytes())[..12]
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_relationship_names_a_package_of_the_document() {
        let mut module = Part::new(Origin::Go, "k8s.io/api", "v0.36.3");
        module.within = vec!["kube".into()];
        let parts = [
            Part::new(Origin::Slipway, "kube", "v1.36.3"),
            Part::new(Origin::Debian, "libstdc++6", "14"),
            Part::new(Origin::Debian, "libstdc--6", "14"),
            module,
        ];
        let doc = document(
            &Subject {
                name: "x86_64",
                version: "1",
                inputs: "00",
                image_sha256: "00",
                created: "2026-01-01T00:00:00Z",
            },
            &parts,
        );
        let ids: BTreeSet<&str> = doc["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["SPDXID"].as_str().unwrap())
            .collect();
        assert_eq!(ids.len(), 5, "identifiers are unique");
        let related = doc["relationships"].as_array().unwrap();
        assert_eq!(related.len(), 5);
        for relation in related {
            assert!(ids.contains(relation["relatedSpdxElement"].as_str().unwrap()));
        }
    }
}
