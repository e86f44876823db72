//! A script for U-Boot's `source`: its legacy image format.
//!
//! | offset | size | field (big-endian) | here |
//! |---|---|---|---|
//! | 0 | 4 | magic | 0x27051956 |
//! | 4 | 4 | CRC-32 of the header, with this field 0 | |
//! | 8 | 4 | time | `SOURCE_DATE_EPOCH` |
//! | 12 | 4 | bytes of data | |
//! | 16 | 4 | load address, entry point (4) | 0 |
//! | 24 | 4 | CRC-32 of the data | |
//! | 28 | 1 | operating system | 5, Linux |
//! | 29 | 1 | processor | 2, ARM; U-Boot doesn't ask where it runs a script |
//! | 30 | 1 | type | 6, script |
//! | 31 | 1 | compression | 0 |
//! | 32 | 32 | name | |
//! | 64 | 4 | bytes of text, then 0 (4) | |
//! | 72 | | text | |
//!
//! Source: U-Boot, `include/image.h` (`struct legacy_img_hdr`), `boot/image.c`.

const MAGIC: u32 = 0x2705_1956;
const LINUX: u8 = 5;
const ARM: u8 = 2;
const SCRIPT: u8 = 6;
/// Bytes of a name with the NUL behind it.
const NAME: usize = 32;

/// The script with a header before it. What doesn't fit into the name is left out.
#[must_use]
pub fn script(name: &str, text: &str, epoch: i64) -> Vec<u8> {
    let mut data = (text.len() as u32).to_be_bytes().to_vec();
    data.extend([0; 4]);
    data.extend(text.as_bytes());
    let time = u32::try_from(epoch).unwrap_or(0);
    let mut image = MAGIC.to_be_bytes().to_vec();
    for number in [0, time, data.len() as u32, 0, 0, crc32fast::hash(&data)] {
        image.extend(number.to_be_bytes());
    }
    image.extend([LINUX, ARM, SCRIPT, 0]);
    let mut field = [0; NAME];
    let len = name.len().min(NAME - 1);
    field[..len].copy_from_slice(&name.as_bytes()[..len]);
    image.extend(field);
    let sum = crc32fast::hash(&image);
    image[4..8].copy_from_slice(&sum.to_be_bytes());
    image.extend(data);
    image
}
