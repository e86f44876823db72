//! clusterd's own way to the API, with whatever certificate it has at the moment.

use std::sync::{Mutex, PoisonError};

use slipway_access::api::{ApiError, Client};

use crate::probe::Credentials;

/// Makes clients.
#[derive(Debug)]
pub struct Access {
    url: String,
    credentials: Mutex<Credentials>,
}

impl Access {
    /// To the API server of this machine.
    pub fn new(url: String, credentials: Credentials) -> Self {
        Self {
            url,
            credentials: Mutex::new(credentials),
        }
    }

    /// After a renewal.
    pub fn replace(&self, credentials: Credentials) {
        *self
            .credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = credentials;
    }

    /// What is used now.
    pub fn credentials(&self) -> Credentials {
        self.credentials
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// A client as of now.
    pub fn client(&self) -> Result<Client, ApiError> {
        let credentials = self.credentials();
        Client::new(&self.url, &credentials.ca_pem, Some(&credentials.own))
    }
}
