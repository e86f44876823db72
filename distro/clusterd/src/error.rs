//! Why clusterd stops, and with which exit status.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | stopped on request |
//! | 1 | I/O or system failure |
//! | 2 | wrong command line |
//! | 3 | the seed asks for something impossible |
//! | 4 | the state on disk needs a person: nothing was changed |
//! | 5 | a port or the state directory is in use by something else |

use std::io;
use std::path::Path;

/// A fatal error: one line that ends in what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Wrong command line.
    #[error("{0}; see clusterd --help")]
    Usage(String),
    /// The system refused something.
    #[error("can't {action}: {source}")]
    Io {
        /// What was tried, with the path.
        action: String,
        /// The system's error.
        source: io::Error,
    },
    /// A seed that can't be read or followed.
    #[error("{0}")]
    Seed(String),
    /// State that must not be replaced silently is damaged or missing.
    #[error("{what}: {reason}; {remedy}")]
    State {
        /// Which file or files.
        what: String,
        /// What is wrong with them.
        reason: String,
        /// What a person can do.
        remedy: &'static str,
    },
    /// The cluster doesn't let this machine in, or asks for something else first.
    #[error("the cluster refuses this machine: {0}")]
    Refused(String),
    /// No server proves to be of the cluster.
    #[error(transparent)]
    Ca(#[from] slipway_access::api::CaError),
    /// Somebody else has what is needed.
    #[error("{0}")]
    InUse(String),
    /// A certificate can't be made.
    #[error(transparent)]
    Pki(#[from] slipway_access::pki::PkiError),
    /// The client for the own API can't be set up.
    #[error(transparent)]
    Api(#[from] slipway_access::api::ApiError),
}

impl Error {
    /// The process's exit status.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Io { .. } | Self::Pki(_) | Self::Api(_) | Self::Refused(_) | Self::Ca(_) => 1,
            Self::Usage(_) => 2,
            Self::Seed(_) => 3,
            Self::State { .. } => 4,
            Self::InUse(_) => 5,
        }
    }
}

/// Adds to a system error what was tried.
pub trait Context<T> {
    /// `action` completes "can't ...".
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

/// Reads a file, `None` where there is none.
pub fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io {
            action: format!("read {}", path.display()),
            source,
        }),
    }
}
