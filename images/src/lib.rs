//! The anatomy of a Slipway image, shared by who writes it and who reads it.

pub mod buffer;
#[cfg(feature = "bundle")]
pub mod bundle;
pub mod calendar;
#[cfg(feature = "bundle")]
pub mod direct;
pub mod firmware;
pub mod hex;
pub mod info;
pub mod layout;
pub mod luks;
pub mod near;
pub mod node;
pub mod pem;
#[cfg(feature = "bundle")]
pub mod secure_boot;
pub mod seed;
pub mod service;
pub mod slot;
mod text;
pub mod verity;

pub use hex::hex;
