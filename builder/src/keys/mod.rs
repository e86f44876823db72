//! Keys that the builder makes and signs with.

pub mod update;
