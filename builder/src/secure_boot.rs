//! Secure Boot of an image: its loader and kernels signed, and on its boot partition what
//! systemd-boot needs to make firmware trust the signer (systemd-boot(7), loader.conf(5)).
//!
//! | on the boot partition | what |
//! |---|---|
//! | `EFI/BOOT/BOOTX64.EFI`, `EFI/Linux/*.efi` | signed |
//! | `loader/keys/auto/{PK,KEK,db}.auth` | what is enrolled |
//! | `loader/loader.conf` | `secure-boot-enroll`: when |

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use slipway_images::secure_boot::Certificate;

use crate::digest;
use crate::error::{At as _, Error, Kind, Result};
use crate::formats::authenticode;
use crate::formats::efi_variable::{Authenticated, Variable};
use crate::keys::{Pair, file, read_certificate};
use crate::tree::Tree;

/// What of a lock's sources says with which keys an image was signed.
pub const SOURCE: &str = "secure-boot-keys";

const LOADER_CONF: &str = "loader/loader.conf";
/// The name that systemd-boot enrols by itself.
const KEYS: &str = "loader/keys/auto";

/// When systemd-boot puts the keys into firmware that has none ("setup mode").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enroll {
    /// Never; the keys don't go onto the boot partition.
    Off,
    /// When they are chosen in its menu.
    Manual,
    /// By itself in a virtual machine, elsewhere as `manual`: firmware of graphics and network
    /// cards that the keys don't trust would no longer be started.
    #[default]
    IfSafe,
    /// By itself everywhere.
    Force,
}

impl Enroll {
    /// As `loader.conf` says it.
    fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Manual => "manual",
            Self::IfSafe => "if-safe",
            Self::Force => "force",
        }
    }
}

/// Who signed an image, in its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signer {
    /// Hex SHA-256 of the certificate's DER.
    pub certificate: String,
    /// Whose it is.
    pub subject: String,
    /// When its keys are enrolled.
    pub enroll: Enroll,
}

/// The keys that an image is signed with.
#[derive(Debug)]
pub struct SecureBoot {
    db: Pair,
    variables: Vec<(Variable, Vec<u8>)>,
    enroll: Enroll,
}

impl SecureBoot {
    /// Reads them from a directory of `slipway keys new`, of which `PK.key` and `KEK.key` may
    /// be elsewhere.
    ///
    /// # Errors
    /// [`Kind::Io`]; [`Kind::Input`] for files that are damaged or don't belong together, since
    /// firmware would be left with keys that nothing is signed by.
    pub fn load(dir: &Path, enroll: Enroll) -> Result<Self> {
        let at = |variable, suffix| dir.join(file(variable, suffix));
        let certificate = |variable| read_certificate(&at(variable, "crt"));
        let db = Pair::read(&at(Variable::Db, "crt"), &at(Variable::Db, "key"))
            .map_err(|e| e.hint("`slipway keys new DIR` makes a directory of keys"))?;
        let (pk, kek) = (certificate(Variable::Pk)?, certificate(Variable::Kek)?);
        let mut variables = Vec::new();
        for variable in Variable::ALL {
            let path = at(variable, "auth");
            let bytes = fs::read(&path).at("reading", &path)?;
            let (own, signer) = match variable {
                Variable::Pk => (&pk, &pk),
                Variable::Kek => (&kek, &pk),
                Variable::Db => (&db.certificate, &kek),
            };
            belongs(&bytes, variable, own, signer).map_err(|e| {
                Error::new(Kind::Input, e.message())
                    .within(path.display())
                    .hint("take all files of one `slipway keys new`")
            })?;
            variables.push((variable, bytes));
        }
        Ok(Self {
            db,
            variables,
            enroll,
        })
    }

    /// Signs every program of a boot partition, and puts the keys beside them.
    ///
    /// # Errors
    /// [`Kind::Input`] for a program that can't be signed.
    pub fn seal(&self, esp: &mut Tree) -> Result<()> {
        let programs = esp.iter().map(|(path, _)| path);
        let programs = programs.filter(|path| path.to_ascii_lowercase().ends_with(".efi"));
        let programs: Vec<String> = programs.map(str::to_owned).collect();
        for path in &programs {
            if let Some(content) = esp.content(path) {
                let signed = self.sign(path, content.read()?.to_vec())?;
                esp.file(path, 0o644, signed)?;
            }
        }
        let mut settings = match esp.content(LOADER_CONF) {
            Some(content) => content.read()?.to_vec(),
            None => Vec::new(),
        };
        settings.extend(format!("secure-boot-enroll {}\n", self.enroll.word()).bytes());
        esp.file(LOADER_CONF, 0o644, settings)?;
        if self.enroll != Enroll::Off {
            for (variable, bytes) in &self.variables {
                let path = Path::new(KEYS).join(file(*variable, "auth"));
                esp.file(&path.to_string_lossy(), 0o644, bytes.clone())?;
            }
        }
        Ok(())
    }

    /// Signs one program.
    ///
    /// # Errors
    /// [`Kind::Input`] if it can't be signed, with its `path`.
    pub fn sign(&self, path: &str, program: Vec<u8>) -> Result<Vec<u8>> {
        authenticode::sign(program, &self.db).map_err(|e| e.within(path))
    }

    /// Hex SHA-256 of all that the keys give to an image.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.db.certificate.der());
        for (_, bytes) in &self.variables {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        digest::to_hex(&hash.finalize())
    }

    /// What the manifest says.
    #[must_use]
    pub fn signer(&self) -> Signer {
        let certificate = &self.db.certificate;
        Signer {
            certificate: certificate.fingerprint(),
            subject: certificate.subject().to_owned(),
            enroll: self.enroll,
        }
    }
}

/// Whether a variable's file is signed by `signer` and makes firmware trust `own`.
fn belongs(file: &[u8], variable: Variable, own: &Certificate, signer: &Certificate) -> Result<()> {
    let read = Authenticated::parse(file)?;
    read.verify(variable, signer)?;
    match read.certificates()?.contains(&own.der()) {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Input,
            format!("the certificate of {} isn't in it", own.subject()),
        )),
    }
}
