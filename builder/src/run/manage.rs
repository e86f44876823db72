//! `slipway ps`, `stop` and `rm`: the machines there are.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde::Serialize;
use slipway_qemu::machine::Forward;
use slipway_qemu::{Vm, VmDir, VmName, accel};

use super::{Context, chosen};
use crate::error::{Error, Kind, Result};
use crate::progress::Progress;

/// List virtual machines.
#[derive(Debug, Clone, Default, Args)]
pub struct PsArgs {}

/// Stop a virtual machine as its power button would.
#[derive(Debug, Clone, Args)]
pub struct StopArgs {
    /// Which [default: the only one that runs].
    pub name: Option<VmName>,
    /// Pull the plug.
    #[arg(long)]
    pub force: bool,
    /// How long it may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "120")]
    pub timeout: u64,
}

/// Remove a stopped virtual machine: its disk, cluster and logs.
#[derive(Debug, Clone, Args)]
pub struct RmArgs {
    /// Which.
    pub name: VmName,
}

/// A machine as `slipway ps` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// `stopped`, or QEMU's run state.
    pub state: String,
    /// QEMU's process, if it runs.
    pub pid: Option<i32>,
    /// Processors.
    pub cpus: u16,
    /// Memory in MiB.
    pub memory: u32,
    /// What runs, or ran, the guest's code.
    pub accelerator: accel::Accelerator,
    /// Seconds since it was started, if it runs.
    pub uptime: Option<u64>,
    /// Forwarded ports.
    pub forwards: Vec<Forward>,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// What its disk was made from.
    pub image: PathBuf,
}

/// The list; a table for people.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct Listing(pub Vec<Listed>);

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![
            [
                "NAME", "STATE", "UPTIME", "CPUS", "MEMORY", "PORTS", "IMAGE",
            ]
            .map(str::to_owned),
        ];
        for vm in &self.0 {
            let ports: Vec<String> = vm.forwards.iter().map(Forward::to_string).collect();
            rows.push([
                vm.name.clone(),
                vm.state.clone(),
                vm.uptime.map_or_else(|| "-".to_owned(), crate::time::short),
                vm.cpus.to_string(),
                format!("{}M", vm.memory),
                ports.join(","),
                vm.image.display().to_string(),
            ]);
        }
        let mut widths = [0; 7];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &rows {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                line.push_str(&format!("{cell:width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Runs `slipway ps`.
///
/// # Errors
/// [`Kind::Io`], [`Kind::Input`] for a corrupt record.
pub fn ps(_args: &PsArgs, context: &Context<'_>, progress: &Progress) -> Result<ExitCode> {
    let mut listed = Vec::new();
    for dir in context.state.list()? {
        match list(&dir) {
            Ok(Some(vm)) => listed.push(vm),
            // Removed since the directory was read.
            Ok(None) => {}
            // One that is broken must not hide the others.
            Err(e) => progress.warn(&e.to_string()),
        }
    }
    progress.result(&Listing(listed))?;
    Ok(ExitCode::SUCCESS)
}

fn list(dir: &VmDir) -> Result<Option<Listed>> {
    let Some(record) = dir.record()? else {
        return Ok(None);
    };
    let vm = match &record.process {
        Some(process) => Vm::find(dir.name(), dir.path(), process)?,
        None => None,
    };
    let state = match &vm {
        None => "stopped".to_owned(),
        // Somebody else may be talking to it just now; it runs in any case.
        Some(vm) => vm.status().unwrap_or_else(|_| "running".to_owned()),
    };
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    Ok(Some(Listed {
        name: dir.name().to_string(),
        state,
        pid: vm.as_ref().map(|vm| vm.process().pid),
        cpus: record.machine.cpus.get(),
        memory: record.machine.memory.0,
        accelerator: record.machine.accelerator,
        uptime: vm.is_some().then(|| now.saturating_sub(record.started)),
        forwards: record.machine.network.clone().unwrap_or_default(),
        kubeconfig: dir.kubeconfig(),
        image: record.image,
    }))
}

/// Runs `slipway stop`.
///
/// # Errors
/// [`Kind::Usage`] if there is no such machine or it doesn't run;
/// [`Kind::Timeout`] if it doesn't power off in time.
pub fn stop(args: &StopArgs, context: &Context<'_>, progress: &Progress) -> Result<ExitCode> {
    let dir = chosen(&context.state, args.name.as_ref())?;
    let _lock = dir.lock()?;
    let name = dir.name();
    let not_running = || slipway_qemu::Error::NotRunning(name.to_string());
    let mut record = dir.record()?.ok_or_else(not_running)?;
    let mut vm = match &record.process {
        Some(process) => Vm::find(name, dir.path(), process)?.ok_or_else(not_running)?,
        None => return Err(not_running().into()),
    };
    if args.force {
        vm.kill()?;
    } else {
        let _task = progress.task(format!("powering `{name}` off"), None);
        if !vm.power_down(Duration::from_secs(args.timeout))? {
            return Err(Error::new(
                Kind::Timeout,
                format!("`{name}` did not power off within {} s", args.timeout),
            )
            .hint(format!(
                "`slipway console {name}` shows what it does; `slipway stop --force {name}` pulls the plug"
            )));
        }
    }
    record.process = None;
    dir.write_record(&record)?;
    progress.say(&format!("`{name}` is off"));
    Ok(ExitCode::SUCCESS)
}

/// Runs `slipway rm`.
///
/// # Errors
/// [`Kind::Usage`] if there is no such machine, [`Kind::Missing`] if it runs.
pub fn rm(args: &RmArgs, context: &Context<'_>, progress: &Progress) -> Result<ExitCode> {
    let dir = context.state.existing(&args.name)?;
    let lock = dir.lock()?;
    // A record that can't be read names no process; the machine can go.
    if let Ok(Some(record)) = dir.record()
        && let Some(process) = record.process
        && process.is_alive()?
    {
        return Err(Error::new(
            Kind::Missing,
            format!("virtual machine `{}` is running", args.name),
        )
        .hint(format!("stop it first: slipway stop {}", args.name)));
    }
    dir.remove(&lock)?;
    progress.say(&format!("`{}` is removed", args.name));
    Ok(ExitCode::SUCCESS)
}
