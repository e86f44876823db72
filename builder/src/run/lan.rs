//! A network of several machines: one has it (`--lan`), agents of its cluster are on it (`--join`).

use slipway_qemu::machine::{Lan, LanPort, Machine};
use slipway_qemu::{VmDir, VmName};

use super::Context;
use super::args::RunArgs;
use super::start::API_PORT;
use crate::error::{Error, Kind, Result};

/// Where a machine is.
pub enum Place {
    /// It has a network for others.
    Hub,
    /// It is on another's.
    Member {
        /// Whose.
        hub: VmDir,
        /// Where.
        port: LanPort,
        /// The host's port of the hub's API.
        api: u16,
    },
}

impl Place {
    /// As it is told to QEMU.
    pub fn lan(&self) -> Lan {
        match self {
            Self::Hub => Lan::Hub,
            Self::Member { hub, port, .. } => Lan::Member {
                hub: path_to(hub.name()),
                port: *port,
            },
        }
    }
}

/// The place that is asked for, or that the machine had before.
///
/// # Errors
/// [`Kind::Missing`] if the machine to join doesn't run or has no network or no room;
/// [`Kind::Usage`] for one that shall join itself.
pub fn place(
    args: &RunArgs,
    context: &Context<'_>,
    dir: &VmDir,
    before: &Machine,
) -> Result<Option<Place>> {
    let had = before.lan.as_ref();
    let hub = match (&args.join, had) {
        (Some(hub), _) => hub.clone(),
        (None, _) if args.lan => return Ok(Some(Place::Hub)),
        (None, Some(Lan::Hub)) => return Ok(Some(Place::Hub)),
        (None, Some(Lan::Member { hub, .. })) => hub
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .parse()?,
        (None, None) => return Ok(None),
    };
    if hub == *dir.name() {
        return Err(Error::new(
            Kind::Usage,
            format!("`{hub}` can't join itself"),
        ));
    }
    let hub = context.state.vm(&hub);
    let machine = running(&hub)?;
    let at = path_to(hub.name());
    let there = |machine: &Machine| match &machine.lan {
        Some(Lan::Member { hub, port }) if *hub == at => Some(*port),
        _ => None,
    };
    let port = match there(before) {
        Some(port) => port,
        None => {
            let others = context.state.list()?;
            let taken: Vec<LanPort> = others
                .iter()
                .filter(|other| other.name() != dir.name())
                .filter_map(|other| there(&other.record().ok()??.machine))
                .collect();
            LanPort::all()
                .find(|port| !taken.contains(port))
                .ok_or_else(|| {
                    Error::new(
                        Kind::Missing,
                        format!(
                            "the network of `{}` has no room for another machine",
                            hub.name()
                        ),
                    )
                    .hint("remove one that has joined: slipway ps, slipway rm NAME")
                })?
        }
    };
    let api = machine
        .host_port(API_PORT)
        .ok_or_else(|| Error::new(Kind::Bug, "the hub's API isn't forwarded"))?;
    Ok(Some(Place::Member { hub, port, api }))
}

/// A machine's directory, from another's.
fn path_to(name: &VmName) -> std::path::PathBuf {
    std::path::Path::new("..").join(name.as_str())
}

/// The machine that runs there, with a network for others.
fn running(hub: &VmDir) -> Result<Machine> {
    let name = hub.name();
    let missing = |why: String| {
        let hint = format!("start it first: slipway run --name {name} --lan");
        Error::new(Kind::Missing, why).hint(hint)
    };
    let record = hub.record()?;
    let record = record.ok_or_else(|| missing(format!("there is no machine `{name}` to join")))?;
    let alive = match &record.process {
        Some(process) => process.is_alive()?,
        None => false,
    };
    if !alive {
        return Err(missing(format!("`{name}` doesn't run")));
    }
    if record.machine.lan != Some(Lan::Hub) {
        return Err(Error::new(
            Kind::Missing,
            format!("`{name}` has no network that others can join"),
        )
        .hint(format!(
            "start it again with one: slipway stop {name}, slipway run --name {name} --lan"
        )));
    }
    Ok(record.machine)
}
