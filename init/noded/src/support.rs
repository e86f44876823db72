//! The support bundle: a tar.gz of what helps to find out what is wrong, without secrets.
//!
//! Every text goes through [`Redactor`]; the seed is taken in its redacted form besides. What
//! can't be read is named in `missing.txt`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Bytes;
use hyper::header::{CONTENT_DISPOSITION, HeaderValue};
use slipway_images::node;
use slipway_images::seed::url::SeedUrl;
use slipway_init::seed::datasource;
use tokio::sync::mpsc::Sender;

use crate::answer::{Outcome, flowing};
use crate::identity::read_seed;
use crate::logs;
use crate::paths::Paths;
use crate::redact::Redactor;
use crate::routes::Call;
use crate::tail::{Sink, Wish};
use crate::{audit, notice, status};

/// Most that is taken of the end of a file, in bytes.
const FILE_LIMIT: u64 = 2 << 20;

/// Files taken as they are, below the root.
const FILES: [&str; 14] = [
    "proc/cmdline",
    "proc/cpuinfo",
    "proc/loadavg",
    "proc/meminfo",
    "proc/modules",
    "proc/net/dev",
    "proc/net/route",
    "proc/partitions",
    "proc/pressure/memory",
    "proc/self/mountinfo",
    "etc/resolv.conf",
    node::CLUSTER_STATUS_FILE,
    node::STATUS_FILE,
    "usr/lib/slipway/image.json",
];

/// `GET /v1/support`
pub async fn bundle(call: Call) -> Outcome {
    let (sender, mut answer) = flowing("application/gzip", call.app.flow()?);
    audit::note(&call, "took a support bundle");
    let name = call.app.name();
    let disposition = format!("attachment; filename=\"{name}.tar.gz\"");
    if let Ok(value) = HeaderValue::try_from(disposition) {
        answer.headers_mut().insert(CONTENT_DISPOSITION, value);
    }
    let paths = call.app.paths.clone();
    tokio::task::spawn_blocking(move || {
        let out = Out {
            sender,
            buffer: Vec::new(),
        };
        // A client that has hung up is the usual reason.
        if let Err(error) = write(&paths, name, out) {
            notice!("support bundle: {error}");
        }
    });
    Ok(answer)
}

/// A body to write to.
struct Out {
    sender: Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= 32 << 10 {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.buffer);
        self.sender
            .blocking_send(bytes.into())
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// What is secret in the URL of a seed, which the kernel's command line shows, and with it the
/// kernel's log.
fn url_secrets(paths: &Paths) -> Vec<String> {
    let line = std::fs::read_to_string(paths.at("proc/cmdline")).unwrap_or_default();
    let source = datasource::parse(&line, &paths.at("sys/class/dmi/id"));
    let url = source.ok().flatten().and_then(|source| source.url);
    url.as_ref().map(SeedUrl::secrets).unwrap_or_default()
}

/// Writes the bundle to `out`.
fn write<W: Write>(paths: &Paths, name: String, out: W) -> io::Result<()> {
    let seed = read_seed(paths);
    let secrets = seed.as_ref().and_then(|seed| seed.secrets().ok());
    let mut secrets = secrets.unwrap_or_default();
    secrets.extend(url_secrets(paths));
    let mut bundle = Bundle {
        tar: tar::Builder::new(GzEncoder::new(out, Compression::fast())),
        redactor: Redactor::new(&secrets),
        name: name.clone(),
        now: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |passed| passed.as_secs()),
        missing: BTreeMap::new(),
    };
    let status = status::gather(paths, name);
    bundle.text("status.json", &serde_json::to_string_pretty(&status)?)?;
    if let Some(seed) = seed.and_then(|seed| seed.to_redacted_json().ok()) {
        bundle.text("seed.json", &format!("{seed:#}"))?;
    }
    let mut kernel = Kept(Vec::new());
    logs::kernel(&paths.at("dev/kmsg"), "", Wish::default(), &mut kernel);
    bundle.text("kernel.log", &String::from_utf8_lossy(&kernel.0))?;
    for file in FILES {
        bundle.file(file, &paths.at(file))?;
    }
    let events = paths.events();
    bundle.file("events.jsonl.1", &node::events_aside(&events))?;
    bundle.file("events.jsonl", &events)?;
    for log in logs::names(paths) {
        if let Some(path) = logs::file(paths, &log) {
            bundle.file(&format!("logs/{log}.log"), &path)?;
        }
    }
    bundle.finish()
}

/// The kernel's log in memory: its ring is small.
struct Kept(Vec<u8>);

impl Sink for Kept {
    fn take(&mut self, lines: Vec<u8>) -> bool {
        self.0.extend(lines);
        true
    }

    fn is_wanted(&self) -> bool {
        true
    }
}

struct Bundle<W: Write> {
    tar: tar::Builder<GzEncoder<W>>,
    redactor: Redactor,
    /// The directory that everything is in.
    name: String,
    now: u64,
    missing: BTreeMap<String, String>,
}

impl<W: Write> Bundle<W> {
    fn text(&mut self, path: &str, text: &str) -> io::Result<()> {
        let text = self.redactor.text(text);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.now);
        let path = format!("{}/{path}", self.name);
        self.tar.append_data(&mut header, path, text.as_bytes())
    }

    /// The end of a file; one that can't be read is noted.
    fn file(&mut self, name: &str, path: &Path) -> io::Result<()> {
        match end_of(path) {
            Ok(text) => self.text(name, &text),
            Err(error) => {
                self.missing.insert(name.to_owned(), error.to_string());
                Ok(())
            }
        }
    }

    fn finish(mut self) -> io::Result<()> {
        let missing: String = self
            .missing
            .iter()
            .map(|(name, why)| format!("{name}: {why}\n"))
            .collect();
        self.text("missing.txt", &missing)?;
        self.tar.into_inner()?.finish()?.flush()
    }
}

fn end_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut cut = false;
    // Files of /proc say that they are empty.
    if length > FILE_LIMIT {
        file.seek(SeekFrom::Start(length - FILE_LIMIT))?;
        cut = true;
    }
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // What begins within a line begins perhaps within a secret.
    match text.split_once('\n') {
        Some((_, whole)) if cut => Ok(whole.to_owned()),
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret_in_a_seeds_url_does_not_leave_the_node() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("proc")).unwrap();
        std::fs::create_dir_all(root.path().join("sys/class/dmi/id")).unwrap();
        std::fs::write(root.path().join("sys/class/dmi/id/product_uuid"), "u1").unwrap();
        let line = "quiet ds=nocloud;s=https://ann:hunter22@h/__dmi.system-uuid__/?key=abcdef12&f=";
        std::fs::write(root.path().join("proc/cmdline"), line).unwrap();
        let paths = Paths::new(root.path(), None);
        let shown = Redactor::new(&url_secrets(&paths)).text(line);
        assert!(
            !shown.contains("hunter22") && !shown.contains("abcdef12"),
            "{shown}"
        );
        assert!(shown.contains("quiet ds=nocloud;s=https://"), "{shown}");
    }
}
