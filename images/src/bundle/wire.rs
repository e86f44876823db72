//! A bundle that is pushed: who has it answers what the node asks for, over one stream of
//! bytes both ways. So a node that is pushed to fetches no more than one that pulls, and
//! one piece of code does both.
//!
//! | direction | bytes | what |
//! |---|---|---|
//! | to the node | 8 | first of all: bytes of the bundle |
//! | to who has it | 1, 8, 4 | `R`, offset, length: wants that part |
//! | to the node | length | the part |
//! | to who has it | 1, 4, *n* | `T`, *n*, a text of *n* bytes, UTF-8: how it goes, at any time |
//! | to who has it | 1, 4, *n* | `E`, *n*, text: the end, and how it was |
//!
//! Numbers are little-endian. A stream that ends otherwise was broken off.

use std::io::{self, Read, Write};

use super::Source;

/// Longest part and longest text, in bytes.
const LIMIT: u32 = 1 << 20;

/// The node's side.
#[derive(Debug)]
pub struct Pushed<S> {
    stream: S,
    size: u64,
}

impl<S: Read + Write> Pushed<S> {
    /// Begins: hears how long the bundle is.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn begin(mut stream: S) -> io::Result<Self> {
        let mut size = [0; 8];
        stream.read_exact(&mut size)?;
        let size = u64::from_le_bytes(size);
        Ok(Self { stream, size })
    }

    /// Says how it goes.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn tell(&mut self, text: &str) -> io::Result<()> {
        say(&mut self.stream, b'T', text)
    }

    /// Says how it was, and ends.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn end(mut self, text: &str) -> io::Result<()> {
        say(&mut self.stream, b'E', text)
    }
}

fn say(stream: &mut impl Write, kind: u8, text: &str) -> io::Result<()> {
    let text = &text[..text.floor_char_boundary(LIMIT as usize)];
    let mut message = vec![kind];
    message.extend((text.len() as u32).to_le_bytes());
    message.extend(text.as_bytes());
    stream.write_all(&message)?;
    stream.flush()
}

impl<S: Read + Write> Source for Pushed<S> {
    fn size(&mut self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut at = offset;
        for part in buffer.chunks_mut(LIMIT as usize) {
            let mut message = vec![b'R'];
            message.extend(at.to_le_bytes());
            message.extend((part.len() as u32).to_le_bytes());
            self.stream.write_all(&message)?;
            self.stream.flush()?;
            self.stream.read_exact(part)?;
            at += part.len() as u64;
        }
        Ok(())
    }
}

/// The side of who has the bundle: answers until the node ends, and gives its last text.
/// `told` gets the others.
///
/// # Errors
/// Those of the stream and of the bundle; [`io::ErrorKind::InvalidData`] for what a node
/// doesn't say.
pub fn serve(
    mut stream: impl Read + Write,
    bundle: &mut dyn Source,
    mut told: impl FnMut(&str),
) -> io::Result<String> {
    let strange = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    stream.write_all(&bundle.size()?.to_le_bytes())?;
    stream.flush()?;
    loop {
        let kind: [u8; 1] = take(&mut stream)?;
        let offset = match kind {
            [b'R'] => u64::from_le_bytes(take(&mut stream)?),
            [b'T' | b'E'] => 0,
            [other] => return Err(strange(format!("the node says {other:#04x}"))),
        };
        let len = u32::from_le_bytes(take(&mut stream)?);
        if len > LIMIT {
            return Err(strange(format!("the node asks for {len} bytes at once")));
        }
        let mut bytes = vec![0; len as usize];
        if kind == *b"R" {
            bundle.read_at(offset, &mut bytes)?;
            stream.write_all(&bytes)?;
            stream.flush()?;
            continue;
        }
        stream.read_exact(&mut bytes)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| strange("the node says what is no text".into()))?;
        match kind {
            [b'E'] => return Ok(text),
            _ => told(&text),
        }
    }
}

fn take<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
