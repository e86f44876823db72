//! Answers for people.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use slipway_images::node::api::{Logs, SeedDiff, Status};
use slipway_images::node::{Event, Phase, PhaseResult};
use slipway_images::seed::Effect;
use slipway_images::slot::{Slot, SlotsStatus};

use crate::error::Result;
use crate::progress::Progress;
use crate::time;

/// A node's status as a page.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Shown(pub Status);

/// Bytes in the unit that gives few digits.
fn size(bytes: u64) -> String {
    match bytes {
        0..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

/// A slot: its state, what is in it, and why it is bad.
fn slot_line(slots: &SlotsStatus, slot: Slot) -> String {
    let of = slots.of(slot);
    let mut text = format!("{slot} {}", of.state.word());
    if let Some(version) = &of.version {
        text.push_str(&format!(", {version}"));
    }
    if slot == slots.booted {
        text.push_str(", runs");
    }
    if slots.next == Some(slot) && slot != slots.booted {
        text.push_str(", boots next");
    }
    if let Some(left) = of.tries_left {
        text.push_str(&format!(", {left} more tries"));
    }
    if let Some(why) = &of.why {
        text.push_str(&format!(": {why}"));
    }
    text
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = &self.0;
        let mut line = |key: &str, value: &str| writeln!(f, "{key:12}{value}");
        line("node", &status.name)?;
        if let Some(image) = &status.image {
            let slot = status.slot.as_ref();
            let slot = slot.map_or_else(String::new, |slot| format!(", slot {slot}"));
            line(
                "image",
                &format!("{} for {}{slot}", image.version, image.board),
            )?;
            line("kubernetes", &image.kubernetes)?;
        }
        for slot in Slot::BOTH {
            if let Some(slots) = &status.slots {
                line("slot", &slot_line(slots, slot))?;
            }
        }
        if let Some(overlay) = &status.overlay {
            line("overlays", overlay)?;
        }
        if let Some(bootloader) = &status.bootloader {
            line("bootloader", bootloader)?;
        }
        if let Some(firmware) = &status.firmware {
            line("firmware", &super::firmware::summary(firmware))?;
        }
        line("kernel", &status.kernel)?;
        if let Some(on) = status.secure_boot {
            line("secure boot", if on { "on" } else { "off" })?;
        }
        line(
            "up",
            &format!("{}, load {:.2}", time::short(status.uptime), status.load),
        )?;
        let memory = status.memory;
        let free = format!("{} of {} free", size(memory.available), size(memory.total));
        line("memory", &free)?;
        match &status.cluster {
            Some(cluster) => line("cluster", &cluster.message)?,
            None => line("cluster", "none")?,
        }
        if let Some(boot) = &status.boot {
            if let Some(ending) = &boot.ending {
                line("state", ending)?;
            }
            // Where it is from; one that failed is told below.
            let seeds = ["seed", "seed by URL", "applied seed"];
            let told = |p: &&Phase| {
                seeds.contains(&p.name.as_str())
                    && p.result == PhaseResult::Done
                    && !p.note.starts_with("none")
            };
            for phase in boot.phases.iter().filter(told) {
                line("seed", &phase.note)?;
            }
            for phase in boot
                .phases
                .iter()
                .filter(|p| p.result == PhaseResult::Failed)
            {
                line("degraded", &format!("{}: {}", phase.name, phase.note))?;
            }
            for service in &boot.services {
                let restarts = match service.restarts {
                    0 => String::new(),
                    n => format!(", restarted {n} times"),
                };
                let said = match service.status.as_str() {
                    "" => String::new(),
                    said => format!(" ({said})"),
                };
                let state = service.state.word();
                let value = format!("{} {state}{restarts}{said}", service.name);
                line("service", &value)?;
            }
            for address in &boot.addresses {
                let value = format!("{} on {}", address.address, address.interface);
                line("address", &value)?;
            }
        }
        for disk in &status.disks {
            line(
                "disk",
                &format!("{} {} {}", disk.name, size(disk.size), disk.model),
            )?;
        }
        for fs in &status.filesystems {
            let note = if fs.read_only { ", read-only" } else { "" };
            let (free, all) = (size(fs.free), size(fs.size));
            line(
                "mount",
                &format!("{} {free} of {all} free{note}", fs.mount_point),
            )?;
        }
        for temperature in &status.temperatures {
            let value = format!("{:.1} °C {}", temperature.celsius, temperature.sensor);
            line("temperature", &value)?;
        }
        Ok(())
    }
}

/// The logs there are.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Names(pub Logs);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.names.join("\n"))
    }
}

/// What applying a seed changes.
#[derive(Serialize)]
#[serde(transparent)]
pub struct Changes(pub SeedDiff);

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.0.changes {
            writeln!(f, "{change}")?;
        }
        f.write_str(self.0.effect.map_or("nothing changes", Effect::advice))
    }
}

/// Where something was written.
#[derive(Serialize)]
pub struct Saved {
    /// The file.
    pub file: PathBuf,
}

impl fmt::Display for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.display().fmt(f)
    }
}

/// An event as a line; its time of day is UTC.
#[derive(Serialize)]
#[serde(transparent)]
struct Line(Event);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Event {
            time,
            kind,
            subject,
            message,
        } = &self.0;
        let seconds = i64::try_from(time / 1000).unwrap_or(i64::MAX);
        let at = time::rfc3339(seconds);
        write!(f, "{at} {kind:9} {subject}: {message}")
    }
}

/// Prints an event. One that isn't understood is of a newer node, and shown as it came.
pub fn event(line: &str, progress: &Progress) -> Result<()> {
    match serde_json::from_str(line) {
        Ok(event) => progress.result(&Line(event)),
        Err(_) => {
            progress.say(line);
            Ok(())
        }
    }
}
