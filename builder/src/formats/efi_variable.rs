//! What is written into firmware to make it trust keys: signature lists in authenticated
//! variables, as the files `PK.auth`, `KEK.auth` and `db.auth`.
//!
//! | offset | size | field of EFI_VARIABLE_AUTHENTICATION_2 |
//! |---|---|---|
//! | 0 | 2, 1, 1, 1, 1, 1 | EFI_TIME: year, month, day, hour, minute, second, in UTC |
//! | 7 | 9 | the rest of it: 0 |
//! | 16 | 4 | dwLength: 24 and the signature's |
//! | 20 | 2 | wRevision: 0x0200 |
//! | 22 | 2 | wCertificateType: 0x0ef1 |
//! | 24 | 16 | GUID of PKCS #7 |
//! | 40 | dwLength - 24 | SignedData ([`super::pkcs7`]) over name, GUID, attributes, time and lists |
//! | 16 + dwLength | | signature lists: the variable's content |
//!
//! [`slipway_images::secure_boot::lists`] has the table of a list, and reads them.
//!
//! Source: UEFI 2.10, sections 8.2.2 (authenticated variables) and 32.4.1 (lists).

use slipway_images::secure_boot::lists::{self, GLOBAL, IMAGE_SECURITY, LIST, OWNER, X509};
use slipway_images::secure_boot::{Certificate, pkcs7::read};
use uuid::{Uuid, uuid};

use super::pkcs7::{self, Content};
use super::uki::{get16, get32};
use crate::error::{Error, Kind, Result};
use crate::keys::Pair;
use crate::time;

const TYPE_PKCS7: Uuid = uuid!("4aafd29d-68df-49ee-8aa9-347d375665a7");
/// Non-volatile, seen by the loader and the system, authenticated by time.
const ATTRIBUTES: u32 = 0x27;
const REVISION: u16 = 0x0200;
const TYPE_GUID: u16 = 0x0ef1;
const TIME: usize = 16;
/// Of what is before the signature, the time not counted.
const HEADER: usize = 24;

/// A variable that says whom firmware trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variable {
    /// The platform key: who may change the key exchange keys.
    Pk,
    /// The key exchange keys: who may change the signatures.
    Kek,
    /// The signatures: whose programs are started.
    Db,
}

impl Variable {
    /// All, in the order of who answers for whom.
    pub const ALL: [Self; 3] = [Self::Pk, Self::Kek, Self::Db];

    /// Its name, and that of its files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pk => "PK",
            Self::Kek => "KEK",
            Self::Db => "db",
        }
    }

    fn vendor(self) -> Uuid {
        match self {
            Self::Pk | Self::Kek => GLOBAL,
            Self::Db => IMAGE_SECURITY,
        }
    }
}

/// Signature lists of certificates, one each, in the name of `owner`.
#[must_use]
pub fn lists(owner: Uuid, certificates: &[&Certificate]) -> Vec<u8> {
    let mut lists = Vec::new();
    for certificate in certificates {
        let signature = OWNER + certificate.der().len();
        lists.extend(X509.to_bytes_le());
        for field in [LIST + signature, 0, signature] {
            // A certificate is a few thousand bytes.
            lists.extend((field as u32).to_le_bytes());
        }
        lists.extend(owner.to_bytes_le());
        lists.extend(certificate.der());
    }
    lists
}

/// The content of a variable's file, signed. `at` is in seconds since 1970 and must be later
/// than that of what it replaces.
///
/// # Errors
/// [`Kind::Bug`] only.
pub fn authenticated(variable: Variable, lists: &[u8], at: i64, signer: &Pair) -> Result<Vec<u8>> {
    let time = efi_time(at);
    let message = message(variable, &time, lists);
    let signed = pkcs7::sign(Content::Elsewhere(&message), signer)?;
    let mut file = time.to_vec();
    // A signature is about a thousand bytes.
    file.extend(((HEADER + signed.len()) as u32).to_le_bytes());
    file.extend(REVISION.to_le_bytes());
    file.extend(TYPE_GUID.to_le_bytes());
    file.extend(TYPE_PKCS7.to_bytes_le());
    file.extend(signed);
    file.extend(lists);
    Ok(file)
}

/// What is signed.
fn message(variable: Variable, time: &[u8], lists: &[u8]) -> Vec<u8> {
    let name = variable.name().encode_utf16().flat_map(u16::to_le_bytes);
    let mut message: Vec<u8> = name.collect();
    message.extend(variable.vendor().to_bytes_le());
    message.extend(ATTRIBUTES.to_le_bytes());
    message.extend(time);
    message.extend(lists);
    message
}

fn efi_time(unix: i64) -> [u8; TIME] {
    let (year, month, day) = time::civil(unix.div_euclid(86_400));
    let second = unix.rem_euclid(86_400);
    let mut time = [0; TIME];
    time[..2].copy_from_slice(&(year as u16).to_le_bytes());
    let rest = [month, day, second / 3600, second / 60 % 60, second % 60];
    for (byte, value) in time[2..].iter_mut().zip(rest) {
        *byte = value as u8;
    }
    time
}

/// A variable's file that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated<'a> {
    time: &'a [u8],
    signature: &'a [u8],
    lists: &'a [u8],
}

impl<'a> Authenticated<'a> {
    /// Takes a file apart.
    ///
    /// # Errors
    /// [`Kind::Input`] for what is none.
    pub fn parse(file: &'a [u8]) -> Result<Self> {
        let wrong = || Error::new(Kind::Input, "no file of an authenticated EFI variable");
        let length = get32(file, TIME) as usize;
        let kind = (get16(file, TIME + 4), get16(file, TIME + 6));
        let guid = file.get(TIME + 8..TIME + HEADER).ok_or_else(wrong)?;
        if kind != (REVISION, TYPE_GUID) || guid != TYPE_PKCS7.to_bytes_le() {
            return Err(wrong());
        }
        let end = TIME.saturating_add(length);
        Ok(Self {
            time: &file[..TIME],
            signature: file.get(TIME + HEADER..end).ok_or_else(wrong)?,
            lists: &file[end..],
        })
    }

    /// Whether it is for this variable and signed by this key.
    ///
    /// # Errors
    /// [`Kind::Untrusted`] if not; [`Kind::Input`] if the signature is none.
    pub fn verify(&self, variable: Variable, signer: &Certificate) -> Result<()> {
        let message = message(variable, self.time, self.lists);
        Ok(read(self.signature)?.verify(&message, signer)?)
    }

    /// The X.509 certificates in its lists, DER.
    ///
    /// # Errors
    /// [`Kind::Input`] for lists that are none.
    pub fn certificates(&self) -> Result<Vec<&'a [u8]>> {
        let found = lists::signatures(self.lists)?.into_iter();
        let of_x509 = found.filter(|(guid, _)| *guid == X509);
        Ok(of_x509.map(|(_, certificate)| certificate).collect())
    }
}
