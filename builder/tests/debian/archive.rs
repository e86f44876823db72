//! A small Debian archive in a directory: packages, indices, signed releases.
//! Signed by gpg, which is what a real archive is signed with.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use slipway::board::Board;
use tempfile::TempDir;

/// A gpg with keys of its own.
pub struct Gpg {
    home: TempDir,
}

impl Gpg {
    pub fn new() -> Self {
        let home = tempfile::Builder::new().prefix("gpg").tempdir().unwrap();
        Self { home }
    }

    /// A signer with one ed25519 key; `when` (`20200101T000000`) and `expires` as
    /// gpg takes them.
    pub fn with_key(when: Option<&str>, expires: &str) -> Self {
        let gpg = Self::new();
        gpg.run(
            when,
            &[
                "--quick-gen-key",
                "test <t@example.org>",
                "ed25519",
                "sign,cert",
                expires,
            ],
            b"",
        );
        gpg
    }

    pub fn run(&self, when: Option<&str>, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut command = Command::new("gpg");
        command.env("GNUPGHOME", self.home.path()).args([
            "--batch",
            "--yes",
            "--no-tty",
            "--quiet",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ]);
        if let Some(when) = when {
            command.args(["--faked-system-time", when]);
        }
        let mut child = command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("these tests need gpg: install the package gnupg");
        child.stdin.take().unwrap().write_all(input).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(
            out.status.success(),
            "gpg {args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        out.stdout
    }

    pub fn public(&self) -> Vec<u8> {
        self.run(None, &["--armor", "--export"], b"")
    }

    pub fn fingerprint(&self) -> String {
        let list =
            String::from_utf8(self.run(None, &["--with-colons", "--list-keys"], b"")).unwrap();
        let line = list.lines().find(|l| l.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    pub fn clearsign(&self, text: &str, extra: &[&str], when: Option<&str>) -> Vec<u8> {
        let args: Vec<&str> = extra.iter().copied().chain(["--clearsign"]).collect();
        self.run(when, &args, text.as_bytes())
    }
}

impl Drop for Gpg {
    /// Its agent would outlive it.
    fn drop(&mut self) {
        let killed = Command::new("gpgconf")
            .env("GNUPGHOME", self.home.path())
            .args(["--kill", "all"])
            .status();
        assert!(killed.is_ok(), "gpg is there but gpgconf isn't");
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    slipway::digest::to_hex(&Sha256::digest(bytes))
}

/// An `ar` archive.
pub fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = b"!<arch>\n".to_vec();
    for (name, content) in members {
        out.extend(
            format!(
                "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
                0,
                0,
                0,
                "100644",
                content.len()
            )
            .bytes(),
        );
        out.extend(*content);
        if content.len() % 2 == 1 {
            out.push(b'\n');
        }
    }
    out
}

pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// A `.deb` whose data.tar is this.
pub fn deb_of(tar: &[u8]) -> Vec<u8> {
    ar(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", &xz(b"")),
        ("data.tar.xz", &xz(tar)),
    ])
}

/// A tar with regular files.
pub fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, path, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// A signed archive with one suite, `test`.
pub struct Archive {
    pub dir: TempDir,
    pub gpg: Gpg,
    packages: String,
}

/// What a test changes of a release.
#[derive(Default)]
pub struct Release<'a> {
    pub suite: &'a str,
    pub date: Option<SystemTime>,
    pub valid_until: Option<SystemTime>,
    pub by_hash: bool,
}

impl Archive {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            gpg: Gpg::with_key(None, "never"),
            packages: String::new(),
        }
    }

    /// Adds a package with one file; `fields` are lines of its paragraph.
    pub fn package(&mut self, name: &str, version: &str, fields: &str) -> Vec<u8> {
        // Not compressible, so that the file is as large as tests want it.
        let noise: Vec<u8> = (0..40_000u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
            .collect();
        let deb = deb_of(&tar_of(&[(&format!("./usr/share/{name}"), &noise)]));
        self.package_of(name, version, fields, &deb);
        deb
    }

    pub fn package_of(&mut self, name: &str, version: &str, fields: &str, deb: &[u8]) {
        let path = format!("pool/{name}_{version}.deb");
        self.write(&path, deb);
        self.packages.push_str(&format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nSection: test\n{fields}Filename: {path}\nSize: {}\nSHA256: {}\nDescription: x\n more\n\n",
            deb.len(),
            sha256(deb)
        ));
    }

    pub fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Writes indices and returns the release's text.
    pub fn release_text(&self, release: &Release<'_>) -> String {
        let suite = release.suite;
        let index = xz(self.packages.as_bytes());
        let dir = format!("dists/{suite}/main/binary-amd64");
        if release.by_hash {
            self.write(&format!("{dir}/by-hash/SHA256/{}", sha256(&index)), &index);
        } else {
            self.write(&format!("{dir}/Packages.xz"), &index);
        }
        let date = |t: SystemTime| httpdate::fmt_http_date(t).replace("GMT", "UTC");
        let mut text = format!(
            "Origin: Test\nSuite: {suite}\nCodename: {suite}\nDate: {}\n",
            date(
                release
                    .date
                    .unwrap_or_else(|| SystemTime::now() - Duration::from_secs(60))
            )
        );
        if let Some(until) = release.valid_until {
            text.push_str(&format!("Valid-Until: {}\n", date(until)));
        }
        text.push_str(&format!(
            "Acquire-By-Hash: {}\nSHA256:\n {} {} main/binary-amd64/Packages.xz\n",
            if release.by_hash { "yes" } else { "no" },
            sha256(&index),
            index.len()
        ));
        text
    }

    pub fn publish(&self, release: &Release<'_>) {
        let text = self.release_text(release);
        let signed = self.gpg.clearsign(&text, &[], None);
        self.write(&format!("dists/{}/InRelease", release.suite), &signed);
    }

    pub fn publish_plainly(&self) {
        self.publish(&Release {
            suite: "test",
            ..Release::default()
        });
    }
}

/// A board that trusts a key and reads these suites.
pub fn board(key: &[u8], suites: &[&str]) -> Board {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("test.asc"), key).unwrap();
    let suites: Vec<String> = suites
        .iter()
        .map(|s| format!("{{ name = \"{s}\", components = [\"main\"] }}"))
        .collect();
    let text = format!(
        "description = \"t\"\narchitecture = \"amd64\"\n\
         debian = {{ keyring = [\"test.asc\"], suites = [{}] }}\n\
         packages.install = [\"aa\"]\nkernel.package = \"linux\"\n\
         boot = {{ method = \"systemd-boot\", package = \"loader\" }}\n\
         image = {{ boot-size = \"64 MiB\", slot-size = \"64 MiB\" }}\n",
        suites.join(", ")
    );
    fs::write(dir.path().join("b.toml"), text).unwrap();
    Board::load(dir.path(), "b").unwrap()
}

pub fn only_file(dir: &Path) -> PathBuf {
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}
