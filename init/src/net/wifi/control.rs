//! wpa_supplicant's global control interface: a datagram socket on which it is given
//! interfaces and tells how they fare.
//!
//! | datagram | |
//! |---|---|
//! | `IFNAME=wlan0 PING`, `DETACH`, `ATTACH`, `INTERFACE_ADD`, `INTERFACE_REMOVE` | a command of ours |
//! | `OK`, `PONG`, `FAIL`... | the answer to the last one |
//! | `IFNAME=wlan0 <3>CTRL-EVENT-...` | an event, once attached |
//! | empty | from another thread of ours: there is something to do |
//!
//! `INTERFACE_ADD` has the interface's name, its file and its driver behind it, with tabs
//! between them (wpa_supplicant's `wpa_supplicant_global_iface_add`).

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::phase::{Context, Failure};

/// wpa_supplicant's socket, in the directory of ours.
const THEIRS: &str = "control";
/// Ours, where it answers to.
const OURS: &str = "init";
/// For an answer: taking an interface means loading a driver's firmware at times.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest datagram that is of use here.
const LONGEST: usize = 4096;

/// What happened to an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It has joined the network of this number.
    Joined(usize),
    /// It has none any more.
    Left,
    /// The network of this number doesn't take the passphrase.
    WrongKey(usize),
    /// A station doesn't take the passphrase of WPA3; of which network isn't said.
    Rejected,
    /// The network of this number is given a rest after several failures.
    Resting(usize),
    /// None of the networks is in reach.
    NotFound,
}

/// Our end.
pub struct Control {
    socket: UnixDatagram,
    theirs: PathBuf,
    /// Events that came while an answer was waited for.
    events: VecDeque<(String, Event)>,
    /// Whether something was to be done meanwhile.
    woken: bool,
}

impl Control {
    /// Makes our socket in `directory`. Nothing need be at the other end yet.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn open(directory: &Path) -> Result<Self, Failure> {
        let ours = directory.join(OURS);
        crate::files::remove(&ours)?;
        Ok(Self {
            socket: UnixDatagram::bind(&ours).context(ours.display())?,
            theirs: directory.join(THEIRS),
            events: VecDeque::new(),
            woken: false,
        })
    }

    /// Makes the thread that waits in [`next`](Self::next) look up.
    pub fn wake(directory: &Path) {
        let sent = UnixDatagram::unbound().and_then(|s| s.send_to(&[], directory.join(OURS)));
        // It isn't waiting yet, or has its buffer full: it looks by itself.
        crate::ignore(sent);
    }

    /// Whether a command is done.
    ///
    /// # Errors
    /// Nobody listens, or answers.
    pub fn command(&mut self, command: &str) -> io::Result<bool> {
        self.socket.send_to(command.as_bytes(), &self.theirs)?;
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match self.receive(left)? {
                Some(text) if is_event(&text) => self.events.extend(parse(&text)),
                Some(text) if text.is_empty() => self.woken = true,
                Some(text) => return Ok(matches!(text.trim(), "OK" | "PONG")),
                None => {}
            }
        }
    }

    /// The next event that matters, with the interface's name; none when that takes longer, or
    /// there is something else to do.
    ///
    /// # Errors
    /// Those of recv(2).
    pub fn next(&mut self, patience: Duration) -> io::Result<Option<(String, Event)>> {
        if let Some(event) = self.events.pop_front() {
            return Ok(Some(event));
        }
        if std::mem::take(&mut self.woken) {
            return Ok(None);
        }
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match self.receive(left)? {
                Some(text) if text.is_empty() => return Ok(None),
                Some(text) => match parse(&text) {
                    None => {}
                    event => return Ok(event),
                },
                None => {}
            }
        }
    }

    fn receive(&mut self, patience: Duration) -> io::Result<Option<String>> {
        self.socket.set_read_timeout(Some(patience))?;
        let mut buffer = [0; LONGEST];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

fn is_event(text: &str) -> bool {
    text.starts_with("IFNAME=") || text.starts_with('<')
}

/// Parses an event; none of what matters here: nothing.
pub fn parse(text: &str) -> Option<(String, Event)> {
    let (interface, rest) = text.strip_prefix("IFNAME=")?.split_once(' ')?;
    let (_level, message) = rest.strip_prefix('<')?.split_once('>')?;
    let mut words = message.trim().split(' ');
    let name = words.next()?.strip_prefix("CTRL-EVENT-")?;
    let number = |key: &str| -> Option<usize> {
        let mut found = words.clone().filter_map(|word| {
            let word = word.trim_matches(['[', ']']);
            word.strip_prefix(key)?.strip_prefix('=')?.parse().ok()
        });
        found.next()
    };
    let event = match name {
        "CONNECTED" => Event::Joined(number("id")?),
        "DISCONNECTED" => Event::Left,
        "NETWORK-NOT-FOUND" => Event::NotFound,
        // 3: SAE (IEEE 802.11, 9.4.1.1). A network's name follows `id` and may hold anything.
        "AUTH-REJECT" if number("auth_type") == Some(3) => Event::Rejected,
        "SSID-TEMP-DISABLED" if message.ends_with(" reason=WRONG_KEY") => {
            Event::WrongKey(number("id")?)
        }
        "SSID-TEMP-DISABLED" => Event::Resting(number("id")?),
        _ => return None,
    };
    Some((interface.to_owned(), event))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_as_wpa_supplicant_writes_them() {
        let cases = [
            (
                "<3>CTRL-EVENT-CONNECTED - Connection to 02:00:00:00:01:00 completed [id=1 id_str=]",
                Some(Event::Joined(1)),
            ),
            (
                "<3>CTRL-EVENT-DISCONNECTED bssid=02:00:00:00:01:00 reason=3 locally_generated=1",
                Some(Event::Left),
            ),
            (
                "<3>CTRL-EVENT-SSID-TEMP-DISABLED id=0 ssid=\"a id=7 b\" auth_failures=1 duration=10 reason=WRONG_KEY",
                Some(Event::WrongKey(0)),
            ),
            (
                "<3>CTRL-EVENT-SSID-TEMP-DISABLED id=0 ssid=\"x reason=WRONG_KEY\" auth_failures=1 duration=10 reason=CONN_FAILED",
                Some(Event::Resting(0)),
            ),
            (
                "<3>CTRL-EVENT-AUTH-REJECT 02:00:00:00:01:00 auth_type=3 auth_transaction=2 status_code=1",
                Some(Event::Rejected),
            ),
            (
                "<3>CTRL-EVENT-AUTH-REJECT 02:00:00:00:01:00 auth_type=0 auth_transaction=2 status_code=1",
                None,
            ),
            ("<3>CTRL-EVENT-NETWORK-NOT-FOUND ", Some(Event::NotFound)),
            ("<3>CTRL-EVENT-SCAN-STARTED ", None),
            (
                "<3>Trying to associate with CTRL-EVENT-CONNECTED id=1",
                None,
            ),
        ];
        for (text, event) in cases {
            let parsed = parse(&format!("IFNAME=wlan0 {text}"));
            assert_eq!(parsed, event.map(|e| ("wlan0".into(), e)), "{text}");
            assert_eq!(parse(text), None, "of no interface");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,80}", tail in "[ -~]{0,60}") {
            parse(&text);
            parse(&format!("IFNAME=w <3>CTRL-EVENT-{tail}"));
            parse(&format!("IFNAME=w <3>CTRL-EVENT-CONNECTED {tail}"));
        }
    }
}
