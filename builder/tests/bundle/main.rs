//! Bundles of small images with all that a real one has, and channels with them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking"
)]

mod channel;
#[path = "../common/noise.rs"]
mod noise;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use noise::noise;
use slipway::bundle::image::Image;
use slipway::bundle::{MakeArgs, inspect, make, verify};
use slipway::formats::{cpio, ext4, fat, gpt, uki, verity, zst};
use slipway::keys::update;
use slipway::progress::{Progress, Style};
use slipway::tree::Tree;
use slipway::{Kind, Result};
use slipway_images::bundle::manifest::Manifest;
use slipway_images::bundle::{Bundle, PayloadName};
use slipway_images::info::{IMAGE_INFO_PATH, ImageInfo, Loader};
use slipway_images::layout::{Bytes, ESP, Sizes, Slot};
use slipway_images::slot::{DIRECTORY, RECORD_FILE, RECORD_SIZE, shipped_name};

const EPOCH: i64 = 1_790_000_000;
const STUB: &str = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// Bytes of the root's filesystem.
const ROOT: u64 = 24 << 20;

fn quiet() -> Progress {
    Progress::with_style(Style::Quiet)
}

/// What differs between images here.
#[derive(Clone, Copy)]
struct Kit<'a> {
    board: &'a str,
    number: i64,
    /// A file before the large ones.
    line: &'a str,
    /// Bytes of another one, which moves what is behind it.
    grown: usize,
    release: Option<u64>,
}

const ONE: Kit<'_> = Kit {
    board: "x86_64",
    number: 1,
    line: "PermitRootLogin yes\n",
    grown: 1000,
    release: None,
};

impl Kit<'_> {
    fn version(&self) -> String {
        format!("0.{}.0", self.number)
    }

    fn image(&self, path: &Path) {
        let info = ImageInfo {
            board: self.board.to_owned(),
            version: self.version(),
            built: EPOCH + self.number,
            release_number: self.release,
            kubernetes: "v1.36.3".to_owned(),
            arch: "x86_64".to_owned(),
            root_uuid: uuid::Uuid::from_u128(7),
            loader: Loader::default(),
        };
        let info = serde_json::to_string(&info).unwrap();
        let mut tree = Tree::new();
        tree.file(IMAGE_INFO_PATH, 0o644, info.clone()).unwrap();
        tree.file("etc/line", 0o644, self.line.to_owned()).unwrap();
        tree.file("usr/a", 0o755, noise(1, 2 << 20)).unwrap();
        tree.file("usr/b", 0o755, noise(2, self.grown)).unwrap();
        tree.file("usr/c", 0o755, noise(3, 7 << 20)).unwrap();
        let mut initrd = Tree::new();
        initrd.file("init", 0o755, noise(4, 1 << 20)).unwrap();
        initrd.file(IMAGE_INFO_PATH, 0o644, info).unwrap();
        // The first versions had compressed ones.
        let initrd = match self.number {
            1 => cpio::compressed(&initrd, EPOCH, 3),
            _ => cpio::archive(&initrd, EPOCH),
        };
        let initrd = initrd.unwrap();

        let sizes = Sizes {
            esp: Bytes::mib(40),
            root: Bytes::mib(25),
            ..Sizes::X86_64
        };
        let table = sizes.shipped(b"seed").unwrap();
        gpt::assemble(path, &table, |file, table| {
            let slot = gpt::partition(table, Slot::A.root())?;
            let options = ext4::Options {
                size: ROOT,
                uuid: uuid::Uuid::from_u128(7),
                label: "root".into(),
                epoch: EPOCH,
            };
            let offset = slot.offset().get();
            ext4::write(&tree, file, offset, &options, &quiet())?;
            let place = verity::Slot {
                offset,
                size: slot.size().get(),
                filesystem: ROOT,
                board: self.board,
            };
            let hash = verity::append(file, place, 2, &quiet())?.root_hash;
            let stub = fs::read(STUB).unwrap_or_else(|e| panic!("{STUB} (systemd-boot-efi): {e}"));
            let kernel = uki::assemble(uki::Parts {
                stub: &stub,
                linux: &[b"MZ".to_vec(), noise(5, 1 << 20)].concat(),
                initrd: &initrd,
                cmdline: &format!("roothash={hash} quiet"),
                os_release: "ID=slipway\n",
                uname: "6.12.0",
            })?;
            let mut boot = Tree::new();
            boot.file(&format!("{DIRECTORY}/{}", shipped_name()), 0o644, kernel)?;
            boot.file(RECORD_FILE, 0o644, vec![0; RECORD_SIZE as usize])?;
            let esp = gpt::partition(table, ESP)?;
            let options = fat::Options {
                size: esp.size().get(),
                label: "SLIPWAY".into(),
                serial: 1,
                epoch: EPOCH,
            };
            fat::write(&boot, file, esp.offset().get(), &options)
        })
        .unwrap();
    }
}

/// A directory with a key and an image.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self { dir };
        update::generate(&place.at("update.key"), &place.at("update.pub")).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn image(&self, name: &str, kit: Kit<'_>) -> PathBuf {
        let path = self.at(name);
        kit.image(&path);
        path
    }

    fn make(&self, image: &Path, from: &[&Path], name: &str) -> Result<make::Made> {
        let args = MakeArgs {
            image: image.to_owned(),
            from: from.iter().map(|p| (*p).to_owned()).collect(),
            key: self.at("update.key"),
            next_key: Vec::new(),
            requires: Vec::new(),
            level: 3,
            output: Some(self.at(name)),
        };
        make::make(&args, &self.at("cache"), &quiet())
    }

    fn open(&self, bundle: &str) -> (Bundle, File) {
        let key = update::load_public(&self.at("update.pub")).unwrap();
        let mut file = File::open(self.at(bundle)).unwrap();
        (Bundle::open(&mut file, &[key]).unwrap(), file)
    }

    fn verify(&self, bundle: &str) -> Result<String> {
        let verified = verify(&self.at(bundle), &self.at("update.pub"), &quiet())?;
        Ok(verified.to_string())
    }
}

#[test]
fn a_bundle_of_an_image_is_whole_and_the_same_each_time() {
    let place = Place::new();
    let image = place.image("a.img", ONE);
    let made = place.make(&image, &[], "a.slip").unwrap();
    assert_eq!(
        (made.version.as_str(), made.release),
        ("0.1.0", EPOCH as u64 + 1)
    );
    assert_eq!(made.size, made.full);
    assert!(place.verify("a.slip").unwrap().contains("x86_64 0.1.0"));
    let shown = inspect(&place.at("a.slip"), Some(&place.at("update.pub"))).unwrap();
    assert!(shown.to_string().contains("verified"), "{shown}");
    let shown = inspect(&place.at("a.slip"), None).unwrap().to_string();
    assert!(shown.contains("NOT VERIFIED"), "{shown}");
    // Over the network: the same, and with or without ranges no more than its head.
    let bytes = fs::read(place.at("a.slip")).unwrap();
    for ranges in [true, false] {
        let server = Server::new(bytes.clone(), ranges);
        let url = Path::new(&server.url);
        assert_eq!(inspect(url, None).unwrap().to_string(), shown);
        let verified = inspect(url, Some(&place.at("update.pub"))).unwrap();
        assert!(!verified.to_string().contains("NOT"), "{verified}");
        let sent = server.sent.load(Ordering::Relaxed);
        assert!(!ranges || sent <= 2 * (64 << 10), "{sent}");
        let error = inspect(Path::new(&format!("{}x", server.url)), None).unwrap_err();
        assert!(error.message().contains("404"), "{error}");
    }

    // Of the download, without what is remembered, and by another hand of the clock.
    let packed = place.at("a.img.zst");
    zst::compress(&image, &packed, 3, &place.at("other"), 2, &quiet()).unwrap();
    place.make(&packed, &[], "b.slip").unwrap();
    let read = |name: &str| fs::read(place.at(name)).unwrap();
    assert!(read("a.slip") == read("b.slip"));
    fs::remove_dir_all(place.at("cache")).unwrap();
    place.make(&image, &[], "c.slip").unwrap();
    assert!(read("a.slip") == read("c.slip"));
}

#[test]
fn deltas_are_small_and_zstd_gets_the_new_version_from_them() {
    let place = Place::new();
    let old = place.image("old.img", ONE);
    let line = Kit {
        number: 2,
        line: "PermitRootLogin no\n",
        ..ONE
    };
    let moved = Kit {
        number: 3,
        grown: 300_000,
        ..line
    };
    let (line, moved) = (
        place.image("line.img", line),
        place.image("moved.img", moved),
    );
    let made = place.make(&line, &[&old], "line.slip").unwrap();
    let (version, size) = &made.deltas[0];
    assert_eq!(version, "0.1.0");
    assert!(*size < made.full / 100, "{size} of {}", made.full);
    assert_eq!(made.size, made.full + size - head(&place, "line.slip"));

    let made = place.make(&moved, &[&old, &line], "moved.slip").unwrap();
    place.verify("moved.slip").unwrap();
    // What has moved isn't sent again: but for what grew, nothing is new.
    assert!(made.deltas[0].1 < 300_000 + made.full / 50, "{made}");

    let (bundle, file) = place.open("moved.slip");
    let manifest = bundle.manifest();
    let new = Image::open(&moved, &quiet()).unwrap();
    let mut at = bundle.pieces() + manifest.stored_full();
    for (base, old) in manifest.bases.iter().zip([&old, &line]) {
        let old = Image::open(old, &quiet()).unwrap();
        assert!(base.deltas.iter().any(|d| d.payload == PayloadName::Kernel));
        for delta in &base.deltas {
            let mut piece = vec![0; delta.stored.size as usize];
            file.read_exact_at(&mut piece, at).unwrap();
            at += piece.len() as u64;
            fs::write(place.at("delta.zst"), piece).unwrap();
            let prefix = old.read(delta.payload, delta.from, delta.len).unwrap();
            fs::write(place.at("prefix"), prefix).unwrap();
            let out = Command::new("zstd")
                .args(["-dc", "-M32MB", "--patch-from=prefix", "delta.zst"])
                .current_dir(place.dir.path())
                .output()
                .expect("ci/setup installs zstd");
            let range = manifest.place(delta.payload, delta.segment as usize);
            let wanted = new.read(delta.payload, range.start, manifest.segment_size);
            assert!(out.stdout == wanted.unwrap(), "{delta:?} {out:?}");
        }
    }
    assert_eq!(at, file.metadata().unwrap().len());
}

#[test]
fn who_bundles_hears_which_old_versions_are_none_for_nodes() {
    let place = Place::new();
    let old = place.image("old.img", ONE);
    // As of the same day: a number is all that tells which one is later.
    let day = EPOCH as u64 + 1;
    for (release, warns) in [(day - 1, true), (day, true), (day + 1, false)] {
        let kit = Kit {
            line: "PermitRootLogin no\n",
            number: 2,
            release: Some(release),
            ..ONE
        };
        let new = place.image("new.img", kit);
        let made = place.make(&new, &[&old], "new.slip").unwrap();
        assert_eq!(made.release, release);
        assert_eq!(place.open("new.slip").0.manifest().release, release);
        let said = made.to_string().contains("a higher --release");
        assert_eq!(said, warns, "{made}");
    }
}

/// Bytes before the pieces.
fn head(place: &Place, bundle: &str) -> u64 {
    place.open(bundle).0.pieces()
}

#[test]
fn what_isnt_right_makes_no_bundle() {
    let place = Place::new();
    let image = place.image("a.img", ONE);
    let other = place.image(
        "b.img",
        Kit {
            board: "pi4",
            ..ONE
        },
    );
    let refused = |result: Result<make::Made>, word: &str| {
        let error = result.unwrap_err();
        assert_eq!(error.kind, Kind::Input, "{error}");
        assert!(error.message().contains(word), "{error}");
        assert!(!place.at("x.slip").exists());
    };
    refused(place.make(&image, &[&image], "x.slip"), "same image");
    refused(place.make(&image, &[&other], "x.slip"), "board pi4");
    refused(
        place.make(&place.at("update.pub"), &[], "x.slip"),
        "update.pub",
    );
    // One bit of the root.
    let damaged = place.at("damaged.img");
    fs::copy(&image, &damaged).unwrap();
    let file = File::options().write(true).open(&damaged).unwrap();
    file.write_all_at(b"x", (41 << 20) + (20 << 20)).unwrap();
    refused(place.make(&damaged, &[], "x.slip"), "the root has the hash");
    // Another version's kernel: cut off, so without partition table.
    file.set_len(1 << 20).unwrap();
    refused(place.make(&damaged, &[], "x.slip"), "damaged.img");

    fs::write(place.at("update.key"), "no key").unwrap();
    refused(place.make(&image, &[], "x.slip"), "private key");
}

#[test]
fn verify_finds_a_changed_byte_anywhere() {
    let place = Place::new();
    let old = place.image("old.img", ONE);
    let new = place.image("new.img", Kit { number: 2, ..ONE });
    place.make(&new, &[&old], "a.slip").unwrap();
    let bytes = fs::read(place.at("a.slip")).unwrap();
    let (bundle, _) = place.open("a.slip");
    let manifest: &Manifest = bundle.manifest();
    let deltas = bundle.pieces() + manifest.stored_full();
    for at in [
        40,
        bundle.pieces() - 1,
        bundle.pieces() + 9,
        deltas - 1,
        deltas,
    ] {
        let mut bad = bytes.clone();
        bad[at as usize] ^= 4;
        fs::write(place.at("bad.slip"), bad).unwrap();
        let error = place.verify("bad.slip").unwrap_err();
        assert_eq!(error.kind, Kind::Untrusted, "byte {at}: {error}");
    }
    fs::write(place.at("bad.slip"), &bytes[..bytes.len() - 1]).unwrap();
    assert!(
        place
            .verify("bad.slip")
            .unwrap_err()
            .message()
            .contains("cut off")
    );
    update::generate(&place.at("o.key"), &place.at("o.pub")).unwrap();
    let error = verify(&place.at("a.slip"), &place.at("o.pub"), &quiet()).unwrap_err();
    assert_eq!(error.kind, Kind::Untrusted);
}

/// A web server with one file.
struct Server {
    url: String,
    /// Bytes of the file that it was asked for.
    sent: Arc<AtomicUsize>,
}

impl Server {
    fn new(file: Vec<u8>, ranges: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/a.slip", listener.local_addr().unwrap());
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines = BufReader::new(&stream).lines().map(Result::unwrap);
                let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
                let range = head
                    .iter()
                    .find_map(|line| line.strip_prefix("range: bytes="));
                let (first, last) = range.unwrap().split_once('-').unwrap();
                let last = last.parse::<usize>().unwrap().min(file.len() - 1);
                let first: usize = first.parse().unwrap();
                let (status, body) = match (head[0].contains("/a.slip "), ranges) {
                    (false, _) => ("404 Not Found".to_owned(), &b""[..]),
                    (true, false) => ("200 OK".to_owned(), &file[..]),
                    (true, true) => {
                        let size = file.len();
                        let said = format!("content-range: bytes {first}-{last}/{size}");
                        (
                            format!("206 Partial Content\r\n{said}"),
                            &file[first..=last],
                        )
                    }
                };
                count.fetch_add(body.len(), Ordering::Relaxed);
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                );
                // Who has what it wants hangs up.
                drop(
                    stream
                        .write_all(head.as_bytes())
                        .and_then(|()| stream.write_all(body)),
                );
            }
        });
        Self { url, sent }
    }
}
