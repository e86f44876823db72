//! The kernel's random bytes, for keys, tokens and names that nobody else has.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::error::{Context, Error};

/// So many random bytes, at most 256: these are given whole or not at all (getrandom(2)).
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let action = || "get random bytes".to_owned();
    let mut bytes = [0; N];
    let filled = getrandom(&mut bytes[..], GetRandomFlags::empty()).context(action)?;
    if filled != N {
        return Err(std::io::Error::other("too few")).context(action);
    }
    Ok(bytes)
}
