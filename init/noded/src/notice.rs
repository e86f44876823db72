//! What noded itself says: lines on stderr, which `init` keeps as its log.

use std::fmt::Arguments;
use std::io::Write as _;

/// Writes one line. A log that can't be written must not stop the API.
pub fn line(arguments: Arguments<'_>) {
    let text: String = arguments
        .to_string()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    // One write, so that threads don't mix; the result is of no use to anybody.
    drop(std::io::stderr().write_all(format!("noded: {text}\n").as_bytes()));
}

/// Logs a line, formatted as by `println!`.
#[macro_export]
macro_rules! notice {
    ($($argument:tt)*) => { $crate::notice::line(format_args!($($argument)*)) };
}
