//! `slipway channel`: a directory that nodes look into for their next version, on any web
//! server that knows ranges. The format is [`slipway_images::bundle::channel`]'s.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use serde::Serialize;
use slipway_images::bundle::Bundle;
use slipway_images::bundle::channel::{INDEX_LIMIT, Index, KIND, index_name};
use slipway_images::bundle::keys::PublicKey;

use crate::atomic::{self, Pending};
use crate::bundle::refused;
use crate::error::{At as _, Error, Kind, Result};
use crate::keys::update::{PrivateKey, load_public};
use crate::progress::Progress;
use crate::time;

/// What is done with channels.
#[derive(Debug, Subcommand)]
pub enum ChannelCommand {
    /// Offer a bundle in a channel, or offer it to more nodes, or for longer.
    Publish(PublishArgs),
}

/// What is published.
#[derive(Debug, Clone, Args)]
pub struct PublishArgs {
    /// The channel: a directory that a web server shows.
    pub dir: PathBuf,
    /// The bundle.
    pub bundle: PathBuf,
    /// The private key that has signed the bundle. It signs the channel's index.
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// The public key that has signed the index until now, if the key was changed.
    #[arg(long, value_name = "PUB")]
    pub previous_key: Option<PathBuf>,
    /// For how many hundredths of the nodes it is.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub percent: u8,
    /// For how many days nodes believe the index. Publish again before they are over.
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub expires: u16,
}

/// What a channel offers now.
#[derive(Debug, Serialize)]
pub struct Published {
    /// The index that was written.
    pub path: PathBuf,
    /// What it says.
    pub index: Index,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Index {
            board,
            version,
            percent,
            expires,
            sequence,
            ..
        } = &self.index;
        write!(
            f,
            "{}: {board} {version} for {percent} % of the nodes until {} (publication {sequence})",
            self.path.display(),
            time::rfc3339(*expires)
        )
    }
}

/// Does it.
///
/// # Errors
/// Those of the command.
pub fn run(command: &ChannelCommand, progress: &Progress) -> Result<ExitCode> {
    match command {
        ChannelCommand::Publish(args) => progress.result(&publish(args, progress)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Puts the bundle there, then the index that names it.
///
/// # Errors
/// [`Kind::Untrusted`] if bundle or channel are signed with another key; [`Kind::Input`] if the
/// channel offers a later release, which nodes have taken perhaps; [`Kind::Io`].
pub fn publish(args: &PublishArgs, progress: &Progress) -> Result<Published> {
    let key = PrivateKey::load(&args.key)?;
    let mut source = File::open(&args.bundle).at("opening", &args.bundle)?;
    let size = source.metadata().at("reading", &args.bundle)?.len();
    let bundle =
        Bundle::open(&mut source, &[key.public()]).map_err(|e| refused(&args.bundle, &e))?;
    let manifest = bundle.manifest();
    let path = args.dir.join(index_name(&manifest.board));
    let mut signers = vec![key.public()];
    if let Some(previous) = &args.previous_key {
        signers.push(load_public(previous)?);
    }
    let before = current(&path, &signers)?;
    if let Some(before) = before.as_ref().filter(|b| b.release > manifest.release) {
        return Err(Error::new(
            Kind::Input,
            format!(
                "{} offers {} already, which is later than {}: no node would go back",
                path.display(),
                before.version,
                manifest.version
            ),
        )
        .hint("publish a later release; or take the offer back: --percent 0 with the bundle that is offered"));
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|_| Error::new(Kind::Missing, "this machine's clock is before 1970"))?
        .as_secs();
    let index = Index {
        board: manifest.board.clone(),
        sequence: before.map_or(1, |before| before.sequence + 1),
        expires: i64::try_from(now + u64::from(args.expires) * 86_400).unwrap_or(i64::MAX),
        version: manifest.version.clone(),
        release: manifest.release,
        file: format!("{}-{}.slip", manifest.board, manifest.version),
        size,
        head: bundle.head(),
        percent: args.percent,
    };
    index
        .check()
        .map_err(|e| Error::new(Kind::Input, format!("no node would take the index: {e}")))?;
    place(&args.bundle, &args.dir.join(&index.file), size, progress)?;
    let json = serde_json::to_vec(&index)
        .map_err(|e| Error::new(Kind::Bug, format!("writing the index: {e}")))?;
    atomic::write(&path, &key.document(&KIND, &json), 0o644)?;
    Ok(Published { path, index })
}

/// What the channel offers until now.
fn current(path: &Path, signers: &[PublicKey]) -> Result<Option<Index>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read.at("reading", path)?,
    };
    let bytes = &bytes[..bytes.len().min(INDEX_LIMIT)];
    Index::open(bytes, signers).map(Some).map_err(|e| {
        Error::new(Kind::Untrusted, e.to_string())
            .within(path.display())
            .hint("its number must go on from there: name the key that has signed it, --previous-key, or another directory")
    })
}

/// Copies the bundle into the channel, unless it is there.
fn place(from: &Path, to: &Path, size: u64, progress: &Progress) -> Result<()> {
    let same = |a: &Path, b: &Path| -> io::Result<bool> {
        Ok(fs::canonicalize(a)? == fs::canonicalize(b)?)
    };
    if same(from, to).unwrap_or(false) {
        return Ok(());
    }
    let task = progress.task("copying the bundle", Some(size));
    let mut source = File::open(from).at("opening", from)?;
    let mut pending = Pending::create(to)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        progress.check()?;
        let n = io::Read::read(&mut source, &mut buffer).at("reading", from)?;
        if n == 0 {
            return pending.commit(0o644);
        }
        io::Write::write_all(pending.file(), &buffer[..n]).at("writing", to)?;
        task.add(n as u64);
    }
}
