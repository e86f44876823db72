//! `<board>.imager.json`: an image as Raspberry Pi Imager's custom repository has it.
//!
//! | key of an entry in `os_list` | what |
//! |---|---|
//! | `name`, `description`, `icon` | what the list shows; the icon may be empty |
//! | `url` | where the download is: here its file name, beside this file |
//! | `extract_size`, `extract_sha256` | of the raw image |
//! | `image_download_size`, `image_download_sha256` | of the download |
//! | `release_date` | `YYYY-MM-DD` |
//! | `devices` | tags of boards; left out, it is shown for each of them |
//! | `init_format` | `cloudinit`: how Imager writes its settings |
//!
//! Source: rpi-imager's doc/json-schema/os-list-schema.json.

use serde::Serialize;

use crate::board::Board;
use crate::manifest::Manifest;

/// A repository.
#[derive(Debug, Serialize)]
pub struct Repository<'a> {
    os_list: [Entry<'a>; 1],
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    name: String,
    description: String,
    icon: &'a str,
    url: &'a str,
    extract_size: u64,
    extract_sha256: &'a str,
    image_download_size: u64,
    image_download_sha256: &'a str,
    release_date: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    devices: &'a [String],
    init_format: &'a str,
}

impl<'a> Repository<'a> {
    /// The repository of one image of a board. `file` is the download's name.
    pub fn new(manifest: &'a Manifest, board: &'a Board, file: &'a str) -> Self {
        // RFC 3339 begins with the date.
        let date = manifest.built.get(..10).unwrap_or(&manifest.built);
        Self {
            os_list: [Entry {
                name: format!("Slipway {} ({})", manifest.version, manifest.board),
                description: format!(
                    "Kubernetes {} on {}",
                    manifest.kubernetes, board.description
                ),
                icon: "",
                url: file,
                extract_size: manifest.image.size,
                extract_sha256: &manifest.image.sha256,
                image_download_size: manifest.download.size,
                image_download_sha256: &manifest.download.sha256,
                release_date: date,
                devices: &board.image.imager_devices,
                init_format: "cloudinit",
            }],
        }
    }
}
