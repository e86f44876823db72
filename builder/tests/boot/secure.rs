//! Secure Boot: firmware without keys takes the owner's from the boot partition, and from then
//! on starts what the owner has signed and nothing else.
//!
//! The image under test is not signed: its boot partition is read, sealed as the builder does
//! it, and put back; for what must not boot it is a disk of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};
use slipway::formats::gpt::{self, partition};
use slipway::formats::{authenticode, fat};
use slipway::keys::Pair;
use slipway::secure_boot::{Enroll, SecureBoot};
use slipway::tree::Tree;
use slipway_images::layout::{Bytes, ESP, Partition, Sizes};
use slipway_images::slot::shipped_name;
use slipway_qemu::harness::{Node, Setup, VARS};
use slipway_qemu::machine::Mebibytes;

use super::flashed::slipway;
use super::machine::{MINUTE, image, partition_of, run};

const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
/// What `init` says first, in the initrd and in the root.
const FIRST: &str = "] mounts ";
/// Of the kernel's command line, which is in the signed program.
const WORD: &[u8] = b" quiet ";

struct Owner {
    scratch: tempfile::TempDir,
    /// The image's boot partition as it is, unsigned.
    esp: Tree,
}

impl Owner {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        for whose in ["mine", "others"] {
            let dir = scratch.path().join(whose);
            run(slipway().args(["keys", "new"]).arg(dir));
        }
        let esp = read_esp(&image(), &scratch.path().join("esp"));
        Self { scratch, esp }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Signed by the owner, with the owner's keys.
    fn sealed(&self) -> Tree {
        let mut esp = self.esp.clone();
        let keys = SecureBoot::load(&self.at("mine"), Enroll::IfSafe).unwrap();
        keys.seal(&mut esp).unwrap();
        esp
    }

    /// The sealed one with another program.
    fn with(&self, path: &str, program: Vec<u8>) -> Tree {
        let mut esp = self.sealed();
        esp.file(path, 0o644, program).unwrap();
        esp
    }
}

fn read(esp: &Tree, path: &str) -> Vec<u8> {
    esp.content(path).unwrap().read().unwrap().to_vec()
}

/// The files of a disk's boot partition, as mtools see them.
fn read_esp(disk: &Path, scratch: &Path) -> Tree {
    fs::create_dir(scratch).unwrap();
    let volume = format!(
        "{}@@{}",
        disk.display(),
        partition_of(disk, ESP).offset().get()
    );
    let mut copy = Command::new("mcopy");
    copy.args(["-s", "-n", "-i", &volume, "::EFI", "::loader"]);
    run(copy.arg(scratch));
    let mut tree = Tree::new();
    add(&mut tree, scratch, "");
    tree
}

fn add(tree: &mut Tree, dir: &Path, to: &str) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("{to}{}", path.file_name().unwrap().to_str().unwrap());
        if path.is_dir() {
            add(tree, &path, &format!("{name}/"));
        } else {
            tree.file(&name, 0o644, fs::read(&path).unwrap()).unwrap();
        }
    }
}

fn write_esp(esp: &Tree, file: &File, at: &Partition) -> slipway::Result<()> {
    let options = fat::Options {
        size: at.size().get(),
        label: "SLIPWAY".into(),
        serial: 1,
        epoch: 1_790_000_000,
    };
    fat::write(esp, file, at.offset().get(), &options)
}

/// A copy of the image with another boot partition.
fn card(esp: &Tree, to: &Path) {
    run(Command::new("cp")
        .arg("--sparse=always")
        .arg(image())
        .arg(to));
    let at = partition_of(to, ESP);
    let file = File::options().read(true).write(true).open(to).unwrap();
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, hole, at.offset().get(), at.size().get()).unwrap();
    write_esp(esp, &file, &at).unwrap();
}

/// A disk that has nothing but this boot partition.
fn boot_disk(esp: &Tree, to: &Path) {
    let sizes = Sizes {
        esp: Bytes::mib(128),
        root: Bytes::mib(1),
        ..Sizes::X86_64
    };
    let table = sizes.shipped(b"seed").unwrap();
    gpt::assemble(to, &table, |file, table| {
        write_esp(esp, file, partition(table, ESP)?)
    })
    .unwrap();
}

fn boot(disk: &Path, vars: Option<&Path>) -> Node {
    let mut setup = Setup::new(disk);
    setup.secure_boot = true;
    setup.vars = vars.map(Path::to_owned);
    setup.memory = Mebibytes(1024);
    Node::boot(setup)
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn only_what_the_owner_signed_boots() {
    let owner = Owner::new();
    let uki = format!("EFI/Linux/{}", shipped_name());
    let disk = owner.at("disk");
    card(&owner.sealed(), &disk);
    let mut node = boot(&disk, None);
    // systemd-boot takes the keys from the boot partition and restarts the machine.
    node.wait_off(2 * MINUTE);
    assert!(!node.console().contains(FIRST), "{}", node.console());
    node.power_on();
    for (phase, said) in [
        // The initrd: its modules are loaded although the kernel has locked down.
        (FIRST, "Secure Boot on"),
        ("] drivers ", " modules"),
        ("] root ", ""),
        // The root.
        (FIRST, "Secure Boot on"),
        ("] slots ", "a good, runs"),
        ("] drivers ", " modules"),
    ] {
        let line = node.wait_console(phase, 3 * MINUTE);
        assert!(line.contains(said) && !line.contains("FAILED"), "{line}");
    }
    node.cut_power();
    let vars = owner.at(VARS);
    fs::copy(node.dir().join(VARS), &vars).unwrap();
    drop(node);

    let unsigned = read(&owner.esp, &uki);
    let others = Pair::read(&owner.at("others/db.crt"), &owner.at("others/db.key")).unwrap();
    let mut modified = read(&owner.sealed(), &uki);
    let at = modified
        .windows(WORD.len())
        .position(|w| w == WORD)
        .unwrap();
    modified[at + 1] ^= 1;
    for (what, path, program) in [
        ("unsigned", &*uki, unsigned.clone()),
        (
            "wrongly signed",
            &*uki,
            authenticode::sign(unsigned, &others).unwrap(),
        ),
        ("modified", &*uki, modified),
        ("unsigned loader", LOADER, read(&owner.esp, LOADER)),
    ] {
        let disk = owner.at(what);
        boot_disk(&owner.with(path, program), &disk);
        let mut node = boot(&disk, Some(&vars));
        let line = node.wait_console("Access", 2 * MINUTE);
        assert!(line.contains("enied"), "{what}: {line}");
        node.cut_power();
        let console = node.console();
        assert!(!console.contains(FIRST), "{what}: {console}");
    }
}
