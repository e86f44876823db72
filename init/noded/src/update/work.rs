//! One update from its bundle to the slot that the next boot takes. [`run`] is the walk.

use std::ops::ControlFlow;
use std::process::Command;

use slipway_images::bundle::{
    Allow, Bundle, BundleError, Digest, NodeFacts, Places, Progress, Source, Step,
};
use slipway_images::info::ImageInfo;
use slipway_images::node::update::{How, UpdateStep};
use slipway_images::slot::Disk;
use slipway_init::files;
use slipway_init::find::{self, RootWish};

use super::places::Node;
use super::stop::Word;
use super::trust::{self, Trust};
use super::{Stop, firmware};
use crate::paths::Paths;

/// Keeps the datastore of what runs.
const CLUSTERD: &str = "usr/bin/clusterd";

/// Why there is no new version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// Somebody has stopped it.
    Stopped,
    /// It goes on over another connection.
    TakenOver,
    /// It runs already: it was staged before, and booted.
    Runs,
    /// One line.
    Why(String),
}

impl<E: std::fmt::Display> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Why(error.to_string())
    }
}

/// What is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// What is being done now.
    Step(UpdateStep),
    /// The version that it brings.
    Version(String),
    /// The slot is about to be written: what it held can't be booted any more.
    Begins,
    /// How far it is.
    Progress(Progress),
}

/// Does an update. Gives the version that was staged.
///
/// # Errors
/// [`Failed`]. Before [`Report::Begins`] nothing was written; after it the slot can't be
/// booted, and an update that is begun again goes on where this one was.
pub fn run(
    paths: &Paths,
    how: How,
    head: Option<Digest>,
    source: &mut dyn Source,
    stop: &Stop,
    report: &(dyn Fn(Report) + Sync),
) -> Result<String, Failed> {
    report(Report::Step(UpdateStep::Check));
    let trust = Trust::load(paths)?;
    let bundle = Bundle::open(source, &trust.keys).map_err(|error| trust.explain(&error))?;
    if head.is_some_and(|head| head != bundle.head()) {
        return Err(Failed::Why(
            "the bundle isn't the one that the channel's index names: publish it again".into(),
        ));
    }
    let version = bundle.manifest().version.clone();
    report(Report::Version(version.clone()));

    let info = ImageInfo::read(&paths.image_info())?;
    let mut node = Node::open(paths)?;
    let firmware = firmware::read(paths)?;
    let bad_versions = node.slots.status().bad_versions;
    let facts = NodeFacts {
        board: &info.board,
        version: &info.version,
        release: info.release(),
        root_hash: running_root(paths),
        slot_size: node.root.1,
        boot_room: node.slots.boot_room()?,
        supports: &[],
        bad_versions: &bad_versions,
        firmware: firmware.as_ref(),
    };
    let allow = Allow {
        downgrade: how.allow_downgrade,
        bad: how.force,
    };
    let admitted = bundle.admit(&facts, allow).map_err(|error| match error {
        BundleError::Running(_) => Failed::Runs,
        error => error.into(),
    })?;
    // Refused here, and not after the slot is taken apart.
    node.slots.inactive().map(|_free| ())?;
    report(Report::Step(UpdateStep::Snapshot));
    snapshot(paths)?;
    stop.check()?;
    trust::keep(paths, &admitted)?;

    report(Report::Begins);
    let mut writing = node.slots.inactive()?.begin(&admitted.plan())?;
    let mut places = Places {
        root: &mut node.root.0,
        running_root: (node.running.as_mut()).map(|file| file as &mut (dyn Disk + Send)),
        kernel: &mut writing,
    };
    let mut watch = |progress: &Progress| {
        report(Report::Step(match progress.step {
            Step::Compare => UpdateStep::Compare,
            Step::Write => UpdateStep::Write,
            Step::Verify => UpdateStep::Verify,
        }));
        report(Report::Progress(*progress));
        match stop.told() {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    };
    let done = admitted
        .prepare(&mut places, &mut watch)
        .and_then(|prepared| prepared.run(source, &mut places, &mut watch));
    let verified = match done {
        Ok(verified) => verified,
        Err(error) if stop.told() == Some(Word::Stop) => {
            // What was written stays on the partition, for another update to find.
            writing.abandon()?;
            tell_slots(paths, &node);
            return Err(error.into());
        }
        Err(error) => {
            tell_slots(paths, &node);
            return Err(error.into());
        }
    };
    writing.finish(verified)?;
    tell_slots(paths, &node);
    Ok(version)
}

/// The root hash of what runs, as the kernel's command line has it.
pub fn running_root(paths: &Paths) -> Option<slipway_images::verity::RootHash> {
    match find::root_wish_of_boot(paths.root()) {
        Ok(RootWish::Verified(hash)) => Some(hash),
        _ => None,
    }
}

/// Has the datastore kept; where there is a cluster to be.
fn snapshot(paths: &Paths) -> Result<(), Failed> {
    let program = paths.at(CLUSTERD);
    if !program.exists() {
        return Ok(());
    }
    let output = Command::new(&program)
        .arg("snapshot")
        .arg("--root")
        .arg(paths.root())
        .output()
        .map_err(|error| format!("starting {}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.trim().lines().last().unwrap_or("it didn't say why");
    let why = last.trim_start_matches("clusterd: ");
    Err(Failed::Why(format!("the datastore can't be kept: {why}")))
}

/// Shows how the slots are now.
fn tell_slots(paths: &Paths, node: &Node) {
    let told = serde_json::to_vec_pretty(&node.slots.status())
        .map_err(std::io::Error::from)
        .and_then(|text| files::write_atomically(&paths.slots(), &text, 0o644));
    if let Err(error) = told {
        crate::notice!("how the slots are can't be shown: {error}");
    }
}
