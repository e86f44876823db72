//! Who signed a cleartext-signed text, and whether they could (RFC 9580).
//!
//! The `pgp` crate does the arithmetic; what counts as a good signature is
//! decided here. A signature is good when
//!
//! 1. it is of a version, type and hash that we accept, names no critical
//!    subpacket we don't know, was made before now and hasn't expired;
//! 2. a key of the keyring made it: a primary key that may sign, or a subkey
//!    bound to it by signatures in both directions;
//! 3. that key, and the primary above it, carry a self-signature, were neither
//!    expired when it was made nor are now, and are not revoked.
//!
//! One good signature is enough (Debian signs with the keys of two releases).

use std::time::{SystemTime, UNIX_EPOCH};

use pgp::composed::{CleartextSignedMessage, Deserializable as _, SignedPublicKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType, SubpacketData};
use pgp::ser::Serialize;
use pgp::types::{KeyDetails, Tag, VerifyingKey};

use crate::error::{Error, Kind, Result};

/// A longer text than any InRelease of Debian's (140 KB). The parser's time
/// grows with the square of the length, so there has to be a limit.
const MAX_LEN: usize = 1 << 20;

/// How far a signer's clock may be ahead of ours, in seconds.
const CLOCK_SLACK: u64 = 600;

/// The keys that may sign a board's packages.
#[derive(Debug)]
pub(crate) struct Keyring(Vec<SignedPublicKey>);

impl Keyring {
    /// Reads ASCII-armored certificates; the names are for messages.
    pub fn parse<'a>(armored: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self> {
        let mut keys = Vec::new();
        for (name, bytes) in armored {
            let bad = |why: &dyn std::fmt::Display| {
                Error::new(Kind::Input, format!("key file {name} can't be read: {why}"))
                    .hint("export it with `gpg --armor --export`")
            };
            let (found, _) = SignedPublicKey::from_reader_many(std::io::Cursor::new(bytes))
                .map_err(|e| bad(&e))?;
            for key in found {
                keys.push(key.map_err(|e| bad(&e))?);
            }
        }
        if keys.is_empty() {
            return Err(Error::new(Kind::Input, "the keyring has no keys"));
        }
        Ok(Self(keys))
    }

    /// The signed text of a cleartext-signed message, with line ends as `\n`:
    /// exactly what was signed, not what stands in the file.
    ///
    /// # Errors
    /// [`Kind::Untrusted`] with the reason why no signature is good.
    pub fn verify(&self, message: &[u8], now: SystemTime) -> Result<String> {
        let untrusted = |why: String| Error::new(Kind::Untrusted, why);
        if message.len() > MAX_LEN {
            return Err(untrusted(format!(
                "is {} bytes long, which no signed release file is",
                message.len()
            )));
        }
        let text = std::str::from_utf8(message).map_err(|_| untrusted("is not text".into()))?;
        if !text
            .trim_start()
            .starts_with("-----BEGIN PGP SIGNED MESSAGE-----")
        {
            return Err(untrusted("is not signed".into()));
        }
        let (message, _) = CleartextSignedMessage::from_string(text)
            .map_err(|e| untrusted(format!("is not a well-formed signed message: {e}")))?;
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let signed = message.signed_text();
        let mut reasons = Vec::new();
        for signature in message.signatures() {
            match self.check(signature, signed.as_bytes(), now) {
                Ok(()) => return Ok(signed.replace("\r\n", "\n")),
                Err(reason) => reasons.push(reason),
            }
        }
        if reasons.is_empty() {
            reasons.push("it carries no signature".into());
        }
        reasons.dedup();
        Err(untrusted(format!(
            "has no good signature: {}",
            reasons.join("; ")
        )))
    }

    fn check(&self, signature: &Signature, text: &[u8], now: u64) -> Result<(), String> {
        acceptable(signature, now)?;
        if !matches!(
            signature.typ(),
            Some(SignatureType::Text | SignatureType::Binary)
        ) {
            return Err("a signature is not one over a text".into());
        }
        let made = created(signature)?;
        for key in &self.0 {
            let primary = &key.primary_key;
            let subkey = key.public_subkeys.iter().find(|s| names(signature, &s.key));
            if names(signature, primary) {
                let terms = primary_terms(key, made, now)?;
                if !terms.key_flags().sign() {
                    return Err(format!("key {} may not sign", id(primary)));
                }
                return signature
                    .verify(primary, text)
                    .map_err(|_| altered(primary));
            }
            if let Some(subkey) = subkey {
                primary_terms(key, made, now)?;
                subkey_terms(key, subkey, made, now)?;
                return signature
                    .verify(&subkey.key, text)
                    .map_err(|_| altered(&subkey.key));
            }
        }
        let issuer = signature
            .issuer_fingerprint()
            .first()
            .map(|f| f.to_string())
            .or_else(|| signature.issuer_key_id().first().map(|i| i.to_string()))
            .unwrap_or_else(|| "(unnamed)".into());
        Err(format!("key {issuer} is not in the board's keyring"))
    }
}

fn altered(key: &impl KeyDetails) -> String {
    format!("the text is not what key {} signed", id(key))
}

fn id(key: &impl KeyDetails) -> String {
    key.fingerprint().to_string().to_uppercase()
}

/// Whether the signature says that this key made it. It must: otherwise every
/// key would have to be tried.
fn names(signature: &Signature, key: &impl KeyDetails) -> bool {
    let fingerprints = signature.issuer_fingerprint();
    if fingerprints.is_empty() {
        signature.issuer_key_id().contains(&&key.legacy_key_id())
    } else {
        fingerprints.contains(&&key.fingerprint())
    }
}

fn created(signature: &Signature) -> Result<u64, String> {
    signature
        .created()
        .map(|t| u64::from(t.as_secs()))
        .ok_or_else(|| "a signature has no date".into())
}

/// What holds for signatures of every kind: a strong hash, nothing critical that
/// we don't understand, a time of validity around now.
fn acceptable(signature: &Signature, now: u64) -> Result<(), String> {
    let Some(config) = signature.config() else {
        return Err("a signature is of an unknown version".into());
    };
    match config.hash_alg {
        HashAlgorithm::Sha256
        | HashAlgorithm::Sha384
        | HashAlgorithm::Sha512
        | HashAlgorithm::Sha3_256
        | HashAlgorithm::Sha3_512 => {}
        weak => {
            return Err(format!(
                "a signature uses the hash {weak}, which is too weak"
            ));
        }
    }
    for subpacket in config.hashed_subpackets() {
        let unknown = matches!(
            subpacket.data,
            SubpacketData::Other(..) | SubpacketData::Experimental(..) | SubpacketData::Notation(_)
        );
        if subpacket.is_critical && unknown {
            return Err("a signature has a condition that is not understood".into());
        }
    }
    let made = created(signature)?;
    if made > now + CLOCK_SLACK {
        return Err("a signature was made in the future; check this machine's clock".into());
    }
    match signature
        .signature_expiration_time()
        .map(|d| u64::from(d.as_secs()))
    {
        Some(lasts) if lasts != 0 && made + lasts < now => Err("a signature has expired".into()),
        _ => Ok(()),
    }
}

/// The newest self-signature of a primary key, once the key is found to be alive.
fn primary_terms(key: &SignedPublicKey, made: u64, now: u64) -> Result<&Signature, String> {
    let primary = &key.primary_key;
    // A revocation holds whenever it was made: its reason may be theft.
    if key
        .details
        .revocation_signatures
        .iter()
        .any(|s| s.verify_key(primary).is_ok())
    {
        return Err(format!("key {} is revoked", id(primary)));
    }
    let direct = key
        .details
        .direct_signatures
        .iter()
        .filter(|s| s.typ() == Some(SignatureType::Key) && s.verify_key(primary).is_ok());
    let users = key.details.users.iter().flat_map(|user| {
        let of = |s: &Signature| {
            s.verify_certification(primary, Tag::UserId, &user.id)
                .is_ok()
        };
        let revoked = user
            .signatures
            .iter()
            .any(|s| s.typ() == Some(SignatureType::CertRevocation) && of(s));
        user.signatures
            .iter()
            .filter(move |s| !revoked && s.is_certification() && of(s))
    });
    let terms = direct
        .chain(users)
        .filter(|s| acceptable(s, now).is_ok())
        .max_by_key(|s| created(s).unwrap_or(0))
        .ok_or_else(|| format!("key {} has no good self-signature", id(primary)))?;
    alive(primary, terms, made, now)?;
    Ok(terms)
}

/// That a subkey is bound to its primary key, may sign, and is alive.
fn subkey_terms(
    key: &SignedPublicKey,
    subkey: &pgp::composed::SignedPublicSubKey,
    made: u64,
    now: u64,
) -> Result<(), String> {
    let primary = &key.primary_key;
    let bound = |s: &&Signature| s.verify_subkey_binding(primary, &subkey.key).is_ok();
    let of_type = |t: SignatureType| {
        subkey
            .signatures
            .iter()
            .filter(move |s| s.typ() == Some(t))
            .filter(bound)
    };
    if of_type(SignatureType::SubkeyRevocation).next().is_some() {
        return Err(format!("subkey {} is revoked", id(&subkey.key)));
    }
    let binding = of_type(SignatureType::SubkeyBinding)
        .filter(|s| acceptable(s, now).is_ok())
        .max_by_key(|s| created(s).unwrap_or(0))
        .ok_or_else(|| format!("subkey {} is not bound to its key", id(&subkey.key)))?;
    if !binding.key_flags().sign() {
        return Err(format!("subkey {} may not sign", id(&subkey.key)));
    }
    // Without the signature in return anyone could claim the subkey as theirs.
    let back = binding
        .embedded_signature()
        .ok_or_else(|| format!("subkey {} does not acknowledge its key", id(&subkey.key)))?;
    acceptable(back, now)?;
    back.verify_primary_key_binding(&subkey.key, primary)
        .map_err(|_| format!("subkey {} does not acknowledge its key", id(&subkey.key)))?;
    alive(&subkey.key, binding, made, now)
}

/// That a key existed and hadn't expired both when it signed and now.
fn alive<K>(key: &K, terms: &Signature, made: u64, now: u64) -> Result<(), String>
where
    K: KeyDetails + VerifyingKey + Serialize,
{
    let born = u64::from(key.created_at().as_secs());
    if made < born {
        return Err(format!("a signature is older than its key {}", id(key)));
    }
    match terms.key_expiration_time().map(|d| u64::from(d.as_secs())) {
        Some(lasts) if lasts != 0 && born + lasts < made.max(now) => {
            Err(format!("key {} has expired", id(key)))
        }
        _ => Ok(()),
    }
}
