//! A web server that knows ranges, and does what servers do.

#![allow(dead_code, reason = "each test uses a part")]
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// What it does with a request.
#[derive(Clone, Copy)]
pub enum Mood {
    Fine,
    /// Breaks off after so many bytes of the body.
    BreaksOff(usize),
    /// Says no more after so many bytes, until the client is gone.
    Falters(usize),
    Status(u16),
    /// Sends the whole, whatever part was asked for.
    Whole,
    /// The file is another one.
    Changed,
}

/// Path, and the part of it.
type Asked = (String, Range<u64>);

pub struct Server {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// One with these files by their paths, whose mood depends on the number of the request.
    pub fn new(
        file: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static,
        mood: impl Fn(usize) -> Mood + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&asked);
        std::thread::spawn(move || {
            for connection in listener.incoming().map_while(Result::ok) {
                // A client that has hung up before it has asked.
                let Some((path, range)) = request(&connection) else {
                    continue;
                };
                let mut all = all.lock().unwrap();
                let mood = mood(all.len());
                all.push((path.clone(), range.clone().unwrap_or_default()));
                drop(all);
                let found = file(&path);
                std::thread::spawn(move || {
                    let (content, mood, range) = match (found, range) {
                        (None, _) => (Vec::new(), Mood::Status(404), 0..0),
                        (Some(content), None) => (content, Mood::Whole, 0..0),
                        (Some(content), Some(range)) => (content, mood, range),
                    };
                    // A client that has hung up doesn't mind.
                    drop(answer(connection, &content, range, mood));
                });
            }
        });
        Self { address, asked }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The parts that were asked for.
    pub fn asked(&self) -> Vec<Range<u64>> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|(_, range)| range.clone()).collect()
    }
}

fn request(connection: &TcpStream) -> Option<(String, Option<Range<u64>>)> {
    let mut lines = BufReader::new(connection).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut range = None;
    for line in lines.take_while(|line| !line.is_empty()) {
        let lower = line.to_ascii_lowercase();
        if let Some(value) = lower.strip_prefix("range: bytes=") {
            let (first, last) = value.split_once('-')?;
            range = Some(first.parse().ok()?..last.parse::<u64>().ok()? + 1);
        }
    }
    Some((path, range))
}

fn answer(
    mut connection: TcpStream,
    content: &[u8],
    range: Range<u64>,
    mood: Mood,
) -> std::io::Result<()> {
    let size = content.len();
    let end = usize::try_from(range.end).unwrap().min(size);
    let start = usize::try_from(range.start).unwrap().min(end);
    let mut part = &content[start..end];
    let mut head = format!(
        "HTTP/1.1 206 Partial\r\ncontent-range: bytes {start}-{}/{size}\r\netag: \"1\"\r\n",
        end.saturating_sub(1)
    );
    match mood {
        Mood::Status(status) => (head, part) = (format!("HTTP/1.1 {status} Told\r\n"), &[]),
        Mood::Whole => (head, part) = ("HTTP/1.1 200 OK\r\n".into(), content),
        Mood::Changed => head = head.replace("\"1\"", "\"2\""),
        Mood::Fine | Mood::BreaksOff(_) | Mood::Falters(_) => {}
    }
    let length = part.len();
    write!(
        connection,
        "{head}content-length: {length}\r\nconnection: close\r\n\r\n"
    )?;
    match mood {
        Mood::BreaksOff(after) => connection.write_all(&part[..after.min(length)]),
        Mood::Falters(after) => {
            connection.write_all(&part[..after.min(length)])?;
            connection.read(&mut [0]).map(drop)
        }
        _ => connection.write_all(part),
    }
}
