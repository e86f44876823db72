//! `slipway node`: talking to a node's own API (`docs/node-api.md`).
//!
//! A node is named by its address and a credential, or, for a machine of `slipway run`, by its
//! name: then both are found in the machine's directory.

mod client;
mod firmware;
mod shell;
mod show;
mod update;
mod upgrade;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use slipway_access::kubeconfig::Kubeconfig;
use slipway_access::node_api::{Credential, CredentialError};
use slipway_images::node::api::{SeedDiff, Status};
use slipway_images::node::{ANY_NODE, PORT};
use slipway_images::seed::Effect;
use slipway_qemu::VmName;

use crate::error::{At as _, Error, Kind, Result};
use crate::progress::Progress;
use crate::run::identity::CREDENTIAL_FILE;
use crate::run::start::API_PORT;
use crate::run::{Context, chosen};
use crate::seed::load::load;
use client::{Client, authority};

/// Talk to a node's own API.
#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    /// Where the node is [default port: 7443].
    #[arg(
        long,
        value_name = "HOST[:PORT]",
        global = true,
        requires = "credential"
    )]
    pub addr: Option<String>,
    /// The PEM file with one's certificate, its key and the nodes' CA.
    #[arg(
        long,
        value_name = "FILE",
        global = true,
        env = "SLIPWAY_NODE_CREDENTIAL"
    )]
    pub credential: Option<PathBuf>,
    /// A machine of `slipway run` instead [default: the only one that runs].
    #[arg(long, value_name = "MACHINE", global = true, conflicts_with = "addr")]
    pub name: Option<VmName>,
    /// Insist on the node of this name, not just any of one's own.
    #[arg(long, value_name = "NAME", global = true)]
    pub node: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub what: What,
}

/// What `slipway node` does.
#[derive(Debug, Clone, Subcommand)]
pub enum What {
    /// Versions, slot, services, cluster, disks, network, temperatures.
    Status,
    /// Print a log, or without a name which there are.
    Logs {
        /// A service, a component of the cluster, `kernel` or `init`.
        log: Option<String>,
        /// Go on until Ctrl-C.
        #[arg(long, short)]
        follow: bool,
        /// Only what is not older, as 90s, 10m or 2h.
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        since: Option<u64>,
        /// At most so many of the last lines [default: 200 without --since].
        #[arg(long, value_name = "N")]
        lines: Option<u64>,
    },
    /// Print what has happened since the boot.
    Events {
        /// Go on until Ctrl-C.
        #[arg(long, short)]
        follow: bool,
        /// Only what is not older, as 90s, 10m or 2h.
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        since: Option<u64>,
    },
    /// Stop everything in order and reboot.
    Reboot,
    /// Stop everything in order and power off.
    Poweroff {
        /// Don't ask.
        #[arg(long)]
        yes: bool,
    },
    /// Factory reset: erase the node's data; the next boot begins with its seed from outside.
    Reset {
        /// Don't ask.
        #[arg(long)]
        yes: bool,
    },
    /// Print the token that agents join the node's cluster with, for `slipway.cluster.token` in
    /// their seeds.
    Token,
    /// Print the administrator's kubeconfig of the node's cluster.
    Kubeconfig {
        /// The API server's address in it [default: the node's, port 6443].
        #[arg(long, value_name = "URL")]
        server: Option<String>,
    },
    /// Apply a seed, and say what of it needs a reboot.
    Apply {
        /// A directory with user-data, network-config, meta-data, or a user-data file.
        seed: PathBuf,
        /// Only say what would change.
        #[arg(long)]
        dry_run: bool,
        /// Reboot if that is needed.
        #[arg(long)]
        reboot: bool,
    },
    /// Save a support bundle, which holds no secrets.
    Support {
        /// Where to [default: NODE.tar.gz].
        #[arg(long, short, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Open a shell on the node; its end ends this.
    Shell,
    /// Bring the node another version, or without one say how far an update is.
    Update(update::UpdateArgs),
    /// Renew what runs before a slot is chosen, which no update touches, from the version that
    /// runs: U-Boot and the board's firmware, or systemd-boot.
    FirmwareUpdate {
        /// Don't ask.
        #[arg(long)]
        yes: bool,
        /// Only say what would change.
        #[arg(long, conflicts_with = "yes")]
        dry_run: bool,
    },
}

fn seconds(text: &str) -> std::result::Result<u64, String> {
    slipway_images::service::parse_duration(text).map(|duration| duration.as_secs())
}

/// Where a node is, and who asks.
struct Target {
    host: String,
    port: u16,
    credential: Credential,
    /// The API server's URL, where it is not at the node's own address.
    kubernetes: Option<String>,
}

/// Runs `slipway node`.
///
/// # Errors
/// [`Kind::Network`] if the node isn't reached, [`Kind::Untrusted`] if either doesn't trust
/// the other, [`Kind::Input`] for a credential or seed that is wrong, [`Kind::Tool`] for what
/// the node refuses or fails at.
pub fn run(args: &NodeArgs, context: &Context<'_>, progress: &Progress) -> Result<ExitCode> {
    let target = target(args, context)?;
    let client = Client::new(
        &target.host,
        target.port,
        args.node.as_deref().unwrap_or(ANY_NODE),
        &target.credential,
    )?;
    match &args.what {
        What::Status => {
            let status: Status = client.get("/v1/status")?;
            progress.result(&show::Shown(status))?;
        }
        What::Logs { log: None, .. } => progress.result(&show::Names(client.get("/v1/logs")?))?,
        What::Logs {
            log: Some(log),
            follow,
            since,
            lines,
        } => {
            let lines = lines.or(since.is_none().then_some(200));
            let path = format!("/v1/logs/{log}{}", query(*follow, *since, lines));
            client.copy(&path, &mut std::io::stdout().lock())?;
        }
        What::Events { follow, since } => {
            let path = format!("/v1/events{}", query(*follow, *since, None));
            client.lines(&path, |line| show::event(line, progress))?;
        }
        What::Reboot => {
            client.post("/v1/reboot", None)?;
            progress.say("it is rebooting");
        }
        What::Poweroff { yes } => {
            confirm(*yes, &format!("power {} off", name(&client)?))?;
            client.post("/v1/poweroff", None)?;
            progress.say("it is powering off");
        }
        What::Reset { yes } => {
            let node = name(&client)?;
            confirm(*yes, &format!("erase all data of {node}"))?;
            client.post("/v1/reset", Some(&json!({ "node": node })))?;
            progress.say("it is rebooting, and begins anew");
        }
        What::Token => output(&client.text("/v1/agent-token")?)?,
        What::Kubeconfig { server } => kubeconfig(&client, &target, server.as_deref())?,
        What::Apply {
            seed,
            dry_run,
            reboot,
        } => apply(&client, seed, *dry_run, *reboot, progress)?,
        What::Support { out } => support(&client, out.as_deref(), progress)?,
        What::Shell => return shell::run(&client),
        What::Update(args) => update::run(&client, args, progress)?,
        What::FirmwareUpdate { yes, dry_run } => {
            firmware::update(&client, *yes, *dry_run, progress)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn target(args: &NodeArgs, context: &Context<'_>) -> Result<Target> {
    if let Some(addr) = &args.addr {
        let path = args
            .credential
            .as_deref()
            .ok_or_else(|| Error::new(Kind::Usage, "--addr needs --credential"))?;
        let (host, port) = split(addr)?;
        return Ok(Target {
            host,
            port,
            credential: read_credential(path)?,
            kubernetes: None,
        });
    }
    let dir = chosen(&context.state, args.name.as_ref())?;
    let machine = dir
        .record()?
        .ok_or_else(|| Error::new(Kind::Usage, format!("`{}` was never started", dir.name())))?
        .machine;
    let path = dir.file(CREDENTIAL_FILE);
    let (Some(port), true) = (machine.host_port(PORT), path.exists()) else {
        let why = format!("`{}` was made before nodes had an API", dir.name());
        return Err(Error::new(Kind::Input, why).hint("start it over: slipway run --fresh"));
    };
    let kubernetes = machine
        .host_port(API_PORT)
        .map(|port| format!("https://127.0.0.1:{port}"));
    Ok(Target {
        host: "127.0.0.1".into(),
        port,
        credential: read_credential(args.credential.as_deref().unwrap_or(&path))?,
        kubernetes,
    })
}

fn read_credential(path: &Path) -> Result<Credential> {
    Credential::read(path).map_err(|error| match &error {
        CredentialError::Io { source, .. } => Error::io("reading", path, source),
        CredentialError::Corrupt { .. } => Error::new(Kind::Input, error.to_string()),
    })
}

/// `HOST`, `HOST:PORT`, `[IPv6]:PORT` or a bare IPv6 address.
fn split(addr: &str) -> Result<(String, u16)> {
    let wrong = || {
        Error::new(Kind::Usage, format!("`{addr}` is no address"))
            .hint("write HOST, HOST:PORT or [IPv6]:PORT")
    };
    let number = |text: &str| text.parse::<u16>().map_err(|_| wrong());
    if let Some(rest) = addr.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
        let port = match port {
            "" => PORT,
            port => number(port.strip_prefix(':').ok_or_else(wrong)?)?,
        };
        return Ok((host.to_owned(), port));
    }
    match addr.split_once(':') {
        None | Some((_, "")) if addr.is_empty() || addr.ends_with(':') => Err(wrong()),
        None => Ok((addr.to_owned(), PORT)),
        // More than one colon: an IPv6 address.
        Some((_, rest)) if rest.contains(':') => Ok((addr.to_owned(), PORT)),
        Some((host, port)) => Ok((host.to_owned(), number(port)?)),
    }
}

fn query(follow: bool, since: Option<u64>, lines: Option<u64>) -> String {
    let mut query = format!("?follow={follow}");
    for (name, value) in [("since", since), ("lines", lines)] {
        if let Some(value) = value {
            query.push_str(&format!("&{name}={value}"));
        }
    }
    query
}

fn name(client: &Client) -> Result<String> {
    let status: Status = client.get("/v1/status")?;
    Ok(status.name)
}

/// Asks on a terminal; without one only `--yes` is a yes.
fn confirm(yes: bool, what: &str) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(
            Error::new(Kind::Usage, format!("to {what} has to be confirmed"))
                .hint("there is no terminal to ask on: add --yes"),
        );
    }
    let failed = |e: std::io::Error| Error::new(Kind::Io, format!("asking: {e}"));
    write!(std::io::stderr(), "Really {what}? [y/N] ").map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Error::new(Kind::Interrupted, "nothing was done")),
    }
}

fn kubeconfig(client: &Client, target: &Target, server: Option<&str>) -> Result<()> {
    let text = client.text("/v1/kubeconfig")?;
    let mut config = Kubeconfig::parse(&text)
        .map_err(|why| Error::new(Kind::Tool, format!("the node's kubeconfig: {why}")))?;
    config.server = server
        .map(str::to_owned)
        .or_else(|| target.kubernetes.clone())
        .unwrap_or_else(|| format!("https://{}", authority(&target.host, API_PORT)));
    output(&config.to_yaml())
}

fn output(text: &str) -> Result<()> {
    write!(std::io::stdout(), "{text}")
        .map_err(|e| Error::new(Kind::Io, format!("writing to stdout: {e}")))
}

fn apply(
    client: &Client,
    seed: &Path,
    dry_run: bool,
    reboot: bool,
    progress: &Progress,
) -> Result<()> {
    // Refused here with the line, without a node.
    let files = load(seed)?.documents()?;
    let body: Value = serde_json::to_value(&files)
        .map_err(|e| Error::new(Kind::Bug, format!("writing the seed: {e}")))?;
    let diff: SeedDiff = match dry_run {
        true => client.send("POST", "/v1/seed/diff", Some(&body))?,
        false => client.send("PUT", "/v1/seed", Some(&body))?,
    };
    for warning in &diff.warnings {
        progress.warn(warning);
    }
    let needed = diff.effect >= Some(Effect::Reboot);
    progress.result(&show::Changes(diff))?;
    if needed && reboot && !dry_run {
        client.post("/v1/reboot", None)?;
        progress.say("it is rebooting");
    }
    Ok(())
}

fn support(client: &Client, out: Option<&Path>, progress: &Progress) -> Result<()> {
    let path = match out {
        Some(path) => path.to_owned(),
        None => format!("{}.tar.gz", name(client)?).into(),
    };
    let _task = progress.task("collecting", None);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Readable by its owner alone, whole or not at all.
    let mut file = tempfile::NamedTempFile::new_in(directory).at("creating", directory)?;
    client.copy("/v1/support", file.as_file_mut())?;
    file.as_file().sync_all().at("writing", &path)?;
    file.persist(&path)
        .map_err(|e| Error::io("writing", &path, &e.error))?;
    progress.result(&show::Saved { file: path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let is = |text: &str| split(text).map(|(host, port)| format!("{host} {port}"));
        assert_eq!(is("node1").unwrap(), "node1 7443");
        assert_eq!(is("10.0.0.1:8000").unwrap(), "10.0.0.1 8000");
        assert_eq!(is("[fe80::1]:8000").unwrap(), "fe80::1 8000");
        assert_eq!(is("[fe80::1]").unwrap(), "fe80::1 7443");
        assert_eq!(is("fe80::1").unwrap(), "fe80::1 7443");
        for wrong in ["", "x:", "x:y", "[::1", "[::1]x", "x:70000"] {
            assert_eq!(is(wrong).unwrap_err().kind, Kind::Usage, "{wrong}");
        }
    }

    #[test]
    fn without_a_terminal_only_yes_is_a_yes() {
        assert!(confirm(true, "x").is_ok());
        if !std::io::stdin().is_terminal() {
            assert_eq!(confirm(false, "x").unwrap_err().kind, Kind::Usage);
        }
    }
}
