//! `slipway flash` and `slipway seed`, as commands and against the tools that own the
//! formats. Files stand for disks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it skips"
)]

mod bmap;
mod image;
mod interrupt;
mod loops;
#[path = "../common/noise.rs"]
mod noise;
mod seed;
mod write;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use noise::noise;
use slipway::formats::gpt::{assemble, partition};
use slipway::formats::{ext4, fat};
use slipway::progress::{Progress, Style};
use slipway::tree::Tree;
use slipway_images::layout::{Bytes, ESP, Sizes, Slot, Table};

const SIZES: Sizes = Sizes {
    esp: Bytes::mib(40),
    root: Bytes::mib(32),
    ..Sizes::X86_64
};

const USER_DATA: &str = "#cloud-config\nhostname: node-1\n";

fn quiet() -> Progress {
    Progress::with_style(Style::Quiet)
}

fn table() -> Table {
    SIZES.shipped(b"seed").unwrap()
}

/// A small image with both filesystems: `x.img` in `dir`, made once and copied.
fn image(dir: &Path) -> PathBuf {
    static MADE: LazyLock<PathBuf> = LazyLock::new(|| {
        // A static is never dropped, so it has a name that the next run writes over.
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("flash-test.img");
        make_image(&path);
        path
    });
    let path = dir.join("x.img");
    run("cp", &["--sparse=always", str(&MADE), str(&path)]);
    path
}

fn make_image(path: &Path) {
    assemble(path, &table(), |file, table| {
        let mut tree = Tree::new();
        tree.file("EFI/BOOT/BOOTX64.EFI", 0o644, noise(1, 3_000_000))?;
        let esp = partition(table, ESP)?;
        let options = fat::Options {
            size: esp.size().get(),
            label: "ESP".into(),
            serial: 1,
            epoch: 1_790_000_000,
        };
        fat::write(&tree, file, esp.offset().get(), &options)?;
        let root = partition(table, Slot::A.root())?;
        let options = ext4::Options {
            size: root.size().get(),
            uuid: uuid::Uuid::from_u128(5),
            label: "root".into(),
            epoch: 1_790_000_000,
        };
        ext4::write(&tree, file, root.offset().get(), &options, &quiet()).map(drop)
    })
    .unwrap();
}

/// An image that is large enough for a signal to come in the middle, whatever the machine.
fn large_image(dir: &Path) -> PathBuf {
    let image = dir.join("large.img");
    let file = File::create(&image).unwrap();
    file.set_len(64 << 30).unwrap();
    file.write_all_at(&noise(1, 4 << 20), 0).unwrap();
    image
}

/// A directory with a seed.
fn seed_dir(dir: &Path) -> PathBuf {
    let seed = dir.join("seed");
    fs::create_dir_all(&seed).unwrap();
    fs::write(seed.join("user-data"), USER_DATA).unwrap();
    fs::write(seed.join("meta-data"), "instance-id: one\n").unwrap();
    fs::write(seed.join("network-config"), "version: 2\n").unwrap();
    seed
}

/// A partition of an image as a file of its own.
fn cut_out(image: &Path, name: &str) -> PathBuf {
    let table = table();
    let p = table.partition(name).unwrap();
    let mut bytes = vec![0; usize::try_from(p.size().get()).unwrap()];
    File::open(image)
        .unwrap()
        .read_exact_at(&mut bytes, p.offset().get())
        .unwrap();
    let out = image.with_extension(name);
    fs::write(&out, bytes).unwrap();
    out
}

/// Both filesystems' own tools find an image clean.
fn assert_clean(image: &Path) {
    run("fsck.vfat", &["-n", str(&cut_out(image, ESP))]);
    run("e2fsck", &["-fn", str(&cut_out(image, "root-a"))]);
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a tool and gives its output; its absence and its failure fail the test.
fn run(program: &str, args: &[&str]) -> String {
    let out = output(Command::new(program).args(args), program);
    let text = text(&out);
    assert!(out.status.success(), "{program} {args:?}: {text}");
    text
}

fn output(command: &mut Command, program: &str) -> Output {
    command
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test, see ci/setup: {e}"))
}

fn text(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// `slipway` itself, away from every terminal.
fn slipway(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipway"));
    command.args(args).stdin(std::process::Stdio::null());
    output(&mut command, "slipway")
}

/// Exit code and output of a `slipway` that fails.
fn refused(args: &[&str]) -> (i32, String) {
    let out = slipway(args);
    assert!(
        !out.status.success(),
        "{args:?} should fail: {}",
        text(&out)
    );
    (out.status.code().unwrap(), text(&out))
}
