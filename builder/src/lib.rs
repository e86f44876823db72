//! Slipway's builder: everything behind the `slipway` command.
//!
//! The walk from a board's TOML to an image is [`build`]; the rooms it passes
//! through are the modules below, in the order of the walk.

pub mod atomic;
pub mod board;
pub mod debian;
pub mod error;
pub mod formats;
pub mod progress;
pub mod run;
pub mod recipe;
pub mod tree;
pub mod components;
pub mod digest;
pub mod inventory;
pub mod oci;
pub mod source;
pub mod time;

pub use error::{Error, Kind, Result};
