//! The types of the node API's bodies. `docs/node-api.json` is made from them and from the
//! routes of `noded`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Boot;
use crate::seed::{Change, Effect};
use crate::slot::SlotsStatus;

/// Everything about a node at a glance: `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Status {
    /// The machine's name.
    pub name: String,
    /// What the running image says about itself; none if that can't be read.
    pub image: Option<Image>,
    /// Which slot runs: `a` or `b`; none on a machine without slots.
    pub slot: Option<String>,
    /// Both slots; none on a machine without, or while `init` has said nothing.
    #[serde(default)]
    pub slots: Option<SlotsStatus>,
    /// The running kernel's release.
    pub kernel: String,
    /// Whether the firmware verified loader and kernel (Secure Boot); none where it isn't known.
    #[serde(default)]
    pub secure_boot: Option<bool>,
    /// The bootloader in the board's EEPROM, and whether it is too old; none on boards without.
    #[serde(default)]
    pub bootloader: Option<String>,
    /// That an overlay couldn't be put over the device tree; none if all were, or none was wanted.
    #[serde(default)]
    pub overlay: Option<String>,
    /// What runs before a slot is chosen; none where the image carries nothing of it.
    #[serde(default)]
    pub firmware: Option<Firmware>,
    /// Seconds since the boot.
    pub uptime: u64,
    /// The node's clock, in seconds since 1970-01-01 UTC.
    pub time: u64,
    /// How the boot went and what runs; none if `init` has not said.
    pub boot: Option<Boot>,
    /// The cluster as its supervisor sees it; none while that has said nothing.
    pub cluster: Option<Cluster>,
    /// Memory in bytes.
    pub memory: Memory,
    /// Load of the last minute: runnable tasks on average.
    pub load: f64,
    /// Disks.
    pub disks: Vec<Disk>,
    /// Mounted filesystems on disks.
    pub filesystems: Vec<Filesystem>,
    /// Network interfaces.
    pub interfaces: Vec<Interface>,
    /// Temperatures, where there are sensors.
    pub temperatures: Vec<Temperature>,
}

/// What runs before a slot is chosen, and in neither: `GET /v1/firmware`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Firmware {
    /// Its pieces, in the order in which they are written.
    pub pieces: Vec<FirmwarePiece>,
}

/// A file or a place before the first partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FirmwarePiece {
    /// A path on the boot partition, or a place on the disk.
    pub place: String,
    /// How it compares with what the running image carries.
    pub state: FirmwareState,
    /// The version that it says it is of; none if it says nothing.
    pub version: Option<String>,
    /// The version that the image carries; none if that says nothing.
    pub image: Option<String>,
}

/// How a piece of firmware compares with the image's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FirmwareState {
    /// It is the same.
    Same,
    /// It is another.
    Differs,
    /// There is none.
    Missing,
}

/// The running image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Image {
    /// The board it is for.
    pub board: String,
    /// Its version.
    pub version: String,
    /// When it was built, in seconds since 1970-01-01 UTC.
    pub built: i64,
    /// Version of Kubernetes in it.
    pub kubernetes: String,
    /// Its architecture.
    pub arch: String,
}

impl From<crate::info::ImageInfo> for Image {
    fn from(info: crate::info::ImageInfo) -> Self {
        Self {
            board: info.board,
            version: info.version,
            built: info.built,
            kubernetes: info.kubernetes,
            arch: info.arch,
        }
    }
}

/// How the cluster's supervisor says it is: `clusterd`'s `status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cluster {
    /// `starting`, `ready`, `degraded` or `stopping`.
    pub phase: String,
    /// One line.
    pub message: String,
    /// The API server answers.
    #[serde(default)]
    pub api_ready: bool,
    /// The node is Ready.
    #[serde(default)]
    pub node_ready: bool,
    /// The image's add-ons are applied.
    #[serde(default)]
    pub addons_applied: bool,
    /// By component: state, restarts, process, why it ended last.
    #[serde(default)]
    pub components: BTreeMap<String, Value>,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Memory {
    /// All.
    pub total: u64,
    /// What programs could still get.
    pub available: u64,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Disk {
    /// Its device's name, such as `vda`.
    pub name: String,
    /// Its model, where it says.
    pub model: String,
    /// Its size in bytes.
    pub size: u64,
    /// It can be taken out.
    pub removable: bool,
    /// It can't be written to.
    pub read_only: bool,
}

/// A mounted filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Filesystem {
    /// Where it is mounted.
    pub mount_point: String,
    /// The device it is on.
    pub device: String,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes that are free.
    pub free: u64,
    /// It is mounted read-only; the data partition is so after errors.
    pub read_only: bool,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// Whether it has a carrier: `up`, `down`, `unknown`, ...
    pub state: String,
    /// Its speed in Mbit/s, where it says.
    pub speed: Option<u64>,
    /// Bytes received and sent since the boot.
    pub received: u64,
    /// See `received`.
    pub sent: u64,
}

/// What a sensor says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Temperature {
    /// Where it is.
    pub sensor: String,
    /// Degrees Celsius.
    pub celsius: f64,
}

/// Which logs there are: `GET /v1/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Logs {
    /// Names for `/v1/logs/{name}`.
    pub names: Vec<String>,
}

/// The seed in force: `GET /v1/seed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SeedInForce {
    /// The checked seed without its secrets; none if the node has no good one.
    pub seed: Option<Value>,
    /// Whether a seed is stored that was applied through this API and counts from the next
    /// boot on.
    pub applied: bool,
}

/// What applying a seed changes: `POST /v1/seed/diff`, `PUT /v1/seed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SeedDiff {
    /// What differs from the seed in force.
    pub changes: Vec<Change>,
    /// What has no effect, such as unknown keys, with its line.
    pub warnings: Vec<String>,
    /// What all changes together take; null if nothing changes.
    pub effect: Option<Effect>,
}

/// Which node is meant: `POST /v1/reset`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ResetOrder {
    /// The node's name. Another one's is refused: what is erased should be what is meant.
    pub node: String,
}

/// Why a request was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Problem {
    /// One line.
    pub error: String,
}
