//! Slipway's builder: everything behind the `slipway` command.
//!
//! The walk from a board's TOML to an image is [`build`]; the rooms it passes
//! through are the modules below, in the order of the walk.

pub mod atomic;
pub mod board;
pub mod boot;
pub mod build;
pub mod bundle;
pub mod channel;
pub mod components;
pub mod debian;
pub mod digest;
pub mod discover;
pub mod error;
pub mod firmware;
pub mod flash;
pub mod formats;
pub mod imager;
pub mod inventory;
pub mod keys;
pub mod lock;
pub mod manifest;
pub mod node;
pub mod oci;
pub mod progress;
pub mod recipe;
pub mod root;
pub mod run;
pub mod sbom;
pub mod secure_boot;
pub mod seed;
pub mod source;
pub mod time;
pub mod tree;

pub use error::{Error, Kind, Result};
