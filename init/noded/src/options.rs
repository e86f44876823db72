//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use slipway_images::node::PORT;

use crate::error::Error;
use crate::fetch;

/// Shown by `--help`.
pub const HELP: &str = "\
noded: a node's own API, over HTTPS with mutual TLS

    noded --root DIR [--seed FILE] [--listen ADDRESS:PORT]
    noded fetch --root DIR --out FILE --within MS --patience MS

  --root DIR               where run/, var/ and usr/ are (on a node: /)
  --seed FILE              the checked seed, JSON (default: DIR/run/slipway/seed.json)
  --listen ADDRESS:PORT    where to listen (default: every address, port 7443)
  --version                print the version

fetch gets a seed for init from the URL in SLIPWAY_SEED_URL:
  --out FILE               where to leave it, JSON
  --within MS              time for all of it, in milliseconds
  --patience MS            time for one request
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
    /// Fetch a seed.
    Fetch(fetch::Options),
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
    if parser
        .try_raw_args()
        .is_some_and(|mut rest| rest.next_if(|word| word == "fetch").is_some())
    {
        return parse_fetch(parser);
    }
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

fn parse_fetch(mut parser: lexopt::Parser) -> Result<Command, Error> {
    use lexopt::prelude::{Long, ValueExt};
    let usage = |error: lexopt::Error| Error::Usage(error.to_string());
    let (mut root, mut out, mut within, mut patience) = (None, None, None, None);
    while let Some(argument) = parser.next().map_err(usage)? {
        let option = match argument {
            Long("root") => &mut root,
            Long("out") => &mut out,
            Long("within") => &mut within,
            Long("patience") => &mut patience,
            other => return Err(usage(other.unexpected())),
        };
        *option = Some(parser.value().map_err(usage)?);
    }
    let given = |value: Option<std::ffi::OsString>, name: &str| {
        value.ok_or_else(|| Error::Usage(format!("--{name} is missing")))
    };
    let time = |value, name| -> Result<Duration, Error> {
        let millis = given(value, name)?.parse().map_err(usage)?;
        Ok(Duration::from_millis(millis))
    };
    Ok(Command::Fetch(fetch::Options {
        root: given(root, "root")?.into(),
        out: given(out, "out")?.into(),
        within: time(within, "within")?,
        patience: time(patience, "patience")?,
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
        let fetch = ["fetch", "--root", "/", "--out", "/x", "--within", "1"];
        assert!(text(&fetch).contains("--patience is missing"));
        assert!(text(&["fetch", "http://user:secret@h/"]).contains("unexpected"));
        assert!(text(&["--root", "/", "fetch"]).contains("fetch"));
    }
}
