//! Questions to a person at a terminal: which device, and whether really.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Read as _, Write as _};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::devices::{Disk, System};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// How often a waiting question looks whether Ctrl-C was pressed.
const LISTEN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// Lets a person choose among the disks that may be written to.
///
/// # Errors
/// [`Kind::Usage`] without a terminal or for an answer that names none;
/// [`Kind::Missing`] if there is none; [`Kind::Interrupted`].
pub fn device(system: &System, progress: &Progress) -> Result<Disk> {
    let disks = system.disks()?;
    let (mut candidates, others): (Vec<Disk>, Vec<Disk>) =
        disks.into_iter().partition(Disk::is_candidate);
    // What can be taken out comes first.
    candidates.sort_by_key(|d| !d.removable);
    let list = list(&candidates, &others);
    if candidates.is_empty() {
        return Err(
            Error::new(Kind::Missing, "there is no device that could be written to").hint(
                format!(
                    "plug one in, or name a file{}",
                    if list.is_empty() { "" } else { "; there are:" }
                ) + &indented(&list),
            ),
        );
    }
    if !is_terminal() {
        return Err(
            Error::new(Kind::Usage, "which device shall the image go to?").hint(format!(
                "name one: slipway flash IMAGE DEVICE; there are:{}",
                indented(&list)
            )),
        );
    }
    progress.say(list.trim_end());
    let answer = question(&format!("Which one? [1-{}] ", candidates.len()), progress)?;
    answer
        .parse::<usize>()
        .ok()
        .and_then(|n| n.checked_sub(1))
        .filter(|n| *n < candidates.len())
        .map(|n| candidates.swap_remove(n))
        .ok_or_else(|| {
            Error::new(
                Kind::Usage,
                format!("`{answer}` is none of them; nothing was written"),
            )
        })
}

/// Asks whether something may be lost.
///
/// # Errors
/// [`Kind::Usage`] if it may not, or there is nobody to ask; [`Kind::Interrupted`].
pub fn consent(loses: &str, progress: &Progress) -> Result<()> {
    if !is_terminal() {
        return Err(
            Error::new(Kind::Usage, format!("this would overwrite {loses}"))
                .hint("say --yes if that is meant"),
        );
    }
    let answer = question(&format!("This overwrites {loses}. Go on? [y/N] "), progress)?;
    if matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Error::new(Kind::Usage, "nothing was written"))
}

fn is_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

fn list(candidates: &[Disk], others: &[Disk]) -> String {
    let mut text = String::new();
    for (n, disk) in candidates.iter().enumerate() {
        // Writing to a string can't fail.
        writeln!(text, "  {}) {disk}", n + 1).unwrap_or_default();
    }
    for disk in others.iter().filter(|d| !d.uses.is_empty()) {
        writeln!(text, "  -  {disk}: {}", disk.uses_text()).unwrap_or_default();
    }
    text
}

fn indented(list: &str) -> String {
    list.lines().fold(String::new(), |mut out, line| {
        out.push('\n');
        out.push_str(line);
        out
    })
}

/// An answer of one line. Ctrl-C ends the wait.
fn question(text: &str, progress: &Progress) -> Result<String> {
    let failed = |e: io::Error| Error::new(Kind::Io, format!("asking: {e}"));
    io::stderr().write_all(text.as_bytes()).map_err(failed)?;
    let mut line = Vec::new();
    loop {
        progress.check()?;
        let stdin = io::stdin();
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&LISTEN)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(e) => return Err(failed(e.into())),
        }
        let mut bytes = [0; 256];
        let n = stdin.lock().read(&mut bytes).map_err(failed)?;
        line.extend_from_slice(&bytes[..n]);
        if n == 0 || line.contains(&b'\n') {
            return Ok(String::from_utf8_lossy(&line).trim().to_owned());
        }
    }
}
