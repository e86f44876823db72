//! What a node says of itself to everybody on its network, by DNS-SD over multicast DNS
//! (RFC 6763): the TXT record of its service.
//!
//! | key | holds |
//! |---|---|
//! | `txtvers` | `1`, the version of this table |
//! | `version`, `board` | those of the image |
//! | `cluster`, `role` | name of the cluster that the seed gives, `server` or `agent` |
//! | `fingerprint` | SHA-256 of the DER of the certificate that the node API shows, hexadecimal |
//!
//! Anybody can say anything there: it helps to find nodes and is no proof of who they are.

use serde::{Deserialize, Serialize};

/// The service's type, as in `NAME._slipway._tcp.local`.
pub const SERVICE: [&str; 2] = ["_slipway", "_tcp"];

/// The TXT record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advert {
    /// Version of the image.
    pub version: Option<String>,
    /// The board it is for.
    pub board: Option<String>,
    /// Name of the cluster that the node belongs to.
    pub cluster: Option<String>,
    /// `server` or `agent`.
    pub role: Option<String>,
    /// SHA-256 of the node API's certificate, hexadecimal.
    pub fingerprint: Option<String>,
}

impl Advert {
    /// As keys and values. One longer than a TXT record's string can be is left out.
    #[must_use]
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![("txtvers", "1".to_owned())];
        for (key, value) in [
            ("version", &self.version),
            ("board", &self.board),
            ("cluster", &self.cluster),
            ("role", &self.role),
            ("fingerprint", &self.fingerprint),
        ] {
            if let Some(value) = value
                && key.len() + 1 + value.len() <= 255
            {
                pairs.push((key, value.clone()));
            }
        }
        pairs
    }

    /// From keys and values, of which some may be missing and others unknown.
    #[must_use]
    pub fn from_pairs(get: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            version: get("version"),
            board: get("board"),
            cluster: get("cluster"),
            role: get("role"),
            fingerprint: get("fingerprint"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let said = Advert {
            version: Some("1.2.3".into()),
            role: Some("agent".into()),
            fingerprint: Some("ab".repeat(32)),
            ..Advert::default()
        };
        let pairs = said.pairs();
        assert_eq!(pairs[0], ("txtvers", "1".into()));
        let get = |key: &str| {
            pairs
                .iter()
                .find(|(k, _)| *k == key)
                .map(|(_, v)| v.clone())
        };
        assert_eq!(Advert::from_pairs(get), said);
        let long = Advert {
            cluster: Some("c".repeat(300)),
            ..Advert::default()
        };
        assert_eq!(long.pairs().len(), 1);
    }
}
