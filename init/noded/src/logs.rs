//! Logs: of the services, of the cluster's components, of the kernel and of `init`.
//!
//! `since` goes by the time that lines say of themselves, in the forms that our components
//! write: RFC 3339 at the start or as `time="..."`, klog's `I0102 15:04:05`, and the notes of
//! `init`. A line without a time belongs to the last one that has it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::StatusCode;
use hyper::body::Bytes;
use nix::fcntl::OFlag;
use slipway_images::node::api::Logs;
use tokio::sync::mpsc::Sender;

use crate::answer::{Outcome, Refusal, flowing, json};
use crate::notice;
use crate::paths::Paths;
use crate::routes::Call;
use crate::tail::{self, Sink, Stamp, Wish};

/// The kernel's log, and in it what `init` says.
const KERNEL: &str = "kernel";
const INIT: &str = "init";
/// How `init`'s lines begin there.
const INIT_LINE: &str = "slipway: ";
/// The kernel's log as records (Documentation/ABI/testing/dev-kmsg).
const KMSG: &str = "dev/kmsg";
const KMSG_EVERY: Duration = Duration::from_millis(500);

/// A body as a sink.
pub struct Body(pub Sender<Bytes>);

impl Sink for Body {
    fn take(&mut self, lines: Vec<u8>) -> bool {
        self.0.blocking_send(lines.into()).is_ok()
    }

    fn is_wanted(&self) -> bool {
        !self.0.is_closed()
    }
}

/// What a call wishes of a file of lines.
///
/// # Errors
/// 400 for parameters that make no sense.
pub fn wish(call: &Call) -> Result<Wish, Refusal> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |passed| passed.as_secs());
    let lines = call.number("lines")?;
    Ok(Wish {
        lines: lines.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
        since: call.number("since")?.map(|ago| now.saturating_sub(ago)),
        follow: call.flag("follow")?,
    })
}

/// Answers with what is wished of a file.
///
/// # Errors
/// 503 when too many follow already.
pub fn flow(call: &Call, path: PathBuf, stamp: Stamp, kind: &'static str, wish: Wish) -> Outcome {
    let (sender, answer) = flowing(kind, call.app.flow()?);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = tail::read(&path, stamp, wish, &mut Body(sender)) {
            notice!("{}: {error}", path.display());
        }
    });
    Ok(answer)
}

/// `GET /v1/logs`
pub async fn list(call: Call) -> Outcome {
    json(&Logs {
        names: names(&call.app.paths),
    })
}

/// Every log's name.
#[must_use]
pub fn names(paths: &Paths) -> Vec<String> {
    let mut names = vec![KERNEL.to_owned(), INIT.to_owned()];
    for directory in paths.logs() {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        names.extend(entries.filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            Some(name.strip_suffix(".log")?.to_owned())
        }));
    }
    names.sort();
    names.dedup();
    names
}

/// The file of a log that exists.
#[must_use]
pub fn file(paths: &Paths, name: &str) -> Option<PathBuf> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    // It comes from outside and becomes part of a path.
    if !name.chars().all(plain) {
        return None;
    }
    paths
        .logs()
        .into_iter()
        .map(|directory| directory.join(format!("{name}.log")))
        .find(|path| path.is_file())
}

/// `GET /v1/logs/{name}`
pub async fn read(call: Call) -> Outcome {
    let wish = wish(&call)?;
    let name = call.segment.clone();
    if name == KERNEL || name == INIT {
        let (sender, answer) = flowing("text/plain; charset=utf-8", call.app.flow()?);
        let path = call.app.paths.at(KMSG);
        let only = if name == INIT { INIT_LINE } else { "" };
        tokio::task::spawn_blocking(move || kernel(&path, only, wish, &mut Body(sender)));
        return Ok(answer);
    }
    let Some(path) = file(&call.app.paths, &name) else {
        let known = names(&call.app.paths).join(", ");
        let error = format!("there is no log `{name}`; there are {known}");
        return Err(Refusal::new(StatusCode::NOT_FOUND, error));
    };
    flow(&call, path, stamp, "text/plain; charset=utf-8", wish)
}

/// Gives the kernel's log to the sink: `seconds.micros message`, seconds since the boot.
pub fn kernel(path: &Path, only: &str, wish: Wish, sink: &mut dyn Sink) {
    let flags = OFlag::O_NONBLOCK.bits();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) => {
            sink.take(format!("{}: {error}\n", path.display()).into_bytes());
            return;
        }
    };
    // A record's time is since the boot.
    let ago = wish.since.map(|since| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |passed| passed.as_secs())
            .saturating_sub(since)
    });
    let uptime = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let uptime = uptime.map_or(0, |t| u64::try_from(t.tv_sec()).unwrap_or(0));
    let oldest = ago.map_or(0, |ago| uptime.saturating_sub(ago));
    let mut record = vec![0; 8 << 10];
    let mut batch: Vec<String> = Vec::new();
    loop {
        match file.read(&mut record) {
            Ok(0) => break,
            Ok(n) => {
                let text = String::from_utf8_lossy(record.get(..n).unwrap_or_default());
                if let Some((at, message)) = kmsg(&text)
                    && at / 1_000_000 >= oldest
                    && message.starts_with(only)
                {
                    batch.push(kernel_line(at, message));
                }
            }
            // Records that were overwritten before they were read.
            Err(error) if error.raw_os_error() == Some(nix::libc::EPIPE) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(_) => break,
        }
    }
    let skip = wish.lines.map_or(0, |n| batch.len().saturating_sub(n));
    let first: String = batch.drain(..).skip(skip).collect();
    if !first.is_empty() && !sink.take(first.into_bytes()) {
        return;
    }
    while wish.follow && sink.is_wanted() {
        match file.read(&mut record) {
            Ok(n) if n > 0 => {
                let text = String::from_utf8_lossy(record.get(..n).unwrap_or_default());
                if let Some((at, message)) = kmsg(&text)
                    && message.starts_with(only)
                    && !sink.take(kernel_line(at, message).into_bytes())
                {
                    return;
                }
            }
            _ => std::thread::sleep(KMSG_EVERY),
        }
    }
}

/// A record as a line, from its time in microseconds.
fn kernel_line(at: u64, message: &str) -> String {
    format!("{}.{:06} {message}\n", at / 1_000_000, at % 1_000_000)
}

/// A record's time in microseconds since the boot, and its message.
fn kmsg(record: &str) -> Option<(u64, &str)> {
    let (head, message) = record.split_once(';')?;
    let at = head.split(',').nth(2)?.parse().ok()?;
    Some((at, message.lines().next().unwrap_or_default()))
}

/// When a line says that it was written, in seconds since 1970.
#[must_use]
pub fn stamp(line: &[u8]) -> Option<u64> {
    // Times are at the start; a line that quotes one further on is not of that time.
    let head = line.get(..line.len().min(80)).unwrap_or_default();
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start();
    if let Some(note) = text.strip_prefix("--- slipway: ") {
        let (_, at) = note.rsplit_once("(at ")?;
        return at.split(')').next()?.parse().ok();
    }
    if let Some(logfmt) = text.strip_prefix("time=") {
        return rfc3339(logfmt.trim_start_matches('"'));
    }
    match text.as_bytes().first()? {
        b'0'..=b'9' => rfc3339(text),
        b'I' | b'W' | b'E' | b'F' => klog(text),
        _ => None,
    }
}

fn digits(text: &str, from: usize, length: usize) -> Option<i64> {
    let part = text.get(from..from + length)?;
    part.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    part.parse().ok()
}

/// `2026-11-25T02:51:02`, with whatever follows and a zone that is UTC on a node.
fn rfc3339(text: &str) -> Option<u64> {
    let separators = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    let bytes = text.as_bytes();
    if !separators.iter().all(|(at, c)| bytes.get(*at) == Some(c)) {
        return None;
    }
    let date = (
        digits(text, 0, 4)?,
        digits(text, 5, 2)?,
        digits(text, 8, 2)?,
    );
    let time = (
        digits(text, 11, 2)?,
        digits(text, 14, 2)?,
        digits(text, 17, 2)?,
    );
    u64::try_from(days(date) * 86_400 + time.0 * 3600 + time.1 * 60 + time.2).ok()
}

/// `I1125 02:51:02.123456`: no year; it is this one, or the last if that were to come.
fn klog(text: &str) -> Option<u64> {
    if text.as_bytes().get(5) != Some(&b' ') || text.as_bytes().get(8) != Some(&b':') {
        return None;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let now = i64::try_from(now).ok()?;
    let (month, day) = (digits(text, 1, 2)?, digits(text, 3, 2)?);
    let time = (
        digits(text, 6, 2)?,
        digits(text, 9, 2)?,
        digits(text, 12, 2)?,
    );
    let at = |year| days((year, month, day)) * 86_400 + time.0 * 3600 + time.1 * 60 + time.2;
    let year = 1970 + now / 31_556_952;
    // A day of patience: clocks are corrected.
    let found = [year + 1, year, year - 1]
        .map(at)
        .into_iter()
        .find(|at| *at <= now + 86_400)?;
    u64::try_from(found).ok()
}

/// Days from 1970-01-01 to a date of the Gregorian calendar (Howard Hinnant's algorithm).
fn days((year, month, day): (i64, i64, i64)) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_in_the_forms_that_components_write() {
        let at = Some(1_795_569_662);
        for line in [
            "2026-11-25T01:21:02.5Z up",
            "2026-11-25 01:21:02 up",
            "time=\"2026-11-25T01:21:02.123456789Z\" level=info msg=x",
            "--- slipway: started, pid 7 (at 1795569662) ---",
        ] {
            assert_eq!(stamp(line.as_bytes()), at, "{line}");
        }
        for line in [
            "",
            "clusterd: up",
            "Error: at 2026-11-25T01:21:02",
            "12345678901234567890",
        ] {
            assert_eq!(stamp(line.as_bytes()), None, "{line}");
        }
        assert_eq!(days((1970, 1, 1)), 0);
        assert_eq!(days((2000, 3, 1)), 11_017);
    }

    #[test]
    fn klog_is_of_the_last_twelve_months() {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_secs();
        for line in ["I0101 00:00:00.000000 x", "E1231 23:59:59.000000 x"] {
            let at = stamp(line.as_bytes()).unwrap();
            assert!(
                at <= now + 86_400 && now - at.min(now) < 367 * 86_400,
                "{line}: {at}"
            );
        }
    }

    #[test]
    fn kernel_records() {
        let record = "6,339,5140900,-;NET: Registered PF_INET\n SUBSYSTEM=x\n";
        assert_eq!(kmsg(record), Some((5_140_900, "NET: Registered PF_INET")));
        assert_eq!(kmsg("nonsense"), None);
    }

    proptest! {
        #[test]
        fn whatever_a_service_writes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(stamp(&bytes).is_none_or(|at| at < 1 << 40));
            let text = String::from_utf8_lossy(&bytes);
            prop_assert!(kmsg(&text).is_none_or(|(_, line)| !line.contains('\n')));
        }

        #[test]
        fn whatever_looks_like_a_time(text in "[IWEF2][0-9]{3}[- ][0-9:. T-]{0,30}") {
            prop_assert!(stamp(text.as_bytes()).is_none_or(|at| at < 1 << 40));
        }
    }
}
