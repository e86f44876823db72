//! `<board>.manifest.json`: what is in an image, for people and scripts.

use serde::Serialize;
use slipway_images::layout::Table;

use crate::formats::{ext4, verity};
use crate::inventory::Part;
use crate::secure_boot::Signer;
use crate::tree::{NodeKind, Tree};

/// The format written.
pub const FORMAT: u32 = 1;

/// What is in an image.
#[derive(Debug, Serialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The board.
    pub board: String,
    /// The image's version.
    pub version: String,
    /// RFC 3339: the time that everything in the image bears.
    pub built: String,
    /// Version of Kubernetes.
    pub kubernetes: String,
    /// The raw image.
    pub image: File,
    /// The compressed image.
    pub download: File,
    /// The shipped partitions.
    pub partitions: Vec<Partition>,
    /// What takes the room in the root.
    pub root: RootSizes,
    /// What proves the root's bytes.
    pub verity: verity::Verity,
    /// Who signed loader and kernel, if anybody did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<Signer>,
    /// What was done in place of maintainer scripts.
    pub recipe: Vec<String>,
    /// What the builder warned of.
    pub warnings: Vec<String>,
    /// Every package, module and component.
    pub parts: Vec<Part>,
}

/// A file that was written.
#[derive(Debug, Serialize)]
pub struct File {
    /// Bytes.
    pub size: u64,
    /// Hex SHA-256.
    pub sha256: String,
}

/// A partition.
#[derive(Debug, Serialize)]
pub struct Partition {
    /// GPT name.
    pub name: String,
    /// Type GUID.
    #[serde(rename = "type")]
    pub kind: String,
    /// Unique GUID.
    pub guid: String,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// The shipped partitions of a table.
pub fn partitions(table: &Table) -> Vec<Partition> {
    table
        .partitions
        .iter()
        .map(|p| Partition {
            name: p.name.clone(),
            kind: p.type_guid.to_string(),
            guid: p.guid.to_string(),
            offset: p.offset().get(),
            size: p.size().get(),
        })
        .collect()
}

/// The root filesystem in bytes.
#[derive(Debug, Serialize)]
pub struct RootSizes {
    /// The filesystem.
    pub size: u64,
    /// Of it, taken.
    pub used: u64,
    /// Number of files, directories and links.
    pub entries: usize,
    /// The largest files, largest first.
    pub largest: Vec<(String, u64)>,
}

impl RootSizes {
    /// What the writer said, and the ten largest files.
    pub fn new(stats: &ext4::Stats, tree: &Tree) -> Self {
        let mut files: Vec<(String, u64)> = tree
            .iter()
            .filter_map(|(path, node)| match &node.kind {
                NodeKind::File(content) => Some((path.to_owned(), content.len())),
                _ => None,
            })
            .collect();
        files.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        files.truncate(10);
        Self {
            size: stats.size,
            used: stats.used,
            entries: stats.entries,
            largest: files,
        }
    }
}
