//! What can go wrong with a call, with the API's own words where it has any.

use std::time::Duration;

use serde::Deserialize;
use ureq::http::StatusCode;

/// A failed call of the API.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The client can't even be set up: a certificate or an address is no good.
    #[error("can't set up the API client: {reason}")]
    Setup {
        /// What is wrong.
        reason: String,
    },
    /// No answer: refused connection, failed TLS handshake, time-out.
    #[error("{call}: {server} can't be reached: {source}")]
    Unreachable {
        /// Method and path.
        call: String,
        /// The server's URL.
        server: String,
        /// The transport's error.
        source: Box<ureq::Error>,
    },
    /// The API answered with an error (`metav1.Status`).
    #[error("{call}: {message} ({code} {reason})")]
    Status {
        /// Method and path.
        call: String,
        /// HTTP status.
        code: u16,
        /// `Status.reason`, such as `NotFound`; empty for answers in plain text.
        reason: String,
        /// `Status.message`, or the answer's text.
        message: String,
    },
    /// An answer that is not what the API promises.
    #[error("{call}: the answer makes no sense: {reason}")]
    Corrupt {
        /// Method and path.
        call: String,
        /// The parser's words.
        reason: String,
    },
    /// An object to be applied is none.
    #[error("can't be applied: {reason}")]
    Object {
        /// What is missing.
        reason: String,
    },
    /// A wait's deadline passed.
    #[error("{what} was not so within {} s; last seen: {last}", waited.as_secs())]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// The last state or error, in short.
        last: String,
    },
}

impl ApiError {
    /// The HTTP status, if there was an answer.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// There is no such object (or no such kind of object).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// The object exists, or somebody else changed it or owns its fields.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// Whether waiting may help: the server is not there, starting, or overloaded.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            // 403 while the bootstrap roles are being made is no lasting refusal, but 401 is.
            Self::Status { code, .. } => matches!(code, 403 | 429 | 500..=599),
            _ => false,
        }
    }
}

/// The part of `metav1.Status` that says what went wrong.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
}

pub(super) fn from_answer(call: &str, code: StatusCode, text: &str) -> ApiError {
    let (reason, message) = match serde_json::from_str::<Status>(text) {
        Ok(status) if !status.message.is_empty() => (status.reason, status.message),
        // Health endpoints and load balancers answer in plain text; the first lines say enough.
        _ => {
            let short: String = text.trim().chars().take(400).collect();
            (
                code.canonical_reason().unwrap_or_default().to_owned(),
                short,
            )
        }
    };
    ApiError::Status {
        call: call.to_owned(),
        code: code.as_u16(),
        reason,
        message,
    }
}
