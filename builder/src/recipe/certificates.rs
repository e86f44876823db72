//! The bundle of certificate authorities, `/etc/ssl/certs/ca-certificates.crt`.
//!
//! `update-ca-certificates` puts the files that `/etc/ca-certificates.conf` lists, which
//! is all of Mozilla's, one after the other, sorted by path; so does this. The links by
//! hash that it makes as well serve OpenSSL's directory lookup, which nothing here does.

use crate::error::{Error, Kind, Result};
use crate::tree::{NodeKind, Tree};

const SOURCE: &str = "usr/share/ca-certificates";
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";

/// Makes the bundle.
///
/// # Errors
/// [`Kind::Input`] if there are no certificates or a file isn't one in PEM.
pub fn bundle(tree: &mut Tree) -> Result<String> {
    let mut bundle = Vec::new();
    let mut count = 0;
    for (path, node) in tree.below(SOURCE) {
        let NodeKind::File(content) = &node.kind else {
            continue;
        };
        if !path.ends_with(".crt") {
            continue;
        }
        let bytes = content.read().map_err(|e| e.within(path))?;
        if !bytes.starts_with(b"-----BEGIN CERTIFICATE-----") {
            return Err(Error::new(
                Kind::Input,
                format!("`{path}` is no certificate in PEM"),
            ));
        }
        bundle.extend_from_slice(&bytes);
        if !bundle.ends_with(b"\n") {
            bundle.push(b'\n');
        }
        count += 1;
    }
    if count == 0 {
        return Err(Error::new(
            Kind::Input,
            format!("there are no certificates below `{SOURCE}`"),
        )
        .hint("the board needs the package ca-certificates, and must not exclude its files"));
    }
    tree.file(BUNDLE, 0o644, bundle)?;
    Ok(format!("certificates: {count} in /{BUNDLE}"))
}
