//! What clusterd itself says: lines on stderr, which `init` keeps.

use std::fmt::Arguments;
use std::io::Write as _;

/// Writes one line. A log that can't be written must not stop a cluster.
pub fn line(arguments: Arguments<'_>) {
    let line = format!("clusterd: {arguments}\n");
    // One write, so that threads don't mix; the result is of no use to anybody.
    drop(std::io::stderr().write_all(line.as_bytes()));
}

/// Logs a line, formatted as by `println!`.
macro_rules! info {
    ($($argument:tt)*) => { $crate::log::line(format_args!($($argument)*)) };
}
pub(crate) use info;
