//! Keys that updates are signed with: Ed25519 (RFC 8032), in the files that `openssl pkey`
//! reads and writes.
//!
//! A public key is a SubjectPublicKeyInfo (RFC 8410), in PEM with the label `PUBLIC KEY`:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 12 | `30 2a 30 05 06 03 2b 65 70 03 21 00`: the algorithm, 1.3.101.112, and a bit string |
//! | 12 | 32 | the key |

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

use crate::hex::{hex, unhex};
use crate::pem::{from_pem, to_pem};
use crate::text::as_text;

/// Where an image has the keys that it takes updates from: one in each file `*.pem`.
pub const TRUSTED_KEYS_DIR: &str = "/usr/lib/slipway/update-keys";
/// Bytes of a signature.
pub const SIGNATURE: usize = 64;

const PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
const LABEL: &str = "PUBLIC KEY";

/// A key that signatures are checked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// Why a key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not the file of a public key.
    #[error("no Ed25519 public key in PEM (`openssl pkey -in update.key -pubout` writes one)")]
    Malformed,
    /// The image's keys can't be read.
    #[error("reading the update keys in {path}: {source}")]
    Io {
        /// The file or directory.
        path: String,
        /// The reason.
        source: std::io::Error,
    },
    /// A file among the image's keys is none.
    #[error("{0} is no Ed25519 public key in PEM: build the image again")]
    Corrupt(String),
}

impl PublicKey {
    /// The 32 bytes of RFC 8032.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads PEM.
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let der = from_pem(LABEL, text).ok_or(KeyError::Malformed)?;
        let key = der.strip_prefix(&PREFIX).ok_or(KeyError::Malformed)?;
        Ok(Self(key.try_into().map_err(|_| KeyError::Malformed)?))
    }

    /// The SubjectPublicKeyInfo.
    #[must_use]
    pub fn der(&self) -> Vec<u8> {
        [&PREFIX[..], &self.0].concat()
    }

    /// As a file has it.
    #[must_use]
    pub fn pem(&self) -> String {
        to_pem(LABEL, &self.der())
    }

    /// What the key is called.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let digest = Sha256::digest(self.der());
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        KeyId(id)
    }

    /// Whether the key's owner has signed just these bytes.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &[u8; SIGNATURE]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(message, signature)
            .is_ok()
    }
}

/// In hexadecimal, as a manifest has it.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        unhex(text).map(Self).ok_or(KeyError::Malformed)
    }
}

as_text!(PublicKey);

/// Which key has signed: the first half of the SHA-256 of its SubjectPublicKeyInfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// From the 16 bytes of a file's head.
    #[must_use]
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Those bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// Reads the keys that an image takes updates from, in the order of their files' names. None
/// if it was built without.
///
/// # Errors
/// [`KeyError`]: a key that can't be read isn't passed over, since the one that is needed
/// might be it.
pub fn trusted(dir: &Path) -> Result<Vec<PublicKey>, KeyError> {
    let failed = |path: &Path, source| KeyError::Io {
        path: path.display().to_string(),
        source,
    };
    let listed = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed.map_err(|e| failed(dir, e))?,
    };
    let mut files = Vec::new();
    for file in listed {
        files.push(file.map_err(|e| failed(dir, e))?.path());
    }
    files.retain(|path| path.extension().is_some_and(|e| e == "pem"));
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).map_err(|e| failed(path, e))?;
        let corrupt = |_| KeyError::Corrupt(path.display().to_string());
        PublicKey::from_pem(&text).map_err(corrupt)
    };
    files.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 8032, section 7.1, test 2.
    const KEY: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
    const SIGNED: &str = "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da\
                          085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00";

    #[test]
    fn the_standards_own_signature_holds() {
        let key: PublicKey = KEY.parse().unwrap();
        let signature: [u8; 64] = unhex(SIGNED).unwrap();
        assert!(key.verifies(&[0x72], &signature));
        assert!(!key.verifies(&[0x73], &signature));
        for at in 0..64 {
            let mut bad = signature;
            bad[at] ^= 1;
            assert!(!key.verifies(&[0x72], &bad), "byte {at}");
        }
    }

    #[test]
    fn a_file_is_read_as_written_also_with_text_around_it() {
        let key: PublicKey = KEY.parse().unwrap();
        let pem = key.pem();
        assert_eq!(PublicKey::from_pem(&pem).unwrap(), key);
        let windows = format!("home's key\r\n{}", pem.replace('\n', "\r\n"));
        assert_eq!(PublicKey::from_pem(&windows).unwrap(), key);
        let private = pem.replace("PUBLIC", "PRIVATE");
        assert!(PublicKey::from_pem(&private).is_err());
    }

    #[test]
    fn an_image_has_no_keys_some_or_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let key: PublicKey = KEY.parse().unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(trusted(&at("none")).unwrap(), []);
        std::fs::write(at("b.pem"), key.pem()).unwrap();
        std::fs::write(at("a.pem"), PublicKey::new([7; 32]).pem()).unwrap();
        std::fs::write(at("README"), "no key").unwrap();
        let read = trusted(dir.path()).unwrap();
        assert_eq!(read, [PublicKey::new([7; 32]), key]);
        std::fs::write(at("c.pem"), "no key").unwrap();
        assert!(matches!(trusted(dir.path()), Err(KeyError::Corrupt(_))));
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_read(text in "\\PC*", key: [u8; 32], cut in 0..120usize) {
            drop(PublicKey::from_pem(&text));
            let mut pem = PublicKey::new(key).pem();
            pem.insert_str(cut.min(pem.len()), &text);
            if let Ok(read) = PublicKey::from_pem(&pem) {
                prop_assert!(read == PublicKey::new(key) || pem.contains(&text));
            }
        }
    }
}
