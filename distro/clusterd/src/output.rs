//! What components say: into one file each, rotated by size, with the last lines in memory.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A file is set aside (`NAME.log.1`) when it has grown to this size, in bytes.
const FILE_LIMIT: u64 = 8 << 20;
/// Lines are cut at this length, in bytes.
const LINE_LIMIT: u64 = 16 << 10;
/// Lines kept for error messages.
const KEPT: usize = 8;

/// The last lines of a component.
#[derive(Debug, Clone, Default)]
pub struct Tail(Arc<Mutex<VecDeque<String>>>);

impl Tail {
    /// The line that most likely says why a component ended: its last error, or its last line.
    pub fn reason(&self) -> Option<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let error = |line: &&String| {
            // klog's severity letter, cobra's and logrus's way of saying it.
            line.starts_with(['E', 'F']) || line.contains("level=fatal") || line.contains("rror:")
        };
        let line = lines.iter().rev().find(error).or_else(|| lines.back())?;
        // Without klog's header (`E1124 15:42:36.265469     131 run.go:72] `).
        let header = line
            .split_once("] ")
            .filter(|(header, _)| header.len() < 60);
        let text = header.map_or(line.as_str(), |(_, text)| text);
        Some(text.chars().take(300).collect())
    }

    fn push(&self, line: &[u8]) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(String::from_utf8_lossy(line).trim_end().to_owned());
    }

    fn clear(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Copies a component's output into its file until it ends, on a thread of its own. A disk
/// that is full must not stop the component: then lines are read and dropped.
pub fn capture(output: impl Read + Send + 'static, path: PathBuf, tail: Tail) -> io::Result<()> {
    tail.clear();
    let name = path
        .file_stem()
        .map(|name| name.to_string_lossy().into_owned());
    std::thread::Builder::new()
        .name(name.unwrap_or_default())
        .spawn(move || {
            let mut log = Rotating::new(path);
            let mut output = BufReader::new(output);
            let mut line = Vec::new();
            loop {
                line.clear();
                match Read::take(&mut output, LINE_LIMIT).read_until(b'\n', &mut line) {
                    Ok(0) | Err(_) => return,
                    Ok(_) => {
                        tail.push(&line);
                        log.write(&line);
                    }
                }
            }
        })?;
    Ok(())
}

struct Rotating {
    path: PathBuf,
    file: Option<(File, u64)>,
}

impl Rotating {
    fn new(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    fn write(&mut self, line: &[u8]) {
        if let Err(error) = self.try_write(line) {
            // Said once per failure of the open file, on the service's own log.
            if self.file.take().is_some() {
                crate::log::info!("can't write {}: {error}", self.path.display());
            }
        }
    }

    fn try_write(&mut self, line: &[u8]) -> io::Result<()> {
        if self
            .file
            .as_ref()
            .is_some_and(|(_, size)| *size >= FILE_LIMIT)
        {
            self.file = None;
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
        }
        let (file, size) = match &mut self.file {
            Some(open) => open,
            none => none.insert(open(&self.path)?),
        };
        file.write_all(line)?;
        *size += line.len() as u64;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let size = file.metadata()?.len();
    Ok((file, size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_rotated_and_the_reason_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let mut log = Rotating::new(path.clone());
        let line = vec![b'a'; 1 << 20];
        for _ in 0..9 {
            log.write(&line);
        }
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 1 << 20);
        assert_eq!(
            std::fs::metadata(path.with_extension("log.1"))
                .unwrap()
                .len(),
            8 << 20
        );

        let tail = Tail::default();
        tail.push(b"I1 fine\n");
        assert_eq!(tail.reason().unwrap(), "I1 fine");
        tail.push(b"E1124 15:42:36.265469     131 run.go:72] port taken\n");
        tail.push(b"I1 bye\n");
        assert_eq!(tail.reason().unwrap(), "port taken");
    }

    #[test]
    fn an_unwritable_file_does_not_stop_reading() {
        let mut log = Rotating::new(PathBuf::from("/nonexistent/x.log"));
        log.write(b"one\n");
        log.write(b"two\n");
    }
}
