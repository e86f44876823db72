//! Slots on a disk that records what is written to it: against the tools that own FAT, against
//! a model of the loader, and against power cuts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod cuts;
mod disk;
mod fat;
mod firmware;
mod loader;
mod machine;
mod power;
mod script;
mod trials;
