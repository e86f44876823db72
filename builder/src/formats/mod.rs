//! What an image is made of, one file for each format. Each opens with the
//! table of what lies where and names its sources; each is checked in the
//! tests by the tool that owns the format.

pub mod authenticode;
pub mod bmap;
pub mod cpio;
pub mod efi_variable;
pub mod ext4;
pub mod fat;
pub mod gpt;
pub mod iso9660;
pub mod pkcs7;
pub mod sparse;
pub(crate) mod store;
pub mod uimage;
pub mod uki;
pub mod verity;
pub mod zst;
