//! PEM, bytes as text between two lines that name them (RFC 7468).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// Longest file of a public key, in bytes.
const PEM_LIMIT: usize = 4096;

/// Bytes as PEM (RFC 7468).
#[must_use]
pub fn to_pem(label: &str, der: &[u8]) -> String {
    let body = BASE64.encode(der);
    let lines = body.as_bytes().chunks(64);
    let lines: String = lines
        .flat_map(|line| line.iter().map(|b| char::from(*b)).chain(['\n']))
        .collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

/// The bytes of the first PEM block of this label in a short text; other text around it is
/// passed over.
#[must_use]
pub fn from_pem(label: &str, text: &str) -> Option<Vec<u8>> {
    if text.len() > PEM_LIMIT {
        return None;
    }
    let (_, rest) = text.split_once(&format!("-----BEGIN {label}-----"))?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_ascii_whitespace().collect();
    BASE64.decode(body).ok()
}
