//! Container images are read back as the image specification says, entry by
//! entry, and by the containerd that runs on a node.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it measured"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use slipway::board::Architecture;
use slipway::digest;
use slipway::oci::{self, Image};
use slipway::tree::Content;

const EPOCH: i64 = 1_790_000_000;

fn image(reference: &str, arch: Architecture, program: Vec<u8>) -> Image {
    Image {
        reference: reference.into(),
        arch,
        user: "65534:65534".into(),
        entrypoint: vec!["/usr/bin/program".into(), "-x".into()],
        files: BTreeMap::from([
            ("usr/bin/program".into(), Content::from(program)),
            ("etc/empty".into(), Content::from("")),
        ]),
        labels: BTreeMap::from([("org.opencontainers.image.version".into(), "v1".into())]),
    }
}

fn archive(images: &[Image]) -> Vec<u8> {
    let mut out = Vec::new();
    oci::write(images, EPOCH, &mut out).unwrap();
    out
}

/// The regular files of a tar, after a look at what must be true of each entry.
fn read(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header();
        let owner = (header.uid().unwrap(), header.gid().unwrap());
        assert_eq!((owner, header.mtime().unwrap()), ((0, 0), 0));
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        if entry.header().entry_type().is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            assert!(files.insert(path, bytes).is_none());
        } else {
            assert!(entry.header().entry_type().is_dir());
        }
    }
    files
}

/// The blob of a descriptor, its digest and size checked.
fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
    let sum = descriptor["digest"]
        .as_str()
        .unwrap()
        .strip_prefix("sha256:")
        .unwrap();
    let bytes = &files[&format!("blobs/sha256/{sum}")];
    assert_eq!(digest::hex(bytes), sum);
    assert_eq!(descriptor["size"].as_u64(), Some(bytes.len() as u64));
    bytes
}

#[test]
fn every_descriptor_leads_to_its_blob() {
    for size in [0, 1, 511, 512, 513, 100_000] {
        let program: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let files = read(&archive(&[
            image(
                "slipway.local/one:v1.2.3",
                Architecture::Armhf,
                program.clone(),
            ),
            image("slipway.local/two:1", Architecture::Amd64, program.clone()),
        ]));
        let layout: Value = serde_json::from_slice(&files["oci-layout"]).unwrap();
        assert_eq!(layout["imageLayoutVersion"], "1.0.0");
        let index: Value = serde_json::from_slice(&files["index.json"]).unwrap();
        let manifests = index["manifests"].as_array().unwrap();
        assert_eq!(manifests.len(), 2);
        let first = &manifests[0];
        assert_eq!(
            first["annotations"]["io.containerd.image.name"],
            "slipway.local/one:v1.2.3"
        );
        assert_eq!(
            first["annotations"]["org.opencontainers.image.ref.name"],
            "v1.2.3"
        );
        assert_eq!(first["platform"]["variant"], "v7");
        for descriptor in manifests {
            let manifest: Value = serde_json::from_slice(blob(&files, descriptor)).unwrap();
            let config: Value = serde_json::from_slice(blob(&files, &manifest["config"])).unwrap();
            assert_eq!(config["os"], "linux");
            assert_eq!(
                config["architecture"],
                descriptor["platform"]["architecture"]
            );
            assert_eq!(config["created"], slipway::time::rfc3339(EPOCH));
            assert_eq!(config["config"]["User"], "65534:65534");
            assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/program");
            // Uncompressed, so a layer's digest is its diff ID.
            let layer = &manifest["layers"][0];
            assert_eq!(config["rootfs"]["diff_ids"][0], layer["digest"]);
            let root = read(blob(&files, layer));
            assert_eq!(root["usr/bin/program"], program);
            assert_eq!(root["etc/empty"], b"");
        }
        // The same layer in both is there once: two of each of the other two.
        let blobs = files.keys().filter(|k| k.starts_with("blobs/")).count();
        assert_eq!(blobs, 5);
    }
}

#[test]
fn the_same_image_is_the_same_bytes_wherever_its_program_lies() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let from = |dir: &Path| {
        let path = dir.join("program");
        fs::write(&path, b"\x7fELF").unwrap();
        let mut image = image("a:1", Architecture::Amd64, Vec::new());
        image
            .files
            .insert("program".into(), Content::file(path).unwrap());
        archive(&[image])
    };
    assert_eq!(from(one.path()), from(two.path()));
}

#[test]
fn a_program_that_shrinks_meanwhile_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    fs::write(&path, [1; 1000]).unwrap();
    let content = Content::file(&path).unwrap();
    fs::write(&path, [1; 10]).unwrap();
    let mut image = image("a:1", Architecture::Amd64, Vec::new());
    image.files.insert("program".into(), content);
    let error = oci::write(&[image], EPOCH, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("a:1"), "{error}");
}

/// A containerd with nothing but what importing needs, ended when dropped.
struct Containerd {
    programs: PathBuf,
    dir: tempfile::TempDir,
    child: Child,
}

impl Containerd {
    fn start(programs: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 3\nroot = '{}'\nstate = '{}'\ndisabled_plugins = \
             ['io.containerd.grpc.v1.cri', 'io.containerd.cri.v1.images', \
             'io.containerd.cri.v1.runtime', 'io.containerd.nri.v1.nri']\n\
             [grpc]\naddress = '{}'\n[ttrpc]\naddress = '{}'\n",
            at("root"),
            at("state"),
            at("grpc"),
            at("ttrpc"),
        );
        fs::write(dir.path().join("config.toml"), config).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new(programs.join("containerd"))
            .arg("--config")
            .arg(dir.path().join("config.toml"))
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .unwrap();
        let this = Self {
            programs,
            dir,
            child,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while this.try_ctr(&["version"]).is_err() {
            assert!(
                Instant::now() < deadline,
                "containerd doesn't answer:\n{}",
                fs::read_to_string(this.dir.path().join("log")).unwrap()
            );
        }
        this
    }

    fn try_ctr(&self, arguments: &[&str]) -> Result<String, String> {
        let out = Command::new(self.programs.join("ctr"))
            .arg("--address")
            .arg(self.dir.path().join("grpc"))
            .args(["--namespace", "k8s.io"])
            .args(arguments)
            .output()
            .unwrap();
        match out.status.success() {
            true => Ok(String::from_utf8(out.stdout).unwrap()),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        self.try_ctr(arguments).unwrap()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
#[ignore = "needs root and SLIPWAY_COMPONENTS"]
fn containerd_imports_it_under_its_name() {
    let components = std::env::var_os("SLIPWAY_COMPONENTS")
        .expect("SLIPWAY_COMPONENTS names a directory with containerd and ctr");
    let containerd = Containerd::start(components.into());
    // The host's own architecture, so that it is unpacked, too.
    let arch = match std::env::consts::ARCH {
        "aarch64" => Architecture::Arm64,
        "arm" => Architecture::Armhf,
        _ => Architecture::Amd64,
    };
    let path = containerd.dir.path().join("images.tar");
    let images = [
        image("slipway.local/one:v1", arch, vec![1; 5000]),
        image("slipway.local/two:1", arch, vec![2; 50_000_000]),
    ];
    fs::write(&path, archive(&images)).unwrap();
    let started = Instant::now();
    containerd.ctr(&["images", "import", path.to_str().unwrap()]);
    println!("imported 50 MB in {:?}", started.elapsed());
    let listed = containerd.ctr(&["images", "ls", "-q"]);
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        ["slipway.local/one:v1", "slipway.local/two:1"]
    );
    // Every blob is whole, and it was unpacked into a snapshot.
    let checked = containerd.ctr(&["images", "check"]);
    for line in checked.lines().skip(1) {
        assert!(
            line.contains("complete (2/2)") && line.ends_with("true"),
            "{checked}"
        );
    }
}
