//! `noded`: see the library.

use std::io::Write as _;
use std::process::ExitCode;

use slipway_noded::error::{Context as _, Error};
use slipway_noded::options::{self, Command};
use slipway_noded::{fetch, notice, server};

fn main() -> ExitCode {
    let command = options::parse(std::env::args_os().skip(1));
    let result = command.and_then(|command| match command {
        Command::Run(options) => server::run(options),
        Command::Fetch(options) => fetch::run(&options),
        Command::Help => print(options::HELP),
        Command::Version => print(concat!("noded ", env!("CARGO_PKG_VERSION"), "\n")),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            notice!("{error}");
            ExitCode::from(error.exit_status())
        }
    }
}

fn print(text: &str) -> Result<(), Error> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context(|| "write to stdout".to_owned())
}
