//! A mirror on the loopback interface that misbehaves on request.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What goes wrong with one answer.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The connection breaks after so many bytes of the body.
    DropAfter(usize),
    /// Another status, without a body.
    Status(u16),
    /// The last byte of the body is another one.
    Corrupt,
    /// The whole file whatever range was asked for, breaking off after n bytes.
    NoRange(usize),
    /// The whole file, and a claim that it is the range.
    WrongRange,
}

#[derive(Default)]
struct State {
    faults: HashMap<String, Vec<Fault>>,
    log: Vec<String>,
}

/// Serves a directory until the process ends.
pub struct Server {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start(root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let (root, shared) = (root.to_owned(), Arc::clone(&state));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (root, shared) = (root.clone(), Arc::clone(&shared));
                // A client that hangs up in the middle is part of the game.
                std::thread::spawn(move || serve(stream, &root, &shared).unwrap_or(()));
            }
        });
        Self { url, state }
    }

    /// The next answers for paths that end in `path` go wrong, one after the other.
    pub fn fault(&self, path: &str, faults: &[Fault]) {
        let mut state = self.state.lock().unwrap();
        state
            .faults
            .insert(path.to_owned(), faults.iter().rev().copied().collect());
    }

    /// `GET path [range]` of every request so far, and forgets them.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }
}

fn serve(stream: TcpStream, root: &Path, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut out = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let (mut from, mut etag_asked) = (None, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let header = header.trim().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(range) = header.strip_prefix("range: bytes=") {
                from = range.trim_end_matches('-').parse::<usize>().ok();
            }
            if let Some(etag) = header.strip_prefix("if-none-match: ") {
                etag_asked = Some(etag.to_owned());
            }
        }
        let fault = {
            let mut state = state.lock().unwrap();
            state.log.push(match from {
                Some(n) => format!("{path} from {n}"),
                None => path.clone(),
            });
            let key = state
                .faults
                .keys()
                .find(|k| path.ends_with(k.as_str()))
                .cloned();
            key.and_then(|k| state.faults.get_mut(&k)?.pop())
        };
        let file: PathBuf = root.join(path.trim_start_matches('/'));
        let (status, mut body, mut extra) = match (fs::read(&file), fault) {
            (_, Some(Fault::Status(status))) => (status, Vec::new(), String::new()),
            (Err(_), _) => (404, Vec::new(), String::new()),
            (Ok(body), _) => (200, body, String::new()),
        };
        let mut status = status;
        if status == 200 {
            let etag = format!(
                "\"{}-{}\"",
                body.len(),
                body.iter().map(|b| u64::from(*b)).sum::<u64>()
            );
            if etag_asked.as_deref() == Some(etag.as_str()) {
                (status, body) = (304, Vec::new());
            }
            extra = format!("ETag: {etag}\r\n");
        }
        match (from, fault) {
            (Some(_), Some(Fault::WrongRange)) => {
                status = 206;
                extra.push_str(&format!("Content-Range: bytes 0-{0}/{0}\r\n", body.len()));
            }
            (Some(_), Some(Fault::NoRange(_))) => {}
            (Some(n), _) if status == 200 && n < body.len() => {
                status = 206;
                extra.push_str(&format!(
                    "Content-Range: bytes {n}-{}/{}\r\n",
                    body.len() - 1,
                    body.len()
                ));
                body.drain(..n);
            }
            _ => {}
        }
        if let (Some(Fault::Corrupt), Some(last)) = (fault, body.last_mut()) {
            *last ^= 1;
        }
        write!(
            out,
            "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n{extra}\r\n",
            body.len()
        )?;
        match fault {
            Some(Fault::DropAfter(n) | Fault::NoRange(n)) if n < body.len() => {
                out.write_all(&body[..n])?;
                out.shutdown(std::net::Shutdown::Both)?;
                return Ok(());
            }
            _ => out.write_all(&body)?,
        }
    }
}
