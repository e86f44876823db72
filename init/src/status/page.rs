//! What the status page says, and how it is laid out.

use std::net::IpAddr;
use std::time::Duration;

use slipway_images::node::{ApiInfo, Boot, PhaseResult, ServiceState};

/// The service whose status is the cluster's.
const CLUSTER: &str = "clusterd";
/// Addresses that are shown.
const ADDRESSES: usize = 6;
/// Longest value, in characters: the rest of a longer one is cut.
const LONGEST: usize = 400;
/// Width of the keys' column.
const KEYS: usize = 14;

/// What doesn't change while the machine is up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Version, board, Kubernetes; or why they aren't known.
    pub title: String,
    /// The slot that runs, if it is known.
    pub slot: Option<String>,
}

/// The last thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What.
    pub what: String,
    /// How long ago.
    pub ago: Duration,
}

/// What of a page is news in a log: addresses, the cluster's state, the node API, the error.
pub type News = (Vec<String>, String, Option<ApiInfo>, Option<String>);

/// Everything that the page shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The image.
    pub image: Image,
    /// The machine's name.
    pub name: String,
    /// How the boot went and what runs.
    pub boot: Boot,
    /// What `noded` says of itself; none while it has said nothing.
    pub api: Option<ApiInfo>,
    /// The last error.
    pub trouble: Option<Trouble>,
}

impl Page {
    /// The cluster's state in its supervisor's words.
    fn cluster(&self) -> String {
        let unit = self.boot.services.iter().find(|s| s.name == CLUSTER);
        match unit {
            None => "none runs".to_owned(),
            Some(unit) => match (unit.state, unit.status.as_str()) {
                (ServiceState::Starting | ServiceState::Ready | ServiceState::Stopping, said)
                    if !said.is_empty() =>
                {
                    said.to_owned()
                }
                (state, _) => state.word().to_owned(),
            },
        }
    }

    /// Where the machine stands.
    fn state(&self) -> String {
        let boot = &self.boot;
        match (&boot.ending, boot.booted, boot.degraded.as_slice()) {
            (Some(ending), _, _) => ending.clone(),
            (None, true, []) => "booted".to_owned(),
            (None, true, failed) => format!("booted, degraded: {} failed", failed.join(", ")),
            (None, false, _) => {
                let after = boot.phases.last().map_or("", |phase| phase.name.as_str());
                format!("booting, after {after}")
            }
        }
    }

    /// Addresses with their interfaces, those that hold everywhere first.
    fn addresses(&self) -> Vec<String> {
        let mut all: Vec<_> = self.boot.addresses.iter().collect();
        all.sort_by_key(|a| {
            (
                matches!(a.address, IpAddr::V6(v6) if v6.is_unicast_link_local()),
                a.address,
            )
        });
        let mut lines: Vec<String> = (all.iter().take(ADDRESSES))
            .map(|a| format!("{} on {}", a.address, a.interface))
            .collect();
        match all.len() {
            0 => lines.push("none yet".to_owned()),
            n if n > ADDRESSES => lines.push(format!("and {} more", n - ADDRESSES)),
            _ => {}
        }
        lines
    }

    /// The values by their keys; a key that goes on is empty.
    fn rows(&self, ago: bool) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        let name = match &self.api {
            Some(api) => format!("{} ({})", self.name, api.mdns_name),
            None => self.name.clone(),
        };
        rows.push(("name", name));
        for (i, address) in self.addresses().into_iter().enumerate() {
            rows.push((if i == 0 { "address" } else { "" }, address));
        }
        let slot = self.image.slot.as_deref().unwrap_or("unknown");
        rows.push(("image", format!("{}, slot {slot}", self.image.title)));
        rows.push(("state", self.state()));
        rows.push(("cluster", self.cluster()));
        match &self.api {
            Some(api) => {
                rows.push((
                    "node API",
                    format!("port {}, certificate SHA-256", api.port),
                ));
                let fingerprint = api.fingerprint.as_deref().unwrap_or("unknown");
                rows.push(("", fingerprint.to_owned()));
            }
            None => rows.push(("node API", "not up yet".to_owned())),
        }
        rows.push((
            "last error",
            match &self.trouble {
                None => "none".to_owned(),
                Some(Trouble { what, ago: past }) if ago => {
                    format!("{} ({})", what, since(*past))
                }
                Some(trouble) => trouble.what.clone(),
            },
        ));
        rows.into_iter()
            .map(|(key, value)| (key, plain(&value)))
            .collect()
    }

    /// As lines for a log: no more than what matters, and no times, so that it is the same as
    /// long as nothing has changed.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        (self.rows(false).iter())
            .map(|(key, value)| format!("  {key:KEYS$}{value}"))
            .collect()
    }

    /// What a line in a log is worth: those parts whose change is news. The cluster's words
    /// change all the time while it starts, and are said as they come.
    #[must_use]
    pub fn news(&self) -> News {
        let cluster = self.cluster();
        let word = cluster.split(':').next().unwrap_or_default().to_owned();
        let trouble = self.trouble.as_ref().map(|t| t.what.clone());
        (self.addresses(), word, self.api.clone(), trouble)
    }

    /// As a screen of this size, drawn over whatever is there.
    ///
    /// | sequence (console_codes(4)) | |
    /// |---|---|
    /// | CAN | ends a sequence that was cut off |
    /// | ESC [ 0 m, ESC [ ? 25 l | plain letters, no cursor |
    /// | ESC [ H, ESC [ K, ESC [ J | to the top; clear the rest of the line, of the screen |
    #[must_use]
    pub fn screen(&self, columns: usize, rows: usize) -> String {
        let width = columns.saturating_sub(2).max(KEYS + 10);
        let mut lines = vec![String::new(), "  Slipway".to_owned(), String::new()];
        for (key, value) in self.rows(true) {
            for (i, part) in wrapped(&value, width - KEYS - 2).into_iter().enumerate() {
                let key = if i == 0 { key } else { "" };
                lines.push(format!("  {key:KEYS$}{part}"));
            }
        }
        lines.push(String::new());
        lines.push("  Alt-F2: messages of the kernel; Alt-F1: back".to_owned());
        // The last line stays free, so that nothing scrolls.
        lines.truncate(rows.saturating_sub(1).max(1));
        let mut out = String::from("\x18\x1b[0m\x1b[?25l\x1b[H");
        for line in &lines {
            let cut: String = line.chars().take(columns.saturating_sub(1)).collect();
            out.push_str(&cut);
            out.push_str("\x1b[K\r\n");
        }
        out.push_str("\x1b[J");
        out
    }
}

/// A value cut into parts of a width, at blanks where there are some.
fn wrapped(value: &str, width: usize) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = value.trim();
    // Only ASCII is left in it: bytes are characters.
    while rest.len() > width {
        let head = rest.get(..width).unwrap_or(rest);
        let at = head
            .rfind(' ')
            .filter(|at| *at > width / 2)
            .unwrap_or(width);
        let (part, more) = rest.split_at(at);
        parts.push(part.trim_end().to_owned());
        rest = more.trim_start();
    }
    parts.push(rest.to_owned());
    parts
}

/// Outside text as a console can show it and nothing more: what isn't printable ASCII is
/// escaped, and what is too long is cut.
fn plain(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if out.len() >= LONGEST {
            out.push_str("...");
            break;
        }
        match c {
            ' '..='~' => out.push(c),
            c => out.extend(c.escape_default()),
        }
    }
    out
}

/// A time that has passed, in words.
fn since(past: Duration) -> String {
    match past.as_secs() {
        0..60 => "just now".to_owned(),
        s @ 60..7200 => format!("{} min ago", s / 60),
        s @ 7200..172_800 => format!("{} hours ago", s / 3600),
        s => format!("{} days ago", s / 86_400),
    }
}

/// What has gone wrong between two states: a phase that failed, a service that ended or
/// says that something is.
#[must_use]
pub fn trouble(before: &Boot, now: &Boot) -> Option<String> {
    let phases = now
        .phases
        .iter()
        .filter(|phase| phase.result == PhaseResult::Failed && !before.phases.contains(phase));
    let phases = phases.map(|phase| format!("{}: {}", phase.name, phase.note));
    let services = now.services.iter().filter_map(|service| {
        let old = before.services.iter().find(|s| s.name == service.name);
        if service.restarts > old.map_or(0, |s| s.restarts) {
            let times = service.restarts;
            return Some(format!(
                "{} ended unasked ({times} times since the boot): slipway node logs {}",
                service.name, service.name
            ));
        }
        let said = old.is_none_or(|old| old.status != service.status);
        let degraded = said && service.status.starts_with("degraded");
        degraded.then(|| format!("{}: {}", service.name, service.status))
    });
    phases.chain(services).last()
}
