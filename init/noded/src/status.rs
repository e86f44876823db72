//! `GET /v1/status`.

use std::time::{SystemTime, UNIX_EPOCH};

use slipway_images::info::ImageInfo;
use slipway_images::node::api::{Image, Status};
use slipway_init::files::read_json;
use slipway_init::{firmware, slots};

use crate::answer::{Outcome, json};
use crate::paths::Paths;
use crate::routes::Call;
use crate::system::System;

/// `GET /v1/status`
pub async fn status(call: Call) -> Outcome {
    let (app, name) = (call.app.clone(), call.app.name());
    let gathered = call.app.blocking(move || {
        let mut status = gather(&app.paths, name);
        status.firmware = app.firmware.get(&app.paths);
        status
    });
    let status = gathered.await?;
    json(&status)
}

/// Everything that is known but the firmware. What can't be read is left out.
#[must_use]
pub fn gather(paths: &Paths, name: String) -> Status {
    let system = System::new(paths.root());
    Status {
        name,
        image: ImageInfo::read(&paths.image_info()).ok().map(Image::from),
        slot: slots::booted(paths.root()).map(|slot| slot.to_string()),
        slots: read_json(&paths.slots()),
        kernel: system.kernel(),
        secure_boot: firmware::secure_boot(paths.root()),
        bootloader: firmware::bootloader(paths.root()),
        overlay: firmware::overlay_failed(paths.root()),
        firmware: None,
        uptime: system.uptime(),
        time: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |passed| passed.as_secs()),
        boot: read_json(&paths.status()),
        cluster: read_json(&paths.cluster_status()),
        memory: system.memory(),
        load: system.load(),
        disks: system.disks(),
        filesystems: system.filesystems(),
        interfaces: system.interfaces(),
        temperatures: system.temperatures(),
    }
}
