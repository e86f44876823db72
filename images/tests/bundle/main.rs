//! Update bundles: taken by a node with real slots, tampered with, broken off, and against
//! the tools that own zstd and Ed25519.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod channel;
mod frames;
mod maker;
mod memory;
mod node;
mod properties;
mod pushed;
mod rotation;
mod tampering;
mod tools;
mod walk;
