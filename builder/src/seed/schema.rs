//! `slipway seed schema`: the JSON schemas of a seed's documents.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::Value;
use slipway_images::seed::{self, Document};

use crate::error::Result;
use crate::progress::Progress;

/// Which one.
#[derive(clap::Args)]
pub struct SchemaArgs {
    /// The document.
    #[arg(value_enum, default_value = "user-data")]
    document: Which,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    UserData,
    NetworkConfig,
    MetaData,
}

#[derive(Serialize)]
#[serde(transparent)]
struct Schema(Value);

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

/// Prints it to stdout.
pub fn print(args: &SchemaArgs, progress: &Progress) -> Result<()> {
    progress.result(&Schema(seed::schema(match args.document {
        Which::UserData => Document::UserData,
        Which::NetworkConfig => Document::NetworkConfig,
        Which::MetaData => Document::MetaData,
    })))
}
