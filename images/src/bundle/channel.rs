//! An update channel: a directory on any web server, where a node looks for its next version.
//!
//! | file | what |
//! |---|---|
//! | `BOARD.channel` | a signed document ([`super::signed`]) that begins with `SLIPCHAN`; JSON of [`Index`] |
//! | `BOARD-VERSION.slip` | the bundle that it names |
//!
//! Whoever holds the server, or the way to it, can't sign. What he could do is show an old
//! index: then its sequence number is lower than one that the node has seen, or, to a node
//! that has seen none, it is past its date. Or show it none: that the node notices by the
//! same date.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::keys::PublicKey;
use super::manifest::Digest;
use super::signed::{self, Kind, SignedError};

/// What an index begins with, and how long it may be.
pub const KIND: Kind = Kind {
    magic: *b"SLIPCHAN",
    format: 1,
    what: "channel index",
    limit: 64 << 10,
};
/// Bytes of the longest index: no more need be fetched.
pub const INDEX_LIMIT: usize = KIND.limit as usize + signed::HEAD + super::keys::SIGNATURE;

/// What a channel offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Index {
    /// For which board.
    pub board: String,
    /// Higher with each publication.
    pub sequence: u64,
    /// Until when it is to be believed: seconds since 1970-01-01 UTC.
    pub expires: i64,
    /// The version that is offered.
    pub version: String,
    /// Its release number.
    pub release: u64,
    /// The bundle's name beside the index.
    pub file: String,
    /// Its bytes.
    pub size: u64,
    /// SHA-256 of its head, manifest and signature ([`Bundle::head`](super::Bundle::head)).
    pub head: Digest,
    /// Hundredths of the nodes that it is for.
    pub percent: u8,
}

/// Why an index isn't followed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChannelError {
    /// Not signed by who is trusted, or no index of a format that is known.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// Signed, and makes no sense.
    #[error("the channel's index makes no sense ({0}): publish it again")]
    Index(String),
    /// Another board's.
    #[error("the channel's index is for board {index}, and this is {node}")]
    Board {
        /// The index's.
        index: String,
        /// The node's.
        node: String,
    },
    /// An older one than was seen before.
    #[error(
        "the channel shows an older index ({sequence}) than before ({seen}): somebody has put it back; publish again"
    )]
    Replayed {
        /// Its number.
        sequence: u64,
        /// The highest that was seen.
        seen: u64,
    },
    /// Past its date.
    #[error("the channel's index is past its date by {} h: publish again", late / 3600)]
    Expired {
        /// By so many seconds.
        late: i64,
    },
}

impl Index {
    /// Reads the file of an index, if one of `keys` has signed it.
    ///
    /// # Errors
    /// [`ChannelError::Signed`], [`ChannelError::Index`].
    pub fn open(bytes: &[u8], keys: &[PublicKey]) -> Result<Self, ChannelError> {
        let json = signed::verify(&KIND, bytes, keys)?;
        let index: Self =
            serde_json::from_slice(json).map_err(|e| ChannelError::Index(e.to_string()))?;
        index.check().map_err(ChannelError::Index)?;
        Ok(index)
    }

    /// Whether it makes sense, or the sentence that says why not.
    ///
    /// # Errors
    /// That sentence.
    pub fn check(&self) -> Result<(), String> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.+~".contains(&c);
        for name in [&self.board, &self.version, &self.file] {
            let ok = name.bytes().all(plain) && !name.starts_with('.');
            if name.is_empty() || name.len() > 200 || !ok {
                return Err(format!("{name:?} is no name"));
            }
        }
        match self.percent {
            0..=100 => Ok(()),
            percent => Err(format!("{percent} percent of the nodes")),
        }
    }

    /// Whether the node is to believe it now. `seen` is the highest sequence number that it
    /// has believed, `now` the seconds since 1970-01-01 UTC.
    ///
    /// # Errors
    /// [`ChannelError::Board`], [`Replayed`](ChannelError::Replayed),
    /// [`Expired`](ChannelError::Expired).
    pub fn believe(&self, board: &str, seen: u64, now: i64) -> Result<(), ChannelError> {
        if self.board != board {
            return Err(ChannelError::Board {
                index: self.board.clone(),
                node: board.to_owned(),
            });
        }
        if self.sequence < seen {
            return Err(ChannelError::Replayed {
                sequence: self.sequence,
                seen,
            });
        }
        match now.saturating_sub(self.expires) {
            late @ 1.. => Err(ChannelError::Expired { late }),
            _ => Ok(()),
        }
    }

    /// Whether a node is among the percentage. Who is, stays so while it is raised; another
    /// version begins with other nodes.
    #[must_use]
    pub fn includes(&self, node: &str) -> bool {
        let mut hash = Sha256::new();
        for part in ["slipway rollout", &self.version, node] {
            hash.update(part);
            hash.update([0]);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut number = [0; 8];
        number.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(number) % 100 < u64::from(self.percent)
    }
}

/// The name of a board's index in a channel.
#[must_use]
pub fn index_name(board: &str) -> String {
    format!("{board}.channel")
}
