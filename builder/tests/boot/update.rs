//! From one built image to another on a node that runs: by a URL, through a power cut in the
//! middle, to the commit, with its data and its cluster's.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use slipway_access::api::Client;
use slipway_access::kubeconfig::Kubeconfig;
use slipway_images::node::PORT;
use slipway_qemu::harness::Setup;
use slipway_qemu::machine::OnReboot;

use super::flashed::{NODE, Owned, seeds, slipway};
use super::machine::{MINUTE, run};

const API: u16 = 6443;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// An image that takes updates by these keys; the version follows from them, too.
fn built(out: &Path, keys: &[&Path]) -> PathBuf {
    let keys: Vec<String> = keys.iter().map(|key| key.display().to_string()).collect();
    let mut build = slipway();
    build.args(["build", "x86_64", "--out"]).arg(out);
    run(build.env("SLIPWAY_UPDATE_KEY", keys.join(",")));
    out.join("x86_64.img")
}

/// Serves a file by ranges; what lies behind `head` only once it `flows`. Gives the port.
fn serve(file: PathBuf, head: u64, flows: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            let (file, flows) = (File::open(&file).unwrap(), Arc::clone(&flows));
            // Who has hung up asks again.
            std::thread::spawn(move || drop(answer(connection, &file, head, &flows)));
        }
    });
    port
}

fn answer(
    mut connection: TcpStream,
    file: &File,
    head: u64,
    flows: &AtomicBool,
) -> std::io::Result<()> {
    let size = file.metadata()?.len();
    let lines = BufReader::new(&connection).lines().map_while(Result::ok);
    let range = lines.take_while(|line| !line.is_empty()).find_map(|line| {
        let line = line.to_ascii_lowercase();
        let (first, last) = line.strip_prefix("range: bytes=")?.split_once('-')?;
        Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))
    });
    let (first, last) = range.expect("the node asks for ranges");
    let length = last - first + 1;
    write!(
        connection,
        "HTTP/1.1 206 Partial\r\nContent-Range: bytes {first}-{last}/{size}\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    let mut buffer = vec![0; 64 << 10];
    let mut at = first;
    while at <= last {
        if at >= head && !flows.load(Ordering::Acquire) {
            std::thread::sleep(std::time::Duration::from_millis(200));
            continue;
        }
        let most = (last + 1 - at).min(buffer.len() as u64);
        let part = &mut buffer[..usize::try_from(most).unwrap()];
        file.read_exact_at(part, at)?;
        connection.write_all(part)?;
        at += most;
    }
    Ok(())
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn a_node_is_updated_from_afar_through_a_power_cut() {
    let scratch = seeds();
    let at = |path: &str| scratch.path().join(path);
    for name in ["first", "later"] {
        let (key, public) = (at(&format!("{name}.key")), at(&format!("{name}.pub")));
        let mut openssl = Command::new("openssl");
        run(openssl
            .args(["genpkey", "-algorithm", "ed25519", "-out"])
            .arg(&key));
        let mut openssl = Command::new("openssl");
        run(openssl
            .args(["pkey", "-pubout", "-in"])
            .arg(&key)
            .arg("-out")
            .arg(&public));
    }
    let old = built(&at("old"), &[&at("first.pub")]);
    let new = built(&at("new"), &[&at("first.pub"), &at("later.pub")]);
    let mut bundle = slipway();
    bundle
        .arg("bundle")
        .arg(&new)
        .arg("--key")
        .arg(at("first.key"));
    run(bundle.arg("--output").arg(at("new.slip")));

    let seed = at("home").join(NODE);
    let text = fs::read_to_string(seed.join("user-data")).unwrap();
    let update = "slipway:\n  update: {dwell: 5s, deadline: 15m}\n";
    fs::write(
        seed.join("user-data"),
        text.replacen("slipway:\n", update, 1),
    )
    .unwrap();
    let mut flash = slipway();
    flash.arg("flash").args([&old, &at("card")]);
    run(flash.arg("--seed").arg(&seed).arg("--yes"));
    let flows = Arc::new(AtomicBool::new(false));
    // Its head comes, and a little more.
    let port = serve(at("new.slip"), 6 << 20, Arc::clone(&flows));
    let mut setup = Setup::new(at("card"));
    setup.ports = vec![PORT, API];
    setup.on_reboot = OnReboot::Restart;
    let mut owned = Owned::boot(setup, scratch);
    owned.wait_phases(&[("slots", "a good, runs")]);
    owned.node.wait_console("cluster: ready", 12 * MINUTE);
    let client = |owned: &Owned| {
        let server = format!("https://127.0.0.1:{}", owned.node.port(API));
        let args = ["kubeconfig", "--server", &server];
        let out = owned.command("home/operator.pem", &args).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        Client::from_kubeconfig(&Kubeconfig::parse(&text).unwrap()).unwrap()
    };
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kept"}});
    client(&owned).create(MAPS, &object).unwrap();
    owned.shell("echo whole > /var/lib/kept; sync");

    let url = format!("http://10.0.2.2:{port}/new.slip");
    let mut command = owned.command("home/operator.pem", &["update", &url]);
    let mut asked = command.stderr(Stdio::null()).spawn().unwrap();
    let mut status = owned.command("home/operator.pem", &["update"]);
    owned.node.wait_for("it is being written", 5 * MINUTE, |_| {
        let out = status.output().map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        said.contains("fetching and writing")
            .then_some(())
            .ok_or(said)
    });
    asked.kill().unwrap();
    asked.wait().unwrap();
    owned.node.cut_power();
    flows.store(true, Ordering::Release);
    owned.node.power_on();
    owned.wait_phases(&[("slots", "a good, runs; b writing")]);
    // Nobody asks again: it goes on, is staged, and boots.
    let line = owned.node.wait_console("] slots ", 12 * MINUTE);
    assert!(line.contains("b trial, runs"), "{line}");
    owned
        .node
        .wait_console("slot b is committed: healthy for 5s", 12 * MINUTE);
    let status = owned.operator(&["status"]);
    assert!(status.contains("slot        b good"), "{status}");
    let said = owned.shell("cat /var/lib/kept; ls /var/lib/clusterd/snapshots");
    // Taken again when it went on: of each pair of versions the last is kept.
    assert!(said.contains("whole") && said.contains(".db"), "{said}");
    let path = format!("{MAPS}/kept");
    assert!(client(&owned).find(&path).unwrap().is_some());
    owned.node.power_down(2 * MINUTE);
}
