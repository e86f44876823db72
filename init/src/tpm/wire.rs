//! Commands to a TPM and their answers, as bytes.
//!
//! A command and its answer, all numbers big-endian:
//!
//! | offset | size | command | answer |
//! |---|---|---|---|
//! | 0 | 2 | tag: 0x8001, or 0x8002 with an authorisation | the same |
//! | 2 | 4 | bytes in all | bytes in all |
//! | 6 | 4 | command code | response code, 0 for good |
//! | 10 | 4 each | handles | a handle, of commands that make one |
//! | | 4 | with 0x8002: bytes of the authorisation | with 0x8002: bytes of the parameters |
//! | | | the authorisation: session, nonce (none), attributes (0), HMAC (none) | |
//! | | | parameters | parameters, then what belongs to the session |

use zeroize::Zeroizing;

use crate::phase::Failure;

/// The tag of a command without an authorisation.
pub(super) const WITHOUT: u16 = 0x8001;
const WITH_SESSION: u16 = 0x8002;

/// Response codes whose low bits say the same, whichever parameter they are about.
pub(super) fn refused(doing: &str, code: u32) -> Failure {
    let why = match code & 0xbf {
        0x9d => {
            "PCR 7 isn't what it was when the key was sealed: Secure Boot was switched on or \
             off, or its keys were changed"
        }
        0x9f => "the key was sealed by another TPM, or this one was cleared since",
        _ => return Failure(format!("the TPM, {doing}: response code {code:#x}")),
    };
    Failure(format!("the TPM, {doing}: {why}"))
}

pub(super) fn short() -> Failure {
    Failure("the TPM answers what makes no sense".into())
}

pub(super) fn command(tag: u16, code: u32, body: &Bytes) -> Bytes {
    let length = u32::try_from(10 + body.0.len()).unwrap_or(u32::MAX);
    Bytes::default().u16(tag).u32(length).u32(code).raw(&body.0)
}

pub(super) fn authorised(code: u32, handle: u32, session: u32, parameters: &Bytes) -> Bytes {
    let authorisation = Bytes::default()
        .u32(session)
        .sized(&[])
        .raw(&[0])
        .sized(&[]);
    let length = u32::try_from(authorisation.0.len()).unwrap_or(u32::MAX);
    let body = Bytes::default()
        .u32(handle)
        .u32(length)
        .raw(&authorisation.0)
        .raw(&parameters.0);
    command(WITH_SESSION, code, &body)
}

/// Bytes of a command; wiped when they go.
#[derive(Default)]
pub(super) struct Bytes(pub Zeroizing<Vec<u8>>);

impl Bytes {
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn u16(self, number: u16) -> Self {
        self.raw(&number.to_be_bytes())
    }

    pub fn u32(self, number: u32) -> Self {
        self.raw(&number.to_be_bytes())
    }

    /// Behind their length in 16 bits. What is sent here is short.
    pub fn sized(self, bytes: &[u8]) -> Self {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(length).raw(bytes)
    }
}

/// What is left of an answer.
pub(super) struct Answer<'a>(pub &'a [u8]);

impl<'a> Answer<'a> {
    pub fn take(&mut self, length: usize) -> Result<&'a [u8], Failure> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn u32(&mut self) -> Result<u32, Failure> {
        let bytes = self.take(4)?.try_into();
        bytes.map(u32::from_be_bytes).map_err(|_| short())
    }

    pub fn sized(&mut self) -> Result<&'a [u8], Failure> {
        let length: Result<[u8; 2], _> = self.take(2)?.try_into();
        let length = length.map(u16::from_be_bytes).map_err(|_| short())?;
        self.take(usize::from(length))
    }
}
