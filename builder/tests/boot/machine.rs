//! A machine with an image of ours in it, and the ways into its cluster.

use std::fmt::Display;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use slipway::components::{self, Toolchains};
use slipway::formats::iso9660;
use slipway::progress::{Progress, Style};
use slipway::run::identity;
use slipway::run::ready::is_ready;
use slipway::source::{Source, cache_dir};
use slipway_access::api::Client;
use slipway_access::kubeconfig::Kubeconfig;
use slipway_images::layout::{self, Partition, Sectors};
use slipway_qemu::VmName;
use slipway_qemu::harness::{Node, Setup};
use slipway_qemu::machine::{Arch, Mebibytes};
use slipway_qemu::snapshot::Snapshot;

pub const MINUTE: Duration = Duration::from_secs(60);

/// Emulation on a busy host is slow; a hung node is found by the console's tail.
const PATIENCE: Duration = Duration::from_secs(12 * 60);

pub const WORKLOAD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boot/workload.yaml");
pub const WRITER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/boot/writer.yaml");

const API: u16 = 6443;
const KUBELET: u16 = 10250;

/// A booted node and its administrator.
pub struct Cluster {
    pub node: Node,
    name: VmName,
    seed: String,
    kubectl: PathBuf,
    scratch: tempfile::TempDir,
}

/// A machine whose node is Ready and whose cluster has its DNS, caught alive by the
/// first test that asks.
static CAUGHT: LazyLock<Caught> = LazyLock::new(Caught::make);

struct Caught {
    snapshot: Snapshot,
    name: VmName,
    seed: String,
}

impl Caught {
    fn make() -> Self {
        let mut cluster = Cluster::boot();
        cluster.wait_ready();
        cluster.wait_dns();
        let at = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ready-node");
        // Of an earlier run: its guest's clock would stand where that run was.
        if at.exists() {
            std::fs::remove_dir_all(&at).unwrap();
        }
        Self {
            name: cluster.name,
            seed: cluster.seed,
            snapshot: cluster.node.snapshot(&at),
        }
    }
}

impl Cluster {
    /// One that has just been switched on for the first time.
    fn boot() -> Self {
        let name: VmName = "boot-test".parse().unwrap();
        let (seed, _) = identity::seed(&name, false).unwrap();
        Self::around(boot_with(seed.clone().into_bytes()), name, seed)
    }

    /// The image of another board, switched on for the first time. By U-Boot its seed comes on
    /// a volume: its kernel has no fw_cfg.
    pub fn of_board(arch: Arch, image: PathBuf, u_boot: bool, memory: u32) -> Self {
        let name: VmName = "boot-test".parse().unwrap();
        let (seed, _) = identity::seed(&name, false).unwrap();
        let mut setup = setup(image, seed.clone().into_bytes());
        setup.arch = arch;
        setup.u_boot = u_boot;
        setup.memory = Mebibytes(memory);
        let scratch = tempfile::tempdir().unwrap();
        if u_boot {
            let volume = scratch.path().join("seed.iso");
            let files = [
                ("meta-data", &b"instance-id: boot-test\n"[..]),
                ("user-data", seed.as_bytes()),
            ];
            std::fs::write(&volume, iso9660::image("CIDATA", files).unwrap()).unwrap();
            setup.volumes = vec![volume];
            setup.fw_cfg = Vec::new();
        }
        let node = Node::boot(setup);
        Self {
            scratch,
            ..Self::around(node, name, seed)
        }
    }

    fn around(node: Node, name: VmName, seed: String) -> Self {
        Self {
            kubectl: kubectl(),
            node,
            name,
            seed,
            scratch: tempfile::tempdir().unwrap(),
        }
    }

    /// One whose node is Ready, in seconds: brought back from memory.
    pub fn ready() -> Self {
        let caught = &*CAUGHT;
        let node = Node::restore(&caught.snapshot);
        let mut cluster = Self::around(node, caught.name.clone(), caught.seed.clone());
        let client = Client::from_kubeconfig(&cluster.admin()).unwrap();
        cluster.node.wait_for("the API is ready", PATIENCE, |_| {
            client.get_text("/readyz", Duration::from_secs(10))
        });
        cluster
    }

    /// Waits until the API is ready, and the node is after this start.
    pub fn wait_ready(&mut self) {
        let config = self.admin();
        let started = std::time::SystemTime::now() - self.node.uptime();
        let client = Client::from_kubeconfig(&config).unwrap();
        let node = self.name.to_string();
        self.node.wait_for("the node is Ready", PATIENCE, |_| {
            match is_ready(&client, &node, started) {
                Ok(true) => Ok(()),
                Ok(false) => Err("the node is not Ready since this start".to_owned()),
                Err(error) => Err(error.to_string()),
            }
        });
    }

    /// Waits for the cluster's DNS: add-ons are applied once the API is ready.
    pub fn wait_dns(&self) {
        let coredns = ["-n", "kube-system", "deployment/coredns", "--timeout=600s"];
        self.kubectl(&[&["wait", "--for=create"], &coredns[..]].concat());
        self.kubectl(&[&["rollout", "status"], &coredns[..]].concat());
    }

    /// Runs kubectl as the administrator and returns what it says.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let path = self.scratch.path().join("kubeconfig");
        self.admin().write(&path).unwrap();
        let out = Command::new(&self.kubectl)
            .args(args)
            .env("KUBECONFIG", &path)
            .env("HOME", self.scratch.path())
            .output()
            .unwrap();
        if !out.status.success() {
            let pods = Command::new(&self.kubectl)
                .args(["describe", "pods", "-A"])
                .env("KUBECONFIG", &path)
                .output()
                .unwrap();
            self.node.fail(&format!(
                "kubectl {}: {}\n{}{}\n{}",
                args.join(" "),
                out.status,
                String::from_utf8_lossy(&out.stdout),
                String::from_utf8_lossy(&out.stderr),
                String::from_utf8_lossy(&pods.stdout),
            ));
        }
        String::from_utf8(out.stdout).unwrap()
    }

    /// Asks the web service by its name, from the client's pod, until it answers:
    /// after a start, what the API says of pods is from before it until the kubelet
    /// has looked at each.
    pub fn ask_the_service(&mut self) -> String {
        let kubeconfig = self.scratch.path().join("kubeconfig");
        self.admin().write(&kubeconfig).unwrap();
        let kubectl = &self.kubectl;
        self.node
            .wait_for("the service answers by its name", PATIENCE, |_| {
                let out = Command::new(kubectl)
                    .args(["exec", "deployment/client", "--"])
                    .args(["/host/busybox", "wget", "-q", "-T", "30", "-O", "-"])
                    .arg("http://web.default.svc.cluster.local/")
                    .env("KUBECONFIG", &kubeconfig)
                    .output()
                    .map_err(said)?;
                if out.status.success() {
                    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
                } else {
                    Err(String::from_utf8_lossy(&out.stderr).into_owned())
                }
            })
    }

    /// Neither an anonymous client nor one of another CA gets anything.
    pub fn api_refuses_strangers(&self) {
        let mut stranger = self.admin();
        let (other, _) = identity::seed(&self.name, false).unwrap();
        stranger.client = identity::kubeconfig(&other, &self.name, self.node.port(API))
            .unwrap()
            .client;
        let refused = Client::from_kubeconfig(&stranger)
            .unwrap()
            .get("/api/v1/nodes")
            .unwrap_err();
        assert_eq!(refused.code(), Some(401), "{refused}");
    }

    /// The kubelet runs commands in any pod: it must not do so for everybody.
    pub fn kubelet_refuses_strangers(&self) {
        let admin = self.admin();
        let url = format!("https://127.0.0.1:{}", self.node.port(KUBELET));
        let anonymous = Client::new(&url, &admin.ca_pem, None).unwrap();
        for path in ["/pods", "/metrics", "/healthz"] {
            let refused = anonymous
                .get_text(path, Duration::from_secs(10))
                .unwrap_err();
            assert_eq!(refused.code(), Some(401), "{path}: {refused}");
        }
    }

    /// What e2fsck says of the data partition once the journal is replayed, as init
    /// does it: preening replays it and brings the superblock's sums of free blocks
    /// up to date, which ext4 leaves behind by design; anything else it would refuse
    /// to touch (exit status 4).
    pub fn data_is_clean_after_replay(&self) {
        let data = self.data_partition();
        let preen = Command::new("e2fsck")
            .arg("-p")
            .arg(&data)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&preen.stdout);
        assert!(
            matches!(preen.status.code(), Some(0 | 1)),
            "e2fsck -p: {}\n{said}",
            preen.status
        );
        run(Command::new("e2fsck").args(["-f", "-n"]).arg(&data));
    }

    /// What e2fsck says of the data partition after a clean stop.
    pub fn data_is_clean(&self) {
        run(Command::new("e2fsck")
            .args(["-f", "-n"])
            .arg(self.data_partition()));
    }

    fn admin(&self) -> Kubeconfig {
        identity::kubeconfig(&self.seed, &self.name, self.node.port(API)).unwrap()
    }

    /// A copy of the data partition of the machine, which is off. It is copied by who leaves out
    /// what is empty, and most of it is; e2fsck doesn't find what it has replayed the journal of
    /// when it is told an offset into the disk (e2fsprogs 1.47.0: "Bad magic number in
    /// super-block while trying to re-open").
    fn data_partition(&self) -> PathBuf {
        let (disk, data) = (
            self.scratch.path().join("disk"),
            self.scratch.path().join("slipway-data"),
        );
        let part = raw_disk(&self.node, &disk);
        let mut source = format!(
            "driver=raw,offset={},size={},file.driver=file,file.filename=",
            part.offset().get(),
            part.size().get()
        );
        source.push_str(disk.to_str().unwrap());
        run(Command::new("qemu-img")
            .args(["convert", "-O", "raw", "--image-opts", &source])
            .arg(&data));
        data
    }
}

/// Copies the disk of a machine that is off; gives its data partition.
pub fn raw_disk(node: &Node, to: &Path) -> Partition {
    let overlay = node.dir().join(&node.machine().disks[0].path);
    run(Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .args([overlay.as_path(), to]));
    partition_of(to, layout::DATA)
}

/// A partition of a disk that is a file.
pub fn partition_of(disk: &Path, name: &str) -> Partition {
    let mut file = File::open(disk).unwrap();
    let size = file.metadata().unwrap().len();
    let found = layout::read(&mut file, Sectors::new(size / Sectors::SIZE)).unwrap();
    let found = found.table.partition(name).cloned();
    found.unwrap_or_else(|| panic!("the disk has no partition {name}"))
}

/// Flips a bit on the disk of a machine that is off, of which `copy` has what is there.
pub fn flip_bit(node: &Node, copy: &Path, at: u64) {
    let mut byte = [0];
    let copy = File::open(copy).unwrap();
    copy.read_exact_at(&mut byte, at).unwrap();
    let write = format!("write -P {:#x} {at} 1", byte[0] ^ 0x10);
    let disk = node.dir().join(&node.machine().disks[0].path);
    run(Command::new("qemu-io").args(["-c", &write]).arg(disk));
}

/// Boots the image with these bytes as its seed.
pub fn boot_with(seed: Vec<u8>) -> Node {
    Node::boot(setup(image(), seed))
}

fn setup(image: PathBuf, seed: Vec<u8>) -> Setup {
    let mut setup = Setup::new(image);
    setup.ports = vec![API, KUBELET];
    setup.fw_cfg = vec![(identity::FW_CFG_NAME.to_owned(), seed)];
    setup
}

/// The image under test.
pub fn image() -> PathBuf {
    image_of("SLIPWAY_IMAGE", "x86_64")
}

/// The image that `variable` names, or that of a board where the builder has left it.
pub fn image_of(variable: &str, board: &str) -> PathBuf {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/images");
    let image = std::env::var_os(variable)
        .map_or_else(|| images.join(format!("{board}.img")), PathBuf::from);
    assert!(
        image.exists(),
        "{} is missing: run `slipway build {board}` first",
        image.display()
    );
    image
}

fn kubectl() -> PathBuf {
    let source = Source::find(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))).unwrap();
    let tools = Toolchains::find(&source).unwrap();
    let quiet = Progress::with_style(Style::Quiet);
    let cache = cache_dir(std::env::var_os("SLIPWAY_CACHE").map(PathBuf::from)).unwrap();
    components::host_tool(&source, &tools, "kubectl", &cache, &quiet)
        .unwrap()
        .path
}

fn said(e: impl Display) -> String {
    e.to_string()
}

/// Runs a program that must succeed.
pub fn run(command: &mut Command) {
    let out = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        out.status.success(),
        "{command:?}: {}\n{}{}",
        out.status,
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
}
