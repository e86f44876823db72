//! `POST /v1/shell`: a shell on a terminal, over the connection the request came by.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};

use http_body_util::{BodyExt as _, Empty};
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::Upgraded;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use slipway_images::node::shell::{Frame, PROTOCOL};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::OwnedSemaphorePermit;

use crate::answer::{Outcome, Refusal};
use crate::paths::Paths;
use crate::pty::{self, Shell};
use crate::routes::Call;
use crate::{audit, notice};

/// Programs that are a shell, as the image may have them, with their arguments.
const SHELLS: [(&str, &[&str]); 4] = [
    ("bin/bash", &["-l"]),
    ("bin/sh", &["-l"]),
    ("bin/busybox", &["sh", "-l"]),
    ("usr/bin/busybox", &["sh", "-l"]),
];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

type Connection = TokioIo<Upgraded>;

/// `POST /v1/shell`
pub async fn open(mut call: Call) -> Outcome {
    let asked = call.request.headers().get(UPGRADE);
    if asked.is_none_or(|protocol| protocol != PROTOCOL) {
        let error = format!("a shell needs `Upgrade: {PROTOCOL}`");
        return Err(Refusal::new(StatusCode::UPGRADE_REQUIRED, error));
    }
    let permit = call.app.shell()?;
    let (program, arguments) = find(&call.app.paths).ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_IMPLEMENTED,
            "this image has no shell (bash, sh or busybox); logs, events and the support bundle say much of what one would look for",
        )
    })?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir("/")
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("TERM", term(&call));
    let shell = pty::start(command)
        .map_err(|error| Refusal::failed(format!("starting a shell: {error}")))?;
    audit::note(&call, &format!("opened a shell, pid {}", shell.child.id()));
    let upgrade = hyper::upgrade::on(&mut call.request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(connection) => run(call, shell, TokioIo::new(connection), permit).await,
            // It hung up before there was anything to say.
            Err(_) => drop(end(shell).await),
        }
    });
    let mut answer = Response::new(Empty::new().boxed_unsync());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(answer)
}

fn find(paths: &Paths) -> Option<(PathBuf, &'static [&'static str])> {
    SHELLS
        .iter()
        .map(|(program, arguments)| (paths.at(program), *arguments))
        .find(|(program, _)| program.is_file())
}

/// The client's kind of terminal, as `?term=`.
fn term(call: &Call) -> String {
    let plain = |text: &&str| {
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-+._".contains(&b);
        text.len() <= 40 && text.bytes().all(fits)
    };
    call.query("term")
        .filter(plain)
        .unwrap_or("linux")
        .to_owned()
}

/// Carries bytes both ways until the shell or the client ends.
async fn run(call: Call, mut shell: Shell, connection: Connection, _permit: OwnedSemaphorePermit) {
    let pid = shell.child.id();
    let (input, mut output) = split(connection);
    let ended = {
        let master = shell.master.try_clone().and_then(pty::watch);
        match master {
            Ok(master) => tokio::select! {
                () = to_client(&master, &mut output) => true,
                () = to_shell(&master, input) => false,
            },
            Err(error) => {
                notice!("a shell's terminal: {error}");
                false
            }
        }
    };
    if !ended {
        // The client is gone: what still runs is told as by a modem that hangs up.
        hang_up(pid);
    }
    let status = wait(&mut shell).await;
    drop(shell);
    let code = status.map_or(-1, |status| {
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    });
    // A client that is gone doesn't mind.
    drop(output.write_all(&Frame::Exit(code).encode()).await);
    drop(output.shutdown().await);
    audit::note(
        &call,
        &format!("the shell with pid {pid} ended, status {code}"),
    );
}

/// The terminal's bytes to the client, until the terminal is closed or the client is gone.
async fn to_client(master: &AsyncFd<File>, output: &mut WriteHalf<Connection>) {
    let mut buffer = vec![0; 8 << 10];
    loop {
        let Ok(mut ready) = master.readable().await else {
            return;
        };
        match ready.try_io(|fd| fd.get_ref().read(&mut buffer)) {
            // Would block: again.
            Err(_) => {}
            // EIO: the last process has closed the terminal.
            Ok(Err(error)) if error.kind() != ErrorKind::Interrupted => return,
            Ok(Err(_)) => {}
            Ok(Ok(0)) => return,
            Ok(Ok(n)) => {
                let bytes = buffer.get(..n).unwrap_or_default().to_vec();
                let sent = output.write_all(&Frame::Bytes(bytes).encode()).await;
                if sent.is_err() || output.flush().await.is_err() {
                    // Reported by the other direction, which sees the end.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

/// The client's bytes to the terminal, until the client is gone or makes no sense.
async fn to_shell(master: &AsyncFd<File>, mut input: ReadHalf<Connection>) {
    let mut buffer = Vec::new();
    let mut part = vec![0; 8 << 10];
    loop {
        loop {
            match Frame::take(&mut buffer) {
                Ok(None) => break,
                Ok(Some(Frame::Size { columns, rows })) => {
                    if let Err(error) = pty::resize(master.get_ref(), columns, rows) {
                        notice!("a shell's size: {error}");
                    }
                }
                Ok(Some(Frame::Bytes(bytes))) => {
                    if write_all(master, &bytes).await.is_err() {
                        // The shell has ended; what it said last is still on its way.
                        std::future::pending::<()>().await;
                    }
                }
                Ok(Some(Frame::Exit(_))) | Err(_) => return,
            }
        }
        match input.read(&mut part).await {
            Ok(n) if n > 0 => buffer.extend_from_slice(part.get(..n).unwrap_or_default()),
            _ => return,
        }
    }
}

async fn write_all(master: &AsyncFd<File>, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = master.writable().await?;
        if let Ok(written) = ready.try_io(|fd| fd.get_ref().write(bytes)) {
            bytes = bytes.get(written?..).unwrap_or_default();
        }
    }
    Ok(())
}

fn hang_up(pid: u32) {
    let Ok(group) = i32::try_from(pid) else {
        return;
    };
    // It leads its group. Gone already is what was wanted.
    for signal in [Signal::SIGHUP, Signal::SIGCONT] {
        slipway_init::ignore(killpg(Pid::from_raw(group), signal));
    }
}

/// Waits for the shell a while; kills it when it ignores that it was hung up.
async fn wait(shell: &mut Shell) -> Option<ExitStatus> {
    for _ in 0..30 {
        match shell.child.try_wait() {
            Ok(None) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            Ok(Some(status)) => return Some(status),
            Err(_) => return None,
        }
    }
    drop(shell.child.kill());
    shell.child.wait().ok()
}

async fn end(mut shell: Shell) -> Option<ExitStatus> {
    hang_up(shell.child.id());
    wait(&mut shell).await
}
