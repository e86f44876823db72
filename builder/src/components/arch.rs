//! A target architecture under each of the names that its tools use.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An architecture that Slipway builds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// 64-bit x86, baseline `v1`: any such machine.
    Amd64,
    /// 64-bit ARM, ARMv8.0 and later.
    Arm64,
    /// 32-bit ARMv7 with hardware floating point.
    Armv7,
}

impl Arch {
    /// Every architecture.
    pub const ALL: [Self; 3] = [Self::Amd64, Self::Arm64, Self::Armv7];

    /// Debian's name, as in `Packages-amd64`.
    pub fn debian(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Armv7 => "armhf",
        }
    }

    /// Go's and the OCI image specification's name.
    pub fn go(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Armv7 => "arm",
        }
    }

    /// The variant that OCI puts beside [`Arch::go`].
    pub fn oci_variant(self) -> Option<&'static str> {
        match self {
            Self::Amd64 => None,
            Self::Arm64 => Some("v8"),
            Self::Armv7 => Some("v7"),
        }
    }

    /// Go's variable for the level within the architecture, and its value.
    pub fn go_level(self) -> (&'static str, &'static str) {
        match self {
            Self::Amd64 => ("GOAMD64", "v1"),
            Self::Arm64 => ("GOARM64", "v8.0"),
            Self::Armv7 => ("GOARM", "7"),
        }
    }

    /// The Rust target whose programs need nothing from the machine. (Rust has
    /// no prebuilt musl library for ARMv7; glibc linked statically serves there.)
    pub fn rust(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64-unknown-linux-musl",
            Self::Arm64 => "aarch64-unknown-linux-musl",
            Self::Armv7 => "armv7-unknown-linux-gnueabihf",
        }
    }

    /// The C compiler for crates that carry C or assembly, by Debian's name.
    pub fn cc(self) -> &'static str {
        match self {
            Self::Amd64 if cfg!(target_arch = "x86_64") => "gcc",
            Self::Amd64 => "x86_64-linux-gnu-gcc",
            Self::Arm64 if cfg!(target_arch = "aarch64") => "gcc",
            Self::Arm64 => "aarch64-linux-gnu-gcc",
            Self::Armv7 => "arm-linux-gnueabihf-gcc",
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Armv7 => "armv7",
        })
    }
}
