//! A node that is told by its serial number where its seed is: it fetches it, keeps it, and
//! boots the same when the server is gone.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use slipway_images::node::PORT;
use slipway_qemu::harness::Setup;
use slipway_qemu::machine::OnReboot;

use super::flashed::{NODE, Owned, seeds};
use super::machine::{MINUTE, image};

/// Serves a directory until `gone`; gives the port.
fn serve(directory: PathBuf, gone: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            if gone.load(Ordering::Acquire) {
                // Closed without a word.
                continue;
            }
            let mut lines = BufReader::new(&connection).lines();
            let first = lines.next().and_then(Result::ok).unwrap_or_default();
            // To the head's end, or closing would reset the connection.
            lines.map_while(Result::ok).find(String::is_empty);
            let name = first.split(['/', ' ']).nth(2).unwrap_or_default();
            let answer = match std::fs::read_to_string(directory.join(name)) {
                Ok(text) => format!(
                    "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                    text.len()
                ),
                Err(_) => {
                    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                        .into()
                }
            };
            // A client that has gone asks again.
            drop(connection.write_all(answer.as_bytes()));
        }
    });
    port
}

#[test]
#[ignore = "boots a machine: run with --ignored"]
fn a_seed_by_url_is_fetched_and_kept() {
    let scratch = seeds();
    let seed = scratch.path().join("home").join(NODE);
    // Static: it takes the place of the network that the seed came by.
    let network = "version: 2\nethernets:\n  all:\n    match: {name: 'e*'}\n    \
                   addresses: [10.0.2.77/24, 10.0.2.15/24]\n    \
                   routes: [{to: default, via: 10.0.2.2}]\n";
    std::fs::write(seed.join("network-config"), network).unwrap();
    let gone = Arc::new(AtomicBool::new(false));
    let port = serve(seed, Arc::clone(&gone));
    let url = format!("http://10.0.2.2:{port}/");
    let mut setup = Setup::new(image());
    setup.ports = vec![PORT];
    setup.on_reboot = OnReboot::Restart;
    setup.serial = Some(format!("ds=nocloud;s={url}"));
    let mut owned = Owned::boot(setup, scratch);
    let fetched = format!("from {url}");
    owned.wait_phases(&[
        ("seed", &url),
        ("data", "filesystem made"),
        ("seed by URL", &fetched),
        ("applied seed", "none"),
        ("network", "changed"),
        ("identity", NODE),
    ]);
    let status = owned.operator(&["status"]);
    assert!(
        status.contains(&fetched) && status.contains("10.0.2.77"),
        "{status}"
    );

    gone.store(true, Ordering::Release);
    owned.operator(&["reboot"]);
    let kept = "the one kept from before is used";
    owned.wait_phases(&[
        ("seed", &url),
        ("seed by URL", kept),
        ("network", "changed"),
        ("identity", NODE),
    ]);
    let status = owned.operator(&["status"]);
    assert!(
        status.contains(kept) && status.contains("10.0.2.77"),
        "{status}"
    );
    owned
        .node
        .wait_for("the cluster starts, again", MINUTE, |node| {
            match node.console().matches("clusterd: started").count() {
                2 => Ok(()),
                n => Err(format!("started {n} times")),
            }
        });
    owned.node.power_down(2 * MINUTE);
}
