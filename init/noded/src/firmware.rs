//! What runs before a slot is chosen: how it differs from what the image carries, and renewing
//! it ([`slipway_images::firmware`]). The boot partition is opened alone, as for an update, so
//! nothing else changes it meanwhile.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use hyper::StatusCode;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use slipway_images::firmware::{
    DIRECTORY, Found, MANIFEST, Manifest, Piece, Place, Places, version,
};
use slipway_images::info::ImageInfo;
use slipway_images::node::Event;
use slipway_images::node::api::{Firmware, FirmwarePiece, FirmwareState};
use slipway_images::slot::{Disk, SlotsStatus, State};
use slipway_init::files::read_json;
use slipway_init::slots;

use crate::answer::{Outcome, Refusal, json};
use crate::audit;
use crate::notice;
use crate::paths::Paths;
use crate::routes::Call;

/// What was found last: nobody else changes it, and to read it takes seconds from a slow card.
#[derive(Default)]
pub struct Known(Mutex<Option<Firmware>>);

impl Known {
    /// What there is, looked at once; none where the image carries nothing, or it can't be read.
    pub fn get(&self, paths: &Paths) -> Option<Firmware> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            *known = look(paths).ok();
        }
        known.clone()
    }

    fn set(&self, firmware: Firmware) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(firmware);
    }
}

/// `GET /v1/firmware`
pub async fn show(call: Call) -> Outcome {
    let app = call.app.clone();
    let found = call.app.blocking(move || look(&app.paths)).await??;
    call.app.firmware.set(found.clone());
    json(&found)
}

/// `POST /v1/firmware`
pub async fn renew(call: Call) -> Outcome {
    let app = call.app.clone();
    if app.updates.under_way() {
        let why = "an update is under way: wait for it, or stop it";
        return Err(Refusal::new(StatusCode::CONFLICT, why));
    }
    audit::note(&call, "renews the firmware");
    let done = call.app.blocking(move || {
        let done = write(&app.paths);
        if let Ok(found) = look(&app.paths) {
            app.firmware.set(found);
        }
        let what = match &done {
            Ok(0) => "the firmware is the image's already".to_owned(),
            Ok(count) => format!("{count} pieces of firmware were renewed"),
            Err(refusal) => format!("renewing the firmware failed: {}", refusal.error),
        };
        notice!("{what}");
        if let Err(error) = Event::now("firmware", "", what).append(&app.paths.events()) {
            notice!("the event can't be kept: {error}");
        }
        done.and_then(|_| look(&app.paths))
    });
    json(&done.await??)
}

/// The boot partition, or the whole disk. What is read after a flush comes from the medium.
struct Device(File);

impl Disk for Device {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        Disk::read_at(&mut self.0, offset, buffer)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        Disk::write_at(&mut self.0, offset, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        Ok(posix_fadvise(
            &self.0,
            0,
            0,
            PosixFadviseAdvice::POSIX_FADV_DONTNEED,
        )?)
    }
}

/// The pieces, and where they belong; opened by `open`.
fn open(
    paths: &Paths,
    open: fn(&Path) -> io::Result<File>,
) -> Result<(Manifest, Places<Device>), Refusal> {
    let carried = paths.at(DIRECTORY).join(MANIFEST);
    let manifest: Manifest = read_json(&carried).ok_or_else(|| {
        let why = "the image carries no firmware for its board";
        Refusal::new(StatusCode::NOT_FOUND, why)
    })?;
    let info = ImageInfo::read(&paths.image_info()).map_err(|e| Refusal::failed(e.to_string()))?;
    let name = slots::boot_partition(info.loader);
    let path = slots::partition(paths.root(), name)
        .ok_or_else(|| Refusal::failed(format!("the disk has no partition {name}")))?;
    let unusable = |error: &dyn std::fmt::Display| {
        Refusal::failed(format!("the boot partition {}: {error}", path.display()))
    };
    let partition = open(&path).map_err(|error| unusable(&error))?;
    let is_raw = |piece: &Piece| matches!(piece.place, Place::Raw(_));
    // Not alone: its partitions are mounted.
    let whole = |path| File::options().read(true).write(true).open(path);
    let disk = match manifest.pieces.iter().any(is_raw) {
        true => slots::disk(paths.root()).and_then(|path| whole(path).ok()),
        false => None,
    };
    let places = Places::open(Device(partition), disk.map(Device));
    Ok((manifest, places.map_err(|error| unusable(&error))?))
}

/// Looks at all of it; changes nothing.
fn look(paths: &Paths) -> Result<Firmware, Refusal> {
    let (manifest, mut places) = open(paths, |path| File::open(path))?;
    let mut pieces = Vec::new();
    for piece in &manifest.pieces {
        let found = places.look(piece);
        let found = found.map_err(|error| Refusal::failed(error.to_string()))?;
        let content = content(paths, piece);
        let image = content.ok().and_then(|content| version(&content));
        let (state, version) = match found {
            Found::Same => (FirmwareState::Same, image.clone()),
            Found::Other(version) => (FirmwareState::Differs, version),
            Found::Nothing => (FirmwareState::Missing, None),
        };
        pieces.push(FirmwarePiece {
            place: piece.place.to_string(),
            state,
            version,
            image,
        });
    }
    Ok(Firmware { pieces })
}

/// The image's file for a piece.
fn content(paths: &Paths, piece: &Piece) -> io::Result<Vec<u8>> {
    std::fs::read(paths.at(DIRECTORY).join(&piece.sha256))
}

/// Writes what differs. Gives how many pieces that were.
fn write(paths: &Paths) -> Result<usize, Refusal> {
    let slots: Option<SlotsStatus> = read_json(&paths.slots());
    let proved = slots.is_some_and(|slots| slots.of(slots.booted).state == State::Good);
    if !proved {
        let why = "the version that runs has still to prove itself: wait until it is committed";
        return Err(Refusal::new(StatusCode::CONFLICT, why));
    }
    let (manifest, mut places) = open(paths, slots::open)?;
    places
        .renew(&manifest.pieces, &mut |piece| content(paths, piece))
        .map_err(|error| Refusal::failed(error.to_string()))
}
