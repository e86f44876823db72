//! `slipway node` against a real `noded`, as an ordinary process with a root of its own.

#![expect(clippy::unwrap_used, reason = "tests may panic")]

#[path = "common/noded.rs"]
mod noded;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use slipway_access::node_api::{Credential, Role, serving};
use slipway_access::pki::CertificateAuthority;
use slipway_images::seed::Effect;

use noded::noded;

struct Bench {
    dir: tempfile::TempDir,
    child: Child,
    address: String,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for path in ["run/slipway", "var/log/slipway", "var/lib/clusterd"] {
            fs::create_dir_all(root.join(path)).unwrap();
        }
        for path in ["proc", "sys", "bin"] {
            symlink(format!("/{path}"), root.join(path)).unwrap();
        }
        let now = SystemTime::now();
        let ca = CertificateAuthority::generate("nodes", now - Duration::from_secs(60)).unwrap();
        let pair = serving(&ca, "node1", Vec::new(), now).unwrap();
        let api = json!({
            "ca": ca.certificate_pem(), "certificate": pair.certificate_pem, "key": pair.key_pem,
        });
        let seed = json!({"hostname": "node1", "node-api": api});
        fs::write(root.join("run/slipway/seed.json"), seed.to_string()).unwrap();
        let other = CertificateAuthority::generate("others", now).unwrap();
        for (file, ca, role) in [
            ("operator.pem", &ca, Role::Operator),
            ("reader.pem", &ca, Role::Reader),
            ("stranger.pem", &other, Role::Operator),
        ] {
            let credential = Credential::issue(ca, "ann", role, now).unwrap();
            credential.write(&dir.path().join(file)).unwrap();
        }
        let mut child = Command::new(noded())
            .arg("--root")
            .arg(&root)
            .args(["--listen", "127.0.0.1:0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some((_, address)) = line.split_once("listening on ") {
                break address.to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            dir,
            child,
            address,
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn command(&self, who: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slipway"));
        command
            .args(["node", "--addr", &self.address, "--credential"])
            .arg(self.at(who))
            .args(arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, who: &str, arguments: &[&str]) -> Output {
        self.command(who, arguments).output().unwrap()
    }

    fn good(&self, arguments: &[&str]) -> String {
        let out = self.run("operator.pem", arguments);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{arguments:?}: {said}");
        String::from_utf8(out.stdout).unwrap()
    }

    /// The exit code and the one line that says why.
    fn bad(&self, who: &str, arguments: &[&str]) -> (i32, String) {
        let out = self.run(who, arguments);
        assert!(out.stdout.is_empty(), "{arguments:?}");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(said.starts_with("slipway: "), "{arguments:?}: {said}");
        (out.status.code().unwrap(), said)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn status_logs_and_events() {
    let bench = Bench::new();
    fs::write(
        bench.at("root/var/log/slipway/containerd.log"),
        "one\ntwo\n",
    )
    .unwrap();
    let page = bench.good(&["status"]);
    assert!(page.contains("node") && page.contains("memory"), "{page}");
    let status: Value = serde_json::from_str(&bench.good(&["status", "--json"])).unwrap();
    assert!(status["uptime"].as_u64().unwrap() > 0);
    assert!(bench.good(&["logs"]).contains("containerd"));
    assert_eq!(bench.good(&["logs", "containerd", "--lines", "1"]), "two\n");
    bench.good(&["support", "--out", "bundle.tar.gz"]);
    let bundle = bench.at("bundle.tar.gz");
    assert_eq!(
        fs::metadata(&bundle).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let events = bench.good(&["events"]);
    assert!(events.contains("ann: took a support bundle"), "{events}");
    assert!(events.starts_with("20"), "a date first: {events}");
    let (code, said) = bench.bad("operator.pem", &["logs", "nothing"]);
    assert!(code == 6 && said.contains("containerd"), "{code} {said}");
}

#[test]
fn exit_codes_say_who_is_wrong() {
    let bench = Bench::new();
    let (code, said) = bench.bad("stranger.pem", &["status"]);
    assert_eq!(code, 5, "{said}");
    let (code, said) = bench.bad("reader.pem", &["reboot"]);
    assert!(
        code == 5 && said.contains("slipway:operator"),
        "{code} {said}"
    );
    let (code, said) = bench.bad("operator.pem", &["poweroff"]);
    assert!(code == 2 && said.contains("--yes"), "{code} {said}");
    let (code, said) = bench.bad("none.pem", &["status"]);
    assert!(code == 7 && said.contains("none.pem"), "{code} {said}");
    fs::write(bench.at("broken.pem"), "nonsense").unwrap();
    let (code, said) = bench.bad("broken.pem", &["status"]);
    assert!(
        code == 3 && said.contains("client certificate"),
        "{code} {said}"
    );
    // The node's name is insisted upon.
    let named = |name: &str| {
        let mut command = bench.command("operator.pem", &["status"]);
        command
            .args(["--node", name])
            .output()
            .unwrap()
            .status
            .code()
    };
    assert_eq!((named("node1"), named("node2")), (Some(0), Some(5)));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let out = Command::new(env!("CARGO_BIN_EXE_slipway"))
        .args(["node", "--addr", &nobody.to_string(), "--credential"])
        .arg(bench.at("operator.pem"))
        .arg("status")
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(4));
}

#[test]
fn a_seed_is_checked_compared_and_applied() {
    let bench = Bench::new();
    let seed = bench.at("seed");
    fs::create_dir(&seed).unwrap();
    let write = |text: &str| fs::write(seed.join("user-data"), text).unwrap();
    write("#cloud-config\nhostname: [x]\n");
    let (code, said) = bench.bad("operator.pem", &["apply", "seed"]);
    assert!(
        code == 3 && said.contains("user-data:2:11"),
        "{code} {said}"
    );
    write("#cloud-config\nhostname: node2\n");
    let stored = bench.at("root/var/lib/slipway/seed/applied.json");
    let said = bench.good(&["apply", "--dry-run", "seed"]);
    assert!(said.contains("hostname: \"node1\" -> \"node2\""), "{said}");
    assert!(said.trim_end().ends_with(Effect::Reset.advice()), "{said}");
    assert!(!stored.exists());
    bench.good(&["apply", "seed/user-data"]);
    assert!(stored.exists());
}

#[test]
fn the_kubeconfig_leads_to_where_the_node_is() {
    use slipway_access::kubeconfig::Kubeconfig;
    let bench = Bench::new();
    let credential = Credential::read(&bench.at("operator.pem")).unwrap();
    let config = Kubeconfig {
        cluster: "c".into(),
        user: "admin".into(),
        server: "https://127.0.0.1:6443".into(),
        ca_pem: credential.ca_pem.clone(),
        client: credential.client.clone(),
    };
    let path: &Path = &bench.at("root/var/lib/clusterd/admin.kubeconfig");
    config.write(path).unwrap();
    let parsed = Kubeconfig::parse(&bench.good(&["kubeconfig"])).unwrap();
    assert_eq!(parsed, config);
    let text = bench.good(&["kubeconfig", "--server", "https://k.example:443"]);
    assert_eq!(
        Kubeconfig::parse(&text).unwrap().server,
        "https://k.example:443"
    );
}

#[test]
fn a_shell_passes_on_input_output_and_status() {
    let bench = Bench::new();
    let mut child = bench
        .command("operator.pem", &["shell"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"echo sum$((40+2)); exit 7\n").unwrap();
    let out = child.wait_with_output().unwrap();
    drop(input);
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.contains("sum42"), "{text}");
    assert_eq!(out.status.code(), Some(7));
    let (code, said) = bench.bad("reader.pem", &["shell"]);
    assert!(
        code == 5 && said.contains("slipway:operator"),
        "{code} {said}"
    );
}
