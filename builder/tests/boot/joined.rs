//! A cluster of two machines, by the commands that a person types: an agent joins a server, pods
//! of both reach each other, and the agent comes back by itself after a power cut.
//!
//! Boots what `$SLIPWAY_IMAGE` names, or x86_64's image.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::flashed::slipway;
use super::machine::{WORKLOAD, image_of};

/// Emulation of two machines on a busy host.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Two machines, which are switched off in the end.
pub struct Pair {
    state: tempfile::TempDir,
}

impl Pair {
    /// A server, and an agent of it with this image and memory.
    pub fn start(agent: &Path, memory: &str) -> Self {
        let pair = Self {
            state: tempfile::tempdir().unwrap(),
        };
        let server = image_of("SLIPWAY_IMAGE", "x86_64");
        let path = |image: &Path| image.to_str().unwrap().to_owned();
        pair.run(&[&path(&server), "--name", "one", "--lan"]);
        let join = ["--name", "two", "--join", "one", "--memory", memory];
        pair.run(&[&[path(agent).as_str()][..], &join].concat());
        pair
    }

    fn slipway(&self) -> Command {
        let mut command = slipway();
        command.env("SLIPWAY_STATE", self.state.path());
        command
    }

    fn run(&self, arguments: &[&str]) {
        let mut command = self.slipway();
        command.arg("run").args(arguments);
        command.args(["--detach", "--until", "ready", "--timeout", "900"]);
        said(&mut command);
    }

    pub fn kubectl(&self, arguments: &[&str]) -> String {
        let mut command = self.slipway();
        command
            .args(["kubectl", "--name", "one", "--"])
            .args(arguments);
        said(&mut command)
    }

    /// Asks until the answer is the wanted one.
    fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool, arguments: &[&str]) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let mut command = self.slipway();
            command
                .args(["kubectl", "--name", "one", "--"])
                .args(arguments);
            let out = command.output().unwrap();
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            if out.status.success() && wanted(&text) {
                return text;
            }
            assert!(
                Instant::now() < end,
                "{what}: {text}{}\n{}",
                String::from_utf8_lossy(&out.stderr),
                self.console("two")
            );
            std::thread::sleep(Duration::from_secs(2));
        }
    }

    fn console(&self, name: &str) -> String {
        let path = self.state.path().join("vms").join(name).join("console.log");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Pods on both nodes answer a client on one of them, by address and by the service's name.
    pub fn pods_reach_each_other(&self) {
        // Two emulated machines, one of which has just come, may keep the API busy for longer than
        // a request may take; what is asked for here is the same a second time.
        let done = |_: &str| true;
        self.wait("the workload", done, &["apply", "-f", WORKLOAD]);
        for deployment in ["deployment/web", "deployment/client"] {
            let status = ["rollout", "status", deployment, "--timeout=600s"];
            self.wait(deployment, done, &status);
        }
        let both = |text: &str| text.contains("one=") && text.contains("two=");
        let pods = self.wait("a pod on each node", both, &[
            "get",
            "pods",
            "-l",
            "app=web",
            "-o",
            "jsonpath={range .items[?(@.status.phase==\"Running\")]}{.spec.nodeName}={.status.podIP} {end}",
        ]);
        for pod in pods.split_whitespace() {
            let address = pod.split('=').nth(1).unwrap();
            self.ask(&format!("http://{address}:8080/"));
        }
        self.ask("http://web.default.svc.cluster.local/");
    }

    fn ask(&self, url: &str) {
        let answered = |text: &str| text.starts_with("hello from web-");
        self.wait(
            url,
            answered,
            &[
                "exec",
                "deploy/client",
                "--",
                "/host/busybox",
                "wget",
                "-q",
                "-T",
                "20",
                "-O",
                "-",
                url,
            ],
        );
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for name in ["two", "one"] {
            drop(self.slipway().args(["stop", name, "--force"]).output());
        }
    }
}

/// What a command that went well wrote.
fn said(command: &mut Command) -> String {
    let out = command.output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success(),
        "{command:?}: {}\n{text}{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    text
}

#[test]
#[ignore = "boots two machines: run with --ignored"]
fn an_agent_joins_works_and_comes_back_after_a_power_cut() {
    let image = image_of("SLIPWAY_IMAGE", "x86_64");
    // What an agent is promised to do with.
    let pair = Pair::start(&image, "512M");
    pair.pods_reach_each_other();
    said(pair.slipway().args(["stop", "two", "--force"]));
    pair.run(&["--name", "two"]);
    pair.ask("http://web.default.svc.cluster.local/");
}
