//! QEMU's command line as a pure function, VM control and the boot-test harness.
//!
//! The straight walk: a checked [`Machine`] becomes an [`argv::argv`], which
//! [`vm::Vm::start`] runs in the directory of a [`state::VmDir`]; from then on
//! the machine is controlled over [`qmp`] and heard through its console log
//! ([`console`]). [`harness`] strings this together for boot tests.
//!
//! Sockets are named relative to the VM's directory, which is QEMU's working
//! directory, and are reached through `/proc/self/fd`: so the 108 bytes that a
//! Unix socket's address may have never limit where the state lives.

pub mod accel;
pub mod argv;
pub mod console;
pub mod disk;
pub mod error;
pub mod firmware;
pub mod guest;
pub mod harness;
pub mod host;
pub mod machine;
pub mod ports;
pub mod process;
pub mod qmp;
pub mod raspi;
pub mod snapshot;
pub mod state;
pub mod tpm;
pub mod vm;

pub use accel::Accelerator;
pub use error::{Error, Result};
pub use firmware::Firmware;
pub use machine::{Forward, Machine};
pub use state::{StateDir, VmDir, VmName};
pub use vm::Vm;
