//! From an image file to a node one owns, as a person goes it: seeds are made, the image is
//! flashed with one, the machine is switched on, and the credential that was made before it
//! existed opens it. Then its seed is changed from afar, and at last it is reset.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use slipway_images::node::PORT;
use slipway_qemu::harness::{Node, Setup};
use slipway_qemu::machine::OnReboot;

use super::machine::{MINUTE, image, run};

pub const NODE: &str = "home-server-1";

pub struct Owned {
    pub node: Node,
    /// Holds `home`, the cluster's seeds and credentials, and `others`, a stranger's.
    scratch: tempfile::TempDir,
}

impl Owned {
    fn flashed() -> Self {
        let scratch = seeds();
        let at = |path: &str| scratch.path().join(path);
        let seed = at("home").join(NODE);
        append(
            &seed.join("user-data"),
            "write_files:\n- {path: /var/lib/first, content: whole}\n- {path: /etc/mark, content: flashed}\n",
        );
        run(slipway()
            .arg("flash")
            .args([&image(), &at("card")])
            .arg("--seed")
            .arg(&seed)
            .arg("--yes"));
        let mut setup = Setup::new(at("card"));
        setup.ports = vec![PORT];
        setup.on_reboot = OnReboot::Restart;
        Self::boot(setup, scratch)
    }

    /// A machine that finds the first server's seed in `scratch` somehow.
    pub fn boot(setup: Setup, scratch: tempfile::TempDir) -> Self {
        Self {
            node: Node::boot(setup),
            scratch,
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.scratch.path().join(path)
    }

    fn command(&self, credential: &str, args: &[&str]) -> Command {
        let mut command = slipway();
        command
            .arg("node")
            .args(["--addr", &format!("127.0.0.1:{}", self.node.port(PORT))])
            .arg("--credential")
            .arg(self.at(credential))
            .args(["--node", NODE])
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
    fn shell(&self, line: &str) -> String {
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
    let mut owned = Owned::flashed();
    owned.wait_booted("from the boot partition", "filesystem made", "none");
    assert!(owned.operator(&["status"]).contains(NODE));
    assert!(owned.shell("cat /etc/mark").contains("flashed"));
    let first = owned.machine_id();

    // The same names, another CA.
    let stranger = owned
        .command("others/operator.pem", &["status"])
        .output()
        .unwrap();
    assert_eq!(stranger.status.code(), Some(5), "{}", all(&stranger));

    // Another instance, so that what is done once is done again.
    let changed = owned.at("changed");
    fs::create_dir(&changed).unwrap();
    let seed = owned.at("home").join(NODE);
    let text = fs::read_to_string(seed.join("user-data")).unwrap();
    let text = text.replace("content: flashed}", "content: applied}");
    fs::write(changed.join("user-data"), text).unwrap();
    append(
        &changed.join("user-data"),
        "- {path: /var/lib/once, content: written}\n",
    );
    fs::write(changed.join("meta-data"), "instance-id: second\n").unwrap();
    let said = owned.operator(&["apply", "--reboot", changed.to_str().unwrap()]);
    assert!(said.contains("a node has to be rebooted"), "{said}");
    owned.wait_booted("from the boot partition", "", "in place of");
    let files = owned.shell("cat /etc/mark /var/lib/once");
    assert!(
        files.contains("applied") && files.contains("written"),
        "{files}"
    );
    assert_eq!(owned.machine_id(), first);

    owned.operator(&["reset", "--yes"]);
    owned.wait_booted("from the boot partition", "reset: ", "none");
    let files = owned.shell("cat /etc/mark; test -e /var/lib/once || echo for''gotten");
    assert!(
        files.contains("flashed") && files.contains("forgotten"),
        "{files}"
    );
    let second = owned.machine_id();
    assert_ne!(second, first);

    // Onto a larger disk.
    owned.node.power_down(2 * MINUTE);
    let disk = owned.node.dir().join(&owned.node.machine().disks[0].path);
    run(Command::new("qemu-img").arg("resize").arg(disk).arg("+8G"));
    owned.node.power_on();
    let line = owned.node.wait_console("] partitions ", 3 * MINUTE);
    assert!(line.contains("data grown"), "{line}");
    owned.wait_booted("from the boot partition", "grown to ", "none");
    assert_eq!(owned.machine_id(), second);
    owned.node.power_down(2 * MINUTE);
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
    let mut owned = Owned::flashed();
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
    owned.node.power_down(2 * MINUTE);
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
        ];
        run(slipway().args(new).arg(scratch.path().join(dir)));
    }
    scratch
}

fn slipway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_slipway"));
    command.stdin(Stdio::null());
    command
}

fn append(path: &Path, text: &str) {
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
