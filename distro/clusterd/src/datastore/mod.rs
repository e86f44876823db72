//! The datastore's past: snapshots of it before a switch to another version, and the way back.
//!
//! An older Kubernetes may be unable to read what a newer minor wrote. So before a newer minor
//! begins to write, what the older one left is kept; and an older one that finds a datastore
//! of a newer minor takes up again what was kept (`decide.rs` has the table). Within a minor,
//! data stay as they are, forwards and backwards.

mod decide;
mod engine;
mod record;
mod restore;
mod snapshots;
mod version;

use std::io::Write as _;
use std::path::Path;

use slipway_images::node::{EVENTS_FILE, Event};

use crate::error::{Context, Error};
use crate::log::info;
use crate::options::Config;
use crate::paths::Paths;
use decide::{Step, decide};
use engine::Engine;
use snapshots::{Snapshot, Snapshots};
use version::Writer;

pub use engine::DATABASE;
pub use version::Kubernetes;

/// Makes the datastore ready to be used by the version that runs, before anything uses it.
pub fn prepare(config: &Config) -> Result<(), Error> {
    prepare_for(
        config,
        &Writer::running(&config.paths, config.bin.as_deref())?,
    )
}

fn prepare_for(config: &Config, running: &Writer) -> Result<(), Error> {
    let paths = &config.paths;
    let datastore = paths.datastore();
    let kept = Snapshots::open(&paths.snapshots())?;
    restore::settle(paths)?;
    if let Some((engine, last)) = Engine::of(&datastore)?.zip(record::read(&datastore)?) {
        let refused = || newer(&datastore, &last, running);
        let all = kept.list()?;
        match decide(running.kubernetes.minor(), last.kubernetes.minor(), &all) {
            Step::GoOn => {}
            Step::Snapshot => {
                let was = last.kubernetes.clone();
                let taken = kept.take(engine, &datastore, last, config.bin.as_deref())?;
                let text = format!(
                    "Kubernetes {} takes over the datastore; as {was} left it, it is kept as snapshot {}",
                    running.kubernetes, taken.number
                );
                tell(paths, &text);
            }
            Step::Restore(readable) => {
                let snapshot = first_whole(&kept, &readable).ok_or_else(refused)?;
                restore::build(paths, &kept, snapshot)?;
                restore::exchange(paths)?;
                let aside = restore::settle(paths)?;
                let text = format!(
                    "Kubernetes {} can't read what {} wrote: the datastore is again what {} left, snapshot {}; what was changed since is in {}",
                    running.kubernetes,
                    last.kubernetes,
                    snapshot.writer.kubernetes,
                    snapshot.number,
                    aside.unwrap_or_default().display()
                );
                tell(paths, &text);
            }
            Step::Refuse => return Err(refused()),
        }
    }
    record::write(&datastore, running)
}

/// The first that is what its description says.
fn first_whole<'a>(kept: &Snapshots, readable: &[&'a Snapshot]) -> Option<&'a Snapshot> {
    readable.iter().copied().find(|snapshot| {
        let checked = kept.check(snapshot);
        if let Err(why) = &checked {
            info!("snapshot {} can't be used: {why}", snapshot.number);
        }
        checked.is_ok()
    })
}

fn newer(datastore: &Path, last: &Writer, running: &Writer) -> Error {
    Error::State {
        what: datastore.display().to_string(),
        reason: format!(
            "Kubernetes {} wrote it, {} runs here and can't read it, and no snapshot from before is kept",
            last.kubernetes, running.kubernetes
        ),
        remedy: "boot a version with that Kubernetes, or restore a backup",
    }
}

/// Says what has happened to the datastore, in the log and among the node's events.
fn tell(paths: &Paths, text: &str) {
    info!("datastore: {text}");
    let event = Event::now("datastore", "clusterd", text);
    match event.append(&paths.root().join(EVENTS_FILE)) {
        // Outside of an image there is nobody to tell.
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            info!("the event can't be kept: {error}");
        }
        _ => {}
    }
}

/// `clusterd snapshot`: takes one now, whether the datastore is in use or not, and prints its
/// description; `null` where there is no datastore.
pub fn snapshot(paths: &Paths, bin: Option<&Path>) -> Result<(), Error> {
    let datastore = paths.datastore();
    let mut taken = None;
    if let Some(engine) = Engine::of(&datastore)? {
        let writer = match record::read(&datastore)? {
            Some(writer) => writer,
            None => Writer::running(paths, bin)?,
        };
        let kept = Snapshots::open(&paths.snapshots())?;
        taken = Some(kept.take(engine, &datastore, writer, bin)?);
    }
    let text = serde_json::to_string(&taken).map_err(std::io::Error::from);
    text.and_then(|text| writeln!(std::io::stdout(), "{text}"))
        .context(|| "write to stdout".to_owned())
}

#[cfg(test)]
mod tests;
