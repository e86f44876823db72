//! A small client of QEMU's machine protocol (`docs/interop/qmp-spec`): JSON
//! objects, one a line, over a Unix socket. QEMU serves one client at a time, so
//! a connection is made for a command or a few and then given up.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// QEMU's answers are small; more than this is not QEMU.
const MAX_MESSAGE: usize = 16 << 20;

/// What QEMU says of its own accord.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Event {
    /// Its name, such as `SHUTDOWN`.
    pub event: String,
    /// What belongs to it.
    #[serde(default)]
    pub data: Map<String, Value>,
}

/// A message from QEMU.
#[derive(Debug, PartialEq)]
enum Message {
    Greeting,
    Event(Event),
    Return(Value),
    Error { description: String },
}

/// A connection.
#[derive(Debug)]
pub struct Qmp {
    stream: UnixStream,
    /// Bytes that are not yet a whole line.
    pending: Vec<u8>,
    events: VecDeque<Event>,
    timeout: Duration,
}

impl Qmp {
    /// Connects to the socket `name` in `dir` and leaves negotiation mode. Each
    /// answer may take up to `timeout`.
    ///
    /// # Errors
    /// [`Error::Io`] if nobody listens there, [`Error::Timeout`] if QEMU doesn't
    /// answer (another client has it, or it hangs), [`Error::Protocol`] if it
    /// isn't QEMU.
    pub fn connect(dir: &Path, name: &str, timeout: Duration) -> Result<Self> {
        let stream = connect_below(dir, name).map_err(|e| {
            Error::io(
                format_args!("connecting to {}", dir.join(name).display()),
                e,
            )
        })?;
        let mut qmp = Self {
            stream,
            pending: Vec::new(),
            events: VecDeque::new(),
            timeout,
        };
        let deadline = Instant::now() + timeout;
        match qmp.next_message("QEMU's greeting", deadline)? {
            Message::Greeting => {}
            other => {
                return Err(Error::Protocol(format!("no greeting but {other:?}")));
            }
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its value. Events that come in between are kept.
    ///
    /// # Errors
    /// [`Error::Refused`] with QEMU's words, else as [`Qmp::connect`].
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream
            .write_all(line.as_bytes())
            .map_err(|e| Error::io(format_args!("sending `{command}` to QEMU"), e))?;
        let deadline = Instant::now() + self.timeout;
        let what = format!("QEMU's answer to `{command}`");
        loop {
            match self.next_message(&what, deadline)? {
                Message::Return(value) => return Ok(value),
                Message::Error { description } => {
                    return Err(Error::Refused {
                        command: command.to_owned(),
                        description,
                    });
                }
                Message::Event(event) => self.events.push_back(event),
                Message::Greeting => {
                    return Err(Error::Protocol("a second greeting".into()));
                }
            }
        }
    }

    /// The next event that `wanted` accepts, among those kept and those to come;
    /// others are dropped.
    ///
    /// # Errors
    /// [`Error::Timeout`] if none comes, else as [`Qmp::execute`].
    pub fn wait_event(
        &mut self,
        what: &str,
        timeout: Duration,
        mut wanted: impl FnMut(&Event) -> bool,
    ) -> Result<Event> {
        let deadline = Instant::now() + timeout;
        loop {
            while let Some(event) = self.events.pop_front() {
                if wanted(&event) {
                    return Ok(event);
                }
            }
            if let Message::Event(event) = self.next_message(what, deadline)? {
                self.events.push_back(event);
            }
        }
    }

    fn next_message(&mut self, what: &str, deadline: Instant) -> Result<Message> {
        let started = Instant::now();
        let line = loop {
            if let Some(end) = self.pending.iter().position(|&b| b == b'\n') {
                break self.pending.drain(..=end).collect::<Vec<u8>>();
            }
            if self.pending.len() > MAX_MESSAGE {
                return Err(Error::Protocol("an endless line".into()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let timed_out = || Error::Timeout {
                what: what.to_owned(),
                after: deadline.saturating_duration_since(started),
            };
            if left.is_zero() {
                return Err(timed_out());
            }
            self.stream
                .set_read_timeout(Some(left))
                .map_err(|e| Error::io("talking to QEMU", e))?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    return Err(Error::io(
                        format_args!("waiting for {what}"),
                        io::Error::from(io::ErrorKind::UnexpectedEof),
                    ));
                }
                Ok(n) => self.pending.extend_from_slice(&chunk[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(timed_out()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io(format_args!("waiting for {what}"), e)),
            }
        };
        parse(&line)
    }
}

/// One line of QEMU's.
fn parse(line: &[u8]) -> Result<Message> {
    let wrong = |why: String| {
        Error::Protocol(format!(
            "{why} in `{}`",
            String::from_utf8_lossy(&line[..line.len().min(200)]).trim()
        ))
    };
    let mut object: Map<String, Value> =
        serde_json::from_slice(line).map_err(|e| wrong(e.to_string()))?;
    if object.contains_key("QMP") {
        return Ok(Message::Greeting);
    }
    if let Some(value) = object.remove("return") {
        return Ok(Message::Return(value));
    }
    if let Some(error) = object.get("error") {
        let description = error
            .get("desc")
            .and_then(Value::as_str)
            .ok_or_else(|| wrong("an error without description".into()))?;
        return Ok(Message::Error {
            description: description.to_owned(),
        });
    }
    if object.contains_key("event") {
        return serde_json::from_value(Value::Object(object))
            .map(Message::Event)
            .map_err(|e| wrong(e.to_string()));
    }
    Err(wrong("neither answer nor event".into()))
}

/// Connects to a Unix socket in a directory, however long the directory's path
/// is: an address holds 108 bytes, and `/proc/self/fd/N/name` is short.
///
/// # Errors
/// The operating system's.
pub fn connect_below(dir: &Path, name: &str) -> io::Result<UnixStream> {
    use std::os::fd::AsRawFd as _;
    let dir = rustix::fs::open(
        dir,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    UnixStream::connect(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reading_a_message_never_panics(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _answer: Result<Message> = parse(&line);
        }

        #[test]
        fn reading_json_never_panics(
            key in "QMP|return|error|event|desc|data|x",
            inner in "QMP|return|error|desc|data",
            value in "[0-9]{1,5}|\"[a-z]{0,5}\"|null|\\[\\]",
        ) {
            let line = format!("{{\"{key}\": {{\"{inner}\": {value}}}}}");
            let _answer: Result<Message> = parse(line.as_bytes());
        }
    }

    #[test]
    fn messages_are_told_apart() {
        assert_eq!(
            parse(br#"{"QMP": {"version": {}}}"#).unwrap(),
            Message::Greeting
        );
        assert_eq!(
            parse(br#"{"return": {"status": "running"}}"#).unwrap(),
            Message::Return(json!({"status": "running"}))
        );
        assert!(matches!(
            parse(br#"{"error": {"class": "GenericError", "desc": "no"}}"#).unwrap(),
            Message::Error { description } if description == "no"
        ));
        assert!(matches!(
            parse(br#"{"event": "STOP", "timestamp": {"seconds": 1}}"#).unwrap(),
            Message::Event(Event { event, .. }) if event == "STOP"
        ));
        for not in [
            "",
            "[]",
            "{}",
            "{\"error\": 1}",
            "{\"event\": 1}",
            "SSH-2.0",
        ] {
            assert!(
                matches!(parse(not.as_bytes()), Err(Error::Protocol(_))),
                "{not}"
            );
        }
    }

    /// A peer that hangs, that isn't QEMU, that goes away: an error, and soon.
    #[test]
    fn strange_peers_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let answer = |bytes: &'static [u8], name: &'static str| {
            let listener = UnixListener::bind(dir.path().join(name)).unwrap();
            let server = thread::spawn(move || {
                let (mut peer, _) = listener.accept().unwrap();
                peer.write_all(bytes).unwrap();
                if bytes.is_empty() {
                    // Silent until the client gives up.
                    let mut rest = Vec::new();
                    peer.read_to_end(&mut rest).unwrap();
                }
            });
            let result = Qmp::connect(dir.path(), name, Duration::from_millis(200));
            server.join().unwrap();
            result.unwrap_err()
        };
        assert!(matches!(answer(b"", "silent"), Error::Timeout { .. }));
        assert!(matches!(answer(b"SSH-2.0\r\n", "ssh"), Error::Protocol(_)));
        assert!(matches!(answer(b"{\"QMP\": {", "cut"), Error::Io { .. }));
        assert!(matches!(
            Qmp::connect(dir.path(), "nobody", Duration::from_secs(1)),
            Err(Error::Io { .. })
        ));
    }

    #[test]
    fn a_long_path_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let fd = rustix::fs::open(&deep, OFlags::PATH, Mode::empty()).unwrap();
        use std::os::fd::AsRawFd as _;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/s", fd.as_raw_fd())).unwrap();
        connect_below(&deep, "s").unwrap();
        listener.accept().unwrap();
    }
}
