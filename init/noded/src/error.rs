//! Why noded stops, and with which exit status: 1 I/O or system failure, 2 wrong command line,
//! 4 a seed can't be fetched.

use std::io;

/// A fatal error: one line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Wrong command line.
    #[error("{0}; see noded --help")]
    Usage(String),
    /// The system refused something.
    #[error("can't {action}: {source}")]
    Io {
        /// What was tried.
        action: String,
        /// The system's error.
        source: io::Error,
    },
    /// A certificate can't be made or used.
    #[error(transparent)]
    Pki(#[from] slipway_access::pki::PkiError),
    /// TLS can't be set up.
    #[error("can't set up TLS: {0}")]
    Tls(String),
    /// A seed can't be had from its URL.
    #[error("{0}")]
    Fetch(String),
}

impl Error {
    /// The process's exit status.
    #[must_use]
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Fetch(_) => 4,
            Self::Io { .. } | Self::Pki(_) | Self::Tls(_) => 1,
        }
    }
}

/// Adds to a system error what was tried.
pub trait Context<T> {
    /// `action` completes "can't ...".
    ///
    /// # Errors
    /// The same, as an [`Error`].
    fn context(self, action: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Context<T> for Result<T, E> {
    fn context(self, action: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|source| Error::Io {
            action: action(),
            source: source.into(),
        })
    }
}
