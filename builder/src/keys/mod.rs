//! `slipway keys`: what images and updates are signed with.
//!
//! | file | what | where it is needed |
//! |---|---|---|
//! | `PK.key`, `.crt`, `.der`, `.auth` | Secure Boot's platform key: whose the machine is | `.key` nowhere but here |
//! | `KEK.key`, `.crt`, `.der`, `.auth` | the key exchange key, which may change `db` | `.key` nowhere but here |
//! | `db.key`, `.crt`, `.der`, `.auth` | the key that signs loader and kernels | where images are built |
//! | `update.key`, `update.pub` | the key that signs updates | where bundles are made |
//!
//! `.key` is the private key (PKCS #8, PEM, for the owner alone), `.crt` and `.der` the
//! certificate, `.auth` what firmware is told ([`crate::formats::efi_variable`]), signed once:
//! `PK` and `KEK` by `PK`, `db` by `KEK`.

mod certificate;
pub mod update;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use serde::Serialize;
use slipway_images::layout::derive_uuid;
use slipway_images::secure_boot::Certificate;

use crate::atomic;
use crate::error::{Error, Kind, Result};
use crate::formats::efi_variable::{Variable, authenticated, lists};
use crate::progress::Progress;
use crate::run::identity::BACKDATED;

pub use certificate::{Made, Pair, read_certificate};

/// What is done with keys.
#[derive(Subcommand)]
pub enum KeysCommand {
    /// Make the keys that an owner of machines needs: for Secure Boot (PK, KEK, db), and for
    /// updates.
    New(NewArgs),
}

/// Whose keys.
#[derive(clap::Args)]
pub struct NewArgs {
    /// Where the keys go; must not be there yet, or be empty.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Whose keys they are: firmware shows it.
    #[arg(long, value_name = "NAME", default_value = "Slipway")]
    name: String,
    /// A certificate (PEM or DER) whose programs firmware shall start, too: that of the keys
    /// before these, or of who signed a graphics card's firmware.
    #[arg(long, value_name = "FILE")]
    trust: Vec<PathBuf>,
}

/// Does it.
///
/// # Errors
/// [`Kind::Usage`] for a directory that has something in it; [`Kind::Input`] for a certificate
/// that is none; [`Kind::Io`].
pub fn run(command: &KeysCommand, progress: &Progress) -> Result<ExitCode> {
    match command {
        KeysCommand::New(args) => progress.result(&new(args, progress)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What was made.
#[derive(Debug, Serialize)]
pub struct New {
    directory: PathBuf,
    /// Hex SHA-256 of the certificate that images are signed with.
    db: String,
    /// Name of the key that updates are signed with.
    update: String,
}

impl fmt::Display for New {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.directory.display())?;
        writeln!(f, "  db      {}", self.db)?;
        writeln!(f, "  update  {}", self.update)?;
        write!(
            f,
            "  keep *.key secret; a build needs db.key, and nothing needs PK.key and KEK.key until the keys change"
        )
    }
}

fn new(args: &NewArgs, progress: &Progress) -> Result<New> {
    atomic::vacant(&args.dir, "keys")?;
    let trusted = args.trust.iter().map(|path| read_certificate(path));
    let trusted: Vec<Certificate> = trusted.collect::<Result<_>>()?;
    let now = SystemTime::now();
    let set = SecureBootKeys::make(&args.name, &trusted, now)?;
    progress.check()?;
    let dir = atomic::PendingDirectory::create(&args.dir)?;
    for (name, bytes, mode) in &set.files {
        dir.write(name, bytes, *mode)?;
    }
    let update = update::generate(
        &dir.path().join("update.key"),
        &dir.path().join("update.pub"),
    )?;
    dir.commit()?;
    Ok(New {
        directory: args.dir.clone(),
        db: set.db,
        update: update.to_string(),
    })
}

/// The keys of Secure Boot as files.
struct SecureBootKeys {
    /// Name, content, permissions.
    files: Vec<(PathBuf, Vec<u8>, u32)>,
    /// Fingerprint of db's certificate.
    db: String,
}

impl SecureBootKeys {
    fn make(name: &str, trusted: &[Certificate], now: SystemTime) -> Result<Self> {
        if name.is_empty() || name.len() > 40 || name.chars().any(char::is_control) {
            let why = format!("`{name}` is no name for keys: it takes 1 to 40 characters");
            return Err(Error::new(Kind::Usage, why));
        }
        let make = |role: &str| Pair::make(&format!("{name} {role}"), now - BACKDATED);
        let made = [
            make("platform key")?,
            make("key exchange key")?,
            make("signature key")?,
        ];
        let [pk, kek, db] = &made;
        let owner = derive_uuid(pk.pair.certificate.der(), "owner of Secure Boot keys");
        let at = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs() as i64);
        let mut files = Vec::new();
        for variable in Variable::ALL {
            let (own, signer) = match variable {
                Variable::Pk => (pk, pk),
                Variable::Kek => (kek, pk),
                Variable::Db => (db, kek),
            };
            let mut certificates = vec![&own.pair.certificate];
            if variable == Variable::Db {
                certificates.extend(trusted);
            }
            let lists = lists(owner, &certificates);
            let auth = authenticated(variable, &lists, at, &signer.pair)?;
            let mut add = |suffix: &str, bytes: &[u8], mode| {
                files.push((file(variable, suffix), bytes.to_vec(), mode));
            };
            add("key", own.key_pem.as_bytes(), 0o600);
            add("crt", own.certificate_pem.as_bytes(), 0o644);
            add("der", own.pair.certificate.der(), 0o644);
            add("auth", &auth, 0o644);
        }
        Ok(Self {
            files,
            db: db.pair.certificate.fingerprint(),
        })
    }
}

/// `db.key`.
#[must_use]
pub fn file(variable: Variable, suffix: &str) -> PathBuf {
    Path::new(variable.name()).with_extension(suffix)
}
