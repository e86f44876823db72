//! Against swtpm, which is a TPM 2.0 but for the hardware.

use super::*;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use proptest::prelude::*;

/// A TPM with a state of its own, switched on.
struct Machine {
    dir: tempfile::TempDir,
    swtpm: Child,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let swtpm = Self::switch_on(&dir);
        Self { dir, swtpm }
    }

    fn switch_on(dir: &tempfile::TempDir) -> Child {
        let at = |name: &str| dir.path().join(name).display().to_string();
        Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={}", dir.path().display())])
            .args(["--server", &format!("type=unixio,path={}", at("tpm"))])
            .spawn()
            .expect("swtpm is needed (ci/setup installs it)")
    }

    fn tpm(&self) -> Tpm<UnixStream> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match UnixStream::connect(self.dir.path().join("tpm")) {
                Ok(stream) => return Tpm(stream),
                Err(error) => assert!(Instant::now() < until, "swtpm: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The PCRs begin anew.
    fn restart(&mut self) {
        self.switch_off();
        self.swtpm = Self::switch_on(&self.dir);
    }

    fn switch_off(&mut self) {
        drop(self.swtpm.kill());
        self.swtpm.wait().unwrap();
        drop(std::fs::remove_file(self.dir.path().join("tpm")));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.switch_off();
    }
}

fn random() -> impl FnMut(&mut [u8]) -> std::io::Result<()> {
    let mut urandom = std::fs::File::open("/dev/urandom").unwrap();
    move |bytes: &mut [u8]| urandom.read_exact(bytes)
}

fn token(sealed: &Sealed) -> Token {
    let token = Value::Object(sealed.token().clone());
    Token::read(&token).unwrap().unwrap()
}

/// As the firmware does when it finds another state of Secure Boot.
fn extend(tpm: &mut Tpm<UnixStream>, pcr: u32) {
    let parameters = Bytes::default().u32(1).u16(SHA256).raw(&[7; 32]);
    let extend = authorised(0x182, pcr, PASSWORD, &parameters);
    tpm.run("extending", &extend).unwrap();
}

#[test]
fn a_secret_comes_back_from_this_tpm_in_this_state_only() {
    let mut machine = Machine::new();
    let mut tpm = machine.tpm();
    // More than there is room for at once: nothing is left behind.
    let all: Vec<_> = (0..5)
        .map(|_| Sealed::by(&mut tpm, &mut random()).unwrap())
        .collect();
    for sealed in &all {
        assert_eq!(sealed.secret().len(), 64);
        let secret = tpm.unseal(&token(sealed)).unwrap();
        assert_eq!(secret.as_slice(), sealed.secret());
    }
    let token = token(&all[0]);
    // What other measurements there are is of no matter.
    extend(&mut tpm, 11);
    tpm.unseal(&token).unwrap();
    extend(&mut tpm, 7);
    for _ in 0..5 {
        let failure = tpm.unseal(&token).unwrap_err().0;
        assert!(failure.contains("PCR 7 isn't what it was"), "{failure}");
    }
    drop(tpm);
    machine.restart();
    let secret = machine.tpm().unseal(&token).unwrap();
    assert_eq!(secret.as_slice(), all[0].secret());
    let failure = Machine::new().tpm().unseal(&token).unwrap_err().0;
    assert!(failure.contains("another TPM"), "{failure}");
    let cut = Token {
        private: token.private[..40].to_vec(),
        public: token.public,
    };
    assert!(machine.tpm().unseal(&cut).is_err());
}

#[test]
fn tokens_are_told_apart() {
    let read = |token: Value| Token::read(&token).map(|read| read.is_ok());
    assert_eq!(read(json!({"type": "systemd-tpm2"})), None);
    assert_eq!(read(json!([1])), None);
    assert_eq!(read(json!({"type": TOKEN})), Some(false));
    assert_eq!(
        read(json!({"type": TOKEN, "private": "!", "public": ""})),
        Some(false)
    );
    assert_eq!(
        read(json!({"type": TOKEN, "private": "", "public": ""})),
        Some(true)
    );
}

/// Answers with what it was given, over and over.
struct Fixed(Vec<u8>);

impl Read for Fixed {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let length = self.0.len().min(bytes.len());
        bytes[..length].copy_from_slice(&self.0[..length]);
        Ok(length)
    }
}

impl Write for Fixed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

proptest! {
    #[test]
    fn no_answer_makes_it_panic(answer in prop::collection::vec(any::<u8>(), 0..80), good: bool) {
        let mut answer = answer;
        if good && answer.len() >= 10 {
            let length = answer.len() as u32;
            answer[2..6].copy_from_slice(&length.to_be_bytes());
            answer[6..10].fill(0);
        }
        let mut tpm = Tpm(Fixed(answer));
        drop(tpm.seal(b"secret"));
        drop(tpm.session(Session::Policy));
        drop(tpm.policy_digest(1));
        let token = Token { private: vec![1], public: vec![2] };
        drop(tpm.unseal(&token));
    }
}
