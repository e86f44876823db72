//! A signed document: JSON between a head of 32 bytes and a signature.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | which kind of document |
//! | 8 | 4 | version of the format |
//! | 12 | 4 | *n*: bytes of the JSON |
//! | 16 | 16 | which key has signed |
//! | 32 | *n* | JSON, UTF-8 |
//! | 32+*n* | 64 | Ed25519 signature of all bytes before it |
//!
//! The kind is signed with the rest, so that a document of one kind can't be shown as
//! one of another. The format is looked at first: a newer one may be signed in another way.

use super::keys::{KeyId, PublicKey, SIGNATURE};

/// Bytes before the JSON.
pub const HEAD: usize = 32;
/// Bytes that tell the kind.
pub const MAGIC: usize = 8;

/// A kind of document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// What it begins with.
    pub magic: [u8; MAGIC],
    /// The format that is read and written.
    pub format: u32,
    /// What it is called.
    pub what: &'static str,
    /// Longest JSON, in bytes.
    pub limit: u32,
}

/// Why a document isn't believed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SignedError {
    /// Something else.
    #[error("this is no {0}")]
    Foreign(&'static str),
    /// Of a later Slipway.
    #[error(
        "this {what} has format {format}, and this version reads {known}: update to a version in between first"
    )]
    Newer {
        /// Its kind.
        what: &'static str,
        /// Its format.
        format: u32,
        /// Ours.
        known: u32,
    },
    /// Longer than any is.
    #[error("the head of this {what} says {len} bytes follow; at most {limit} are read")]
    TooLong {
        /// Its kind.
        what: &'static str,
        /// Bytes of its JSON.
        len: u32,
        /// How many may be.
        limit: u32,
    },
    /// The head is not all there.
    #[error("this {0} is cut off in its head")]
    CutOff(&'static str),
    /// Nobody is trusted.
    #[error(
        "this image takes no updates: it was built without a key; build one with `slipway build BOARD --update-key update.pub` and flash it"
    )]
    NoKeys,
    /// Signed by somebody else, or not at all.
    #[error("this {what} is signed with the key {signer}, and this image trusts {trusted}")]
    UnknownKey {
        /// Its kind.
        what: &'static str,
        /// Who has signed.
        signer: KeyId,
        /// Who may.
        trusted: String,
    },
    /// Changed after it was signed.
    #[error("the signature of this {0} doesn't hold: it was damaged or changed; fetch it again")]
    BadSignature(&'static str),
}

impl Kind {
    /// Where a document ends, by the first [`HEAD`] bytes of its file.
    ///
    /// # Errors
    /// [`SignedError`] for what isn't of this kind and format.
    pub fn end(&self, head: &[u8]) -> Result<usize, SignedError> {
        if !head.starts_with(&self.magic) {
            return Err(SignedError::Foreign(self.what));
        }
        let number = |at: usize| {
            let bytes = head.get(at..at + 4).and_then(|b| b.try_into().ok());
            bytes
                .map(u32::from_le_bytes)
                .ok_or(SignedError::CutOff(self.what))
        };
        let format = number(8)?;
        if format == 0 {
            return Err(SignedError::Foreign(self.what));
        }
        if format != self.format {
            return Err(SignedError::Newer {
                what: self.what,
                format,
                known: self.format,
            });
        }
        let len = number(12)?;
        if len > self.limit {
            return Err(SignedError::TooLong {
                what: self.what,
                len,
                limit: self.limit,
            });
        }
        if head.len() < HEAD {
            return Err(SignedError::CutOff(self.what));
        }
        Ok(HEAD + len as usize + SIGNATURE)
    }

    /// Head and JSON: what is to be signed by the owner of `key`, and what the signature
    /// follows.
    #[must_use]
    pub fn unsigned(&self, key: KeyId, json: &[u8]) -> Vec<u8> {
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.format.to_le_bytes());
        bytes.extend((json.len() as u32).to_le_bytes());
        bytes.extend(key.bytes());
        bytes.extend(json);
        bytes
    }
}

/// The JSON of a document, if one of `keys` has signed it. `document` is all of it and
/// nothing more.
///
/// # Errors
/// [`SignedError`].
pub fn verify<'d>(
    kind: &Kind,
    document: &'d [u8],
    keys: &[PublicKey],
) -> Result<&'d [u8], SignedError> {
    if kind.end(document)? != document.len() {
        return Err(SignedError::CutOff(kind.what));
    }
    let (message, signature) = document
        .split_last_chunk::<SIGNATURE>()
        .ok_or(SignedError::CutOff(kind.what))?;
    let (head, json) = message
        .split_at_checked(HEAD)
        .ok_or(SignedError::CutOff(kind.what))?;
    if keys.is_empty() {
        return Err(SignedError::NoKeys);
    }
    let mut signer = [0; 16];
    signer.copy_from_slice(&head[16..]);
    let signer = KeyId::new(signer);
    let Some(key) = keys.iter().find(|key| key.id() == signer) else {
        let trusted: Vec<String> = keys.iter().map(|key| key.id().to_string()).collect();
        return Err(SignedError::UnknownKey {
            what: kind.what,
            signer,
            trusted: trusted.join(", "),
        });
    };
    match key.verifies(message, signature) {
        true => Ok(json),
        false => Err(SignedError::BadSignature(kind.what)),
    }
}
