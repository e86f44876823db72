//! Runs a compiler: its lines are passed on as they come, and Ctrl-C ends it
//! and whatever it started.

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// How long a program may take to end once it was asked to.
const GRACE: Duration = Duration::from_secs(5);
/// How often we look whether the user wants to stop.
const TICK: Duration = Duration::from_millis(100);
/// Of a failed program's output, what is shown.
const SHOWN_LINES: usize = 30;

enum Event {
    Out(String),
    Err(String),
}

/// Runs `command` to its end and returns the lines of its stdout. Each line of
/// stderr goes to `on_line` first, which says whether it is worth showing should
/// the program fail; `None` is given now and then so that it can say that work
/// goes on.
///
/// # Errors
/// [`Kind::Missing`] if there is no such program, [`Kind::Tool`] with the end of
/// its output if it fails, [`Kind::Interrupted`] after Ctrl-C.
pub fn run(
    mut command: Command,
    progress: &Progress,
    mut on_line: impl FnMut(Option<&str>) -> bool,
) -> Result<Vec<String>> {
    let name = command.get_program().to_string_lossy().into_owned();
    progress.check()?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|e| cannot_start(&name, &e))?;
    let events = {
        let (sender, events) = mpsc::channel();
        if let Some(out) = child.stdout.take() {
            read(out, Event::Out, sender.clone());
        }
        if let Some(err) = child.stderr.take() {
            read(err, Event::Err, sender);
        }
        events
    };
    let (mut out, mut tail) = (Vec::new(), Vec::new());
    loop {
        match events.recv_timeout(TICK) {
            Ok(Event::Out(line)) => out.push(line),
            Ok(Event::Err(line)) => {
                if on_line(Some(&line)) {
                    tail.push(line);
                }
                if tail.len() > SHOWN_LINES {
                    tail.remove(0);
                }
            }
            Err(RecvTimeoutError::Timeout) => drop(on_line(None)),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Err(stop) = progress.check() {
            end(&mut child, &events);
            return Err(stop);
        }
    }
    let status = child
        .wait()
        .map_err(|e| Error::new(Kind::Io, format!("waiting for {name}: {e}")))?;
    if status.success() {
        return Ok(out);
    }
    Err(failure(&command, status, &tail))
}

fn cannot_start(name: &str, e: &std::io::Error) -> Error {
    match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(Kind::Missing, format!("there is no `{name}` in PATH"))
        }
        _ => Error::new(Kind::Tool, format!("starting {name}: {e}")),
    }
}

fn failure(command: &Command, status: ExitStatus, tail: &[String]) -> Error {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    Error::new(
        Kind::Tool,
        format!("{status} from `{line}`\n{}", tail.join("\n")),
    )
}

fn read<R: Read + Send + 'static>(from: R, event: fn(String) -> Event, to: Sender<Event>) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        // A read error of a pipe means that it is gone, as does its end.
        while matches!(from.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if to.send(event(text)).is_err() {
                return;
            }
        }
    });
}

/// Asks the group to end, waits until all of it has let go of the pipes, and
/// kills what is left.
fn end(child: &mut Child, events: &mpsc::Receiver<Event>) {
    let Some(group) = Pid::from_child(child).into() else {
        return;
    };
    // Either call fails only when the group has ended already.
    kill_process_group(group, Signal::TERM).unwrap_or_default();
    let deadline = Instant::now() + GRACE;
    loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(_) => {}
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                kill_process_group(group, Signal::KILL).unwrap_or_default();
                break;
            }
        }
    }
    child.wait().map(drop).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Style;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_of_both_streams_arrive() {
        let mut seen = Vec::new();
        let out = run(
            shell("echo one; echo two >&2; echo three"),
            &Progress::with_style(Style::Quiet),
            |l| {
                seen.extend(l.map(str::to_owned));
                true
            },
        )
        .unwrap();
        assert_eq!(
            (out, seen),
            (vec!["one".into(), "three".into()], vec!["two".to_owned()])
        );
    }

    #[test]
    fn a_failure_shows_the_command_and_the_end_of_what_it_said() {
        let error = run(
            shell("for i in $(seq 100); do echo line$i >&2; done; exit 3"),
            &Progress::with_style(Style::Quiet),
            |_| true,
        )
        .unwrap_err();
        assert_eq!(error.kind, Kind::Tool);
        let text = error.to_string();
        assert!(text.contains("exit status: 3") && text.contains("sh -c"));
        assert!(text.contains("line100") && !text.contains("line70\n"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(
            Command::new("no-such-compiler"),
            &Progress::with_style(Style::Quiet),
            |_| true,
        )
        .unwrap_err();
        assert_eq!(error.kind, Kind::Missing);
        assert!(error.to_string().contains("no-such-compiler"));
    }
}
