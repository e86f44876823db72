//! What only compilers and container images call an architecture.

use crate::board::Architecture;

/// The variant that the OCI image specification puts beside `architecture`.
pub fn oci_variant(arch: Architecture) -> Option<&'static str> {
    match arch {
        Architecture::Amd64 => None,
        Architecture::Arm64 => Some("v8"),
        Architecture::Armhf => Some("v7"),
    }
}

/// Go's variable for the level within the architecture, and the lowest one,
/// which any such machine has.
pub fn go_level(arch: Architecture) -> (&'static str, &'static str) {
    match arch {
        Architecture::Amd64 => ("GOAMD64", "v1"),
        Architecture::Arm64 => ("GOARM64", "v8.0"),
        Architecture::Armhf => ("GOARM", "7"),
    }
}

/// The C compiler for crates that carry C or assembly, by Debian's name.
pub fn cc(arch: Architecture) -> &'static str {
    match arch {
        Architecture::Amd64 if cfg!(target_arch = "x86_64") => "gcc",
        Architecture::Amd64 => "x86_64-linux-gnu-gcc",
        Architecture::Arm64 if cfg!(target_arch = "aarch64") => "gcc",
        Architecture::Arm64 => "aarch64-linux-gnu-gcc",
        Architecture::Armhf => "arm-linux-gnueabihf-gcc",
    }
}
