//! Ctrl-C while a seed is made, embedded or flashed: exit code 130, and nothing half-written.
//!
//! A pipe stands in the place of a file that the command reads, so that it is stopped in the
//! middle, and not before or after it.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::*;

/// A command that reads a pipe.
struct Stopped {
    child: Option<Child>,
    pipe: PathBuf,
}

impl Stopped {
    fn start(args: &[&str], pipe: &Path) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_slipway"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child: Some(child),
            pipe: pipe.to_owned(),
        }
    }

    fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// The pipe, once the command reads it.
    fn reading(&mut self) -> File {
        loop {
            let opened = File::options()
                .write(true)
                .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
                .open(&self.pipe);
            match opened {
                Ok(pipe) => return pipe,
                // Nobody reads.
                Err(e) => assert_eq!(e.raw_os_error(), Some(6), "{e}"),
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "it ended by itself");
            std::thread::yield_now();
        }
    }

    /// How often threads that aren't the main one have gone to sleep: that is, how often the
    /// one that takes signals has done with one.
    fn sleeps(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let others = tasks
            .map(|task| task.unwrap())
            .filter(|task| *task.file_name() != *self.id().to_string());
        let count = |task: fs::DirEntry| -> Option<u64> {
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let line = status
                .lines()
                .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"))?;
            line.trim().parse().ok()
        };
        others.filter_map(count).sum()
    }

    /// Ctrl-C, taken note of.
    fn interrupt(&self) {
        let before = self.sleeps();
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), Signal::INT).unwrap();
        while self.sleeps() == before {
            std::thread::yield_now();
        }
    }

    /// Gives it what it reads, and waits for its end.
    fn go_on(mut self, mut pipe: File, text: &str) -> Output {
        pipe.write_all(text.as_bytes()).unwrap();
        drop(pipe);
        self.child.take().unwrap().wait_with_output().unwrap()
    }
}

fn pipe(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Stops `args` while it reads `pipe`, which holds `text`.
fn stop(args: &[&str], pipe: &Path, text: &str) {
    let mut command = Stopped::start(args, pipe);
    let file = command.reading();
    command.interrupt();
    let out = command.go_on(file, text);
    assert_eq!(
        out.status.code(),
        Some(130),
        "{args:?}: {}",
        super::text(&out)
    );
    assert!(out.stdout.is_empty(), "{}", super::text(&out));
    assert_eq!(
        String::from_utf8(out.stderr).unwrap(),
        "slipway: stopped; nothing was half-written\n"
    );
}

#[test]
fn while_seeds_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    pipe(&key);
    let cluster = dir.path().join("home");
    let args = [
        "seed",
        "new",
        str(&cluster),
        "--cluster",
        "home",
        "--endpoint",
        "h",
        "--ssh-key",
        str(&key),
    ];
    stop(&args, &key, "ssh-ed25519 AAAA me\n");
    assert_eq!(names(dir.path()), ["key"]);
    // A second Ctrl-C doesn't wait for what is read.
    let mut command = Stopped::start(&args, &key);
    let file = command.reading();
    command.interrupt();
    kill_process(
        Pid::from_child(command.child.as_ref().unwrap()),
        Signal::INT,
    )
    .unwrap();
    let out = command.child.take().unwrap().wait_with_output().unwrap();
    drop(file);
    assert_eq!(out.status.code(), Some(130), "{}", text(&out));
    assert_eq!(names(dir.path()), ["key"]);
}

/// A seed whose meta-data is a pipe.
fn seed_with_pipe(dir: &Path) -> (PathBuf, PathBuf) {
    let seed = seed_dir(dir);
    let meta = seed.join("meta-data");
    fs::remove_file(&meta).unwrap();
    pipe(&meta);
    (seed, meta)
}

#[test]
fn while_a_seed_becomes_a_volume() {
    let dir = tempfile::tempdir().unwrap();
    let (seed, meta) = seed_with_pipe(dir.path());
    let out = dir.path().join("x.iso");
    fs::write(&out, "of before").unwrap();
    stop(
        &["seed", "iso", str(&seed), "--out", str(&out)],
        &meta,
        "instance-id: one\n",
    );
    assert_eq!(fs::read_to_string(&out).unwrap(), "of before");
    assert_eq!(names(dir.path()), ["seed", "x.iso"]);
}

#[test]
fn while_a_seed_is_embedded() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let before = (
        fs::read(&image).unwrap(),
        fs::metadata(&image).unwrap().permissions(),
    );
    let (seed, meta) = seed_with_pipe(dir.path());
    stop(
        &["seed", "embed", str(&image), str(&seed)],
        &meta,
        "instance-id: one\n",
    );
    let after = (
        fs::read(&image).unwrap(),
        fs::metadata(&image).unwrap().permissions(),
    );
    assert!(before == after, "the image has been changed");
    assert_eq!(names(dir.path()), ["seed", "x.img"]);
}

#[test]
fn while_a_seed_is_read_for_flashing() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(dir.path());
    let (seed, meta) = seed_with_pipe(dir.path());
    let card = dir.path().join("card");
    fs::write(&card, "of before").unwrap();
    stop(
        &[
            "flash",
            str(&image),
            str(&card),
            "--yes",
            "--seed",
            str(&seed),
        ],
        &meta,
        "instance-id: one\n",
    );
    assert_eq!(fs::read_to_string(&card).unwrap(), "of before");
    assert_eq!(names(dir.path()), ["card", "seed", "x.img"]);
}

/// A file that isn't there yet appears whole or not at all.
#[test]
fn while_a_new_file_is_flashed() {
    let dir = tempfile::tempdir().unwrap();
    let image = large_image(dir.path());
    let card = dir.path().join("card");
    let command = Stopped::start(&["flash", str(&image), str(&card)], &image);
    while names(dir.path()).len() == 1 {
        std::thread::yield_now();
    }
    let mut command = command;
    let child = command.child.take().unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", text(&out));
    assert!(text(&out).contains("stopped"), "{}", text(&out));
    assert_eq!(names(dir.path()), ["large.img"]);
}
