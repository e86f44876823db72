//! The commands against a real QEMU with a tiny real guest: what a user meets,
//! and first of all what goes wrong.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use slipway_access::kubeconfig::Kubeconfig;
use slipway_qemu::machine::Mebibytes;
use slipway_qemu::{StateDir, Vm, VmDir, guest, host};

use super::args::{Fresh, Until};
use super::*;
use crate::progress::{Progress, Style};

/// One QEMU at a time, and one environment.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Bench {
    dir: tempfile::TempDir,
    _one: MutexGuard<'static, ()>,
}

impl Bench {
    fn new() -> Self {
        let one = one_at_a_time();
        let dir = tempfile::tempdir().unwrap();
        let bench = Self { dir, _one: one };
        fs::create_dir(bench.images()).unwrap();
        fs::write(bench.image(), guest::tiny_disk()).unwrap();
        bench
    }

    fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    fn image(&self) -> PathBuf {
        self.images().join("tiny.img")
    }

    fn state(&self) -> StateDir {
        StateDir::new(self.dir.path().join("state"))
    }

    fn vm(&self, name: &str) -> VmDir {
        self.state().vm(&name.parse().unwrap())
    }

    fn with<T>(&self, what: impl FnOnce(&Context<'_>, &Progress) -> T) -> T {
        let context = Context {
            state: self.state(),
            images: self.images(),
            fetch_firmware: &|_, _| Err(Error::new(Kind::Network, "no network in tests")),
        };
        what(&context, &Progress::with_style(Style::Quiet))
    }

    fn run(&self, args: &RunArgs) -> Result<ExitCode> {
        self.with(|context, progress| run(args, context, progress))
    }

    fn stop(&self, name: Option<&str>, force: bool) -> Result<ExitCode> {
        let args = StopArgs {
            name: name.map(|n| n.parse().unwrap()),
            force,
            timeout: 60,
        };
        self.with(|context, progress| stop(&args, context, progress))
    }

    fn wait_console(&self, name: &str, text: &str) {
        let dir = self.vm(name);
        let process = dir.record().unwrap().unwrap().process.unwrap();
        let vm = Vm::find(dir.name(), dir.path(), &process).unwrap().unwrap();
        let mut follow = slipway_qemu::console::Follow::console(dir.path(), false).unwrap();
        slipway_qemu::console::wait_for_line(
            &mut follow,
            &mut slipway_qemu::console::Lines::default(),
            text,
            vm.ended_fd(),
            Duration::from_secs(60),
        )
        .unwrap();
    }
}

/// No machine of a test outlives it.
impl Drop for Bench {
    fn drop(&mut self) {
        for dir in self.state().list().unwrap_or_default() {
            if let Ok(Some(record)) = dir.record()
                && let Some(process) = record.process
                && let Ok(Some(mut vm)) = Vm::find(dir.name(), dir.path(), &process)
            {
                vm.kill().unwrap();
            }
        }
    }
}

fn tiny() -> RunArgs {
    RunArgs {
        image: Some("tiny".into()),
        bios: true,
        detach: true,
        memory: Some(Mebibytes(1024)),
        ..RunArgs::default()
    }
}

#[test]
fn a_machine_starts_is_listed_stops_and_boots_its_disk_again() {
    let bench = Bench::new();
    let before = fs::read(bench.image()).unwrap();
    bench.run(&tiny()).unwrap();
    bench.wait_console("tiny", "boot 1");
    let config = Kubeconfig::read(&bench.vm("tiny").kubeconfig()).unwrap();
    let record = bench.vm("tiny").record().unwrap().unwrap();
    let port = record.machine.host_port(6443).unwrap();
    assert_eq!(config.server, format!("https://127.0.0.1:{port}"));

    // Running: a second start is refused, and says by whom.
    let error = bench.run(&tiny()).unwrap_err();
    assert_eq!(error.kind, Kind::Missing);
    assert!(
        error.message().contains("already running (process"),
        "{error}"
    );
    assert!(
        error.advice().unwrap().contains("slipway stop tiny"),
        "{error}"
    );
    let rm_args = RmArgs {
        name: "tiny".parse().unwrap(),
    };
    let error = bench.with(|c, p| rm(&rm_args, c, p)).unwrap_err();
    assert!(
        error.advice().unwrap().contains("slipway stop tiny"),
        "{error}"
    );
    bench.with(|c, p| ps(&PsArgs::default(), c, p)).unwrap();

    bench.stop(None, false).unwrap();
    let error = bench.stop(Some("tiny"), false).unwrap_err();
    assert_eq!(error.kind, Kind::Usage);
    assert!(error.message().contains("is not running"), "{error}");

    // By name alone, and with the same CAs and port.
    let again = RunArgs {
        name: Some("tiny".parse().unwrap()),
        image: None,
        memory: None,
        ..tiny()
    };
    bench.run(&again).unwrap();
    bench.wait_console("tiny", "boot 2");
    let now = bench.vm("tiny").record().unwrap().unwrap();
    assert_eq!(now.machine.host_port(6443), Some(port));
    assert_eq!(now.machine.memory, Mebibytes(1024));
    assert_eq!(
        Kubeconfig::read(&bench.vm("tiny").kubeconfig())
            .unwrap()
            .ca_pem,
        config.ca_pem
    );
    bench.stop(Some("tiny"), true).unwrap();
    assert!(
        fs::read(bench.image()).unwrap() == before,
        "the image was written to"
    );

    bench.with(|c, p| rm(&rm_args, c, p)).unwrap();
    let error = bench.with(|c, p| rm(&rm_args, c, p)).unwrap_err();
    assert_eq!(error.kind, Kind::Usage);
    assert!(
        error.message().contains("no virtual machine `tiny`"),
        "{error}"
    );
}

#[test]
fn a_rebuilt_image_is_not_slipped_under_an_old_disk() {
    let bench = Bench::new();
    bench.run(&tiny()).unwrap();
    bench.wait_console("tiny", "boot 1");
    bench.stop(None, true).unwrap();
    crate::atomic::write(&bench.image(), &guest::tiny_disk(), 0o644).unwrap();

    let error = bench.run(&tiny()).unwrap_err();
    assert_eq!(error.kind, Kind::Input);
    assert!(
        error.message().contains("earlier or other image"),
        "{error}"
    );
    assert!(error.advice().unwrap().contains("--fresh"), "{error}");

    // The old disk still has its ground.
    let old = RunArgs {
        image: None,
        name: Some("tiny".parse().unwrap()),
        ..tiny()
    };
    bench.run(&old).unwrap();
    bench.wait_console("tiny", "boot 2");
    bench.stop(None, true).unwrap();

    for (fresh, boots) in [
        (Fresh::IfChanged, "boot 1"),
        (Fresh::IfChanged, "boot 2"),
        (Fresh::Always, "boot 1"),
    ] {
        let args = RunArgs {
            fresh: Some(fresh),
            ..tiny()
        };
        bench.run(&args).unwrap();
        bench.wait_console("tiny", boots);
        bench.stop(None, true).unwrap();
    }
}

#[test]
fn a_port_in_use_is_named_and_nothing_starts() {
    let bench = Bench::new();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut args = tiny();
    args.forward = vec![format!("{port}:80").parse().unwrap()];
    let error = bench.run(&args).unwrap_err();
    assert_eq!(error.kind, Kind::Missing);
    assert!(error.message().contains(&format!("port {port}")), "{error}");
    assert!(error.advice().is_some());
    drop(taken);

    bench.run(&args).unwrap();
    // Another machine of ours has it now: it is named.
    args.name = Some("other".parse().unwrap());
    let error = bench.run(&args).unwrap_err();
    assert!(
        error.advice().unwrap().contains("slipway stop tiny"),
        "{error}"
    );
    // Several machines, none named.
    bench.stop(None, true).unwrap();
}

#[test]
fn too_little_memory_is_refused_on_either_side() {
    let bench = Bench::new();
    let mut args = tiny();
    args.memory = Some(Mebibytes(512));
    let error = bench.run(&args).unwrap_err();
    assert_eq!(error.kind, Kind::Missing);
    assert!(error.message().contains("at least 1024 MiB"), "{error}");

    args.memory = Some(Mebibytes(
        host::memory_available().unwrap().0.saturating_mul(2),
    ));
    let error = bench.run(&args).unwrap_err();
    assert_eq!(error.kind, Kind::Missing);
    assert!(error.message().contains("this host has"), "{error}");
    assert!(error.advice().unwrap().contains("--memory"), "{error}");
}

#[test]
fn an_image_that_is_not_there_is_an_input_error() {
    let bench = Bench::new();
    let args = RunArgs {
        image: Some("tinny".into()),
        ..tiny()
    };
    let error = bench.run(&args).unwrap_err();
    assert_eq!(error.kind, Kind::Input);
    assert!(
        error.advice().unwrap().contains("did you mean `tiny`"),
        "{error}"
    );
    // No image named: the default board, which nobody has built here.
    let error = bench
        .run(&RunArgs {
            image: None,
            ..tiny()
        })
        .unwrap_err();
    assert!(error.message().contains("x86_64"), "{error}");
    assert!(bench.state().list().unwrap().is_empty());
}

#[test]
fn commands_about_no_machine_say_so() {
    let bench = Bench::new();
    let error = bench.stop(None, false).unwrap_err();
    assert_eq!(error.kind, Kind::Usage);
    assert!(error.advice().unwrap().contains("slipway run"), "{error}");
    let error = bench.stop(Some("nobody"), false).unwrap_err();
    assert_eq!(error.kind, Kind::Usage);
    assert!(
        error.message().contains("no virtual machine `nobody`"),
        "{error}"
    );
    let args = KubectlArgs {
        name: Some("nobody".parse().unwrap()),
        args: Vec::new(),
    };
    let error = bench
        .with(|c, _| kubectl(&args, c, "/nowhere/kube".as_ref()))
        .unwrap_err();
    assert_eq!(error.kind, Kind::Usage);
}

#[test]
fn a_time_to_run_ends_with_a_power_off() {
    let bench = Bench::new();
    let mut args = tiny();
    args.detach = false;
    args.until = Some(Until::After(Duration::from_secs(2)));
    bench.run(&args).unwrap();
    let dir = bench.vm("tiny");
    let log = slipway_qemu::console::tail(dir.path(), 10).unwrap();
    assert!(log.contains("power button, bye"), "{log}");
    assert!(
        !dir.record()
            .unwrap()
            .unwrap()
            .process
            .unwrap()
            .is_alive()
            .unwrap()
    );
}

#[test]
fn a_node_that_is_never_ready_is_a_timeout() {
    let bench = Bench::new();
    let mut args = tiny();
    args.until = Some(Until::Ready);
    args.timeout = Some(1);
    let error = bench.run(&args).unwrap_err();
    assert_eq!(error.kind, Kind::Timeout);
    assert!(error.advice().unwrap().contains("still running"), "{error}");
    bench.stop(None, true).unwrap();

    args.detach = false;
    let error = bench.run(&args).unwrap_err();
    assert_eq!(error.kind, Kind::Timeout);
    assert!(
        !bench
            .vm("tiny")
            .record()
            .unwrap()
            .unwrap()
            .process
            .unwrap()
            .is_alive()
            .unwrap()
    );
}

/// The environment of a test can't be changed from within, so this one starts
/// itself again with an empty `PATH`.
#[test]
fn a_missing_qemu_is_named_with_its_package() {
    const INNER: &str = "SLIPWAY_TEST_WITHOUT_PATH";
    if std::env::var_os(INNER).is_none() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "run::tests::a_missing_qemu_is_named_with_its_package",
            ])
            .env(INNER, "1")
            .env("PATH", "")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{said}"
        );
        return;
    }
    let bench = Bench::new();
    let error = bench.run(&tiny()).unwrap_err();
    assert_eq!(error.kind, Kind::Missing);
    assert_eq!(error.message(), "`qemu-system-x86_64` is not installed");
    assert!(
        error
            .advice()
            .unwrap()
            .contains("apt-get install qemu-system-x86"),
        "{error}"
    );
    assert!(bench.state().list().unwrap().is_empty());
}
