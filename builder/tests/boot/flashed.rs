//! From an image file to a node one owns, as a person goes it: seeds are made, the image is
//! flashed with one, the machine is switched on, and the credential that was made before it
//! existed opens it, as ssh does with a key of the seed. Nothing can write to its root, and what
//! it keeps is encrypted. Then its seed is changed from afar, it is reset and loses its TPM, and
//! at last a bit of its root is flipped.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use slipway_images::node::PORT;
use slipway_qemu::harness::{Node, Setup};
use slipway_qemu::machine::OnReboot;

use super::immutable;
use super::machine::{MINUTE, flip_bit, image, raw_disk, run};

pub const NODE: &str = "home-server-1";
pub const AGENT: &str = "home-agent-1";
/// The guest's.
const SSH: u16 = 22;

pub struct Owned {
    pub node: Node,
    name: &'static str,
    /// Holds `home`, the cluster's seeds and credentials, and `others`, a stranger's.
    scratch: tempfile::TempDir,
}

impl Owned {
    /// With its data encrypted, or plain.
    fn flashed(encrypt: bool) -> Self {
        let scratch = seeds();
        let at = |path: &str| scratch.path().join(path);
        for key in ["key", "unknown"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]);
            run(keygen.arg(at(key)));
        }
        let seed = at("home").join(NODE);
        append(&seed.join("user-data"), &ssh_line(&at("key.pub")));
        append(
            &seed.join("user-data"),
            "write_files:\n- {path: /var/lib/first, content: whole}\n- {path: /etc/mark, content: flashed}\n",
        );
        if encrypt {
            encrypted(&seed, "tpm2");
        }
        run(slipway()
            .arg("flash")
            .args([&image(), &at("card")])
            .arg("--seed")
            .arg(&seed)
            .arg("--yes"));
        let mut setup = Setup::new(at("card"));
        setup.ports = vec![PORT, SSH];
        setup.on_reboot = OnReboot::Restart;
        setup.tpm = encrypt;
        Self::boot(setup, scratch)
    }

    /// A machine that finds the first server's seed in `scratch` somehow.
    pub fn boot(setup: Setup, scratch: tempfile::TempDir) -> Self {
        Self::of(NODE, setup, scratch)
    }

    /// A machine that finds the seed of `name` there.
    pub fn of(name: &'static str, setup: Setup, scratch: tempfile::TempDir) -> Self {
        Self {
            node: Node::boot(setup),
            name,
            scratch,
        }
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.scratch.path().join(path)
    }

    pub fn command(&self, credential: &str, args: &[&str]) -> Command {
        let mut command = slipway();
        command
            .arg("node")
            .args(["--addr", &format!("127.0.0.1:{}", self.node.port(PORT))])
            .arg("--credential")
            .arg(self.at(credential))
            .args(["--node", self.name])
            .args(args);
        command
    }

    pub fn operator(&self, args: &[&str]) -> String {
        let out = self.command("home/operator.pem", args).output().unwrap();
        if !out.status.success() {
            self.node.fail(&format!("{args:?}: {}", all(&out)));
        }
        all(&out)
    }

    /// What a command in the node's shell says.
    pub fn shell(&self, line: &str) -> String {
        let mut child = self
            .command("home/operator.pem", &["shell"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "{line}\nexit").unwrap();
        drop(input);
        all(&child.wait_with_output().unwrap())
    }

    /// What a command says that is run by ssh as root with this key; and, without a key, how
    /// a password fares. The host's key is kept from the first time on.
    fn ssh(&self, key: Option<&str>, line: &str) -> (bool, String) {
        let mut command = Command::new("ssh");
        let known = format!("UserKnownHostsFile={}", self.at("known_hosts").display());
        let port = self.node.port(SSH).to_string();
        command.args(["-F", "none", "-p", &port, "-o", &known]);
        for option in [
            "BatchMode=yes",
            "ConnectTimeout=60",
            "IdentitiesOnly=yes",
            "IdentityAgent=none",
            "StrictHostKeyChecking=accept-new",
        ] {
            command.args(["-o", option]);
        }
        match key {
            Some(key) => command.arg("-i").arg(self.at(key)),
            None => command.args(["-o", "PubkeyAuthentication=no"]),
        };
        command.args(["root@127.0.0.1", line]).stdin(Stdio::null());
        let out = command.output().unwrap();
        (out.status.success(), all(&out))
    }

    fn logs_in(&self) {
        let (done, said) = self.ssh(Some("key"), "id -un; ctr --version; readlink .kube/config");
        if !done
            || !["root", "containerd/v2 2.", "admin.kubeconfig"]
                .iter()
                .all(|w| said.contains(w))
        {
            self.node.fail(&format!("ssh: {said}"));
        }
    }

    fn machine_id(&self) -> String {
        let said = self.shell("cat /etc/machine-id");
        let id = said
            .split_whitespace()
            .find(|word| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit()));
        id.unwrap_or_else(|| self.node.fail(&format!("no machine-id in: {said}")))
            .to_owned()
    }

    /// Waits for a boot to get as far as the node's API.
    fn wait_booted(&mut self, seed: &str, data: &str, applied: &str) {
        self.wait_phases(&[("seed", seed), ("data", data), ("applied seed", applied)]);
    }

    /// Waits for a boot that says this of its phases to get as far as the node's API.
    pub fn wait_phases(&mut self, phases: &[(&str, &str)]) {
        for (phase, said) in phases {
            let line = self.node.wait_console(&format!("] {phase} "), 3 * MINUTE);
            assert!(line.contains(said), "{phase}: {line}");
        }
        self.node.wait_console("noded: started", MINUTE);
        let mut asked = self.command("home/operator.pem", &["status"]);
        self.node.wait_for("the node's API answers", MINUTE, |_| {
            let out = asked.output().map_err(|e| e.to_string())?;
            out.status.success().then_some(()).ok_or_else(|| all(&out))
        });
    }
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn a_flashed_node_is_reached_changed_and_reset() {
    let mut owned = Owned::flashed(true);
    let made = "encrypted, its key kept by the TPM, filesystem made";
    let opened = "encrypted, opened by the TPM";
    owned.wait_booted("from the boot partition", made, "none");
    assert!(owned.operator(&["status"]).contains(NODE));
    assert!(owned.shell("cat /etc/mark").contains("flashed"));
    let first = owned.machine_id();
    immutable::nothing_else_is_writable(&owned);

    // The same names, another CA.
    let stranger = owned
        .command("others/operator.pem", &["status"])
        .output()
        .unwrap();
    assert_eq!(stranger.status.code(), Some(5), "{}", all(&stranger));

    // ssh: the key and nothing else, as long as the seed gives it.
    owned.logs_in();
    for stranger in [Some("unknown"), None] {
        let (done, said) = owned.ssh(stranger, "id");
        let refused = "Permission denied (publickey)";
        assert!(!done && said.contains(refused), "{stranger:?}: {said}");
    }
    let seed = owned.at("home").join(NODE);
    let text = fs::read_to_string(seed.join("user-data")).unwrap();
    let without = text.replace(&ssh_line(&owned.at("key.pub")), "");
    let closed = owned.at("closed");
    fs::create_dir(&closed).unwrap();
    fs::write(closed.join("user-data"), without).unwrap();
    fs::copy(seed.join("meta-data"), closed.join("meta-data")).unwrap();
    let said = owned.operator(&["apply", closed.to_str().unwrap()]);
    assert!(said.contains("a node follows at once"), "{said}");
    owned.node.wait_console("ssh: stopped", MINUTE);
    let (done, said) = owned.ssh(Some("key"), "id");
    assert!(!done && !said.contains("Permission denied"), "{said}");

    // Another instance, so that what is done once is done again.
    let changed = owned.at("changed");
    fs::create_dir(&changed).unwrap();
    let text = text.replace("content: flashed}", "content: applied}");
    fs::write(changed.join("user-data"), text).unwrap();
    append(
        &changed.join("user-data"),
        "- {path: /var/lib/once, content: written}\n",
    );
    fs::write(changed.join("meta-data"), "instance-id: second\n").unwrap();
    let said = owned.operator(&["apply", "--reboot", changed.to_str().unwrap()]);
    assert!(said.contains("a node has to be rebooted"), "{said}");
    owned.wait_booted("from the boot partition", opened, "in place of");
    let files = owned.shell("cat /etc/mark /var/lib/once");
    assert!(
        files.contains("applied") && files.contains("written"),
        "{files}"
    );
    assert_eq!(owned.machine_id(), first);
    // The host is who it was, or ssh would refuse it.
    owned.logs_in();

    owned.shell(WRITE_MARKS);
    owned.operator(&["reset", "--yes"]);
    owned.wait_booted("from the boot partition", "reset: keys destroyed", "none");
    let (done, said) = owned.ssh(Some("key"), "id");
    assert!(
        !done && said.contains("HOST IDENTIFICATION HAS CHANGED"),
        "{said}"
    );
    let files = owned.shell("cat /etc/mark; test -e /var/lib/once || echo for''gotten");
    assert!(
        files.contains("flashed") && files.contains("forgotten"),
        "{files}"
    );
    let second = owned.machine_id();
    assert_ne!(second, first);

    owned.shell(WRITE_MARKS);

    // Onto a larger disk.
    owned.node.power_down(2 * MINUTE);
    let disk = owned.node.dir().join(&owned.node.machine().disks[0].path);
    nothing_lies_in_the_clear(&disk);
    run(Command::new("qemu-img").arg("resize").arg(disk).arg("+8G"));
    owned.node.power_on();
    let line = owned.node.wait_console("] partitions ", 3 * MINUTE);
    assert!(line.contains("data grown"), "{line}");
    owned.wait_booted("from the boot partition", "grown to ", "none");
    assert_eq!(owned.machine_id(), second);
    owned.node.power_down(2 * MINUTE);

    // Its disk in a machine with another TPM.
    let tpm = owned.node.dir().join("tpm");
    fs::rename(&tpm, tpm.with_extension("old")).unwrap();
    owned.node.power_on();
    let locked = "sealed by another TPM";
    owned.wait_booted(
        "from the boot partition",
        locked,
        "without a data partition",
    );
    owned.node.power_down(2 * MINUTE);

    let card = owned.at("card");
    immutable::a_flipped_bit_restarts_it(&mut owned.node, &card);
}

/// Has the node write what stands nowhere in this form but on its data partition: it is put
/// together there.
const WRITE_MARKS: &str =
    "for i in $(seq 2000); do echo in-the-cl''ear-$i; done > /var/lib/marks; sync";

/// Looks for it, on all of the disk that the node has written to.
fn nothing_lies_in_the_clear(disk: &Path) {
    let has = |text: &str| {
        let mut grep = Command::new("grep");
        grep.env("LC_ALL", "C")
            .args(["--quiet", "--binary-files=text", "-F", text]);
        grep.arg(disk).status().unwrap().success()
    };
    // The header's label: the disk is read.
    assert!(has("slipway-data") && !has("in-the-clear-1234"));
}

/// Each step of the first boot, as the console names it when it is done; the power goes then.
const STEPS: [&str; 8] = [
    "] partitions ",
    "] root ",
    "] data ",
    "] applied seed ",
    "] identity ",
    "] instance ",
    "containerd: started",
    "clusterd: started",
];

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn power_cuts_in_the_first_boot_are_made_good_by_the_next() {
    let mut owned = Owned::flashed(false);
    for step in STEPS {
        let line = owned.node.wait_console(step, 3 * MINUTE);
        assert!(!line.contains("FAILED"), "{line}");
        owned.node.cut_power();
        owned.node.power_on();
    }
    owned.wait_booted("from the boot partition", "", "none");
    let files = owned.shell("cat /etc/mark /var/lib/first");
    assert!(
        files.contains("flashed") && files.contains("whole"),
        "{files}"
    );
    let id = owned.machine_id();
    // What is done once is done, and the next boot finds it as it is.
    let firsts = |owned: &Owned| owned.node.console().matches("first boot of").count();
    let before = firsts(&owned);
    owned.node.power_down(2 * MINUTE);
    owned.node.power_on();
    owned.wait_booted("from the boot partition", "", "none");
    assert_eq!(owned.machine_id(), id);
    assert_eq!(firsts(&owned), before);
    let console = owned.node.console();
    assert!(!console.contains("FAILED"), "{console}");

    // PID 1 hangs, and with it all that could notice, but for the hardware.
    let said = owned.shell("cd /sys/fs/cgroup/init; echo 1 > cgroup.freeze; cat cgroup.events");
    assert!(said.contains("frozen 1"), "{said}");
    owned.wait_booted("from the boot partition", "", "none");
    assert_eq!(owned.machine_id(), id);
    owned.node.power_down(2 * MINUTE);

    // A bit of the data has changed that no check looked for, since it was left cleanly.
    damage_data(&owned.node, "/lib/slipway");
    owned.node.power_on();
    let line = owned.node.wait_console("] data FAILED", 3 * MINUTE);
    assert!(line.contains("/var/lib/slipway: Bad message"), "{line}");
    owned.wait_phases(&[("data …", "checked")]);
    assert_eq!(owned.machine_id(), id);
    owned.node.power_down(2 * MINUTE);
}

/// Makes the checksum of an inode on the data partition of a machine that is off a wrong one.
fn damage_data(node: &Node, path: &str) {
    let disk = node.dir().join("damaged.img");
    let data = raw_disk(node, &disk).offset().get();
    let out = Command::new("/usr/sbin/debugfs")
        .args(["-R", &format!("imap {path}")])
        .arg(format!("{}?offset={data}", disk.display()))
        .output()
        .unwrap();
    // "located at block 1097, offset 0x0100"
    let said = String::from_utf8(out.stdout).unwrap();
    let number = |before: &str| {
        let rest = said.split(before).nth(1)?;
        let digits = rest.trim_start_matches("0x");
        let end = digits.find(|c: char| !c.is_ascii_hexdigit());
        let radix = if rest.starts_with("0x") { 16 } else { 10 };
        u64::from_str_radix(&digits[..end.unwrap_or(digits.len())], radix).ok()
    };
    let (Some(block), Some(offset)) = (number("at block "), number("offset ")) else {
        panic!("debugfs says: {said}");
    };
    // i_checksum_lo, the kernel's Documentation/filesystems/ext4/inodes.rst.
    let at = data + block * 4096 + offset + 0x7c;
    flip_bit(node, &disk, at);
    fs::remove_file(&disk).unwrap();
}

/// The cluster's seeds and credentials in `home`, and a stranger's in `others`.
pub fn seeds() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    for dir in ["home", "others"] {
        let new = [
            "seed",
            "new",
            "--cluster",
            "home",
            "--endpoint",
            "127.0.0.1",
            "--agents",
            "1",
        ];
        run(slipway().args(new).arg(scratch.path().join(dir)));
    }
    scratch
}

pub fn slipway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipway"));
    command.stdin(Stdio::null());
    command
}

/// Has a seed ask for encryption with this way to keep the key.
pub fn encrypted(seed: &Path, how: &str) {
    let path = seed.join("user-data");
    let text = fs::read_to_string(&path).unwrap();
    let with = format!("slipway:\n  data:\n    encrypt: {how}\n");
    fs::write(path, text.replacen("slipway:\n", &with, 1)).unwrap();
}

/// The line of user-data that gives root a key.
fn ssh_line(public: &Path) -> String {
    let key = fs::read_to_string(public).unwrap();
    format!("ssh_authorized_keys: [\"{}\"]\n", key.trim())
}

pub fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn all(out: &Output) -> String {
    let (out, err) = (&out.stdout, &out.stderr);
    format!(
        "{}{}",
        String::from_utf8_lossy(out),
        String::from_utf8_lossy(err)
    )
}
