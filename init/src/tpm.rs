//! A secret that the machine's TPM 2.0 gives back to this machine only, and only as long as
//! its PCR 7 is what it was: the state and the keys of Secure Boot, as the firmware measured
//! them. (Not the kernel: each update would lock the node out.)
//!
//! | command | code | here |
//! |---|---|---|
//! | CreatePrimary | 0x131 | the storage key, the same each time: P-256 in the owner's hierarchy |
//! | Create, Load | 0x153, 0x157 | the sealed secret, below that key |
//! | Unseal | 0x15e | the secret, for a session whose policy is the secret's |
//! | FlushContext | 0x165 | what was made is let go |
//! | StartAuthSession | 0x176 | a trial, to learn the policy's digest; or the policy itself |
//! | PCR_Read | 0x17e | whether there is such a PCR |
//! | PolicyPCR, PolicyGetDigest | 0x17f, 0x189 | the policy: PCR 7 as it is now |
//!
//! Source: TCG, TPM 2.0 Library, parts 2 and 3. The header of the volume keeps what Create
//! gave, which is of no use to another TPM.

mod wire;

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use slipway_images::luks::Random;
use zeroize::Zeroizing;

use self::wire::{Answer, Bytes, WITHOUT, authorised, command, refused, short};
use crate::modules::Modules;
use crate::phase::{Context, Failure};

/// The TPM, by the kernel's resource manager.
const DEVICE: &str = "/dev/tpmrm0";
/// Drivers of discrete and of firmware's TPMs.
const DRIVERS: [&str; 2] = ["tpm_tis", "tpm_crb"];
/// The kind of our token in a volume's header.
const TOKEN: &str = "slipway-tpm2";
/// The longest answer (TPM2_MAX_RESPONSE_SIZE of common TPMs).
const ANSWER_MAX: usize = 4096;
/// Random bytes of a secret, which is their hexadecimal digits.
const SECRET: usize = 32;

const OWNER: u32 = 0x4000_0001;
const NOBODY: u32 = 0x4000_0007;
/// The session of an empty password.
const PASSWORD: u32 = 0x4000_0009;

const KEYED_HASH: u16 = 0x0008;
const AES: u16 = 0x0006;
const SHA256: u16 = 0x000b;
const NONE: u16 = 0x0010;
const ECC: u16 = 0x0023;
const CFB: u16 = 0x0043;
const P256: u16 = 0x0003;

const FIXED: u32 = 1 << 1 | 1 << 4;
/// Failures elsewhere don't lock it out.
const NO_LOCKOUT: u32 = 1 << 10;
const STORAGE: u32 = 1 << 5 | 1 << 6 | 1 << 16 | 1 << 17;

/// One bank, three bytes of bits, PCR 7.
const PCRS: [u8; 10] = [0, 0, 0, 1, 0, 0x0b, 3, 0x80, 0, 0];

/// What a session is for.
#[derive(Clone, Copy)]
enum Session {
    Policy = 1,
    Trial = 3,
}

/// A secret of the TPM's, new.
pub struct Sealed {
    secret: Zeroizing<Vec<u8>>,
    token: Map<String, Value>,
}

impl Sealed {
    /// Makes a secret that this machine's TPM gives back.
    ///
    /// # Errors
    /// There is no TPM, or it can't.
    pub fn new(random: &mut Random<'_>) -> Result<Self, Failure> {
        Self::by(&mut device()?, random)
    }

    fn by<T: Read + Write>(tpm: &mut Tpm<T>, random: &mut Random<'_>) -> Result<Self, Failure> {
        let mut bytes = Zeroizing::new([0; SECRET]);
        random(bytes.as_mut()).context("random bytes")?;
        let secret = Zeroizing::new(slipway_images::hex(bytes.as_ref()).into_bytes());
        let (private, public) = tpm.seal(&secret)?;
        let token = json!({
            "type": TOKEN,
            "bank": "sha256",
            "pcrs": [7],
            "private": STANDARD.encode(private),
            "public": STANDARD.encode(public),
        });
        let Value::Object(token) = token else {
            return Err(Failure("a token is a mapping".into()));
        };
        Ok(Self { secret, token })
    }

    /// What opens the volume.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// What the volume's header keeps of it.
    pub fn token(&self) -> &Map<String, Value> {
        &self.token
    }
}

/// What a volume's header keeps of a secret.
pub struct Token {
    private: Vec<u8>,
    public: Vec<u8>,
}

impl Token {
    /// `None` for one of another kind.
    ///
    /// # Errors
    /// It is ours and makes no sense.
    pub fn read(token: &Value) -> Option<Result<Self, Failure>> {
        if token.get("type").and_then(Value::as_str) != Some(TOKEN) {
            return None;
        }
        let field = |name| {
            let text = token.get(name).and_then(Value::as_str);
            text.and_then(|text| STANDARD.decode(text).ok())
        };
        Some(match (field("private"), field("public")) {
            (Some(private), Some(public)) => Ok(Self { private, public }),
            _ => Err(Failure("the volume's token for the TPM is damaged".into())),
        })
    }

    /// Has the TPM give the secret back.
    ///
    /// # Errors
    /// There is no TPM, it is another one, or the machine isn't as it was.
    pub fn unseal(&self) -> Result<Zeroizing<Vec<u8>>, Failure> {
        device()?.unseal(self)
    }
}

fn device() -> Result<Tpm<std::fs::File>, Failure> {
    if !Path::new(DEVICE).exists() {
        let mut modules = Modules::of_running_kernel()?;
        for driver in DRIVERS {
            // One of them or none is this machine's; the device tells.
            drop(modules.load(driver));
        }
    }
    let device = OpenOptions::new().read(true).write(true).open(DEVICE);
    device.map(Tpm).map_err(|error| {
        let none = error.kind() == std::io::ErrorKind::NotFound;
        Failure(match none {
            true => "this machine shows no TPM 2.0 (is it switched off in the firmware?)".into(),
            false => format!("{DEVICE}: {error}"),
        })
    })
}

/// A TPM: each write is a command, and the next read its answer.
struct Tpm<T>(T);

impl<T: Read + Write> Tpm<T> {
    /// Seals a secret of at most 128 bytes: its private and public part.
    fn seal(&mut self, secret: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        self.pcr_is_kept()?;
        let trial = self.session(Session::Trial)?;
        let digest = self.policy_digest(trial);
        self.flush(trial)?;
        let digest = digest?;
        let parent = self.storage_key()?;
        let public = Bytes::default()
            .u16(KEYED_HASH)
            .u16(SHA256)
            .u32(FIXED | NO_LOCKOUT)
            .sized(&digest)
            .u16(NONE)
            .sized(&[]);
        let sensitive = Bytes::default().sized(&[]).sized(secret);
        let parameters = Bytes::default()
            .sized(&sensitive.0)
            .sized(&public.0)
            .sized(&[])
            .u32(0);
        let created = self.authorised("sealing", 0x153, parent, PASSWORD, &parameters);
        self.flush(parent)?;
        let created = created?;
        let mut answer = Answer(&created);
        Ok((answer.sized()?.to_vec(), answer.sized()?.to_vec()))
    }

    fn unseal(&mut self, token: &Token) -> Result<Zeroizing<Vec<u8>>, Failure> {
        let parent = self.storage_key()?;
        let parameters = Bytes::default().sized(&token.private).sized(&token.public);
        let loaded = self.made("loading the sealed secret", 0x157, parent, &parameters);
        self.flush(parent)?;
        let object = loaded?;
        let secret = self.session(Session::Policy).and_then(|session| {
            let secret = self.policy_pcr(session).and_then(|()| {
                self.authorised("unsealing", 0x15e, object, session, &Bytes::default())
            });
            // One that was used is gone by itself.
            match secret {
                Ok(secret) => Ok(secret),
                Err(failure) => Err(self.flush(session).err().unwrap_or(failure)),
            }
        });
        self.flush(object)?;
        let secret = Zeroizing::new(secret?);
        Ok(Zeroizing::new(Answer(&secret).sized()?.to_vec()))
    }

    /// A bank that is off has no PCR, and a policy on it would bind to nothing.
    fn pcr_is_kept(&mut self) -> Result<(), Failure> {
        let parameters = Bytes::default().raw(&PCRS);
        let answer = self.plain("reading PCR 7", 0x17e, &[], &parameters)?;
        let mut answer = Answer(&answer);
        answer.take(4 + PCRS.len())?;
        match answer.u32()? {
            1 => Ok(()),
            _ => Err(Failure(
                "the TPM keeps no PCRs by SHA-256; switch that bank on in the firmware".into(),
            )),
        }
    }

    fn storage_key(&mut self) -> Result<u32, Failure> {
        let public = Bytes::default()
            .u16(ECC)
            .u16(SHA256)
            .u32(FIXED | NO_LOCKOUT | STORAGE)
            .sized(&[])
            .u16(AES)
            .u16(128)
            .u16(CFB)
            .u16(NONE)
            .u16(P256)
            .u16(NONE)
            .sized(&[])
            .sized(&[]);
        let sensitive = Bytes::default().sized(&[]).sized(&[]);
        let parameters = Bytes::default()
            .sized(&sensitive.0)
            .sized(&public.0)
            .sized(&[])
            .u32(0);
        self.made("making the storage key", 0x131, OWNER, &parameters)
    }

    fn session(&mut self, session: Session) -> Result<u32, Failure> {
        // Nothing is kept secret or whole by the session itself: the nonce may be any.
        let parameters = Bytes::default()
            .sized(&[0; 16])
            .sized(&[])
            .raw(&[session as u8])
            .u16(NONE)
            .u16(SHA256);
        let answer = self.plain("a session", 0x176, &[NOBODY, NOBODY], &parameters)?;
        Answer(&answer).u32()
    }

    fn policy_pcr(&mut self, session: u32) -> Result<(), Failure> {
        let parameters = Bytes::default().sized(&[]).raw(&PCRS);
        self.plain("a policy", 0x17f, &[session], &parameters)
            .map(drop)
    }

    fn policy_digest(&mut self, session: u32) -> Result<Vec<u8>, Failure> {
        self.policy_pcr(session)?;
        let answer = self.plain("a policy's digest", 0x189, &[session], &Bytes::default())?;
        Ok(Answer(&answer).sized()?.to_vec())
    }

    fn flush(&mut self, handle: u32) -> Result<(), Failure> {
        let parameters = Bytes::default().u32(handle);
        self.plain("letting go", 0x165, &[], &parameters).map(drop)
    }

    /// A command that makes something by the empty password: its handle.
    fn made(
        &mut self,
        doing: &str,
        code: u32,
        parent: u32,
        parameters: &Bytes,
    ) -> Result<u32, Failure> {
        let command = authorised(code, parent, PASSWORD, parameters);
        let answer = self.run(doing, &command)?;
        Answer(&answer).u32()
    }

    /// A command with an authorisation: the parameters of its answer.
    fn authorised(
        &mut self,
        doing: &str,
        code: u32,
        handle: u32,
        session: u32,
        parameters: &Bytes,
    ) -> Result<Vec<u8>, Failure> {
        let command = authorised(code, handle, session, parameters);
        let answer = Zeroizing::new(self.run(doing, &command)?);
        let mut answer = Answer(&answer);
        let length = answer.u32()? as usize;
        Ok(answer.take(length)?.to_vec())
    }

    fn plain(
        &mut self,
        doing: &str,
        code: u32,
        handles: &[u32],
        parameters: &Bytes,
    ) -> Result<Vec<u8>, Failure> {
        let body = handles.iter().fold(Bytes::default(), |b, h| b.u32(*h));
        self.run(doing, &command(WITHOUT, code, &body.raw(&parameters.0)))
    }

    /// Sends a command: its answer behind the response code.
    fn run(&mut self, doing: &str, command: &Bytes) -> Result<Vec<u8>, Failure> {
        let what = || format!("the TPM, {doing}");
        self.0.write_all(&command.0).context(what())?;
        // The whole answer comes with one read.
        let mut answer = Zeroizing::new(vec![0; ANSWER_MAX]);
        let length = self.0.read(&mut answer).context(what())?;
        let mut rest = Answer(&answer[..length]);
        let (_, size) = (rest.take(2)?, rest.u32()?);
        if size as usize != length {
            return Err(short());
        }
        match rest.u32()? {
            0 => Ok(rest.0.to_vec()),
            code => Err(refused(doing, code)),
        }
    }
}

#[cfg(test)]
#[path = "tpm_tests.rs"]
mod tests;
