//! `slipway`: the command. Arguments become requests here; the work is done in
//! the library.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use slipway::components::{self, Toolchains};
use slipway::keys::update::load_public;
use slipway::keys::{self, KeysCommand};
use slipway::progress::{self, Progress};
use slipway::run::{self, Context};
use slipway::seed::{self, SeedCommand};
use slipway::source::{Source, cache_dir};
use slipway::{Error, Kind, Result, build, bundle, channel, discover, firmware, flash, node};

/// Builds bootable, immutable Kubernetes images, and runs them.
#[derive(Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Report progress as JSON lines on stderr, and results as JSON on stdout.
    #[arg(long, global = true)]
    json: bool,
    /// The checkout to build from [default: the one around the current directory].
    #[arg(long, global = true, env = "SLIPWAY_SOURCE", value_name = "DIR")]
    source: Option<PathBuf>,
    /// Where fetched and built parts are kept between builds [default: the user's cache].
    #[arg(long, global = true, env = "SLIPWAY_CACHE", value_name = "DIR")]
    cache: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Build an image of a board.
    Build(BuildArgs),
    /// Build only the programs of a board, and link them by all their names into a
    /// directory, which is printed.
    Components(ComponentsArgs),
    /// Boot an image in QEMU.
    Run(run::RunArgs),
    /// List the machines that were run.
    Ps(run::PsArgs),
    /// Stop a machine as its power button would.
    Stop(run::StopArgs),
    /// Remove a machine that is stopped, with its disk.
    Rm(run::RmArgs),
    /// Show a machine's serial console.
    Console(run::ConsoleArgs),
    /// Write an image to a disk, read it back, and put a seed into it.
    Flash(flash::FlashArgs),
    /// Run kubectl against a machine's cluster.
    Kubectl(run::KubectlArgs),
    /// Make, check and compare seeds: what makes a machine its owner's.
    #[command(subcommand)]
    Seed(SeedCommand),
    /// Make an update bundle of an image, or look into one.
    Bundle(bundle::BundleArgs),
    /// Offer updates to nodes that look for them.
    #[command(subcommand)]
    Channel(channel::ChannelCommand),
    /// Make the keys that images and updates are signed with.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// List the nodes on this machine's networks.
    Discover(discover::DiscoverArgs),
    /// Talk to a node's own API: status, logs, seed, shell, and ends of many kinds.
    Node(node::NodeArgs),
}

#[derive(clap::Args)]
struct BuildArgs {
    /// Name of a board: a file in board-configs/ without its .toml.
    board: String,
    /// Where the image and what belongs to it go [default: target/images of the checkout].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Debian mirror to use instead of the one that this machine's apt uses.
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Take exactly the inputs of this lock, or refuse.
    #[arg(long, value_name = "FILE")]
    locked: Option<PathBuf>,
    /// The image's release number, by which nodes know an older image from a later one
    /// [default: when its newest Debian release was signed, in seconds since 1970].
    #[arg(long, value_name = "N", conflicts_with = "locked", value_parser = clap::value_parser!(u64).range(1..=i64::MAX as u64))]
    release: Option<u64>,
    /// A public key that nodes with this image take updates from. Can be given more than
    /// once; without any they take none.
    #[arg(
        long,
        env = "SLIPWAY_UPDATE_KEY",
        value_delimiter = ',',
        value_name = "PUB"
    )]
    update_key: Vec<PathBuf>,
    /// Go on without the updates of a Debian suite whose index is past its date
    /// on the mirror, or another than was signed (both are refused by default), and
    /// note it in the manifest.
    #[arg(long, env = "SLIPWAY_SKIP_STALE")]
    skip_stale: bool,
    /// Sign loader and kernel for Secure Boot, with the keys that `slipway keys new` left in
    /// this directory.
    #[arg(long, value_name = "DIR")]
    secure_boot_keys: Option<PathBuf>,
}

#[derive(clap::Args)]
struct ComponentsArgs {
    /// Name of a board.
    board: String,
    /// The directory [default: target/images/components/BOARD of the checkout].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let progress = Progress::new(cli.json);
    // Machines in the foreground have signal handling of their own: the first
    // Ctrl-C is their power button.
    let watched = match cli.command {
        // A log is followed, and a shell sat at, until they are simply ended.
        Command::Run(_) | Command::Console(_) | Command::Node(_) => Ok(()),
        _ => watch_signals(),
    };
    match watched.and_then(|()| run(cli, &progress)) {
        Ok(code) => code,
        Err(error) => {
            progress.fail(&error);
            ExitCode::from(error.kind as u8)
        }
    }
}

fn run(cli: Cli, progress: &Progress) -> Result<ExitCode> {
    let cache = cache_dir(cli.cache.clone())?;
    let images = || match Source::find(cli.source.as_deref()) {
        Ok(source) => source.path(IMAGES),
        // An image can be run from anywhere by its path.
        Err(_) => PathBuf::from(IMAGES),
    };
    let fetch_firmware =
        |arch, loader| firmware::fetch(arch, loader, cli.source.as_deref(), &cache, progress);
    let context = || -> Result<Context<'_>> {
        Ok(Context {
            state: slipway_qemu::StateDir::from_env()?,
            images: images(),
            fetch_firmware: &fetch_firmware,
        })
    };
    match cli.command {
        Command::Build(args) => build_image(args, cli.source.as_deref(), cache.clone(), progress),
        Command::Components(args) => {
            let source = Source::find(cli.source.as_deref())?;
            let out = args
                .out
                .unwrap_or_else(|| source.path(IMAGES).join("components").join(&args.board));
            build::components(&source, &args.board, &out, &cache, progress)?;
            progress.result(&Directory { directory: out })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run(args) => run::run(&args, &context()?, progress),
        Command::Ps(args) => run::ps(&args, &context()?, progress),
        Command::Stop(args) => run::stop(&args, &context()?, progress),
        Command::Rm(args) => run::rm(&args, &context()?, progress),
        Command::Console(args) => run::console(&args, &context()?, progress),
        Command::Flash(args) => {
            progress.result(&flash::flash(&args, &images(), progress)?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Discover(args) => {
            discover::run(&args, progress)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Node(args) => node::run(&args, &context()?, progress),
        Command::Kubectl(args) => {
            let source = Source::find(cli.source.as_deref())?;
            let tools = Toolchains::find(&source)?;
            let kubectl =
                components::host_tool(&source, &tools, components::KUBECTL, &cache, progress)?;
            match run::kubectl(&args, &context()?, &kubectl.path)? {}
        }
        Command::Bundle(args) => bundle::run(args, &cache, progress),
        Command::Channel(command) => channel::run(&command, progress),
        Command::Seed(command) => seed::run(&command, progress),
        Command::Keys(command) => keys::run(&command, progress),
    }
}

/// What `slipway components` made.
#[derive(serde::Serialize)]
struct Directory {
    directory: PathBuf,
}

impl std::fmt::Display for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.directory.display().fmt(f)
    }
}

/// Where images go in a checkout unless asked otherwise.
const IMAGES: &str = "target/images";

fn build_image(
    args: BuildArgs,
    source: Option<&Path>,
    cache: PathBuf,
    progress: &Progress,
) -> Result<ExitCode> {
    let source = Source::find(source)?;
    let request = build::Request {
        board: args.board,
        out: args.out.unwrap_or_else(|| source.path(IMAGES)),
        mirror: args.mirror,
        locked: args.locked,
        release: args.release,
        update_keys: args
            .update_key
            .iter()
            .map(|path| load_public(path))
            .collect::<Result<_>>()?,
        skip_stale: args.skip_stale,
        cache,
        secure_boot_keys: args.secure_boot_keys,
    };
    let built = build::build(&source, &request, progress)?;
    progress.result(&built)?;
    Ok(ExitCode::SUCCESS)
}

/// Ctrl-C and SIGTERM ask the work to stop at its next step; a second one ends
/// the process at once, or as soon as nothing short is half-written.
fn watch_signals() -> Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let failed = |e: std::io::Error| Error::new(Kind::Bug, format!("watching signals: {e}"));
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    std::thread::spawn(move || {
        let mut forever = signals.forever();
        forever.next();
        progress::interrupt();
        forever.next();
        progress::Whole::when_none(|| std::process::exit(i32::from(Kind::Interrupted as u8)))
    });
    Ok(())
}
