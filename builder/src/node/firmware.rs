//! `slipway node firmware-update`: what runs before a slot is chosen.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use slipway_images::node::api::{Firmware, FirmwarePiece, FirmwareState};

use super::client::Client;
use super::{confirm, name};
use crate::error::Result;
use crate::progress::Progress;

/// A few MiB on the slowest card, written and read back.
const LIMIT: Duration = Duration::from_secs(300);

/// Its pieces for people.
#[derive(Serialize)]
#[serde(transparent)]
struct Shown(Firmware);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pieces = &self.0.pieces;
        let width = pieces.iter().map(|p| p.place.len()).max().unwrap_or(0);
        for (n, piece) in pieces.iter().enumerate() {
            let end = if n == 0 { "" } else { "\n" };
            write!(f, "{end}{:width$}  {}", piece.place, change(piece))?;
        }
        Ok(())
    }
}

/// What becomes of a piece.
fn change(piece: &FirmwarePiece) -> String {
    let of = |version: &Option<String>| version.as_deref().unwrap_or("a file").to_owned();
    match (piece.state, &piece.version, &piece.image) {
        (FirmwareState::Same, None, _) => "the image's".to_owned(),
        (FirmwareState::Same, Some(version), _) => format!("{version}, the image's"),
        (FirmwareState::Missing, _, image) => format!("missing, to be {}", of(image)),
        (FirmwareState::Differs, None, None) => "differs from the image's".to_owned(),
        (FirmwareState::Differs, version, image) if version == image => {
            format!("another build of {}", of(version))
        }
        (FirmwareState::Differs, version, image) => format!("{} to {}", of(version), of(image)),
    }
}

/// The pieces that aren't what the image carries.
fn differing(firmware: &Firmware) -> impl Iterator<Item = &FirmwarePiece> {
    let pieces = firmware.pieces.iter();
    pieces.filter(|piece| piece.state != FirmwareState::Same)
}

/// One line on it.
pub fn summary(firmware: &Firmware) -> String {
    let changes: Vec<String> = differing(firmware)
        .map(|piece| format!("{} ({})", piece.place, change(piece)))
        .collect();
    match changes.is_empty() {
        true => "as the image has it".to_owned(),
        false => format!(
            "differs from the image's: {}; `slipway node firmware-update` renews it",
            changes.join(", ")
        ),
    }
}

/// Tells what would change, asks, and has it written.
///
/// # Errors
/// Those of [`super::run`]; [`Kind::Interrupted`](crate::error::Kind::Interrupted) for a no.
pub fn update(client: &Client, yes: bool, dry_run: bool, progress: &Progress) -> Result<()> {
    let before: Firmware = client.get("/v1/firmware")?;
    let count = differing(&before).count();
    if count == 0 || dry_run {
        return progress.result(&Shown(before));
    }
    let node = name(client)?;
    progress.say(&Shown(before).to_string());
    progress.warn(&format!(
        "a power cut while this is written can leave {node} unable to start until its card or disk is written anew"
    ));
    confirm(yes, &format!("renew the firmware of {node}"))?;
    let after: Firmware = {
        let _task = progress.task("writing and reading back", None);
        client.send_within(LIMIT, "POST", "/v1/firmware", None)?
    };
    progress.result(&Shown(after))?;
    progress.say("the next boot uses it");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_said_in_a_line() {
        let piece =
            |place: &str, state, version: Option<&str>, image: Option<&str>| FirmwarePiece {
                place: place.into(),
                state,
                version: version.map(str::to_owned),
                image: image.map(str::to_owned),
            };
        let (same, differs) = (FirmwareState::Same, FirmwareState::Differs);
        let mut firmware = Firmware {
            pieces: vec![
                piece("u-boot.bin", same, Some("U-Boot 2"), Some("U-Boot 2")),
                piece("config.txt", same, None, None),
            ],
        };
        assert_eq!(summary(&firmware), "as the image has it");
        firmware.pieces.extend([
            piece("start4.elf", differs, Some("1"), Some("2")),
            piece("fixup4.dat", differs, None, None),
            piece("MLO", differs, Some("2"), Some("2")),
            piece("new.dtb", FirmwareState::Missing, None, None),
        ]);
        let shown = Shown(firmware.clone()).to_string();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines,
            [
                "u-boot.bin  U-Boot 2, the image's",
                "config.txt  the image's",
                "start4.elf  1 to 2",
                "fixup4.dat  differs from the image's",
                "MLO         another build of 2",
                "new.dtb     missing, to be a file",
            ]
        );
        assert!(summary(&firmware).contains("start4.elf (1 to 2), fixup4.dat"));
    }
}
