//! PID 1 of a Slipway node, for the initrd and the root.
//!
//! The way of a boot: [`initrd`] loads drivers, makes the disk whole, mounts the root and
//! becomes its PID 1; there [`pid1`] runs the main loop while the phases of [`root`] bring
//! the node up; then the [`supervisor`] runs services until [`shutdown`].

pub mod applet;
pub mod clock;
pub mod consoles;
pub mod crypt;
pub mod data;
pub mod dm;
pub mod ext4;
pub mod files;
pub mod find;
pub mod firmware;
pub mod gate;
pub mod grow;
pub mod initrd;
pub mod instance;
pub mod log;
pub mod mailbox;
pub mod modules;
pub mod mounts;
pub mod net;
pub mod node;
pub mod phase;
pub mod pid1;
pub mod power;
pub mod reaper;
pub mod registries;
pub mod report;
pub mod reset;
pub mod root;
pub mod seed;
pub mod shutdown;
pub mod slots;
pub mod sntp;
pub mod ssh;
pub mod status;
pub mod supervisor;
pub mod sys;
pub mod tpm;
pub mod uevent;
pub mod users;
pub mod verity;
pub mod watchdog;
pub mod zram;

/// Ends the life of a result whose failure changes nothing; a comment at the call says why.
/// (`drop` is refused for results that are `Copy`.)
pub fn ignore<T>(_: T) {}
