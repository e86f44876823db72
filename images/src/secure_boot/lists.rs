//! Signature lists: what firmware starts and what it doesn't, in its variables `db` and `dbx`.
//!
//! | offset in a list (EFI_SIGNATURE_LIST) | size | field |
//! |---|---|---|
//! | 0 | 16 | GUID: what its signatures are |
//! | 16 | 4 | the list's size |
//! | 20 | 4 | *h*: size of its header: 0 for those below |
//! | 24 | 4 | *s*: size of a signature |
//! | 28 + *h* | *s* each | signatures: 16 bytes, the GUID of who put it here, then |
//!
//! | list of | a signature's rest |
//! |---|---|
//! | X.509 | a certificate, DER |
//! | SHA-256 | a program's digest ([`super::authenticode`]) |
//! | X.509 SHA-256 | digest of what a certificate's issuer has signed; 16 bytes: since when |
//!
//! Other lists are passed over. Source: UEFI 2.10, section 32.4.1.

use uuid::{Uuid, uuid};

use super::{Certificate, Fault};

/// Who `PK`, `KEK` and `SecureBoot` belong to.
pub const GLOBAL: Uuid = uuid!("8be4df61-93ca-11d2-aa0d-00e098032b8c");
/// Who `db` and `dbx` belong to.
pub const IMAGE_SECURITY: Uuid = uuid!("d719b2cb-3d3a-4596-a3bc-dad00e67656f");
/// A list of certificates.
pub const X509: Uuid = uuid!("a5c059a1-94e4-4aa7-87b5-ab155c2bf072");
const SHA256: Uuid = uuid!("c1c41626-504c-4092-aca9-41f936934328");
const X509_SHA256: Uuid = uuid!("3bd2a492-96c0-4079-b420-fcf98ef103ed");

/// Bytes of a list before its signatures.
pub const LIST: usize = 28;
/// Bytes of a signature before what it is about.
pub const OWNER: usize = 16;

/// The signatures of all lists: a list's GUID, and what its owner has put there.
///
/// # Errors
/// [`Fault::Malformed`] for lists that are none.
pub fn signatures(lists: &[u8]) -> Result<Vec<(Uuid, &[u8])>, Fault> {
    let wrong = || Fault::Malformed("a damaged EFI signature list".into());
    let (mut rest, mut found) = (lists, Vec::new());
    while !rest.is_empty() {
        let (head, _) = rest.split_first_chunk::<LIST>().ok_or_else(wrong)?;
        let (guid, sizes) = head.split_first_chunk::<16>().ok_or_else(wrong)?;
        let guid = Uuid::from_bytes_le(*guid);
        let (sizes, _) = sizes.as_chunks::<4>();
        let [size, header, signature] = [0, 1, 2].map(|n| u32::from_le_bytes(sizes[n]) as usize);
        let body = LIST
            .checked_add(header)
            .and_then(|start| rest.get(start..size));
        let body = body.ok_or_else(wrong)?;
        if signature <= OWNER || !body.len().is_multiple_of(signature) {
            return Err(wrong());
        }
        let owned = body.chunks_exact(signature);
        found.extend(owned.map(|one| (guid, &one[OWNER..])));
        rest = &rest[size..];
    }
    Ok(found)
}

/// What is in the lists of a variable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lists {
    certificates: Vec<Certificate>,
    programs: Vec<[u8; 32]>,
    /// Certificates by digest.
    named: Vec<[u8; 32]>,
}

impl Lists {
    /// Takes a variable's content apart. Certificates of other keys than RSA keys are passed
    /// over: no program of ours is signed by one.
    ///
    /// # Errors
    /// [`Fault::Malformed`] for lists that are none.
    pub fn parse(lists: &[u8]) -> Result<Self, Fault> {
        let mut all = Self::default();
        for (guid, bytes) in signatures(lists)? {
            let digest = bytes.first_chunk::<32>();
            match guid {
                X509 => all.certificates.extend(Certificate::parse(bytes)),
                SHA256 => all.programs.extend(digest),
                X509_SHA256 => all.named.extend(digest),
                _ => {}
            }
        }
        Ok(all)
    }

    /// Whether they have this program.
    #[must_use]
    pub fn has_program(&self, digest: &[u8; 32]) -> bool {
        self.programs.contains(digest)
    }

    /// Whether they have this certificate, or its issuer's.
    #[must_use]
    pub fn has(&self, certificate: &Certificate) -> bool {
        let is = |one: &Certificate| one == certificate || one.has_issued(certificate);
        self.certificates.iter().any(is)
    }

    /// Whether they have this certificate's digest, which counts in `dbx` only.
    #[must_use]
    pub fn names(&self, certificate: &Certificate) -> bool {
        self.named.contains(&certificate.digest_of_signed())
    }
}
