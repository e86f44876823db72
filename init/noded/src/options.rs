//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use slipway_images::node::PORT;

use crate::error::Error;

/// Shown by `--help`.
pub const HELP: &str = "\
noded: a node's own API, over HTTPS with mutual TLS

    noded --root DIR [--seed FILE] [--listen ADDRESS:PORT]

  --root DIR               where run/, var/ and usr/ are (on a node: /)
  --seed FILE              the checked seed, JSON (default: DIR/run/slipway/seed.json)
  --listen ADDRESS:PORT    where to listen (default: every address, port 7443)
  --version                print the version
";

/// What the process was started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Parent of `run/`, `var/`, `usr/`.
    pub root: PathBuf,
    /// The checked seed.
    pub seed: Option<PathBuf>,
    /// Where to listen; several are tried, and the first that the system takes is used.
    pub listen: Vec<SocketAddr>,
    /// Not for people: what tests change.
    pub tuning: Tuning,
}

/// What only tests change; not in the help text.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// The process that takes the signals of [`slipway_init::pid1::SIGNALS`].
    pub init: i32,
    /// Longest time for a TLS handshake, for a request's head and between its body's parts.
    pub patience: Duration,
    /// Longest life of a connection without a client certificate.
    pub stranger: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            init: 1,
            patience: Duration::from_secs(10),
            stranger: Duration::from_secs(20),
        }
    }
}

/// What to do.
#[derive(Debug)]
pub enum Command {
    /// Run.
    Run(Options),
    /// Print the help text.
    Help,
    /// Print the version.
    Version,
}

/// Parses the command line, without the program's name.
///
/// # Errors
/// [`Error::Usage`] that names the argument.
pub fn parse<I>(arguments: I) -> Result<Command, Error>
where
    I: IntoIterator,
    I::Item: Into<std::ffi::OsString>,
{
    use lexopt::prelude::{Long, Short, ValueExt};
    let usage = |error: lexopt::Error| Error::Usage(error.to_string());
    let (mut root, mut seed, mut listen) = (None, None, Vec::new());
    let mut tuning = Tuning::default();
    let mut parser = lexopt::Parser::from_args(arguments);
    while let Some(argument) = parser.next().map_err(usage)? {
        match argument {
            Long("root") => root = Some(PathBuf::from(parser.value().map_err(usage)?)),
            Long("seed") => seed = Some(PathBuf::from(parser.value().map_err(usage)?)),
            Long("listen") => listen.push(parser.value().map_err(usage)?.parse().map_err(usage)?),
            Long("init") => tuning.init = parser.value().map_err(usage)?.parse().map_err(usage)?,
            Long("patience") => {
                let millis = parser.value().map_err(usage)?.parse().map_err(usage)?;
                tuning.patience = Duration::from_millis(millis);
                tuning.stranger = Duration::from_millis(millis) * 2;
            }
            Long("help") | Short('h') => return Ok(Command::Help),
            Long("version") | Short('V') => return Ok(Command::Version),
            other => return Err(usage(other.unexpected())),
        }
    }
    if listen.is_empty() {
        // The first takes both families; a kernel without IPv6 refuses it.
        listen.push((std::net::Ipv6Addr::UNSPECIFIED, PORT).into());
        listen.push((std::net::Ipv4Addr::UNSPECIFIED, PORT).into());
    }
    Ok(Command::Run(Options {
        root: root.ok_or_else(|| Error::Usage("--root is missing".to_owned()))?,
        seed,
        listen,
        tuning,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_of_an_image() {
        let Command::Run(options) = parse(["--root", "/"]).unwrap() else {
            panic!()
        };
        assert_eq!(options.listen[0].to_string(), "[::]:7443");
        assert_eq!(options.tuning.init, 1);
    }

    #[test]
    fn refusals_name_the_argument() {
        let text = |arguments: &[&str]| parse(arguments.to_vec()).unwrap_err().to_string();
        assert_eq!(text(&[]), "--root is missing; see noded --help");
        assert!(text(&["--rot", "/"]).contains("--rot"));
        assert!(text(&["--root", "/", "--listen", "x"]).contains("x"));
    }
}
