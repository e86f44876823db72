//! A control plane as a plain process on loopback, from the components that
//! `SLIPWAY_COMPONENTS` names (the directory that `slipway components` prints).

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use slipway_access::api::Client;
use slipway_access::kubeconfig::Kubeconfig;

/// Longest wait for anything; machines that build at the same time are slow.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A directory for a cluster, and ports that were free when asked for.
pub struct Place {
    directory: tempfile::TempDir,
    ports: [u16; 3],
}

impl Place {
    /// A place without components, for what fails before any is started.
    pub fn empty() -> Self {
        Self::with_held_ports().0
    }

    /// One whose ports somebody has.
    pub fn with_held_ports() -> (Self, [TcpListener; 3]) {
        // Held together, so that they are three different ones.
        let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let ports = held.each_ref().map(|one| one.local_addr().unwrap().port());
        let directory = tempfile::tempdir().unwrap();
        (Self { directory, ports }, held)
    }

    /// A place with the components.
    pub fn new() -> Self {
        let components = std::env::var_os("SLIPWAY_COMPONENTS")
            .expect("SLIPWAY_COMPONENTS must name what `slipway components` made");
        let place = Self::empty();
        symlink(components, place.bin()).unwrap();
        place
    }

    /// A place whose API server makes all of its bootstrap objects by itself.
    pub fn unprimed() -> Self {
        let place = Self::new();
        let components = std::fs::canonicalize(place.bin()).unwrap();
        std::fs::remove_file(place.bin()).unwrap();
        std::fs::create_dir(place.bin()).unwrap();
        for entry in std::fs::read_dir(&components).unwrap() {
            let entry = entry.unwrap();
            symlink(entry.path(), place.bin().join(entry.file_name())).unwrap();
        }
        let server = place.bin().join("kube-apiserver");
        std::fs::remove_file(&server).unwrap();
        let real = components.join("kube-apiserver");
        let script = format!(
            "#!/bin/sh\nunset SLIPWAY_PRIME_DATASTORE\nexec {} \"$@\"\n",
            real.display()
        );
        std::fs::write(&server, script).unwrap();
        std::fs::set_permissions(&server, std::fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    pub fn bin(&self) -> PathBuf {
        self.directory.path().join("bin")
    }

    pub fn state(&self, file: &str) -> PathBuf {
        self.root().join("var/lib/clusterd").join(file)
    }

    pub fn ports(&self) -> [u16; 3] {
        self.ports
    }

    /// clusterd's command line.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clusterd"));
        let [api, controller_manager, scheduler] = self.ports.map(|port| port.to_string());
        command
            .arg("--root")
            .arg(self.root())
            .arg("--bin")
            .arg(self.bin())
            .arg("--control-plane-only")
            .args(["--api-port", &api])
            .args(["--controller-manager-port", &controller_manager])
            .args(["--scheduler-port", &scheduler])
            .stdin(Stdio::null());
        command
    }

    /// Starts clusterd with more arguments.
    pub fn start(&self, more: &[&str]) -> Server<'_> {
        // What an earlier run said last holds while its killed components still end.
        drop(std::fs::remove_file(self.status_file()));
        let child = self.command().args(more).spawn().unwrap();
        Server { place: self, child }
    }

    /// The owner's client.
    pub fn admin(&self) -> Client {
        Client::from_kubeconfig(&self.kubeconfig()).unwrap()
    }

    pub fn kubeconfig(&self) -> Kubeconfig {
        Kubeconfig::read(&self.state("admin.kubeconfig")).unwrap()
    }

    pub fn status(&self) -> Option<Value> {
        let bytes = std::fs::read(self.status_file()).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn status_file(&self) -> PathBuf {
        self.root().join("run/clusterd/status.json")
    }
}

/// A running clusterd; ended with everything below it when dropped.
pub struct Server<'a> {
    pub place: &'a Place,
    child: Child,
}

impl Server<'_> {
    /// Waits until the status holds.
    pub fn wait(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.place.status()
                && holds(&status)
            {
                return status;
            }
            if let Some(ended) = self.child.try_wait().unwrap() {
                panic!(
                    "clusterd ended with {ended} while waiting for {what}\n{}",
                    self.logs()
                );
            }
            assert!(
                Instant::now() < end,
                "{what}: not within {PATIENCE:?}; {:#}\n{}",
                self.place.status().unwrap_or_default(),
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until everything is up and the API is ready.
    pub fn wait_ready(&mut self) -> Value {
        self.wait("readiness", |status| {
            let up = |line: &Value| {
                line["state"] == "up" && Path::new(&format!("/proc/{}", line["pid"])).exists()
            };
            status["api_ready"] == true
                && status["addons_applied"] == true
                && status["components"]
                    .as_object()
                    .is_some_and(|all| all.values().all(up))
        })
    }

    /// Asks it to end, and checks that it does so well.
    pub fn stop(mut self) {
        assert!(signal(self.child.id(), "TERM"));
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.logs());
    }

    /// As a power cut does: no time for anything.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The ends of the components' logs.
    fn logs(&self) -> String {
        let mut text = String::new();
        let logs = self.place.root().join("var/log/clusterd");
        for entry in std::fs::read_dir(logs).into_iter().flatten().flatten() {
            let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(8).collect();
            text.push_str(&format!("--- {}\n", entry.path().display()));
            text.extend(tail.into_iter().rev().flat_map(|line| [line, "\n"]));
        }
        text
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        // A failed test: its components die with it, by their death signal.
        if matches!(self.child.try_wait(), Ok(None)) {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Sends a signal to a process that a test owns.
pub fn signal(pid: u32, name: &str) -> bool {
    Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status()
        .unwrap()
        .success()
}

/// A component's process as the status says.
pub fn pid(status: &Value, component: &str) -> u32 {
    u32::try_from(status["components"][component]["pid"].as_u64().unwrap()).unwrap()
}
