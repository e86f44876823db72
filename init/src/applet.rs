//! What the binary does under other names: `modprobe`, `reboot`, `poweroff`, `halt`.

use std::io::Write;
use std::process::ExitCode;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::modules::{ModuleError, Modules};
use crate::pid1::SIGNALS;
use crate::shutdown::{self, Kind};

/// What `modprobe` is asked to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ModprobeCall {
    /// Say nothing when a module is not found.
    pub quiet: bool,
    /// Take the modules out.
    pub remove: bool,
    /// All words are modules; else those after the first are options.
    pub all: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Modules or aliases.
    pub names: Vec<String>,
}

/// Parses what the kernel (`modprobe -q -- ALIAS`), the kubelet, containerd, kube-proxy
/// (`modprobe -- NAME`) and people write.
///
/// # Errors
/// A sentence for an option that is not understood.
pub fn parse_modprobe(arguments: &[String]) -> Result<ModprobeCall, String> {
    let mut call = ModprobeCall::default();
    let mut options = true;
    for argument in arguments {
        match argument.as_str() {
            "--" if options => options = false,
            "--all" if options => call.all = true,
            "--quiet" if options => call.quiet = true,
            "--remove" if options => call.remove = true,
            "--dry-run" | "--show" if options => call.dry_run = true,
            "--use-blacklist" | "--verbose" | "--syslog" | "--first-time" if options => {}
            short if options && short.len() > 1 && short.starts_with('-') => {
                for letter in short.chars().skip(1) {
                    match letter {
                        'a' => call.all = true,
                        'q' => call.quiet = true,
                        'r' => call.remove = true,
                        'n' => call.dry_run = true,
                        'b' | 'v' | 's' => {}
                        _ => return Err(format!("option {short} is not known")),
                    }
                }
            }
            name => call.names.push(name.to_owned()),
        }
    }
    if call.names.is_empty() {
        return Err("which module? modprobe [-q] [-r] [-n] [-a] NAME...".into());
    }
    if !call.all && !call.remove {
        // Options on the command line are not taken; they belong into modules.d.
        call.names.truncate(1);
    }
    Ok(call)
}

/// `modprobe`.
pub fn modprobe(arguments: &[String]) -> ExitCode {
    let call = match parse_modprobe(arguments) {
        Ok(call) => call,
        Err(message) => return fail("modprobe", &message),
    };
    let mut modules = match Modules::of_running_kernel() {
        Ok(modules) => modules,
        Err(error) => return fail("modprobe", &error.to_string()),
    };
    let mut code = ExitCode::SUCCESS;
    for name in &call.names {
        let done = if call.remove {
            modules.remove(name)
        } else if call.dry_run {
            modules.resolve(name).and_then(|found| match found.first() {
                Some(_) => Ok(0),
                None => modules.plan(name).map(|_| 0),
            })
        } else {
            modules.load(name)
        };
        match done {
            Ok(_) => {}
            Err(ModuleError::NotFound(..)) if call.quiet => code = ExitCode::FAILURE,
            Err(error) => code = fail("modprobe", &error.to_string()),
        }
    }
    code
}

fn fail(who: &str, message: &str) -> ExitCode {
    // stderr may be closed; the exit status says it too.
    drop(writeln!(std::io::stderr(), "{who}: {message}"));
    ExitCode::FAILURE
}

/// `reboot`, `poweroff` and `halt`: asks PID 1; with `-f` does it at once.
pub fn end(kind: Kind, arguments: &[String]) -> ExitCode {
    if arguments.iter().any(|a| a == "-f" || a == "--force") {
        shutdown::at_once(kind);
    }
    if let Some(unknown) = arguments.first() {
        return fail(
            "reboot",
            &format!("{unknown} is not known; -f does it without PID 1"),
        );
    }
    let signal = SIGNALS
        .iter()
        .find(|(_, k)| *k == kind)
        .map_or(Signal::SIGTERM, |(s, _)| *s);
    match kill(Pid::from_raw(1), signal) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail("reboot", &format!("asking PID 1: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<ModprobeCall, String> {
        parse_modprobe(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn calls_in_the_wild() {
        // The kernel; kube-proxy; containerd; people.
        let call = parse("-q -- net-pf-16-proto-12").unwrap();
        assert!(call.quiet && call.names == ["net-pf-16-proto-12"]);
        assert_eq!(parse("-- br_netfilter").unwrap().names, ["br_netfilter"]);
        assert_eq!(parse("-a overlay br_netfilter").unwrap().names.len(), 2);
        assert_eq!(parse("overlay metacopy=1").unwrap().names, ["overlay"]);
        assert!(parse("-rq veth").unwrap().remove);
        assert!(parse("-va nf_tables").unwrap().all);
        assert!(parse("-n x").unwrap().dry_run);
        assert!(parse("-Z x").is_err() && parse("-q").is_err());
    }
}
