//! Secure Boot, as far as who signs and who asks for a signature share it: what firmware would
//! say of a program before it starts it.
//!
//! | what | module |
//! |---|---|
//! | a program's digest, and its signatures | [`authenticode`] |
//! | a signature | [`pkcs7`] |
//! | whose it is | [`certificate`] |
//! | whom firmware trusts | [`lists`] |
//!
//! [`Firmware::check`] is the question: under Secure Boot firmware starts a program that is
//! signed by a certificate of its `db`, or by one that such a certificate has issued, or whose
//! digest is in `db`; but not if `dbx` has the certificate or the digest of one of its
//! signatures. Source: UEFI 2.10, section 32.5.3.3.

pub mod authenticode;
pub mod certificate;
mod der;
pub mod lists;
pub mod pkcs7;

pub use certificate::Certificate;

use authenticode::Program;
use lists::Lists;

/// Why something isn't what it should be, as a sentence's part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It can't be read.
    #[error("{0}")]
    Malformed(String),
    /// It can be read, and isn't to be trusted.
    #[error("{0}")]
    Untrusted(String),
}

/// Why firmware wouldn't start a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody has signed it.
    #[error("it isn't signed; build the image with --secure-boot-keys")]
    Unsigned,
    /// No signature holds.
    #[error("{0}; make the image and its bundle again")]
    Invalid(Fault),
    /// Not by who is known.
    #[error(
        "it is signed by {0}, whose certificate isn't in the firmware's db; put that there first, or have the image signed by a key that is known (docs/secure-boot.md)"
    )]
    Unknown(String),
    /// The firmware's list of what it never starts has it.
    #[error("the firmware's dbx forbids {0}; build a newer image, or sign it with another key")]
    Forbidden(String),
}

/// What firmware goes by.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Firmware {
    /// What it starts.
    pub db: Lists,
    /// What it doesn't, whatever `db` says.
    pub dbx: Lists,
}

impl Firmware {
    /// Whether it would start a program.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn check(&self, program: &Program) -> Result<(), Refusal> {
        if self.dbx.has_program(&program.digest) {
            return Err(Refusal::Forbidden("this very program".into()));
        }
        let mut trusted = self.db.has_program(&program.digest);
        let mut why = Refusal::Unsigned;
        for der in &program.signatures {
            let chain = match program.signature(der).and_then(|signed| signed.signers()) {
                Ok(chain) => chain,
                Err(fault) => {
                    why = Refusal::Invalid(fault);
                    continue;
                }
            };
            let forbidden = |one: &&Certificate| self.dbx.has(one) || self.dbx.names(one);
            if let Some(one) = chain.iter().find(forbidden) {
                return Err(Refusal::Forbidden(one.subject().to_owned()));
            }
            trusted |= chain.iter().any(|one| self.db.has(one));
            let signer = chain.first().map_or("nobody", Certificate::subject);
            why = Refusal::Unknown(signer.to_owned());
        }
        match trusted {
            true => Ok(()),
            false => Err(why),
        }
    }
}
