//! Services' output: a pipe, a thread that drains it, a file that is rotated.
//!
//! The thread always drains the pipe, even when the disk is full or read-only, so that a
//! service never hangs on its own output. What could not be written is counted.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A file longer than this is rotated, in bytes.
const MAX_BYTES: u64 = 8 << 20;
/// Older files kept: `.1` to this.
const KEEP: u32 = 3;
/// Lines kept for the console when a service ends.
const TAIL: usize = 3;

/// A log file that rotates by size: `x.log`, `x.log.1` (newer) to `x.log.3`.
pub struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    max: u64,
    lost: u64,
}

impl LogFile {
    /// A file at `path` with at most `max` bytes; it is opened with the first write.
    pub fn new(path: PathBuf, max: u64) -> Self {
        Self {
            path,
            file: None,
            size: 0,
            max,
            lost: 0,
        }
    }

    fn open(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o640)
                .open(&self.path)?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        Ok(())
    }

    fn numbered(&self, n: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        if n > 0 {
            name.push(format!(".{n}"));
        }
        name.into()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        for n in (0..KEEP).rev() {
            match fs::rename(self.numbered(n), self.numbered(n + 1)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        self.open()
    }

    /// Writes, after rotating if the file would become too long. Counts what is lost.
    pub fn write(&mut self, bytes: &[u8]) {
        if self.try_write(bytes).is_err() {
            self.lost += bytes.len() as u64;
            // Perhaps the disk comes back: open it again with the next write.
            self.file = None;
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.open()?;
        if self.size > 0 && self.size + bytes.len() as u64 > self.max {
            self.rotate()?;
        }
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("not open"));
        };
        if self.lost > 0 {
            let note = format!("--- {} bytes could not be written ---\n", self.lost);
            file.write_all(note.as_bytes())?;
            self.lost = 0;
        }
        file.write_all(bytes)?;
        self.size += bytes.len() as u64;
        Ok(())
    }
}

/// The capturing of one service's output, over all its runs.
pub struct Capture {
    writer: PipeWriter,
    path: PathBuf,
    tail: Arc<Mutex<VecDeque<String>>>,
}

impl Capture {
    /// Starts the thread for the service `name`, with its file in `directory`.
    ///
    /// # Errors
    /// When there can be no pipe or thread.
    pub fn start(name: &str, directory: &Path) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let path = directory.join(format!("{name}.log"));
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let (file, lines) = (LogFile::new(path.clone(), MAX_BYTES), Arc::clone(&tail));
        std::thread::Builder::new()
            .name(format!("log {name}"))
            .stack_size(128 << 10)
            .spawn(move || drain(reader, file, &lines))?;
        Ok(Self { writer, path, tail })
    }

    /// An end of the pipe for a child.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn writer(&self) -> io::Result<PipeWriter> {
        self.writer.try_clone()
    }

    /// Where the output goes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last lines.
    pub fn tail(&self) -> Vec<String> {
        let lines = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().cloned().collect()
    }

    /// Writes a line of our own between the service's.
    pub fn note(&self, text: &str) {
        let line = format!("--- slipway: {text} (at {}) ---\n", crate::clock::now());
        // A full pipe means that the thread is behind a slow disk: PID 1 does not wait for it.
        let fd = std::os::fd::AsFd::as_fd(&self.writer);
        let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLOUT)];
        if nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO) == Ok(1) {
            drop((&self.writer).write_all(line.as_bytes()));
        }
    }
}

fn drain(mut reader: PipeReader, mut file: LogFile, tail: &Mutex<VecDeque<String>>) {
    let mut buffer = vec![0; 32 << 10];
    let mut partial = String::new();
    loop {
        let bytes = match reader.read(&mut buffer) {
            Ok(0) => return,
            Ok(n) => buffer.get(..n).unwrap_or_default(),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        file.write(bytes);
        partial.push_str(&String::from_utf8_lossy(bytes));
        let mut lines: Vec<&str> = partial.split('\n').collect();
        let rest = lines.pop().unwrap_or_default();
        let rest: String = rest.chars().take(1000).collect();
        let mut kept = tail.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = |line: &&&str| !line.starts_with("--- slipway") && !line.trim().is_empty();
        for line in lines.iter().filter(ours) {
            if kept.len() == TAIL {
                kept.pop_front();
            }
            kept.push_back(line.chars().take(300).collect());
        }
        drop(kept);
        partial = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotation_keeps_three() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = LogFile::new(path.clone(), 10);
        for n in 0..6 {
            log.write(format!("line {n}\n").as_bytes());
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "line 5\n");
        assert_eq!(
            fs::read_to_string(dir.path().join("x.log.1")).unwrap(),
            "line 4\n"
        );
        assert_eq!(
            fs::read_to_string(dir.path().join("x.log.3")).unwrap(),
            "line 2\n"
        );
        assert_eq!(crate::files::names(dir.path()).len(), 4);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_said_later() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("later");
        let mut log = LogFile::new(sub.join("x.log"), 1000);
        log.write(b"12345");
        fs::create_dir(&sub).unwrap();
        log.write(b"ok\n");
        let text = fs::read_to_string(sub.join("x.log")).unwrap();
        assert_eq!(text, "--- 5 bytes could not be written ---\nok\n");
    }

    #[test]
    fn an_existing_file_is_continued() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        fs::write(&path, "before\n").unwrap();
        LogFile::new(path.clone(), 1000).write(b"after\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "before\nafter\n");
    }
}
