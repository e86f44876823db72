//! `slipway console`: sitting down at a machine, or reading what it said.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use slipway_qemu::console::{Ended, Follow, attach};
use slipway_qemu::{Vm, VmDir, VmName};

use super::watch::Signals;
use super::{Context, chosen};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// Attach to a machine's serial console; Ctrl-] leaves it.
///
/// Without a terminal, or with --lines or --follow, prints what the console has
/// said instead.
#[derive(Debug, Clone, Args)]
pub struct ConsoleArgs {
    /// Which machine [default: the only one that runs].
    pub name: Option<VmName>,
    /// Print the last lines of the log.
    #[arg(long, value_name = "N")]
    pub lines: Option<usize>,
    /// Print the log as it grows, until Ctrl-C or the machine's end.
    #[arg(long, short)]
    pub follow: bool,
}

/// Lines printed where nobody said how many.
const LINES: usize = 200;

/// Runs `slipway console`.
///
/// # Errors
/// [`Kind::Usage`] if there is no such machine, or it doesn't run and a terminal
/// was to be attached; [`Kind::Io`].
pub fn console(args: &ConsoleArgs, context: &Context<'_>, progress: &Progress) -> Result<ExitCode> {
    let dir = chosen(&context.state, args.name.as_ref())?;
    let vm = match dir.record()?.and_then(|r| r.process) {
        Some(process) => Vm::find(dir.name(), dir.path(), &process)?,
        None => None,
    };
    let terminals = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if args.follow || args.lines.is_some() || !terminals {
        return print_log(&dir, args, vm.filter(|_| args.follow));
    }
    let Some(vm) = vm else {
        return Err(Error::from(slipway_qemu::Error::NotRunning(
            dir.name().to_string(),
        ))
        .hint(format!(
            "start it: slipway run --name {0}; or read its log: slipway console --lines 100 {0}",
            dir.name()
        )));
    };
    progress.say(&format!("at the console of `{}`; Ctrl-] leaves", vm.name()));
    let terminal = |write: bool| -> Result<File> {
        OpenOptions::new()
            .read(!write)
            .write(write)
            .open("/dev/tty")
            .map_err(|e| Error::io("opening", "/dev/tty".as_ref(), &e))
    };
    match attach(vm.dir(), &mut terminal(false)?, &mut terminal(true)?)? {
        Ended::Detached => progress.say(&format!("left `{}`; it runs on", vm.name())),
        Ended::MachineOff => progress.say(&format!("`{}` is off", vm.name())),
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints the log's last lines and, if `vm` is given, what comes until Ctrl-C or
/// the machine's end.
fn print_log(dir: &VmDir, args: &ConsoleArgs, vm: Option<Vm>) -> Result<ExitCode> {
    let mut log = Follow::console(dir.path(), false)?;
    let so_far = log.read()?;
    print(last_lines(&so_far, args.lines.unwrap_or(LINES)))?;
    let Some(vm) = vm else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut signals = Signals::catch()?;
    let mut off = false;
    loop {
        print(&log.read()?)?;
        if off || signals.take() > 0 {
            return Ok(ExitCode::SUCCESS);
        }
        let far = Instant::now() + Duration::from_secs(3600);
        // What was written last is printed before leaving.
        off = log.wait(&[vm.ended_fd(), signals.fd()], far)?.first() == Some(&true);
    }
}

/// The end of a text, from the beginning of the `count`th last line on.
fn last_lines(text: &[u8], count: usize) -> &[u8] {
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    let start = body
        .iter()
        .enumerate()
        .rev()
        .filter(|(_, byte)| **byte == b'\n')
        .nth(count.saturating_sub(1))
        .map_or(0, |(at, _)| at + 1);
    if count == 0 { &[] } else { &text[start..] }
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|e| Error::new(Kind::Io, format!("writing to stdout: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_the_last() {
        assert_eq!(last_lines(b"a\nb\nc\n", 2), b"b\nc\n");
        assert_eq!(last_lines(b"a\nb\nc", 1), b"c");
        assert_eq!(last_lines(b"a\nb", 5), b"a\nb");
        assert_eq!(last_lines(b"a\n", 0), b"");
        assert_eq!(last_lines(b"", 3), b"");
    }
}
