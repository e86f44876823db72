//! `slipway kubectl`: upstream's kubectl, of the very version that the node
//! runs, as the administrator of a machine's cluster.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use clap::Args;
use slipway_qemu::VmName;

use super::{Context, chosen};
use crate::error::{Error, Kind, Result};

/// Run kubectl against a machine's cluster.
#[derive(Debug, Clone, Args)]
#[command(disable_help_flag = true)]
pub struct KubectlArgs {
    /// Which machine [default: the only one that runs]; comes before kubectl's
    /// own arguments.
    #[arg(long)]
    pub name: Option<VmName>,
    /// What kubectl gets.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<OsString>,
}

/// Becomes kubectl, which is at `program`.
///
/// # Errors
/// [`Kind::Usage`] if there is no such machine, [`Kind::Missing`] if the program
/// isn't there or can't be run. On success it doesn't return.
pub fn kubectl(args: &KubectlArgs, context: &Context<'_>, program: &Path) -> Result<Infallible> {
    let dir = chosen(&context.state, args.name.as_ref())?;
    let error = Command::new(program)
        .arg0("kubectl")
        .args(&args.args)
        .env("KUBECONFIG", dir.kubeconfig())
        .exec();
    Err(Error::new(
        Kind::Missing,
        format!("running kubectl ({}): {error}", program.display()),
    )
    .hint("`slipway build` makes it along with an image"))
}
