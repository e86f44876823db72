//! clusterd: the supervisor of the embedded Kubernetes distribution.
//!
//! Makes the cluster's CAs and certificates, keeps what another version could not read of the
//! datastore, starts datastore, API server,
//! controllers, scheduler, kubelet and kube-proxy in the order of their needs,
//! keeps them running, applies the image's add-ons, and tells how it stands. On an agent it joins
//! a cluster and runs kubelet and kube-proxy.
//! [`server::run`] is the whole walk, step by step.

mod access;
mod addons;
mod agent;
mod balancer;
mod board;
mod component;
mod datastore;
mod error;
mod files;
mod identity;
mod images;
mod inventory;
mod joining;
mod keeper;
mod log;
mod network;
mod node;
mod notify;
mod options;
mod output;
mod overlay;
mod paths;
mod pods;
mod probe;
mod process;
mod random;
mod server;
mod signer;
mod status;
mod work;

use std::io::Write as _;
use std::process::ExitCode;

use options::Command;

fn main() -> ExitCode {
    let command = options::parse(std::env::args_os().skip(1));
    let result = command.and_then(|command| match command {
        Command::Run(options) => server::run(&options),
        Command::Snapshot { root, bin } => {
            datastore::snapshot(&paths::Paths::new(&root), bin.as_deref())
        }
        Command::Help => print(options::HELP),
        Command::Version => print(concat!("clusterd ", env!("CARGO_PKG_VERSION"), "\n")),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::info!("{error}");
            notify::Notify::from_environment().send(&format!("STATUS=failed: {error}"));
            ExitCode::from(error.exit_status())
        }
    }
}

fn print(text: &str) -> Result<(), error::Error> {
    use error::Context as _;
    std::io::stdout()
        .write_all(text.as_bytes())
        .context(|| "write to stdout".to_owned())
}
