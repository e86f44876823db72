//! The update key: who has it makes updates that nodes take.
//!
//! The private half is a file `PRIVATE KEY` in PEM (PKCS #8, RFC 8410), as
//! `openssl genpkey -algorithm ed25519` writes it:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 16 | `30 2e 02 01 00 30 05 06 03 2b 65 70 04 22 04 20`: version 0, the algorithm, a string within a string |
//! | 16 | 32 | the private key |
//!
//! The public half is [`slipway_images::bundle::keys`]'s.

use std::fmt;
use std::fs;
use std::path::Path;

use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use slipway_images::bundle::keys::{PublicKey, SIGNATURE};
use slipway_images::bundle::signed;
use slipway_images::pem::{from_pem, to_pem};

use crate::atomic;
use crate::error::{At as _, Error, Kind, Result};

const LABEL: &str = "PRIVATE KEY";
const PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A key to sign with.
pub struct PrivateKey(Ed25519KeyPair);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.public().id())
    }
}

impl PrivateKey {
    /// Reads the file of a private key.
    ///
    /// # Errors
    /// [`Kind::Input`] if it is no Ed25519 key in PEM, [`Kind::Io`].
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).at("reading", path)?;
        let pair = from_pem(LABEL, &text)
            .and_then(|der| Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).ok());
        pair.map(Self).ok_or_else(|| {
            Error::new(
                Kind::Input,
                format!("{} holds no Ed25519 private key", path.display()),
            )
            .hint("`slipway keys new DIR` makes one, and so does `openssl genpkey -algorithm ed25519`; an encrypted one has to be decrypted first: openssl pkey -in FILE")
        })
    }

    /// The half that nodes are given.
    pub fn public(&self) -> PublicKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.0.public_key().as_ref());
        PublicKey::new(key)
    }

    /// Signs.
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE] {
        let mut signature = [0; SIGNATURE];
        signature.copy_from_slice(self.0.sign(message).as_ref());
        signature
    }

    /// A whole signed document of JSON.
    pub fn document(&self, kind: &signed::Kind, json: &[u8]) -> Vec<u8> {
        let mut document = kind.unsigned(self.public().id(), json);
        document.extend(self.sign(&document));
        document
    }
}

/// Makes a key and writes both halves, the private one for its owner only.
///
/// # Errors
/// [`Kind::Usage`] if either file is there already: a key that nodes trust can't be had back.
/// [`Kind::Io`].
pub fn generate(private: &Path, public: &Path) -> Result<PublicKey> {
    for path in [private, public] {
        if path.exists() {
            return Err(
                Error::new(Kind::Usage, format!("{} is there already", path.display()))
                    .hint("nodes that trust it take updates from it alone: choose another place"),
            );
        }
    }
    let mut seed = [0; 32];
    SystemRandom::new()
        .fill(&mut seed)
        .map_err(|_| Error::new(Kind::Io, "the system gives no random bytes"))?;
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
        .map_err(|e| Error::new(Kind::Bug, format!("making a key: {e}")))?;
    let key = PrivateKey(pair).public();
    let der = [&PREFIX[..], &seed].concat();
    atomic::write(private, to_pem(LABEL, &der).as_bytes(), 0o600)?;
    atomic::write(public, key.pem().as_bytes(), 0o644)?;
    Ok(key)
}

/// Reads the file of a public key.
///
/// # Errors
/// [`Kind::Input`] if it is none, or if it is the private half; [`Kind::Io`].
pub fn load_public(path: &Path) -> Result<PublicKey> {
    let text = fs::read_to_string(path).at("reading", path)?;
    PublicKey::from_pem(&text).map_err(|e| {
        let error = Error::new(Kind::Input, format!("{}: {e}", path.display()));
        match from_pem(LABEL, &text) {
            Some(_) => error.hint("that is the private key, which belongs into no image: name the file beside it, .pub"),
            None => error,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    fn openssl(dir: &Path, args: &str) -> Vec<u8> {
        let mut command = Command::new("openssl");
        command.args(args.split_whitespace()).current_dir(dir);
        let output = command.output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {args}: {complaint}");
        output.stdout
    }

    #[test]
    fn openssl_reads_our_keys_and_believes_our_signatures() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let public = generate(&at("update.key"), &at("update.pub")).unwrap();
        let mode = fs::metadata(at("update.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let theirs = openssl(dir.path(), "pkey -in update.key -pubout");
        assert_eq!(theirs, fs::read(at("update.pub")).unwrap());
        assert_eq!(theirs, public.pem().as_bytes());

        let key = PrivateKey::load(&at("update.key")).unwrap();
        fs::write(at("message"), "to be signed").unwrap();
        fs::write(at("signature"), key.sign(b"to be signed")).unwrap();
        openssl(
            dir.path(),
            "pkeyutl -verify -rawin -pubin -inkey update.pub -in message -sigfile signature",
        );
    }

    #[test]
    fn we_read_openssls_keys_and_believe_its_signatures() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        openssl(dir.path(), "genpkey -algorithm ed25519 -out key");
        openssl(dir.path(), "pkey -in key -pubout -out pub");
        fs::write(at("message"), "to be signed").unwrap();
        openssl(
            dir.path(),
            "pkeyutl -sign -rawin -inkey key -in message -out signature",
        );
        let public = load_public(&at("pub")).unwrap();
        let key = PrivateKey::load(&at("key")).unwrap();
        assert_eq!(key.public(), public);
        let signature = fs::read(at("signature")).unwrap().try_into().unwrap();
        assert!(public.verifies(b"to be signed", &signature));
        assert_eq!(key.sign(b"to be signed"), signature);
        assert!(!format!("{key:?}").contains(&public.to_string()));
    }

    #[test]
    fn nothing_is_overwritten_and_halves_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = (dir.path().join("k"), dir.path().join("p"));
        generate(&private, &public).unwrap();
        let before = fs::read(&private).unwrap();
        assert_eq!(generate(&private, &public).unwrap_err().kind, Kind::Usage);
        assert_eq!(fs::read(&private).unwrap(), before);
        let error = load_public(&private).unwrap_err();
        assert!(error.advice().unwrap().contains("private key"), "{error}");
        assert_eq!(PrivateKey::load(&public).unwrap_err().kind, Kind::Input);
        openssl(dir.path(), "genpkey -algorithm x25519 -out other");
        let other = PrivateKey::load(&dir.path().join("other"));
        assert_eq!(other.unwrap_err().kind, Kind::Input);
    }
}
