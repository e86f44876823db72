//! Reading files of lines that grow and are rotated by renaming (`x`, `x.1`, `x.2`, ...): the
//! last lines, what is not older than a moment, and what comes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest line that is kept together, in bytes.
const LINE_LIMIT: u64 = 64 << 10;
/// Most bytes of last lines that are held in memory.
const LAST_LIMIT: usize = 4 << 20;
/// How often a file is looked at for more.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What of a file is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// At most so many of the last lines.
    pub lines: Option<usize>,
    /// Nothing older than this, in seconds since 1970.
    pub since: Option<u64>,
    /// And what comes.
    pub follow: bool,
}

/// Who gets the lines.
pub trait Sink {
    /// Takes whole lines; false once nobody listens any more.
    fn take(&mut self, lines: Vec<u8>) -> bool;
    /// Whether somebody still listens.
    fn is_wanted(&self) -> bool;
}

/// Tells when a line was written, in seconds since 1970, if it says so.
pub type Stamp = fn(&[u8]) -> Option<u64>;

/// Gives what is wished of the file at `path` and its predecessors to `sink`. A file that
/// isn't there is empty, and may come.
///
/// # Errors
/// Those of reading.
pub fn read(path: &Path, stamp: Stamp, wish: Wish, sink: &mut dyn Sink) -> io::Result<()> {
    // Opened first: what is appended or rotated meanwhile is found by following this one.
    let mut live = open(path)?;
    let mut older: Vec<File> = Vec::new();
    for n in 1.. {
        match open(&numbered(path, n))? {
            Some(file) => older.push(file),
            None => break,
        }
    }
    let mut selection = Selection {
        stamp,
        since: wish.since,
        last: wish.lines.map(|n| (n, VecDeque::new())),
        held: 0,
        recent: wish.since.is_none(),
        batch: Vec::new(),
        sink,
    };
    for file in older.iter().rev() {
        if !selection.all_of(file)? {
            return Ok(());
        }
    }
    let mut partial = Vec::new();
    if let Some(file) = &live
        && !selection.whole_lines_of(file, &mut partial)?
    {
        return Ok(());
    }
    if !wish.follow {
        // A last line without its end is one, too.
        if !partial.is_empty() {
            selection.line(std::mem::take(&mut partial));
        }
        selection.finish();
        return Ok(());
    }
    if !selection.finish() {
        return Ok(());
    }
    selection.last = None;
    while selection.sink.is_wanted() {
        // Looked for before it is read to its end: nothing is appended to it after its rename.
        let replaced = match (&live, open(path)?) {
            (Some(old), Some(new)) if same(old, &new)? => None,
            (_, new) => new,
        };
        if let Some(file) = &live
            && !selection.whole_lines_of(file, &mut partial)?
        {
            return Ok(());
        }
        if !selection.flush() {
            return Ok(());
        }
        match replaced {
            Some(new) => live = Some(new),
            None => std::thread::sleep(LOOK_EVERY),
        }
    }
    Ok(())
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn same(a: &File, b: &File) -> io::Result<bool> {
    let (a, b) = (a.metadata()?, b.metadata()?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

fn numbered(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}

struct Selection<'a> {
    stamp: Stamp,
    since: Option<u64>,
    /// How many last lines are wanted, and those so far.
    last: Option<(usize, VecDeque<Vec<u8>>)>,
    /// Bytes in `last`.
    held: usize,
    /// The last line with a time was not too old: lines without one belong to it.
    recent: bool,
    batch: Vec<u8>,
    sink: &'a mut dyn Sink,
}

impl Selection<'_> {
    /// Takes a file to its end. Gives whether to go on.
    fn all_of(&mut self, file: &File) -> io::Result<bool> {
        let mut partial = Vec::new();
        let wanted = self.whole_lines_of(file, &mut partial)?;
        if !partial.is_empty() {
            self.line(partial);
        }
        Ok(wanted)
    }

    /// Takes the whole lines from where the file stands; what has no end yet is left in
    /// `partial` for the next time.
    fn whole_lines_of(&mut self, file: &File, partial: &mut Vec<u8>) -> io::Result<bool> {
        let mut reader = BufReader::with_capacity(64 << 10, file);
        loop {
            let room = LINE_LIMIT.saturating_sub(partial.len() as u64).max(1);
            let read = reader.by_ref().take(room).read_until(b'\n', partial)?;
            if read == 0 {
                return Ok(true);
            }
            if partial.ends_with(b"\n") || partial.len() as u64 >= LINE_LIMIT {
                self.line(std::mem::take(partial));
                if self.batch.len() >= 16 << 10 && !self.flush() {
                    return Ok(false);
                }
            }
        }
    }

    fn line(&mut self, mut line: Vec<u8>) {
        if let Some(since) = self.since
            && let Some(at) = (self.stamp)(&line)
        {
            self.recent = at >= since;
        }
        if !self.recent {
            return;
        }
        if !line.ends_with(b"\n") {
            line.push(b'\n');
        }
        let Some((most, kept)) = &mut self.last else {
            self.batch.extend_from_slice(&line);
            return;
        };
        self.held += line.len();
        kept.push_back(line);
        while kept.len() > *most || (self.held > LAST_LIMIT && kept.len() > 1) {
            self.held -= kept.pop_front().map_or(0, |line| line.len());
        }
    }

    fn finish(&mut self) -> bool {
        if let Some((_, kept)) = self.last.take() {
            for line in kept {
                self.batch.extend_from_slice(&line);
                if self.batch.len() >= 16 << 10 && !self.flush() {
                    return false;
                }
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> bool {
        self.batch.is_empty() || self.sink.take(std::mem::take(&mut self.batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write as _;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;

    struct Out(
        Sender<Vec<u8>>,
        std::sync::Arc<std::sync::atomic::AtomicBool>,
    );

    impl Sink for Out {
        fn take(&mut self, lines: Vec<u8>) -> bool {
            self.0.send(lines).is_ok()
        }
        fn is_wanted(&self) -> bool {
            self.1.load(std::sync::atomic::Ordering::SeqCst)
        }
    }

    /// Lines that begin with their time.
    fn stamp(line: &[u8]) -> Option<u64> {
        let text = std::str::from_utf8(line).ok()?;
        text.split_whitespace().next()?.parse().ok()
    }

    fn all(path: &Path, wish: Wish) -> String {
        let (sender, receiver) = channel();
        read(path, stamp, wish, &mut Out(sender, Default::default())).unwrap();
        String::from_utf8(receiver.iter().flatten().collect()).unwrap()
    }

    #[test]
    fn older_files_come_first_and_last_lines_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        assert_eq!(all(&path, Wish::default()), "");
        fs::write(dir.path().join("x.log.2"), "1 a\n2 b\n").unwrap();
        fs::write(dir.path().join("x.log.1"), "3 c\n  more of c\n").unwrap();
        fs::write(&path, "4 d\n5 no end").unwrap();
        let everything = "1 a\n2 b\n3 c\n  more of c\n4 d\n5 no end\n";
        assert_eq!(all(&path, Wish::default()), everything);
        let lines = |n| Wish {
            lines: Some(n),
            ..Wish::default()
        };
        assert_eq!(all(&path, lines(2)), "4 d\n5 no end\n");
        assert_eq!(all(&path, lines(0)), "");
        assert_eq!(all(&path, lines(99)), everything);
        let since = |s| Wish {
            since: Some(s),
            ..Wish::default()
        };
        assert_eq!(all(&path, since(3)), "3 c\n  more of c\n4 d\n5 no end\n");
        assert_eq!(all(&path, since(6)), "");
    }

    #[test]
    fn a_line_without_end_is_cut_and_not_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        fs::write(&path, vec![b'x'; 3 * LINE_LIMIT as usize + 7]).unwrap();
        let text = all(&path, Wish::default());
        assert_eq!(text.lines().map(str::len).max(), Some(LINE_LIMIT as usize));
        assert_eq!(text.matches('x').count(), 3 * LINE_LIMIT as usize + 7);
    }

    fn receive(receiver: &Receiver<Vec<u8>>, text: &mut String, until: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !text.ends_with(until) {
            assert!(Instant::now() < deadline, "{text}");
            if let Ok(bytes) = receiver.recv_timeout(Duration::from_millis(100)) {
                text.push_str(&String::from_utf8(bytes).unwrap());
            }
        }
    }

    #[test]
    fn following_loses_nothing_over_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        fs::write(&path, "first\n").unwrap();
        let wanted = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (sender, receiver) = channel();
        let mut out = Out(sender, wanted.clone());
        let file = path.clone();
        let wish = Wish {
            follow: true,
            ..Wish::default()
        };
        let thread = std::thread::spawn(move || read(&file, stamp, wish, &mut out));
        let mut text = String::new();
        receive(&receiver, &mut text, "first\n");
        let append = |line: &str| {
            let mut file = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .unwrap();
            file.write_all(line.as_bytes()).unwrap();
        };
        let mut expected = String::from("first\n");
        for n in 0..5 {
            append(&format!("{n} before"));
            append(" and after\n");
            fs::rename(&path, numbered(&path, 1)).unwrap();
            append(&format!("{n} new\n"));
            expected.push_str(&format!("{n} before and after\n{n} new\n"));
            receive(&receiver, &mut text, &format!("{n} new\n"));
        }
        assert_eq!(text, expected);
        wanted.store(false, std::sync::atomic::Ordering::SeqCst);
        thread.join().unwrap().unwrap();
    }
}
